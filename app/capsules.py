"""Capsules: groups of containers that share a network; what may be asked of them, and how they follow their members.

A capsule's members are rows of ``container`` that bear its uuid. What was asked is carried out by
``app.capsule_steps``; nobody else changes a member. See docs/capsules.md.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from app import actions, containers, images, lookup, names, networks, quotas, volumes
from app.actions import Asked, StepArgs
from app.backends.engine import Ability, ContainerEngine, GroupSpec, Port, Seen, State
from app.backends.wires import Attachment
from app.containers import DeleteArgs, check_ability
from app.models import Capsule, Container, Status
from app.settings import Settings
from app.volumes import Shared

INIT_LIMIT = 3600.0  # seconds that a capsule's init containers may take, as in Zun

COLUMNS = {
    name: col(getattr(Capsule, name))
    for name in (
        "id", "uuid", "name", "project_id", "user_id", "status", "status_reason", "task_state", "cpu", "memory", "host",
        "created_at", "updated_at",
    )
}  # fmt: skip
"""What lists can be sorted by."""

ALIVE = (Status.RUNNING, Status.RESTARTING, Status.PAUSED)
TROUBLED = (Status.ERROR, Status.DEAD, Status.UNKNOWN)


class CreateArgs(StepArgs):
    """`pulls` is the image policy of each member, by its uuid: always, ifnotpresent or never."""

    pulls: dict[str, str]


async def find(session: AsyncSession, ident: str, *, own_project: str | None = None, lock: bool = False) -> Capsule:
    """By uuid or name, in the session's scope.

    An administrator's session sees all projects; then a name means the one in `own_project` first.
    Raises NotFound (with the code that Zun gives), or Conflict when several have the name.
    """
    row: Capsule = await lookup.find(
        session, Capsule, ident, "capsule", code="container-not-found", own_project=own_project, lock=lock
    )
    return row


async def members(session: AsyncSession, capsules: Sequence[str], *, lock: bool = False) -> list[Container]:
    """The members of these capsules (uuids), init containers included, in the order of their templates."""
    query = select(Container).where(col(Container.capsule_id).in_(capsules)).order_by(col(Container.id))
    return list((await session.exec(query.with_for_update() if lock else query)).all())


async def accept(
    session: AsyncSession,
    asked: Asked,
    capsule: Capsule,
    boxes: Sequence[Container],
    engine: ContainerEngine,
    settings: Settings,
    pulls: Mapping[str, str],
    shared: Sequence[Shared] = (),
) -> None:
    """Store a wished capsule with its members and the action that makes it. Raises the 4xx or 501 that says why not.

    A row that is in Error already, because no host fits, is stored as it is. `pulls` as in `CreateArgs`; mounts of the
    members name the volumes that are `shared`.
    """
    check_ability(engine, Ability.GROUP, "run containers as a group", "run them one by one, on the project's network")
    for box in boxes:
        await images.use_commit(session, box)
        if Ability.DISK_QUOTA not in engine.abilities:
            box.disk = 0
    await quotas.consume(
        session,
        capsule.project_id,
        settings,
        containers=len(boxes),
        cpu=sum(box.cpu or 0.0 for box in boxes),
        memory=sum(box.memory or 0 for box in boxes),
        disk=sum(box.disk or 0 for box in boxes),
    )
    capsule.volumes = await volumes.share(session, capsule, shared, engine, settings) or None
    for box in boxes:
        mounts = [{**mount, "volume": (capsule.volumes or {})[mount["volume"]]} for mount in box.mounts or ()]
        box.mounts = mounts or None
    capsule.created_at = now = await actions.clock(session)
    session.add(capsule)
    for box in boxes:
        box.created_at = now
        session.add(box)
        await session.flush()  # in this order: members are shown and started by their ids
    if capsule.status == Status.ERROR:
        return
    deadline = now + settings.action_deadline + (INIT_LIMIT if any(box.init for box in boxes) else 0)
    args = CreateArgs(pulls=dict(pulls))
    actions.submit(session, asked, "capsule", capsule, "create", capsule.backend, now, args=args, deadline=deadline)


async def delete(session: AsyncSession, asked: Asked, capsule: Capsule, settings: Settings) -> None:
    """Submit deletion of a capsule whose row this session holds, whatever its status; older actions are cancelled."""
    now = await actions.clock(session)
    running = await actions.cancel_older(session, capsule.uuid, now)
    capsule.status = Status.DELETING
    for box in await members(session, [capsule.uuid], lock=True):
        box.status, box.wanted_running = Status.DELETING, False
    args, deadline = DeleteArgs(look_again=running), now + settings.action_deadline
    actions.submit(session, asked, "capsule", capsule, "delete", capsule.backend, now, args=args, deadline=deadline)


async def heal(session: AsyncSession, capsule: Capsule, settings: Settings) -> None:
    """Submit that the sandbox and the members are brought back, for a capsule whose row this session holds."""
    now = await actions.clock(session)
    deadline = now + settings.action_deadline
    actions.submit(session, actions.SYSTEM, "capsule", capsule, "heal", capsule.backend, now, deadline=deadline)


def generate_name() -> str:
    """A capsule's name when its template has none."""
    return names.generate().removesuffix("container") + "capsule"


def member_name(capsule: str, own: str | None) -> str:
    """A member's name: Zun's, unless its template names it."""
    return f"capsule-{capsule}-{own or names.generate().removesuffix('-container')}"


def group_spec(
    capsule: Capsule, boxes: Sequence[Container], network: str | None, places: Sequence[Attachment]
) -> GroupSpec:
    """The wish for the sandbox: it publishes what the members want on the host."""
    ports = [Port(**port) for box in boxes for port in box.exposed_ports or () if port["host_port"]]
    return GroupSpec(capsule.project_id, capsule.hostname, network, ports, places)


def stand_in(capsule: Capsule, boxes: Sequence[Container]) -> Container:
    """The sandbox as a container, for whoever plugs containers into networks of Neutron; it is never stored."""
    return Container(
        uuid=capsule.uuid,
        project_id=capsule.project_id,
        user_id=capsule.user_id,
        name=capsule.name,
        image="",
        status=capsule.status,
        nets=capsule.nets,
        security_groups=capsule.security_groups,
        exposed_ports=[port for box in boxes for port in box.exposed_ports or ()] or None,
        backend=capsule.backend,
        created_at=capsule.created_at,
    )


def hostname_of(name: str) -> str:
    """A capsule's name as a host may be called."""
    return re.sub(r"[^A-Za-z0-9-]", "-", name)[:63].strip("-") or "capsule"


def member_changes(box: Container, seen: Seen) -> dict[str, Any]:
    """What a member's row becomes: as any container's, but for its ports, which are opened in the sandbox's network."""
    changes = containers.changes_of(box, seen)
    declared = {port["number"] for port in box.exposed_ports or ()}
    return changes | {"ports": sorted(declared.union(seen.ports)), "hostname": None}


def fault(capsule: Capsule, boxes: Sequence[Container], sandbox: Seen | None) -> str | None:
    """Why the capsule is not whole, which a heal may cure; None when it is, or needs no sandbox any more."""
    apps = [box for box in boxes if not box.init]
    always = (capsule.restart_policy or {}).get("Name") == "always"
    alive = [box for box in apps if box.status in ALIVE]
    if not alive and not always:
        return None
    if sandbox is None:
        return "the sandbox, which holds the capsule's network, was removed from the engine by others"
    if sandbox.state != State.RUNNING:
        said = sandbox.error or f"it is {sandbox.state.value}"
        return f"the sandbox, which holds the capsule's network, does not run: {said}"
    since = containers.epoch(sandbox.started_at) or 0.0
    for box in apps:
        if box in alive and (box.started_at or since) < since:
            return f"container {box.name} lost the capsule's network: the sandbox was started again"
        if always and box.status == Status.STOPPED:
            return _ended(box)
    return None


def heals(capsule: Capsule, boxes: Sequence[Container], sandbox: Seen | None) -> bool:
    """Whether a fault is mended without being asked: by its restart policy, and not again once that has failed."""
    kept = (capsule.restart_policy or {}).get("Name") != "no" and capsule.status != Status.ERROR
    return kept and fault(capsule, boxes, sandbox) is not None


def changes_of(capsule: Capsule, boxes: Sequence[Container], sandbox: Seen | None) -> dict[str, Any]:
    """What a capsule's row becomes when its members are like this and the engine shows this sandbox."""
    broken = fault(capsule, boxes, sandbox)
    status, reason = (Status.ERROR, broken) if broken else _status(boxes)
    seen = sandbox.addresses if sandbox is not None else ()
    addresses = networks.shown_addresses(capsule.project_id, capsule.uuid, seen)
    if capsule.nets and sandbox is not None:
        addresses = networks.shown_nets(capsule.nets)
    return {
        "status": status,
        "status_reason": reason,
        "engine_ref": None if broken or sandbox is None else sandbox.ref,
        "addresses": addresses,
    }


def _status(boxes: Sequence[Container]) -> tuple[Status, str | None]:
    for box in boxes:
        if box.init and box.status == Status.STOPPED and box.exit_code:
            return Status.ERROR, _ended(box)
        if box.status in TROUBLED:
            return Status.ERROR, f"container {box.name}: {box.status_reason or box.status}"
    apps = [box for box in boxes if not box.init]
    notes = [_ended(box) for box in apps if box.status in (Status.STOPPED, Status.RESTARTING) and box.exit_code]
    reason = "; ".join(notes) or None
    if any(box.status in ALIVE for box in apps):
        return Status.RUNNING, reason
    if all(box.status == Status.STOPPED for box in apps):
        return Status.STOPPED, reason
    return Status.CREATED, reason


def _ended(box: Container) -> str:
    again = ", and is started again" if box.status == Status.RESTARTING else ""
    what = f"ended with exit code {box.exit_code}" if box.exit_code is not None else "ended"
    return f"container {box.name} {what}{again}" + (f": {box.status_reason}" if box.status_reason else "")
