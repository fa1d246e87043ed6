"""Engines and drivers, found by the entry point groups ``app.backends`` and ``app.drivers``: nothing here names one."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points

import structlog

from app.backends.driver import ClusterAbility, ClusterDriver, ClusterType
from app.backends.engine import SILENT_MOST, ContainerEngine, EngineInfo
from app.backends.nodes import Nodes
from app.errors import EngineError, Invalid, Unavailable, Unsupported
from app.settings import BackendSettings, Settings

GROUP = "app.backends"
DRIVERS = "app.drivers"
PING_EVERY = 10.0  # seconds

log = structlog.get_logger("caisson.backends")


def load(name: str, backend: BackendSettings, settings: Settings) -> ContainerEngine:
    """Make the engine called `name`. Raises Invalid when its kind is not installed."""
    found = entry_points(group=GROUP, name=backend.kind)
    if not found:
        known = ", ".join(sorted(entry.name for entry in entry_points(group=GROUP))) or "none"
        raise Invalid(f"backend {name!r}: no engine of kind {backend.kind!r} is installed (installed: {known})")
    engine: ContainerEngine = next(iter(found)).load()(name, backend, settings)
    return engine


class Engines(Mapping[str, ContainerEngine]):
    """The engines of this replica by name, and what each last said of its host.

    `hosts` are the names of those that settings name; others come and go (`join`, `leave`). `tried` is true once all
    were asked, whatever they answered.
    """

    def __init__(self, engines: Mapping[str, ContainerEngine]) -> None:
        self._engines = dict(engines)
        self._infos: dict[str, EngineInfo] = {}
        self._heard: dict[str, float] = {}
        self._zones: dict[str, str] = {}
        self._silent: dict[str, tuple[float, float]] = {}
        self._installation: str | None = None
        self.hosts = tuple(engines)
        self.tried = False

    def __getitem__(self, name: str) -> ContainerEngine:
        return self._engines[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._engines)

    def __len__(self) -> int:
        return len(self._engines)

    def reach(self, name: str) -> ContainerEngine:
        """The engine called `name`. Raises Unavailable when it is none of this replica's."""
        if (engine := self._engines.get(name)) is None:
            raise Unavailable(f"the engine {name} is not served here")
        return engine

    def join(self, name: str, engine: ContainerEngine, zone: str | None = None) -> None:
        """Serve one more engine, as the availability zone `zone`; without one it is no place for anything new."""
        engine.installation = self._installation
        self._engines[name] = engine
        self._forget(name)
        if zone is not None:
            self._zones[name] = zone

    async def leave(self, name: str) -> None:
        """Serve an engine no longer that has joined."""
        self._forget(name)
        if (engine := self._engines.pop(name, None)) is not None:
            await engine.close()

    def zone(self, name: str) -> str | None:
        """The zone that an engine has joined as; None for those that settings name."""
        return self._zones.get(name)

    def info(self, name: str) -> EngineInfo | None:
        """The last answer of an engine's ping; None while there is none."""
        return self._infos.get(name)

    def heard(self, name: str, within: float) -> bool:
        """Whether an engine answered a ping of this replica's in the last `within` seconds, whatever clocks say."""
        at = self._heard.get(name)
        return at is not None and time.monotonic() - at <= within

    def on_host(self, host: str) -> str | None:
        """The backend whose name or hostname this is."""
        for name in self.hosts:
            info = self.info(name)
            if host == name or (info is not None and host == info.hostname):
                return name
        return None

    def belong_to(self, installation: str) -> None:
        """Let the engines mark what they make as this installation's, and show nothing of others."""
        self._installation = installation
        for engine in self._engines.values():
            engine.installation = installation

    async def ping(self) -> list[str]:
        """Ask every engine once, and return who answered; one that does not keeps what it said before.

        One that has joined and is silent is asked less and less often.
        """
        now = time.monotonic()
        asked = [*self.hosts, *(name for name in self._zones if self._silent.get(name, (now, 0.0))[0] <= now)]
        answered = await asyncio.gather(*(self._ping(name) for name in asked))
        return [name for name, yes in zip(asked, answered, strict=True) if yes and name in self._engines]

    async def keep_pinging(self, report: Callable[[str], Awaitable[None]] | None = None) -> None:
        """Ask for ever, and `report` who answered."""
        while True:
            for name in await self.ping():
                try:
                    if report is not None:
                        await report(name)
                except Exception as error:  # the next ping is reported again
                    log.warning("ping not noted", backend=name, error=repr(error))
            self.tried = True
            await asyncio.sleep(PING_EVERY)

    async def close(self) -> None:
        """Close every engine's connections."""
        for engine in list(self._engines.values()):
            await engine.close()

    async def _ping(self, name: str) -> bool:
        engine = self._engines[name]
        try:
            info = await engine.ping()
        except EngineError as error:
            log.warning("engine does not answer", backend=name, reason=error.title)
            if self._engines.get(name) is engine:
                _, pause = self._silent.get(name, (0.0, 0.0))
                self._silent[name] = (time.monotonic() + pause, min(pause * 2 or PING_EVERY, SILENT_MOST))
            return False
        if self._engines.get(name) is engine:
            self._infos[name], self._heard[name] = info, time.monotonic()
            self._silent.pop(name, None)
        return True

    def _forget(self, name: str) -> None:
        for known in (self._infos, self._heard, self._zones, self._silent):
            known.pop(name, None)


@dataclass(frozen=True, slots=True)
class DriverKind:
    """A driver that is installed; `enabled` unless settings disable it or no engine here can carry its nodes.

    Types and abilities are known when some engine can.
    """

    name: str
    enabled: bool
    provides: Sequence[ClusterType] = ()
    abilities: frozenset[ClusterAbility] = frozenset()


class Drivers(Mapping[tuple[str, str], ClusterDriver]):
    """The drivers of this replica, by their kind's name and the engine's: one of each kind on each engine that can.

    `disabled` kinds still serve the clusters that they made.
    """

    def __init__(
        self,
        drivers: Mapping[tuple[str, str], ClusterDriver] | None = None,
        *,
        installed: Collection[str] = (),
        disabled: Collection[str] = (),
    ) -> None:
        self._drivers = dict(drivers or {})
        self._installed = {*installed, *(name for name, _ in self._drivers)}
        self._disabled = frozenset(disabled)

    def __getitem__(self, key: tuple[str, str]) -> ClusterDriver:
        return self._drivers[key]

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._drivers)

    def __len__(self) -> int:
        return len(self._drivers)

    def find(self, name: str, backend: str) -> ClusterDriver:
        """The driver that makes clusters of this kind on this engine. Raises Unsupported."""
        if (driver := self._drivers.get((name, backend))) is None:
            if name not in self._installed:
                raise Unsupported(f"the cluster driver {name} is not installed here")
            raise Unsupported(f"engine {backend} has no ability node, which the cluster driver {name} needs")
        return driver

    def kinds(self) -> list[DriverKind]:
        """All that are installed, by name."""
        return [self._kind(name) for name in sorted(self._installed)]

    def backends(self, name: str | None = None) -> list[str]:
        """The engines that clusters (of one kind) can be made on."""
        return list(dict.fromkeys(backend for kind, backend in self._drivers if name in (None, kind)))

    async def close(self) -> None:
        """Close every driver's connections."""
        for driver in self._drivers.values():
            await driver.close()

    def _kind(self, name: str) -> DriverKind:
        for (kind, _), driver in self._drivers.items():
            if kind == name:
                return DriverKind(name, name not in self._disabled, driver.provides, driver.abilities)
        return DriverKind(name, False)


def load_drivers(engines: Engines, settings: Settings) -> Drivers:
    """Make every installed driver on every engine that can carry nodes of clusters (ability NODE)."""
    found = {entry.name: entry for entry in entry_points(group=DRIVERS)}
    hosts = {name: engine for name, engine in engines.items() if isinstance(engine, Nodes)}
    made = {(kind, name): entry.load()(host, settings) for kind, entry in found.items() for name, host in hosts.items()}
    return Drivers(made, installed=found, disabled=settings.clusters.disabled_drivers)
