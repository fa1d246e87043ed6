"""Observers: rows follow what the engines show.

Two ways lead here. The engine's event stream names one container that changed: it is looked at once, within
milliseconds. A recurring action per backend compares everything, for what the stream missed. Both write a row only when
no action works on it and its `revision` is what it was before the engine was asked, so an observer never overwrites a
newer outcome with an older look.
"""

import asyncio
from collections.abc import Callable, Sequence
from enum import Enum
from uuid import NAMESPACE_URL, UUID, uuid5

import structlog
from sqlalchemy import delete
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from app import actions, containers
from app.actions import SYSTEM, Again, Job, Outcome, step
from app.backends.engine import ContainerEngine, Seen, State, Watches
from app.db import EVERYTHING, Database
from app.errors import EngineError
from app.models import UNFINISHED, Action, ActionState, Container, Status
from app.settings import Settings

log = structlog.get_logger("caisson.observe")

PRUNE_EVERY = 3600.0  # seconds
BUSY_WAIT = 0.25  # seconds between looks at whether an action on a container that an event named has ended


def backend_id(name: str) -> str:
    """The resource that a backend's recurring action belongs to."""
    return str(uuid5(NAMESPACE_URL, f"caisson:backend:{name}"))


PRUNE_ID = str(uuid5(NAMESPACE_URL, "caisson:prune"))


async def ensure(database: Database, backends: Sequence[str]) -> None:
    """Make sure that every backend is observed and that old history is pruned."""
    for name in backends:
        await actions.ensure_recurring(database, backend_id(name), "backend", "observe", name)
    await actions.ensure_recurring(database, PRUNE_ID, "history", "prune", next(iter(backends)))


class Looked(Enum):
    """What became of a look at one container."""

    SETTLED = "the row shows what was seen"
    SUBMITTED = "an action was submitted for it"
    BUSY = "an action works on it, or the row changed meanwhile: look again"


async def watch(engine: ContainerEngine, database: Database, settings: Settings, wake: Callable[[], None]) -> None:
    """Follow the engine's events for ever; with an engine that has none, the recurring action is all there is."""
    if not isinstance(engine, Watches):
        return
    named: set[UUID] = set()
    news = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(_look_at(named, news, engine, database, settings, wake))
        async for event in engine.watch():
            if event.uuid is not None:
                named.add(event.uuid)
                news.set()
            if event.lost:
                await _catch_up(engine, database, settings)
                wake()


async def _look_at(
    named: set[UUID],
    news: asyncio.Event,
    engine: ContainerEngine,
    database: Database,
    settings: Settings,
    wake: Callable[[], None],
) -> None:
    """Look at the containers that events named. One that an action works on stays named until the action has ended:
    what the action saw last may be older than the event."""
    while True:
        await news.wait()
        news.clear()
        try:
            async with database.reading(EVERYTHING) as session:
                busy = await actions.unfinished(session, [str(uuid) for uuid in named])
            for uuid in [uuid for uuid in named if str(uuid) not in busy]:
                named.discard(uuid)
                looked = await refresh(engine, database, settings, uuid)
                if looked is Looked.SUBMITTED:
                    wake()
                elif looked is Looked.BUSY:
                    named.add(uuid)
        except Exception as error:  # whatever is missed now is found by the recurring comparison
            log.warning("event not followed", backend=engine.name, error=repr(error))
        if named:
            await asyncio.sleep(BUSY_WAIT)
            news.set()


async def _catch_up(engine: ContainerEngine, database: Database, settings: Settings) -> None:
    try:
        await actions.hurry(database, engine.name)
        await compare(engine, database, settings)
    except Exception as error:
        log.warning("events not caught up with", backend=engine.name, error=repr(error))


async def refresh(engine: ContainerEngine, database: Database, settings: Settings, uuid: UUID) -> Looked:
    """Look at one container and store what changed."""
    async with database.reading(EVERYTHING) as session:
        row = (await session.exec(select(Container).where(Container.uuid == str(uuid)))).one_or_none()
        if row is None:
            return Looked.SETTLED
        if await actions.unfinished(session, [row.uuid]):
            return Looked.BUSY
    seen = await engine.find(uuid)
    if seen is not None and _same(row, seen):
        return Looked.SETTLED
    async with database.transaction(EVERYTHING) as session:
        return await _store(session, settings, row, seen)


async def compare(engine: ContainerEngine, database: Database, settings: Settings) -> int:
    """Compare all rows with all that the engine shows. Returns how many rows changed; removes true orphans."""
    async with database.reading(EVERYTHING) as session:
        rows = (await session.exec(select(Container).where(Container.backend == engine.name))).all()
        busy = await actions.unfinished(session)
    shown = {str(seen.uuid): seen for seen in await engine.find_all()}
    changed = 0
    for row in rows:
        if row.uuid in busy:
            continue
        seen = shown.get(row.uuid) or await engine.find(UUID(row.uuid))
        if seen is None or not _same(row, seen):
            async with database.transaction(EVERYTHING) as session:
                await _store(session, settings, row, seen)
            changed += 1
    known = {row.uuid for row in rows}
    await _sweep(engine, database, [seen for uuid, seen in shown.items() if uuid not in known])
    return changed


@step("backend", "observe")
async def observe(job: Job) -> Outcome:
    """The recurring comparison of one backend."""
    try:
        await compare(job.engine, job.database, job.settings)
    except EngineError as error:
        log.warning("backend not observed", backend=job.engine.name, reason=error.title)
    return Again(job.settings.observe_seconds)


@step("history", "prune")
async def prune(job: Job) -> Outcome:
    """Forget finished actions of resources that are gone, after `history_days`."""
    async with job.database.transaction(EVERYTHING) as session:
        before = await actions.clock(session) - job.settings.history_days * 86400
        living = select(Container.uuid)
        await session.exec(
            delete(Action)
            .where(
                col(Action.finished_at) < before,
                col(Action.state).not_in(UNFINISHED),
                col(Action.resource_id).not_in(living),
            )
            .execution_options(synchronize_session=False)
        )
    return Again(PRUNE_EVERY)


async def _store(session: AsyncSession, settings: Settings, before: Container, seen: Seen | None) -> Looked:
    """Write what was seen, unless the row moved on since `before` was read."""
    query = select(Container).where(Container.uuid == before.uuid).with_for_update()
    row = (await session.exec(query)).one_or_none()
    if row is None:
        return Looked.SETTLED
    if row.revision != before.revision or await actions.unfinished(session, [row.uuid]):
        return Looked.BUSY
    if seen is None:
        return await _missing(session, settings, row)
    changes = containers.changes_of(row, seen)
    if any(getattr(row, name) != value for name, value in changes.items()):
        row.updated_at = await actions.clock(session)  # before the rest: asking writes what has changed so far
        for name, value in changes.items():
            setattr(row, name, value)
    if row.auto_remove and seen.state == State.EXITED:
        await containers.delete(session, SYSTEM, row, settings)
        return Looked.SUBMITTED
    return Looked.SETTLED


async def _missing(session: AsyncSession, settings: Settings, row: Container) -> Looked:
    """The engine lost a container that should be there."""
    if row.auto_remove and row.engine_ref is not None:
        row.status = Status.STOPPED
        await containers.delete(session, SYSTEM, row, settings)
        return Looked.SUBMITTED
    if row.auto_heal and row.engine_ref is not None:
        row.status, row.engine_ref = Status.REBUILDING, None
        args = containers.CreateArgs(run=row.wanted_running, pull="ifnotpresent")
        now = await actions.clock(session)
        deadline = now + settings.action_deadline
        actions.submit(session, SYSTEM, "container", row, "create", row.backend, now, args=args, deadline=deadline)
        return Looked.SUBMITTED
    if row.engine_ref is not None and row.status != Status.ERROR:
        row.addresses, row.updated_at = {}, await actions.clock(session)
        row.status, row.status_reason = Status.ERROR, "No such container: it was removed from the engine by others"
    return Looked.SETTLED


def _same(row: Container, seen: Seen) -> bool:
    if row.auto_remove and seen.state == State.EXITED:
        return False
    return all(getattr(row, name) == value for name, value in containers.changes_of(row, seen).items())


async def _sweep(engine: ContainerEngine, database: Database, strays: Sequence[Seen]) -> None:
    """Engine objects without a row: removed when the log holds their finished delete, otherwise reported."""
    if not strays:
        return
    uuids = [str(seen.uuid) for seen in strays]
    async with database.reading(EVERYTHING) as session:
        living = set((await session.exec(select(Container.uuid).where(col(Container.uuid).in_(uuids)))).all())
        deleted = set(
            (
                await session.exec(
                    select(Action.resource_id).where(
                        col(Action.resource_id).in_(uuids), Action.verb == "delete", Action.state == ActionState.DONE
                    )
                )
            ).all()
        )
    for seen in strays:
        uuid = str(seen.uuid)
        if uuid in living:
            continue
        if uuid in deleted:
            await engine.remove(seen.ref, force=True)
            log.info("orphan removed", container=uuid)
        else:
            log.warning("container without a row", container=uuid, ref=seen.ref[:12], backend=engine.name)
