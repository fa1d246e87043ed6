"""The steps that change a container or copy it; see ``app.container_steps`` for how steps behave."""

from typing import Any, cast

import structlog
from sqlmodel import select

from app import attachments, glance, images, plugging, volumes
from app.actions import Again, Done, Failed, Job, Outcome, step
from app.backends.engine import Commits, ImageSeen, Seen, State, Tars, Updates
from app.changes import CommitArgs, GroupArgs, LimitsArgs, RebuildArgs
from app.container_steps import look, missing_image, no_image, outcome, refused, retry_gone, wish
from app.containers import changes_of, uuid_of
from app.errors import (
    Conflict,
    EngineError,
    Forbidden,
    Gone,
    Invalid,
    NotFound,
    Refused,
    Unavailable,
    Unsupported,
)
from app.models import Container, Image, Status

UPLOADS = 5  # how often the image service is offered a commit
UPLOAD_AGAIN = 5.0  # seconds in between

log = structlog.get_logger("caisson.changes")


@step("container", "update", args=LimitsArgs)
async def update(job: Job) -> Outcome:
    """Set limits in place; what was not named stays as the row has it."""
    box: Container = job.resource
    cpu = box.cpu if job.args.cpu is None else job.args.cpu
    memory = box.memory if job.args.memory is None else job.args.memory
    seen = await look(job)
    if seen is None:
        return await outcome(job)
    try:
        await cast(Updates, job.engine).update(seen.ref, cpu or 0.0, memory or 0)
    except Unavailable:
        raise
    except EngineError as error:
        return await refused(job, error)
    return await outcome(job, cpu=cpu, memory=memory)


@step("container", "resize_container", args=LimitsArgs)
async def resize_container(job: Job) -> Outcome:
    """As update, when nobody waits for it."""
    return await update(job)


@step("container", "add_security_group", args=GroupArgs, doing="sg_adding")
async def add_security_group(job: Job) -> Outcome:
    """Let a security group's rules hold for the container too."""
    groups = job.resource.security_groups or []
    return await _set_groups(job, groups if job.args.group in groups else [*groups, job.args.group])


@step("container", "remove_security_group", args=GroupArgs, doing="sg_removing")
async def remove_security_group(job: Job) -> Outcome:
    """Let a security group's rules no longer hold for the container."""
    return await _set_groups(job, [group for group in job.resource.security_groups or () if group != job.args.group])


async def _set_groups(job: Job, groups: list[str]) -> Outcome:
    """Without a network service a project's only group stands for what its network does: nothing follows from it."""
    box: Container = job.resource
    if box.nets:
        await attachments.set_groups(await plugging.network_service(job), box.uuid, groups)
        await plugging.guard(job, box)
        return await outcome(job, security_groups=groups)
    return Done({"security_groups": groups})


@step("container", "rebuild", args=RebuildArgs, doing="container_rebuilding", failed={"status": Status.ERROR})
async def rebuild(job: Job) -> Outcome:
    """Put a new container in the place of the old.

    The old one's ref is noted before it goes, so that whoever comes after a crash can tell the two apart. It goes only
    when the new one's image is there: until then a failure leaves it as it was.
    """
    box: Container = job.resource
    seen = await look(job)
    if "old" not in job.memo:
        return Again(0, {**job.memo, "old": seen.ref if seen else "", "defaults": await _has_defaults(job)})
    if job.memo["defaults"]:
        box.command = box.entrypoint = None
    places = await plugging.plug(job, box)
    if seen is None or seen.ref == job.memo["old"]:
        try:
            if await missing_image(job, box, job.args.pull):
                return _kept(job, seen, no_image(box))
        except Unavailable:
            raise
        except EngineError as error:
            return _kept(job, seen, error.title)
        spec = await wish(job, box, places)
        if seen is not None:
            await job.engine.remove(seen.ref, force=True)
        try:
            await volumes.prepare(job, box)
            seen = await job.engine.create(uuid_of(box), spec)
        except Gone as error:  # the image or network went away between two calls
            return await retry_gone(job, error)
    await volumes.inject(job, box, seen)
    await plugging.join(job, box, seen, places)
    if job.args.run and seen.state == State.CREATED:
        try:
            await job.engine.start(seen.ref)
        except Gone as error:
            return await retry_gone(job, error)
        except Unavailable:
            raise
        except EngineError as error:
            return Failed(error.title, changes_of(box, seen) | {"status": Status.ERROR, "status_reason": error.title})
        seen = await look(job) or seen
    await plugging.guard(job, box)
    return Done(changes_of(box, seen) | plugging.fields(box) | {"status_reason": None})


async def _has_defaults(job: Job) -> bool:
    """Whether the image changes, and what the container runs is just what the old image says."""
    box: Container = job.resource
    if job.args.image is None:
        return False
    reference = job.args.image_ref or images.parse(job.args.image).full
    image = await job.engine.image(reference)
    if image is None:
        return False
    return (list(image.command), list(image.entrypoint)) == (box.command or [], box.entrypoint or [])


def _kept(job: Job, seen: Seen | None, reason: str) -> Outcome:
    """The rebuild cannot be: the old container stays, with the image that it has."""
    back: dict[str, Any] = {}
    if job.args.image is not None:
        back = {
            "image": job.args.image,
            "image_ref": job.args.image_ref,
            "image_driver": job.args.image_driver or job.resource.image_driver,
        }
    shown = {} if seen is None else changes_of(job.resource, seen)
    return Failed(reason, shown | back | {"status": Status.ERROR, "status_reason": reason})


@step("container", "commit", args=CommitArgs)
async def commit(job: Job) -> Outcome:
    """Copy the container to an image, then make the image known. A copy that failed leaves no image behind."""
    name = images.commit_name(job.args.image)
    made = await job.engine.image(name)
    if made is None and job.memo.get("uploaded"):  # all that was left to do was to report it
        return await outcome(job)
    if made is None:
        seen = await look(job)
        if seen is None:
            await _forget_image(job)
            return await outcome(job)
        try:
            made = await cast(Commits, job.engine).commit(seen.ref, name)
        except Unavailable:
            raise
        except EngineError as error:
            await _forget_image(job)
            return await refused(job, error)
    if job.args.cloud:
        if (unfinished := await _upload(job, name)) is not None:
            return unfinished
    else:
        await publish(job, made)
    seen = await look(job)
    return Done({} if seen is None else changes_of(job.resource, seen))


async def _upload(job: Job, name: str) -> Outcome | None:
    """Bring a commit to the image service, and take it from the engine's host; None when that is done.

    The record's status tells a later run how far an earlier one came.
    """
    record, tries = job.args.image, job.memo.get("uploads", 0)
    reason: str | None = None
    try:
        service = await glance.connect(job.catalogue, "commit")
        status = await service.status(record)
        if status == "queued":
            await service.fill(record, cast(Tars, job.engine).save(name))
        elif status == "saving":
            raise Conflict("an upload is under way, or was interrupted and the image service has not noticed yet")
        elif status != "active":
            reason = f"The image service did not take the image: its record is {status or 'gone'}"
    except (Conflict, Refused) as error:
        if tries < UPLOADS:
            log.info("upload refused", image=record, reason=error.title)
            return Again(UPLOAD_AGAIN, {**job.memo, "uploads": tries + 1})
        reason = error.title
    except (Invalid, Forbidden, NotFound, Unsupported) as error:
        reason = error.title
    if reason is not None:
        await _forget_image(job)
    elif not job.memo.get("uploaded"):
        return Again(0, {**job.memo, "uploaded": True})
    await job.engine.remove_image(name)
    return None if reason is None else Failed(reason)


async def publish(job: Job, made: ImageSeen) -> None:
    """Make a commit known to its project. May run again after a crash, with the same image."""
    async with job.database.transaction(job.scope) as session:
        query = select(Image).where(Image.uuid == job.args.image).with_for_update()
        image = (await session.exec(query)).one_or_none()
        if image is not None and image.status == Status.CREATING:
            image.image_id, image.size, image.status = made.ref, made.size, Status.CREATED


async def _forget_image(job: Job) -> None:
    if job.args.cloud:
        service = await glance.available(job.catalogue)
        if service is not None:
            await service.forget(job.args.image)
        return
    async with job.database.transaction(job.scope) as session:
        query = select(Image).where(Image.uuid == job.args.image).with_for_update()
        if (image := (await session.exec(query)).one_or_none()) is not None:
            await session.delete(image)
