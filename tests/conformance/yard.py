"""A cluster driver together with what a test needs around it.

A driver is added by a function that makes a `Yard` of it, and its name in `YARDS`.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from typing import Any
from uuid import UUID, uuid4

import pytest

from app.backends.docker.engine import DockerEngine
from app.backends.driver import ClusterDriver, ClusterSeen, ClusterSpec, Keys, NodeGroupSpec, Progress
from app.backends.kubernetes.driver import KubernetesDriver
from app.backends.swarm.driver import SwarmDriver
from app.certificates import make_authority
from app.settings import BackendSettings, Settings
from tests.conformance.place import until
from tests.fake_driver import FakeDriver

MOST_STEPS = 2000


@dataclass
class Yard:
    """One driver for one test.

    Attributes:
        driver: what is tested.
        twin: the same on the same engine, as a second replica has it.
        coe: what it makes.
        image: what its nodes are made from.
        newer: another such image, that nodes can be upgraded to.
        stop: lets the node of this name stop by itself.
        held: the clusters of which the engine holds anything.
        sizes: cores and MiB of each node.
        labels: what each cluster of the test bears.
        seconds: how long a change may take.
        kept: clusters that outlive a test, where making one takes long.
        clean: frees what the yard itself made.
    """

    driver: ClusterDriver
    twin: ClusterDriver
    coe: str
    image: str
    newer: str
    stop: Callable[[UUID, str], Awaitable[None]]
    held: Callable[[], Awaitable[set[UUID]]]
    sizes: tuple[float, int] = (1.0, 512)
    labels: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 30.0
    clean: Callable[[], Awaitable[None]] | None = None
    kept: "Kept | None" = None
    made: list[ClusterSpec] = field(default_factory=list)

    def plan(self, masters: int = 1, workers: int = 1, **wishes: Any) -> ClusterSpec:
        """A wish for a cluster that is not there yet, removed after the test."""
        etcd, front_proxy, accounts = (make_authority(name) for name in ("etcd", "front-proxy", "accounts"))
        keys = Keys(make_authority("cluster"), etcd, front_proxy, accounts=accounts.key)
        groups = [
            self.group("default-master", masters, role="master"),
            self.group("default-worker", workers),
        ]
        wish: dict[str, Any] = {"keys": keys, "labels": self.labels} | wishes
        spec = ClusterSpec(uuid4(), uuid4().hex, "blue", self.coe, groups, **wish)
        self.made.append(spec)
        return spec

    async def standing(self) -> ClusterSpec:
        """A complete cluster of a master and a worker, which other tests had before and will have afterwards.

        Whoever changes the wish for good says so by `keep`; whatever else is different is put right for the next one.
        """
        known = None if self.kept is None else self.kept.specs.get(self.driver.name)
        spec = known or self.plan(workers=1)
        await self.reach(spec)
        self.keep(spec)
        return spec

    def keep(self, spec: ClusterSpec) -> None:
        """From now on this is what the standing cluster is to be."""
        if self.kept is not None:
            self.kept.specs[self.driver.name] = spec
            self.made = [one for one in self.made if one.uuid != spec.uuid]

    def group(self, name: str, count: int, role: str = "worker", **wishes: Any) -> NodeGroupSpec:
        """A wish for a node group."""
        wish: dict[str, Any] = {"labels": self.labels} | wishes
        return NodeGroupSpec(uuid4(), name, role, count, self.image, *self.sizes, **wish)

    async def reach(self, spec: ClusterSpec, driver: ClusterDriver | None = None) -> list[str]:
        """Call the driver until it is done. Returns what it said on the way, each once."""
        driver = driver or self.driver
        driver.validate(spec)
        said: list[str] = []
        memo: Mapping[str, Any] = {}
        async with asyncio.timeout(self.seconds):
            for _ in range(MOST_STEPS):
                progress = await driver.converge(spec, memo)
                if progress.done:
                    return said
                said += [progress.text] if progress.text not in said[-1:] else []
                memo = kept(progress)
                await asyncio.sleep(progress.after)
        raise AssertionError(f"not done after {MOST_STEPS} steps: {said[-3:]}")

    async def seen(self, spec: ClusterSpec) -> ClusterSeen:
        """What is there of a cluster; there must be something."""
        found = await self.driver.observe(spec)
        assert found is not None
        return found

    async def healthy(self, spec: ClusterSpec) -> ClusterSeen:
        """The cluster once all its nodes are ready again, as whoever looks now and then finds it."""
        async with asyncio.timeout(self.seconds):
            while not (found := await self.seen(spec)).healthy:
                await self.driver.mend(spec)
                await asyncio.sleep(0.2)
        return found

    async def gone(self, uuid: UUID) -> None:
        """Delete until the driver says that nothing is left."""
        async with asyncio.timeout(self.seconds):
            for pause in count(0.01, 0.02):
                if await self.driver.delete(uuid):
                    return
                await asyncio.sleep(pause)

    async def clean_up(self) -> None:
        """Remove what the test made."""
        for spec in self.made:
            await self.gone(spec.uuid)
        await self.driver.close()
        await self.twin.close()
        if self.clean is not None:
            await self.clean()


@dataclass
class Kept:
    """The wishes for clusters that outlive a test, by the name of their driver, on the Docker engine at `url`."""

    url: str
    specs: dict[str, ClusterSpec] = field(default_factory=dict)

    def remove(self) -> None:
        """Remove them all."""

        async def all_gone() -> None:
            engine = DockerEngine("docker", BackendSettings(url=self.url), Settings())
            for spec in self.specs.values():
                await until(partial(engine.remove_cluster, spec.uuid))
            await engine.close()

        # Not in this thread, whose event loop may run.
        with ThreadPoolExecutor(1) as aside:
            aside.submit(asyncio.run, all_gone()).result()


def kept(progress: Progress) -> Mapping[str, Any]:
    """The memo as the next step gets it: it was stored as JSON."""
    memo: Mapping[str, Any] = json.loads(json.dumps(dict(progress.memo)))
    return memo


def resized(spec: ClusterSpec, name: str, **changes: Any) -> ClusterSpec:
    """The wish with another one for the group of this name."""
    return replace(spec, groups=[replace(g, **changes) if g.name == name else g for g in spec.groups])


def fake_yard(request: pytest.FixtureRequest) -> Yard:
    """A driver in memory."""
    driver = FakeDriver("kubernetes")

    async def stop(cluster: UUID, name: str) -> None:
        driver.stop_node(cluster, name)

    async def held() -> set[UUID]:
        return driver.held()

    return Yard(driver, driver.twin(), "kubernetes", "1", "2", stop, held)


def swarm_yard(request: pytest.FixtureRequest) -> Yard:
    """Docker Swarm on the Docker engine of this machine."""
    backend = BackendSettings(url=request.getfixturevalue("docker_url"))
    engine, other = (DockerEngine("docker", backend, Settings()) for _ in range(2))

    async def stop(cluster: UUID, name: str) -> None:
        for node in await engine.nodes(cluster):
            if node.name == name:
                await engine.stop_node(node.ref, 0)

    async def clean() -> None:
        await engine.close()
        await other.close()

    image, newer = (request.getfixturevalue(name) for name in ("swarm_image", "next_swarm_image"))
    driver, twin = (SwarmDriver(one, Settings()) for one in (engine, other))
    return Yard(driver, twin, "swarm-mode", image, newer, stop, engine.clusters, seconds=150.0, clean=clean)


def kubernetes_yard(request: pytest.FixtureRequest) -> Yard:
    """Kubernetes on the Docker engine of this machine."""
    backend = BackendSettings(url=request.getfixturevalue("docker_url"))
    engine, other = (DockerEngine("docker", backend, Settings()) for _ in range(2))

    async def stop(cluster: UUID, name: str) -> None:
        for node in await engine.nodes(cluster):
            if node.name == name:
                await engine.stop_node(node.ref, 0)

    async def clean() -> None:
        await engine.close()
        await other.close()

    image, newer = (request.getfixturevalue(name) for name in ("kubernetes_image", "next_kubernetes_image"))
    driver, twin = (KubernetesDriver(one, Settings()) for one in (engine, other))
    sizes = (0.0, 0)  # less than the machine has would make it slower than it is
    return Yard(
        driver, twin, "kubernetes", image, newer, stop, engine.clusters, sizes=sizes, seconds=150.0, clean=clean
    )


YARDS: dict[str, Callable[[pytest.FixtureRequest], Yard]] = {
    "fake": fake_yard,
    "swarm": swarm_yard,
    "kubernetes": kubernetes_yard,
}
