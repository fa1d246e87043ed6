"""Node groups of clusters (magnum-api, section 4.2): nodes of one cluster that are alike.

What is asked of one is an action of its cluster. Magnum refuses most of it with 409, and so does this.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from app import actions, capacity, cluster_specs, clusters, json_patch, labels
from app.actions import Asked
from app.backends.driver import MASTER, ClusterAbility
from app.cloud import Image, Size
from app.clusters import QUEUEING, Place, UpdateArgs
from app.errors import Conflict, Invalid, NotFound
from app.lookup import uuid_of
from app.models import Cluster, ClusterStatus, NodeGroup
from app.settings import ClusterSettings

WORKER = "worker"
SHORT = (
    "uuid", "name", "flavor_id", "image_id", "node_count", "role", "is_default", "status", "stack_id",
    "min_node_count", "max_node_count",
)  # fmt: skip
FULL = (
    "id", "cluster_id", "project_id", "docker_volume_size", "labels", "node_addresses", "status_reason", "version",
    "node_labels", "node_taints",
)  # fmt: skip
"""Columns that lists show, and further ones that a single node group shows."""
_MAPS = frozenset({"labels", "node_labels", "node_taints", "node_addresses"})
COLUMNS = {
    name: col(getattr(NodeGroup, name))
    for name in ("created_at", "updated_at", "user_id", *SHORT, *FULL)
    if name not in _MAPS
}
CHANGEABLE = frozenset({"min_node_count", "max_node_count", "node_labels", "node_taints"})
PATCHABLE = json_patch.Rules(
    CHANGEABLE,
    internal=json_patch.INTERNAL | (frozenset({*SHORT, *FULL, "merge_labels"}) - CHANGEABLE),
    maps=frozenset({"node_labels"}),
    keyed=frozenset(),
    lists=frozenset({"node_taints"}),
    numbers=frozenset({"min_node_count", "max_node_count"}),
)
EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
_RESERVED = re.compile(r"(.*\.)?(kubernetes|k8s)\.io", re.DOTALL)
_OPEN = re.compile(r"(.*\.)?(kubelet|node)\.kubernetes\.io", re.DOTALL)
_KNOWN = frozenset(
    {
        *(f"kubernetes.io/{name}" for name in ("arch", "hostname", "os")),
        *(f"beta.kubernetes.io/{name}" for name in ("arch", "instance-type", "os")),
        *(f"failure-domain.beta.kubernetes.io/{name}" for name in ("region", "zone")),
        *(f"topology.kubernetes.io/{name}" for name in ("region", "zone")),
        *(f"node.kubernetes.io/{name}" for name in ("instance-type", "windows-build")),
    }
)
"""Labels of a reserved domain that a node may give itself."""


async def find(session: AsyncSession, cluster: Cluster, ident: str) -> NodeGroup:
    """One of a cluster's, by its number, its uuid in any spelling or its name. Raises NotFound."""
    query = select(NodeGroup).where(NodeGroup.cluster_id == cluster.uuid)
    if ident.isascii() and ident.isdigit():
        query = query.where(NodeGroup.id == min(int(ident[:19]), 2**62))
    elif (uuid := uuid_of(ident)) is not None:
        query = query.where(NodeGroup.uuid == uuid)
    else:
        query = query.where(NodeGroup.name == ident)
    group = (await session.exec(query)).first()
    if group is None:
        raise NotFound(f"Nodegroup {ident[:255]} could not be found.")
    return group


def within(cluster: Cluster, role: str | None) -> list[Any]:
    """What holds of a cluster's node groups (of one role)."""
    return [NodeGroup.cluster_id == cluster.uuid, *([NodeGroup.role == role] if role is not None else [])]


def default(groups: Sequence[NodeGroup], role: str = WORKER) -> NodeGroup:
    """The default node group of this role: every cluster has one of each."""
    return next(group for group in groups if group.is_default and group.role == role)


def furnish(group: NodeGroup, image: Image, size: Size, known: ClusterSettings) -> None:
    """Keep what a group's image and flavor mean now. Raises Invalid for an image that settings do not list."""
    cluster_specs.use_image(group, image.name, known)
    group.node_cpus, group.node_memory, group.node_disk = size.cpus, size.memory, size.disk


def check_there(group: NodeGroup) -> None:
    """Raises Conflict for a node group that is to go."""
    if group.status in cluster_specs.GOING:
        raise Conflict(f"Nodegroup {group.name} is being deleted (status {group.status}).")


async def set_count(
    session: AsyncSession, cluster: Cluster, group: NodeGroup, count: int, place: Place
) -> dict[str, int]:
    """Let a group have `count` nodes. Returns what it had, as an update's `before_counts` has it.

    Raises Invalid beyond its bounds, and Conflict when there is no room.
    """
    most = group.max_node_count
    if count < group.min_node_count or (most is not None and count > most):
        bounds = f"from {group.min_node_count}" + (f" to {most}" if most is not None else "")
        raise Invalid(f"node_count {count} is out of bounds: nodegroup {group.name} has {bounds} nodes.")
    before = group.node_count
    if count > before:  # asked first: what is in the session counts as there already
        await capacity.check(session, place.engines, cluster.backend, capacity.Need.of(group, count - before))
    group.node_count = count
    return {group.uuid: before}


def check_new(cluster: Cluster, groups: Sequence[NodeGroup], values: Mapping[str, Any]) -> None:
    """Whether a cluster can have this further node group. Raises Conflict, and Invalid for masters: Magnum's order."""
    if cluster.api_address is None:
        raise Conflict("Cluster API address is not available yet")
    _check_state(cluster)
    if values["name"] in {group.name for group in groups}:
        raise Conflict(f"A node group with name {values['name']} already exists in the cluster {cluster.uuid}.")
    _check_bounds(values["node_count"], values["min_node_count"], values["max_node_count"])
    check_nodes(values["role"], values["node_labels"], values["node_taints"])
    if values["role"] == MASTER:
        raise Invalid("Creating master nodegroups is currently not supported.")


async def create(
    session: AsyncSession,
    asked: Asked,
    cluster: Cluster,
    groups: Sequence[NodeGroup],
    values: Mapping[str, Any],
    image: Image,
    size: Size,
    place: Place,
) -> NodeGroup:
    """Add a node group to a cluster whose row this session holds. `image` and `size` are what its ids mean.

    Raises Conflict and Invalid, as `check_new` does and for what the cluster's driver can never make.
    """
    check_new(cluster, groups, values)
    place.require(cluster, ClusterAbility.NODE_GROUPS, "Adding nodegroups")
    now = await actions.clock(session)
    group = NodeGroup(
        project_id=cluster.project_id,
        user_id=asked.user_id,
        cluster_id=cluster.uuid,
        created_at=now,
        labels=labels.merged(values["labels"], cluster.labels, merge=bool(values["merge_labels"])),
        flavor_id=values["flavor_id"] or cluster.flavor_id,
        image_id=values["image_id"] or default(groups).image_id,
        **{
            name: values[name]
            for name in (
                "name", "role", "node_count", "min_node_count", "max_node_count", "docker_volume_size", "node_labels",
                "node_taints",
            )
        },
    )  # fmt: skip
    furnish(group, image, size, place.settings.clusters)
    await capacity.check(session, place.engines, cluster.backend, capacity.Need.of(group, group.node_count))
    clusters.check_spec(cluster, await clusters.template_of(session, cluster), [*groups, group], place)
    session.add(group)
    clusters.begin(cluster, ())
    details = {"nodegroup": group.name, "node_count": group.node_count}
    args = UpdateArgs(asked="create_nodegroup", details=details, groups=[group.uuid])
    clusters.submit(session, asked, cluster, "update", now, place.settings, args)
    return group


def patched(group: NodeGroup, operations: Sequence[json_patch.Operation]) -> dict[str, Any]:
    """The attributes that can change, after JSON-patch operations, not yet validated. Raises Invalid."""
    return json_patch.patched({name: getattr(group, name) for name in CHANGEABLE}, operations, PATCHABLE)


async def change(
    session: AsyncSession,
    asked: Asked,
    cluster: Cluster,
    groups: Sequence[NodeGroup],
    group: NodeGroup,
    values: Mapping[str, Any],
    place: Place,
) -> None:
    """Change bounds, labels and taints of one of `groups`, whose cluster's row this session holds.

    Bounds that leave the count outside move it to the nearer one. Raises Conflict, and Invalid for what the cluster's
    driver can never make.
    """
    check_there(group)
    _check_state(cluster)
    least, most = values["min_node_count"] or 0, values["max_node_count"] or None
    if most is not None and least > most:
        raise Conflict(f"min_node_count {least} is greater than max_node_count {most}.")
    check_nodes(group.role, values["node_labels"], values["node_taints"])
    group.min_node_count, group.max_node_count = least, most
    group.node_labels, group.node_taints = dict(values["node_labels"]), list(values["node_taints"])
    count = max(least, group.node_count if most is None else min(most, group.node_count))
    details = {"nodegroup": group.name, **{name: values[name] for name in sorted(CHANGEABLE)}}
    args = UpdateArgs(asked="update_nodegroup", details=details, groups=[group.uuid])
    if count != group.node_count:
        args.before_counts = await set_count(session, cluster, group, count, place)
    clusters.check_spec(cluster, await clusters.template_of(session, cluster), groups, place)
    group.updated_at = now = await actions.clock(session)
    clusters.begin(cluster, [group])
    clusters.submit(session, asked, cluster, "update", now, place.settings, args)


async def remove(session: AsyncSession, asked: Asked, cluster: Cluster, group: NodeGroup, place: Place) -> None:
    """Let a node group go, whose cluster's row this session holds. Raises Invalid for a default one, Conflict."""
    if group.is_default:
        raise Invalid("Deleting a default nodegroup is not supported.")
    if group.status == ClusterStatus.DELETE_IN_PROGRESS:
        return
    _check_state(cluster)
    clusters.begin(cluster, ())
    group.status, group.status_reason = ClusterStatus.DELETE_IN_PROGRESS, None
    now = await actions.clock(session)
    args = UpdateArgs(asked="delete_nodegroup", details={"nodegroup": group.name}, groups=[group.uuid])
    clusters.submit(session, asked, cluster, "update", now, place.settings, args)


def check_nodes(role: str, own: Mapping[str, str], taints: Sequence[Mapping[str, str]]) -> None:
    """What the nodes of a group may be marked with. Raises Conflict."""
    if role == MASTER and (own or taints):
        raise Conflict("node_labels and node_taints are not supported for master nodegroups.")
    for key in own:
        domain = key.rpartition("/")[0]
        if _RESERVED.fullmatch(domain) and not _OPEN.fullmatch(domain) and key not in _KNOWN:
            raise Conflict(f"node_labels: {key[:255]} is in a reserved namespace; use a domain of your own.")
    for taint in taints:
        if unknown := sorted(taint.keys() - {"key", "value", "effect"}):
            raise Conflict(f"node_taints: {', '.join(unknown)[:255]} is unknown; a taint has key, value and effect.")
        if not taint.get("key"):
            raise Conflict("node_taints: every taint needs a key.")
        if taint.get("effect") not in EFFECTS:
            raise Conflict(f"node_taints: the effect of {taint['key'][:255]} must be one of {', '.join(EFFECTS)}.")


def _check_state(cluster: Cluster) -> None:
    if cluster.status not in QUEUEING:
        raise Conflict(f'Changing nodegroups of a cluster when status is "{cluster.status}" is not supported.')


def _check_bounds(count: int, least: int, most: int | None) -> None:
    if count < least:
        raise Conflict(f"node_count {count} is less than min_node_count {least}.")
    if most is not None and most < least:
        raise Conflict(f"min_node_count {least} is greater than max_node_count {most}.")
    if most is not None and count > most:
        raise Conflict(f"node_count {count} is greater than max_node_count {most}.")
