"""Containers: what may be asked of them, and the steps that carry it out.

Each step looks at the engine first and does the one missing thing, so running it twice is harmless; see
docs/action-log.md. Public status is derived from what the engine shows in one function, `changes_of`.
"""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy import func
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from app import actions, images, names, networks
from app.actions import Again, Asked, Done, Failed, Job, Outcome, StepArgs, step
from app.backends.engine import (
    Ability,
    ContainerEngine,
    ContainerSpec,
    HealthCheck,
    Kills,
    Networks,
    Pauses,
    Port,
    Restart,
    Seen,
    State,
)
from app.db import exists_anywhere, take_turn
from app.errors import Conflict, EngineError, Gone, NotFound, RegistryDown, Unavailable, Unsupported, WrongState
from app.models import Container, Registry, Status
from app.settings import Settings

log = structlog.get_logger("caisson.containers")

LOOK_AGAIN = 10.0  # seconds after cancelling a running step, until a delete trusts that the engine shows nothing
STOP_GRACE = 10  # seconds, when a request names none

RESTING = (Status.CREATED, Status.ERROR, Status.STOPPED, Status.DELETED, Status.DEAD)
ALLOWED: dict[str, tuple[Status, ...]] = {  # zun-api, section 3.1: from which statuses a verb is accepted
    "start": (Status.CREATED, Status.STOPPED, Status.ERROR),
    "stop": (Status.RUNNING,),
    "reboot": (Status.CREATED, Status.RUNNING, Status.STOPPED, Status.ERROR),
    "pause": (Status.RUNNING,),
    "unpause": (Status.PAUSED,),
    "kill": (Status.RUNNING,),
    "logs": (Status.CREATED, Status.ERROR, Status.PAUSED, Status.RUNNING, Status.STOPPED, Status.UNKNOWN),
    "execute": (Status.RUNNING,),
    "top": (Status.RUNNING,),
    "stats": (Status.RUNNING,),
    "delete": RESTING,
    "delete_stop": (Status.RUNNING, *RESTING),
    "delete_force": (
        *RESTING, Status.CREATING, Status.RUNNING, Status.PAUSED, Status.UNKNOWN, Status.RESTARTING,
        Status.REBUILDING, Status.DELETING,
    ),
}  # fmt: skip

NEEDS = {
    "pause": (Ability.PAUSE, "stop and start it"),
    "unpause": (Ability.PAUSE, "stop and start it"),
    "kill": (Ability.KILL, "stop it"),
    "execute": (Ability.EXEC, "run the command in a container of its own"),
    "top": (Ability.MEASURE, "use execute with ps"),
    "stats": (Ability.MEASURE, "look at the host"),
}
"""Abilities that a verb needs of the engine, and what to do without; what is not here every engine can."""


COLUMNS = {
    name: col(getattr(Container, name))
    for name in (
        "id", "uuid", "name", "project_id", "user_id", "image", "status", "task_state", "cpu", "memory", "disk", "host",
        "created_at", "updated_at", "workdir", "hostname", "auto_remove", "auto_heal", "interactive", "tty",
        "image_driver",
    )
}  # fmt: skip
"""What lists can be sorted by."""


class CreateArgs(StepArgs):
    """`run` starts it once created; `pull` is the image policy: always, ifnotpresent or never."""

    run: bool = False
    pull: str = "always"


class TimeoutArgs(StepArgs):
    """Seconds that a container gets to end by itself."""

    timeout: int = STOP_GRACE


class KillArgs(StepArgs):
    """The signal, such as SIGKILL."""

    signal: str = "SIGKILL"


class DeleteArgs(StepArgs):
    """`look_again`: a running step was cancelled, so the engine may still be busy with its call."""

    look_again: bool = False


def uuid_of(box: Container) -> UUID:
    """A row's uuid, as engines take it."""
    return UUID(box.uuid)


async def find(session: AsyncSession, ident: str, *, own_project: str | None = None, lock: bool = False) -> Container:
    """By uuid or name, in the session's scope.

    An administrator's session sees all projects; then a name means the one in `own_project` first.
    Raises NotFound, or Conflict when several have the name.
    """
    query = select(Container)
    if lock:
        query = query.with_for_update()
    try:
        query = query.where(Container.uuid == str(UUID(ident)))
    except ValueError:
        query = query.where(Container.name == ident).limit(1000)
    rows = (await session.exec(query)).all()
    if len(rows) > 1:
        rows = [row for row in rows if row.project_id == own_project] or rows
    if not rows:
        raise NotFound(f"Container {ident} could not be found.", code="container-not-found")
    if len(rows) > 1:
        raise Conflict("Multiple containers exist with same name. Please use the container uuid instead.")
    return rows[0]


def check_state(box: Container, verb: str) -> None:
    """Raises WrongState when the status does not allow `verb`."""
    if box.status not in ALLOWED[verb]:
        shown = verb.partition("_")[0]
        raise WrongState(f"Cannot {shown} container {box.uuid} in {box.status} state")


def check_ability(engine: ContainerEngine, ability: Ability, what: str, instead: str) -> None:
    """Raises Unsupported, naming the engine, the ability and what to do instead."""
    if ability not in engine.abilities:
        raise Unsupported(f"The engine {engine.name!r} cannot {what} (ability {ability.value}): {instead}")


async def accept(
    session: AsyncSession, asked: Asked, box: Container, engine: ContainerEngine, settings: Settings, args: CreateArgs
) -> None:
    """Store a wished container and the action that makes it. Raises the 4xx or 501 that says why not.

    A row that is in Error already, because no host fits, is stored as it is.
    """
    images.parse(box.image)
    if box.disk:
        check_ability(engine, Ability.DISK_QUOTA, "limit a container's disk", "leave `disk` out")
    elif Ability.DISK_QUOTA not in engine.abilities:
        box.disk = 0
    if not box.name:
        box.name = names.generate()
    await _check_name(session, box, settings)
    box.wanted_running = args.run
    box.created_at = now = await actions.clock(session)
    session.add(box)
    if box.status == Status.ERROR:
        return
    deadline = now + settings.action_deadline
    actions.submit(session, asked, "container", box, "create", box.backend, now, args=args, deadline=deadline)


async def act(
    session: AsyncSession, asked: Asked, box: Container, verb: str, settings: Settings, args: StepArgs | None = None
) -> None:
    """Submit `verb` for a container whose row this session holds. Raises WrongState."""
    check_state(box, verb)
    now = await actions.clock(session)
    if verb == "reboot":
        box.status = Status.RESTARTING
    if verb in ("start", "reboot", "stop", "kill"):
        box.wanted_running = verb in ("start", "reboot")
    deadline = now + settings.action_deadline
    actions.submit(session, asked, "container", box, verb, box.backend, now, args=args, deadline=deadline)


async def delete(
    session: AsyncSession, asked: Asked, box: Container, settings: Settings, *, force: bool = False, stop: bool = False
) -> None:
    """Submit deletion: older unfinished actions are cancelled first. Raises WrongState."""
    check_state(box, "delete_force" if force else "delete_stop" if stop else "delete")
    now = await actions.clock(session)
    deadline = now + settings.action_deadline
    running = await actions.cancel_older(session, box.uuid, now)
    if stop and box.status == Status.RUNNING:
        grace = TimeoutArgs(timeout=STOP_GRACE)
        actions.submit(session, asked, "container", box, "stop", box.backend, now, args=grace, deadline=deadline)
        await session.flush()  # the stop gets the lower id: it goes first
    box.status, box.wanted_running = Status.DELETING, False
    args = DeleteArgs(look_again=running)
    actions.submit(session, asked, "container", box, "delete", box.backend, now, args=args, deadline=deadline)


def spec_of(box: Container, network: str | None, settings: Settings) -> ContainerSpec:
    """The wish for the engine that a row stands for."""
    policy, check = box.restart_policy or {}, box.healthcheck or {}
    return ContainerSpec(
        project_id=box.project_id,
        image=images.parse(box.image).full,
        command=box.command or (),
        entrypoint=box.entrypoint or (),
        environment=box.environment or {},
        labels=box.labels or {},
        workdir=box.workdir,
        hostname=box.hostname,
        cpu=box.cpu or 0.0,
        memory=box.memory or 0,
        disk=box.disk or 0,
        pids_limit=settings.pids_limit,
        restart=Restart(policy.get("Name", "no"), int(policy.get("MaximumRetryCount", "0"))),
        healthcheck=HealthCheck(check["test"], check.get("interval"), check.get("timeout"), check.get("retries"))
        if check
        else None,
        ports=[Port(**port) for port in box.exposed_ports or ()],
        interactive=box.interactive,
        tty=box.tty,
        privileged=box.privileged,
        runtime=box.runtime,
        network=network,
    )


def changes_of(box: Container, seen: Seen) -> dict[str, Any]:
    """What a row becomes when the engine shows `seen` (zun-api, section 4.4)."""
    status, reason = _status(box, seen)
    return {
        "status": status,
        "status_reason": reason,
        "engine_ref": seen.ref,
        "hostname": box.hostname or seen.hostname,
        "runtime": seen.runtime or box.runtime,
        "command": box.command or list(seen.command),
        "entrypoint": box.entrypoint or list(seen.entrypoint),
        "ports": list(seen.ports),
        "addresses": networks.shown_addresses(box.project_id, box.uuid, seen.addresses),
        "started_at": _epoch(seen.started_at),
        "finished_at": _epoch(seen.finished_at),
        "exit_code": None if seen.finished_at is None else seen.exit_code,
    }


def _status(box: Container, seen: Seen) -> tuple[Status, str | None]:
    match seen.state:
        case State.CREATED:
            if box.status in (Status.ERROR, Status.RESTARTING):
                return Status.ERROR, seen.error or box.status_reason
            return Status.CREATED, None
        case State.RUNNING:
            return Status.RUNNING, None
        case State.PAUSED:
            return Status.PAUSED, None
        case State.RESTARTING:
            return Status.RESTARTING, seen.error or None
        case State.DEAD:
            return Status.DEAD, seen.error or None
        case State.EXITED | State.REMOVING:
            return Status.STOPPED, _exit_reason(box, seen)


def _exit_reason(box: Container, seen: Seen) -> str | None:
    if seen.error:
        return seen.error
    if seen.oom_killed:
        return f"OOMKilled: the container ran out of memory (limit {box.memory} MiB)"
    return None


def _epoch(moment: datetime | None) -> float | None:
    return None if moment is None else moment.astimezone(UTC).timestamp()


async def _check_name(session: AsyncSession, box: Container, settings: Settings) -> None:
    if settings.unique_container_name_scope == "":
        return
    await take_turn(session, "container names")
    query = select(Container.uuid).where(func.lower(Container.name) == box.name.lower())
    if settings.unique_container_name_scope == "project":
        query = query.where(Container.project_id == box.project_id)
    if await exists_anywhere(session, query):
        raise Conflict(f"A container with name {box.name} exists already.", code="container-already-exists")


# --- steps ------------------------------------------------------------------------------------------------------


async def _look(job: Job) -> Seen | None:
    seen = await job.engine.find(uuid_of(job.resource))
    if seen is not None and seen.project_id != job.resource.project_id:
        raise Conflict(f"the engine's container {seen.ref[:12]} bears another project's label")
    return seen


async def _outcome(job: Job, **more: Any) -> Outcome:
    """Look once more and report what is there."""
    seen = await _look(job)
    if seen is None:
        return Failed("No such container: it is gone from the engine", {"status": Status.ERROR})
    return Done(changes_of(job.resource, seen) | more)


async def _refused(job: Job, error: EngineError) -> Outcome:
    """A verb that the engine said no to: the reason is the engine's, the status what it is now."""
    seen = await _look(job)
    if seen is None:
        return Failed(error.title, {"status": Status.ERROR})
    return Failed(error.title, changes_of(job.resource, seen) | {"status_reason": error.title})


@step("container", "create", args=CreateArgs, doing="container_creating", failed={"status": Status.ERROR})
async def create(job: Job) -> Outcome:
    """Pull if needed, make, start if wished."""
    box: Container = job.resource
    engine = job.engine
    seen = await _look(job)
    if seen is None:
        if await _missing_image(job):
            return Failed(f"Image {box.image} is not on the host, and its pull policy is never")
        network = await _network(engine, box.project_id)
        try:
            seen = await engine.create(uuid_of(box), spec_of(box, network, job.settings))
        except Gone as error:  # the image or network went away between two calls
            return await _retry_gone(job, error)
    if job.args.run and seen.state == State.CREATED:
        try:
            await engine.start(seen.ref)
        except Gone as error:
            return await _retry_gone(job, error)
        except Unavailable:
            raise
        except EngineError as error:  # it is made, and stays: its owner may mend what is wrong, and start it
            return Failed(error.title, changes_of(box, seen) | {"status": Status.ERROR, "status_reason": error.title})
        seen = await _look(job) or seen
    return Done(changes_of(box, seen))


async def _missing_image(job: Job) -> bool:
    """Make sure of the image. True when it is absent and must not be pulled."""
    box: Container = job.resource
    reference = images.parse(box.image).full
    policy = job.args.pull
    present = await job.engine.image(reference) is not None
    if policy == "never":
        return not present
    if present and policy == "ifnotpresent":
        return False
    login = await _login(job, box)
    try:
        await job.engine.pull(reference, login)
    except RegistryDown:
        if not present:
            raise
        log.info("image not refreshed: its registry is down", image=reference)
    return False


async def _login(job: Job, box: Container) -> Any:
    if box.registry_id is None:
        return None
    async with job.database.reading(job.scope) as session:
        registry = (await session.exec(select(Registry).where(Registry.uuid == box.registry_id))).one_or_none()
    if registry is None:
        raise NotFound(f"Registry {box.registry_id} could not be found.", code="registry-not-found")
    return images.login(registry, job.vault)


async def _network(engine: ContainerEngine, project_id: str) -> str | None:
    return await engine.ensure_network(project_id) if isinstance(engine, Networks) else None


async def _retry_gone(job: Job, error: Gone) -> Outcome:
    tries = job.memo.get("gone", 0) + 1
    if tries > 3:
        return Failed(error.title)
    return Again(0.2 * tries, {**job.memo, "gone": tries})


@step("container", "start", doing="container_starting", failed={"status": Status.ERROR})
async def start(job: Job) -> Outcome:
    """Start; a container that the engine lost is reported, not remade."""
    seen = await _look(job)
    if seen is None:
        return await _outcome(job)
    if seen.state != State.RUNNING:
        await _network(job.engine, job.resource.project_id)
        await job.engine.start(seen.ref)
    return await _outcome(job, status_reason=None)


@step("container", "stop", args=TimeoutArgs, doing="container_stopping")
async def stop(job: Job) -> Outcome:
    """Stop within the grace period; a paused container is woken first, or it could not end."""
    seen = await _look(job)
    if seen is None:
        return await _outcome(job)
    try:
        if seen.state == State.PAUSED and isinstance(job.engine, Pauses):
            await job.engine.unpause(seen.ref)
        await job.engine.stop(seen.ref, job.args.timeout)
    except Unavailable:
        raise
    except EngineError as error:
        return await _refused(job, error)
    return await _outcome(job)


@step("container", "reboot", args=TimeoutArgs, doing="container_rebooting", failed={"status": Status.ERROR})
async def reboot(job: Job) -> Outcome:
    """Restart, at most once; done means that it runs since after the request."""
    asked_at = job.action.created_at

    async def restart(seen: Seen) -> None:
        await _network(job.engine, job.resource.project_id)
        await job.engine.restart(seen.ref, job.args.timeout)

    return await _at_most_once(job, restart, lambda seen: (_epoch(seen.started_at) or 0.0) > asked_at)


@step("container", "kill", args=KillArgs, doing="container_killing")
async def kill(job: Job) -> Outcome:
    """Send a signal, at most once."""

    async def send(seen: Seen) -> None:
        if isinstance(job.engine, Kills):
            await job.engine.kill(seen.ref, job.args.signal)

    return await _at_most_once(job, send, lambda seen: seen.state != State.RUNNING)


@step("container", "pause", doing="container_pausing")
async def pause(job: Job) -> Outcome:
    """Freeze the container's processes."""
    return await _paused(job, True)


@step("container", "unpause", doing="container_unpausing")
async def unpause(job: Job) -> Outcome:
    """Let the container's processes go on."""
    return await _paused(job, False)


@step("container", "delete", args=DeleteArgs, doing="container_deleting", failed={"status": Status.ERROR})
async def delete_step(job: Job) -> Outcome:
    """Remove the engine's container, then the row; the row leaves only when the engine shows nothing."""
    seen = await _look(job)
    if seen is not None:
        try:
            await job.engine.remove(seen.ref, force=True)
        except Unavailable:
            raise
        except EngineError as error:
            return await _refused(job, error)
        if await _look(job) is not None:
            return Again(0.5, job.memo)
    if job.args.look_again and not job.memo.get("looked"):
        return Again(LOOK_AGAIN, {**job.memo, "looked": True})
    await _drop_network(job)
    return Done(remove=True)


async def _at_most_once(job: Job, act: Callable[[Seen], Awaitable[None]], happened: Callable[[Seen], bool]) -> Outcome:
    """Do what cannot be looked up afterwards. The attempt is noted under this lease before it is made."""
    lease, tried = job.action.lease_token, job.memo.get("tried")
    seen = await _look(job)
    if seen is None:
        return await _outcome(job)
    if tried is None:
        return Again(0, {**job.memo, "tried": lease})
    if tried == lease:
        try:
            await act(seen)
        except Unavailable as error:  # it may have happened all the same: what the engine shows decides
            log.info("engine lost in a call that is made once", action=job.action.id, reason=error.title)
            seen = await _look(job)
        except EngineError as error:
            return await _refused(job, error)
        else:
            return await _outcome(job)
    if seen is None or happened(seen):
        return await _outcome(job)
    reason = f"{job.action.verb} was interrupted; it may not have reached the engine, and is not repeated by itself"
    return Failed(reason, changes_of(job.resource, seen) | {"status_reason": reason})


async def _paused(job: Job, wanted: bool) -> Outcome:
    seen = await _look(job)
    if seen is None:
        return await _outcome(job)
    if isinstance(job.engine, Pauses) and (seen.state == State.PAUSED) != wanted:
        try:
            await (job.engine.pause(seen.ref) if wanted else job.engine.unpause(seen.ref))
        except Unavailable:
            raise
        except EngineError as error:
            return await _refused(job, error)
    return await _outcome(job)


async def _drop_network(job: Job) -> None:
    """Remove the project's network after its last container; a create that comes just then makes it anew.

    Containers that are being deleted do not count, or of the last two each would leave it to the other. While the
    engine still has one of them, it keeps the network.
    """
    if not isinstance(job.engine, Networks):
        return
    box: Container = job.resource
    async with job.database.reading(job.scope) as session:
        staying = select(Container.uuid).where(Container.uuid != box.uuid, Container.status != Status.DELETING)
        others = await session.exec(staying.limit(1))
        if others.first() is not None:
            return
    try:
        await job.engine.remove_network(box.project_id)
    except EngineError as error:
        log.info("network kept", project=box.project_id, reason=error.title)
