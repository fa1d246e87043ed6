"""The engine's networks for those of Neutron: what may be on a host, and how each is made and removed.

A host has a bridge for each network, and with it a route to all its addresses. So two with overlapping addresses cannot
be on one host, nor one with addresses that the host itself uses or may ever need.
"""

import asyncio
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import cast

from app.backends.engine import ContainerEngine
from app.backends.wires import Range, Wire, Wires, WireSubnet, overlapped
from app.errors import Conflict, Invalid, NotFound, Unavailable
from app.neutron import Neutron, Thing
from app.settings import Settings

HOST_OWNER = "network:distributed"
"""Owner of the port that keeps a host's address free where a subnet has no gateway. Neutron removes it by itself with
the network."""


LEAVING_SECONDS = 5.0
"""How long a network whose addresses are in the way gets to leave, as it does with its last container."""
LOOK_EVERY = 0.2  # seconds


async def check_ranges(neutron: Neutron, engine: ContainerEngine, settings: Settings, networks: Iterable[str]) -> None:
    """Raises Conflict when the engine's host has addresses of a network already, Invalid when it must not have them.

    Of another network it tells what the caller's token shows. An engine that does not answer is asked by the step.
    """
    wires = cast(Wires, engine)
    wanted: list[Range] = []
    try:
        there = {one.network for one in await wires.ranges()}
        for network in networks:
            if network in there:
                continue
            for subnet in usable(await neutron.find("subnets", network_id=network)):
                _check_allowed(network, subnet, settings)
                if other := overlapped(subnet["cidr"], wanted) or await _in_the_way(wires, subnet["cidr"]):
                    raise Conflict(
                        f"Network {network}: its addresses {subnet['cidr']} overlap {await _words(neutron, other)}, "
                        "and a host cannot have both. Use a subnet with other addresses."
                    )
                wanted.append(Range(subnet["cidr"], network))
    except Unavailable:
        return


async def _in_the_way(wires: Wires, cidr: str) -> Range | None:
    """What the host has of these addresses, once what is about to leave has left."""
    deadline = asyncio.get_running_loop().time() + LEAVING_SECONDS
    while (other := overlapped(cidr, await wires.ranges())) is not None:
        if other.network is None or asyncio.get_running_loop().time() > deadline:
            return other
        await asyncio.sleep(LOOK_EVERY)
    return None


async def lay_wire(neutron: Neutron, engine: ContainerEngine, settings: Settings, network_id: str) -> str:
    """As `lay`, for a network's id. Raises NotFound."""
    network, subnets = await subnets_of(neutron, network_id)
    return await lay(neutron, engine, settings, network, subnets)


async def lay(
    neutron: Neutron, engine: ContainerEngine, settings: Settings, network: Thing, subnets: Sequence[Thing]
) -> str:
    """The engine's network for one of Neutron's, made when absent: its name. Raises Invalid, EngineError."""
    for subnet in subnets:
        _check_allowed(network["id"], subnet, settings)
    return await cast(Wires, engine).ensure_wire(await _wire(neutron, network, subnets))


async def drop_wire(neutron: Neutron, engine: ContainerEngine, network: str) -> None:
    """Remove the engine's network when nothing uses it, and the port that kept its host's address free."""
    if not await cast(Wires, engine).remove_wire(network):
        return
    for port in await neutron.find("ports", device_owner=HOST_OWNER, device_id=_host_device(network)):
        await neutron.delete("ports", port["id"])


async def subnets_of(neutron: Neutron, network_id: str) -> tuple[Thing, list[Thing]]:
    """A network, and its subnets that the engine's network is made of."""
    network = await neutron.show("networks", network_id)
    if network is None:
        raise NotFound(f"Network {network_id} could not be found.", code="network-not-found")
    subnets = usable(await neutron.find("subnets", network_id=network_id))
    if not subnets:
        raise Invalid(f"Network {network_id} has no subnet, so there are no addresses for a container.")
    return network, subnets


def usable(subnets: Sequence[Thing]) -> list[Thing]:
    """The oldest subnet of each version: a bridge of the engine has one of each."""
    ordered = sorted(subnets, key=lambda subnet: (subnet["ip_version"], subnet["created_at"], subnet["id"]))
    return [subnet for version in (4, 6) for subnet in [one for one in ordered if one["ip_version"] == version][:1]]


def within(address: str, subnet: Thing) -> bool:
    """Whether an address is in the range of a subnet."""
    return ip_address(address) in ip_network(subnet["cidr"])


async def _words(neutron: Neutron, used: Range) -> str:
    if used.network is not None and await neutron.show("networks", used.network) is not None:
        return f"{used.cidr} of the network {used.network}"
    return "addresses that the engine's host uses for others"


def _check_allowed(network: str, subnet: Thing, settings: Settings) -> None:
    allowed = settings.wire_ranges
    if not any(_contains(ip_network(one), ip_network(subnet["cidr"])) for one in allowed):
        raise Invalid(
            f"Network {network}: its addresses {subnet['cidr']} cannot be had here: they must be in "
            f"{', '.join(allowed)} (setting `wire_ranges`)."
        )


def _contains(whole: IPv4Network | IPv6Network, part: IPv4Network | IPv6Network) -> bool:
    return whole.version == part.version and part.subnet_of(whole)  # type: ignore[arg-type]


async def _wire(neutron: Neutron, network: Thing, subnets: Sequence[Thing]) -> Wire:
    """The wish for the engine's network."""
    wired = []
    for subnet in subnets:
        gateway = subnet["gateway_ip"]
        # The first address of an IPv6 range is every router's: no interface can have it for itself.
        first = str(ip_network(subnet["cidr"]).network_address)
        inside = gateway is not None and gateway != first and within(gateway, subnet)
        wired.append(WireSubnet(subnet["cidr"], gateway if inside else await _host_address(neutron, network, subnet)))
    closed = not any(subnet["gateway_ip"] for subnet in subnets)
    return Wire(network["id"], wired, network.get("mtu") or 1500, closed)


async def _host_address(neutron: Neutron, network: Thing, subnet: Thing) -> str:
    """An address of the subnet that no container gets, for the bridge: a port keeps it."""
    device = _host_device(network["id"])
    for port in await neutron.find("ports", device_owner=HOST_OWNER, device_id=device):
        for ip in port["fixed_ips"]:
            if ip["subnet_id"] == subnet["id"]:
                return str(ip["ip_address"])
    made = await neutron.create(
        "ports",
        network_id=network["id"], project_id=network["project_id"], device_owner=HOST_OWNER, device_id=device,
        fixed_ips=[{"subnet_id": subnet["id"]}],
    )  # fmt: skip
    return str(made["fixed_ips"][0]["ip_address"])


def _host_device(network: str) -> str:
    return f"caisson-{network}"
