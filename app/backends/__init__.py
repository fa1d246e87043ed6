"""Engines, found by the entry point group ``app.backends``: nothing here names one."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from importlib.metadata import entry_points

import structlog

from app.backends.engine import ContainerEngine, EngineInfo
from app.errors import EngineError, Invalid
from app.settings import BackendSettings, Settings

GROUP = "app.backends"
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

    `tried` is true once all were asked, whatever they answered.
    """

    def __init__(self, engines: Mapping[str, ContainerEngine]) -> None:
        self._engines = dict(engines)
        self._infos: dict[str, EngineInfo] = {}
        self.tried = False

    def __getitem__(self, name: str) -> ContainerEngine:
        return self._engines[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._engines)

    def __len__(self) -> int:
        return len(self._engines)

    def info(self, name: str) -> EngineInfo | None:
        """The last answer of an engine's ping; None while there is none."""
        return self._infos.get(name)

    def on_host(self, host: str) -> str | None:
        """The backend whose name or hostname this is."""
        for name in self._engines:
            info = self.info(name)
            if host == name or (info is not None and host == info.hostname):
                return name
        return None

    def belong_to(self, installation: str) -> None:
        """Let the engines mark what they make as this installation's, and show nothing of others."""
        for engine in self._engines.values():
            engine.installation = installation

    async def ping(self) -> list[str]:
        """Ask every engine once, and return who answered; one that does not keeps what it said before."""
        answered = await asyncio.gather(*(self._ping(name) for name in self._engines))
        return [name for name, yes in zip(self._engines, answered, strict=True) if yes]

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
        for engine in self._engines.values():
            await engine.close()

    async def _ping(self, name: str) -> bool:
        try:
            self._infos[name] = await self._engines[name].ping()
        except EngineError as error:
            log.warning("engine does not answer", backend=name, reason=error.title)
            return False
        return True
