"""Containers: what may be asked of them, and how a row follows what the engine shows.

Public status is derived in one function, `changes_of`; what is asked is carried out by ``app.container_steps``.
"""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy import func
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from app import actions, images, lookup, names, networks, quotas
from app.actions import Asked, StepArgs
from app.backends.engine import (
    Ability,
    ContainerEngine,
    ContainerSpec,
    HealthCheck,
    Port,
    Restart,
    Seen,
    State,
    VolumeMount,
)
from app.db import exists_anywhere, take_turn
from app.errors import Conflict, Unsupported, WrongState
from app.models import Container, Status
from app.settings import Settings

log = structlog.get_logger("caisson.containers")

STOP_GRACE = 10  # seconds, when a request names none
KILLED = 128 + 9  # the exit code of what SIGKILL ended

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
    "attach": (Status.RUNNING,),
    "resize": (Status.RUNNING,),
    "top": (Status.RUNNING,),
    "stats": (Status.RUNNING,),
    "update": (Status.CREATED, Status.RUNNING, Status.STOPPED, Status.PAUSED),
    "resize_container": (Status.CREATED, Status.RUNNING, Status.STOPPED, Status.PAUSED),
    "rebuild": (Status.CREATED, Status.RUNNING, Status.STOPPED, Status.ERROR),
    "commit": (Status.RUNNING, Status.STOPPED, Status.PAUSED),
    "get_archive": (Status.CREATED, Status.PAUSED, Status.RUNNING, Status.STOPPED),
    "put_archive": (Status.CREATED, Status.PAUSED, Status.RUNNING, Status.STOPPED),
    "add_security_group": (Status.CREATED, Status.RUNNING, Status.STOPPED, Status.PAUSED),
    "remove_security_group": (Status.CREATED, Status.RUNNING, Status.STOPPED, Status.PAUSED),
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
    "execute_resize": (Ability.EXEC, "run the command in a container of its own"),
    "attach": (Ability.ATTACH, "read its logs"),
    "resize": (Ability.ATTACH, "read its logs"),
    "top": (Ability.MEASURE, "use execute with ps"),
    "stats": (Ability.MEASURE, "look at the host"),
    "update": (Ability.UPDATE, "make a new one with other limits"),
    "resize_container": (Ability.UPDATE, "make a new one with other limits"),
    "commit": (Ability.COMMIT, "build an image with other means"),
    "get_archive": (Ability.COPY, "print the file with execute"),
    "put_archive": (Ability.COPY, "inject files with mounts when you make it"),
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

STANDALONE = col(Container.capsule_id).is_(None)
"""What lists show: a capsule's members are shown with it."""


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

    An administrator's session sees all projects; then a name means the one in `own_project` first. A capsule's member
    is found by its uuid only, and not with `lock`: nothing but its capsule changes it.
    Raises NotFound, or Conflict when several have the name.
    """
    box: Container = await lookup.find(
        session, Container, ident, "container", code="container-not-found", own_project=own_project, named=STANDALONE,
        lock=lock,
    )  # fmt: skip
    if lock:
        check_own(box)
    return box


LOOKS = ("logs", "execute", "top", "stats", "attach", "resize", "execute_resize", "get_archive", "network_list")
"""What can be done to a capsule's member."""


def check_own(box: Container, verb: str = "") -> None:
    """Raises Conflict for a capsule's member: it can be looked into, and only its capsule changes it."""
    if box.capsule_id is not None and verb not in LOOKS:
        raise Conflict(f"Container {box.uuid} is a member of capsule {box.capsule_id}: change or delete the capsule")


def check_state(box: Container, verb: str) -> None:
    """Raises WrongState when the status does not allow `verb`."""
    if box.status not in ALLOWED[verb]:
        shown = "delete" if verb.startswith("delete_") else verb
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
    await images.use_commit(session, box)
    if box.disk:
        check_ability(engine, Ability.DISK_QUOTA, "limit a container's disk", "leave `disk` out")
    elif Ability.DISK_QUOTA not in engine.abilities:
        box.disk = 0
    if not box.name:
        box.name = names.generate()
    await check_name(session, box, settings)
    await quotas.consume(session, box.project_id, settings, containers=1, cpu=box.cpu, memory=box.memory, disk=box.disk)
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
        image=images.reference(box),
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
        network=None if box.nets == [] else network,  # detached from its project's network
        mounts=volumes_of(box),
        cores=box.cores or (),
        sealed=any(mount["type"] == "bind" for mount in box.mounts or ()),
        group=UUID(box.capsule_id) if box.capsule_id else None,
    )


def volumes_of(box: Container) -> tuple[VolumeMount, ...]:
    """The volumes that a container mounts, as engines take them (``app.volumes``)."""
    found = (mount for mount in box.mounts or () if mount["type"] == "volume")
    return tuple(
        VolumeMount(UUID(mount["volume"]), mount["destination"], mount.get("read_only", False)) for mount in found
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
        "addresses": networks.shown_nets(box.nets)
        if box.nets
        else networks.shown_addresses(box.project_id, box.uuid, seen.addresses),
        "started_at": epoch(seen.started_at),
        "finished_at": epoch(seen.finished_at),
        "health": seen.health,
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
    ran_out = f"ran out of memory (limit {box.memory} MiB)"
    if seen.oom_killed:
        return f"OOMKilled: the container {ran_out}"
    if seen.exit_code == KILLED and box.wanted_running:
        # Docker loses the kernel's word that it was for memory about once in six times.
        return f"Killed by signal 9, not by a request here: it {ran_out}, or its engine or somebody else ended it"
    return None


def epoch(moment: datetime | None) -> float | None:
    """A moment in epoch seconds."""
    return None if moment is None else moment.astimezone(UTC).timestamp()


async def check_name(session: AsyncSession, box: Container, settings: Settings) -> None:
    """Raises Conflict when another container has the name, within the scope that settings give."""
    if settings.unique_container_name_scope == "":
        return
    await take_turn(session, "container names")
    query = select(Container.uuid).where(func.lower(Container.name) == box.name.lower(), Container.uuid != box.uuid)
    if settings.unique_container_name_scope == "project":
        query = query.where(Container.project_id == box.project_id)
    if await exists_anywhere(session, query):
        raise Conflict(f"A container with name {box.name} exists already.", code="container-already-exists")
