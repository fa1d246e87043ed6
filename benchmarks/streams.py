"""What passes through: a command inside, an interactive echo, a log of 100 MB; against the engine itself."""

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import aiohttp
import httpx
from aiodocker import Docker

from app.backends.docker.shapes import container_name
from benchmarks.lifecycle import COMMAND, IMAGE, until
from benchmarks.served import Served

LOG_MIB = 512  # kept by the engine of one container: a line of the log is stored with a frame of its own
LOG_SIZE = 100_000_000
LINE = "x" * 99
EXECS = 20
ECHOES = 300
ROUNDS = 3
MIB = 1024 * 1024


async def compare(served: Served) -> Sequence[str]:
    """Lines with times and rates through the gateway, and their ratios to the engine's."""
    async with served.client() as client, Docker() as docker:
        uuid = await _run(client, *COMMAND)
        speaker = await _run(client, "sh", "-c", f"yes {LINE} | head -c {LOG_SIZE}; echo the end; exec sleep 1000")
        lines = [await _execs(client, docker, uuid), await _echoes(client, docker, uuid)]
        lines += await _logs(served, client, docker, speaker)
        for made in (uuid, speaker):
            await client.delete(f"/v1/containers/{made}?force=true")
            await until(client, made, lambda status: status is None)
    return lines


async def _run(client: httpx.AsyncClient, *command: str) -> str:
    body = {"image": IMAGE, "command": list(command)}
    uuid = str((await client.post("/v1/containers?run=true", json=body)).json()["uuid"])
    if (status := await until(client, uuid, lambda status: status != "Creating")) != "Running":
        raise RuntimeError(f"container {uuid} is {status}")
    return uuid


async def _container(docker: Docker, uuid: str) -> Any:
    return await docker.containers.get(container_name(uuid))  # type: ignore[arg-type]  # its text is all that counts


async def _timed(one: Callable[[], Awaitable[None]]) -> float:
    began = time.perf_counter()
    await one()
    return time.perf_counter() - began


async def _execs(client: httpx.AsyncClient, docker: Docker, uuid: str) -> str:
    container = await _container(docker, uuid)

    async def direct() -> None:
        made = await container.exec(["true"])
        async with made.start(detach=False) as stream:
            while await stream.read_out() is not None:
                pass
        if (await made.inspect())["ExitCode"] != 0:
            raise RuntimeError("true failed")

    async def gateway() -> None:
        answer = await client.post(f"/v1/containers/{uuid}/execute", params={"command": "true"})
        if answer.json()["exit_code"] != 0:
            raise RuntimeError(answer.text)

    floor, ours = list[float](), list[float]()
    for _ in range(EXECS):  # in turns, so that whatever else the machine does hits both alike
        floor.append(await _timed(direct))
        ours.append(await _timed(gateway))
    theirs, mine = statistics.median(floor), statistics.median(ours)
    return f"exec of true: {mine * 1000:.0f} ms; engine {theirs * 1000:.0f} ms; ratio {mine / theirs:.2f} (aim <= 1.2)"


async def _echoes(client: httpx.AsyncClient, docker: Docker, uuid: str) -> str:
    """A key is pressed and its echo comes back, in turns through both."""
    container = await _container(docker, uuid)
    params = {"command": "cat", "run": "False", "interactive": "True"}
    url = (await client.post(f"/v1/containers/{uuid}/execute", params=params)).json()["proxy_url"]
    made = await container.exec(["cat"], stdin=True, tty=True)
    floor, ours = list[float](), list[float]()
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(url, protocols=["binary"]) as socket,
        made.start(detach=False) as stream,
    ):

        async def direct() -> None:
            await stream.write_in(b"x")
            await stream.read_out()

        async def gateway() -> None:
            await socket.send_bytes(b"x")
            await socket.receive_bytes()

        for _ in range(ECHOES):
            floor.append(await _timed(direct))
            ours.append(await _timed(gateway))
    theirs, mine = (statistics.median(each) * 1000 for each in (floor, ours))
    return f"echo p50: {mine:.2f} ms; engine {theirs:.2f} ms; over it {mine - theirs:.2f} ms (aim <= 5)"


async def _logs(served: Served, client: httpx.AsyncClient, docker: Docker, uuid: str) -> list[str]:
    while True:
        if "the end" in (await client.get(f"/v1/containers/{uuid}/logs?tail=1")).text:
            break
        await asyncio.sleep(0.1)
    before = highest = served.memory()

    async def drain(response: aiohttp.ClientResponse) -> int:
        nonlocal highest
        size, looked = 0, 0.0
        async for chunk in response.content.iter_any():
            size += len(chunk)
            if time.monotonic() > looked + 0.1:
                looked, highest = time.monotonic(), max(highest, served.memory())
        return size

    async def direct() -> None:
        path = f"containers/{container_name(uuid)}/logs?stdout=1&stderr=1"  # type: ignore[arg-type]  # see above
        async with docker._query(path, timeout=aiohttp.ClientTimeout()) as response:
            await drain(response)

    async def gateway() -> None:
        headers = {"X-Auth-Token": served.token}
        async with (
            aiohttp.ClientSession(headers=headers) as session,
            session.get(f"{served.url}/v1/containers/{uuid}/logs") as response,
        ):
            if (size := await drain(response)) < LOG_SIZE:
                raise RuntimeError(f"the log has {size} bytes")

    floor, ours = list[float](), list[float]()
    for _ in range(ROUNDS):
        floor.append(await _timed(direct))
        ours.append(await _timed(gateway))
    theirs, mine = (LOG_SIZE / MIB / statistics.median(each) for each in (floor, ours))
    rates = f"{mine:.0f} MiB/s; engine {theirs:.0f} MiB/s; ratio {mine / theirs:.2f} (aim >= 0.5)"
    memory = f"before {before:.0f} MiB, highest {highest:.0f} MiB, after {served.memory():.0f} MiB"
    return [f"log of {LOG_SIZE // 1_000_000} MB: {rates}", f"resident memory of the logs: {memory}"]
