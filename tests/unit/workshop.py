"""The action log, workers and an engine in memory on one database, without any HTTP."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

from pydantic import SecretStr
from sqlalchemy import ColumnElement
from sqlmodel import col, select, update

import app.steps  # noqa: F401  # the worker runs what is registered by then
from app import containers
from app.actions import Asked
from app.backends.engine import ContainerEngine
from app.containers import CreateArgs, KillArgs, TimeoutArgs
from app.db import EVERYTHING, Database, Scope, db_now
from app.models import UNFINISHED, Action, ActionState, Container
from app.settings import Settings
from app.vault import Vault
from app.worker import Worker
from tests.api.caisson import BUSY, StrictEngine, eventually

PROJECT = "alpha"
ARGS = {"kill": KillArgs, "stop": TimeoutArgs, "reboot": TimeoutArgs}


class CountingEngine(StrictEngine):
    """Notices when two changes of one container overlap."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.inside: Counter[str] = Counter()
        self.overlaps: list[str] = []

    @asynccontextmanager
    async def _on(self, ref: str) -> AsyncIterator[None]:
        if self.inside[ref]:
            self.overlaps.append(ref)
        self.inside[ref] += 1
        try:
            yield
        finally:
            self.inside[ref] -= 1

    async def create(self, uuid: UUID, spec: Any) -> Any:
        async with self._on(str(uuid)):
            return await super().create(uuid, spec)

    async def pause(self, ref: str) -> None:
        async with self._on(ref):
            await super().pause(ref)

    async def unpause(self, ref: str) -> None:
        async with self._on(ref):
            await super().unpause(ref)

    async def remove(self, ref: str, force: bool) -> None:
        async with self._on(ref):
            await super().remove(ref, force)


class Workshop:
    """One database and one engine; as many workers as a test starts."""

    def __init__(self, url: str, folder: Path, **settings: Any) -> None:
        self.url = url
        self.settings = Settings(
            data_dir=folder, database_url=url, secret_key=SecretStr("key"), **({"poll_seconds": 0.05} | settings)
        )
        self.vault = Vault("key")
        self.database = Database(url)
        self.engine = CountingEngine("local")
        self.engine.add_image(BUSY)
        self._workers: list[Worker] = []
        self._databases = [self.database]

    async def close(self) -> None:
        for worker in self._workers:
            await worker.stop()
        for database in self._databases:
            await database.close()

    def worker(self, *, replica: bool = False, engine: ContainerEngine | None = None, **settings: Any) -> Worker:
        """Start a worker; a replica has connections of its own, where the database allows for that."""
        database = self.database
        if replica and not self.database.embedded:
            database = Database(self.url)
            self._databases.append(database)
        engine = engine or (self.engine.twin() if replica else self.engine)
        worker = Worker(database, {"local": engine}, self.settings.model_copy(update=settings), self.vault)
        self._workers.append(worker)
        worker.start()
        return worker

    async def stop(self, worker: Worker) -> None:
        self._workers.remove(worker)
        await worker.stop()

    async def kill(self, worker: Worker) -> None:
        """End it as SIGKILL does: in the middle of whatever it does, with its leases on it, which end at once here."""
        self._workers.remove(worker)
        tokens = [run.job.action.lease_token for run in worker._runs.values()]
        tasks = [*worker._loops, *(run.task for run in worker._runs.values())]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.change(col(Action.lease_token).in_(tokens), lease_until=db_now() - 1)

    async def create(self, *, run: bool = False, project: str = PROJECT, **columns: Any) -> str:
        """Submit a container. Returns its uuid."""
        row: dict[str, Any] = {
            "project_id": project, "user_id": "u", "name": "box", "image": BUSY, "command": ["sleep", "1000"],
            "backend": "local", "created_at": 0.0,
        }  # fmt: skip
        box = Container(**(row | columns))
        args = CreateArgs(run=run, pull="ifnotpresent")
        async with self.database.transaction(Scope(project)) as session:
            await containers.accept(session, Asked("u", "req-1"), box, self.engine, self.settings, args)
        self._wake()
        return box.uuid

    async def act(self, uuid: str, verb: str) -> None:
        async with self.database.transaction(EVERYTHING) as session:
            box = await containers.find(session, uuid, lock=True)
            args = ARGS[verb]() if verb in ARGS else None
            await containers.act(session, Asked("u", "req-2"), box, verb, self.settings, args)
        self._wake()

    async def delete(self, uuid: str, *, force: bool = True, stop: bool = False) -> None:
        async with self.database.transaction(EVERYTHING) as session:
            box = await containers.find(session, uuid, lock=True)
            await containers.delete(session, Asked("u", "req-3"), box, self.settings, force=force, stop=stop)
        self._wake()

    async def made(self, *, run: bool = True, **columns: Any) -> str:
        """A container that is ready. Returns its uuid."""
        uuid = await self.create(run=run, **columns)
        await self.idle(uuid)
        assert (await self.box(uuid)).status == ("Running" if run else "Created")
        return uuid

    async def box(self, uuid: str) -> Container:
        async with self.database.reading(EVERYTHING) as session:
            return (await session.exec(select(Container).where(Container.uuid == uuid))).one()

    async def boxes(self) -> Sequence[Container]:
        async with self.database.reading(EVERYTHING) as session:
            return (await session.exec(select(Container))).all()

    async def actions(self, uuid: str) -> Sequence[Action]:
        """What the log holds of a resource, oldest first."""
        async with self.database.reading(EVERYTHING) as session:
            query = select(Action).where(Action.resource_id == uuid).order_by(col(Action.id))
            return (await session.exec(query)).all()

    async def last(self, uuid: str) -> Action:
        return (await self.actions(uuid))[-1]

    async def idle(self, *uuids: str) -> None:
        """Wait until no action is unfinished, of these resources or of any container."""

        async def ended() -> bool:
            query = select(Action.id).where(col(Action.state).in_(UNFINISHED), Action.resource_kind == "container")
            if uuids:
                query = query.where(col(Action.resource_id).in_(uuids))
            async with self.database.reading(EVERYTHING) as session:
                return (await session.exec(query.limit(1))).first() is None

        await eventually(ended, lambda: "actions are still unfinished")

    async def reaches(self, uuid: str, state: ActionState) -> Action:
        """Wait until the last action of this resource is in a state."""
        action: Action | None = None

        async def there() -> bool:
            nonlocal action
            action = await self.last(uuid)
            return action.state == state

        await eventually(there, lambda: f"{state}: {action}")
        assert action is not None
        return action

    async def due(self, uuid: str) -> None:
        """Let the time pass for which an action of this resource waits."""
        await self.change(col(Action.resource_id) == uuid, run_after=db_now())
        self._wake()

    async def change(self, which: ColumnElement[bool], **columns: Any) -> None:
        """Change actions behind everybody's back."""
        async with self.database.transaction(EVERYTHING) as session:
            change = update(Action).where(which).values(**columns)
            await session.exec(change.execution_options(synchronize_session=False))

    async def set(self, action: Action, **columns: Any) -> None:
        """Change an action behind everybody's back."""
        await self.change(col(Action.id) == action.id, **columns)

    async def called(self, verb: str, times: int = 1) -> None:
        """Wait until the engine's verb was called so often."""

        async def enough() -> bool:
            await asyncio.sleep(0)
            return self.engine.calls[verb] >= times

        await eventually(enough, lambda: f"{verb} was called {self.engine.calls[verb]} times, not {times}")

    def _wake(self) -> None:
        for worker in self._workers:
            worker.wake()


@asynccontextmanager
async def workshop(url: str, folder: Path, **settings: Any) -> AsyncIterator[Workshop]:
    """A workshop on an empty database that has the newest schema."""
    made = Workshop(url, folder, **settings)
    try:
        yield made
    finally:
        await made.close()


async def again(shop: Workshop, uuid: str) -> None:
    """Wait until the last action of a resource waits for its next try, or has had it, and let the time pass."""

    async def tried() -> bool:
        return (action := await shop.last(uuid)).attempts > 0 and action.state != ActionState.RUNNING

    await eventually(tried, lambda: "not tried yet")
    await shop.due(uuid)
