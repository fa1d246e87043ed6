"""Node groups: what may be asked of them, in which state, and what becomes of it."""

from typing import Any
from uuid import UUID, uuid4

import pytest

from app.backends.driver import ClusterFailed
from tests.api.clusters import Clusters
from tests.api.test_magnum_versions import magnum_error

pytestmark = pytest.mark.asyncio(loop_scope="session")

SHORT = {
    "uuid", "name", "flavor_id", "image_id", "node_count", "role", "is_default", "status", "stack_id",
    "min_node_count", "max_node_count", "merge_labels",
}  # fmt: skip
MORE = {
    "cluster_id", "project_id", "docker_volume_size", "labels", "node_labels", "node_taints", "labels_overridden",
    "labels_added", "labels_skipped", "links",
}  # fmt: skip
LATER = {"id", "status", "status_reason", "stack_id", "version", "node_addresses", "created_at", "updated_at"}


async def test_the_default_ones(clusters: Clusters) -> None:
    template = await clusters.template(flavor_id="small", labels={"a": "1"}, docker_volume_size=9)
    uuid = await clusters.made(template, node_count=2)
    groups = await clusters.groups(uuid)
    assert list(groups) == ["default-master", "default-worker"]
    worker = groups["default-worker"]
    assert worker.keys() == SHORT
    expected = {
        "role": "worker", "is_default": True, "node_count": 2, "min_node_count": 0, "max_node_count": None,
        "image_id": "busybox", "flavor_id": "small", "status": "CREATE_COMPLETE", "merge_labels": False,
    }  # fmt: skip
    assert {name: worker[name] for name in expected} == expected
    shown = await clusters.ok("GET", f"clusters/{uuid}/nodegroups/default-worker")
    assert shown.keys() == SHORT | MORE | LATER
    assert (shown["labels"], shown["docker_volume_size"], shown["cluster_id"]) == ({"a": "1"}, 9, uuid)
    assert len(shown["node_addresses"]) == 2
    assert isinstance(shown["id"], int)
    path = f"clusters/{uuid}/nodegroups/{shown['uuid']}"
    assert [link["href"] for link in shown["links"]] == [f"http://test/v1/{path}", f"http://test/{path}"]
    for ident in (str(shown["id"]), shown["uuid"].upper(), shown["uuid"].replace("-", "")):
        assert await clusters.ok("GET", f"clusters/blue/nodegroups/{ident}") == shown
    for ident in ("nope", str(uuid4()), "99999999999999999999"):
        error = magnum_error(await clusters.ask("GET", f"clusters/{uuid}/nodegroups/{ident}"), 404)
        assert error["detail"] == f"Nodegroup {ident} could not be found."
    for name in ("default-worker", "default-master"):
        error = magnum_error(await clusters.ask("DELETE", f"clusters/{uuid}/nodegroups/{name}"), 400)
        assert error["detail"] == "Deleting a default nodegroup is not supported."
    await clusters.ok("DELETE", f"clusters/{uuid}")


async def test_lists(clusters: Clusters) -> None:
    uuid = await clusters.made()
    path = f"clusters/{uuid}/nodegroups"
    assert [row["role"] for row in (await clusters.ok("GET", f"{path}?role=master"))["nodegroups"]] == ["master"]
    assert (await clusters.ok("GET", f"{path}?role=nope"))["nodegroups"] == []
    first = await clusters.ok("GET", f"{path}?limit=1&sort_key=name&sort_dir=desc")
    assert [row["name"] for row in first["nodegroups"]] == ["default-worker"]
    assert first["next"].startswith(f"http://test/v1/{path}?sort_key=name&sort_dir=desc&limit=1&")
    second = (await clusters.caisson.call("GET", first["next"], version="container-infra 1.14")).json()
    assert [row["name"] for row in second["nodegroups"]] == ["default-master"]
    for query in ("limit=0", "sort_key=labels", "marker=x", "name=a", "all_tenants=1"):
        magnum_error(await clusters.ask("GET", f"{path}?{query}"), 400)


async def test_one_more(clusters: Clusters) -> None:
    uuid = await clusters.made(labels={"a": "1", "b": "2"})
    body: dict[str, Any] = {
        "name": "more", "node_count": "2", "min_node_count": 1, "max_node_count": 3, "role": "web",
        "image_id": "other-node", "labels": {"b": "3"}, "merge_labels": True, "node_labels": {"example.org/tier": "x"},
        "node_taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}],
    }  # fmt: skip
    answer = await clusters.ask("POST", f"clusters/{uuid}/nodegroups/", body)
    assert answer.status_code == 202, answer.text
    made = answer.json()
    assert made.keys() == (SHORT | MORE) - LATER
    expected = body | {
        "node_count": 2, "labels": {"a": "1", "b": "3"}, "labels_overridden": {"b": "2"}, "merge_labels": False,
        "is_default": False, "flavor_id": None,
    }  # fmt: skip
    assert {name: made[name] for name in expected} == expected
    path = f"clusters/{uuid}/nodegroups/{made['uuid']}"
    shown = await clusters.ok("GET", path)
    assert shown["status"] in ("CREATE_IN_PROGRESS", "CREATE_COMPLETE")
    await clusters.until(uuid, "UPDATE_COMPLETE")
    shown = await clusters.ok("GET", path)
    assert (shown["status"], len(shown["node_addresses"])) == ("CREATE_COMPLETE", 2)
    (group,) = [g for g in clusters.driver.nodes(UUID(uuid)) if g.group == UUID(made["uuid"])][:1]
    assert (group.spec.image, group.spec.node_labels) == ("other-node", {"example.org/tier": "x"})
    assert group.spec.node_taints == [{"key": "k", "value": "v", "effect": "NoSchedule"}]
    magnum_error(await clusters.ask("POST", f"clusters/{uuid}/nodegroups", {"name": "more"}), 409)
    # Its bounds
    resize = f"clusters/{uuid}/actions/resize"
    for count in (0, 4):
        error = magnum_error(await clusters.ask("POST", resize, {"node_count": count, "nodegroup": "more"}), 400)
        assert "from 1 to 3" in error["detail"]
    await clusters.ok("POST", resize, {"node_count": 3, "nodegroup": made["uuid"]})
    await clusters.until(uuid, "UPDATE_COMPLETE")
    assert (await clusters.ok("GET", path))["status"] == "UPDATE_COMPLETE"
    assert (await clusters.ask("DELETE", path)).status_code == 204
    await clusters.gone(path)
    await clusters.until(uuid, "UPDATE_COMPLETE")


async def test_a_patch(clusters: Clusters) -> None:
    uuid = await clusters.made(node_count=2)
    path = f"clusters/{uuid}/nodegroups/default-worker"
    patch = [
        {"op": "replace", "path": "/max_node_count", "value": 5},
        {"op": "replace", "path": "/min_node_count", "value": 1},
        {"op": "replace", "path": "/node_labels", "value": "{'a': 'b'}"},
        {"op": "replace", "path": "/node_taints", "value": '[{"key": "k", "effect": "NoExecute"}]'},
    ]  # fmt: skip
    answer = await clusters.ask("PATCH", path, patch)
    assert answer.status_code == 202, answer.text
    shown = answer.json()
    assert shown.keys() == SHORT | MORE | LATER
    expected = {
        "min_node_count": 1, "max_node_count": 5, "node_labels": {"a": "b"}, "status": "UPDATE_IN_PROGRESS",
        "node_taints": [{"key": "k", "effect": "NoExecute"}], "node_count": 2,
    }  # fmt: skip
    assert {name: shown[name] for name in expected} == expected
    await clusters.until(uuid, "UPDATE_COMPLETE")
    removed = [{"op": "remove", "path": f"/{name}"} for name in ("max_node_count", "min_node_count", "node_labels")]
    shown = await clusters.ok("PATCH", path, removed)
    assert (shown["min_node_count"], shown["max_node_count"], shown["node_labels"]) == (0, None, {})
    # The count follows its bounds.
    for operations, count in (
        ([{"op": "replace", "path": "/min_node_count", "value": 4}], 4),
        (
            [
                {"op": "replace", "path": "/min_node_count", "value": 0},
                {"op": "add", "path": "/max_node_count", "value": 1},
            ],
            1,
        ),
    ):
        assert (await clusters.ok("PATCH", path, operations))["node_count"] == count
    assert (await clusters.until(uuid, "UPDATE_COMPLETE"))["node_count"] == 1


@pytest.mark.parametrize(
    ("fields", "status", "said"),
    [
        ({"name": None}, 400, "name"), ({"name": ""}, 400, "name"), ({"name": "x" * 256}, 400, "name"),
        ({"name": "default-worker"}, 409, "already exists"), ({"node_count": -1}, 400, "node_count"),
        ({"node_count": 10_001}, 400, "node_count"), ({"node_count": "x"}, 400, "node_count"),
        ({"node_count": 0, "min_node_count": 1}, 409, "less than"),
        ({"node_count": 3, "max_node_count": 2}, 409, "greater than max"),
        ({"min_node_count": 3, "max_node_count": 2, "node_count": 3}, 409, "greater than max"),
        ({"role": "master"}, 400, "master"), ({"role": "master", "node_labels": {"a": "b"}}, 409, "master"),
        ({"role": "master", "node_taints": [{"key": "a", "effect": "NoSchedule"}]}, 409, "master"),
        ({"role": ""}, 400, "role"), ({"flavor_id": "nope"}, 400, "flavor nope"),
        ({"image_id": "nope"}, 400, "Image nope"), ({"docker_volume_size": 0}, 400, "docker_volume_size"),
        ({"labels": "x"}, 400, "labels"), ({"merge_labels": "maybe"}, 400, "merge_labels"),
        ({"node_labels": {"kubernetes.io/role": "x"}}, 409, "reserved"),
        ({"node_labels": {"a.k8s.io/x": "x"}}, 409, "reserved"),
        ({"node_labels": {"node-role.kubernetes.io/x": ""}}, 409, "reserved"),
        ({"node_labels": {"a": 1}}, 400, "a"), ({"node_labels": ["a"]}, 400, "node_labels"),
        ({"node_taints": {"a": "b"}}, 400, "node_taints"), ({"node_taints": ["a"]}, 400, "Value"),
        ({"node_taints": [{"effect": "NoSchedule"}]}, 409, "key"),
        ({"node_taints": [{"key": "", "effect": "NoSchedule"}]}, 409, "key"),
        ({"node_taints": [{"key": "a", "effect": "Nope"}]}, 409, "effect"),
        ({"node_taints": [{"key": "a"}]}, 409, "effect"),
        ({"node_taints": [{"key": "a", "effect": "NoSchedule", "x": "y"}]}, 409, "x is unknown"),
        ({"bogus": 1}, 400, "bogus"), ({"uuid": "x"}, 400, "uuid"), ({"is_default": True}, 400, "is_default"),
    ],
)  # fmt: skip
async def test_bad_fields(clusters: Clusters, fields: dict[str, Any], status: int, said: str) -> None:
    uuid = await clusters.made()
    error = magnum_error(await clusters.ask("POST", f"clusters/{uuid}/nodegroups", {"name": "n"} | fields), status)
    assert said in error["detail"]
    assert len(await clusters.groups(uuid)) == 2
    assert (await clusters.show(uuid))["status"] == "CREATE_COMPLETE"


@pytest.mark.parametrize("key", ["example.org/x", "node.kubernetes.io/mine", "topology.kubernetes.io/zone", "plain"])
async def test_labels_that_a_node_may_have(clusters: Clusters, key: str) -> None:
    uuid = await clusters.made()
    await clusters.ok("POST", f"clusters/{uuid}/nodegroups", {"name": "n", "node_labels": {key: "x"}})
    await clusters.until(uuid, "UPDATE_COMPLETE")


@pytest.mark.parametrize(
    ("path", "value", "status"),
    [
        ("/node_count", 3, 400), ("/name", "x", 400), ("/labels/a", "b", 400), ("/role", "x", 400),
        ("/uuid", "x", 400), ("/bogus", "x", 400), ("/node_labels/a", "b", 400), ("/node_labels", "x", 400),
        ("/node_labels", "['a']", 400), ("/node_taints", "{'a': 'b'}", 400), ("/node_taints", "x", 400),
        ("/node_labels", "{'kubernetes.io/x': 'y'}", 409), ("/node_taints", "[{'key': 'a'}]", 409),
        ("/min_node_count", -1, 400), ("/min_node_count", "1", 400), ("/max_node_count", "x", 400),
        ("/max_node_count", True, 400), ("/min_node_count", 10_001, 400),
    ],
)  # fmt: skip
async def test_bad_patches_change_nothing(clusters: Clusters, path: str, value: Any, status: int) -> None:
    uuid = await clusters.made()
    where = f"clusters/{uuid}/nodegroups/default-worker"
    before = await clusters.ok("GET", where)
    magnum_error(await clusters.ask("PATCH", where, [{"op": "replace", "path": path, "value": value}]), status)
    assert await clusters.ok("GET", where) == before


async def test_bounds_that_contradict_each_other(clusters: Clusters) -> None:
    uuid = await clusters.made()
    body = [
        {"op": "replace", "path": "/min_node_count", "value": 3}, {"op": "add", "path": "/max_node_count", "value": 2},
    ]  # fmt: skip
    magnum_error(await clusters.ask("PATCH", f"clusters/{uuid}/nodegroups/default-worker", body), 409)
    taints = [{"op": "replace", "path": "/node_taints", "value": "[{'key': 'a', 'effect': 'NoSchedule'}]"}]
    magnum_error(await clusters.ask("PATCH", f"clusters/{uuid}/nodegroups/default-master", taints), 409)


async def test_not_before_the_cluster_has_an_address(clusters: Clusters) -> None:
    clusters.driver.freeze()
    try:
        uuid = await clusters.create()
        error = magnum_error(await clusters.ask("POST", f"clusters/{uuid}/nodegroups", {"name": "n"}), 409)
        assert error["detail"] == "Cluster API address is not available yet"
        magnum_error(await clusters.ask("PATCH", f"clusters/{uuid}/nodegroups/default-worker", []), 409)
        magnum_error(await clusters.ask("POST", f"clusters/{uuid}/actions/resize", {"node_count": 2}), 400)
    finally:
        clusters.driver.thaw()
    await clusters.until(uuid, "CREATE_COMPLETE")


async def test_a_group_that_fails_says_why_and_can_go(clusters: Clusters) -> None:
    uuid = await clusters.made()
    clusters.driver.break_nodes("bad", "no such image")
    try:
        made = await clusters.ok("POST", f"clusters/{uuid}/nodegroups", {"name": "bad"})
        shown = await clusters.until(uuid, "UPDATE_FAILED")
        assert list(shown["faults"]) == ["bad"]
        group = await clusters.ok("GET", f"clusters/{uuid}/nodegroups/{made['uuid']}")
        assert group["status"] == "CREATE_FAILED"
        assert "no such image" in group["status_reason"]
        assert (await clusters.ask("DELETE", f"clusters/{uuid}/nodegroups/bad")).status_code == 204
        await clusters.gone(f"clusters/{uuid}/nodegroups/bad")
    finally:
        clusters.driver.repair_nodes("bad")
    await clusters.until(uuid, "UPDATE_COMPLETE")


async def test_what_is_being_deleted_is_not_changed(clusters: Clusters) -> None:
    uuid = await clusters.made()
    made = await clusters.ok("POST", f"clusters/{uuid}/nodegroups", {"name": "more"})
    await clusters.until(uuid, "UPDATE_COMPLETE")
    path = f"clusters/{uuid}/nodegroups/{made['uuid']}"
    clusters.driver.freeze()
    try:
        for _ in range(2):
            assert (await clusters.ask("DELETE", path)).status_code == 204
        assert (await clusters.ok("GET", path))["status"] == "DELETE_IN_PROGRESS"
        magnum_error(await clusters.ask("PATCH", path, []), 409)
        wish = {"node_count": 2, "nodegroup": "more"}
        magnum_error(await clusters.ask("POST", f"clusters/{uuid}/actions/resize", wish), 409)
    finally:
        clusters.driver.thaw()
    await clusters.gone(path)
    clusters.driver.fail_next("converge", ClusterFailed("busy", {}))
    more = await clusters.ok("POST", f"clusters/{uuid}/nodegroups", {"name": "more"})
    await clusters.until(uuid, "UPDATE_FAILED")
    clusters.driver.fail_next("converge", ClusterFailed("busy", {}))
    path = f"clusters/{uuid}/nodegroups/{more['uuid']}"
    assert (await clusters.ask("DELETE", path)).status_code == 204
    await clusters.until(uuid, "UPDATE_FAILED")
    assert (await clusters.ok("GET", path))["status"] == "DELETE_FAILED"
    assert (await clusters.ask("DELETE", path)).status_code == 204
    await clusters.gone(path)


async def test_another_group_is_upgraded_after_the_default_ones(clusters: Clusters) -> None:
    uuid = await clusters.made()
    await clusters.ok("POST", f"clusters/{uuid}/nodegroups", {"name": "more"})
    await clusters.until(uuid, "UPDATE_COMPLETE")
    newer = await clusters.template(image_id="other-node", labels={"kube_tag": "v1.32.1"})
    upgrade = f"clusters/{uuid}/actions/upgrade"
    error = magnum_error(await clusters.ask("POST", upgrade, {"cluster_template": newer, "nodegroup": "more"}), 409)
    assert "default nodegroups first" in error["detail"]
    for group, expected in (
        ("default-worker", {"default-master": "other-node", "default-worker": "other-node", "more": "busybox"}),
        ("more", dict.fromkeys(("default-master", "default-worker", "more"), "other-node")),
    ):
        await clusters.ok("POST", upgrade, {"cluster_template": newer, "nodegroup": group, "max_batch_size": 2})
        await clusters.until(uuid, "UPDATE_COMPLETE")
        assert {name: row["image_id"] for name, row in (await clusters.groups(uuid)).items()} == expected
    assert {node.spec.image for node in clusters.driver.nodes(UUID(uuid))} == {"other-node"}
    assert (await clusters.show(uuid))["labels"] == {"kube_tag": "v1.32.1"}
