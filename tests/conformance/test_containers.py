"""Create, start, stop, restart, remove, pause, kill, update: each once, each twice, each on the wrong thing."""

import asyncio
from datetime import UTC, datetime
from uuid import uuid4

import pytest

from app.backends.engine import Ability, ContainerEngine, HealthCheck, Kills, Pauses, Port, Restart, State, Updates
from app.errors import Gone, Refused, Taken
from tests.conformance.place import Place, until
from tests.conformance.protocols import PROTOCOLS
from tests.stack.session import free_port

ABSENT = "0" * 64


async def test_the_protocols_are_those_of_the_abilities(place: Place) -> None:
    assert isinstance(place.engine, ContainerEngine)
    for _ in range(2):
        for ability, protocol in PROTOCOLS.items():
            assert isinstance(place.engine, protocol) == (ability in place.engine.abilities)
        await place.engine.ping()


async def test_ping_tells_the_facts_of_the_host(place: Place) -> None:
    info = await place.engine.ping()
    assert info.hostname
    assert info.version
    assert info.api_version
    assert info.cpus >= 1
    assert info.memory > 256  # MiB, not bytes
    assert info.memory < 1024 * 1024 * 1024
    assert info.architecture
    assert info.os_type == "linux"


async def test_what_is_created_is_seen_as_wished(place: Place) -> None:
    uuid = uuid4()
    spec = place.spec(
        "sleep",
        "1000",
        environment={"A": "1", "B": "x=y z"},
        labels={"team": "blue"},
        hostname="box",
        workdir="/",
        ports=[Port(8080), Port(53, "udp"), Port(53)],
        cpu=0.5,
        memory=64,
    )
    made = await place.engine.create(uuid, spec)
    assert made == await place.engine.find(uuid)
    assert (made.uuid, made.project_id, made.state) == (uuid, place.project, State.CREATED)
    assert made.ref
    assert made.image == place.image
    assert list(made.command) == ["sleep", "1000"]
    assert list(made.ports) == [53, 8080]
    assert made.hostname == "box"
    assert made.started_at is None
    assert made.finished_at is None
    assert list(made.addresses) == []
    assert made.health is None
    assert await place.mine() == [made]


async def test_the_image_says_what_the_wish_leaves_open(place: Place) -> None:
    made = await place.engine.create(uuid4(), place.spec())
    image = await place.engine.image(place.image)
    assert image is not None
    assert list(image.command) == list(made.command) != []
    assert list(image.entrypoint) == list(made.entrypoint) == []


async def test_an_entrypoint_stands_before_the_command(place: Place) -> None:
    seen = await place.run("works", entrypoint=["echo", "it"])
    assert (list(seen.entrypoint), list(seen.command)) == (["echo", "it"], ["works"])
    await place.ended(seen.uuid)
    assert await place.log(seen.ref) == b"it works\n"


async def test_a_container_runs_and_ends(place: Place) -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    seen = await place.run("sh", "-c", "exit 3")
    ended = await place.ended(seen.uuid)
    assert ended.exit_code == 3
    assert not ended.oom_killed
    assert ended.started_at is not None
    assert ended.finished_at is not None
    # An end that comes at once may bear an earlier time than its start: an engine takes both when it hears of them.
    assert min(ended.started_at, ended.finished_at) >= before


async def test_create_twice_is_one_container(place: Place) -> None:
    uuid, spec = uuid4(), place.spec("sleep", "1000")
    made = await place.engine.create(uuid, spec)
    await place.engine.start(made.ref)
    again = await place.engine.create(uuid, spec)
    assert (again.ref, again.state) == (made.ref, State.RUNNING)
    assert len(await place.mine()) == 1


async def test_creates_of_one_uuid_at_once_end_in_one_container(place: Place) -> None:
    for _ in range(5):
        uuid, spec = uuid4(), place.spec("sleep", "1000")
        engines = [place.engine, place.twin, place.engine, place.twin]
        made = await asyncio.gather(*(engine.create(uuid, spec) for engine in engines))
        assert len({seen.ref for seen in made}) == 1
    assert len(await place.mine()) == 5


@pytest.mark.parametrize("moment", [0, 0.001, 0.002, 0.004, 0.008])
async def test_create_after_a_cancelled_create(place: Place, moment: float) -> None:
    uuid, spec = uuid4(), place.spec("sleep", "1000")
    first = asyncio.create_task(place.engine.create(uuid, spec))
    await asyncio.sleep(moment)
    first.cancel()
    await asyncio.wait([first])
    made = await place.engine.create(uuid, spec)
    assert [seen.ref for seen in await place.mine()] == [made.ref]


async def test_create_without_the_image(place: Place) -> None:
    uuid = uuid4()
    with pytest.raises(Gone):
        await place.engine.create(uuid, place.spec("true", image="no/such-image:1"))
    assert await place.engine.find(uuid) is None


@pytest.mark.parametrize("label", ["caisson.uuid", "caisson.project", "caisson.anything"])
async def test_our_labels_cannot_be_chosen(place: Place, label: str) -> None:
    uuid = uuid4()
    with pytest.raises(Refused):
        await place.engine.create(uuid, place.spec("true", labels={label: "x"}))
    assert await place.engine.find(uuid) is None


@pytest.mark.parametrize("wish", [{"cpu": 4096.0}, {"memory": 1}, {"image": "No Image"}])
async def test_what_no_engine_can_make(place: Place, wish: dict[str, object]) -> None:
    with pytest.raises(Refused):
        await place.engine.create(uuid4(), place.spec("true", **wish))
    assert await place.mine() == []


async def test_start_twice(place: Place) -> None:
    seen = await place.run("sleep", "1000")
    assert seen.state is State.RUNNING
    assert seen.started_at is not None
    await place.engine.start(seen.ref)
    assert await place.seen(seen.uuid) == seen


async def test_start_of_an_unknown_command(place: Place) -> None:
    made = await place.engine.create(uuid4(), place.spec("no-such-command"))
    for _ in range(2):
        with pytest.raises(Refused, match=r"no-such-command.*not found"):
            await place.engine.start(made.ref)
    seen = await place.seen(made.uuid)
    assert seen.state is State.CREATED
    assert "no-such-command" in seen.error
    assert seen.exit_code == 127


async def test_start_again_after_the_end(place: Place) -> None:
    seen = await place.run("sh", "-c", "exit 3")
    first = await place.ended(seen.uuid)
    await asyncio.sleep(1)  # Kubernetes tells times in whole seconds
    await place.engine.start(seen.ref)

    async def ended_later() -> bool:
        now = await place.ended(seen.uuid)
        return now.finished_at != first.finished_at

    assert await until(ended_later)


async def test_stop_twice(place: Place) -> None:
    seen = await place.run("sleep", "1000")
    await place.engine.stop(seen.ref, 0)
    stopped = await place.seen(seen.uuid)
    assert (stopped.state, stopped.exit_code) == (State.EXITED, 137)
    assert stopped.finished_at is not None
    await place.engine.stop(seen.ref, 0)
    assert await place.seen(seen.uuid) == stopped


async def test_stop_of_what_never_ran(place: Place) -> None:
    made = await place.engine.create(uuid4(), place.spec("sleep", "1000"))
    await place.engine.stop(made.ref, 0)
    assert (await place.seen(made.uuid)).state is State.CREATED


async def test_restart_of_what_runs_and_of_what_does_not(place: Place) -> None:
    seen = await place.run("sleep", "1000")
    await place.engine.restart(seen.ref, 0)
    again = await place.seen(seen.uuid)
    assert again.state is State.RUNNING
    assert again.started_at != seen.started_at
    await place.engine.stop(seen.ref, 0)
    await place.engine.restart(seen.ref, 0)
    assert (await place.seen(seen.uuid)).state is State.RUNNING


@pytest.mark.needs(Ability.RETRIES)
async def test_a_restart_policy_brings_it_back(place: Place) -> None:
    seen = await place.run("sh", "-c", "echo again; exit 3", restart=Restart("on-failure", 2))

    async def gave_up() -> bool:
        now = await place.seen(seen.uuid)
        return now.state is State.EXITED and await place.log(seen.ref) == b"again\n" * 3

    assert await until(gave_up)
    assert (await place.seen(seen.uuid)).exit_code == 3


async def test_a_container_that_restarts_for_ever_can_be_stopped(place: Place) -> None:
    seen = await place.run("sh", "-c", "exit 3", restart=Restart("always"))

    async def restarts() -> bool:
        return (await place.seen(seen.uuid)).state is State.RESTARTING

    assert await until(restarts)
    await place.engine.stop(seen.ref, 0)
    assert (await place.ended(seen.uuid)).exit_code == 3


async def test_remove_twice(place: Place) -> None:
    seen = await place.run("sh", "-c", "exit 0")
    await place.ended(seen.uuid)
    for _ in range(2):
        await place.engine.remove(seen.ref, force=False)
        assert await place.engine.find(seen.uuid) is None


async def test_remove_of_what_runs_needs_force(place: Place) -> None:
    seen = await place.run("sleep", "1000")
    with pytest.raises(Taken):
        await place.engine.remove(seen.ref, force=False)
    assert (await place.seen(seen.uuid)).state is State.RUNNING
    await place.engine.remove(seen.ref, force=True)
    assert await place.engine.find(seen.uuid) is None


async def test_removes_at_once(place: Place) -> None:
    seen = await place.run("sleep", "1000")
    engines = [place.engine, place.twin, place.engine]
    await asyncio.gather(*(engine.remove(seen.ref, force=True) for engine in engines))
    assert await place.engine.find(seen.uuid) is None


async def test_the_name_is_free_again_after_a_remove(place: Place) -> None:
    uuid, spec = uuid4(), place.spec("sleep", "1000")
    first = await place.engine.create(uuid, spec)
    await place.engine.remove(first.ref, force=False)
    second = await place.engine.create(uuid, spec)
    assert second.ref != first.ref


@pytest.mark.parametrize("ref", [ABSENT, "../images", "a b"])
async def test_verbs_on_what_is_absent(place: Place, ref: str) -> None:
    engine = place.engine
    for call in (engine.start(ref), engine.stop(ref, 0), engine.restart(ref, 0)):
        with pytest.raises(Gone):
            await call
    await engine.remove(ref, force=True)
    with pytest.raises(Gone):
        await place.log(ref)
    if isinstance(engine, Pauses):
        with pytest.raises(Gone):
            await engine.pause(ref)
        with pytest.raises(Gone):
            await engine.unpause(ref)
    if isinstance(engine, Kills):
        with pytest.raises(Gone):
            await engine.kill(ref, "SIGKILL")


async def test_find_of_what_is_absent(place: Place) -> None:
    assert await place.engine.find(uuid4()) is None


@pytest.mark.needs(Ability.NETWORK)
async def test_a_published_port_belongs_to_one(place: Place) -> None:
    port = free_port()
    first = await place.run("sleep", "1000", ports=[Port(80, host_port=port)], network=await _network(place))
    second = await place.engine.create(
        uuid4(), place.spec("sleep", "1000", ports=[Port(81, host_port=port)], network=await _network(place))
    )
    with pytest.raises(Taken, match=rf"{port}.*allocated"):
        await place.engine.start(second.ref)
    assert (await place.seen(second.uuid)).state is State.CREATED
    await place.engine.stop(first.ref, 0)
    await place.engine.start(second.ref)
    assert (await place.seen(second.uuid)).state is State.RUNNING


@pytest.mark.needs(Ability.PAUSE)
async def test_pause_and_unpause_twice(place: Place) -> None:
    seen = await place.run("sleep", "1000")
    assert isinstance(place.engine, Pauses)
    for _ in range(2):
        await place.engine.pause(seen.ref)
        assert (await place.seen(seen.uuid)).state is State.PAUSED
    with pytest.raises(Taken):
        await place.engine.start(seen.ref)
    for _ in range(2):
        await place.engine.unpause(seen.ref)
        assert (await place.seen(seen.uuid)).state is State.RUNNING
    await place.engine.stop(seen.ref, 0)
    for call in (place.engine.pause(seen.ref), place.engine.unpause(seen.ref)):
        with pytest.raises(Taken):
            await call


@pytest.mark.needs(Ability.PAUSE)
async def test_stop_of_what_is_paused(place: Place) -> None:
    seen = await place.run("sleep", "1000")
    assert isinstance(place.engine, Pauses)
    await place.engine.pause(seen.ref)
    await place.engine.stop(seen.ref, 0)
    assert (await place.seen(seen.uuid)).state is State.EXITED


@pytest.mark.needs(Ability.KILL)
async def test_kill(place: Place) -> None:
    seen = await place.run("sleep", "1000")
    assert isinstance(place.engine, Kills)
    with pytest.raises(Refused, match="SIGNONE"):
        await place.engine.kill(seen.ref, "SIGNONE")
    await place.engine.kill(seen.ref, "SIGKILL")
    ended = await place.ended(seen.uuid)
    assert ended.exit_code == 137
    with pytest.raises(Taken):
        await place.engine.kill(seen.ref, "SIGKILL")


@pytest.mark.needs(Ability.UPDATE)
async def test_update_of_limits(place: Place) -> None:
    seen = await place.run("sleep", "1000", cpu=0.5, memory=32)
    assert isinstance(place.engine, Updates)
    for cpu, memory in ((1.0, 64), (0.25, 16), (0.0, 0), (0.5, 0), (0.0, 128), (0.0, 128)):
        await place.engine.update(seen.ref, cpu, memory)
    for cpu, memory in ((4096.0, 64), (1.0, 1)):
        with pytest.raises(Refused):
            await place.engine.update(seen.ref, cpu, memory)
    with pytest.raises(Gone):
        await place.engine.update(ABSENT, 1.0, 64)


async def test_a_health_check_starts_with_starting(place: Place) -> None:
    seen = await place.run("sleep", "1000", healthcheck=HealthCheck("true", interval=60, timeout=5, retries=3))
    assert seen.health == "starting"


async def _network(place: Place) -> str | None:
    ensure = getattr(place.engine, "ensure_network", None)
    return None if ensure is None else await ensure(place.project)


async def test_another_installations_containers_are_not_shown(place: Place) -> None:
    place.engine.installation, place.twin.installation = "one", "two"
    mine = await place.run("sleep", "1000")
    assert [seen.uuid for seen in await place.mine()] == [mine.uuid]
    assert mine.uuid not in [seen.uuid for seen in await place.twin.find_all()]
    # Found by its uuid it is all the same: nobody makes a second one of it.
    assert await place.twin.find(mine.uuid) is not None
    place.twin.installation = None
    assert mine.uuid in [seen.uuid for seen in await place.twin.find_all()]
