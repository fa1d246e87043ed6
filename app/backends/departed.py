"""What stands in the place of an engine that is gone for good, as long as rows still refer to it."""

from collections.abc import AsyncIterator
from uuid import UUID

from app.backends.engine import (
    Ability,
    ContainerEngine,
    ContainerSpec,
    EngineInfo,
    ImageSeen,
    LogOptions,
    RegistryLogin,
    Seen,
)
from app.errors import Gone


def departed(name: str, reason: str) -> ContainerEngine:
    """An engine that holds nothing and can do nothing: what is asked of it ends at once, with `reason`."""
    return _Departed(name, reason)


class _Departed:
    def __init__(self, name: str, reason: str) -> None:
        self.name = name
        self.abilities: frozenset[Ability] = frozenset()
        self.installation: str | None = None
        self._reason = reason

    async def ping(self) -> EngineInfo:
        raise Gone(self._reason)

    async def find(self, uuid: UUID) -> Seen | None:
        return None

    async def find_all(self) -> list[Seen]:
        return []

    async def create(self, uuid: UUID, spec: ContainerSpec) -> Seen:
        raise Gone(self._reason)

    async def start(self, ref: str) -> None:
        raise Gone(self._reason)

    async def stop(self, ref: str, timeout: int) -> None:
        raise Gone(self._reason)

    async def restart(self, ref: str, timeout: int) -> None:
        raise Gone(self._reason)

    async def remove(self, ref: str, force: bool) -> None:
        return

    async def image(self, image: str) -> ImageSeen | None:
        raise Gone(self._reason)

    async def pull(self, image: str, login: RegistryLogin | None) -> None:
        raise Gone(self._reason)

    async def remove_image(self, image: str) -> None:
        return

    async def logs(self, ref: str, options: LogOptions) -> AsyncIterator[bytes]:
        raise Gone(self._reason)
        yield b""

    async def close(self) -> None:
        return
