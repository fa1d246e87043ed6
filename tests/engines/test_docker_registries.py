"""Docker and registries that misbehave; limits on what may wait for how long."""

import asyncio
import socket
from uuid import uuid4

import pytest

from app.backends.docker.engine import DockerEngine
from app.backends.engine import ImageFound, Searches
from app.errors import Refused, RegistryDown
from app.settings import BackendSettings, Settings
from tests.conformance.index import serve_index
from tests.conformance.place import Place


async def test_a_registry_that_is_no_host(place: Place) -> None:
    with pytest.raises(RegistryDown, match=r"no such host|server misbehaving"):
        await place.engine.pull("registry.invalid/team/tool:1", None)


async def test_a_registry_that_never_answers(place: Place, docker_url: str) -> None:
    engine = DockerEngine("docker", BackendSettings(url=docker_url), Settings())
    engine.pull_patience = 0.5
    with socket.create_server(("127.0.0.1", 0)) as listener:
        host = f"127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(RegistryDown, match=rf"{host} was silent for 0\.5 seconds"):
            await engine.pull(f"{host}/team/tool:1", None)
    await engine.close()


async def test_search_tells_what_the_index_says(place: Place) -> None:
    assert isinstance(place.engine, Searches)
    images = [
        {"name": "team/tool", "description": "A tool.", "is_official": True, "star_count": 7},
        {"name": "team/toolbox", "description": "", "is_automated": True, "star_count": 0},
        {"name": "team/other", "description": "Another.", "star_count": 1},
    ]
    with serve_index(images) as host:
        found = await place.engine.search(f"{host}/team/tool")
        assert await place.engine.search(f"{host}/nothing") == []
    assert [(image.name.removeprefix(f"{host}/"), image.description, image.stars) for image in found] == [
        ("team/tool", "A tool.", 7),
        ("team/toolbox", "", 0),
    ]
    assert all(isinstance(image, ImageFound) for image in found)
    assert [image.official for image in found] == [True, False]


async def test_search_where_nobody_answers(place: Place) -> None:
    assert isinstance(place.engine, Searches)
    with pytest.raises(RegistryDown):
        await place.engine.search("registry.invalid/tool")
    for term in ("", "https://example.invalid/x"):
        with pytest.raises(Refused):
            await place.engine.search(term)


async def test_who_waits_long_does_not_hold_up_others(place: Place, docker_url: str) -> None:
    """One dear call at a time, and yet a stop and a pull that last do not keep another container from being made."""
    engine = DockerEngine("docker", BackendSettings(url=docker_url, concurrency=1), Settings())
    deaf = await place.run("sleep", "1000")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        stopping = asyncio.create_task(engine.stop(deaf.ref, 120))
        pulling = asyncio.create_task(engine.pull(f"127.0.0.1:{listener.getsockname()[1]}/team/tool:1", None))
        for _ in range(3):
            made = await engine.create(uuid4(), place.spec("sleep", "1000"))
            await engine.start(made.ref)
            await engine.remove(made.ref, force=True)
        assert not stopping.done()
        assert not pulling.done()
        for task in (stopping, pulling):
            task.cancel()
        await asyncio.wait([stopping, pulling])
    await engine.close()


async def test_dear_calls_wait_for_each_other(place: Place, docker_url: str) -> None:
    engine = DockerEngine("docker", BackendSettings(url=docker_url, concurrency=2), Settings())
    slots = engine.calls.session.slots
    async with slots, slots:
        waiting = asyncio.create_task(engine.create(uuid4(), place.spec("sleep", "1000")))
        # Looking is not dear.
        assert [seen for seen in await engine.find_all() if seen.project_id == place.project] == []
        assert not waiting.done()
    assert (await waiting).project_id == place.project
    await engine.close()
