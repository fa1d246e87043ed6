"""Cluster templates: what they may say, who sees them, and how they change (magnum-api, sections 4.3, 7 and 8.3)."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address
from typing import Any

from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from app import actions, json_patch, lookup
from app.cloud import Cloud
from app.db import exists_anywhere, take_turn
from app.errors import Conflict, Forbidden, Invalid
from app.models import Cluster, ClusterTemplate
from app.names import generate


@dataclass(frozen=True, slots=True)
class Coe:
    """A kind of cluster: the driver that makes it, and the network and volume drivers that a template may name."""

    driver: str
    networks: tuple[str, ...]
    volumes: tuple[str, ...]


_SWARM = Coe("swarm", ("docker", "flannel"), ("rexray",))
COES: Mapping[str, Coe] = {
    "kubernetes": Coe("kubernetes", ("flannel", "calico"), ("cinder",)),
    "swarm": _SWARM,
    "swarm-mode": _SWARM,
}
"""The first of `networks` is what a template gets that names none."""
NOT_ALLOWED = {"kubernetes": ("cilium",)}
"""Network drivers that Magnum knows but does not allow by default."""

BOOLEANS = {
    "registry_enabled": False, "tls_disabled": False, "public": False, "hidden": False, "master_lb_enabled": False,
    "floating_ip_enabled": True,
}  # fmt: skip
INTEGERS = ("apiserver_port", "docker_volume_size")
FIELDS = (
    "name", "coe", "image_id", "flavor_id", "master_flavor_id", "dns_nameserver", "keypair_id", "external_network_id",
    "fixed_network", "fixed_subnet", "network_driver", *INTEGERS, "cluster_distro", "http_proxy", "https_proxy",
    "no_proxy", "volume_driver", "labels", "server_type", "insecure_registry", "docker_storage_driver", "tags",
    "driver", *BOOLEANS,
)  # fmt: skip
"""What a user can set, as columns and as keys of answers."""
KEPT = frozenset(
    {
        "image_id", "coe", "network_driver", "external_network_id", "tls_disabled", "public", "server_type",
        "registry_enabled", "cluster_distro", "hidden",
    }
)  # fmt: skip
"""Attributes that a patch cannot remove."""
PATCHABLE = json_patch.Rules(frozenset(FIELDS), kept=KEPT, numbers=frozenset(INTEGERS))
COLUMNS = {
    name: col(getattr(ClusterTemplate, name))
    for name in ("id", "uuid", "created_at", "updated_at", "project_id", "user_id", *FIELDS)
    if name != "labels"
}
_WHOLE = re.compile(r"[0-9]{1,9}")


async def complete(values: dict[str, Any], cloud: Cloud) -> dict[str, Any]:
    """All fields of a template from those given: checked against each other, and the image against the cloud's.

    Raises Invalid, in Magnum's order: server type, COE, network driver, volume driver, volume size, driver, image.
    """
    coe = COES[values["coe"]]
    given = {name: values.get(name) for name in FIELDS} | {"labels": values.get("labels") or {}}
    given |= {name: default for name, default in BOOLEANS.items() if given[name] is None}
    given["name"] = given["name"] or generate("template")
    given["server_type"] = given["server_type"] or "vm"
    if given["server_type"] != "vm":
        raise Invalid(
            f"server_type: no driver makes {values['coe']} clusters of server type {given['server_type']}; use vm"
        )
    given["network_driver"] = _network_driver(values["coe"], given["network_driver"])
    if given["volume_driver"] not in (None, *coe.volumes):
        expected = "/".join(coe.volumes)
        raise Invalid(
            f"Volume driver type {given['volume_driver']} is not supported, "
            f"expecting a {expected}/unspecified volume driver."
        )
    size = given["docker_volume_size"]
    if given["docker_storage_driver"] == "devicemapper" and (size is None or size < 3):
        raise Invalid("docker_volume_size must be 3 or more (GB) with docker_storage_driver devicemapper.")
    if given["driver"] not in (None, coe.driver):
        raise Invalid(
            f"Cluster driver ({given['driver']}) not supported; {values['coe']} clusters are made by {coe.driver}."
        )
    given["driver"] = coe.driver
    given["cluster_distro"] = (await cloud.image(given["image_id"])).os_distro
    return given


async def check_names(values: Mapping[str, Any], cloud: Cloud) -> None:
    """Flavors, networks, name servers and labels. Raises Invalid naming what could not be found."""
    for name in ("flavor_id", "master_flavor_id"):
        await cloud.flavor(values[name])
    await cloud.check_networks(
        external=values["external_network_id"], fixed=values["fixed_network"], subnet=values["fixed_subnet"]
    )
    if values["dns_nameserver"] is not None:
        _check_name_servers(values["dns_nameserver"])
    whole_label(values["labels"], "boot_volume_size")


def whole_label(labels: Mapping[str, str], name: str) -> int | None:
    """The number that a label says, None without it. Raises Invalid for what is no number."""
    value = labels.get(name)
    if value is not None and not _WHOLE.fullmatch(value):
        raise Invalid(f"Invalid input for label {name}. Value: '{value[:64]}'. It must be a whole number.")
    return None if value is None else int(value)


def check_publish(changes: Mapping[str, Any], permitted: bool) -> None:
    """Raises Forbidden when somebody who may not publish sets or changes what publishing is."""
    if not permitted and (changes.get("public") or changes.get("hidden")):
        raise Forbidden("Not authorized to set public or hidden flag for cluster template.")


def check_use(template: ClusterTemplate, changes: Mapping[str, Any], used: bool) -> None:
    """Raises Invalid for a change that a template cannot have while a cluster is made from it (`used`).

    One of: the name, publishing it, hiding it or not, its tags.
    """
    if not used or not changes:
        return
    name, value = next(iter(changes.items()))
    harmless = name in ("name", "hidden") or (name == "public" and value) or (name == "tags" and value is not None)
    if len(changes) > 1 or not harmless:
        raise Invalid(f"ClusterTemplate {template.uuid} is referenced by one or multiple clusters.")


def patched(template: ClusterTemplate, operations: Sequence[json_patch.Operation]) -> dict[str, Any]:
    """All fields after JSON-patch operations, not yet validated. Raises Invalid."""
    return json_patch.patched({name: getattr(template, name) for name in FIELDS}, operations, PATCHABLE)


def _network_driver(coe: str, driver: str | None) -> str:
    known = COES[coe].networks
    if driver is None:
        return known[0]
    if driver in NOT_ALLOWED.get(coe, ()):
        raise Invalid(f"Network driver type {driver} is not allowed, expecting a {'/'.join(known)} network driver.")
    if driver not in known:
        raise Invalid(
            f"Network driver type {driver} is not supported, expecting a {'/'.join(known)}/unspecified network driver."
        )
    return driver


def _check_name_servers(servers: str) -> None:
    try:
        for server in servers.split(","):
            IPv4Address(server.strip())
    except AddressValueError:
        raise Invalid(
            f"Expected a single dns address or comma separated dns list, but received {servers[:255]}."
        ) from None


async def create(session: AsyncSession, template: ClusterTemplate) -> None:
    """Store a new template. Raises Conflict when its uuid, which a user may choose, is taken."""
    await take_turn(session, f"cluster template {template.uuid}")
    if await exists_anywhere(session, select(ClusterTemplate.id).where(ClusterTemplate.uuid == template.uuid)):
        raise Conflict(f"A ClusterTemplate with UUID {template.uuid} already exists.")
    template.created_at = await actions.clock(session)
    session.add(template)


async def change(session: AsyncSession, template: ClusterTemplate, changes: Mapping[str, Any]) -> ClusterTemplate:
    """Change the template that was read as `template`. Raises Conflict when it is no longer that, Invalid in use."""
    now = await find(session, template.uuid, lock=True)
    if now.revision != template.revision:
        raise Conflict(f"ClusterTemplate {template.uuid} has just been changed. Please try again.")
    check_use(now, changes, await used(session, now))
    for name, value in changes.items():
        setattr(now, name, value)
    if changes:
        now.updated_at = await actions.clock(session)
    return now


async def find(session: AsyncSession, ident: str, *, lock: bool = False) -> ClusterTemplate:
    """By uuid in any spelling, else by name. Raises NotFound, or Conflict when the name is ambiguous."""
    row: ClusterTemplate = await lookup.find(session, ClusterTemplate, ident, "ClusterTemplate", lock=lock)
    return row


async def used(session: AsyncSession, template: ClusterTemplate) -> bool:
    """Whether a cluster is made from it, of whatever project; until the commit no other will be."""
    await take_turn(session, f"cluster template {template.uuid}")
    return await exists_anywhere(session, select(Cluster.id).where(Cluster.cluster_template_id == template.uuid))


async def use(session: AsyncSession, template: ClusterTemplate) -> None:
    """Let a cluster be made from it in this transaction. Raises Conflict when it is no longer what was read."""
    await take_turn(session, f"cluster template {template.uuid}")
    query = select(ClusterTemplate.revision).where(ClusterTemplate.uuid == template.uuid)
    if (await session.exec(query)).first() != template.revision:
        raise Conflict(f"ClusterTemplate {template.uuid} has just been changed. Please try again.")


async def remove(session: AsyncSession, template: ClusterTemplate) -> None:
    """Delete it. Raises Invalid while a cluster is made from it."""
    check_use(template, {"uuid": None}, await used(session, template))
    await session.delete(template)
