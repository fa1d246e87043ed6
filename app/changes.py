"""What changes a container that is there: its name, its limits, its image, and copying it to an image of its own."""

import asyncio
import time

from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from app import actions, containers, glance, images, quotas
from app.actions import Asked, StepArgs
from app.db import EVERYTHING, Database, Scope
from app.errors import Conflict, Invalid, Unavailable
from app.glance import CloudImage
from app.models import Action, ActionState, Container, Image, Status
from app.settings import Settings

WAIT_EVERY = 0.02  # seconds between looks at whether an action has ended


class LimitsArgs(StepArgs):
    """What to set; None stays as it is. Cores and MiB."""

    cpu: float | None = None
    memory: int | None = None


class RebuildArgs(StepArgs):
    """`run` starts it once rebuilt; the rest is what it ran until then, if the image changes."""

    run: bool
    pull: str
    image: str | None = None
    image_ref: str | None = None
    image_driver: str | None = None


class CommitArgs(StepArgs):
    """The uuid of the image's row; with `cloud` it is the id of a record in the image service, and there is no row."""

    image: str
    cloud: bool = False


class GroupArgs(StepArgs):
    """The id of a security group."""

    group: str


async def change_groups(
    session: AsyncSession, asked: Asked, box: Container, verb: str, group: str, settings: Settings
) -> None:
    """Submit adding or removing the security group with the id `group`. Raises WrongState, Invalid.

    The row shows it when the action is done.
    """
    containers.check_state(box, verb)
    has = group in (box.security_groups or ())
    if has and verb == "add_security_group":
        raise Invalid(f"Security group {group} has been added to container already.")
    if not has and verb == "remove_security_group":
        raise Invalid(f"Security group {group} was not added to container.")
    await containers.act(session, asked, box, verb, settings, GroupArgs(group=group))


async def rename(session: AsyncSession, box: Container, name: str, settings: Settings) -> None:
    """Give a container, whose row this session holds, another name. Raises Conflict."""
    if name == box.name:
        raise Conflict("The new name for the container is the same as the old name.")
    box.name = name
    await containers.check_name(session, box, settings)
    box.updated_at = await actions.clock(session)


async def update(
    session: AsyncSession,
    asked: Asked,
    box: Container,
    limits: LimitsArgs,
    settings: Settings,
    *,
    name: str | None = None,
    auto_heal: bool | None = None,
    verb: str = "update",
) -> Action | None:
    """Change what is given of a container whose row this session holds.

    Returns the action that sets the engine's limits, None when none has to. Raises WrongState, Conflict.
    """
    containers.check_state(box, verb)
    if auto_heal is not None:
        box.auto_heal = auto_heal
    if name not in (None, box.name):
        box.name = name
        await containers.check_name(session, box, settings)
    if limits.cpu not in (None, box.cpu) and box.cores:
        raise Invalid(f"cpu: the container has cores {box.cores} to itself; make a new one with another number")
    growth = quotas.growth_of(box, limits.cpu, limits.memory)
    await quotas.consume(session, box.project_id, settings, **growth)
    now = await actions.clock(session)
    if name is not None or auto_heal is not None:
        box.updated_at = now
    if limits.cpu is None and limits.memory is None:
        return None
    deadline = now + settings.action_deadline
    made = actions.submit(session, asked, "container", box, verb, box.backend, now, args=limits, deadline=deadline)
    await session.flush()
    return made


async def until_done(database: Database, action: Action, seconds: float) -> None:
    """Wait for an action that was committed. Raises Conflict with the reason it failed for, Unavailable when it takes
    longer: then it is taken back if it had not begun."""
    scope, deadline = Scope(action.project_id), time.monotonic() + seconds
    while True:
        async with database.reading(scope) as session:
            row = (await session.exec(select(Action).where(Action.id == action.id))).one()
        if row.state == ActionState.DONE:
            return
        if row.state in (ActionState.FAILED, ActionState.CANCELLED):
            raise Conflict(row.message or "the container is being deleted")
        if time.monotonic() > deadline:
            break
        await asyncio.sleep(WAIT_EVERY)
    async with database.transaction(scope) as session:
        query = select(Container).where(Container.uuid == action.resource_id).with_for_update()
        await session.exec(query)
        row = (await session.exec(select(Action).where(Action.id == action.id).with_for_update())).one()
        if row.state != ActionState.QUEUED:
            raise Unavailable("The engine is still busy with it; look at the container later.")
        row.state, row.finished_at = ActionState.CANCELLED, await actions.clock(session)
        row.message = "taken back: the engine did not answer in time"
    raise Unavailable("The engine does not answer: nothing was changed.")


async def rebuild(
    session: AsyncSession,
    asked: Asked,
    box: Container,
    settings: Settings,
    image: str | None,
    cloud: CloudImage | None = None,
) -> None:
    """Submit making a container, whose row this session holds, anew: with `cloud` from the image service.

    Raises WrongState, Invalid.
    """
    containers.check_state(box, "rebuild")
    was = {"image": box.image, "image_ref": box.image_ref, "image_driver": box.image_driver}
    if image is not None:
        box.image = image
        if cloud is not None:
            glance.use(box, cloud)
        else:
            box.image_driver = "docker"
            await images.use_commit(session, box)
    pull = (box.image_pull_policy or settings.default_pull_policy).lower()
    args = RebuildArgs(run=box.status == Status.RUNNING, pull=pull)
    if image is not None:
        args = args.model_copy(update=was)
    box.status, box.wanted_running = Status.REBUILDING, args.run
    now = await actions.clock(session)
    deadline = now + settings.action_deadline
    actions.submit(session, asked, "container", box, "rebuild", box.backend, now, args=args, deadline=deadline)


async def commit(
    session: AsyncSession,
    asked: Asked,
    box: Container,
    settings: Settings,
    repository: str,
    tag: str | None,
    record: str | None = None,
) -> str:
    """Submit copying a container, whose row this session holds, to an image of its project; returns the image's uuid.

    With `record`, the id of a record in the image service, it is uploaded there. Raises WrongState, Invalid.
    """
    containers.check_state(box, "commit")
    check_image_name(repository, tag)
    now = await actions.clock(session)
    deadline = now + settings.action_deadline
    if record is not None:
        args = CommitArgs(image=record, cloud=True)
        actions.submit(session, asked, "container", box, "commit", box.backend, now, args=args, deadline=deadline)
        return record
    image = Image(
        project_id=box.project_id,
        user_id=asked.user_id,
        repo=repository,
        tag=tag or "latest",
        host=box.host or "",
        backend=box.backend,
        committed_from=box.uuid,
        created_at=now,
    )
    session.add(image)
    args = CommitArgs(image=image.uuid)
    actions.submit(session, asked, "container", box, "commit", box.backend, now, args=args, deadline=deadline)
    return image.uuid


def check_image_name(repository: str, tag: str | None) -> None:
    """Raises Invalid for what no engine can call an image."""
    named = images.parse(repository, "repository")
    if named.tag or named.digest:
        raise Invalid("repository: give the tag in `tag`", code="schema-validation-error")
    images.parse(f"{repository}:{tag or 'latest'}", "tag")


async def sweep(backend: str, database: Database, settings: Settings) -> None:
    """Remove images of commits that came to nothing, because their container was deleted or the engine stayed away."""
    query = select(Image).where(
        Image.backend == backend, Image.status == Status.CREATING, col(Image.committed_from).is_not(None)
    )
    async with database.reading(EVERYTHING) as session:
        waiting = (await session.exec(query)).all()
    for found in waiting:
        async with database.transaction(EVERYTHING) as session:
            image = (await session.exec(query.where(Image.uuid == found.uuid).with_for_update())).one_or_none()
            # While the row is held here, no step can make the commit known: one that has ended did not.
            if image is not None and not await actions.unfinished(session, [image.committed_from or ""]):
                await images.accept_removal(session, actions.SYSTEM, image, settings)
