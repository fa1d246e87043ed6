"""The steps that carry out what was asked of a capsule.

Create and heal are one function: it looks at the sandbox and at each member, and does what is missing, in order. Each
member's row is written as soon as the engine's answer is known, fenced by the action's lease like the capsule's own.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, cast
from uuid import UUID

from app import actions, capsules, plugging, volumes
from app.actions import Again, Done, Failed, Job, Outcome, step
from app.backends.engine import Groups, Seen, State
from app.capsules import CreateArgs
from app.container_steps import LOOK_AGAIN, drop_network, ensure_network, missing_image, no_image
from app.containers import STOP_GRACE, DeleteArgs, epoch, spec_of
from app.errors import Conflict, EngineError, Gone, NotFound, Unavailable
from app.models import Capsule, Container, Status

INIT_LOOK = 2.0  # seconds that one step watches an init container before it lets go of the lease
TRIES = 3  # for what went away between two calls


class Stopped(Exception):
    """The capsule cannot be made: the reason names the member."""


@step("capsule", "create", args=CreateArgs, doing="container_creating", failed={"status": Status.ERROR})
async def create(job: Job) -> Outcome:
    """Fetch images, make the sandbox, run the init containers to their end, then start the others."""
    return await _whole(job, job.args.pulls)


@step("capsule", "heal", doing="container_starting", failed={"status": Status.ERROR})
async def heal(job: Job) -> Outcome:
    """Bring back the sandbox and the members that should run; what is ready is left alone."""
    return await _whole(job, {})


@step("capsule", "delete", args=DeleteArgs, doing="container_deleting", failed={"status": Status.ERROR})
async def delete(job: Job) -> Outcome:
    """Remove members, then the sandbox, then the rows: these leave only when the engine shows nothing."""
    capsule: Capsule = job.resource
    boxes = await _members(job)
    left = False
    for uuid in [*(box.uuid for box in boxes), capsule.uuid]:
        if (seen := await _look(job, uuid)) is None:
            continue
        try:
            await job.engine.remove(seen.ref, force=True)
        except Unavailable:
            raise
        except EngineError as error:
            return Failed(error.title)
        left = left or await _look(job, uuid) is not None
    if left:
        return Again(0.5, job.memo)
    if job.args.look_again and not job.memo.get("looked"):
        return Again(LOOK_AGAIN, {**job.memo, "looked": True})
    await plugging.unplug(job, capsules.stand_in(capsule, boxes))
    await volumes.release(job, capsule)
    await drop_network(job, [box.uuid for box in boxes])
    async with job.database.transaction(job.scope) as session:
        if await actions.holds(session, job):
            for box in await capsules.members(session, [capsule.uuid], lock=True):
                await session.delete(box)
    return Done(remove=True)


async def _whole(job: Job, pulls: Mapping[str, str]) -> Outcome:
    """Do all that is missing until every member has run or runs."""
    capsule: Capsule = job.resource
    boxes = await _members(job)
    inits, apps = [box for box in boxes if box.init], [box for box in boxes if not box.init]
    try:
        await _fetch(job, boxes, pulls)
        place = capsules.stand_in(capsule, boxes)
        sandbox = await _sandbox(job, boxes, place)
        for box in inits:
            if (waiting := await _run_to_end(job, box, sandbox)) is not None:
                return waiting
        for box in apps:
            await _made(job, box, sandbox)
        for box in apps:
            await _started(job, box, sandbox)
    except Gone as error:
        tries = job.memo.get("gone", 0) + 1
        if tries <= TRIES:
            return Again(0.2 * tries, {**job.memo, "gone": tries})
        return await _failed(job, error.title)
    except Stopped as error:
        return await _failed(job, str(error))
    sandbox = await _look(job, capsule.uuid) or sandbox
    capsule.nets = place.nets
    changes = capsules.changes_of(capsule, await _members(job), sandbox)
    return Done(changes | {"nets": place.nets, "security_groups": place.security_groups})


async def _fetch(job: Job, boxes: Sequence[Container], pulls: Mapping[str, str]) -> None:
    """Every image first, so that nothing is made of a capsule whose last image is missing."""
    for box in boxes:
        if await _look(job, box.uuid) is not None or (box.init and box.status == Status.STOPPED):
            continue
        try:
            missing = await missing_image(job, box, pulls.get(box.uuid, "ifnotpresent"))
        except Unavailable:
            raise
        except EngineError as error:
            raise await _stopped(job, box, error.title) from error
        if missing:
            raise await _stopped(job, box, no_image(box))


async def _sandbox(job: Job, boxes: Sequence[Container], place: Container) -> Seen:
    """The running sandbox; `place` is its stand-in, which shows what ports of Neutron it got."""
    capsule: Capsule = job.resource
    try:
        seen = await _look(job, capsule.uuid)
        places = await plugging.plug(job, place)
        network = None if places else await ensure_network(job.engine, capsule.project_id)
        if seen is None:
            groups = cast(Groups, job.engine)  # checked before the capsule was accepted
            wish = capsules.group_spec(capsule, boxes, network, places)
            seen = await groups.create_group(UUID(capsule.uuid), wish)
        await plugging.join(job, place, seen, places)
        if seen.state != State.RUNNING:
            await job.engine.start(seen.ref)
        await plugging.guard(job, place)
    except (Gone, Unavailable):
        raise
    except EngineError as error:
        raise Stopped(f"the capsule's sandbox: {error.title}") from error
    return await _there(job, capsule.uuid)


async def _run_to_end(job: Job, box: Container, sandbox: Seen) -> Outcome | None:
    """Run an init container: None when it has ended well."""
    if box.status == Status.STOPPED and box.exit_code == 0:
        return None  # it ended before: it is not run again for a sandbox that had to be replaced
    await _made(job, box, sandbox)
    await _started(job, box, sandbox)
    seen = await _there(job, box.uuid)
    deadline = asyncio.get_running_loop().time() + INIT_LOOK
    while seen.state != State.EXITED and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(0.05)
        seen = await _there(job, box.uuid)
    await _record(job, box, capsules.member_changes(box, seen))
    if seen.state != State.EXITED:
        said = f" (last exit code {seen.exit_code})" if seen.state == State.RESTARTING else ""
        return Again(1.0, job.memo, {"status_reason": f"waiting for init container {box.name} to end{said}"})
    if seen.exit_code:
        said = f": {box.status_reason}" if box.status_reason else ""
        raise Stopped(f"init container {box.name} ended with exit code {seen.exit_code}{said}")
    return None


async def _made(job: Job, box: Container, sandbox: Seen) -> None:
    """Make a member, anew when the sandbox that it joined is gone."""
    seen = await _look(job, box.uuid)
    if seen is not None and seen.joined not in (None, sandbox.ref):
        await job.engine.remove(seen.ref, force=True)
        seen = None
    if seen is None:
        try:
            await volumes.prepare(job, box)
            seen = await job.engine.create(UUID(box.uuid), spec_of(box, None, job.settings))
        except (Gone, Unavailable):
            raise
        except (EngineError, NotFound) as error:  # or a volume that is gone
            raise await _stopped(job, box, error.title) from error
        await _record(job, box, capsules.member_changes(box, seen))


async def _started(job: Job, box: Container, sandbox: Seen) -> None:
    """Start a member that has not run, ended though it always should run, or was started in a network that is gone."""
    seen = await _there(job, box.uuid)
    since, started = epoch(sandbox.started_at) or 0.0, epoch(seen.started_at)
    always = not box.init and (box.restart_policy or {}).get("Name") == "always"
    ended = seen.state in (State.EXITED, State.DEAD)
    try:
        if started is None or (ended and always):
            await job.engine.start(seen.ref)
        elif started < since and not ended:
            await job.engine.restart(seen.ref, STOP_GRACE)
    except (Gone, Unavailable):
        raise
    except EngineError as error:
        raise await _stopped(job, box, error.title) from error
    await _record(job, box, capsules.member_changes(box, await _there(job, box.uuid)))


async def _stopped(job: Job, box: Container, reason: str) -> Stopped:
    """What a member failed of, also on its own row."""
    await _record(job, box, {"status": Status.ERROR, "status_reason": reason})
    return Stopped(f"container {box.name}: {reason}")


async def _failed(job: Job, reason: str) -> Outcome:
    """The capsule is not made. Members that were not reached say so."""
    for box in await _members(job):
        if box.status == Status.CREATING:
            await _record(job, box, {"status": Status.ERROR, "status_reason": f"not made: {reason}"})
    return Failed(reason)


async def _members(job: Job) -> list[Container]:
    async with job.database.reading(job.scope) as session:
        return await capsules.members(session, [job.resource.uuid])


async def _look(job: Job, uuid: str) -> Seen | None:
    seen = await job.engine.find(UUID(uuid))
    if seen is not None and seen.project_id != job.resource.project_id:
        raise Conflict(f"the engine's container {seen.ref[:12]} bears another project's label")
    return seen


async def _there(job: Job, uuid: str) -> Seen:
    """As `_look`, for what must be there. Raises Gone."""
    if (seen := await _look(job, uuid)) is None:
        raise Gone(f"No such container: {uuid} was removed from the engine by others")
    return seen


async def _record(job: Job, box: Container, changes: Mapping[str, Any]) -> None:
    """Write a member's row, unless this action's lease was lost meanwhile; `box` shows the same."""
    for name, value in changes.items():
        setattr(box, name, value)
    async with job.database.transaction(job.scope) as session:
        if not await actions.holds(session, job):
            return
        for row in await capsules.members(session, [job.resource.uuid], lock=True):
            if row.uuid == box.uuid and any(getattr(row, name) != value for name, value in changes.items()):
                row.updated_at = await actions.clock(session)
                for name, value in changes.items():
                    setattr(row, name, value)
