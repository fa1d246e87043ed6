"""Observers: rows follow what the engines show.

Two ways lead here. The engine's event stream names one container that changed: it is looked at once, within
milliseconds. A recurring action per backend compares everything, for what the stream missed. Both write a row only when
no action works on it and its `revision` is what it was before the engine was asked, so an observer never overwrites a
newer outcome with an older look.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

import structlog
from sqlalchemy import delete
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from app import actions, capsules, changes, containers, firewall, tickets, volumes
from app.actions import SYSTEM, Again, Job, Outcome, step
from app.backends.engine import SILENT_MOST, ContainerEngine, Seen, State, Watches
from app.db import EVERYTHING, Database
from app.errors import EngineError
from app.models import UNFINISHED, Action, ActionState, Capsule, Cluster, Container, Status
from app.settings import Settings

log = structlog.get_logger("caisson.observe")

PRUNE_EVERY = 3600.0  # seconds
BUSY_WAIT = 0.25  # seconds between looks at whether an action on a container that an event named has ended


UNDER_WAY: Mapping[str, str] = {
    Status.CREATING: "not made: what should have made it was given up",
    Status.DELETING: "not deleted: what should have deleted it was given up",
}
"""Statuses in which somebody works on a container, and what is to be said when nobody does."""


def backend_id(name: str) -> str:
    """The resource that a backend's recurring action belongs to."""
    return str(uuid5(NAMESPACE_URL, f"caisson:backend:{name}"))


PRUNE_ID = str(uuid5(NAMESPACE_URL, "caisson:prune"))


async def ensure(database: Database, backends: Sequence[str]) -> None:
    """Make sure that every backend is observed and that old history is pruned."""
    for name in backends:
        await ensure_observed(database, name)
    await actions.ensure_recurring(database, PRUNE_ID, "history", "prune", next(iter(backends)))


async def ensure_observed(database: Database, backend: str) -> None:
    """Make sure that one backend is observed."""
    await actions.ensure_recurring(database, backend_id(backend), "backend", "observe", backend)


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
    """Look at one container and store what changed; the uuid may also be that of a capsule, which is its sandbox's."""
    async with database.reading(EVERYTHING) as session:
        row = (await session.exec(select(Container).where(Container.uuid == str(uuid)))).one_or_none()
        if row is not None and await actions.unfinished(session, _holders(row)):
            return Looked.BUSY
    if row is None:
        return await refresh_capsule(engine, database, settings, str(uuid))
    seen = await engine.find(uuid)
    if seen is None or not _same(row, seen):
        if row.nets and seen is not None and containers.epoch(seen.started_at) != row.started_at:
            # The engine started it by itself: its interface is another one, on which nothing passes yet.
            await actions.hurry_one(database, firewall.guard_id(engine.name))
        async with database.transaction(EVERYTHING) as session:
            looked = await _store(session, settings, row, seen)
        if looked is not Looked.SETTLED:
            return looked
    if row.capsule_id is not None:
        return await refresh_capsule(engine, database, settings, row.capsule_id)
    return Looked.SETTLED


async def refresh_capsule(engine: ContainerEngine, database: Database, settings: Settings, uuid: str) -> Looked:
    """Look at a capsule's sandbox, and let the capsule follow it and the rows of its members."""
    async with database.reading(EVERYTHING) as session:
        capsule = (await session.exec(select(Capsule).where(Capsule.uuid == uuid))).one_or_none()
        if capsule is None:
            return Looked.SETTLED
        boxes = await capsules.members(session, [uuid])
        if await actions.unfinished(session, [uuid]):
            return Looked.BUSY
    if capsule.engine_ref is None and capsule.status == Status.ERROR:
        return Looked.SETTLED  # it was never made, or is lost: nothing that is seen now mends it
    sandbox = await engine.find(UUID(uuid))
    changes = capsules.changes_of(capsule, boxes, sandbox)
    if all(getattr(capsule, name) == value for name, value in changes.items()):
        return Looked.SETTLED
    async with database.transaction(EVERYTHING) as session:
        query = select(Capsule).where(Capsule.uuid == uuid).with_for_update()
        row = (await session.exec(query)).one_or_none()
        if row is None:
            return Looked.SETTLED
        if row.revision != capsule.revision or await actions.unfinished(session, [uuid]):
            return Looked.BUSY
        if capsules.heals(row, boxes, sandbox):
            await capsules.heal(session, row, settings)
            return Looked.SUBMITTED
        row.updated_at = await actions.clock(session)  # before the rest: asking writes what has changed so far
        for name, value in changes.items():
            setattr(row, name, value)
    return Looked.SETTLED


def _holders(row: Container) -> list[str]:
    """The resources whose actions change a row: itself, or its capsule."""
    return [row.uuid] if row.capsule_id is None else [row.uuid, row.capsule_id]


async def compare(engine: ContainerEngine, database: Database, settings: Settings) -> int:
    """Compare all rows with all that the engine shows. Returns how many rows changed; removes true orphans."""
    async with database.reading(EVERYTHING) as session:
        rows = (await session.exec(select(Container).where(Container.backend == engine.name))).all()
        known = set((await session.exec(select(Capsule.uuid).where(Capsule.backend == engine.name))).all())
        busy = await actions.unfinished(session)
    shown = {str(seen.uuid): seen for seen in await engine.find_all()}
    changed = 0
    for row in rows:
        if busy.intersection(_holders(row)):
            continue
        seen = shown.get(row.uuid) or await engine.find(UUID(row.uuid))
        if seen is None or not _same(row, seen):
            async with database.transaction(EVERYTHING) as session:
                await _store(session, settings, row, seen)
            changed += 1
    for uuid in known - busy:
        await refresh_capsule(engine, database, settings, uuid)
    known |= {row.uuid for row in rows}
    await _sweep(engine, database, [seen for uuid, seen in shown.items() if uuid not in known])
    return changed


@step("backend", "observe")
async def observe(job: Job) -> Outcome:
    """The recurring comparison of one backend."""
    every = job.settings.observe_seconds
    try:
        await compare(job.engine, job.database, job.settings)
        await volumes.sweep(job.engine, job.database)
        await changes.sweep(job.engine.name, job.database, job.settings)
    except EngineError as error:
        log.warning("backend not observed", backend=job.engine.name, reason=error.title)
        # When the engine is back, its events are, and they begin with a comparison.
        silent = min(job.memo.get("silent", every) * 2, max(every, SILENT_MOST))
        return Again(silent, {"silent": silent})
    return Again(every, {})


@step("history", "prune")
async def prune(job: Job) -> Outcome:
    """Forget finished actions of resources that are gone, after `history_days`, and tickets that expired.

    Of what is there all are kept, but no more than the last thousand of each.
    """
    async with job.database.transaction(EVERYTHING) as session:
        await tickets.prune(session)
        before = await actions.clock(session) - job.settings.history_days * 86400
        await session.exec(
            delete(Action)
            .where(
                col(Action.finished_at) < before,
                col(Action.state).not_in(UNFINISHED),
                col(Action.resource_id).not_in(select(Container.uuid)),
                col(Action.resource_id).not_in(select(Capsule.uuid)),
                col(Action.resource_id).not_in(select(Cluster.uuid)),
            )
            .execution_options(synchronize_session=False)
        )
        await actions.forget_beyond(session, actions.KEPT)
    return Again(PRUNE_EVERY)


async def _store(session: AsyncSession, settings: Settings, before: Container, seen: Seen | None) -> Looked:
    """Write what was seen, unless the row moved on since `before` was read."""
    query = select(Container).where(Container.uuid == before.uuid).with_for_update()
    row = (await session.exec(query)).one_or_none()
    if row is None:
        return Looked.SETTLED
    if row.revision != before.revision or await actions.unfinished(session, _holders(row)):
        return Looked.BUSY
    if seen is None:
        return await _missing(session, settings, row)
    changes = _changes(row, seen)
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
    # And nobody works on it: its capsule's creation was given up before it was reached, or its capsule's deletion.
    if row.status in UNDER_WAY:
        row.updated_at = await actions.clock(session)
        row.status, row.status_reason = Status.ERROR, UNDER_WAY[row.status]
    if row.engine_ref is not None and row.status != Status.ERROR:
        row.addresses, row.updated_at = {}, await actions.clock(session)
        row.status, row.status_reason = Status.ERROR, "No such container: it was removed from the engine by others"
    return Looked.SETTLED


def _same(row: Container, seen: Seen) -> bool:
    if row.auto_remove and seen.state == State.EXITED:
        return False
    return all(getattr(row, name) == value for name, value in _changes(row, seen).items())


def _changes(row: Container, seen: Seen) -> dict[str, Any]:
    return containers.changes_of(row, seen) if row.capsule_id is None else capsules.member_changes(row, seen)


async def _sweep(engine: ContainerEngine, database: Database, strays: Sequence[Seen]) -> None:
    """Engine objects without a row: removed when the log holds their finished delete, otherwise reported.

    Of a capsule's members that is the capsule's.
    """
    if not strays:
        return
    uuids = [str(seen.group or seen.uuid) for seen in strays]
    async with database.reading(EVERYTHING) as session:
        living: set[str] = set()
        for kind in (Container, Capsule):
            living |= set((await session.exec(select(kind.uuid).where(col(kind.uuid).in_(uuids)))).all())
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
        uuid = str(seen.group or seen.uuid)
        if uuid in living:
            continue
        if uuid in deleted:
            await engine.remove(seen.ref, force=True)
            log.info("orphan removed", container=uuid)
        else:
            log.warning("container without a row", container=uuid, ref=seen.ref[:12], backend=engine.name)
