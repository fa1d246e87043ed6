"""The steps that carry out what was asked of a cluster: its driver is called until everything is as the rows say.

Create, update and rotation are one function, since a spec is the whole wish. What is learnt on the way (addresses,
versions, which node is doing what) is written as soon as it is known; how it ended is written in the transaction that
ends the action, on the cluster and its node groups alike. See docs/clusters.md.
"""

import asyncio
import re
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from app import actions, cluster_keys, cluster_specs
from app.actions import Again, Done, Failed, Job, Outcome, step
from app.backends.driver import ClusterDriver, ClusterFailed, ClusterSeen, ClusterSpec, NodeFact, Progress
from app.cluster_specs import GOING, Rows
from app.clusters import CreateArgs, DeleteArgs, RotateArgs, UpdateArgs
from app.container_steps import LOOK_AGAIN
from app.errors import EngineError, Unavailable
from app.models import UNFINISHED, Action, Cluster, ClusterStatus, NodeGroup

STEP_LIMIT = 300.0  # seconds after which a driver's step is given up, and made again
UNSEEN = 5  # looks at what was made that may fail, until it is complete all the same
DELETE_EVERY = 0.5  # seconds between two looks at what a deletion has left
ENDS: Mapping[ClusterStatus, tuple[ClusterStatus | None, ClusterStatus]] = {
    ClusterStatus.CREATE_IN_PROGRESS: (ClusterStatus.CREATE_COMPLETE, ClusterStatus.CREATE_FAILED),
    ClusterStatus.CREATE_FAILED: (ClusterStatus.CREATE_COMPLETE, ClusterStatus.CREATE_FAILED),
    ClusterStatus.UPDATE_FAILED: (ClusterStatus.UPDATE_COMPLETE, ClusterStatus.UPDATE_FAILED),
    ClusterStatus.DELETE_IN_PROGRESS: (None, ClusterStatus.DELETE_FAILED),
    ClusterStatus.DELETE_FAILED: (None, ClusterStatus.DELETE_FAILED),
}
"""What a node group's status becomes when all is as the spec says, and when it is not; of others: UPDATE_…"""
UPDATED = (ClusterStatus.UPDATE_COMPLETE, ClusterStatus.UPDATE_FAILED)
IN_PROGRESS = (ClusterStatus.CREATE_IN_PROGRESS, ClusterStatus.UPDATE_IN_PROGRESS, ClusterStatus.DELETE_IN_PROGRESS)


async def _settle(job: Job, outcome: Done | Failed, session: AsyncSession, row: Cluster) -> None:
    """How it ended, on the node groups. What a later action of the cluster is about is left to that."""
    later = await _later(session, job)
    about = {uuid for args in later for uuid in args.get("groups", ())}
    faults: Mapping[str, str] = job.memo.get("faults", {})
    failed = isinstance(outcome, Failed)
    before = job.args if failed and isinstance(job.args, UpdateArgs) else UpdateArgs()
    for group in await _locked(session, row):
        touched = group.status in IN_PROGRESS if failed else not group.status.endswith("_COMPLETE")
        if group.uuid in about or not (touched or group.uuid in faults):
            continue
        if (status := _ends(group.status, failed)) is None:
            await session.delete(group)
            continue
        reason = faults.get(group.uuid, outcome.reason) if isinstance(outcome, Failed) else None
        changes: dict[str, Any] = {"status": status, "status_reason": reason}
        if group.uuid in before.before_counts:
            changes["node_count"] = before.before_counts[group.uuid]
        changes |= before.before_images.get(group.uuid, {})
        await actions.write(session, group, changes)
    if before.before_template is not None and not any(args.get("before_template") for args in later):
        row.cluster_template_id = before.before_template
        row.labels = row.labels if before.before_labels is None else before.before_labels
    if later:
        row.status, row.status_reason = ClusterStatus.UPDATE_IN_PROGRESS, None


async def _remove_rows(job: Job, outcome: Done | Failed, session: AsyncSession, row: Cluster) -> None:
    """With the cluster go its node groups and its keys."""
    for group in await _locked(session, row):
        if isinstance(outcome, Done):
            await session.delete(group)
        else:
            await actions.write(
                session, group, {"status": ClusterStatus.DELETE_FAILED, "status_reason": outcome.reason}
            )
    if isinstance(outcome, Done):
        await cluster_keys.remove(session, row.uuid)


@step("cluster", "create", args=CreateArgs, failed={"status": ClusterStatus.CREATE_FAILED}, settle=_settle)
async def create(job: Job) -> Outcome:
    """Make all nodes, and wait until every one is ready."""
    return await _converge(job, ClusterStatus.CREATE_COMPLETE)


@step("cluster", "update", args=UpdateArgs, failed={"status": ClusterStatus.UPDATE_FAILED}, settle=_settle)
async def update(job: Job) -> Outcome:
    """Make the nodes follow rows that changed: another count, image or set of groups."""
    return await _converge(job, ClusterStatus.UPDATE_COMPLETE)


@step("cluster", "rotate_ca", args=RotateArgs, failed={"status": ClusterStatus.UPDATE_FAILED}, settle=_settle)
async def rotate_ca(job: Job) -> Outcome:
    """Let every node change over to the new authority, then forget the previous one."""
    return await _converge(job, ClusterStatus.UPDATE_COMPLETE)


@step("cluster", "delete", args=DeleteArgs, failed={"status": ClusterStatus.DELETE_FAILED}, settle=_remove_rows)
async def delete(job: Job) -> Outcome:
    """Remove nodes until the driver says that nothing is left; then the rows leave, all at once."""
    cluster: Cluster = job.resource
    driver = job.drivers.find(cluster.driver, cluster.backend)
    if not await _within(STEP_LIMIT, driver.delete(UUID(cluster.uuid))):
        return Again(DELETE_EVERY, job.memo, {"status_reason": "its nodes are being removed"})
    if not job.memo.get("looked") and await _was_cancelled(job):
        # The engine may still be busy with a call that the delete cut off.
        return Again(LOOK_AGAIN, {**job.memo, "looked": True})
    return Done(remove=True)


async def _converge(job: Job, complete: ClusterStatus) -> Outcome:
    """One step of the driver."""
    found = await cluster_specs.read(job.database, job.scope, Cluster.uuid == job.resource.uuid)
    if (rows := found.get(job.resource.uuid)) is None:
        return Failed("its cluster template is gone")
    driver = job.drivers.find(rows.cluster.driver, rows.cluster.backend)
    spec = _spec(job, rows)
    try:
        left = await _left(job)
        step = driver.converge(spec, job.memo.get("driver", {}))
        progress = await _within(STEP_LIMIT if left is None else min(STEP_LIMIT, max(left, 1.0)), step)
    except Unavailable:
        raise
    except EngineError as error:
        faults = error.faults if isinstance(error, ClusterFailed) else {}
        job.memo["faults"] = {str(group): reason for group, reason in faults.items()}
        await _record(job, rows, await _look(driver, spec), None)
        return Failed(error.title)
    seen = await _look(driver, spec)
    text = None if progress.done else progress.text or _words(seen, spec)
    if not await _record(job, rows, seen, text):
        return Again(0.1)  # the lease is lost, or a delete waits: nothing of this is stored
    if not progress.done:
        return await _go_on(job, progress, text)
    if seen is None and (tries := job.memo.get("unseen", 0)) < UNSEEN:
        # Where its nodes are must be known when it is complete; whoever watches it later would find out, but too late.
        return Again(1.0, {**_memo(job, progress.memo), "unseen": tries + 1})
    if spec.keys is not None and spec.keys.previous is not None:
        async with job.database.transaction(job.scope) as session:
            if await actions.holds(session, job):
                await cluster_keys.forget_previous(session, rows.cluster.uuid)
        return Again(0, _memo(job, {}))  # and now without it
    return Done({"status": complete, "status_reason": None, **(health_of(seen) if seen else {})})


async def _go_on(job: Job, progress: Progress, text: str | None) -> Outcome:
    left = await _left(job)
    if left is not None and left <= 0:
        return Failed(f"gave up after the deadline: {text}")
    return Again(progress.after, _memo(job, progress.memo), {"status_reason": text})


def _memo(job: Job, driver: Mapping[str, Any]) -> dict[str, Any]:
    return {**job.memo, "driver": dict(driver)}


def _spec(job: Job, rows: Rows) -> ClusterSpec:
    """The wish as this action sees it: groups that are added by a later one are left to that."""
    args = job.args if isinstance(job.args, UpdateArgs) else UpdateArgs()
    creates = job.action.verb == "create"

    def mine(group: NodeGroup) -> bool:
        new = group.status == ClusterStatus.CREATE_IN_PROGRESS
        return not new or group.uuid in args.groups or (creates and group.is_default)

    return cluster_specs.spec_of(
        rows,
        job.vault,
        groups=[group for group in rows.groups if mine(group)],
        about=args.groups,
        leaving=args.leaving,
        batch=args.batch,
    )


async def _within(seconds: float, call: Any) -> Any:
    """What a driver answers. Raises Unavailable when it does not in time: the next step finds what was done."""
    try:
        async with asyncio.timeout(seconds):
            return await call
    except TimeoutError:
        raise Unavailable(f"the cluster driver did not come back within {seconds:.0f} seconds") from None


async def _left(job: Job) -> float | None:
    """Seconds to the action's deadline."""
    if job.action.deadline is None:
        return None
    async with job.database.reading(job.scope) as session:
        return job.action.deadline - await actions.clock(session)


async def _look(driver: ClusterDriver, spec: ClusterSpec) -> ClusterSeen | None:
    """What is there by now; None also when it cannot be asked, which the next step finds out for itself."""
    try:
        seen: ClusterSeen | None = await _within(STEP_LIMIT, driver.observe(spec))
    except EngineError:
        return None
    return seen


async def _record(job: Job, rows: Rows, seen: ClusterSeen | None, text: str | None) -> bool:
    """Write what is known by now, if it changed. False when the lease is lost or a delete waits."""
    cluster = facts_of(rows.cluster, seen) | ({"status_reason": text} if text else {})
    groups = {group.uuid: group_facts(group, seen, rows.cluster) for group in rows.groups}
    if _same(rows.cluster, cluster) and all(_same(group, groups[group.uuid]) for group in rows.groups):
        return True
    async with job.database.transaction(job.scope) as session:
        if not await actions.holds(session, job):
            return False
        row = (await session.exec(select(Cluster).where(Cluster.uuid == rows.cluster.uuid))).one()
        await actions.write(session, row, cluster)
        for group in await _locked(session, row):
            await actions.write(session, group, groups.get(group.uuid, {}))
    return True


def facts_of(cluster: Cluster, seen: ClusterSeen | None) -> dict[str, Any]:
    """What a cluster's row says of where it is and what runs there; what is not seen now stays as it was."""
    facts: dict[str, Any] = {"stack_id": cluster.stack_id or handle_of(cluster)}
    if seen is not None:
        for name in ("api_address", "coe_version", "container_version"):
            if (value := getattr(seen, name)) is not None:
                facts[name] = value
    return facts


def group_facts(group: NodeGroup, seen: ClusterSeen | None, cluster: Cluster) -> dict[str, Any]:
    """The same of a node group; one that is being changed also says which node it waits for."""
    facts: dict[str, Any] = {"stack_id": group.stack_id or cluster.stack_id or handle_of(cluster)}
    if seen is not None:
        nodes = [node for node in seen.nodes if str(node.group) == group.uuid]
        facts["node_addresses"] = [node.address for node in nodes if node.address]
        if group.status in IN_PROGRESS:
            facts["status_reason"] = waits_for(nodes, 0 if group.status in GOING else group.node_count)
    return facts


def health_of(seen: ClusterSeen) -> dict[str, Any]:
    """Magnum's health of what is seen (magnum-api, section 6.5)."""
    return {"health_status": "HEALTHY" if seen.healthy else "UNHEALTHY", "health_status_reason": dict(seen.reasons)}


def waits_for(nodes: Sequence[NodeFact], count: int) -> str:
    """How far the nodes are, and why those that are not ready are not."""
    ready = sum(node.ready for node in nodes)
    words = [f"{ready} of {count} nodes ready"]
    words += [f"{node.name}: {node.reason or 'starting'}" for node in nodes if not node.ready]
    return "; ".join(words)


def handle_of(cluster: Cluster) -> str:
    """What clients see as the handle of a cluster's resources, as Magnum's drivers make it of name and chance."""
    name = re.sub(r"[^a-z0-9]+", "-", cluster.name.lower())[:30].strip("-")
    return f"{name or 'cluster'}-{cluster.uuid.replace('-', '')[:12]}"


def _words(seen: ClusterSeen | None, spec: ClusterSpec) -> str:
    return waits_for(seen.nodes if seen else (), sum(group.count for group in spec.groups))


def _ends(status: str, failed: bool) -> ClusterStatus | None:
    return ENDS.get(ClusterStatus(status), UPDATED)[failed]


async def _later(session: AsyncSession, job: Job) -> list[dict[str, Any]]:
    """The arguments of the actions that wait behind this one."""
    query = select(Action.args).where(
        Action.resource_id == job.action.resource_id,
        col(Action.id) > job.action.id,
        col(Action.state).in_(UNFINISHED),
    )
    return [dict(args or {}) for args in (await session.exec(query)).all()]


async def _was_cancelled(job: Job) -> bool:
    """Whether a step was running when its cluster was deleted."""
    query = select(Action.id).where(Action.resource_id == job.action.resource_id, col(Action.cancel).is_(True)).limit(1)
    async with job.database.reading(job.scope) as session:
        return (await session.exec(query)).first() is not None


async def _locked(session: AsyncSession, cluster: Cluster) -> list[NodeGroup]:
    query = select(NodeGroup).where(NodeGroup.cluster_id == cluster.uuid).order_by(col(NodeGroup.id))
    return list((await session.exec(query.with_for_update())).all())


def _same(row: Cluster | NodeGroup, changes: Mapping[str, Any]) -> bool:
    return all(getattr(row, name) == value for name, value in changes.items())
