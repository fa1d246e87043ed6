"""What tests may do to the engine in memory, beyond what engines do."""

import asyncio
from uuid import uuid4

import pytest

from app.backends.engine import Ability, ContainerSpec, EngineEvent, Restart, Seen, State
from app.errors import Gone, RegistryDown, Taken, Unavailable
from tests.conformance.place import until
from tests.fake import FakeEngine

SPEC = ContainerSpec("p", "busybox", ["sleep", "1000"])


async def running(engine: FakeEngine, spec: ContainerSpec = SPEC) -> Seen:
    engine.add_image("busybox")
    made = await engine.create(uuid4(), spec)
    await engine.start(made.ref)
    return made


async def now(engine: FakeEngine, seen: Seen) -> Seen:
    found = await engine.find(seen.uuid)
    assert found is not None
    return found


async def test_a_verb_fails_once_before_or_after_its_work() -> None:
    engine = FakeEngine()
    made = await running(engine)
    engine.fail_next("stop", Unavailable("first"))
    engine.fail_next("stop", Unavailable("second"), after=True)
    with pytest.raises(Unavailable, match="first"):
        await engine.stop(made.ref, 0)
    assert (await now(engine, made)).state is State.RUNNING
    with pytest.raises(Unavailable, match="second"):
        await engine.stop(made.ref, 0)
    assert (await now(engine, made)).state is State.EXITED
    await engine.stop(made.ref, 0)
    assert engine.calls["stop"] == 3


@pytest.mark.parametrize(("after", "made"), [(False, 0), (True, 1)])
async def test_a_delay_comes_before_or_after_the_work(after: bool, made: int) -> None:
    engine = FakeEngine()
    engine.add_image("busybox")
    engine.delay("create", 1000, after=after)
    task = asyncio.create_task(engine.create(uuid4(), SPEC))

    async def under_way() -> bool:
        return engine.calls["create"] == 1

    await until(under_way)
    await asyncio.sleep(0)
    assert len(await engine.find_all()) == made
    assert not task.done()
    task.cancel()
    await asyncio.wait([task])
    engine.delay("create", 0)
    assert (await engine.create(uuid4(), SPEC)).state is State.CREATED


async def test_a_container_ends_by_itself_or_is_taken_away() -> None:
    engine = FakeEngine()
    first, second = await running(engine), await running(engine)
    engine.exit(first.uuid, 137, oom_killed=True)
    ended = await now(engine, first)
    assert (ended.state, ended.exit_code, ended.oom_killed) == (State.EXITED, 137, True)
    engine.vanish(second.uuid)
    assert await engine.find(second.uuid) is None
    with pytest.raises(Gone):
        await engine.start(second.ref)


async def test_a_container_that_ends_comes_back_as_its_policy_says() -> None:
    engine = FakeEngine()
    for policy, code, state in (
        ("no", 1, State.EXITED),
        ("always", 0, State.RUNNING),
        ("on-failure", 0, State.EXITED),
        ("on-failure", 1, State.RUNNING),
    ):
        made = await running(engine, ContainerSpec("p", "busybox", ["sleep", "1000"], restart=Restart(policy)))
        engine.exit(made.uuid, code)
        assert (await now(engine, made)).state is state


async def test_an_engine_that_is_down_for_a_while() -> None:
    engine = FakeEngine()
    made = await running(engine)
    events: list[EngineEvent] = []

    async def watch() -> None:
        async for event in engine.watch():
            events.append(event)

    async def connected(times: int) -> bool:
        return sum(event.lost for event in events) == times

    watching = asyncio.create_task(watch())
    await until(lambda: connected(1))
    engine.go_down()
    with pytest.raises(Unavailable):
        await engine.find(made.uuid)
    engine.exit(made.uuid)
    engine.come_up()
    await until(lambda: connected(2))
    assert (await now(engine, made)).state is State.EXITED
    await engine.close()
    await asyncio.wait_for(watching, 30)


async def test_two_replicas_see_one_engine() -> None:
    engine = FakeEngine()
    twin = engine.twin()
    made = await running(engine)
    assert await twin.find(made.uuid) == await engine.find(made.uuid)
    await engine.close()
    with pytest.raises(Unavailable):
        await engine.find(made.uuid)
    assert await twin.find(made.uuid)


async def test_images_come_slowly_or_not_at_all() -> None:
    engine = FakeEngine()
    engine.publish("r.example/tool:1")
    engine.pull_seconds = 0.01
    await engine.pull("r.example/tool:1", None)
    assert await engine.image("r.example/tool:1")
    with pytest.raises(RegistryDown):
        await engine.pull("127.0.0.1:1/tool:1", None)


async def test_an_engine_that_can_do_less() -> None:
    engine = FakeEngine(abilities=frozenset({Ability.KILL}))
    assert engine.abilities == {Ability.KILL}


async def test_what_a_container_prints_and_what_it_was_made_from() -> None:
    engine = FakeEngine()
    made = await running(engine, ContainerSpec("p", "busybox", ["sleep", "1000"], cpu=1.0))
    engine.write(made.uuid, b"hello\n")
    await engine.update(made.ref, 2.0, 64)
    assert (engine.spec(made.uuid).cpu, engine.spec(made.uuid).memory) == (2.0, 64)
    assert await engine.ensure_network("p") == engine.networks["p"]
    await engine.stop(made.ref, 0)
    with pytest.raises(Taken):
        await engine.kill(made.ref, "SIGKILL")
