"""Containers on Neutron's networks: what may be asked, and the ports that come and go with a container.

Nothing here knows what is attached but its uuid: containers and capsules' sandboxes use the same functions. A row's
``nets`` hold one entry for each network::

    {"network": uuid, "port": uuid or None, "preserve": whether the port is the user's, "wanted": [address, ...],
     "addresses": [as zun-api, section 4.9, shows them]}

A port is found again by its ``device_id``, the uuid, so that whoever comes after a crash makes no second one. Ports
that Caisson made say so in their description: any other is freed and never removed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any
from uuid import UUID

from app import wiring
from app.backends.engine import Ability, ContainerEngine
from app.backends.wires import Attachment
from app.errors import Conflict, Invalid, NotFound, Unsupported
from app.neutron import DEVICE_OWNER, Neutron, Thing
from app.settings import Settings

Net = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Plugged:
    """Ports that are ready: places for the engine, and what the row says from now on."""

    places: Sequence[Attachment]
    nets: list[Net]
    groups: list[str]


def check_engine(engine: ContainerEngine, settings: Settings) -> None:
    """Raises Unsupported when this engine cannot put containers on Neutron's networks, or could not protect them."""
    if Ability.WIRE not in engine.abilities:
        raise Unsupported(f"engine {engine.name} cannot put containers on networks of Neutron (ability wire)")
    if settings.firewall == "nftables" and Ability.FIREWALL not in engine.abilities:
        raise Unsupported(
            f"engine {engine.name} cannot enforce security groups (ability firewall): Caisson must run as root on the "
            "engine's host and find nft there; with the setting `firewall` at `none` ports come without port security"
        )


def check_groups_enforced(settings: Settings) -> None:
    """Raises Unsupported for a request with security groups or exposed ports that nobody would enforce."""
    if settings.firewall == "none":
        raise Unsupported("security_groups: the setting `firewall` is `none`, so that nobody would enforce them")


async def resolve(
    neutron: Neutron, project_id: str, wanted: Sequence[Mapping[str, str]], permit_external: Callable[[], None]
) -> list[Net]:
    """What a request's `nets` mean, looked up with the caller's token; without any, the project's default network.

    `permit_external` raises Forbidden for those who may not use an external network.
    Raises NotFound, Conflict (ambiguous, or no network at all), Invalid.
    """
    found = [await _resolve_one(neutron, project_id, one, permit_external) for one in wanted]
    if not wanted:
        found = [await _entry(neutron, await _default_network(neutron, project_id))]
    ids = [net["network"] for net in found]
    if len(set(ids)) < len(ids):
        raise Invalid("nets: a container can be on each network only once")
    return found


async def resolve_groups(neutron: Neutron, project_id: str, groups: Sequence[str]) -> list[str]:
    """The ids of security groups given by name or id. Raises Invalid for unknown ones, Conflict for ambiguous ones."""
    ids: list[str] = []
    for group in groups:
        found = await neutron.find("security_groups", **{"id" if _is_uuid(group) else "name": group})
        own = [one for one in found if one["project_id"] == project_id] or found
        if not own:
            raise Invalid(f"Security group {group} not found.")
        if len(own) > 1:
            raise Conflict(f"Multiple security groups have the name {group}. Please use the id instead.")
        if own[0]["id"] not in ids:
            ids.append(own[0]["id"])
    return ids


async def plug(
    neutron: Neutron,
    engine: ContainerEngine,
    settings: Settings,
    uuid: str,
    project_id: str,
    nets: Sequence[Net],
    groups: Sequence[str] | None,
) -> Plugged:
    """Make sure of a port for each net, and of the engine's networks. Neutron is asked as Caisson's own user.

    Raises NotFound, Conflict, Invalid, QuotaExceeded with Neutron's words; EngineError.
    """
    host, secure = (await engine.ping()).hostname, settings.firewall != "none"
    there = await neutron.find("ports", device_id=uuid)
    places: list[Attachment] = []
    entries: list[Net] = []
    used: dict[str, None] = {}
    for net in nets:
        network, subnets = await wiring.subnets_of(neutron, net["network"])
        # The port comes first: it tells which network to look at, should nobody get to store that.
        if net["preserve"]:
            port = await _claim(neutron, uuid, net["port"], groups, host)
        else:
            port = await _own_port(neutron, there, uuid, project_id, net, groups, host, subnets, secure=secure)
        name = await wiring.lay(neutron, engine, settings, network, subnets)
        usable = [ip for ip in port["fixed_ips"] if ip["subnet_id"] in {subnet["id"] for subnet in subnets}]
        places.append(Attachment(name, [ip["ip_address"] for ip in usable], port["mac_address"]))
        entries.append({**net, "port": port["id"], "addresses": _addresses(port, preserve=net["preserve"])})
        used |= dict.fromkeys(port["security_groups"])
    return Plugged(places, entries, list(used))


async def settle_macs(neutron: Neutron, nets: Sequence[Net], macs: Sequence[str]) -> None:
    """Tell Neutron the MAC addresses that the engine gave, where it could not give the ports'."""
    for net, mac in zip(nets, macs, strict=True):
        port = await neutron.show("ports", net["port"])
        if port is not None and port["mac_address"].lower() != mac.lower():
            await neutron.update("ports", port["id"], mac_address=mac)


async def unplug(neutron: Neutron, uuid: str, network: str | None = None) -> set[str]:
    """Give back every port of a device, or those on one network: the networks that they were on. Again is fine.

    The user's are freed, the others are removed.
    """
    ports = await neutron.find("ports", device_id=uuid, **({} if network is None else {"network_id": network}))
    for port in ports:
        await _give_back(neutron, uuid, port)
    return {port["network_id"] for port in ports}


async def expose(neutron: Neutron, uuid: str, project_id: str, ports: Sequence[Mapping[str, Any]]) -> str:
    """The group ``zun-<uuid>`` that lets anybody reach these ports, made when absent: its id."""
    name = f"zun-{uuid}"
    found = await neutron.find("security_groups", name=name, project_id=project_id)
    group = found[0] if found else None
    if group is None:
        group = await neutron.create("security_groups", name=name, project_id=project_id)
    has = {
        (rule["protocol"], rule["port_range_min"], rule["ethertype"])
        for rule in group["security_group_rules"]
        if rule["direction"] == "ingress"
    }
    for port in ports:
        for version in ("IPv4", "IPv6"):
            if (port["protocol"], port["number"], version) in has:
                continue
            await neutron.create(
                "security_group_rules",
                security_group_id=group["id"], project_id=project_id, direction="ingress", ethertype=version,
                protocol=port["protocol"], port_range_min=port["number"], port_range_max=port["number"],
            )  # fmt: skip
    return str(group["id"])


async def unexpose(neutron: Neutron, uuid: str, project_id: str) -> None:
    """Remove the group of `expose`, once no port has it; absent is fine."""
    for group in await neutron.find("security_groups", name=f"zun-{uuid}", project_id=project_id):
        await neutron.delete("security_groups", group["id"])


async def set_groups(neutron: Neutron, uuid: str, groups: Sequence[str]) -> None:
    """Give all ports of a device these security groups."""
    for port in await neutron.find("ports", device_id=uuid):
        if port["security_groups"] != list(groups):
            await neutron.update("ports", port["id"], security_groups=list(groups))


async def named(neutron: Neutron, kind: str, word: str, ident: str, project_id: str) -> Thing:
    """A network or port by name or id, as the caller sees it. Raises NotFound, Conflict when the name is ambiguous."""
    found = await neutron.find(kind, **{"id" if _is_uuid(ident) else "name": ident})
    # An administrator sees those of all projects: then a name means the project's own first.
    found = [one for one in found if one["project_id"] == project_id] or found
    if not found:
        raise NotFound(f"{word} {ident} could not be found.", code=f"{word.lower()}-not-found")
    if len(found) > 1:
        raise Conflict(f"Multiple {kind} have the name {ident}. Please use the id instead.")
    return found[0]


async def _resolve_one(
    neutron: Neutron, project_id: str, wanted: Mapping[str, str], permit_external: Callable[[], None]
) -> Net:
    if ident := wanted.get("port"):
        return await _users_port(neutron, project_id, ident)
    network = await named(neutron, "networks", "Network", wanted["network"], project_id)
    if network.get("router:external") and not network["shared"] and network["project_id"] != project_id:
        permit_external()
    fixed = [wanted[key] for key in ("v4-fixed-ip", "v6-fixed-ip") if wanted.get(key)]
    return await _entry(neutron, network, fixed)


async def _entry(neutron: Neutron, network: Thing, fixed: Sequence[str] = ()) -> Net:
    usable = wiring.usable(await neutron.find("subnets", network_id=network["id"]))
    if not usable:
        raise Invalid(f"Network {network['id']} has no subnet, so there are no addresses for a container.")
    for address in fixed:
        if not any(wiring.within(address, subnet) for subnet in usable):
            ranges = " and ".join(subnet["cidr"] for subnet in usable)
            raise Invalid(f"nets: the fixed address {address} is not in {ranges}, what the engine uses of the network")
    return {"network": network["id"], "port": None, "preserve": False, "wanted": list(fixed), "addresses": []}


async def _users_port(neutron: Neutron, project_id: str, ident: str) -> Net:
    port = await named(neutron, "ports", "Port", ident, project_id)
    if port["project_id"] != project_id:
        raise Invalid(f"Port {port['id']} is not usable: it belongs to another project.", code="port-not-usable")
    if port["device_id"]:
        raise Invalid(f"Port {port['id']} is in use.", code="port-in-use")
    usable = wiring.usable(await neutron.find("subnets", network_id=port["network_id"]))
    ids = {subnet["id"] for subnet in usable}
    if not port["fixed_ips"] or any(ip["subnet_id"] not in ids for ip in port["fixed_ips"]):
        raise Invalid(
            f"Port {port['id']} is not usable: it needs addresses, of the network's oldest IPv4 and IPv6 subnet only.",
            code="port-not-usable",
        )
    if len({ip_address(ip["ip_address"]).version for ip in port["fixed_ips"]}) < len(port["fixed_ips"]):
        raise Invalid(
            f"Port {port['id']} is not usable: a container has one IPv4 and one IPv6 address on a network at most.",
            code="port-not-usable",
        )
    return {"network": port["network_id"], "port": port["id"], "preserve": True, "wanted": [], "addresses": []}


async def _default_network(neutron: Neutron, project_id: str) -> Thing:
    own = await neutron.find("networks", project_id=project_id)
    for choice in (own, await neutron.find("networks", shared="true")):
        inner = [network for network in choice if not network.get("router:external") and network["subnets"]]
        if inner:
            return min(inner, key=lambda network: (network["created_at"], network["id"]))
    raise Conflict("There is no neutron network available: the project has none, and none is shared with it.")


async def _own_port(
    neutron: Neutron,
    there: Sequence[Thing],
    uuid: str,
    project_id: str,
    net: Net,
    groups: Sequence[str] | None,
    host: str,
    subnets: Sequence[Thing],
    *,
    secure: bool,
) -> Thing:
    for port in there:
        if port["network_id"] == net["network"] and port["description"] == _made_for(uuid):
            return port
    wish: dict[str, Any] = {
        "network_id": net["network"],
        "project_id": project_id,
        "device_id": uuid,
        "device_owner": DEVICE_OWNER,
        "description": _made_for(uuid),
        "binding:host_id": host,
        "fixed_ips": [_fixed(net["wanted"], subnet) for subnet in subnets],
    }
    if not secure:
        wish |= {"port_security_enabled": False, "security_groups": []}
    elif groups is not None:
        wish["security_groups"] = list(groups)
    return await neutron.create("ports", **wish)


def _fixed(wanted: Sequence[str], subnet: Thing) -> dict[str, str]:
    chosen = next((address for address in wanted if wiring.within(address, subnet)), None)
    return {"subnet_id": subnet["id"]} | ({} if chosen is None else {"ip_address": chosen})


async def _claim(neutron: Neutron, uuid: str, ident: str, groups: Sequence[str] | None, host: str) -> Thing:
    """Make a user's port this device's, if it is nobody's."""
    port = await neutron.show("ports", ident)
    if port is None:
        raise NotFound(f"Port {ident} could not be found.", code="port-not-found")
    if port["device_id"] not in ("", uuid):
        raise Conflict(f"Port {ident} is in use.", code="port-in-use")
    wish: dict[str, Any] = {"device_id": uuid, "device_owner": DEVICE_OWNER, "binding:host_id": host}
    if port["device_id"] == "" and groups is not None and port["port_security_enabled"]:
        wish["security_groups"] = list(groups)
    if all(port.get(key) == value for key, value in wish.items()):
        return port
    return await neutron.update("ports", ident, revision=port["revision_number"], **wish)


def _made_for(uuid: str) -> str:
    return f"Made by Caisson for {uuid}"


async def _give_back(neutron: Neutron, uuid: str, port: Thing) -> None:
    if port["description"] == _made_for(uuid):
        await neutron.delete("ports", port["id"])
        return
    nobody: dict[str, Any] = {"device_id": "", "device_owner": "", "binding:host_id": ""}
    await neutron.update("ports", port["id"], **nobody)


def _addresses(port: Thing, *, preserve: bool) -> list[dict[str, Any]]:
    return [
        {
            "addr": ip["ip_address"],
            "version": ip_address(ip["ip_address"]).version,
            "port": port["id"],
            "subnet_id": ip["subnet_id"],
            "preserve_on_delete": preserve,
        }
        for ip in port["fixed_ips"]
    ]


def _is_uuid(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True
