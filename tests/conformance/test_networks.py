"""Networks: one for each project."""

import asyncio
from secrets import token_hex
from uuid import uuid4

import pytest

from app.backends.engine import Ability, Networks, State
from app.errors import Gone
from tests.conformance.place import Place


@pytest.mark.needs(Ability.NETWORK)
async def test_a_project_has_one_network(place: Place) -> None:
    assert isinstance(place.engine, Networks)
    name = await place.engine.ensure_network(place.project)
    assert await place.engine.ensure_network(place.project) == name
    first = await place.run("sleep", "1000", network=name)
    second = await place.run("sleep", "1000", network=name)
    (one,), (two,) = first.addresses, second.addresses
    assert (one.network, two.network, one.version) == (name, name, 4)
    assert one.address != two.address
    await place.engine.stop(first.ref, 0)
    assert list((await place.seen(first.uuid)).addresses) == []


@pytest.mark.needs(Ability.NETWORK)
async def test_two_projects_have_two_networks(place: Place) -> None:
    assert isinstance(place.engine, Networks)
    other = token_hex(16)
    assert await place.engine.ensure_network(other) != await place.engine.ensure_network(place.project)
    await place.engine.remove_network(other)


@pytest.mark.needs(Ability.NETWORK)
async def test_asked_for_at_once_it_is_made_once(place: Place) -> None:
    assert isinstance(place.engine, Networks)
    assert isinstance(place.twin, Networks)
    for _ in range(3):
        engines = [place.engine, place.twin] * 3
        names = await asyncio.gather(*(engine.ensure_network(place.project) for engine in engines))
        assert len(set(names)) == 1
        # With two networks of one name this could not start.
        seen = await place.run("sleep", "1000", network=names[0])
        assert len(seen.addresses) == 1
        await place.engine.remove(seen.ref, force=True)
        await place.engine.remove_network(place.project)


@pytest.mark.needs(Ability.NETWORK)
async def test_remove_twice_and_not_while_it_is_used(place: Place) -> None:
    assert isinstance(place.engine, Networks)
    name = await place.engine.ensure_network(place.project)
    seen = await place.run("sleep", "1000", network=name)
    await place.engine.remove_network(place.project)
    assert len((await place.seen(seen.uuid)).addresses) == 1
    # One that is stopped still needs it to start again.
    await place.engine.stop(seen.ref, 0)
    await place.engine.remove_network(place.project)
    await place.engine.start(seen.ref)
    assert len((await place.seen(seen.uuid)).addresses) == 1
    await place.engine.remove(seen.ref, force=True)
    for _ in range(2):
        await place.engine.remove_network(place.project)


@pytest.mark.needs(Ability.NETWORK)
async def test_odd_project_ids(place: Place) -> None:
    assert isinstance(place.engine, Networks)
    for project in ("a/b c", "ü" * 40, "x" * 255, "-", place.project):
        name = await place.engine.ensure_network(project)
        seen = await place.run("sleep", "1000", network=name)
        assert seen.addresses[0].network == name
        await place.engine.remove(seen.ref, force=True)
        await place.engine.remove_network(project)


@pytest.mark.needs(Ability.NETWORK)
async def test_a_container_without_a_network(place: Place) -> None:
    seen = await place.run("sleep", "1000", network=None)
    assert list(seen.addresses) == []


@pytest.mark.needs(Ability.NETWORK)
async def test_a_container_in_a_network_that_is_not_there(place: Place) -> None:
    with pytest.raises(Gone, match="no-such-network"):
        await place.run("sleep", "1000", network="no-such-network")


@pytest.mark.needs(Ability.NETWORK)
async def test_off_the_network_and_on_again(place: Place) -> None:
    assert isinstance(place.engine, Networks)
    name = await place.engine.ensure_network(place.project)
    seen = await place.run("sleep", "1000", network=name)
    for _ in range(2):
        await place.engine.leave_network(seen.ref, place.project)
        assert list((await place.seen(seen.uuid)).addresses) == []
    # It does not come back by itself, not even when the network went meanwhile.
    await place.engine.remove_network(place.project)
    await place.engine.restart(seen.ref, 0)
    seen = await place.seen(seen.uuid)
    assert (seen.state, list(seen.addresses)) == (State.RUNNING, [])
    for _ in range(2):
        await place.engine.join_network(seen.ref, place.project)
        (address,) = (await place.seen(seen.uuid)).addresses
        assert address.network == name
    await place.engine.restart(seen.ref, 0)
    assert len((await place.seen(seen.uuid)).addresses) == 1


@pytest.mark.needs(Ability.NETWORK)
async def test_off_the_network_while_it_is_stopped(place: Place) -> None:
    assert isinstance(place.engine, Networks)
    name = await place.engine.ensure_network(place.project)
    made = await place.engine.create(uuid4(), place.spec("sleep", "1000", network=name))
    await place.engine.leave_network(made.ref, place.project)
    await place.engine.start(made.ref)
    assert list((await place.seen(made.uuid)).addresses) == []
    await place.engine.stop(made.ref, 0)
    await place.engine.join_network(made.ref, place.project)
    await place.engine.start(made.ref)
    assert [address.network for address in (await place.seen(made.uuid)).addresses] == [name]
