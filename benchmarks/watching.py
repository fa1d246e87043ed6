"""What it costs to watch clusters that nothing happens to: Caisson's own part, with the driver in memory, and the part
of a real driver, which asks the engine and the cluster's API. And to look for clusters that are complete and dead."""

import asyncio
import logging
import statistics
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast
from uuid import UUID, uuid4

import structlog
from sqlmodel import select

from app.backends.docker.engine import DockerEngine
from app.backends.driver import ClusterSpec, Keys, NodeGroupSpec, Progress
from app.backends.engine import ContainerEngine
from app.backends.kubernetes.api import Api
from app.backends.kubernetes.engine import KubernetesEngine
from app.backends.nodes import ImageHost, NodeSeen
from app.backends.swarm.driver import SwarmDriver
from app.backends.swarm.engine import SwarmEngine
from app.backends.swarm.nodes import Endpoint
from app.certificates import make_authority
from app.cluster_watch import watch_id
from app.db import EVERYTHING
from app.models import Action, Cluster, ClusterStatus
from app.settings import BackendSettings, ClusterSettings, Settings
from scripts.nodes import swarm
from tests.api.caisson import Running, eventually, running
from tests.api.yard import Yard
from tests.conformance.place import until
from tests.fake_driver import FakeDriver

CLUSTERS = 100
NOBODY = "127.0.0.1:9"  # a port at which nobody listens
SECONDS = 10.0  # that are measured, at a round each second
LOOKS = 50
DYING = 75.0  # seconds after which nobody asks often any more whether a dead cluster is back
NORMAL = ClusterSettings().health_seconds


async def measure() -> str:
    """The share of a core that rounds over `CLUSTERS` clusters of three nodes take."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite+aiosqlite:///{folder}/caisson.db"
        often: dict[str, Any] = {"clusters": ClusterSettings(health_seconds=1.0), "poll_seconds": 1.0}
        async with running(url, Path(folder), people=(), **often) as place:
            alone, _ = await _load(place)
            yard = Yard(place)
            for number in range(CLUSTERS):
                await yard.create(workers=2, name=f"bench-{number}")
            await eventually(lambda: _all_made(place), lambda: "not all are made", 300.0, 0.5)
            busy, rounds = await _load(place)
    each = (busy - alone) / rounds
    return (
        f"watching {CLUSTERS} clusters, Caisson's own part: {each * 1000:.0f} ms of processor a round, "
        f"{100 * each / NORMAL:.2f} % of a core at one in {NORMAL:g} s (aim < 5)"
    )


class DeadDriver(FakeDriver):
    """Its clusters are made, and at once nobody listens where their nodes are."""

    def engine(self, spec: ClusterSpec) -> ContainerEngine:
        assert spec.keys is not None
        api = Api(f"https://{NOBODY}", spec.keys)

        async def connect() -> Api:
            return api

        async def nodes() -> Sequence[NodeSeen]:
            return ()

        async def endpoints() -> Sequence[Endpoint]:
            return [Endpoint("127.0.0.1", f"tcp://{NOBODY}", api.tls, True, "none")]

        name, host = f"cluster:{spec.uuid}", cast(ImageHost, None)
        if spec.uuid.int % 2:
            return KubernetesEngine(name, connect, nodes, host)
        return SwarmEngine(name, endpoints, host, Settings())


async def mourn() -> str:
    """The share of a core that `CLUSTERS` clusters take whose nodes are gone: half of swarms, half of Kubernetes."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite+aiosqlite:///{folder}/caisson.db"
        async with running(url, Path(folder), people=(), driver=DeadDriver, observe_seconds=15.0) as place:
            alone, _ = await _load(place)
            yard = Yard(place)
            for number in range(CLUSTERS):
                await yard.create(workers=2, name=f"bench-{number}")
            await eventually(lambda: _all_made(place), lambda: "not all are made", 300.0, 0.5)
            for uuid in yard.made:
                yard.driver.vanish(UUID(uuid))
            await asyncio.sleep(DYING)
            busy = [(await _load(place))[0] for _ in range(3)]
    share = (statistics.mean(busy) - alone) / SECONDS
    return f"{CLUSTERS} dead clusters: {100 * share:.2f} % of a core (aim < 5)"


async def look(url: str) -> str:
    """The processor time of `LOOKS` looks at a swarm of one node, as a share of a core for `CLUSTERS` of them."""
    engine = DockerEngine("docker", BackendSettings(url=url), Settings())
    driver = SwarmDriver(engine, Settings())
    image = await asyncio.to_thread(lambda: swarm.build(url)[0])
    etcd, front_proxy, accounts = (make_authority(name) for name in ("etcd", "front-proxy", "accounts"))
    keys = Keys(make_authority("cluster"), etcd, front_proxy, accounts=accounts.key)
    group = NodeGroupSpec(uuid4(), "default-master", "master", 1, image, 1.0, 512)
    spec = ClusterSpec(uuid4(), uuid4().hex, "bench", "swarm-mode", [group], keys=keys)
    try:
        progress = Progress(False)
        while not progress.done:
            await asyncio.sleep(progress.after)
            progress = await driver.converge(spec, progress.memo)
        spent = time.process_time()
        for _ in range(LOOKS):
            await driver.observe(spec)
        each = (time.process_time() - spent) / LOOKS
    finally:
        await until(partial(driver.delete, spec.uuid))
        await driver.close()
        await engine.close()
    return (
        f"one look at a swarm: {each * 1000:.1f} ms of processor, {100 * each * CLUSTERS / NORMAL:.2f} % of a core for "
        f"{CLUSTERS} of them"
    )


async def _load(place: Running) -> tuple[float, int]:
    """Seconds of processor that the process takes in `SECONDS`, and how many rounds end meanwhile."""
    await asyncio.sleep(2)
    rounds, spent = await _rounds(place), time.process_time()
    await asyncio.sleep(SECONDS)
    return time.process_time() - spent, await _rounds(place) - rounds


async def _rounds(place: Running) -> int:
    async with place.gateway.database.reading(EVERYTHING) as session:
        return (await session.exec(select(Action).where(Action.resource_id == watch_id("local")))).one().attempts


async def _all_made(place: Running) -> bool:
    async with place.gateway.database.reading(EVERYTHING) as session:
        left = await session.exec(select(Cluster.id).where(Cluster.status != ClusterStatus.CREATE_COMPLETE).limit(1))
        return left.first() is None
