"""How clusters change: patches, counts and upgrades (magnum-api, sections 4.1.5 to 4.1.7)."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from sqlmodel.ext.asyncio.session import AsyncSession

from app import actions, cluster_specs, clusters, json_patch, nodegroups, templates
from app.actions import Asked
from app.backends.driver import MASTER, ClusterAbility
from app.cloud import Image
from app.clusters import FULL, QUEUEING, RESTING, SHORT, Place, UpdateArgs
from app.errors import Conflict, Invalid
from app.models import Cluster, ClusterTemplate, NodeGroup

PATCHABLE = json_patch.Rules(
    frozenset(
        {
            *SHORT, *FULL, "node_count", "master_count", "merge_labels", "health_status_reason", "faults",
            "labels_overridden", "labels_added", "labels_skipped",
        }
    ),
    internal=json_patch.INTERNAL | {"api_address", "node_addresses", "master_addresses", "stack_id", "cluster_id"},
    kept=frozenset({"cluster_template_id"}),
    maps=frozenset({"labels", "health_status_reason"}),
    numbers=frozenset({"node_count"}),
)  # fmt: skip
HEALTH = frozenset({"health_status", "health_status_reason"})
CHANGEABLE = frozenset({"name", "labels", "node_count"}) | HEALTH
"""What a patch may change. Magnum takes the count and the health only."""
ALIKE = ("coe", "driver", "server_type", "network_driver", "tls_disabled", "apiserver_port")
"""What a cluster's old and new template must agree about."""
VERSION = "kube_tag"
"""The label that says which version of Kubernetes runs."""
_IMAGE = ("image_id", "node_image", "node_profile", "labels")
_VERSION = re.compile(r"v?([0-9]{1,6})\.([0-9]{1,6})(?:\.([0-9]{1,6}))?(?![0-9.])")


def patched(
    cluster: Cluster, groups: Sequence[NodeGroup], operations: Sequence[json_patch.Operation]
) -> dict[str, Any]:
    """What a patch sets, not yet validated: the attributes that it names and that clusters may change.

    node_count is that of the default workers. Raises Invalid.
    """
    before = {name: getattr(cluster, name, None) for name in PATCHABLE.attributes} | {
        "node_count": nodegroups.default(groups).node_count,
        "master_count": nodegroups.default(groups, MASTER).node_count,
        "health_status_reason": cluster.health_status_reason or {},
    }
    after = json_patch.patched(before, operations, PATCHABLE)
    if frozen := sorted(name for name in after.keys() - CHANGEABLE if after[name] != before[name]):
        raise Invalid(f"cannot change cluster property(ies) {', '.join(frozen)}.")
    if after["node_count"] is None:
        after["node_count"] = 1
    named = {path.split("/")[1] for _, path, _ in operations}
    return {name: after[name] for name in named & CHANGEABLE}


async def update(
    session: AsyncSession,
    asked: Asked,
    cluster: Cluster,
    groups: Sequence[NodeGroup],
    changes: Mapping[str, Any],
    place: Place,
) -> None:
    """Change a cluster whose row this session holds. Only its health changes without an action.

    Raises Invalid when its status does not allow it, for a count beyond the bounds of the default workers, and for
    labels that its driver cannot follow; Conflict when there is no room.
    """
    for name in changes.keys() & HEALTH:
        setattr(cluster, name, changes[name])
    now = await actions.clock(session)
    if changes:
        cluster.updated_at = now
    if not changes.keys() - HEALTH:
        return
    clusters.check_state(cluster, QUEUEING, "Updating")
    worker = nodegroups.default(groups)
    touched, args = [worker], UpdateArgs(details={name: changes[name] for name in changes.keys() - HEALTH})
    if "node_count" in changes:
        args.before_counts = await nodegroups.set_count(session, cluster, worker, changes["node_count"], place)
    if "labels" in changes:
        touched = _relabel(cluster, groups, changes["labels"])
    cluster.name = changes.get("name", cluster.name)
    clusters.check_spec(cluster, await clusters.template_of(session, cluster), groups, place)
    args.groups = [group.uuid for group in touched]
    clusters.begin(cluster, touched)
    clusters.submit(session, asked, cluster, "update", now, place.settings, args)


async def resize(
    session: AsyncSession,
    asked: Asked,
    cluster: Cluster,
    group: NodeGroup,
    count: int,
    leaving: Sequence[str],
    place: Place,
) -> None:
    """Give a node group of a cluster, whose rows this session holds, another count of nodes; the same is fine.

    Raises Invalid when the group or the cluster cannot, and Conflict when there is no room.
    """
    if group.role == MASTER:
        place.require(cluster, ClusterAbility.RESIZE_MASTERS, "Resizing the master nodegroup")
        if count % 2 == 0:
            raise Invalid(f"master nodegroup size of {count} is invalid, size cannot be an even number.")
    nodegroups.check_there(group)
    clusters.check_state(cluster, QUEUEING, "Resizing")
    if len(leaving) > max(group.node_count - count, 0):
        raise Invalid(
            f"nodes_to_remove names {len(leaving)} nodes, but node_count {count} removes "
            f"{max(group.node_count - count, 0)} of {group.node_count}."
        )
    before = await nodegroups.set_count(session, cluster, group, count, place)
    now = await actions.clock(session)
    clusters.begin(cluster, [group])
    details = {"nodegroup": group.name, "node_count": count, "nodes_to_remove": list(leaving)}
    args = UpdateArgs(asked="resize", details=details, groups=[group.uuid], leaving=list(leaving), before_counts=before)
    clusters.submit(session, asked, cluster, "update", now, place.settings, args)


async def upgrade(
    session: AsyncSession,
    asked: Asked,
    cluster: Cluster,
    groups: Sequence[NodeGroup],
    group: NodeGroup,
    template: ClusterTemplate,
    image: Image,
    batch: int,
    place: Place,
) -> None:
    """Let nodes be replaced by those of a template, at most `batch` of a group at a time.

    A default `group` stands for both default groups, and the template becomes the cluster's; another one can only be
    brought to what the cluster is made from by now. `image` is what the template's id means.

    Raises Conflict for another template for such a group, and Invalid for a cluster whose status or driver does not
    allow it, or which cannot become what the template says.
    """
    if not group.is_default and template.uuid != cluster.cluster_template_id:
        raise Conflict(
            f"Nodegroup {group.name} can only be upgraded to the template of its cluster, "
            f"{cluster.cluster_template_id}. Upgrade the default nodegroups first."
        )
    clusters.check_state(cluster, RESTING, "Upgrading")
    nodegroups.check_there(group)
    place.require(cluster, ClusterAbility.UPGRADE, "Upgrading a cluster")
    await templates.use(session, template)
    before = await clusters.template_of(session, cluster)
    _check_upgrade(cluster, before, template)
    touched = [found for found in groups if found.is_default] if group.is_default else [group]
    args = UpdateArgs(
        asked="upgrade",
        details={"nodegroup": group.name, "cluster_template": template.uuid, "max_batch_size": batch},
        groups=[found.uuid for found in touched],
        batch=batch,
        before_template=before.uuid if template.uuid != before.uuid else None,
        before_labels=cluster.labels,
        before_images={found.uuid: {name: getattr(found, name) for name in _IMAGE} for found in touched},
    )
    cluster.cluster_template_id = template.uuid
    for found in touched:
        found.image_id, found.labels = template.image_id, _of_version(found.labels, before, template)
        cluster_specs.use_image(found, image.name, place.settings.clusters)
    if group.is_default:
        cluster.labels = _of_version(cluster.labels, before, template)
    clusters.check_spec(cluster, template, groups, place)
    clusters.begin(cluster, touched)
    clusters.submit(session, asked, cluster, "update", await actions.clock(session), place.settings, args)


def _check_upgrade(cluster: Cluster, before: ClusterTemplate, after: ClusterTemplate) -> None:
    for name in ALIKE:
        was, wanted = getattr(before, name), getattr(after, name)
        if was != wanted:
            raise Invalid(f"The new cluster template has {name} {wanted}; the cluster has {was}, which cannot change.")
    now = _version(cluster.labels.get(VERSION) or cluster.coe_version)
    wanted = _version(after.labels.get(VERSION))
    if cluster.coe != "kubernetes" or now is None or wanted is None:
        return
    if wanted < now:
        raise Invalid(f"label {VERSION}: {after.labels[VERSION]} is older than what the cluster runs, {_text(now)}.")
    if wanted[0] != now[0] or wanted[1] > now[1] + 1:
        raise Invalid(
            f"label {VERSION}: {after.labels[VERSION]} skips versions; from {_text(now)} the next step is "
            f"v{now[0]}.{now[1] + 1}."
        )


def _version(text: str | None) -> tuple[int, int, int] | None:
    found = _VERSION.match(text or "")
    return (int(found[1]), int(found[2]), int(found[3] or 0)) if found else None


def _text(version: tuple[int, int, int]) -> str:
    return f"v{'.'.join(map(str, version))}"


def _of_version(own: Mapping[str, str], before: ClusterTemplate, after: ClusterTemplate) -> dict[str, str]:
    """Labels with the version of the new template; the old one's version goes, an own one stays."""
    wanted = dict(own)
    if VERSION in after.labels:
        wanted[VERSION] = after.labels[VERSION]
    elif VERSION in before.labels and own.get(VERSION) == before.labels[VERSION]:
        del wanted[VERSION]
    return wanted


def _relabel(cluster: Cluster, groups: Sequence[NodeGroup], wanted: Mapping[str, str]) -> list[NodeGroup]:
    """Give a cluster other labels, and its groups that have the same. Returns these, or the default workers."""
    same = [group for group in groups if group.labels == cluster.labels and group.status not in cluster_specs.GOING]
    cluster.labels = dict(wanted)
    for group in same:
        group.labels = dict(wanted)
    return same or [nodegroups.default(groups)]
