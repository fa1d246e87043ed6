"""New clusters: what may be asked for, in the order in which Magnum looks at it (magnum-api, section 4.1.3)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlmodel.ext.asyncio.session import AsyncSession

from app import actions, capacity, cluster_keys, cluster_quotas, clusters, labels, nodegroups, templates
from app.actions import Asked
from app.backends.driver import MASTER
from app.cloud import Cloud
from app.clusters import CreateArgs, Place
from app.errors import Invalid
from app.models import Cluster, ClusterTemplate, NodeGroup
from app.names import generate
from app.nodegroups import WORKER
from app.vault import Vault

GIVEN = (
    "keypair", "docker_volume_size", "master_flavor_id", "flavor_id", "fixed_network", "fixed_subnet",
    "floating_ip_enabled", "master_lb_enabled",
)  # fmt: skip
"""What a cluster may say otherwise than its template; the template's `keypair_id` is the cluster's `keypair`."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A new cluster that can be made, as far as can be told before it is stored."""

    cluster: Cluster
    groups: Sequence[NodeGroup]
    template: ClusterTemplate


def check_type(template: ClusterTemplate, values: Mapping[str, Any], place: Place) -> None:
    """What a new cluster's template and size must be. Raises Invalid, in Magnum's order."""
    kinds = [kind for kind in place.drivers.kinds() if kind.enabled]
    known = {(made.server_type, made.os, made.coe) for kind in kinds for made in kind.provides}
    system = (template.server_type, template.cluster_distro, template.coe)
    if not {system, (template.server_type, "*", template.coe)} & known:
        listed = ", ".join(f"({', '.join(made)})" for made in sorted(known)) or "none"
        raise Invalid(f"Cluster type ({', '.join(system)}) not supported. There are: {listed}.")
    size = values["docker_volume_size"] or template.docker_volume_size
    if template.docker_storage_driver == "devicemapper" and (size is None or size < 3):
        raise Invalid("docker_volume_size must be 3 or more (GB) with docker_storage_driver devicemapper.")
    if values["master_count"] % 2 == 0:
        raise Invalid(f"master nodegroup size of {values['master_count']} is invalid, size cannot be an even number.")


async def plan(template: ClusterTemplate, values: Mapping[str, Any], owner: Mapping[str, Any], cloud: Cloud) -> Plan:
    """The rows of a new cluster with its two node groups; `owner` is its project and user.

    Raises Invalid, NotFound for a key pair, Conflict for an ambiguous name, and as `app.cloud` does.
    """
    given = {name: values[name] for name in GIVEN}
    above = {name: getattr(template, name) for name in GIVEN if name != "keypair"} | {"keypair": template.keypair_id}
    cluster = Cluster(
        **owner,
        **{name: above[name] if value is None else value for name, value in given.items()},
        created_at=0.0,
        name=values["name"] or generate("cluster"),
        cluster_template_id=template.uuid,
        coe=template.coe,
        driver=template.driver,
        backend="",
        labels=labels.merged(values["labels"], template.labels, merge=bool(values["merge_labels"])),
        create_timeout=values["create_timeout"],
        discovery_url=values["discovery_url"],
    )
    templates.whole_label(cluster.labels, "boot_volume_size")
    least = templates.whole_label(cluster.labels, "min_node_count") or 0
    image = await cloud.image(template.image_id)
    sizes = {flavor: await cloud.flavor(flavor) for flavor in (cluster.flavor_id, cluster.master_flavor_id)}
    await cloud.check_networks(
        external=template.external_network_id, fixed=cluster.fixed_network, subnet=cluster.fixed_subnet
    )
    await cloud.check_keypair(cluster.keypair)
    if values["master_count"] > 1 and not cluster.master_lb_enabled:
        raise Invalid("master_count must be 1 when master_lb_enabled is False.")
    groups = [
        NodeGroup(
            **owner, cluster_id=cluster.uuid, created_at=0.0, name=f"default-{role}", role=role, is_default=True,
            node_count=count, min_node_count=least if role == WORKER else 0, flavor_id=flavor,
            image_id=template.image_id, docker_volume_size=cluster.docker_volume_size, labels=dict(cluster.labels),
        )
        for role, count, flavor in (
            (MASTER, values["master_count"], cluster.master_flavor_id),
            (WORKER, values["node_count"], cluster.flavor_id),
        )
    ]  # fmt: skip
    for group in groups:
        nodegroups.furnish(group, image, sizes[group.flavor_id], cloud.known)
    return Plan(cluster, groups, template)


async def accept(session: AsyncSession, asked: Asked, wanted: Plan, place: Place, vault: Vault) -> None:
    """Store a new cluster, its node groups, its keys, and the action that makes it.

    Raises QuotaExceeded, Conflict when there is no room for it or its template was changed meanwhile, and Invalid for
    what its driver can never make.
    """
    cluster, settings = wanted.cluster, place.settings
    await templates.use(session, wanted.template)
    await cluster_quotas.consume(session, cluster.project_id, settings.clusters)
    need = sum((capacity.Need.of(group, group.node_count) for group in wanted.groups), capacity.Need())
    cluster.backend = await capacity.place(session, place.engines, place.drivers, settings, cluster.driver, need)
    clusters.check_spec(cluster, wanted.template, wanted.groups, place)
    cluster.created_at = now = await actions.clock(session)
    session.add(cluster)
    for group in wanted.groups:
        group.created_at = now
        session.add(group)
        await session.flush()  # the masters get the lower id: they stand first
    cluster_keys.make(session, cluster, vault)
    clusters.submit(session, asked, cluster, "create", now, settings, CreateArgs())
