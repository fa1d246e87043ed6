"""From a cluster's rows to the wish that its driver is given. See docs/clusters.md."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlmodel import col, select

from app import cluster_keys
from app.backends.driver import MASTER, ClusterSpec, NodeGroupSpec
from app.db import EVERYTHING, Database, Scope
from app.errors import Invalid
from app.models import Cluster, ClusterKey, ClusterStatus, ClusterTemplate, NodeGroup
from app.settings import ClusterSettings
from app.vault import Vault

GOING = (ClusterStatus.DELETE_IN_PROGRESS, ClusterStatus.DELETE_FAILED)
"""Node groups that are to go: no wish holds them."""


@dataclass(frozen=True, slots=True)
class Rows:
    """A cluster's row and those that belong to it; groups in the order of their creation."""

    cluster: Cluster
    template: ClusterTemplate
    groups: Sequence[NodeGroup]
    keys: Sequence[ClusterKey] = ()


async def read(database: Database, scope: Scope, *where: Any) -> dict[str, Rows]:
    """The clusters for which all of `where` holds, by uuid: one query for each table, however many there are."""
    async with database.reading(scope) as session:
        clusters = (await session.exec(select(Cluster).where(*where))).all()
        if not clusters:
            return {}
        ids = [cluster.uuid for cluster in clusters]
        groups: defaultdict[str, list[NodeGroup]] = defaultdict(list)
        for group in await session.exec(
            select(NodeGroup).where(col(NodeGroup.cluster_id).in_(ids)).order_by(col(NodeGroup.id))
        ):
            groups[group.cluster_id].append(group)
        keys: defaultdict[str, list[ClusterKey]] = defaultdict(list)
        for key in await session.exec(select(ClusterKey).where(col(ClusterKey.cluster_id).in_(ids))):
            keys[key.cluster_id].append(key)
    # Another project's template that was hidden since is still what the cluster is made from.
    async with database.reading(EVERYTHING) as session:
        used = {cluster.cluster_template_id for cluster in clusters}
        found = await session.exec(select(ClusterTemplate).where(col(ClusterTemplate.uuid).in_(used)))
        templates = {template.uuid: template for template in found}
    return {
        cluster.uuid: Rows(cluster, templates[cluster.cluster_template_id], groups[cluster.uuid], keys[cluster.uuid])
        for cluster in clusters
        if cluster.cluster_template_id in templates
    }


def use_image(group: NodeGroup, name: str, known: ClusterSettings) -> None:
    """Let the nodes of a group be made from the image that settings know by this name. Raises Invalid for none."""
    if (image := known.images.get(name)) is None:
        raise Invalid(f"Image {name} could not be found: clusters.images does not list it.")
    group.node_image, group.node_profile = image.image or name, image.profile


def spec_of(
    rows: Rows,
    vault: Vault | None = None,
    *,
    groups: Sequence[NodeGroup] | None = None,
    about: Collection[str] = (),
    leaving: Sequence[str] = (),
    batch: int = 1,
) -> ClusterSpec:
    """The wish that these rows are; without a vault it has no keys, which is enough for a driver's `validate`.

    `groups` are those that it is made of, else all but those that are to go. `leaving` and `batch` are for the groups
    named by `about` (uuids).
    """
    cluster, template = rows.cluster, rows.template
    wanted = rows.groups if groups is None else groups
    servers = (template.dns_nameserver or "").split(",")
    return ClusterSpec(
        uuid=UUID(cluster.uuid),
        project_id=cluster.project_id,
        name=cluster.name,
        coe=cluster.coe,
        groups=[
            _group(group, *((leaving, batch) if group.uuid in about else ((), 1)))
            for group in sorted(wanted, key=lambda group: group.role != MASTER)
            if group.status not in GOING
        ],
        labels=dict(cluster.labels),
        tls=not template.tls_disabled,
        keys=cluster_keys.opened(rows.keys, vault) if vault is not None else None,
        api_port=template.apiserver_port,
        network_driver=template.network_driver,
        name_servers=[server.strip() for server in servers if server.strip()],
        http_proxy=template.http_proxy,
        https_proxy=template.https_proxy,
        no_proxy=template.no_proxy,
        insecure_registry=template.insecure_registry,
    )


def _group(group: NodeGroup, leaving: Sequence[str], batch: int) -> NodeGroupSpec:
    return NodeGroupSpec(
        uuid=UUID(group.uuid),
        name=group.name,
        role=group.role,
        count=group.node_count,
        image=group.node_image,
        cpus=group.node_cpus,
        memory=group.node_memory,
        profile=group.node_profile,
        labels=dict(group.labels),
        node_labels=dict(group.node_labels),
        node_taints=list(group.node_taints),
        leaving=list(leaving),
        batch=batch,
    )
