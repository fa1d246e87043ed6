"""Networks that somebody else keeps the books of (Neutron), wired by an engine, and what may pass on them.

The rules of ``app.backends.engine`` hold here as well. Addresses are text; networks and groups are named by their uuid.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Protocol, runtime_checkable
from uuid import UUID


@dataclass(frozen=True, slots=True)
class WireSubnet:
    """A range of addresses, and the one in it that the engine's host answers on."""

    cidr: str
    host: str


@dataclass(frozen=True, slots=True)
class Wire:
    """A wish for one network: at most one subnet of each version. `closed` has no way to other networks."""

    network: str
    subnets: Sequence[WireSubnet]
    mtu: int = 1500
    closed: bool = False


@dataclass(frozen=True, slots=True)
class Range:
    """Addresses that an engine's host has a way to; `network` is the wire's uuid, None is anything else."""

    cidr: str
    network: str | None


def overlapped(cidr: str, ranges: Sequence[Range]) -> Range | None:
    """The first of the ranges that has addresses of `cidr`; None when none has."""
    wanted = ip_network(cidr)
    return next((one for one in ranges if _overlap(wanted, ip_network(one.cidr))), None)


def _overlap(one: IPv4Network | IPv6Network, other: IPv4Network | IPv6Network) -> bool:
    return one.version == other.version and one.overlaps(other)


@dataclass(frozen=True, slots=True)
class Attachment:
    """A container's place on one network: `name` is what `ensure_wire` returned."""

    name: str
    addresses: Sequence[str]
    mac: str


@dataclass(frozen=True, slots=True)
class Rule:
    """Lets packets of one IP version pass: into the container (`ingress`) or out of it.

    `protocol` is IP's number, None is any; `low` and `high` are ports, or type and code of ICMP. The other side is
    anybody, or within `prefix`, or one of the members of `group`.
    """

    ingress: bool
    version: int
    protocol: int | None = None
    low: int | None = None
    high: int | None = None
    prefix: str | None = None
    group: str | None = None


@dataclass(frozen=True, slots=True)
class Guard:
    """What may pass between one container (`uuid`) and one of its networks (`name` is what `ensure_wire` returned).

    Only what a rule names and answers to it pass, from the port's own `addresses` alone. None as `rules` lets
    everything pass, forged addresses included.
    """

    uuid: UUID
    name: str
    addresses: Sequence[str]
    rules: Sequence[Rule] | None


@runtime_checkable
class Wires(Protocol):
    """Ability WIRE: networks with given addresses. Two of an engine must not overlap."""

    async def ranges(self) -> Sequence[Range]:
        """Those of every network that the engine and its host have: a new wire may overlap none of them."""
        ...

    async def ensure_wire(self, wire: Wire) -> str:
        """The engine's name of the network, made when absent. Taken when its addresses overlap `ranges`."""
        ...

    async def remove_wire(self, network: str) -> bool:
        """Remove it when no container uses it: whether it is gone. In use or absent is fine."""
        ...

    async def join(self, ref: str, place: Attachment) -> str:
        """Connect a container, running or not; connected already is fine. Returns the MAC address it has there."""
        ...

    async def leave(self, ref: str, network: str) -> None:
        """Disconnect a container; not connected, or no such network or container is fine."""
        ...


@runtime_checkable
class Guards(Protocol):
    """Ability FIREWALL: packets are filtered on the engine's host."""

    async def guard(self, guards: Sequence[Guard], members: Mapping[str, Sequence[str]]) -> None:
        """Put these guards in the place of all former ones, at once. Containers that do not run need none.

        `members` are the addresses behind each group that a rule names. What is attached to a wire and has no guard
        hears and says nothing, from the wire's first moment.
        """
        ...
