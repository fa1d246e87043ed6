"""A cluster's secrets: made before its first step, sealed at rest, replaced when its authority is rotated.

Whoever calls `make` or `rotate` holds the cluster's row in the same transaction, and stores the action that needs them.
"""

from collections.abc import Mapping, Sequence

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from app import certificates
from app.backends.driver import Keys
from app.certificates import Authority
from app.errors import NotFound
from app.models import Cluster, ClusterKey
from app.vault import Vault

CLUSTER, PREVIOUS, ACCOUNTS = "cluster", "cluster.previous", "accounts"
AUTHORITIES = (CLUSTER, "etcd", "front_proxy")


def make(session: AsyncSession, cluster: Cluster, vault: Vault) -> None:
    """Add the three authorities of a new cluster and its key for tokens (magnum-api, section 9.1)."""
    for kind in AUTHORITIES:
        _add(session, cluster, vault, kind, certificates.make_authority(cluster.name))
    _add(session, cluster, vault, ACCOUNTS, Authority("", _private_key()))


async def find(session: AsyncSession, cluster: str, vault: Vault) -> Keys:
    """The keys of the cluster with this uuid. Raises NotFound when it has none, because it is gone."""
    keys = opened((await session.exec(select(ClusterKey).where(ClusterKey.cluster_id == cluster))).all(), vault)
    if keys is None:
        raise NotFound(f"Cluster {cluster} could not be found.")
    return keys


def opened(rows: Sequence[ClusterKey], vault: Vault) -> Keys | None:
    """The keys that the rows of one cluster hold; None when there are none, as before it is stored."""
    if not rows:
        return None
    found = {row.kind: Authority(row.certificate or "", vault.open(row.private_key)) for row in rows}
    return Keys(
        cluster=found[CLUSTER],
        etcd=found["etcd"],
        front_proxy=found["front_proxy"],
        accounts=found[ACCOUNTS].key,
        previous=found.get(PREVIOUS),
    )


async def rotate(session: AsyncSession, cluster: Cluster, vault: Vault) -> None:
    """A new authority for the cluster's API; the one that nodes still use becomes the previous one.

    While a rotation is unfinished, because it failed half-way, a further one goes on with that: nodes trust two, not
    three.
    """
    rows = await _rows(session, cluster.uuid)
    if PREVIOUS in rows:
        return
    now = rows[CLUSTER]
    rotation = certificates.rotate(Authority(now.certificate or "", vault.open(now.private_key)))
    session.add(_row(cluster, PREVIOUS, now.certificate, now.private_key))
    now.certificate, now.private_key = rotation.authority.certificate, vault.seal(rotation.authority.key)


async def forget_previous(session: AsyncSession, cluster: str) -> None:
    """No node needs the previous authority any more."""
    if (row := (await _rows(session, cluster)).get(PREVIOUS)) is not None:
        await session.delete(row)


async def remove(session: AsyncSession, cluster: str) -> None:
    """Delete all of them, with the cluster."""
    for row in (await _rows(session, cluster)).values():
        await session.delete(row)


async def _rows(session: AsyncSession, cluster: str) -> Mapping[str, ClusterKey]:
    query = select(ClusterKey).where(col(ClusterKey.cluster_id) == cluster).with_for_update()
    return {row.kind: row for row in (await session.exec(query)).all()}


def _add(session: AsyncSession, cluster: Cluster, vault: Vault, kind: str, made: Authority) -> None:
    session.add(_row(cluster, kind, made.certificate or None, vault.seal(made.key)))


def _row(cluster: Cluster, kind: str, certificate: str | None, sealed: str) -> ClusterKey:
    return ClusterKey(
        cluster_id=cluster.uuid, project_id=cluster.project_id, kind=kind, certificate=certificate, private_key=sealed
    )


def _private_key() -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
