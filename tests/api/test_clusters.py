"""Clusters from create to delete: answers, versions, states, and what becomes of failures."""

import asyncio
from contextvars import ContextVar
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import event

from app.backends.driver import ClusterAbility, ClusterFailed
from app.db import EVERYTHING
from app.models import Cluster, ClusterQuota, NodeGroup
from tests.api.caisson import eventually
from tests.api.clusters import Clusters
from tests.api.test_magnum_versions import magnum_error

pytestmark = pytest.mark.asyncio(loop_scope="session")

SHORT = {
    "uuid", "name", "cluster_template_id", "keypair", "docker_volume_size", "labels", "node_count", "master_count",
    "status", "health_status", "master_flavor_id", "flavor_id", "create_timeout", "links", "merge_labels", "cluster_id",
}  # fmt: skip
FULL = SHORT | {
    "status_reason", "health_status_reason", "discovery_url", "api_address", "coe_version", "container_version",
    "project_id", "user_id", "node_addresses", "master_addresses", "fixed_network", "fixed_subnet",
    "floating_ip_enabled", "master_lb_enabled", "labels_overridden", "labels_added", "labels_skipped", "created_at",
    "updated_at",
}  # fmt: skip
ASKING: ContextVar[bool] = ContextVar("asking", default=False)


async def test_a_whole_life(clusters: Clusters) -> None:
    template = await clusters.template(labels={"a": "1", "b": "2"}, keypair_id="default", docker_volume_size=7)
    uuid = await clusters.create(template, node_count=2, labels={"b": "3", "c": 4}, merge_labels=True)
    shown = await clusters.show(uuid)
    assert shown["status"] in ("CREATE_IN_PROGRESS", "CREATE_COMPLETE")
    shown = await clusters.until(uuid, "CREATE_COMPLETE")
    assert shown.keys() == FULL
    expected = {
        "name": "blue", "cluster_template_id": template, "keypair": "default", "docker_volume_size": 7,
        "labels": {"a": "1", "b": "3", "c": "4"}, "labels_overridden": {"b": "2"}, "labels_added": {"c": "4"},
        "labels_skipped": {}, "node_count": 2, "master_count": 1, "create_timeout": 60, "merge_labels": False,
        "status_reason": None, "health_status": "HEALTHY", "floating_ip_enabled": True, "flavor_id": None,
        "project_id": await clusters.caisson.project("alpha"),
    }  # fmt: skip
    assert {name: shown[name] for name in expected} == expected
    assert shown["api_address"].startswith("https://")
    assert len(shown["node_addresses"]) == 2
    assert len(shown["master_addresses"]) == 1
    assert shown["created_at"].endswith("+00:00")
    assert shown["links"][0]["href"] == f"http://test/v1/clusters/{uuid}"
    assert shown["links"][1]["href"] == f"http://test/clusters/{uuid}"
    # Counts, by patch and by resize
    assert (await clusters.patch(uuid, ("/node_count", 3))).status_code == 202
    shown = await clusters.until(uuid, "UPDATE_COMPLETE")
    assert (shown["node_count"], len(shown["node_addresses"])) == (3, 3)
    assert shown["updated_at"] is not None
    leaving = shown["node_addresses"][0]
    answer = await clusters.ask(
        "POST", f"clusters/{uuid}/actions/resize", {"node_count": 2, "nodes_to_remove": [leaving]}
    )
    assert (answer.status_code, answer.json()) == (202, {"uuid": uuid})
    shown = await clusters.until(uuid, "UPDATE_COMPLETE")
    assert leaving not in shown["node_addresses"]
    assert len(shown["node_addresses"]) == 2
    # Another template
    newer = await clusters.template(image_id="other-node", labels={"a": "9"})
    await clusters.ok("POST", f"clusters/{uuid}/actions/upgrade", {"cluster_template": newer})
    shown = await clusters.until(uuid, "UPDATE_COMPLETE")
    assert shown["cluster_template_id"] == newer
    assert {node.spec.image for node in clusters.driver.nodes(UUID(uuid))} == {"other-node"}
    # A further node group
    made = await clusters.ok("POST", f"clusters/{uuid}/nodegroups", {"name": "more", "node_count": 2})
    await clusters.until(uuid, "UPDATE_COMPLETE")
    assert (await clusters.groups(uuid))["more"]["status"] == "CREATE_COMPLETE"
    assert (await clusters.show(uuid))["node_count"] == 4
    # A new authority
    before = await clusters.ok("GET", f"certificates/{uuid}")
    assert await clusters.ok("PATCH", f"certificates/{uuid}") == {"uuid": uuid}
    await clusters.until(uuid, "UPDATE_COMPLETE")
    after = await clusters.ok("GET", f"certificates/{uuid}")
    assert after["pem"] != before["pem"]
    assert {node.serves for node in clusters.driver.nodes(UUID(uuid))} == {after["pem"]}
    # The end
    assert (await clusters.ask("DELETE", f"clusters/{uuid}/nodegroups/{made['uuid']}")).status_code == 204
    await clusters.until(uuid, "UPDATE_COMPLETE")
    magnum_error(await clusters.ask("GET", f"clusters/{uuid}/nodegroups/more"), 404)
    assert (await clusters.ask("DELETE", f"clusters/{uuid}")).status_code == 204
    await clusters.gone(f"clusters/{uuid}")
    magnum_error(await clusters.ask("GET", f"certificates/{uuid}"), 404)
    assert clusters.driver.nodes(UUID(uuid)) == []


@pytest.mark.parametrize("minor", range(1, 15))
async def test_every_version(clusters: Clusters, minor: int) -> None:
    version = f"container-infra 1.{minor}"
    uuid = await clusters.made()
    handle = "stack_id" if minor < 13 else "cluster_id"
    shown = await clusters.show(uuid, version=version)
    assert shown.keys() == FULL - {"cluster_id"} | {handle}
    assert shown[handle].startswith("blue-")
    (listed,) = (await clusters.ok("GET", "clusters", version=version))["clusters"]
    assert listed.keys() == SHORT - {"cluster_id"} | {handle}
    (detailed,) = (await clusters.ok("GET", "clusters/detail", version=version))["clusters"]
    assert detailed == shown
    rollback = await clusters.ask("PATCH", f"clusters/{uuid}?rollback=True", [], version=version)
    assert rollback.status_code == (202 if minor >= 3 else 400)
    unknown = {"cluster_template_id": "nope", "name": "x"}
    magnum_error(await clusters.ask("POST", "clusters", unknown, version=version), 404 if minor >= 10 else 400)
    zero = await clusters.patch(uuid, ("/node_count", 0), version=version)
    assert zero.status_code == (202 if minor >= 10 else 400), zero.text
    await clusters.until(uuid, "UPDATE_COMPLETE" if minor >= 10 else "CREATE_COMPLETE")
    for path, method, body, since, otherwise in (
        (f"clusters/{uuid}/actions/resize", "POST", {"node_count": 1}, 7, 202),
        (f"clusters/{uuid}/actions/upgrade", "POST", {"cluster_template": "nope"}, 7, 400 if minor == 7 else 404),
        (f"clusters/{uuid}/nodegroups", "GET", None, 9, 200),
        (f"clusters/{uuid}/nodegroups/default-worker", "GET", None, 9, 200),
        (f"credentials/{uuid}", "PATCH", None, 12, 400),
    ):
        answer = await clusters.ask(method, path, body, version=version)
        if minor < since:
            magnum_error(answer, 406, "")
        else:
            assert answer.status_code == otherwise, answer.text
    for path in ("stats", f"quotas/{await clusters.caisson.project('alpha')}/Cluster", f"certificates/{uuid}"):
        await clusters.ok("GET", path, version=version)


async def test_lists_pages_and_order(clusters: Clusters) -> None:
    template = await clusters.template()
    uuids = [await clusters.create(template, name=name) for name in ("b", "c", "a")]
    listed = await clusters.ok("GET", "clusters")
    assert [row["uuid"] for row in listed["clusters"]] == uuids
    for part in ("", "/detail"):
        first = await clusters.ok("GET", f"clusters{part}?limit=2&sort_key=name")
        assert [row["name"] for row in first["clusters"]] == ["a", "b"]
        assert first["next"].startswith(f"http://test/v1/clusters{part}?sort_key=name&sort_dir=asc&limit=2&marker=")
        second = (await clusters.caisson.call("GET", first["next"], version="container-infra 1.14")).json()
        assert [row["name"] for row in second["clusters"]] == ["c"]
        assert "next" not in second
    for query in ("limit=0", "limit=x", "sort_key=labels", "sort_key=node_count", "sort_dir=x", "marker=x", "name=a"):
        magnum_error(await clusters.ask("GET", f"clusters?{query}"), 400)
    magnum_error(await clusters.ask("GET", f"clusters?marker={uuid4()}"), 404)
    for key in ("status", "coe_version", "master_lb_enabled", "updated_at", "stack_id"):
        await clusters.ok("GET", f"clusters?sort_key={key}")


async def test_a_hundred_clusters_in_three_queries(clusters: Clusters) -> None:
    """Rows only: nothing stands behind them in the engine."""
    owned: dict[str, Any] = {"project_id": await clusters.caisson.project("alpha"), "user_id": "u", "created_at": 1.0}
    template = await clusters.template()
    database = clusters.caisson.running.gateway.database
    rows: list[Any] = []
    for number in range(100):
        made: dict[str, Any] = {
            "cluster_template_id": template,
            "coe": "kubernetes",
            "driver": "kubernetes",
            "backend": "local",
        }
        rows.append(Cluster(**owned, **made, name=f"c{number}"))
        for name in ("default-master", "default-worker"):
            group: dict[str, Any] = {
                "name": name,
                "role": name.removeprefix("default-"),
                "is_default": True,
                "node_count": 1,
            }
            rows.append(NodeGroup(**owned, **group, cluster_id=rows[-1 - (name == "default-worker")].uuid))
    async with database.transaction(EVERYTHING) as session:
        session.add_all(rows)
    engine = database._read.sync_engine
    for part in ("", "/detail"):
        asked: list[str] = []

        def note(conn: Any, cursor: Any, statement: str, *rest: Any, into: list[str] = asked) -> None:
            if ASKING.get():  # and not the worker
                into.append(statement)

        event.listen(engine, "before_cursor_execute", note)
        mark = ASKING.set(True)
        listed = await clusters.ok("GET", f"clusters{part}")
        ASKING.reset(mark)
        event.remove(engine, "before_cursor_execute", note)
        assert len(listed["clusters"]) == 100
        assert {row["node_count"] for row in listed["clusters"]} == {1}
        mine = [statement for statement in asked if "FROM cluster" in statement or "FROM node_group" in statement]
        assert 0 < len(mine) <= 3


async def test_no_more_than_the_quota_whatever_comes_at_once(clusters: Clusters) -> None:
    template = await clusters.template()
    project = await clusters.caisson.project("alpha")
    await clusters.ok("POST", "quotas", {"project_id": project, "hard_limit": 10}, who="admin")
    body = {"name": "many", "cluster_template_id": template, "node_count": 0}
    answers = await asyncio.gather(*(clusters.ask("POST", "clusters", body) for _ in range(100)))
    assert sorted(answer.status_code for answer in answers) == [202] * 10 + [403] * 90
    refused = next(answer for answer in answers if answer.status_code == 403)
    assert "maximum clusters per project, 10" in magnum_error(refused, 403)["detail"]
    assert len((await clusters.ok("GET", "clusters"))["clusters"]) == 10
    assert (await clusters.ok("GET", "stats"))["clusters"] == 10


async def test_a_cluster_that_cannot_be_made_says_why(clusters: Clusters) -> None:
    clusters.driver.break_nodes("default-worker", "exec format error")
    try:
        uuid = await clusters.create(name="broken")
        shown = await clusters.until(uuid, "CREATE_FAILED")
    finally:
        clusters.driver.repair_nodes("default-worker")
    assert "exec format error" in shown["status_reason"]
    assert "exec format error" in shown["faults"]["default-worker"]
    groups = await clusters.groups(uuid)
    assert groups["default-worker"]["status"] == "CREATE_FAILED"
    for path, body in (("resize", {"node_count": 2}), ("upgrade", {"cluster_template": shown["cluster_template_id"]})):
        error = magnum_error(await clusters.ask("POST", f"clusters/{uuid}/actions/{path}", body), 400)
        assert "CREATE_FAILED" in error["detail"]
    magnum_error(await clusters.patch(uuid, ("/node_count", 2)), 400)
    magnum_error(await clusters.ask("PATCH", f"certificates/{uuid}"), 400)
    magnum_error(await clusters.ask("POST", f"clusters/{uuid}/nodegroups", {"name": "n"}), 409)
    assert (await clusters.ask("DELETE", f"clusters/{uuid}")).status_code == 204
    await clusters.gone(f"clusters/{uuid}")


async def test_a_failed_change_is_taken_back_and_can_be_tried_again(clusters: Clusters) -> None:
    old = await clusters.template(labels={"kube_tag": "v1.31.2"})
    uuid = await clusters.made(old)
    new = await clusters.template(image_id="other-node", labels={"kube_tag": "v1.32.0"})
    before = await clusters.show(uuid)
    clusters.driver.fail_next("converge", ClusterFailed("no such image", {}))
    await clusters.ok("POST", f"clusters/{uuid}/actions/upgrade", {"cluster_template": new})
    shown = await clusters.until(uuid, "UPDATE_FAILED")
    assert shown["status_reason"] == "no such image"
    assert shown["faults"] == {"default-master": "no such image", "default-worker": "no such image"}
    for name in ("cluster_template_id", "labels"):
        assert shown[name] == before[name]
    group = await clusters.ok("GET", f"clusters/{uuid}/nodegroups/default-master")
    assert (group["image_id"], group["labels"]) == ("busybox", {"kube_tag": "v1.31.2"})
    clusters.driver.fail_next("converge", ClusterFailed("no room", {}))
    assert (await clusters.patch(uuid, ("/node_count", 4))).status_code == 202
    assert (await clusters.until(uuid, "UPDATE_FAILED"))["node_count"] == 1
    await clusters.ok("POST", f"clusters/{uuid}/actions/upgrade", {"cluster_template": new})
    shown = await clusters.until(uuid, "UPDATE_COMPLETE")
    assert (shown["cluster_template_id"], shown["labels"]) == (new, {"kube_tag": "v1.32.0"})
    assert "faults" not in shown


async def test_changes_wait_for_each_other(clusters: Clusters) -> None:
    uuid = await clusters.made()
    clusters.driver.freeze()
    try:
        for count in (2, 3):
            assert (await clusters.patch(uuid, ("/node_count", count))).status_code == 202
        made = [
            clusters.ask("POST", f"clusters/{uuid}/nodegroups", {"name": name, "node_count": 1})
            for name in ("one", "two", "three")
        ]
        assert {answer.status_code for answer in await asyncio.gather(*made)} == {202}
        assert (await clusters.show(uuid))["status"] == "UPDATE_IN_PROGRESS"
        for path, body in (("upgrade", {"cluster_template": (await clusters.show(uuid))["cluster_template_id"]}),):
            magnum_error(await clusters.ask("POST", f"clusters/{uuid}/actions/{path}", body), 400)
        magnum_error(await clusters.ask("PATCH", f"certificates/{uuid}"), 400)
    finally:
        clusters.driver.thaw()
    shown = await clusters.until(uuid, "UPDATE_COMPLETE")
    assert shown["node_count"] == 6
    assert len(shown["node_addresses"]) == 6
    assert {group["status"] for group in (await clusters.groups(uuid)).values()} == {
        "CREATE_COMPLETE", "UPDATE_COMPLETE",
    }  # fmt: skip


async def test_nothing_to_change_ends_in_update_complete(clusters: Clusters) -> None:
    uuid = await clusters.made()
    assert (await clusters.patch(uuid, ("/node_count", 1))).status_code == 202
    await clusters.until(uuid, "UPDATE_COMPLETE")
    other = await clusters.made()
    await clusters.ok("POST", f"clusters/{other}/actions/resize", {"node_count": 1})
    await clusters.until(other, "UPDATE_COMPLETE")
    third = await clusters.made()
    assert (await clusters.ask("PATCH", f"clusters/{third}", [])).status_code == 202
    assert (await clusters.show(third))["status"] == "CREATE_COMPLETE"


async def test_deletion_ends_whatever_runs(clusters: Clusters) -> None:
    clusters.driver.delay("converge", 0.2)
    try:
        uuid = await clusters.create(node_count=5)
        assert (await clusters.ask("DELETE", f"clusters/{uuid}")).status_code == 204
        assert (await clusters.ask("DELETE", f"clusters/{uuid}")).status_code in (204, 404)
    finally:
        clusters.driver.delay("converge", 0)
    await clusters.gone(f"clusters/{uuid}")


async def test_names_are_generated_and_found(clusters: Clusters) -> None:
    template = await clusters.template(name="tpl")
    for name in (None, ""):
        uuid = await clusters.create(template, name=name, keypair="")
        shown = await clusters.show(uuid)
        assert shown["name"].endswith("-cluster")
        assert shown["keypair"] is None
    uuid = await clusters.create("tpl", name="one.two")
    for ident in (uuid.upper(), uuid.replace("-", ""), "one.two"):
        assert (await clusters.show(ident))["uuid"] == uuid
    assert (await clusters.show("one.two"))["cluster_template_id"] == template
    await clusters.create("tpl", name="one.two")
    for method, path in (("GET", "clusters/one.two"), ("DELETE", "clusters/one.two"), ("GET", "certificates/one.two")):
        error = magnum_error(await clusters.ask(method, path), 409)
        assert error["detail"] == "Multiple clusters exist with same name. Please use the cluster uuid instead."
    await clusters.template(name="tpl")
    magnum_error(await clusters.ask("POST", "clusters", {"cluster_template_id": "tpl"}), 409)


async def test_labels_go_over_those_of_the_template(clusters: Clusters) -> None:
    template = await clusters.template(labels={"a": "1", "b": "2"})
    for fields, expected in (
        ({}, {"a": "1", "b": "2"}),
        ({"labels": None}, {"a": "1", "b": "2"}),
        ({"labels": {}}, {"a": "1", "b": "2"}),
        ({"labels": {"a": True}}, {"a": "True"}),
        ({"labels": {"a": "9"}, "merge_labels": "yes"}, {"a": "9", "b": "2"}),
    ):
        shown = await clusters.show(await clusters.create(template, **fields))
        assert shown["labels"] == expected
        assert shown["labels_skipped"] == {k: v for k, v in {"a": "1", "b": "2"}.items() if k not in expected}
    least = await clusters.made(template, labels={"min_node_count": "1"})
    assert (await clusters.groups(least))["default-worker"]["min_node_count"] == 1
    magnum_error(await clusters.patch(least, ("/node_count", 0)), 400)


async def test_labels_and_names_can_change(clusters: Clusters) -> None:
    uuid = await clusters.made(labels={"a": "1"})
    body = [
        {"op": "add", "path": "/labels/b", "value": 2}, {"op": "remove", "path": "/labels/a"},
        {"op": "replace", "path": "/name", "value": "green"},
    ]  # fmt: skip
    assert (await clusters.ask("PATCH", f"clusters/{uuid}", body)).status_code == 202
    shown = await clusters.until(uuid, "UPDATE_COMPLETE")
    assert (shown["name"], shown["labels"]) == ("green", {"b": "2"})
    assert (await clusters.ok("GET", f"clusters/{uuid}/nodegroups/default-worker"))["labels"] == {"b": "2"}
    assert (await clusters.patch(uuid, ("/labels", "{'x': 'y'}"))).status_code == 202
    assert (await clusters.until(uuid, "UPDATE_COMPLETE"))["labels"] == {"x": "y"}


async def test_health_is_stored_without_an_update(clusters: Clusters) -> None:
    uuid = await clusters.made()
    reason = "{'api': 'ok', 'n.Ready': False}"
    answer = await clusters.patch(uuid, ("/health_status", "UNHEALTHY"), ("/health_status_reason", reason))
    assert (answer.status_code, answer.json()) == (202, {"uuid": uuid})
    shown = await clusters.show(uuid)
    assert (shown["status"], shown["health_status"]) == ("CREATE_COMPLETE", "UNHEALTHY")
    assert shown["health_status_reason"] == {"api": "ok", "n.Ready": "False"}
    assert len(await clusters.caisson.actions(uuid)) == 1


async def test_node_count_is_that_of_the_default_workers(clusters: Clusters) -> None:
    uuid = await clusters.made(node_count=2)
    await clusters.ok("POST", f"clusters/{uuid}/nodegroups", {"name": "more", "node_count": 3})
    assert (await clusters.until(uuid, "UPDATE_COMPLETE"))["node_count"] == 5
    assert (await clusters.patch(uuid, ("/node_count", 4))).status_code == 202
    assert (await clusters.until(uuid, "UPDATE_COMPLETE"))["node_count"] == 7
    assert (await clusters.patch(uuid, ("/node_count", None))).status_code == 202
    assert (await clusters.until(uuid, "UPDATE_COMPLETE"))["node_count"] == 4
    assert (await clusters.ok("GET", "stats"))["nodes"] == 5


async def test_masters(clusters: Clusters) -> None:
    template = await clusters.template(master_lb_enabled=True)
    uuid = await clusters.made(template, master_count=3)
    assert (await clusters.show(uuid))["master_count"] == 3
    resize = f"clusters/{uuid}/actions/resize"
    error = magnum_error(await clusters.ask("POST", resize, {"node_count": 2, "nodegroup": "default-master"}), 400)
    assert "even" in error["detail"]
    await clusters.ok("POST", resize, {"node_count": 1, "nodegroup": "default-master"})
    assert (await clusters.until(uuid, "UPDATE_COMPLETE"))["master_count"] == 1
    abilities = clusters.driver.abilities
    clusters.driver.abilities = frozenset()
    try:
        for path, method, body, status in (
            ("actions/resize", "POST", {"node_count": 3, "nodegroup": "default-master"}, 400),
            ("actions/upgrade", "POST", {"cluster_template": template}, 400),
            ("nodegroups", "POST", {"name": "n"}, 400),
        ):
            error = magnum_error(await clusters.ask(method, f"clusters/{uuid}/{path}", body), status)
            assert "not supported by this driver" in error["detail"]
        error = magnum_error(await clusters.ask("PATCH", f"certificates/{uuid}"), 400)
        assert "not supported by this driver" in error["detail"]
    finally:
        clusters.driver.abilities = abilities
    assert ClusterAbility.UPGRADE in clusters.driver.abilities


async def test_upgrades_that_make_no_sense(clusters: Clusters) -> None:
    template = await clusters.template(labels={"kube_tag": "v1.31.2"})
    uuid = await clusters.made(template)
    other = {"cluster_template": await clusters.template(coe="swarm-mode")}
    upgrade = f"clusters/{uuid}/actions/upgrade"
    assert "coe swarm-mode" in magnum_error(await clusters.ask("POST", upgrade, other), 400)["detail"]
    for tag, said in (("v1.30.9", "older"), ("v1.33.0", "skips"), ("v2.0.0", "skips")):
        wanted = await clusters.template(labels={"kube_tag": tag})
        error = magnum_error(await clusters.ask("POST", upgrade, {"cluster_template": wanted}), 400)
        assert said in error["detail"]
    plain = await clusters.template(tls_disabled=True)
    error = magnum_error(await clusters.ask("POST", upgrade, {"cluster_template": plain}), 400)
    assert "tls_disabled" in error["detail"]
    assert (await clusters.show(uuid))["status"] == "CREATE_COMPLETE"
    for body in ({"cluster_template": "nope"}, {"cluster_template": template, "nodegroup": "nope"}):
        magnum_error(await clusters.ask("POST", upgrade, body), 404)
    magnum_error(await clusters.ask("POST", f"clusters/{uuid4()}/actions/upgrade", {"cluster_template": template}), 404)


async def test_templates_in_use(clusters: Clusters) -> None:
    template = await clusters.template(name="used")
    uuid = await clusters.made(template)
    patch = [{"op": "replace", "path": "/image_id", "value": "other-node"}]
    for method, body in (("DELETE", None), ("PATCH", patch)):
        error = magnum_error(await clusters.ask(method, f"clustertemplates/{template}", body), 400)
        assert "referenced by one or multiple clusters" in error["detail"]
    rename = [{"op": "replace", "path": "/name", "value": "renamed"}]
    assert (await clusters.ok("PATCH", f"clustertemplates/{template}", rename))["name"] == "renamed"
    await clusters.ok("DELETE", f"clusters/{uuid}")
    await clusters.gone(f"clusters/{uuid}")
    assert (await clusters.ask("DELETE", f"clustertemplates/{template}")).status_code == 204


async def test_public_and_hidden_templates(clusters: Clusters) -> None:
    public = await clusters.template("admin", public=True, labels={"a": "1"})
    hidden = await clusters.template("admin", public=True, hidden=True)
    uuid = await clusters.made(public)
    body: dict[str, Any] = {"cluster_template_id": hidden, "name": "x"}
    magnum_error(await clusters.ask("POST", "clusters", body), 404)
    of_admin = (await clusters.ok("POST", "clusters", body, who="admin"))["uuid"]
    own = await clusters.template()
    await clusters.ok(
        "PATCH", f"clustertemplates/{own}", [{"op": "replace", "path": "/hidden", "value": True}], who="admin"
    )
    error = magnum_error(await clusters.ask("POST", "clusters", {"cluster_template_id": own}), 403)
    assert error["detail"] == "Not authorized."
    # What is hidden since is still what the cluster is made from.
    hide = [{"op": "replace", "path": "/hidden", "value": True}]
    await clusters.ok("PATCH", f"clustertemplates/{public}", hide, who="admin")
    shown = await clusters.show(uuid)
    assert (shown["labels"], shown["labels_added"], shown["labels_skipped"]) == ({"a": "1"}, {}, {})
    assert (await clusters.patch(uuid, ("/node_count", 2))).status_code == 202
    await clusters.until(uuid, "UPDATE_COMPLETE")
    await clusters.ok("DELETE", f"clusters/{of_admin}", who="admin")  # it is in a project that others share
    await clusters.gone(f"clusters/{of_admin}", who="admin")


async def test_administrators_see_every_project(clusters: Clusters) -> None:
    uuid = await clusters.made()
    for path in ("clusters", "clusters/detail"):
        assert uuid in (await clusters.ask("GET", path, who="admin")).text
        assert uuid not in (await clusters.ask("GET", path, who="foreign")).text
    for path in (f"clusters/{uuid}", f"clusters/{uuid}/nodegroups", f"clusters/{uuid}/nodegroups/default-worker"):
        await clusters.ok("GET", path, who="admin")
        magnum_error(await clusters.ask("GET", path, who="foreign"), 404)
    assert (await clusters.patch(uuid, ("/node_count", 2), who="admin")).status_code == 202
    await clusters.until(uuid, "UPDATE_COMPLETE")
    template = {"cluster_template": (await clusters.show(uuid))["cluster_template_id"]}
    await clusters.ok("POST", f"clusters/{uuid}/actions/upgrade", template, who="admin")
    await clusters.until(uuid, "UPDATE_COMPLETE")
    # Not these, as in Magnum.
    for method, path, body, status in (
        ("POST", f"clusters/{uuid}/actions/resize", {"node_count": 1}, 404),
        ("POST", f"clusters/{uuid}/nodegroups", {"name": "n"}, 404),
        ("PATCH", f"clusters/{uuid}/nodegroups/default-worker", [], 404),
        ("DELETE", f"clusters/{uuid}/nodegroups/default-worker", None, 404),
        ("GET", f"certificates/{uuid}", None, 404),
        ("POST", "certificates", {"cluster_uuid": uuid, "csr": "x"}, 400),
        ("PATCH", f"certificates/{uuid}", None, 404),
        ("PATCH", f"credentials/{uuid}", None, 404),
    ):
        answer = await clusters.ask(method, path, body, who="admin")
        assert answer.status_code == status, (method, path, answer.text)
    assert (await clusters.ask("DELETE", f"clusters/{uuid}", who="admin")).status_code == 204
    await clusters.gone(f"clusters/{uuid}")


async def test_room_is_looked_for_before_anything_is_stored(clusters: Clusters) -> None:
    before = await clusters.ok("GET", "stats")
    template = await clusters.template(flavor_id="small", master_flavor_id="small")
    body = {"cluster_template_id": template, "node_count": 10_000, "name": "huge"}
    error = magnum_error(await clusters.ask("POST", "clusters", body), 409)
    assert "MiB" in error["detail"]
    assert await clusters.ok("GET", "stats") == before
    uuid = await clusters.made(template)
    for path, wish in (("actions/resize", {"node_count": 10_000}), ("nodegroups", {"name": "n", "node_count": 10_000})):
        magnum_error(await clusters.ask("POST", f"clusters/{uuid}/{path}", wish), 409)
    magnum_error(await clusters.patch(uuid, ("/node_count", 10_000)), 409)
    assert (await clusters.show(uuid))["status"] == "CREATE_COMPLETE"
    await clusters.ok("DELETE", f"clusters/{uuid}")
    await clusters.gone(f"clusters/{uuid}")


async def test_quotas(clusters: Clusters) -> None:
    project = await clusters.caisson.project("alpha")
    path = f"quotas/{project}/Cluster"
    assert await clusters.ok("GET", path) == {"project_id": project, "resource": "Cluster", "hard_limit": 20}
    magnum_error(await clusters.ask("GET", path, who="foreign"), 403)
    for method, where, body in (
        ("GET", "quotas", None), ("POST", "quotas", {"project_id": project}), ("PATCH", path, {"hard_limit": 1}),
        ("DELETE", path, None),
    ):  # fmt: skip
        magnum_error(await clusters.ask(method, where, body), 403)
    magnum_error(await clusters.ask("PATCH", path, {"hard_limit": 1}, who="admin"), 404)
    made = (await clusters.ask("POST", "quotas", {"project_id": project, "hard_limit": "3"}, who="admin")).json()
    assert made.keys() == {"id", "project_id", "resource", "hard_limit", "created_at", "updated_at"}
    assert (made["hard_limit"], made["resource"], made["updated_at"]) == (3, "Cluster", None)
    magnum_error(await clusters.ask("POST", "quotas", {"project_id": project}, who="admin"), 409)
    magnum_error(await clusters.ask("POST", "quotas", {"project_id": "nowhere"}, who="admin"), 404)
    answer = await clusters.ask("PATCH", path, {"project_id": "other", "hard_limit": 0}, who="admin")
    assert (answer.status_code, answer.json()["hard_limit"], answer.json()["project_id"]) == (202, 0, project)
    assert answer.json()["updated_at"] is not None
    template = await clusters.template()
    magnum_error(await clusters.ask("POST", "clusters", {"cluster_template_id": template}), 403)
    assert made["id"] not in [row["id"] for row in (await clusters.ok("GET", "quotas", who="admin"))["quotas"]]
    listed = (await clusters.ok("GET", "quotas?all_tenants=True", who="admin"))["quotas"]
    assert project in [row["project_id"] for row in listed]
    foreign = await clusters.caisson.project("beta")
    other = (await clusters.ask("POST", "quotas", {"project_id": foreign}, who="admin")).json()
    page = await clusters.ok("GET", f"quotas?all_tenants=1&limit=1&marker={made['id']}", who="admin")
    assert [row["project_id"] for row in page["quotas"]] == [foreign]
    assert page["next"].endswith(f"all_tenants=1&marker={other['id']}")
    page = (await clusters.caisson.call("GET", page["next"], who="admin", version="container-infra 1.14")).json()
    assert page["quotas"] == []
    for query in ("marker=x", "all_tenants=maybe", "limit=0", "bogus=1"):
        magnum_error(await clusters.ask("GET", f"quotas?{query}", who="admin"), 400)
    magnum_error(await clusters.ask("GET", f"quotas?marker={2**70}", who="admin"), 404)
    assert (await clusters.ask("DELETE", path, who="admin")).status_code == 204
    magnum_error(await clusters.ask("DELETE", path, who="admin"), 404)
    assert not await clusters.caisson.running.rows(ClusterQuota, ClusterQuota.project_id == project)


async def test_stats_and_services(clusters: Clusters) -> None:
    project = await clusters.caisson.project("alpha")
    assert await clusters.ok("GET", "stats") == {"clusters": 0, "nodes": 0}
    await clusters.made(node_count=2)
    for query in ("", f"?project_id={project}", "?type=Cluster"):
        assert await clusters.ok("GET", f"stats{query}") == {"clusters": 1, "nodes": 3}
    assert await clusters.ok("GET", f"stats?project_id={project}", who="admin") == {"clusters": 1, "nodes": 3}
    assert (await clusters.ok("GET", "stats", who="admin"))["clusters"] >= 1
    magnum_error(await clusters.ask("GET", f"stats?project_id={project}", who="foreign"), 403)
    for query in ("type=bay", "bogus=1"):
        magnum_error(await clusters.ask("GET", f"stats?{query}"), 400)

    async def reported() -> bool:
        return bool((await clusters.ok("GET", "mservices", who="admin"))["mservices"])

    await eventually(reported, lambda: "no host has reported")
    (service,) = (await clusters.ok("GET", "mservices", who="admin"))["mservices"]
    assert (service["id"], service["binary"], service["state"]) == (1, "magnum-conductor", "up")
    assert service["report_count"] > 0
    magnum_error(await clusters.ask("GET", "mservices?x=1", who="admin"), 400)


async def test_federations_are_not_there(clusters: Clusters) -> None:
    for path in ("federations", "federations/detail"):
        assert await clusters.ok("GET", path) == {"federations": []}
        magnum_error(await clusters.ask("GET", f"{path}?x=1"), 400)
    for method, body in (("GET", None), ("PATCH", []), ("DELETE", None)):
        assert "Federation f" in magnum_error(await clusters.ask(method, "federations/f", body), 404)["detail"]
    assert "not supported" in magnum_error(await clusters.ask("POST", "federations", {"name": "f"}), 400)["detail"]
