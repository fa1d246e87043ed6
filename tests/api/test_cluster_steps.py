"""The steps of clusters, from rows and actions alone: what the API stores is stored here by hand."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio
from sqlmodel import select

from app import cluster_specs
from app.backends.driver import ClusterFailed
from app.clusters import RotateArgs, UpdateArgs
from app.db import EVERYTHING
from app.errors import NotFound, Refused, Unavailable
from app.models import Cluster, ClusterKey, ClusterStatus, ClusterTemplate, NodeGroup
from tests.api.caisson import Running, eventually
from tests.api.yard import IMAGE, PROJECT, Yard

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest_asyncio.fixture(loop_scope="session")
async def yard(shared: Running) -> AsyncIterator[Yard]:
    """Clusters, removed after the test."""
    made = Yard(shared)
    yield made
    await made.clean_up()


async def test_a_cluster_is_made(yard: Yard) -> None:
    uuid = await yard.ready(masters=3, workers=2)
    row, groups = await yard.cluster(uuid), await yard.groups(uuid)
    assert len(yard.names(uuid)) == 5
    assert (row.status_reason, row.health_status, row.coe_version) == (None, "HEALTHY", "v1")
    assert row.health_status_reason is not None
    assert row.health_status_reason["api"] == "ok"
    assert row.api_address is not None
    assert row.api_address.startswith("https://10.222.")
    assert row.stack_id is not None
    assert row.stack_id.startswith("blue-")
    for name, count in (("default-master", 3), ("default-worker", 2)):
        assert (groups[name].status, groups[name].status_reason) == ("CREATE_COMPLETE", None)
        assert len(groups[name].node_addresses) == count
        assert groups[name].stack_id == row.stack_id


async def test_what_is_waited_for_is_told_and_so_is_what_is_known_already(yard: Yard) -> None:
    yard.driver.looks = 10**6
    uuid = await yard.create()
    await yard.says(uuid, "0 of 2 nodes ready; blue-default-master-0: starting")
    row, groups = await yard.cluster(uuid), await yard.groups(uuid)
    assert row.status == "CREATE_IN_PROGRESS"
    assert row.api_address is not None
    assert groups["default-master"].status_reason == "0 of 1 nodes ready; blue-default-master-0: starting"
    assert len(groups["default-master"].node_addresses) == 1


async def test_a_creation_that_takes_too_long_says_what_it_waited_for(yard: Yard) -> None:
    yard.driver.looks = 10**6
    uuid = await yard.create(seconds=1)
    await yard.reaches(uuid, "CREATE_FAILED")
    reason = (await yard.cluster(uuid)).status_reason or ""
    assert reason.startswith("gave up after the deadline: ")
    assert "blue-default-master-0: " in reason
    assert {(group.status, group.status_reason) for group in (await yard.groups(uuid)).values()} == {
        ("CREATE_FAILED", reason)
    }


async def test_a_driver_that_hangs_does_not_outlast_the_deadline(yard: Yard) -> None:
    yard.driver.freeze()
    uuid = await yard.create(seconds=1)
    await yard.reaches(uuid, "CREATE_FAILED")
    assert "did not come back" in ((await yard.cluster(uuid)).status_reason or "")
    assert {group.status for group in (await yard.groups(uuid)).values()} == {"CREATE_FAILED"}


async def test_what_was_made_is_looked_at_before_it_is_complete(yard: Yard) -> None:
    uuid = await yard.ready()
    for _ in range(3):
        yard.driver.fail_next("observe", Refused("busy"))
    await yard.resize(uuid, "default-worker", 2)
    await yard.reaches(uuid, "UPDATE_COMPLETE")
    assert len((await yard.groups(uuid))["default-worker"].node_addresses) == 2


async def test_a_failure_is_told_of_the_group_that_it_is_about(yard: Yard) -> None:
    yard.driver.break_nodes("default-worker", "exec format error")
    uuid = await yard.create()
    await yard.reaches(uuid, "CREATE_FAILED")
    row, groups = await yard.cluster(uuid), await yard.groups(uuid)
    assert row.status_reason == "blue-default-worker-0: exec format error"
    assert groups["default-worker"].status_reason == "blue-default-worker-0: exec format error"
    assert {group.status for group in groups.values()} == {"CREATE_FAILED"}
    assert row.api_address is not None


async def test_an_engine_that_is_away_is_waited_for(yard: Yard) -> None:
    yard.driver.fail_next("converge", Unavailable("connection refused"))
    yard.driver.fail_next("converge", Unavailable("connection refused"), after=True)
    uuid = await yard.ready()
    assert len(yard.names(uuid)) == 2


async def test_a_step_that_crashes_fails_the_groups_as_well(yard: Yard) -> None:
    uuid = await yard.ready()
    yard.driver.fail_next("converge", ClusterFailed("no room for it"))
    await yard.resize(uuid, "default-worker", 3)
    await yard.reaches(uuid, "UPDATE_FAILED")
    groups = await yard.groups(uuid)
    assert (groups["default-worker"].status, groups["default-worker"].status_reason) == (
        "UPDATE_FAILED", "no room for it",
    )  # fmt: skip
    assert groups["default-worker"].node_count == 1
    assert groups["default-master"].status == "CREATE_COMPLETE"


async def test_a_group_grows_and_shrinks_by_the_nodes_that_are_named(yard: Yard) -> None:
    uuid = await yard.ready(workers=1)
    await yard.resize(uuid, "default-worker", 3)
    await yard.reaches(uuid, "UPDATE_COMPLETE")
    await yard.resize(uuid, "default-worker", 2, leaving=["blue-default-worker-0"])
    await yard.reaches(uuid, "UPDATE_COMPLETE")
    assert yard.names(uuid) == ["blue-default-master-0", "blue-default-worker-1", "blue-default-worker-2"]
    groups = await yard.groups(uuid)
    assert groups["default-worker"].status == "UPDATE_COMPLETE"
    assert len(groups["default-worker"].node_addresses) == 2
    assert groups["default-master"].status == "CREATE_COMPLETE"
    await yard.resize(uuid, "default-worker", 0)
    await yard.reaches(uuid, "UPDATE_COMPLETE")
    assert yard.names(uuid) == ["blue-default-master-0"]
    assert (await yard.groups(uuid))["default-worker"].node_addresses == []


async def test_an_update_of_nothing_is_an_update(yard: Yard) -> None:
    uuid = await yard.ready()
    await yard.resize(uuid, "default-worker", 1)
    await yard.reaches(uuid, "UPDATE_COMPLETE")


async def test_a_group_is_added_and_removed(yard: Yard) -> None:
    uuid = await yard.ready()
    await yard.add_group(uuid, "gpu", 2)
    await yard.reaches(uuid, "UPDATE_COMPLETE")
    groups = await yard.groups(uuid)
    assert groups["gpu"].status == "CREATE_COMPLETE"
    assert len(groups["gpu"].node_addresses) == 2
    assert groups["default-worker"].status == "CREATE_COMPLETE"
    await yard.drop_group(uuid, "gpu")
    await yard.reaches(uuid, "UPDATE_COMPLETE")
    assert "gpu" not in await yard.groups(uuid)
    assert len(yard.names(uuid)) == 2


async def test_groups_that_are_added_at_once_wait_for_each_other(yard: Yard) -> None:
    """And one that cannot be made spoils no other."""
    uuid = await yard.ready()
    yard.driver.break_nodes("b", "no such device")
    for name in ("a", "b", "c"):
        await yard.add_group(uuid, name, 1)
    await yard.reaches(uuid, "UPDATE_FAILED")
    groups = await yard.groups(uuid)
    assert groups["a"].status == "CREATE_COMPLETE"
    assert (groups["b"].status, groups["b"].status_reason) == ("CREATE_FAILED", "blue-b-0: no such device")
    await yard.drop_group(uuid, "b")
    await yard.reaches(uuid, "UPDATE_COMPLETE")
    assert {name: group.status for name, group in (await yard.groups(uuid)).items()} == {
        "default-master": "CREATE_COMPLETE",
        "default-worker": "CREATE_COMPLETE",
        "a": "CREATE_COMPLETE",
        "c": "CREATE_COMPLETE",
    }


async def test_while_others_wait_the_cluster_is_not_complete(yard: Yard) -> None:
    uuid = await yard.ready()
    yard.driver.freeze()
    await yard.add_group(uuid, "a", 1)
    await yard.resize(uuid, "default-worker", 2)
    yard.driver.thaw()
    seen: set[str] = set()

    async def ended() -> bool:
        row = await yard.cluster(uuid)
        log = await yard.log(uuid)
        if log[-1].state in ("queued", "running"):
            seen.add((await yard.cluster(uuid)).status if log[-1].state == "queued" else row.status)
        return log[-1].state == "done"

    await eventually(ended, lambda: "not done")
    await yard.reaches(uuid, "UPDATE_COMPLETE")
    assert seen <= {"UPDATE_IN_PROGRESS", "UPDATE_COMPLETE"}
    assert len(yard.names(uuid)) == 4


async def test_an_upgrade_replaces_nodes_and_a_failed_one_puts_the_rows_back(yard: Yard) -> None:
    uuid = await yard.ready(workers=2)
    before, groups = await yard.cluster(uuid), await yard.groups(uuid)
    newer = {"image_id": "node-2", "node_image": "2", "node_profile": ""}

    def change(row: Cluster, groups: dict[str, NodeGroup], session: Any) -> None:
        template = ClusterTemplate(
            project_id=PROJECT, user_id="u", created_at=1.0, name="n", coe="kubernetes", driver="kubernetes",
            image_id="node-2", cluster_distro="debian",
        )  # fmt: skip
        session.add(template)
        row.cluster_template_id = template.uuid
        for group in groups.values():
            group.status = ClusterStatus.UPDATE_IN_PROGRESS
            for name, value in newer.items():
                setattr(group, name, value)

    args = UpdateArgs(
        groups=[group.uuid for group in groups.values()],
        batch=2,
        before_template=before.cluster_template_id,
        before_images={group.uuid: IMAGE for group in groups.values()},
    )
    yard.driver.break_nodes("default-worker", "does not boot")
    await yard.act(uuid, "update", args, change=change)
    await yard.reaches(uuid, "UPDATE_FAILED")
    row, groups = await yard.cluster(uuid), await yard.groups(uuid)
    assert row.cluster_template_id == before.cluster_template_id
    assert {group.node_image for group in groups.values()} == {"1"}
    yard.driver.repair_nodes("default-worker")
    await yard.act(uuid, "update", args, change=change)
    await yard.reaches(uuid, "UPDATE_COMPLETE")
    row, groups = await yard.cluster(uuid), await yard.groups(uuid)
    assert row.cluster_template_id != before.cluster_template_id
    assert row.coe_version == "v2"
    assert {group.status for group in groups.values()} == {"UPDATE_COMPLETE"}
    assert {node.spec.image for node in yard.driver.nodes(UUID(uuid))} == {"2"}


async def test_an_authority_is_replaced_and_the_old_one_forgotten(yard: Yard) -> None:
    uuid = await yard.ready()
    old = await yard.keys(uuid)
    yard.driver.fail_next("converge", ClusterFailed("a node does not answer"))
    await yard.act(uuid, "rotate_ca", RotateArgs())
    await yard.reaches(uuid, "UPDATE_FAILED")
    halfway = await yard.keys(uuid)
    assert halfway.previous == old.cluster
    assert halfway.cluster != old.cluster
    await yard.act(uuid, "rotate_ca", RotateArgs())
    await yard.reaches(uuid, "UPDATE_COMPLETE")
    new = await yard.keys(uuid)
    assert new.previous is None
    assert new.cluster == halfway.cluster
    assert (new.etcd, new.front_proxy, new.accounts) == (old.etcd, old.front_proxy, old.accounts)
    trusts = {(node.serves, node.trusts) for node in yard.driver.nodes(UUID(uuid))}
    assert trusts == {(new.cluster.certificate, (new.cluster.certificate,))}


async def test_keys_are_sealed(yard: Yard) -> None:
    uuid = await yard.ready()
    keys = await yard.keys(uuid)
    async with yard.running.gateway.database.reading(EVERYTHING) as session:
        rows = (await session.exec(select(ClusterKey).where(ClusterKey.cluster_id == uuid))).all()
    assert sorted(row.kind for row in rows) == ["accounts", "cluster", "etcd", "front_proxy"]
    assert not [row for row in rows if "PRIVATE KEY" in row.private_key]
    assert "PRIVATE KEY" in keys.accounts
    assert "PRIVATE KEY" not in repr(keys)
    for action in await yard.log(uuid):
        assert "PRIVATE KEY" not in f"{action.args}{action.memo}"
    with pytest.raises(NotFound):
        await yard.keys("00000000-0000-4000-8000-000000000000")


async def test_a_deletion_leaves_nothing(yard: Yard) -> None:
    uuid = await yard.ready(masters=3, workers=2)
    await yard.delete(uuid)
    await yard.reaches(uuid, None)
    await yard.nothing_left(uuid)
    assert UUID(uuid) not in yard.driver.held()


async def test_a_deletion_cancels_what_is_going_on(yard: Yard) -> None:
    yard.driver.looks = 10**6
    uuid = await yard.create()
    await yard.says(uuid, "nodes ready")
    await yard.delete(uuid)
    await yard.reaches(uuid, None)
    await yard.nothing_left(uuid)
    assert [action.state for action in await yard.log(uuid)] == ["cancelled", "done"]


@pytest.mark.parametrize("error", [Refused("device busy"), Unavailable("no answer")])
async def test_a_deletion_that_is_refused_says_so_and_can_be_asked_again(yard: Yard, error: Any) -> None:
    uuid = await yard.ready()
    for _ in range(20):
        yard.driver.fail_next("delete", error)
    await yard.delete(uuid, seconds=1)
    await yard.reaches(uuid, "DELETE_FAILED")
    row, groups = await yard.cluster(uuid), await yard.groups(uuid)
    assert error.title in (row.status_reason or "")
    assert {group.status for group in groups.values()} == {"DELETE_FAILED"}
    assert error.title in (groups["default-worker"].status_reason or "")
    yard.driver.reset()
    await yard.delete(uuid)
    await yard.reaches(uuid, None)
    await yard.nothing_left(uuid)


async def test_a_cluster_whose_driver_is_not_installed_says_so(yard: Yard) -> None:
    uuid = await yard.ready()
    async with yard.running.gateway.database.transaction(EVERYTHING) as session:
        (await session.exec(select(Cluster).where(Cluster.uuid == uuid))).one().driver = "other"
    await yard.resize(uuid, "default-worker", 2)
    await yard.reaches(uuid, "UPDATE_FAILED")
    assert (await yard.cluster(uuid)).status_reason == "the cluster driver other is not installed here"
    assert (await yard.groups(uuid))["default-worker"].status == "UPDATE_FAILED"
    async with yard.running.gateway.database.transaction(EVERYTHING) as session:
        (await session.exec(select(Cluster).where(Cluster.uuid == uuid))).one().driver = "kubernetes"


async def test_the_wish_of_a_group_is_what_its_row_says(yard: Yard) -> None:
    uuid = await yard.ready()
    database, vault = yard.running.gateway.database, yard.running.gateway.vault
    rows = (await cluster_specs.read(database, EVERYTHING, Cluster.uuid == uuid))[uuid]
    worker = rows.groups[1]
    worker.node_taints, worker.node_labels = [{"key": "a", "value": "b", "effect": "NoSchedule"}], {"zone": "1"}
    rows.template.dns_nameserver = "192.0.2.1, 192.0.2.2"
    spec = cluster_specs.spec_of(rows, vault, about=[worker.uuid], leaving=["x"], batch=3)
    master, nodes = spec.groups
    assert (master.role, master.leaving, master.batch) == ("master", [], 1)
    assert (nodes.leaving, nodes.batch, nodes.memory, nodes.image) == (["x"], 3, 512, "1")
    assert nodes.node_taints == worker.node_taints
    assert nodes.node_labels == worker.node_labels
    assert spec.name_servers == ["192.0.2.1", "192.0.2.2"]
    assert spec.keys == await yard.keys(uuid)
    assert cluster_specs.spec_of(rows).keys is None
    worker.status = ClusterStatus.DELETE_IN_PROGRESS
    assert [group.name for group in cluster_specs.spec_of(rows).groups] == ["default-master"]
    assert "PRIVATE KEY" not in repr(spec)
