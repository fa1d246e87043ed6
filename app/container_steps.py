"""The steps that carry out what was asked of a container.

Each looks at the engine first and does the one missing thing, so running it twice is harmless; see docs/action-log.md.
"""

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

import structlog
from sqlmodel import col, select

from app import actions, cores, glance, images, plugging, volumes
from app.actions import Again, Done, Failed, Job, Outcome, step
from app.backends.engine import ContainerEngine, ContainerSpec, Kills, Networks, Pauses, Seen, State
from app.backends.wires import Attachment
from app.containers import CreateArgs, DeleteArgs, KillArgs, TimeoutArgs, changes_of, epoch, spec_of, uuid_of
from app.errors import Conflict, EngineError, Gone, NotFound, RegistryDown, Unavailable
from app.models import Container, Registry, Status

log = structlog.get_logger("caisson.containers")

LOOK_AGAIN = 10.0  # seconds after cancelling a running step, until a delete trusts that the engine shows nothing


def no_image(box: Container) -> str:
    """Why a container cannot be made."""
    own = box.image_ref and box.image_driver != "glance"
    why = "it was a commit that is gone" if own else "its pull policy is never"
    return f"Image {box.image} is not on the host, and {why}"


async def look(job: Job) -> Seen | None:
    """The resource's container. Raises Conflict for one that bears another project's label."""
    seen = await job.engine.find(uuid_of(job.resource))
    if seen is not None and seen.project_id != job.resource.project_id:
        raise Conflict(f"the engine's container {seen.ref[:12]} bears another project's label")
    return seen


async def outcome(job: Job, **more: Any) -> Outcome:
    """Look once more and report what is there."""
    seen = await look(job)
    if seen is None:
        return Failed("No such container: it is gone from the engine", {"status": Status.ERROR})
    return Done(changes_of(job.resource, seen) | more)


async def refused(job: Job, error: EngineError) -> Outcome:
    """A verb that the engine said no to: the reason is the engine's, the status what it is now."""
    seen = await look(job)
    if seen is None:
        return Failed(error.title, {"status": Status.ERROR})
    return Failed(error.title, changes_of(job.resource, seen) | {"status_reason": error.title})


@step("container", "create", args=CreateArgs, doing="container_creating", failed={"status": Status.ERROR})
async def create(job: Job) -> Outcome:
    """Pull if needed, make, start if wished."""
    box: Container = job.resource
    engine = job.engine
    seen = await look(job)
    if seen is None and await missing_image(job, box, job.args.pull):
        return Failed(no_image(box))
    places = await plugging.plug(job, box)
    if seen is None:
        try:
            await volumes.prepare(job, box)
            seen = await engine.create(uuid_of(box), await wish(job, box, places))
        except Gone as error:  # the image or network went away between two calls
            return await retry_gone(job, error)
    await volumes.inject(job, box, seen)
    await plugging.join(job, box, seen, places)
    if job.args.run and seen.state == State.CREATED:
        job.memo["made_at"] = time.time()  # the history tells making and starting apart
        try:
            await engine.start(seen.ref)
        except Gone as error:
            return await retry_gone(job, error)
        except Unavailable:
            raise
        except EngineError as error:  # it is made, and stays: its owner may mend what is wrong, and start it
            changes = changes_of(box, seen) | plugging.fields(box)
            return Failed(error.title, changes | {"status": Status.ERROR, "status_reason": error.title})
        seen = await look(job) or seen
    await plugging.guard(job, box)
    return Done(changes_of(box, seen) | plugging.fields(box))


async def wish(job: Job, box: Container, places: Sequence[Attachment]) -> ContainerSpec:
    """The wish for the engine: on its `places` of Neutron's networks, or else on the project's network."""
    network = None if box.nets is not None else await ensure_network(job.engine, box.project_id)
    return replace(spec_of(box, network, job.settings), places=places)


async def missing_image(job: Job, box: Container, pull: str) -> bool:
    """Make sure of the image of `box` by the policy `pull`. True when it is absent and must not be pulled."""
    reference = images.reference(box)
    present = await job.engine.image(reference) is not None
    if box.image_driver == "glance":
        if not present and pull != "never":
            await glance.bring(job, reference)
        return not present and pull == "never"
    policy = "never" if box.image_ref else pull
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


async def ensure_network(engine: ContainerEngine, project_id: str) -> str | None:
    """The project's network on an engine that has networks."""
    return await engine.ensure_network(project_id) if isinstance(engine, Networks) else None


async def retry_gone(job: Job, error: Gone) -> Outcome:
    """Once more from the start, a few times."""
    tries = job.memo.get("gone", 0) + 1
    if tries > 3:
        return Failed(error.title)
    return Again(0.2 * tries, {**job.memo, "gone": tries})


@step("container", "start", doing="container_starting", failed={"status": Status.ERROR})
async def start(job: Job) -> Outcome:
    """Start; a container that the engine lost is reported, not remade."""
    seen = await look(job)
    if seen is None:
        return await outcome(job)
    if seen.state != State.RUNNING:
        await volumes.inject(job, job.resource, seen)
        if job.resource.nets is None:
            await ensure_network(job.engine, job.resource.project_id)
        await job.engine.start(seen.ref)
        await plugging.guard(job, job.resource)
    return await outcome(job, status_reason=None)


@step("container", "stop", args=TimeoutArgs, doing="container_stopping")
async def stop(job: Job) -> Outcome:
    """Stop within the grace period; a paused container is woken first, or it could not end."""
    seen = await look(job)
    if seen is None:
        return await outcome(job)
    try:
        if seen.state == State.PAUSED and isinstance(job.engine, Pauses):
            await job.engine.unpause(seen.ref)
        await job.engine.stop(seen.ref, job.args.timeout)
    except Unavailable:
        raise
    except EngineError as error:
        return await refused(job, error)
    return await outcome(job)


@step("container", "reboot", args=TimeoutArgs, doing="container_rebooting", failed={"status": Status.ERROR})
async def reboot(job: Job) -> Outcome:
    """Restart, at most once; done means that it runs since after the request."""
    asked_at = job.action.created_at

    async def restart(seen: Seen) -> None:
        await volumes.inject(job, job.resource, seen)
        if job.resource.nets is None:
            await ensure_network(job.engine, job.resource.project_id)
        await job.engine.restart(seen.ref, job.args.timeout)
        await plugging.guard(job, job.resource)

    return await _at_most_once(job, restart, lambda seen: (epoch(seen.started_at) or 0.0) > asked_at)


@step("container", "kill", args=KillArgs, doing="container_killing")
async def kill(job: Job) -> Outcome:
    """Send a signal, at most once."""

    async def send(seen: Seen) -> None:
        if isinstance(job.engine, Kills):
            await job.engine.kill(seen.ref, job.args.signal)

    # One that was paused meanwhile shows nothing of a signal either.
    return await _at_most_once(job, send, lambda seen: seen.state not in (State.RUNNING, State.PAUSED))


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
    seen = await look(job)
    if seen is not None:
        try:
            await job.engine.remove(seen.ref, force=True)
        except Unavailable:
            raise
        except EngineError as error:
            return await refused(job, error)
        if await look(job) is not None:
            return Again(0.5, job.memo)
    if job.args.look_again and not job.memo.get("looked"):
        return Again(LOOK_AGAIN, {**job.memo, "looked": True})
    await glance.forget_cut_off(job)
    await volumes.release(job, job.resource)
    await plugging.unplug(job, job.resource)
    await _unpin(job)
    await drop_network(job, [job.resource.uuid])
    return Done(remove=True)


async def _unpin(job: Job) -> None:
    if job.resource.cores:
        async with job.database.transaction(job.scope) as session:
            if await actions.holds(session, job):
                await cores.unpin(session, job.resource)


async def _at_most_once(job: Job, act: Callable[[Seen], Awaitable[None]], happened: Callable[[Seen], bool]) -> Outcome:
    """Do what cannot be looked up afterwards. The attempt is noted under this lease before it is made."""
    lease, tried = job.action.lease_token, job.memo.get("tried")
    seen = await look(job)
    if seen is None:
        return await outcome(job)
    if tried is None:
        return Again(0, {**job.memo, "tried": lease})
    if tried == lease:
        try:
            await act(seen)
        except Unavailable as error:  # it may have happened all the same: what the engine shows decides
            log.info("engine lost in a call that is made once", action=job.action.id, reason=error.title)
            seen = await look(job)
        except EngineError as error:
            return await refused(job, error)
        else:
            return await outcome(job)
    if seen is None or happened(seen):
        return await outcome(job)
    reason = f"{job.action.verb} was interrupted; it may not have reached the engine, and is not repeated by itself"
    return Failed(reason, changes_of(job.resource, seen) | {"status_reason": reason})


async def _paused(job: Job, wanted: bool) -> Outcome:
    seen = await look(job)
    if seen is None:
        return await outcome(job)
    if isinstance(job.engine, Pauses) and (seen.state == State.PAUSED) != wanted:
        try:
            await (job.engine.pause(seen.ref) if wanted else job.engine.unpause(seen.ref))
        except Unavailable:
            raise
        except EngineError as error:
            return await refused(job, error)
    return await outcome(job)


async def drop_network(job: Job, leaving: Sequence[str]) -> None:
    """Remove the project's network after its last containers; a create that comes just then makes it anew.

    Containers that are being deleted do not count, or of the last two each would leave it to the other. While the
    engine still has one of them, it keeps the network.
    """
    if not isinstance(job.engine, Networks):
        return
    async with job.database.reading(job.scope) as session:
        staying = select(Container.uuid).where(col(Container.uuid).not_in(leaving), Container.status != Status.DELETING)
        others = await session.exec(staying.limit(1))
        if others.first() is not None:
            return
    try:
        await job.engine.remove_network(job.resource.project_id)
    except EngineError as error:
        log.info("network kept", project=job.resource.project_id, reason=error.title)
