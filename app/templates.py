"""Cluster templates: what they may say, who sees them, and how they change (magnum-api, sections 4.3, 7 and 8.3)."""

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address
from typing import Any

from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from app import actions, lookup
from app.db import exists_anywhere, take_turn
from app.errors import Conflict, Forbidden, Invalid
from app.models import ClusterTemplate
from app.names import generate
from app.settings import ClusterSettings


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
INTERNAL = frozenset({"created_at", "id", "links", "updated_at", "uuid", "project_id", "user_id"})
KEPT = frozenset(
    {
        "image_id", "coe", "network_driver", "external_network_id", "tls_disabled", "public", "server_type",
        "registry_enabled", "cluster_distro", "hidden",
    }
)  # fmt: skip
"""Attributes that a patch cannot remove."""
COLUMNS = {
    name: col(getattr(ClusterTemplate, name))
    for name in ("id", "uuid", "created_at", "updated_at", "project_id", "user_id", *FIELDS)
    if name != "labels"
}
_WHOLE = re.compile(r"[0-9]{1,9}")


def complete(values: dict[str, Any], known: ClusterSettings) -> dict[str, Any]:
    """All fields of a template from those given: checked against each other, and the image against `known`.

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
    image = known.images.get(given["image_id"])
    if image is None:
        raise Invalid(f"Image {given['image_id']} could not be found.{_choice('images', known.images)}")
    given["cluster_distro"] = image.os_distro
    return given


def check_names(values: Mapping[str, Any], known: ClusterSettings) -> None:
    """Flavors, networks, name servers and labels. Raises Invalid naming what could not be found."""
    for name in ("flavor_id", "master_flavor_id"):
        if values[name] is not None and values[name] not in known.flavors:
            raise Invalid(f"Unable to find flavor {values[name]}.{_choice('flavors', known.flavors)}")
    words = {
        "external_network_id": "external network",
        "fixed_network": "fixed network",
        "fixed_subnet": "fixed subnet",
    }
    for name, kind in words.items():
        if values[name] is not None and values[name] not in known.networks:
            raise Invalid(f"Unable to find {kind} {values[name]}.{_choice('networks', known.networks)}")
    if values["dns_nameserver"] is not None:
        _check_name_servers(values["dns_nameserver"])
    size = values["labels"].get("boot_volume_size")
    if size is not None and not _WHOLE.fullmatch(size):
        raise Invalid(
            f"Invalid input for label boot_volume_size. Value: '{size[:64]}'. It must be a whole number (GB)."
        )


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


def patched(template: ClusterTemplate, operations: Sequence[tuple[str, str, Any]]) -> dict[str, Any]:
    """All fields after JSON-patch operations (op, path, value), not yet validated. Raises Invalid.

    The rules are Magnum's (magnum-api, section 4.1.5): all operations count, or none.
    """
    values = {name: getattr(template, name) for name in FIELDS} | {"labels": dict(template.labels)}
    for op, path, value in operations:
        name, *below = path.strip("/").split("/")
        if name in INTERNAL:
            raise Invalid(f"'{path}' is an internal attribute and can not be updated")
        if op == "remove" and name in KEPT and not below:
            raise Invalid(f"'{path}' is a mandatory attribute and can not be removed")
        if op != "remove" and value is None:
            raise Invalid("'add' and 'replace' operations needs value")
        if name not in FIELDS or (below and (name != "labels" or len(below) > 1)):
            if op == "add" and not below:
                raise Invalid(f"Adding a new attribute ({path}) to the root of the resource is not allowed")
            raise _cannot_apply(op, path, f"there is no attribute {path}")
        if below:
            _patch_label(values["labels"], op, path, below[0], value)
        elif op == "remove":
            values[name] = {} if name == "labels" else None
        elif op == "add" and values[name] not in (None, {}):
            raise Invalid(f"The attribute {path} has existed, please use 'replace' operation instead.")
        else:
            values[name] = _literal(path, value) if name == "labels" else value
            if name in INTEGERS and isinstance(value, str):
                raise Invalid(
                    f"Invalid input for field/attribute {name}. Value: '{value[:64]}'. It must be an integer."
                )
    return values


def _patch_label(labels: dict[str, Any], op: str, path: str, label: str, value: Any) -> None:
    if op != "add" and label not in labels:
        raise _cannot_apply(op, path, f"there is no label {label}")
    if op == "remove":
        del labels[label]
    else:
        labels[label] = value


def _literal(path: str, value: Any) -> Any:
    """A map that is sent as the text of one."""
    try:
        found = ast.literal_eval(value) if isinstance(value, str) else None
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise Invalid(
            f"Invalid input for field/attribute {path}. It must be the text of a map, as \"{{'key': 'value'}}\"."
        )
    return found


def _cannot_apply(op: str, path: str, reason: str) -> Invalid:
    return Invalid(f"Couldn't apply patch '{op} {path}'. Reason: {reason}")


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


def _choice(setting: str, names: Any) -> str:
    if not names:
        return f" This cloud has none: its administrator lists them in the setting clusters.{setting}."
    return f" There are: {', '.join(sorted(names)[:20])}."


async def create(session: AsyncSession, template: ClusterTemplate) -> None:
    """Store a new template. Raises Conflict when its uuid, which a user may choose, is taken."""
    await take_turn(session, f"cluster template {template.uuid}")
    if await exists_anywhere(session, select(ClusterTemplate.id).where(ClusterTemplate.uuid == template.uuid)):
        raise Conflict(f"A ClusterTemplate with UUID {template.uuid} already exists.")
    template.created_at = await actions.clock(session)
    session.add(template)


async def find(session: AsyncSession, ident: str, *, lock: bool = False) -> ClusterTemplate:
    """By uuid in any spelling, else by name. Raises NotFound, or Conflict when the name is ambiguous."""
    row: ClusterTemplate = await lookup.find(session, ClusterTemplate, ident, "ClusterTemplate", lock=lock)
    return row


async def used(session: AsyncSession, template: ClusterTemplate) -> bool:
    """Whether a cluster is made from it. There are no clusters yet."""
    return False


async def remove(session: AsyncSession, template: ClusterTemplate) -> None:
    """Delete it. Raises Invalid while a cluster is made from it."""
    check_use(template, {"uuid": None}, await used(session, template))
    await session.delete(template)
