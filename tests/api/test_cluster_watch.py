"""What becomes of a cluster while nobody asks anything of it."""

from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import pytest
import pytest_asyncio
from sqlmodel import select

from app import actions
from app.cluster_watch import watch_id
from app.clusters import DeleteArgs
from app.db import EVERYTHING
from app.errors import Refused, Unavailable
from app.models import Action, ActionState, Cluster
from app.observe import PRUNE_ID
from tests.api.caisson import Running, eventually
from tests.api.yard import PROJECT, Yard

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest_asyncio.fixture(loop_scope="session")
async def yard(shared: Running) -> AsyncIterator[Yard]:
    """Clusters, removed after the test."""
    made = Yard(shared)
    yield made
    await made.clean_up()


async def rounds(yard: Yard, count: int = 1) -> None:
    """Wait until the clusters were looked at so many more times, from the beginning to the end of a round."""
    for _ in range(count):
        before = await _round(yard)

        async def over(before: Action = before) -> bool:
            async with yard.running.gateway.database.transaction(EVERYTHING) as session:
                query = select(Action).where(Action.resource_id == watch_id("local")).with_for_update()
                now = (await session.exec(query)).one()
                if now.state == ActionState.QUEUED and now.attempts == before.attempts:
                    now.run_after = 0.0
            yard.running.gateway.wake()
            return now.state == ActionState.QUEUED and now.attempts > before.attempts

        await eventually(over, lambda: "no round", every=0.05)


async def _round(yard: Yard) -> Action:
    async with yard.running.gateway.database.reading(EVERYTHING) as session:
        return (await session.exec(select(Action).where(Action.resource_id == watch_id("local")))).one()


async def healthy(yard: Yard, uuid: str, status: str) -> Cluster:
    """Look until the cluster has this health."""
    row = await yard.cluster(uuid)
    for _ in range(5):
        if row.health_status != status:
            await rounds(yard)
            row = await yard.cluster(uuid)
    assert row.health_status == status, row.health_status_reason
    return row


async def test_a_node_that_stops_is_told_and_started_again(yard: Yard) -> None:
    uuid = await yard.ready(workers=2)
    yard.driver.stop_node(UUID(uuid), "blue-default-worker-1")
    for _ in range(20):
        yard.driver.fail_next("mend", Refused("device busy"))
    await rounds(yard)
    row = await yard.cluster(uuid)
    assert row.health_status == "UNHEALTHY"
    assert row.health_status_reason == {
        "api": "ok",
        "blue-default-master-0.Ready": "True",
        "blue-default-worker-0.Ready": "True",
        "blue-default-worker-1.Ready": "False: stopped",
    }
    assert row.status == "CREATE_COMPLETE"
    yard.driver.reset()
    await rounds(yard)
    assert all(node.running for node in yard.driver.nodes(UUID(uuid)))
    await healthy(yard, uuid, "HEALTHY")


async def test_nothing_is_written_when_nothing_changed(yard: Yard) -> None:
    uuid = await yard.ready()
    await rounds(yard)
    before, groups = await yard.cluster(uuid), await yard.groups(uuid)
    looked, mended = yard.driver.calls["observe"], yard.driver.calls["mend"]
    await rounds(yard, 2)
    after = await yard.cluster(uuid)
    assert yard.driver.calls["observe"] >= looked + 2
    assert yard.driver.calls["mend"] == mended
    assert (after.revision, after.updated_at) == (before.revision, before.updated_at)
    assert {name: group.revision for name, group in (await yard.groups(uuid)).items()} == {
        name: group.revision for name, group in groups.items()
    }


async def test_a_cluster_that_somebody_removed_is_unhealthy(yard: Yard) -> None:
    uuid = await yard.ready()
    yard.driver.vanish(UUID(uuid))
    row = await healthy(yard, uuid, "UNHEALTHY")
    assert row.health_status_reason == {"api": "the engine holds no node of it"}


async def test_what_cannot_be_asked_is_unknown(yard: Yard) -> None:
    uuid = await yard.ready()
    for _ in range(20):
        yard.driver.fail_next("observe", Unavailable("connection refused"))
    await rounds(yard)
    row = await yard.cluster(uuid)
    yard.driver.reset()
    assert (row.health_status, row.health_status_reason) == ("UNKNOWN", {"api": "connection refused"})
    yard.running.engine.go_down()
    try:
        await rounds(yard)
    finally:
        yard.running.engine.come_up()
    row = await yard.cluster(uuid)
    assert row.health_status == "UNKNOWN"
    assert row.health_status_reason is not None
    assert row.health_status_reason["api"].startswith("the engine does not answer: ")
    await healthy(yard, uuid, "HEALTHY")


async def test_a_driver_that_fails_in_one_cluster_spoils_no_other(yard: Yard) -> None:
    one, other = await yard.ready(name="one"), await yard.ready(name="other")
    yard.driver.fail_next("observe", ValueError("a bug"))  # type: ignore[arg-type]  # as no driver should
    yard.driver.stop_node(UUID(one), "one-default-worker-0")
    yard.driver.stop_node(UUID(other), "other-default-worker-0")
    yard.driver.fail_next("mend", Refused("device busy"))
    await rounds(yard)
    states = {(await yard.cluster(uuid)).health_status for uuid in (one, other)}
    assert states == {"UNKNOWN", "UNHEALTHY"}


async def test_while_an_action_works_on_it_a_cluster_is_left_alone(yard: Yard) -> None:
    uuid = await yard.ready()
    yard.driver.looks = 10**6
    await yard.resize(uuid, "default-worker", 2)
    await yard.says(uuid, "blue-default-worker-1: starting")
    revision = (await yard.cluster(uuid)).revision
    mended = yard.driver.calls["mend"]
    await rounds(yard, 2)
    row = await yard.cluster(uuid)
    assert (row.health_status, row.status) == ("HEALTHY", "UPDATE_IN_PROGRESS")
    assert row.revision >= revision
    assert yard.driver.calls["mend"] == mended


async def test_a_healer_inside_the_cluster_is_not_overruled(yard: Yard) -> None:
    uuid = await yard.ready()
    async with yard.running.gateway.database.transaction(EVERYTHING) as session:
        row = (await session.exec(select(Cluster).where(Cluster.uuid == uuid))).one()
        row.labels = {"auto_healing_enabled": "true", "auto_healing_controller": "magnum-auto-healer"}
        row.health_status, row.health_status_reason = "UNHEALTHY", {"api": "said the healer"}
    await rounds(yard, 2)
    assert (await yard.cluster(uuid)).health_status_reason == {"api": "said the healer"}


async def test_what_is_left_of_deleted_clusters_is_removed_and_the_unknown_only_reported(yard: Yard) -> None:
    engine, unknown = yard.running.engine, uuid4()
    uuid = await yard.ready()
    await yard.delete(uuid)
    await yard.reaches(uuid, None)
    for cluster in (UUID(uuid), unknown):
        await engine.ensure_node_network(cluster, PROJECT)
    await rounds(yard)
    held = await engine.clusters()
    assert UUID(uuid) not in held
    assert unknown in held
    assert await engine.remove_cluster(unknown)


async def test_the_history_of_a_living_cluster_is_kept(yard: Yard) -> None:
    uuid, gone = await yard.ready(), str(uuid4())
    async with yard.running.gateway.database.transaction(EVERYTHING) as session:
        row = Cluster(
            project_id=PROJECT, user_id="u", created_at=1.0, name="x", uuid=gone, cluster_template_id="t",
            coe="kubernetes", driver="kubernetes", backend="local",
        )  # fmt: skip
        old = actions.submit(session, actions.SYSTEM, "cluster", row, "delete", "local", 1.0, args=DeleteArgs())
        old.state, old.finished_at = ActionState.DONE, 1.0
        for action in (await session.exec(select(Action).where(Action.resource_id == uuid))).all():
            action.finished_at = 1.0
    await actions.hurry_one(yard.running.gateway.database, PRUNE_ID)
    yard.running.gateway.wake()

    async def pruned() -> bool:
        return await yard.log(gone) == []

    await eventually(pruned, lambda: "not pruned")
    assert [action.verb for action in await yard.log(uuid)] == ["create"]
