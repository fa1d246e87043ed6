"""Watching clusters: their rows follow what is seen of them, and what stopped by itself is started again.

One recurring action per engine reads all rows at once and asks each cluster's driver, a few at a time. Clusters that an
action works on are left to it; a row is written only when something changed. See docs/clusters.md.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

import structlog
from sqlmodel import col, select

from app import actions, cluster_specs
from app.actions import Again, Job, Outcome, step
from app.backends.driver import ClusterDriver, ClusterSpec
from app.backends.nodes import Nodes
from app.cluster_specs import Rows
from app.cluster_steps import facts_of, group_facts, health_of
from app.db import EVERYTHING, Database
from app.errors import EngineError, GatewayError
from app.models import Action, ActionState, Cluster, ClusterStatus, NodeGroup

log = structlog.get_logger("caisson.clusters")

AT_A_TIME = 8  # clusters of one engine that are asked at the same time
LOOK_LIMIT = 60.0  # seconds that one of them may take
AFTER_MENDING = 2.0  # seconds until the next round when something was started again
AT_REST = [status for status in ClusterStatus if not status.endswith("_IN_PROGRESS")]


def watch_id(backend: str) -> str:
    """The resource that the recurring action of an engine's clusters belongs to."""
    return str(uuid5(NAMESPACE_URL, f"caisson:clusters:{backend}"))


async def ensure(database: Database, backends: Sequence[str]) -> None:
    """Make sure that the clusters on each of these engines are watched."""
    for name in backends:
        await actions.ensure_recurring(database, watch_id(name), "backend", "watch_clusters", name)


@dataclass(slots=True)
class Facts:
    """What a look found out: changes of the cluster's row, and of its node groups' by uuid."""

    cluster: dict[str, Any]
    groups: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    mended: bool = False


@step("backend", "watch_clusters")
async def watch(job: Job) -> Outcome:
    """One round over the clusters of one engine."""
    found = await cluster_specs.read(
        job.database, EVERYTHING, Cluster.backend == job.engine.name, col(Cluster.status).in_(AT_REST)
    )
    async with job.database.reading(EVERYTHING) as session:
        busy = await actions.unfinished(session, list(found)) if found else set()
    watched = [rows for uuid, rows in found.items() if uuid not in busy and not _heals_itself(rows.cluster)]
    try:
        await job.engine.ping()
    except EngineError as error:
        silent = health("UNKNOWN", f"the engine does not answer: {error.title}")
        for rows in watched:
            await _store(job, rows, Facts(silent))
        return Again(job.settings.clusters.health_seconds)
    gate = asyncio.Semaphore(AT_A_TIME)

    async def one(rows: Rows) -> bool:
        async with gate:
            facts = await _look(job, rows)
        await _store(job, rows, facts)
        return facts.mended

    async with asyncio.TaskGroup() as group:
        rounds = [group.create_task(one(rows)) for rows in watched]
    mended = any(task.result() for task in rounds)
    await _sweep(job)
    every = job.settings.clusters.health_seconds
    return Again(min(AFTER_MENDING, every) if mended else every)


def health(status: str, reason: str) -> dict[str, Any]:
    """The health of a cluster whose nodes could not be asked."""
    return {"health_status": status, "health_status_reason": {"api": reason}}


def _heals_itself(cluster: Cluster) -> bool:
    """Whether a healer inside the cluster reports its health (magnum-api, section 6.5)."""
    labels = cluster.labels
    asked = labels.get("auto_healing_enabled", "").lower() == "true"
    return asked and labels.get("auto_healing_controller") == "magnum-auto-healer"


async def _look(job: Job, rows: Rows) -> Facts:
    cluster = rows.cluster
    try:
        driver = job.drivers.find(cluster.driver, cluster.backend)
        spec = cluster_specs.spec_of(rows, job.vault)
        async with asyncio.timeout(LOOK_LIMIT):
            seen = await driver.observe(spec)
            if seen is None:
                return Facts(health("UNHEALTHY", "the engine holds no node of it"))
            mended = await _mend(job, cluster, driver, spec) if not seen.healthy else ""
    except TimeoutError:
        return Facts(health("UNKNOWN", f"no answer within {LOOK_LIMIT:.0f} seconds"))
    except GatewayError as error:
        return Facts(health("UNKNOWN", error.title))
    except Exception as error:  # what is wrong with one is no reason to leave the others alone
        log.error("cluster not watched", cluster=cluster.uuid, exc_info=True)
        return Facts(health("UNKNOWN", f"internal error: {type(error).__name__}"))
    groups = {group.uuid: group_facts(group, seen, cluster) for group in rows.groups}
    return Facts(facts_of(cluster, seen) | health_of(seen), groups, bool(mended))


async def _mend(job: Job, cluster: Cluster, driver: ClusterDriver, spec: ClusterSpec) -> str:
    """Have it mended, if it is still nobody's business. One that is deleted just now is swept after the round."""
    if cluster.status == ClusterStatus.DELETE_FAILED:
        return ""
    async with job.database.reading(EVERYTHING) as session:
        living = (await session.exec(select(Cluster.id).where(Cluster.uuid == cluster.uuid))).first()
        if living is None or await actions.unfinished(session, [cluster.uuid]):
            return ""
    try:
        mended = await driver.mend(spec)
    except EngineError as error:
        log.warning("cluster not mended", cluster=cluster.uuid, reason=error.title)
        return ""
    if mended:
        log.info("cluster mended", cluster=cluster.uuid, what=mended)
    return mended


async def _store(job: Job, rows: Rows, facts: Facts) -> None:
    """Write what was seen, unless the cluster moved on since its rows were read."""
    before = rows.cluster
    changed = any(getattr(before, name) != value for name, value in facts.cluster.items())
    for group in rows.groups:
        changes = facts.groups.get(group.uuid, {})
        changed = changed or any(getattr(group, name) != value for name, value in changes.items())
    if not changed:
        return
    async with job.database.transaction(EVERYTHING) as session:
        row = (await session.exec(select(Cluster).where(Cluster.uuid == before.uuid).with_for_update())).one_or_none()
        if row is None or row.revision != before.revision or await actions.unfinished(session, [row.uuid]):
            return
        groups = await session.exec(select(NodeGroup).where(NodeGroup.cluster_id == row.uuid).with_for_update())
        await actions.write(session, row, facts.cluster)
        for group in groups.all():
            await actions.write(session, group, facts.groups.get(group.uuid, {}))


async def _sweep(job: Job) -> None:
    """Clusters that the engine holds without a row: removed when the log holds their finished delete, else reported."""
    if not isinstance(job.engine, Nodes):
        return
    held = {str(uuid) for uuid in await job.engine.clusters()}
    if not held:
        return
    async with job.database.reading(EVERYTHING) as session:
        living = set((await session.exec(select(Cluster.uuid).where(col(Cluster.uuid).in_(held)))).all())
        deleted = set(
            (
                await session.exec(
                    select(Action.resource_id).where(
                        col(Action.resource_id).in_(held - living),
                        Action.verb == "delete",
                        Action.state == ActionState.DONE,
                    )
                )
            ).all()
        )
    for uuid in sorted(held - living):
        if uuid in deleted:
            await job.engine.remove_cluster(UUID(uuid))
            log.info("orphan removed", cluster=uuid)
        else:
            log.warning("cluster without a row", cluster=uuid, backend=job.engine.name)
