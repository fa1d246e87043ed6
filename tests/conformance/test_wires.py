"""Networks of others (ability WIRE): given addresses; and what may pass on them (FIREWALL), by packets."""

import asyncio
from dataclasses import dataclass
from secrets import randbelow
from uuid import uuid4

import pytest

from app.backends.engine import Ability, Execs, Networks, Seen
from app.backends.wires import Attachment, Guard, Guards, Rule, Wire, Wires, WireSubnet
from app.errors import Gone, Taken
from tests.conformance.place import Place, until

pytestmark = pytest.mark.needs(Ability.WIRE)

ICMP_IN, ICMP_OUT = Rule(True, 4, 1), Rule(False, 4, 1)


def _wire(second: int) -> Wire:
    """A network that nobody else has."""
    start = f"10.{second}.{randbelow(256)}"
    return Wire(str(uuid4()), [WireSubnet(f"{start}.0/26", f"{start}.1")])


def _address(wire: Wire, number: int) -> str:
    return f"{wire.subnets[0].cidr.rpartition('.')[0]}.{number}"


@dataclass
class Net:
    """One wire and who is on it."""

    place: Place
    wire: Wire
    name: str = ""

    @property
    def engine(self) -> Wires:
        assert isinstance(self.place.engine, Wires)
        return self.place.engine

    def at(self, number: int) -> Attachment:
        """A place with this last number in its addresses."""
        return Attachment(self.name, [_address(self.wire, number)], f"fa:16:3e:00:00:{number:02x}")

    async def box(self, number: int) -> Seen:
        """A container there that runs."""
        return await self.place.run("sleep", "1000", places=[self.at(number)])

    def guard(self, seen: Seen, number: int, *rules: Rule) -> Guard:
        return Guard(seen.uuid, self.name, [_address(self.wire, number)], rules)

    async def pings(self, seen: Seen, number: int) -> bool:
        assert isinstance(self.place.engine, Execs)
        command = ["ping", "-c", "1", "-W", "1", _address(self.wire, number)]
        return (await self.place.engine.execute(seen.ref, command, 10)).exit_code == 0


@pytest.fixture
async def net(place: Place) -> Net:
    """A wire, which goes when the test has ended."""
    await asyncio.gather(place.engine.ping(), place.twin.ping())
    return await _net(place)


async def _net(place: Place, second: int = 210) -> Net:
    made = Net(place, _wire(second))
    place.wires.append(made.wire.network)
    made.name = await made.engine.ensure_wire(made.wire)
    return made


async def test_a_container_has_the_addresses_that_it_was_given(net: Net) -> None:
    assert await net.engine.ensure_wire(net.wire) == net.name
    first, second = await net.box(5), await net.box(9)
    assert [(one.network, one.address) for one in first.addresses] == [(net.name, _address(net.wire, 5))]
    assert [(one.network, one.address) for one in second.addresses] == [(net.name, _address(net.wire, 9))]
    await net.place.engine.restart(first.ref, 0)
    assert [one.address for one in (await net.place.seen(first.uuid)).addresses] == [_address(net.wire, 5)]


async def test_asked_for_at_once_it_is_made_once(net: Net) -> None:
    twin = net.place.twin
    assert isinstance(twin, Wires)
    assert await net.engine.remove_wire(net.wire.network)
    names = await asyncio.gather(*(engine.ensure_wire(net.wire) for engine in (net.engine, twin) * 3))
    assert set(names) == {net.name}
    assert [one.address for one in (await net.box(5)).addresses] == [_address(net.wire, 5)]


async def test_it_stays_while_a_container_needs_it(net: Net) -> None:
    seen = await net.box(5)
    assert not await net.engine.remove_wire(net.wire.network)
    await net.place.engine.stop(seen.ref, 0)
    assert not await net.engine.remove_wire(net.wire.network)
    await net.place.engine.start(seen.ref)
    assert len((await net.place.seen(seen.uuid)).addresses) == 1
    await net.place.engine.remove(seen.ref, force=True)
    for _ in range(2):
        assert await net.engine.remove_wire(net.wire.network)


async def test_ranges_are_told_and_no_two_overlap(net: Net) -> None:
    (cidr,) = [one.cidr for one in await net.engine.ranges() if one.network == net.wire.network]
    assert cidr == net.wire.subnets[0].cidr
    whole = WireSubnet(cidr.replace("/26", "/24"), _address(net.wire, 200))
    other = Wire(str(uuid4()), [whole])
    with pytest.raises(Taken):
        await net.engine.ensure_wire(other)
    assert other.network not in {one.network for one in await net.engine.ranges()}


async def test_a_projects_network_is_not_overlapped(place: Place) -> None:
    """And the other way round: a project's network keeps clear of a wire."""
    assert isinstance(place.engine, Networks)
    assert isinstance(place.engine, Wires)
    before = {one.cidr for one in await place.engine.ranges()}
    await place.engine.ensure_network(place.project)
    added = {one.cidr for one in await place.engine.ranges() if one.network is None} - before
    for cidr in added:
        wire = Wire(str(uuid4()), [WireSubnet(cidr, f"{cidr.rpartition('.')[0]}.1")])
        with pytest.raises(Taken):
            await place.engine.ensure_wire(wire)


@pytest.mark.parametrize("running", [True, False])
async def test_joined_and_left(net: Net, running: bool) -> None:
    engine = net.place.engine
    seen = await net.place.run("sleep", "1000")
    if not running:
        await engine.stop(seen.ref, 0)
    macs = [await net.engine.join(seen.ref, net.at(7)) for _ in range(2)]
    assert macs[0] == macs[1]
    assert len(macs[0]) == 17
    await engine.start(seen.ref)
    for _ in range(2):
        assert [one.address for one in (await net.place.seen(seen.uuid)).addresses] == [_address(net.wire, 7)]
        await engine.restart(seen.ref, 0)
    if not running:
        await engine.stop(seen.ref, 0)
    for _ in range(2):
        await net.engine.leave(seen.ref, net.wire.network)
    await engine.start(seen.ref)
    assert list((await net.place.seen(seen.uuid)).addresses) == []
    assert await net.engine.remove_wire(net.wire.network)


async def test_two_places_at_once(net: Net) -> None:
    """The first at once, the second by joining it; both stay."""
    other = await _net(net.place, second=211)
    places = [net.at(5), other.at(6)]
    made = await net.place.engine.create(uuid4(), net.place.spec("sleep", "1000", places=places))
    for one in places:
        await net.engine.join(made.ref, one)
    await net.place.engine.start(made.ref)
    seen = await net.place.seen(made.uuid)
    assert {one.address for one in seen.addresses} == {_address(net.wire, 5), _address(other.wire, 6)}


async def test_what_is_not_there(net: Net) -> None:
    seen = await net.place.run("sleep", "1000")
    nowhere = Attachment("caisson-net-nowhere", ["10.210.1.2"], "fa:16:3e:00:00:02")
    with pytest.raises(Gone):
        await net.engine.join(seen.ref, nowhere)
    with pytest.raises(Gone):
        await net.place.run("sleep", "1000", places=[nowhere])
    await net.engine.leave(seen.ref, str(uuid4()))
    await net.engine.leave("0" * 64, net.wire.network)
    assert await net.engine.remove_wire(str(uuid4()))


async def test_without_a_guard_nothing_passes(net: Net) -> None:
    """From the first moment of the first container on a new wire."""
    assert Ability.FIREWALL in net.place.engine.abilities
    first, second = await net.box(5), await net.box(9)
    assert not await net.pings(first, 9)
    await _guard(net.place, net.guard(first, 5, ICMP_IN, ICMP_OUT))
    assert not await net.pings(first, 9)
    assert not await net.pings(second, 5)


async def test_only_what_both_sides_rules_name_passes(net: Net) -> None:
    first, second = await net.box(5), await net.box(9)
    for out, into, passes in (
        ([ICMP_OUT], [ICMP_IN], True),
        ([ICMP_OUT], [], False),
        ([], [ICMP_IN], False),
        ([ICMP_IN], [ICMP_OUT], False),
        ([Rule(False, 4)], [Rule(True, 4, 1, 8)], True),
        ([ICMP_OUT], [Rule(True, 4, 1, 0)], False),
        ([ICMP_OUT], [Rule(True, 4, 6, 80, 80)], False),
        ([ICMP_OUT], [Rule(True, 6, 58)], False),
        ([ICMP_OUT], [Rule(True, 4, 1, prefix=f"{_address(net.wire, 5)}/32")], True),
        ([ICMP_OUT], [Rule(True, 4, 1, prefix=f"{_address(net.wire, 6)}/32")], False),
        ([ICMP_OUT], [Rule(True, 4, 1, group="friends")], True),
        ([ICMP_OUT], [Rule(True, 4, 1, group="strangers")], False),
    ):
        members = {"friends": [_address(net.wire, 5)], "strangers": []}
        await _guard(net.place, net.guard(first, 5, *out), net.guard(second, 9, *into), members=members)
        assert await net.pings(first, 9) == passes, (out, into)


async def test_no_rules_at_all_are_no_limits(net: Net) -> None:
    first, second = await net.box(5), await net.box(9)
    free = [Guard(box.uuid, net.name, [_address(net.wire, at)], None) for box, at in ((first, 5), (second, 9))]
    await _guard(net.place, *free)
    assert await net.pings(first, 9)
    assert await net.pings(second, 5)


async def test_the_last_call_counts_whichever_replica_made_it(net: Net) -> None:
    first, second = await net.box(5), await net.box(9)
    shut = [net.guard(first, 5), net.guard(second, 9)]
    wide = [net.guard(first, 5, ICMP_OUT), net.guard(second, 9, ICMP_IN)]
    twin = net.place.twin
    assert isinstance(twin, Guards)
    await _guard(net.place, *wide)
    assert await net.pings(first, 9)
    await twin.guard(shut, {})
    assert not await net.pings(first, 9)
    await _guard(net.place, *wide)
    assert await net.pings(first, 9)


async def test_a_container_that_started_anew_is_shut_until_it_is_guarded_again(net: Net) -> None:
    first, second = await net.box(5), await net.box(9)
    guards = [net.guard(first, 5, ICMP_OUT), net.guard(second, 9, ICMP_IN), Guard(uuid4(), net.name, [], [])]
    await _guard(net.place, *guards)
    assert await net.pings(first, 9)
    await net.place.engine.restart(second.ref, 0)
    await _guard(net.place, *guards)

    async def again() -> bool:
        return await net.pings(first, 9)

    assert await until(again)


async def _guard(place: Place, *guards: Guard, members: dict[str, list[str]] | None = None) -> None:
    assert isinstance(place.engine, Guards)
    await place.engine.guard(guards, members or {})
