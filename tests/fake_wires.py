"""Networks with given addresses of the engine in memory, and its packet filter: who could ping whom."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from ipaddress import ip_address, ip_network
from typing import Any
from uuid import UUID

from app.backends.engine import Ability, State
from app.backends.wires import Attachment, Guard, Range, Rule, Wire, overlapped
from app.errors import Gone, Taken

PINGS = {4: 1, 6: 58}
"""The protocol of a ping, by the version of IP."""
ECHO = {4: 8, 6: 128}
"""Its type."""


class FakeWires:
    """Abilities WIRE and FIREWALL of the engine in memory.

    Attributes:
        wires: networks by their uuid.
        joined: who is on which network with which addresses, by the engine's names.
        guards: what `guard` was asked for last.
    """

    _boxes: dict[UUID, Any]
    abilities: frozenset[Ability]

    def __init__(self) -> None:
        self.wires: dict[str, Wire] = {}
        self.joined: dict[str, dict[str, Attachment]] = {}
        self.guards: list[Guard] = []
        self.members: dict[str, Sequence[str]] = {}

    async def ranges(self) -> Sequence[Range]:
        async with self._verb("ranges"):
            return self._ranges()

    async def ensure_wire(self, wire: Wire) -> str:
        async with self._verb("ensure_wire"):
            if wire.network not in self.wires:
                if used := next((one for net in wire.subnets if (one := overlapped(net.cidr, self._ranges()))), None):
                    raise Taken(f"network {wire.network} overlaps {used.cidr}")
                self.wires[wire.network] = wire
            return _name(wire.network)

    async def remove_wire(self, network: str) -> bool:
        async with self._verb("remove_wire"):
            if any(_name(network) in self.places(box) for box in self._boxes.values()):
                return False
            self.wires.pop(network, None)
            return True

    async def join(self, ref: str, place: Attachment) -> str:
        async with self._verb("join"):
            self.check_place(place)
            return self.places(self._box(ref)).setdefault(place.name, place).mac

    async def leave(self, ref: str, network: str) -> None:
        async with self._verb("leave"):
            self.joined.get(ref, {}).pop(_name(network), None)

    async def guard(self, guards: Sequence[Guard], members: Mapping[str, Sequence[str]]) -> None:
        async with self._verb("guard"):
            self.guards[:] = guards
            self.members.clear()
            self.members.update(members)

    def places(self, box: Any) -> dict[str, Attachment]:
        """Where a container is, by the engine's names: with its first place from the start."""
        return self.joined.setdefault(box.seen.ref, {place.name: place for place in box.spec.places[:1]})

    def check_place(self, place: Attachment) -> None:
        """Raises Gone when the network is not there."""
        if place.name not in map(_name, self.wires):
            raise Gone(f"network {place.name} not found")

    def pings(self, ref: str, address: str) -> bool:
        """Whether a container would be answered by who has this address on one of its networks."""
        sender = self._box(ref)
        for name, place in self.places(sender).items():
            for box in self._boxes.values():
                there = self.places(box).get(name)
                if there is not None and address in there.addresses and box.seen.state is State.RUNNING:
                    version = ip_address(address).version
                    own = next(one for one in place.addresses if ip_address(one).version == version)
                    out = self._passes(sender, name, own, address, ingress=False)
                    return out and self._passes(box, name, address, own, ingress=True)
        return False

    def _passes(self, box: Any, name: str, own: str, other: str, *, ingress: bool) -> bool:
        if Ability.FIREWALL not in self.abilities:
            return True
        guard = next((one for one in self.guards if (one.uuid, one.name) == (box.seen.uuid, name)), None)
        if guard is None or guard.rules is None:
            return guard is not None
        return own in guard.addresses and any(
            rule.ingress == ingress and self._names_ping(rule, other) for rule in guard.rules
        )

    def _names_ping(self, rule: Rule, other: str) -> bool:
        address = ip_address(other)
        return (
            rule.version == address.version
            and rule.protocol in (None, PINGS[rule.version])
            and rule.low in (None, ECHO[rule.version])
            and (rule.prefix is None or address in ip_network(rule.prefix))
            and (rule.group is None or other in self.members[rule.group])
        )

    def _ranges(self) -> list[Range]:
        return [Range(subnet.cidr, network) for network, wire in self.wires.items() for subnet in wire.subnets]

    def _box(self, ref: str) -> Any:
        raise NotImplementedError

    def _verb(self, name: str) -> AbstractAsyncContextManager[None]:
        raise NotImplementedError


def _name(network: str) -> str:
    return f"caisson-net-{network}"
