"""Networks with given addresses of the engine in memory, and what was asked of its packet filter."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any
from uuid import UUID

from app.backends.wires import Attachment, Guard, Wire
from app.errors import Gone


class FakeWires:
    """Abilities WIRE and FIREWALL of the engine in memory.

    Attributes:
        wires: networks by their uuid.
        joined: who is on which network with which addresses, by the engine's names.
        guards: what `guard` was asked for last.
    """

    _boxes: dict[UUID, Any]

    def __init__(self) -> None:
        self.wires: dict[str, Wire] = {}
        self.joined: dict[str, dict[str, Attachment]] = {}
        self.guards: Sequence[Guard] = ()

    async def ensure_wire(self, wire: Wire) -> str:
        async with self._verb("ensure_wire"):
            self.wires.setdefault(wire.network, wire)
            return f"caisson-net-{wire.network}"

    async def remove_wire(self, network: str) -> bool:
        async with self._verb("remove_wire"):
            name = f"caisson-net-{network}"
            living = {box.seen.ref: box for box in self._boxes.values()}
            used = any(name in places for ref, places in self.joined.items() if ref in living)
            if used or any(place.name == name for box in living.values() for place in box.spec.places):
                return False
            self.wires.pop(network, None)
            return True

    async def join(self, ref: str, place: Attachment) -> str:
        async with self._verb("join"):
            if all(box.seen.ref != ref for box in self._boxes.values()):
                raise Gone(f"No such container: {ref}")
            return self.joined.setdefault(ref, {}).setdefault(place.name, place).mac

    async def leave(self, ref: str, network: str) -> None:
        async with self._verb("leave"):
            self.joined.get(ref, {}).pop(f"caisson-net-{network}", None)

    async def guard(self, guards: Sequence[Guard], members: Mapping[str, Sequence[str]]) -> None:
        async with self._verb("guard"):
            self.guards = guards

    def _verb(self, name: str) -> AbstractAsyncContextManager[None]:
        raise NotImplementedError
