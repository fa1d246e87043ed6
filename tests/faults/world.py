"""Everything that can be harmed at once: replicas, their engine, database and its clock, disk, and Keystone.

Each harm is a context: done when it begins, healed when it ends. `tests.faults.test_every_fault` and the soak use them.
"""

import asyncio
import random
import secrets
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.nodes import swarm
from tests.faults import fleet
from tests.faults.conftest import Place
from tests.faults.gateway import LEASE, Gateway, Proxy
from tests.stack import disk as disks
from tests.stack import images, kubernetes
from tests.stack import keystone as keystones
from tests.stack import postgres as postgres_service
from tests.stack.disk import Disk
from tests.stack.docker import PrivateDocker
from tests.stack.postgres import Postgres
from tests.stack.session import Stack
from tests.stack.settable import Clock, ProcessClock, settable

USER = "faults-admin"
DISK = 128  # MiB, for SQLite
CALLS = (
    "POST /containers/create", r"POST /containers/\w+/(start|stop|kill|restart|pause)", "DELETE /containers/",
    "GET /containers/", "POST /networks/create", r"PUT /containers/\w+/archive", "DELETE /(volumes|networks)/",
)  # fmt: skip
STATEMENTS = (
    "COMMIT", "UPDATE action", "INSERT INTO action", "UPDATE container", "UPDATE cluster", "SELECT", "CONNECT",
)  # fmt: skip

Harm = Callable[[], AbstractAsyncContextManager[None]]


class World:
    """Gateways with all that they need, on an engine, a database and an identity of their own.

    Attributes:
        away: the replicas that cannot answer just now.
        environment: what the replicas find in theirs, besides their settings.
        blind: whether nobody can read just now, since the database or the identity is harmed.
    """

    _clock: Clock | ProcessClock

    def __init__(self, place: Place, on: "Ground", seed: int) -> None:
        self.place, self.docker = place, on.docker
        self.chance = random.Random(seed)
        self.gateways: list[Gateway] = []
        self.away: set[Gateway] = set()
        self.blind = False
        self.environment: Mapping[str, str] = {}
        self.harms: dict[str, Harm] = {}
        self._add(
            self.a_replica_is_killed, self.a_replica_is_frozen, self.the_engine_is_killed, self.the_engine_is_stopped,
            self.the_engine_hangs, self.the_engine_is_silent, self.calls_of_the_engine_are_cut,
        )  # fmt: skip

    def on_postgresql(self, server: Postgres, line: Proxy, clock: Clock) -> None:
        """Add what can be done to it. `line` is the proxy before it."""
        self._server, self._line, self._clock = server, line, clock
        self._add(
            self.the_database_crashes, self.the_database_fails_over, self.the_database_is_silent,
            self.statements_are_cut, self.the_clock_is_set,
        )  # fmt: skip

    def on_sqlite(self, disk: Disk, clock: ProcessClock) -> None:
        """Add what can be done to the disk that it is on, and to its clock, which is the gateway's."""
        self._disk, self._clock, self.environment = disk, clock, clock.environment
        self._add(self.the_disk_is_full, self.the_clock_is_set)

    def under_keystone(self, identity: Proxy) -> None:
        """Add what can be done to it. `identity` is the proxy before it."""
        self._identity = identity
        self._add(self.keystone_is_down, self.keystone_is_slow)

    def _add(self, *harms: Harm) -> None:
        self.harms |= {harm.__name__.replace("_", " "): harm for harm in harms}

    # Replicas

    def victim(self) -> Gateway:
        """Whom the next harm of a replica meets."""
        return self.chance.choice(self.gateways)

    @asynccontextmanager
    async def a_replica_is_killed(self) -> AsyncIterator[None]:
        """SIGKILL, then started again."""
        async with self._without(self.victim()) as victim:
            await victim.kill()
            yield
            await victim.start()

    @asynccontextmanager
    async def a_replica_is_frozen(self) -> AsyncIterator[None]:
        """SIGSTOP beyond its lease, then SIGCONT."""
        async with self._without(self.victim()) as victim:
            victim.freeze()
            await asyncio.sleep(1.5 * LEASE)
            yield
            victim.thaw()

    @asynccontextmanager
    async def _without(self, victim: Gateway) -> AsyncIterator[Gateway]:
        self.away.add(victim)
        yield victim
        self.away.discard(victim)

    # The engine

    @asynccontextmanager
    async def the_engine_is_killed(self) -> AsyncIterator[None]:
        """SIGKILL of dockerd, then started again: its containers die with the next start."""
        await asyncio.to_thread(self.docker.kill)
        yield
        await asyncio.to_thread(self.docker.start)

    @asynccontextmanager
    async def the_engine_is_stopped(self) -> AsyncIterator[None]:
        """Stopped as an operator does, containers included, then started again."""
        await asyncio.to_thread(self.docker.stop)
        yield
        await asyncio.to_thread(self.docker.start)

    @asynccontextmanager
    async def the_engine_hangs(self) -> AsyncIterator[None]:
        """It accepts and does not answer. What was asked meanwhile is done later."""
        self.docker.freeze()
        yield
        self.docker.thaw()

    @asynccontextmanager
    async def the_engine_is_silent(self) -> AsyncIterator[None]:
        """The same, and what was asked meanwhile by somebody who goes away is never heard."""
        async with self._acting([(gateway.proxy, ".", "hold", 1) for gateway in self.gateways]):
            yield

    @asynccontextmanager
    async def calls_of_the_engine_are_cut(self) -> AsyncIterator[None]:
        """Before or after they were carried out."""
        proxies = [gateway.proxy for gateway in self.gateways]
        async with self._acting(
            [(proxy, f"^{line}", "cut", self.chance.randint(1, 3)) for proxy in proxies for line in CALLS]
        ):
            yield

    # The database

    @asynccontextmanager
    async def the_database_crashes(self) -> AsyncIterator[None]:
        """And starts again."""
        async with self._blind():
            folder, name = Path(self._server.service.facts["folder"]), self._server.service.name
            stack, port = self.place.stack, self._server.port
            await asyncio.to_thread(stack.stop_by_name, name)
            yield
            await asyncio.to_thread(postgres_service.start, stack, name, folder=folder, port=port)

    @asynccontextmanager
    async def the_database_fails_over(self) -> AsyncIterator[None]:
        """Nobody listens; then somebody does and is silent for as long as that."""
        async with self._blind():
            loop = asyncio.get_running_loop()
            began = loop.time()
            await self._line.shut()
            yield
            refused = loop.time() - began
            silence = await self._line.add(".", "before", "hold", every=True)
            await self._line.open()
            await asyncio.sleep(refused)
            await self._line.release(silence)

    @asynccontextmanager
    async def the_database_is_silent(self) -> AsyncIterator[None]:
        """It accepts and does not answer."""
        async with self._blind(), self._acting([(self._line, ".", "hold", 1)]):
            yield

    @asynccontextmanager
    async def statements_are_cut(self) -> AsyncIterator[None]:
        """Before or after they were carried out."""
        lines = [(self._line, f"^{start}", "cut", self.chance.randint(1, 20)) for start in STATEMENTS]
        async with self._blind(), self._acting(lines):
            yield

    @asynccontextmanager
    async def the_clock_is_set(self) -> AsyncIterator[None]:
        """An hour forward or back, and then the other way."""
        await self._clock.set(self.chance.choice([-3600.0, 3600.0]))
        yield
        await self._clock.set(0.0)

    @asynccontextmanager
    async def the_disk_is_full(self) -> AsyncIterator[None]:
        """And has room again."""
        await asyncio.to_thread(self._disk.fill)
        yield
        await asyncio.to_thread(self._disk.free)

    # Keystone

    @asynccontextmanager
    async def keystone_is_down(self) -> AsyncIterator[None]:
        """Nobody listens."""
        async with self._blind():
            await self._identity.shut()
            yield
            await self._identity.open()

    @asynccontextmanager
    async def keystone_is_slow(self) -> AsyncIterator[None]:
        """Every answer takes two seconds."""
        slow = await self._identity.add(".", "before", "delay", seconds=2.0, every=True)
        yield
        await self._identity.release(slow)

    @asynccontextmanager
    async def _blind(self) -> AsyncIterator[None]:
        self.blind = True
        yield
        self.blind = False

    @asynccontextmanager
    async def _acting(self, harms: list[tuple[Proxy, str, str, int]]) -> AsyncIterator[None]:
        rules = []
        for proxy, line, act, nth in harms:
            when = "before" if act == "hold" else self.chance.choice(["before", "after"])
            rules.append((proxy, await proxy.add(line, when, act, nth=nth, every=act == "hold")))
        yield
        for proxy, number in rules:
            await proxy.release(number)


@dataclass
class Ground:
    """An engine that may be harmed, and what clusters need there: a range that this host reaches, an image of nodes.

    It is remote to gateways: the namespaces that it lives in are not theirs.
    """

    docker: PrivateDocker
    pool: str
    coe: str
    nodes: str
    flavor: dict[str, int]


@contextmanager
def ground(stack: Stack, coe: str = "swarm-mode") -> Iterator[Ground]:
    """A new one, for clusters of this kind."""
    docker = PrivateDocker(stack)
    try:
        pool = f"10.221.{secrets.randbelow(32) * 8}.0/21"
        docker.route(pool)
        images.build(docker.url)
        if coe == "kubernetes":
            yield Ground(docker, pool, coe, kubernetes.image(docker.url), {"cpus": 2, "memory": 2048})
        else:
            yield Ground(docker, pool, coe, swarm.build(docker.url)[0], {"cpus": 1, "memory": 512})
    finally:
        docker.close()


@asynccontextmanager
async def world(
    stack: Stack, on: Ground, database: str, replicas: int, seed: int, **settings: Any
) -> AsyncIterator[World]:
    """One on PostgreSQL or on SQLite, which has a disk of its own; under Keystone."""
    settings = {
        **fleet.settings({"node": on.nodes}, on.flavor),
        "CLUSTERS__NETWORK_POOL": on.pool,
        # Many: a daemon that is killed may leave a bridge with its range, which nobody sees from afar.
        "CLUSTERS__NETWORK_PREFIX": 28,
        "CLUSTERS__HEALTH_SECONDS": 1,
        # So many minutes that a clock which jumps by an hour does not end what is under way.
        "CLUSTERS__CREATE_TIMEOUT": 180,
        **settings,
    }
    async with AsyncExitStack() as stop:
        if database == "sqlite":
            made = _on_sqlite(stack, stop, on, seed)
        else:
            made = await _on_postgresql(stack, stop, on, seed)
        settings |= _under_keystone(stack, stop, made)
        stop.push_async_callback(made.place.close)
        starting = [made.place.gateway(remote=True, environment=made.environment, **settings) for _ in range(replicas)]
        made.gateways = list(await asyncio.gather(*starting))
        yield made


def _on_sqlite(stack: Stack, stop: AsyncExitStack, on: Ground, seed: int) -> World:
    disk = stop.enter_context(disks.small(stack.folder("disk"), DISK))
    clock = ProcessClock(stack.folder("clock"))
    url = f"sqlite+aiosqlite:///{disk.folder}/caisson.db"
    made = World(Place(stack, url, on.docker.url, images.BUSYBOX), on, seed)
    made.on_sqlite(disk, clock)
    return made


async def _on_postgresql(stack: Stack, stop: AsyncExitStack, on: Ground, seed: int) -> World:
    server = Postgres(await asyncio.to_thread(postgres_service.start, stack, stack.folder("postgres").name))
    stop.callback(stack.stop_by_name, server.service.name)
    url = server.create("caisson")
    clock = stop.enter_context(settable(url, server))
    line = Proxy(stack, f"postgres://127.0.0.1:{server.port}")
    stop.callback(line.close)
    place = Place(stack, url, on.docker.url, images.BUSYBOX)
    place.reached_at = url.replace(f"127.0.0.1:{server.port}", line.url.partition("://")[2])
    made = World(place, on, seed)
    made.on_postgresql(server, line, clock)
    return made


def _under_keystone(stack: Stack, stop: AsyncExitStack, made: World) -> dict[str, Any]:
    """The Keystone of the session, behind a proxy that is harmed instead; returns what gateways are told."""
    keystone = keystones.shared(stack)
    identity = Proxy(stack, keystone.url.removesuffix("/v3"))
    stop.callback(identity.close)
    made.under_keystone(identity)

    def login() -> tuple[str, str]:
        token = keystone.token(USER)
        return token, str(keystone.describe(token)["project"]["id"])

    return {
        "login": login,
        "KEYSTONE__URL": f"{identity.url}/v3",
        "KEYSTONE__USERNAME": "caisson",
        "KEYSTONE__PASSWORD": keystones.SERVICE_PASSWORD,
        "KEYSTONE__REGION": "RegionOne",
        "PULL_POLICY": "ifnotpresent",
    }
