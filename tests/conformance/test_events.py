"""Events of our containers."""

import asyncio
from uuid import UUID

import pytest

from app.backends.engine import Ability, EngineEvent, Watches
from tests.conformance.place import Place, until

pytestmark = pytest.mark.needs(Ability.WATCH)


class Watcher:
    """Collects the events of an engine."""

    def __init__(self, place: Place) -> None:
        assert isinstance(place.engine, Watches)
        self._engine = place.engine
        self.events: list[EngineEvent] = []
        self._task = asyncio.create_task(self._collect())

    async def _collect(self) -> None:
        async for event in self._engine.watch():
            self.events.append(event)

    async def started(self) -> None:
        """Return when the first event is there."""

        async def first() -> bool:
            return bool(self.events)

        await until(first)

    async def saw(self, uuid: UUID, what: str) -> None:
        """Return when this has happened."""

        async def happened() -> bool:
            return any((event.uuid, event.what) == (uuid, what) for event in self.events)

        await until(happened)

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])
        assert self._task.cancelled()


async def test_everybody_who_watches_sees_a_life(place: Place) -> None:
    watchers = [Watcher(place), Watcher(place)]
    for watcher in watchers:
        await watcher.started()
    seen = await place.run("sleep", "1000")
    await place.engine.stop(seen.ref, 0)
    await place.engine.remove(seen.ref, force=True)
    for watcher in watchers:
        await watcher.saw(seen.uuid, "destroy")
        assert watcher.events[0].lost
        assert watcher.events[0].uuid is None
        assert not any(event.lost for event in watcher.events[1:])
        mine = [event.what for event in watcher.events if event.uuid == seen.uuid]
        assert [what for what in mine if what in ("create", "start", "die", "destroy")] == [
            "create",
            "start",
            "die",
            "destroy",
        ]
        await watcher.stop()


async def test_watching_ends_when_the_engine_is_closed(place: Place) -> None:
    assert isinstance(place.twin, Watches)
    events: list[EngineEvent] = []

    async def watch() -> None:
        assert isinstance(place.twin, Watches)
        async for event in place.twin.watch():
            events.append(event)

    watching = asyncio.create_task(watch())

    async def first() -> bool:
        return bool(events)

    await until(first)
    await place.twin.close()
    await asyncio.wait_for(watching, 30)
