"""What changes a container that is there: its name, its limits, its image, and copying it to an image of its own."""

import asyncio
import time

from sqlmodel import select
from sqlmodel.ext.asyncio.session import AsyncSession

from app import actions, containers, images, quotas
from app.actions import Asked, StepArgs
from app.db import Database, Scope
from app.errors import Conflict, Invalid, Unavailable
from app.models import Action, ActionState, Container, Image, Status
from app.settings import Settings

WAIT_EVERY = 0.02  # seconds between looks at whether an action has ended


class LimitsArgs(StepArgs):
    """What to set; None stays as it is. Cores and MiB."""

    cpu: float | None = None
    memory: int | None = None


class RebuildArgs(StepArgs):
    """`run` starts it once rebuilt; `image` is what it ran until then, if the image changes, and `image_ref` too."""

    run: bool
    pull: str
    image: str | None = None
    image_ref: str | None = None


class CommitArgs(StepArgs):
    """The uuid of the image's row."""

    image: str


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


async def rebuild(session: AsyncSession, asked: Asked, box: Container, settings: Settings, image: str | None) -> None:
    """Submit making a container, whose row this session holds, anew. Raises WrongState, Invalid."""
    containers.check_state(box, "rebuild")
    was, was_ref = box.image, box.image_ref
    if image is not None:
        box.image = image
        await images.use_commit(session, box)
    pull = (box.image_pull_policy or settings.default_pull_policy).lower()
    args = RebuildArgs(run=box.status == Status.RUNNING, pull=pull)
    if image is not None:
        args = args.model_copy(update={"image": was, "image_ref": was_ref})
    box.status, box.wanted_running = Status.REBUILDING, args.run
    now = await actions.clock(session)
    deadline = now + settings.action_deadline
    actions.submit(session, asked, "container", box, "rebuild", box.backend, now, args=args, deadline=deadline)


async def commit(
    session: AsyncSession, asked: Asked, box: Container, settings: Settings, repository: str, tag: str | None
) -> Image:
    """Submit copying a container, whose row this session holds, to an image of its project; returns the image's row.

    Raises WrongState, Invalid.
    """
    containers.check_state(box, "commit")
    named = images.parse(repository, "repository")
    if named.tag or named.digest:
        raise Invalid("repository: give the tag in `tag`", code="schema-validation-error")
    images.parse(f"{repository}:{tag or 'latest'}", "tag")
    now = await actions.clock(session)
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
    args, deadline = CommitArgs(image=image.uuid), now + settings.action_deadline
    actions.submit(session, asked, "container", box, "commit", box.backend, now, args=args, deadline=deadline)
    return image
