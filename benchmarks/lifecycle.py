"""create + start of a container: through the gateway, and by aiodocker directly with the same options."""

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx
from aiodocker import Docker

from app.backends import load
from app.backends.docker.shapes import create_body
from app.backends.engine import ContainerSpec, Networks
from app.settings import BackendSettings, Settings
from benchmarks.served import Served

IMAGE = "caisson/busybox:1"
COMMAND = ("sh", "-c", "trap 'exit 0' TERM; sleep 1000 & wait")
ROUNDS = 3
ASK_EVERY = 0.01  # seconds


@dataclass
class Sample:
    """Seconds of each create+start, and of the whole batch."""

    each: list[float]
    whole: float

    @property
    def rate(self) -> float:
        """Containers a second."""
        return len(self.each) / self.whole


async def batch(count: int, at_once: int, one: Callable[[], Awaitable[None]]) -> Sample:
    """Run `one` `count` times, `at_once` at a time."""
    slots, each = asyncio.Semaphore(at_once), []

    async def timed() -> None:
        async with slots:
            began = time.perf_counter()
            await one()
            each.append(time.perf_counter() - began)

    began = time.perf_counter()
    await asyncio.gather(*(timed() for _ in range(count)))
    return Sample(each, time.perf_counter() - began)


async def until(client: httpx.AsyncClient, uuid: str, wanted: Callable[[str | None], bool]) -> str | None:
    """Ask for a container's status, None when it is gone, until it is as wanted; a client has nothing but asking."""
    while True:
        answer = await client.get(f"/v1/containers/{uuid}")
        status = answer.json()["status"] if answer.status_code == 200 else None
        if wanted(status):
            return status
        await asyncio.sleep(ASK_EVERY)


class Direct:
    """The engine without us: the same body, the same network, create then start."""

    def __init__(self, docker: Docker, network: str) -> None:
        self.docker, self.network, self.made = docker, network, list[Any]()

    async def one(self) -> None:
        """Create and start one container."""
        spec = ContainerSpec("benchmark", IMAGE, COMMAND, cpu=1.0, memory=512, network=self.network)
        body = create_body(uuid4(), spec, 50, "127.0.0.1")
        container = await self.docker.containers.create(body, name=f"caisson-benchmark-{uuid4()}")
        await container.start()
        self.made.append(container)

    async def clear(self) -> None:
        """Remove what was made."""
        await asyncio.gather(*(container.delete(force=True) for container in self.made))
        self.made.clear()


class Gateway:
    """Through the API: POST with run=true, then GET until it runs.

    One task asks for all containers that are waited for: eight clients that each ask every few milliseconds would keep
    a core of their own busy, which the engine then lacks.
    """

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client, self.made = client, list[str]()
        self._waiting: dict[str, asyncio.Future[str]] = {}

    async def one(self) -> None:
        """Create and start one container."""
        body = {"image": IMAGE, "command": list(COMMAND)}
        answer = await self.client.post("/v1/containers?run=true", json=body)
        uuid = answer.json()["uuid"]
        self.made.append(uuid)
        ended = self._waiting[uuid] = asyncio.get_running_loop().create_future()
        if (status := await ended) != "Running":
            raise RuntimeError(f"container {uuid} is {status}")

    async def keep_asking(self) -> None:
        """Tell those who wait what became of their containers, for ever."""
        while True:
            await asyncio.sleep(ASK_EVERY)
            waiting = [future for future in self._waiting.values() if not future.done()]
            if waiting:
                for uuid, status in (await self._statuses()).items():
                    future = self._waiting.get(uuid)
                    if future is not None and not future.done() and status != "Creating":
                        future.set_result(status)

    async def clear(self) -> None:
        """Delete what was made, and wait until it is gone."""
        for uuid in self.made:
            await self.client.delete(f"/v1/containers/{uuid}?force=true")
        for uuid in self.made:
            await until(self.client, uuid, lambda status: status is None)
        self.made.clear()
        self._waiting.clear()

    async def _statuses(self) -> dict[str, str]:
        answer = await self.client.get("/v1/containers")
        return {box["uuid"]: box["status"] for box in answer.json()["containers"]}


async def compare(served: Served) -> Sequence[str]:
    """Lines that say the gateway's time and throughput as ratios of the engine's."""
    engine = load("local", BackendSettings(), Settings())
    if not isinstance(engine, Networks):
        raise TypeError("the local engine has no networks")
    network = await engine.ensure_network("benchmark")
    lines = []
    async with served.client() as client, Docker() as docker:
        direct, gateway = Direct(docker, network), Gateway(client)
        asking = asyncio.create_task(gateway.keep_asking())
        for at_once, count in ((1, 8), (8, 24)):
            samples: dict[str, list[Sample]] = {"direct": [], "gateway": []}
            for _ in range(ROUNDS):  # in turns, so that whatever else the machine does hits both alike
                for name, side in (("direct", direct), ("gateway", gateway)):
                    samples[name].append(await batch(count, at_once, side.one))
                    await side.clear()
            lines.append(_line(at_once, samples["direct"], samples["gateway"]))
        asking.cancel()
    await engine.remove_network("benchmark")
    await engine.close()
    return lines


def _line(at_once: int, direct: list[Sample], gateway: list[Sample]) -> str:
    own, ours = ([t for sample in side for t in sample.each] for side in (direct, gateway))
    own_median, our_median = statistics.median(own) * 1000, statistics.median(ours) * 1000
    own_rate, our_rate = (statistics.median(sample.rate for sample in side) for side in (direct, gateway))
    return (
        f"create+start, {at_once} at a time: {our_median:.0f} ms against {own_median:.0f} ms directly, "
        f"ratio {our_median / own_median:.2f} (aim <= 1.15); {our_rate:.1f}/s against {own_rate:.1f}/s, "
        f"ratio {our_rate / own_rate:.2f} (aim >= 0.9)"
    )
