"""An engine together with what a test needs around it."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_hex
from typing import Any, TypeVar, cast
from uuid import UUID, uuid4

import pytest
from pydantic import SecretStr

from app.backends.docker.engine import make
from app.backends.driver import ClusterDriver, ClusterSpec, Keys, NodeGroupSpec
from app.backends.engine import ContainerEngine, ContainerSpec, LogOptions, Networks, RegistryLogin, Seen, State
from app.backends.kubernetes.driver import KubernetesDriver
from app.backends.nodes import NodeHost
from app.backends.swarm.driver import SwarmDriver
from app.backends.wires import Guards, Wires
from app.certificates import issue, make_authority
from app.settings import BackendSettings, KeystoneSettings, Settings
from tests.conformance.index import serve_index
from tests.fake import FakeEngine
from tests.stack import images
from tests.stack.registry import Registry

Found = TypeVar("Found")


@dataclass
class Place:
    """One engine for one test.

    Attributes:
        engine: what is tested.
        twin: the same engine as a second replica sees it.
        image: an image that the engine holds, whose command is a shell.
        registry: ``host:port`` of a registry that answers.
        publish: puts an image into a registry, for everybody or for the holder of credentials. Takes its path and the
            credentials' absence or presence; returns its full name and the credentials.
        index: makes an index that knows one image of this name; returns the term that finds it.
        project: a project of this test alone.
        wires: the networks that this test made by their ids.
        below: engines and drivers, to be closed with it.
    """

    engine: ContainerEngine
    twin: ContainerEngine
    image: str
    registry: str
    publish: Callable[[str, bool], tuple[str, RegistryLogin | None]]
    index: Callable[[str], str]
    project: str = field(default_factory=lambda: token_hex(16))
    wires: list[str] = field(default_factory=list)
    below: Sequence[ContainerEngine | ClusterDriver] = ()

    def spec(self, *command: str, **wishes: Any) -> ContainerSpec:
        """A wish for a container of this test's project, with no network unless asked."""
        return ContainerSpec(**{"project_id": self.project, "image": self.image, "command": command, **wishes})

    async def run(self, *command: str, **wishes: Any) -> Seen:
        """A container that was started, as it is seen right after."""
        uuid = uuid4()
        made = await self.engine.create(uuid, self.spec(*command, **wishes))
        await self.engine.start(made.ref)
        return await self.seen(uuid)

    async def seen(self, uuid: UUID) -> Seen:
        """The container, which must be there."""
        seen = await self.engine.find(uuid)
        assert seen is not None
        return seen

    async def ended(self, uuid: UUID) -> Seen:
        """The container after its process has ended."""

        async def exited() -> Seen | None:
            seen = await self.seen(uuid)
            return seen if seen.state is State.EXITED else None

        return await until(exited)

    async def log(self, ref: str, **options: Any) -> bytes:
        """The whole log."""
        return b"".join([part async for part in self.engine.logs(ref, LogOptions(**options))])

    async def mine(self) -> list[Seen]:
        """What the engine has of this test's project."""
        return [seen for seen in await self.engine.find_all() if seen.project_id == self.project]

    async def clean_up(self) -> None:
        """Remove what the test made."""
        for seen in await self.mine():
            await self.engine.remove(seen.ref, force=True)
        if isinstance(self.engine, Networks):
            await self.engine.remove_network(self.project)
        if self.wires and isinstance(self.engine, Wires) and isinstance(self.engine, Guards):
            for network in self.wires:
                assert await self.engine.remove_wire(network)
            await self.engine.guard([], {})


async def until(check: Callable[[], Awaitable[Found | None]], seconds: float = 30.0) -> Found:
    """Ask again and again until `check` gives something."""
    async with asyncio.timeout(seconds):
        while True:
            if found := await check():
                return found
            await asyncio.sleep(0.02)


def fake_place() -> Place:
    """An engine in memory."""
    engine = FakeEngine()
    engine.add_image("caisson/busybox:1")

    def publish(path: str, private: bool) -> tuple[str, RegistryLogin | None]:
        host = "127.0.0.1:5001" if private else "127.0.0.1:5000"
        login = RegistryLogin(host, "puller", "let-me-in") if private else None
        engine.publish(f"{host}/{path}", login)
        return f"{host}/{path}", login

    publish("something/else:1", False)

    def index(name: str) -> str:
        engine.publish(f"127.0.0.1:5002/{name}:1")
        return f"127.0.0.1:5002/{name}"

    return Place(engine, engine.twin(), "caisson/busybox:1", "127.0.0.1:5000", publish, index)


def docker_place(request: pytest.FixtureRequest, stop: ExitStack) -> Place:
    """The Docker engine of this machine; what else is started ends with `stop`."""
    url: str = request.getfixturevalue("docker_url")
    image: str = request.getfixturevalue("busybox_image")
    registry: Registry = request.getfixturevalue("registry")
    # Both share a packet filter of their own; Docker's filters only where there may be a Neutron.
    keystone = KeystoneSettings(url="http://127.0.0.1:1/v3", username="caisson", password=SecretStr("pw"))
    settings = Settings(data_dir=Path(token_hex(8)), keystone=keystone)
    engine, twin = (make("docker", BackendSettings(url=url), settings) for _ in range(2))

    def publish(path: str, private: bool) -> tuple[str, RegistryLogin | None]:
        server: Registry = request.getfixturevalue("private_registry" if private else "registry")
        # Content of its own: else the engine has the image under another name, and nothing to fetch.
        images.build(url, path, files={"etc/motd": path.encode()})
        name = server.push(url, path, path)
        images.remove(url, path)
        if server.username is None or server.password is None:
            return name, None
        return name, RegistryLogin(server.host, server.username, server.password)

    def index(name: str) -> str:
        host = stop.enter_context(serve_index([{"name": name, "description": "", "star_count": 1}]))
        return f"{host}/{name}"

    return Place(engine, twin, image, registry.host, publish, index)


DRIVERS: Mapping[str, Callable[[NodeHost, Settings], ClusterDriver]] = {
    "swarm": SwarmDriver,
    "kubernetes": KubernetesDriver,
}


def cluster_place(request: pytest.FixtureRequest, stop: ExitStack) -> Place:
    """A cluster of this kind, on the engine of `docker_place`, which has the images."""
    spec: ClusterSpec = request.getfixturevalue(f"{request.param}_cluster")
    below = docker_place(request, stop)
    drivers = [DRIVERS[request.param](cast(NodeHost, host), Settings()) for host in (below.engine, below.twin)]
    engine, twin = (driver.engine(spec) for driver in drivers)
    return Place(
        engine, twin, below.image, below.registry, below.publish, below.index, below.project,
        below=(*drivers, below.engine, below.twin),
    )  # fmt: skip


@contextmanager
def cluster(kind: str, url: str, image: str) -> Iterator[ClusterSpec]:
    """A cluster of two nodes, that is there until the block ends."""
    keys = Keys(
        make_authority("cluster"),
        make_authority("etcd"),
        make_authority("front-proxy"),
        issue(make_authority("a"), "a").key,
    )
    groups = [NodeGroupSpec(uuid4(), f"default-{role}", role, 1, image, 0, 0) for role in ("master", "worker")]
    spec = ClusterSpec(uuid4(), token_hex(16), "conformance", kind, groups, keys=keys)

    async def each(call: Callable[[ClusterDriver], Awaitable[bool]]) -> None:
        host = cast(NodeHost, make("docker", BackendSettings(url=url), Settings()))
        driver = DRIVERS[kind](host, Settings())
        await until(lambda: call(driver), 170)
        await driver.close()
        await host.close()

    memo: Mapping[str, Any] = {}

    async def ready(driver: ClusterDriver) -> bool:
        nonlocal memo
        progress = await driver.converge(spec, memo)
        memo = progress.memo
        return progress.done

    async def gone(driver: ClusterDriver) -> bool:
        return await driver.delete(spec.uuid)

    # Not in this thread, whose event loop runs already.
    with ThreadPoolExecutor(1) as aside:
        try:
            aside.submit(asyncio.run, each(ready)).result()
            yield spec
        finally:
            aside.submit(asyncio.run, each(gone)).result()
