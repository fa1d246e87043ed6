"""A Docker daemon that freezes, dies, restarts, is not there, or lives in another event loop."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from secrets import token_hex
from typing import TypeVar
from uuid import uuid4

import pytest

from app.backends.docker.engine import DockerEngine, find_url
from app.backends.engine import ContainerSpec, EngineEvent, State
from app.errors import EngineBug, Gone, Taken, Unavailable
from app.settings import BackendSettings, Settings
from tests.conformance.place import Place, until
from tests.stack.docker import PrivateDocker, client
from tests.stack.images import BUSYBOX
from tests.stack.session import free_port

Result = TypeVar("Result")


@pytest.fixture
async def engine(private_docker: PrivateDocker) -> AsyncIterator[DockerEngine]:
    """An engine on a daemon that the test may harm."""
    made = DockerEngine("private", BackendSettings(url=private_docker.url), Settings())
    yield made
    await made.close()


def sleeper() -> ContainerSpec:
    return ContainerSpec(project_id=token_hex(16), image=BUSYBOX, command=["sleep", "1000"])


async def test_a_frozen_daemon_is_unavailable(engine: DockerEngine, private_docker: PrivateDocker) -> None:
    uuid = uuid4()
    made = await engine.create(uuid, sleeper())
    engine.calls.patience = 0.3
    private_docker.freeze()
    for call in (engine.ping(), engine.find(uuid), engine.create(uuid4(), sleeper())):
        with pytest.raises(Unavailable, match="did not answer in time"):
            await call
    engine.calls.patience = 3.0  # on a busy machine it takes a while to say it
    with pytest.raises(Unavailable, match="did not answer in time"):
        await engine.start(made.ref)
    engine.pull_patience = 0.3
    with pytest.raises(Unavailable):
        await engine.pull("127.0.0.1:1/team/tool:1", None)
    private_docker.thaw()
    engine.calls.patience = 60.0

    async def runs() -> bool:
        # What was asked in the frost happens now.
        seen = await engine.find(uuid)
        return seen is not None and seen.state is State.RUNNING

    assert await until(runs)


async def test_watching_outlives_the_daemon(engine: DockerEngine, private_docker: PrivateDocker) -> None:
    events: list[EngineEvent] = []

    async def watch() -> None:
        async for event in engine.watch():
            events.append(event)

    async def connected(times: int) -> bool:
        return sum(event.lost for event in events) == times

    watching = asyncio.create_task(watch())
    await until(partial(connected, 1))
    for times in (2, 3):
        await asyncio.to_thread(private_docker.kill)
        with pytest.raises(Unavailable):
            await engine.ping()
        await asyncio.to_thread(private_docker.start)
        await until(partial(connected, times))
        events_before = len(events)
        made = await engine.create(uuid4(), sleeper())

        async def created(made_uuid: object = made.uuid, since: int = events_before) -> bool:
            return any((event.uuid, event.what) == (made_uuid, "create") for event in events[since:])

        await until(created)
    await engine.close()
    await asyncio.wait_for(watching, 30)


async def test_nobody_is_blamed_for_a_restart(engine: DockerEngine, private_docker: PrivateDocker) -> None:
    """Whoever asks during a restart is told to ask again, and whoever does gets what was wished, once.

    Except where the daemon damaged itself: it may forget that it mounted a container's files, and then it cannot
    remove them. Such a container stays behind as dead.
    """
    over = asyncio.Event()
    finished = 0

    async def insist() -> None:
        nonlocal finished
        while not over.is_set():
            uuid, spec = uuid4(), sleeper()
            with suppress(EngineBug):
                made = await until_available(partial(engine.create, uuid, spec))
                await until_available(partial(engine.start, made.ref))
                shown = await until_available(partial(engine.find, uuid))
                assert shown is not None
                assert shown.state is State.RUNNING
                await until_available(partial(engine.remove, shown.ref, force=True))
            finished += 1

    async with asyncio.TaskGroup() as workers:
        for _ in range(4):
            workers.create_task(insist())
        for end in (private_docker.stop, private_docker.kill, private_docker.stop):
            before = finished

            async def some_more(before: int = before) -> bool:
                return finished >= before + 8

            await until(some_more, 60)
            await asyncio.to_thread(end)
            await asyncio.to_thread(private_docker.start)
        over.set()
    assert {seen.state for seen in await engine.find_all()} <= {State.DEAD}


async def until_available(call: Callable[[], Awaitable[Result]]) -> Result:
    """Ask again as long as the answer is Unavailable."""
    while True:
        try:
            return await call()
        except Unavailable:
            await asyncio.sleep(0.05)


async def test_no_daemon_at_all(tmp_path: Path) -> None:
    for url, words in (
        (f"unix://{tmp_path}/nothing.sock", f"{tmp_path}/nothing.sock: No such file"),
        (f"tcp://127.0.0.1:{free_port()}", "127.0.0.1"),
        ("gopher://x", "gopher"),
    ):
        engine = DockerEngine("absent", BackendSettings(url=url), Settings())
        with pytest.raises(Unavailable, match=words):
            await engine.ping()
        with pytest.raises(Unavailable, match=words):
            await engine.find(uuid4())
        await engine.close()


async def test_a_closed_engine_makes_no_calls(docker_url: str) -> None:
    engine = DockerEngine("docker", BackendSettings(url=docker_url), Settings())
    await engine.ping()
    for _ in range(2):
        await engine.close()
    with pytest.raises(Unavailable, match="closed"):
        await engine.ping()


async def test_closing_ends_what_is_under_way(place: Place, docker_url: str) -> None:
    engine = DockerEngine("docker", BackendSettings(url=docker_url), Settings())
    seen = await place.run("sleep", "1000")
    stopping = asyncio.create_task(engine.stop(seen.ref, 120))
    await asyncio.sleep(0.1)
    await engine.close()
    with pytest.raises(Unavailable):
        await stopping


def test_one_engine_in_two_event_loops(docker_url: str) -> None:
    engine = DockerEngine("docker", BackendSettings(url=docker_url), Settings())

    async def use() -> str:
        names = await asyncio.gather(*(engine.ping() for _ in range(3)))
        await engine.calls.session.close()
        return names[0].hostname

    assert asyncio.run(use()) == asyncio.run(use())


async def test_somebody_elses_container_is_not_ours(place: Place, docker_url: str, busybox_image: str) -> None:
    uuid = uuid4()
    with client(docker_url) as http:
        body = {"Image": busybox_image, "Labels": {"caisson.uuid": str(uuid4()), "caisson.project": "x"}}
        answer = http.post("/containers/create", params={"name": f"caisson-{uuid}"}, json=body)
        try:
            assert await place.engine.find(uuid) is None
            with pytest.raises(Taken, match="already in use"):
                await place.engine.create(uuid, place.spec("true"))
        finally:
            http.delete(f"/containers/{answer.json()['Id']}", params={"force": "true"})


async def test_a_container_whose_network_was_pruned_starts_again(place: Place, docker_url: str) -> None:
    engine = DockerEngine("docker", BackendSettings(url=docker_url), Settings())
    network = await engine.ensure_network(place.project)
    fresh = await engine.create(uuid4(), place.spec("sleep", "1000", network=network))
    used = await place.run("sleep", "1000", network=network)
    await engine.stop(used.ref, 0)
    with client(docker_url) as http:
        http.delete(f"/networks/{network}").raise_for_status()
    for seen in (fresh, used):
        await engine.start(seen.ref)
        (address,) = (await place.seen(seen.uuid)).addresses
        assert address.network == network
    await engine.close()


async def test_two_networks_of_one_name_become_one(place: Place, docker_url: str) -> None:
    engine = DockerEngine("docker", BackendSettings(url=docker_url), Settings())
    with client(docker_url) as http:
        for _ in range(2):
            body = {"Name": f"caisson-{place.project}", "Labels": {"caisson.project": place.project}}
            http.post("/networks/create", json=body).raise_for_status()
    network = await engine.ensure_network(place.project)
    seen = await place.run("sleep", "1000", network=network)
    assert len(seen.addresses) == 1
    await engine.close()


async def test_a_strange_network_of_the_projects_name_is_in_the_way(place: Place, docker_url: str) -> None:
    engine = DockerEngine("docker", BackendSettings(url=docker_url), Settings())
    with client(docker_url) as http:
        name = f"caisson-{place.project}"
        http.post("/networks/create", json={"Name": name}).raise_for_status()
        try:
            with pytest.raises(Taken, match=name):
                await engine.ensure_network(place.project)
        finally:
            http.delete(f"/networks/{name}")
    await engine.close()


async def test_the_range_of_networks_ends(place: Place, docker_url: str) -> None:
    pool = {"network_pool": "10.199.7.0/29", "network_prefix": 29}
    engine = DockerEngine("docker", BackendSettings(url=docker_url), Settings(**pool))  # type: ignore[arg-type]
    other = token_hex(16)
    await engine.ensure_network(place.project)
    with pytest.raises(Taken, match=r"no network of /29 is left in 10\.199\.7\.0/29"):
        await engine.ensure_network(other)
    await engine.remove_network(place.project)
    await engine.ensure_network(other)
    await engine.remove_network(other)
    await engine.close()


async def test_engines_are_found(monkeypatch: pytest.MonkeyPatch, docker_url: str) -> None:
    monkeypatch.setenv("DOCKER_HOST", docker_url)
    assert find_url() == docker_url
    engine = DockerEngine("docker", BackendSettings(), Settings())
    assert (await engine.ping()).version
    await engine.close()


async def test_an_absent_ref_never_leaves_the_containers(place: Place) -> None:
    for ref in ("..", "../networks/bridge", "a/../../networks", "%2e%2e", ""):
        with pytest.raises(Gone):
            await place.engine.start(ref)
        await place.engine.remove(ref, force=True)
