"""The action log: submit, claim, renew, finish. Rules and reasons: docs/action-log.md.

An action is one accepted wish, committed together with the resource it concerns. A worker claims it with a lease, runs
its step, and stores the outcome in one transaction that is fenced by the lease's token: who lost the lease writes
nothing. Older unfinished actions of a resource come first, so each resource is a queue of its own.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from uuid import uuid4

from pydantic import BaseModel, ConfigDict
from sqlalchemy import ColumnElement, and_, bindparam, case, delete, event, exists, func, literal, or_, tuple_, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import aliased
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from app import audit
from app.backends import Drivers
from app.backends.engine import ContainerEngine
from app.catalogue import Catalogue
from app.db import CLOCK, EVERYTHING, Database, Scope, db_now, take_turn
from app.models import KINDS, UNFINISHED, Action, ActionState, Resource
from app.settings import Settings
from app.vault import Vault


class StepArgs(BaseModel):
    """What a verb was asked with; subclasses name the fields. Secrets are referenced, never stored here."""

    model_config = ConfigDict(extra="forbid")


@dataclass(frozen=True, slots=True)
class Done:
    """The wish is fulfilled. `changes` are written to the resource; `remove` deletes its row."""

    changes: Mapping[str, Any] = field(default_factory=dict)
    remove: bool = False
    message: str | None = None


@dataclass(frozen=True, slots=True)
class Again:
    """Not yet: run the step again in `after` seconds. 0 goes on under the same lease, once `memo` is stored."""

    after: float
    memo: Mapping[str, Any] | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Failed:
    """Final. `reason` is for the user; nothing is undone."""

    reason: str
    changes: Mapping[str, Any] = field(default_factory=dict)


Outcome = Done | Again | Failed


@dataclass(slots=True)
class Job:
    """A claimed action while it runs. Sessions opened through it are confined to the action's own project.

    `args` are of the step's own class; the worker reads them before it runs the step.
    """

    action: Action
    resource: Any
    args: Any
    memo: dict[str, Any]
    engine: ContainerEngine
    database: Database
    settings: Settings
    vault: Vault
    catalogue: Catalogue | None = None  # the cloud's other services; None with the embedded identity
    drivers: Drivers = field(default_factory=Drivers)

    @property
    def scope(self) -> Scope:
        """The action's project; recurring work belongs to none and sees everything."""
        return Scope(self.action.project_id) if self.action.project_id else EVERYTHING


Settle = Callable[[Job, Done | Failed, AsyncSession, Any], Awaitable[None]]
"""Called with the locked resource in the transaction that ends its action, whoever ended it."""


@dataclass(frozen=True, slots=True)
class Step:
    """How a verb is carried out, and how its end shows on the resource and on the rows that belong to it."""

    run: Callable[[Job], Awaitable[Outcome]]
    args: type[StepArgs]
    doing: str | None
    failed: Mapping[str, Any]
    settle: Settle | None = None


KEPT = 1000
"""Finished actions of one resource that are remembered while it is there."""
STEPS: dict[tuple[str, str], Step] = {}


def step(
    kind: str,
    verb: str,
    *,
    args: type[StepArgs] = StepArgs,
    doing: str | None = None,
    failed: Mapping[str, Any] | None = None,
    settle: Settle | None = None,
) -> Callable[[Callable[[Job], Awaitable[Outcome]]], Callable[[Job], Awaitable[Outcome]]]:
    """Register the function that carries out `verb` on a resource of `kind`.

    `doing` is the resource's ``task_state`` meanwhile; `failed` is written to it when the action fails. `settle` writes
    the rows that belong to the resource when the action ends, unless a delete has cancelled it.
    """

    def register(run: Callable[[Job], Awaitable[Outcome]]) -> Callable[[Job], Awaitable[Outcome]]:
        STEPS[kind, verb] = Step(run, args, doing, failed or {}, settle)
        return run

    return register


@dataclass(frozen=True, slots=True)
class Asked:
    """Who asked, with which request."""

    user_id: str
    request_id: str


SYSTEM = Asked("", "req-00000000-0000-0000-0000-000000000000")


async def clock(session: AsyncSession) -> float:
    """The database's time, epoch seconds."""
    return (await session.exec(CLOCK)).one()


def submit(
    session: AsyncSession,
    asked: Asked,
    kind: str,
    resource: Resource,
    verb: str,
    backend: str,
    now: float,
    *,
    args: StepArgs | None = None,
    memo: dict[str, Any] | None = None,
    deadline: float | None = None,
) -> Action:
    """Add an action for `resource` in the caller's transaction, which holds the resource's row."""
    action = Action(
        project_id=resource.project_id,
        user_id=asked.user_id,
        request_id=asked.request_id,
        resource_kind=kind,
        resource_id=resource.uuid,
        verb=verb,
        args=(args or StepArgs()).model_dump(mode="json"),
        memo=memo,
        backend=backend,
        created_at=now,
        run_after=now,
        deadline=deadline,
    )
    session.add(action)
    return action


async def cancel_older(session: AsyncSession, resource_id: str, now: float) -> bool:
    """End what is queued for the resource and tell what runs to stop. True when something was running.

    The session holds the resource's row. The actions are locked too, so that one which is being claimed is seen to run.
    """
    unfinished = await session.exec(
        select(Action)
        .where(Action.resource_id == resource_id, _open(Action.state))
        .order_by(col(Action.id))
        .with_for_update()
    )
    running = False
    for action in unfinished.all():
        if action.state == ActionState.RUNNING:
            action.cancel = running = True
        else:
            action.state = ActionState.CANCELLED
            action.finished_at = now
            action.message = "cancelled by a later delete"
            tell = partial(_audit, action, action.state, action.message)
            event.listen(session.sync_session, "after_commit", lambda _, tell=tell: tell(), once=True)
    return running


async def unfinished(session: AsyncSession, resource_ids: Sequence[str] | None = None) -> set[str]:
    """The resources (of those named, or all) that an action still works on: observers leave them alone."""
    query = select(Action.resource_id).where(_open(Action.state))
    if resource_ids is not None:
        query = query.where(col(Action.resource_id).in_(resource_ids))
    return set((await session.exec(query)).all())


async def history(session: AsyncSession, resource_id: str, request_id: str | None = None) -> list[Action]:
    """What was asked of a resource (by one request), newest first; the last thousand."""
    query = select(Action).where(Action.resource_id == resource_id).order_by(col(Action.id).desc()).limit(KEPT)
    if request_id is not None:
        query = query.where(Action.request_id == request_id)
    return list((await session.exec(query)).all())


async def forget_beyond(session: AsyncSession, kept: int) -> None:
    """Let no resource have more finished actions than `kept`: the oldest go."""
    place = func.row_number().over(partition_by=col(Action.resource_id), order_by=col(Action.id).desc())
    finished = select(Action.id, place.label("place")).where(~_open(Action.state)).subquery()
    beyond = select(finished.c.id).where(finished.c.place > kept)
    await session.exec(delete(Action).where(col(Action.id).in_(beyond)).execution_options(synchronize_session=False))


async def ensure_recurring(database: Database, resource_id: str, kind: str, verb: str, backend: str) -> None:
    """Make sure that a recurring action exists, and only one, also when several replicas start at once."""
    async with database.transaction(EVERYTHING) as session:
        await take_turn(session, resource_id)
        if await unfinished(session, [resource_id]):
            return
        now = await clock(session)
        session.add(
            Action(
                project_id="",
                user_id=SYSTEM.user_id,
                request_id=SYSTEM.request_id,
                resource_kind=kind,
                resource_id=resource_id,
                verb=verb,
                backend=backend,
                created_at=now,
                run_after=now,
            )
        )


async def hurry(database: Database, backend: str) -> None:
    """An engine is back: what waits for it need not wait on."""
    waiting = (
        select(Action.id)
        .where(Action.backend == backend, Action.state == ActionState.QUEUED, Action.attempts > 0)
        .with_for_update(skip_locked=True)
        .cte("waiting")
    )
    async with database.transaction(EVERYTHING) as session:
        await session.exec(
            update(Action)
            .where(col(Action.id).in_(select(waiting.c.id)))
            .values(run_after=db_now())
            .execution_options(synchronize_session=False)
        )


async def clock_was_set_back(database: Database, longest_lease: float | None) -> None:
    """Nothing waits until the database's clock shows again what it showed before: what is unfinished may go on now.

    No lease lasts longer than `longest_lease` seconds from now on; None leaves leases alone.
    """
    later = {"run_after": 0.0}
    if longest_lease is not None:
        later["lease_until"] = longest_lease
    async with database.transaction(EVERYTHING) as session:
        for name, seconds in later.items():
            latest = db_now() + seconds
            wrong = select(Action.id).where(_open(Action.state), getattr(Action, name) > latest)
            wrong = wrong.with_for_update(skip_locked=True)  # whoever holds a row now is alive, and ends it
            await session.exec(
                update(Action)
                .where(col(Action.id).in_(select(wrong.cte("wrong").c.id)))
                .values({name: latest})
                .execution_options(synchronize_session=False)
            )


async def hurry_one(database: Database, resource_id: str) -> None:
    """What waits for its time on one resource need not wait on."""
    async with database.transaction(EVERYTHING) as session:
        await session.exec(
            update(Action)
            .where(col(Action.resource_id) == resource_id, col(Action.state) == ActionState.QUEUED)
            .values(run_after=db_now())
            .execution_options(synchronize_session=False)
        )


async def claim(
    database: Database,
    backends: Sequence[str],
    slots: int,
    lease_seconds: float,
    *,
    share: int | None = None,
    busy: Mapping[str, int] | None = None,
    running_here: Collection[int] = (),
) -> list[tuple[Action, Any]]:
    """Take up to `slots` due actions, each with its resource (None when it has none, or it is gone).

    Due means: its time has come, its lease ended or was never taken, its verb is known and its backend reachable here,
    and no older action of the same resource is unfinished. Projects take turns: who has fewer running here comes first,
    and none gets more than `share` of them; `busy` says how many each has. Recurring work belongs to no project. What
    is `running_here` is not taken again, whatever the clock says: its process renews that lease or ends the step. The
    resource's ``task_state`` is set in the same transaction, unless another transaction holds the row: everybody else
    locks a resource before its actions, so waiting for it here could wait for ever.
    """
    older = aliased(Action)
    free = [
        _open(Action.state),
        col(Action.run_after) <= db_now(),
        or_(col(Action.lease_until).is_(None), col(Action.lease_until) <= db_now()),
    ]
    if running_here:
        free.append(col(Action.id).not_in(running_here))
    place = func.row_number().over(
        partition_by=col(Action.project_id), order_by=(col(Action.run_after), col(Action.id))
    )
    running = case(dict(busy), value=col(Action.project_id), else_=0) if busy else literal(0)
    turns = (
        select(Action.id, (place + running).label("turn"))
        .where(
            *free,
            col(Action.backend).in_(backends),
            tuple_(col(Action.resource_kind), col(Action.verb)).in_(list(STEPS)),
            ~exists().where(
                and_(
                    older.resource_id == Action.resource_id,  # type: ignore[arg-type]  # a column at class level
                    older.id < Action.id,  # type: ignore[arg-type]
                    _open(older.state),
                )
            ),
        )
        .cte("turns")
    )
    due = (
        select(Action.id)
        .join(turns, turns.c.id == Action.id)
        # Asked once more of the rows themselves: another replica may have taken some since they were counted.
        .where(*free, or_(turns.c.turn <= (share or slots), col(Action.project_id) == ""))
        .order_by(turns.c.turn, col(Action.run_after), col(Action.id))
        .limit(slots)
        .with_for_update(skip_locked=True, of=Action)
        .cte("due")  # evaluated once; as a plain subquery PostgreSQL might lock more than `slots` rows
    )
    take = (
        update(Action)
        .where(col(Action.id).in_(select(due.c.id)))
        .values(
            state=ActionState.RUNNING,
            lease_token=str(uuid4()),
            lease_until=db_now() + lease_seconds,
            attempts=Action.attempts + 1,
            started_at=func.coalesce(Action.started_at, db_now()),
        )
        .returning(Action)
        .execution_options(synchronize_session=False)
    )
    try:
        async with database.transaction(EVERYTHING) as session:
            actions = list((await session.exec(take)).scalars())
            held, resources = await _resources(session, actions)
            for action in actions:
                doing = STEPS[action.resource_kind, action.verb].doing
                if action.resource_id in held and doing is not None and not action.cancel:
                    resources[action.resource_id].task_state = doing
    except IntegrityError:  # the unique index: another replica runs an action of this resource
        return []
    return sorted(((action, resources.get(action.resource_id)) for action in actions), key=lambda pair: pair[0].id)


async def renew(database: Database, tokens: Sequence[str], lease_seconds: float) -> dict[tuple[int, str], bool]:
    """Prolong the leases held under `tokens`. Returns those still ours, by id and token, each with its cancel flag."""
    async with database.transaction(EVERYTHING) as session:
        rows = await session.exec(
            update(Action)
            .where(col(Action.lease_token).in_(tokens), col(Action.state) == ActionState.RUNNING)
            .values(lease_until=db_now() + lease_seconds)
            .returning(col(Action.id), col(Action.lease_token), col(Action.cancel))
            .execution_options(synchronize_session=False)
        )
        return {(row.id, row.lease_token): row.cancel for row in rows}


async def release(database: Database, ids: Sequence[int], tokens: Sequence[str]) -> None:
    """Hand leases back: another replica may go on at once."""
    async with database.transaction(EVERYTHING) as session:
        await session.exec(
            update(Action)
            .where(
                col(Action.id).in_(ids),
                col(Action.lease_token).in_(tokens),
                col(Action.state) == ActionState.RUNNING,
            )
            .values(state=ActionState.QUEUED, lease_token=None, lease_until=None)
            .execution_options(synchronize_session=False)
        )


async def cancelled(database: Database, job: Job) -> bool:
    """Record that a running action stopped because a delete asked for it. False when the lease was lost."""
    return await _fenced(database, job, {"state": ActionState.CANCELLED, "message": "cancelled by a later delete"}, {})


async def finish(database: Database, job: Job, outcome: Outcome) -> bool:
    """Store an outcome. False, and nothing is written, when the lease was lost."""
    step = STEPS[job.action.resource_kind, job.action.verb]
    match outcome:
        case Done(changes, remove, message):
            ended = {"state": ActionState.DONE, "message": message, **_noted(job)}
            settle = partial(step.settle, job, outcome) if step.settle else None
            return await _fenced(database, job, ended, changes, remove=remove, settle=settle)
        case Failed(reason, changes):
            shown = {**step.failed, "status_reason": reason, **changes}
            ended = {"state": ActionState.FAILED, "message": reason, **_noted(job)}
            settle = partial(step.settle, job, outcome) if step.settle else None
            return await _fenced(database, job, ended, shown, settle=settle)
        case Again(after, memo, changes):
            waiting = {
                "state": ActionState.QUEUED,
                "run_after": db_now() + after,
                "memo": dict(memo) if memo is not None else job.action.memo,
            }
            return await _fenced(database, job, waiting, changes)


async def holds(session: AsyncSession, job: Job) -> bool:
    """Whether the job's lease is its own until this transaction ends: a step that writes other rows asks first."""
    await _locked(session, job.action)
    mine = await session.exec(
        select(Action.id)
        .where(
            Action.id == job.action.id,
            Action.lease_token == job.action.lease_token,
            Action.state == ActionState.RUNNING,
            col(Action.cancel).is_(False),
        )
        .with_for_update()
    )
    return mine.first() is not None


async def write(session: AsyncSession, row: Any, changes: Mapping[str, Any]) -> None:
    """Change a row that the session holds, and its ``updated_at``; nothing is written when all is so already."""
    if any(getattr(row, name) != value for name, value in changes.items()):
        row.updated_at = await clock(session)  # before the rest: asking writes what has changed so far
        for name, value in changes.items():
            setattr(row, name, value)


def _noted(job: Job) -> dict[str, Any]:
    """What the step wrote into its memo since it began."""
    return {"memo": dict(job.memo)} if job.memo != (job.action.memo or {}) else {}


async def note(database: Database, job: Job, memo: Mapping[str, Any]) -> bool:
    """Store a memo and keep the lease. False when the lease was lost."""
    return await _fenced(database, job, {"memo": dict(memo)}, {})


async def _fenced(
    database: Database,
    job: Job,
    values: dict[str, Any],
    changes: Mapping[str, Any],
    *,
    remove: bool = False,
    settle: Callable[[AsyncSession, Any], Awaitable[None]] | None = None,
) -> bool:
    state = values.get("state")
    if state is not None:
        values |= {"lease_token": None, "lease_until": None}
    if state in (ActionState.DONE, ActionState.FAILED, ActionState.CANCELLED):
        values |= {"finished_at": db_now()}
    async with database.transaction(job.scope) as session:
        row = None if state is None or job.resource is None else await _locked(session, job.action)
        mine = await session.exec(
            update(Action)
            .where(
                col(Action.id) == job.action.id,
                col(Action.lease_token) == job.action.lease_token,
                col(Action.state) == ActionState.RUNNING,
            )
            .values(**values)
            .returning(col(Action.cancel))
            .execution_options(synchronize_session=False)
        )
        cancel = mine.scalar_one_or_none()
        if cancel is None:
            return False
        if row is not None:
            await _apply(session, row, changes, remove=remove, cancelled=cancel)
            if settle is not None and (remove or not cancel):
                await settle(session, row)
    if "finished_at" in values:
        _audit(job.action, values["state"], values["message"])
    return True


def _audit(action: Action, state: str, message: str | None) -> None:
    """Tell how a user's action ended; recurring work is nobody's."""
    if action.project_id:
        who = {"project_id": action.project_id, "user_id": action.user_id, "request_id": action.request_id}
        audit.ended(action.resource_kind, action.resource_id, action.verb, state, message, **who)


def _open(state: str) -> ColumnElement[bool]:
    """That an action is unfinished; the words stand in the statement itself.

    As parameters they would be unknown when the statement is planned, and then the indexes on open actions are of no
    use: each claim would read the whole history.
    """
    return col(state).in_(bindparam("open", UNFINISHED, expanding=True, literal_execute=True))


async def _locked(session: AsyncSession, action: Action) -> Any:
    """The action's resource, locked before the action itself as everywhere; None when it is gone."""
    kind: Any = KINDS[action.resource_kind]
    return (await session.exec(select(kind).where(kind.uuid == action.resource_id).with_for_update())).one_or_none()


async def _apply(session: AsyncSession, row: Any, changes: Mapping[str, Any], *, remove: bool, cancelled: bool) -> None:
    if remove:
        await session.delete(row)
        return
    if cancelled:  # a later delete owns the public status already
        changes = {name: value for name, value in changes.items() if name not in ("status", "status_reason")}
    await write(session, row, changes)
    row.task_state = None


async def _resources(session: AsyncSession, actions: Sequence[Action]) -> tuple[set[str], dict[str, Any]]:
    """The actions' resources by uuid, and which of them this transaction could lock."""
    held: set[str] = set()
    found: dict[str, Any] = {}
    for kind, model in KINDS.items():
        ids = {action.resource_id for action in actions if action.resource_kind == kind}
        if ids:
            query = select(model).where(col(model.uuid).in_(ids))
            locked = {row.uuid: row for row in await session.exec(query.with_for_update(skip_locked=True))}
            found |= locked
            held |= locked.keys()
        if missing := ids - found.keys():
            rows = await session.exec(select(model).where(col(model.uuid).in_(missing)))
            found |= {row.uuid: row for row in rows}
    return held, found
