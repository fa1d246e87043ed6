"""Groups: members share their sandbox's network, and depend on it."""

from uuid import UUID, uuid4

import pytest

from app.backends.engine import Ability, Groups, GroupSpec, Networks, Seen, State
from app.errors import EngineError, Gone
from tests.conformance.place import Place

pytestmark = pytest.mark.needs(Ability.GROUP, Ability.NETWORK)


async def group(place: Place) -> Seen:
    """A running sandbox on the network of the test's project."""
    assert isinstance(place.engine, Groups)
    assert isinstance(place.engine, Networks)
    network = await place.engine.ensure_network(place.project)
    made = await place.engine.create_group(uuid4(), GroupSpec(place.project, "pod", network))
    assert made.state is State.CREATED
    await place.engine.start(made.ref)
    return await place.seen(made.uuid)


async def test_a_sandbox_runs_and_has_the_address(place: Place) -> None:
    sandbox = await group(place)
    assert sandbox.state is State.RUNNING
    assert sandbox.project_id == place.project
    assert sandbox.hostname == "pod"
    assert len(sandbox.addresses) == 1


async def test_made_twice_it_is_one(place: Place) -> None:
    sandbox = await group(place)
    assert isinstance(place.twin, Groups)
    again = await place.twin.create_group(sandbox.uuid, GroupSpec(place.project))
    assert again.ref == sandbox.ref
    assert len(await place.mine()) == 1


async def test_a_member_joins(place: Place) -> None:
    sandbox = await group(place)
    member = await place.run("sleep", "1000", group=sandbox.uuid)
    assert member.state is State.RUNNING
    assert (member.group, member.joined) == (sandbox.uuid, sandbox.ref)
    assert list(member.addresses) == []
    assert member.hostname == "pod"
    assert (sandbox.group, sandbox.joined) == (None, None)


async def test_without_a_sandbox_no_member_is_made(place: Place) -> None:
    with pytest.raises(Gone, match="sandbox"):
        await place.engine.create(uuid4(), place.spec("true", group=UUID(int=7)))


async def test_a_member_does_not_start_while_the_sandbox_is_stopped(place: Place) -> None:
    sandbox = await group(place)
    member = await place.engine.create(uuid4(), place.spec("sleep", "1000", group=sandbox.uuid))
    await place.engine.stop(sandbox.ref, 5)
    with pytest.raises(EngineError, match="non running"):
        await place.engine.start(member.ref)
    await place.engine.start(sandbox.ref)
    await place.engine.start(member.ref)
    assert (await place.seen(member.uuid)).state is State.RUNNING


async def test_a_new_sandbox_is_not_the_one_that_a_member_joined(place: Place) -> None:
    sandbox = await group(place)
    member = await place.engine.create(uuid4(), place.spec("sleep", "1000", group=sandbox.uuid))
    await place.engine.remove(sandbox.ref, force=True)
    assert isinstance(place.engine, Groups)
    another = await place.engine.create_group(sandbox.uuid, GroupSpec(place.project))
    await place.engine.start(another.ref)
    assert member.joined != another.ref
    with pytest.raises(Gone):
        await place.engine.start(member.ref)
