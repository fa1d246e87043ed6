"""Clusters: what may be asked of them (magnum-api, sections 4.1 and 6).

How they are made: `app.cluster_creation`; how they change: `app.cluster_changes`; their parts: `app.nodegroups`.

Whatever changes a cluster, or one of its groups, is an action of the cluster, so that these stand in one queue. The
rows say what is wanted before the action begins; the steps (``app.cluster_steps``) make the engine follow. What cannot
be is refused at once: nothing is accepted whose state would drop it later.
"""

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field
from sqlalchemy import func
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from app import actions, cluster_keys, cluster_specs, lookup
from app.actions import Asked, StepArgs
from app.backends import Drivers, Engines
from app.backends.driver import ClusterAbility, ClusterDriver
from app.db import referred
from app.errors import Invalid, Unsupported
from app.models import Cluster, ClusterStatus, ClusterTemplate, NodeGroup
from app.settings import Settings
from app.vault import Vault


class CreateArgs(StepArgs):
    """Verb ``create``: everything is new."""


class UpdateArgs(StepArgs):
    """Verb ``update``: node groups were added, changed, or are to go (their status says which).

    `asked` and `details` are for its history only: what was asked, and what that was to become. `groups` are the uuids
    of those that this action is about; `leaving` names nodes of one that go first when it
    shrinks; `batch` nodes at most are replaced at a time. When it fails, the template, the cluster's labels, the counts
    and the images that it changed become again what `before_template`, `before_labels`, `before_counts` and
    `before_images` say (the latter by group uuid; of images the columns ``image_id``, ``node_image``, ``node_profile``
    and ``labels``).
    """

    asked: Literal["update", "resize", "upgrade", "create_nodegroup", "update_nodegroup", "delete_nodegroup"] = "update"
    details: dict[str, Any] = Field(default_factory=dict)
    groups: list[str] = Field(default_factory=list)
    leaving: list[str] = Field(default_factory=list)
    batch: int = 1
    before_template: str | None = None
    before_counts: dict[str, int] = Field(default_factory=dict)
    before_labels: dict[str, str] | None = None
    before_images: dict[str, dict[str, Any]] = Field(default_factory=dict)


class RotateArgs(StepArgs):
    """Verb ``rotate_ca``: the rows of its keys hold the new authority, and the previous one until it is done."""


class DeleteArgs(StepArgs):
    """Verb ``delete``."""


RESTING = (ClusterStatus.CREATE_COMPLETE, ClusterStatus.UPDATE_COMPLETE, ClusterStatus.UPDATE_FAILED)
"""From these everything can be asked; Magnum leaves out the failure, after which nothing but deletion helps there."""
QUEUEING = (*RESTING, ClusterStatus.UPDATE_IN_PROGRESS)
"""From these what may wait for its turn can be asked."""

SHORT = (
    "uuid", "name", "cluster_template_id", "keypair", "docker_volume_size", "labels", "master_flavor_id", "flavor_id",
    "create_timeout", "status", "health_status",
)  # fmt: skip
FULL = (
    "status_reason", "discovery_url", "api_address", "coe_version", "container_version", "project_id", "user_id",
    "fixed_network", "fixed_subnet", "floating_ip_enabled", "master_lb_enabled",
)  # fmt: skip
"""Columns that lists show, and further ones that a single cluster shows."""
COLUMNS = {
    name: col(getattr(Cluster, name))
    for name in ("id", "stack_id", "created_at", "updated_at", *SHORT, *FULL)
    if name != "labels"
}


@dataclass(frozen=True, slots=True)
class Place:
    """The parts of this replica that decide what clusters can be: engines, drivers, settings."""

    engines: Engines
    drivers: Drivers
    settings: Settings

    def driver(self, cluster: Cluster) -> ClusterDriver:
        """The driver of a cluster that is there. Raises Invalid when this replica has none for it."""
        try:
            return self.drivers.find(cluster.driver, cluster.backend)
        except Unsupported as error:
            raise Invalid(error.title) from None

    def require(self, cluster: Cluster, ability: ClusterAbility, what: str) -> None:
        """Raises Invalid, as Magnum does, when the cluster's driver cannot."""
        if ability not in self.driver(cluster).abilities:
            raise Invalid(f"{what} is not supported by this driver ({cluster.driver}).")


async def find(session: AsyncSession, ident: str, *, lock: bool = False) -> Cluster:
    """By uuid in any spelling, else by name. Raises NotFound, or Conflict when the name is ambiguous."""
    row: Cluster = await lookup.find(session, Cluster, ident, "cluster", lock=lock)
    return row


async def find_whole(session: AsyncSession, ident: str, *, lock: bool = False) -> tuple[Cluster, list[NodeGroup]]:
    """As `find`, with the cluster's node groups."""
    row = await find(session, ident, lock=lock)
    return row, (await groups_of(session, [row]))[row.uuid]


async def groups_of(session: AsyncSession, clusters: Collection[Cluster]) -> dict[str, list[NodeGroup]]:
    """The node groups of all these, by the cluster's uuid, in the order of their creation.

    Whoever changes one holds its cluster's row.
    """
    query = (
        select(NodeGroup)
        .where(col(NodeGroup.cluster_id).in_([cluster.uuid for cluster in clusters]))
        .order_by(col(NodeGroup.id))
    )
    found: defaultdict[str, list[NodeGroup]] = defaultdict(list)
    for group in await session.exec(query):
        found[group.cluster_id].append(group)
    return found


async def templates_of(session: AsyncSession, clusters: Collection[Cluster]) -> dict[str, ClusterTemplate]:
    """What clusters are made from, by uuid, whether or not their project can still see it."""
    used = {cluster.cluster_template_id for cluster in clusters}
    rows = await referred(session, select(ClusterTemplate).where(col(ClusterTemplate.uuid).in_(used)))
    return {row.uuid: row for row in rows}


async def template_of(session: AsyncSession, cluster: Cluster) -> ClusterTemplate:
    """What one cluster is made from: it cannot be deleted meanwhile."""
    return (await templates_of(session, [cluster]))[cluster.cluster_template_id]


async def counts(session: AsyncSession, project_id: str | None) -> tuple[int, int]:
    """How many clusters and nodes a project has, or all projects have, as far as the session sees them."""
    clusters = select(func.count(col(Cluster.id)))
    nodes = select(func.sum(col(NodeGroup.node_count)))
    if project_id is not None:
        clusters = clusters.where(Cluster.project_id == project_id)
        nodes = nodes.where(NodeGroup.project_id == project_id)
    return (await session.exec(clusters)).one(), int((await session.exec(nodes)).one() or 0)


async def delete(
    session: AsyncSession, asked: Asked, cluster: Cluster, groups: Sequence[NodeGroup], settings: Settings
) -> None:
    """Submit deletion, whatever the status: older unfinished actions are cancelled first."""
    if cluster.status == ClusterStatus.DELETE_IN_PROGRESS:
        return
    now = await actions.clock(session)
    await actions.cancel_older(session, cluster.uuid, now)
    for row in (cluster, *groups):
        row.status, row.status_reason = ClusterStatus.DELETE_IN_PROGRESS, None
    submit(session, asked, cluster, "delete", now, settings, DeleteArgs())


async def rotate(session: AsyncSession, asked: Asked, cluster: Cluster, place: Place, vault: Vault) -> None:
    """Give a cluster, whose row this session holds, a new certificate authority. Raises Invalid when it cannot."""
    check_state(cluster, RESTING, "Updating")
    if (await template_of(session, cluster)).tls_disabled:
        raise Invalid(f"Rotating the CA certificate of cluster {cluster.uuid} is not supported: it has TLS disabled.")
    place.require(cluster, ClusterAbility.ROTATE_CA, "Rotating the CA certificate")
    await cluster_keys.rotate(session, cluster, vault)
    begin(cluster, ())
    submit(session, asked, cluster, "rotate_ca", await actions.clock(session), place.settings, RotateArgs())


def check_spec(cluster: Cluster, template: ClusterTemplate, groups: Sequence[NodeGroup], place: Place) -> None:
    """Raises Invalid for what the cluster's driver can never make of these rows."""
    spec = cluster_specs.spec_of(cluster_specs.Rows(cluster, template, groups))
    place.driver(cluster).validate(spec)


def submit(
    session: AsyncSession, asked: Asked, cluster: Cluster, verb: str, now: float, settings: Settings, args: StepArgs
) -> None:
    """Add an action of the cluster, with the time that its creation may take."""
    deadline = now + 60.0 * (cluster.create_timeout or settings.clusters.create_timeout)
    actions.submit(session, asked, "cluster", cluster, verb, cluster.backend, now, args=args, deadline=deadline)


def begin(cluster: Cluster, groups: Sequence[NodeGroup]) -> None:
    """What is shown while an update waits or runs."""
    for row in (cluster, *groups):
        row.status, row.status_reason = ClusterStatus.UPDATE_IN_PROGRESS, None


def check_state(cluster: Cluster, allowed: Sequence[ClusterStatus], doing: str) -> None:
    """Raises Invalid, as Magnum does, when the status does not allow it."""
    if cluster.status not in allowed:
        raise Invalid(f'{doing} a cluster when status is "{cluster.status}" is not supported.')
