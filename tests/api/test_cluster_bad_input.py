"""Every field of a cluster, of its actions and its patches, said wrongly: 400, the field named, nothing stored."""

from typing import Any

import pytest

from tests.api.caisson import Caisson
from tests.api.clusters import Clusters
from tests.api.test_magnum_versions import magnum_error

pytestmark = pytest.mark.asyncio(loop_scope="session")

NUMBERS: list[Any] = [-1, "x", "-1", True, 1.5, [], 10_001, "9" * 40]
WORDS: list[Any] = ["x", ["x"], {"": "x"}]
CREATE: list[tuple[dict[str, Any], int, str]] = [
    ({"cluster_template_id": None}, 400, "cluster_template_id"),
    ({"cluster_template_id": ""}, 400, "cluster_template_id"),
    ({"cluster_template_id": 5}, 400, "cluster_template_id"), ({"cluster_template_id": "nope"}, 404, "nope"),
    ({"cluster_template_id": "x" * 256}, 400, "cluster_template_id"),
    ({"name": "1x"}, 400, "name"), ({"name": "x y"}, 400, "name"), ({"name": "x" * 243}, 400, "name"),
    ({"name": 5}, 400, "name"), ({"name": "ä"}, 400, "name"), ({"name": "x\n"}, 400, "name"),
    ({"keypair": "nope"}, 404, "keypair nope. There are: default"), ({"keypair": 5}, 400, "keypair"),
    ({"keypair": "x" * 256}, 400, "keypair"),
    *(({"node_count": value}, 400, "node_count") for value in NUMBERS),
    *(({"master_count": value}, 400, "master_count") for value in (0, -1, "x", True, 10_001)),
    ({"master_count": 2}, 400, "master nodegroup size of 2 is invalid"),
    ({"master_count": 3}, 400, "master_lb_enabled"),
    *(({"docker_volume_size": value}, 400, "docker_volume_size") for value in (0, -1, "x", 2**31)),
    *(({"labels": value}, 400, "labels") for value in WORDS),
    ({"labels": {"a": {}}}, 400, "label"), ({"labels": {"a": None}}, 400, "label"),
    ({"labels": {"boot_volume_size": "big"}}, 400, "boot_volume_size"),
    ({"labels": {"min_node_count": "few"}}, 400, "min_node_count"),
    ({"merge_labels": "maybe"}, 400, "merge_labels"), ({"merge_labels": []}, 400, "merge_labels"),
    ({"flavor_id": "nope"}, 400, "flavor nope. There are: m1.small, small"), ({"flavor_id": ""}, 400, "flavor_id"),
    ({"master_flavor_id": "nope"}, 400, "flavor nope"), ({"master_flavor_id": 5}, 400, "master_flavor_id"),
    *(({"create_timeout": value}, 400, "create_timeout") for value in (-1, "x", 2**31, True)),
    ({"discovery_url": 5}, 400, "discovery_url"), ({"discovery_url": "x" * 256}, 400, "discovery_url"),
    ({"fixed_network": "nope"}, 400, "fixed network nope"), ({"fixed_network": ""}, 400, "fixed_network"),
    ({"fixed_subnet": "nope"}, 400, "fixed subnet nope"), ({"fixed_subnet": 5}, 400, "fixed_subnet"),
    ({"floating_ip_enabled": "maybe"}, 400, "floating_ip_enabled"),
    ({"master_lb_enabled": 2}, 400, "master_lb_enabled"),
    *(({name: None}, 400, name) for name in (
        "bogus", "uuid", "status", "status_reason", "health_status", "faults", "labels_added", "created_at", "links",
        "project_id", "user_id", "stack_id", "cluster_id", "api_address", "coe_version", "container_version",
        "node_addresses", "master_addresses",
    )),
]  # fmt: skip
PATCH: list[tuple[str, str, Any, str]] = [
    ("replace", "/node_count", -1, "node_count"), ("replace", "/node_count", "2", "node_count"),
    ("replace", "/node_count", True, "node_count"), ("replace", "/node_count", 10_001, "node_count"),
    ("replace", "/node_count", None, "needs value"), ("add", "/node_count", 3, "has existed"),
    ("replace", "/master_count", 3, "cannot change cluster property(ies) master_count"),
    ("replace", "/keypair", "default", "cannot change cluster property(ies) keypair"),
    ("replace", "/cluster_template_id", "x", "cannot change cluster property(ies) cluster_template_id"),
    ("remove", "/cluster_template_id", None, "mandatory"), ("replace", "/status", "CREATE_COMPLETE2", "status"),
    ("replace", "/flavor_id", "small", "cannot change"), ("replace", "/create_timeout", 5, "cannot change"),
    ("replace", "/name", "1x", "name"), ("remove", "/name", None, "name"), ("replace", "/name", 5, "name"),
    *(("replace", f"/{name}", "x", "internal") for name in (
        "uuid", "id", "links", "created_at", "updated_at", "project_id", "user_id", "api_address", "node_addresses",
        "master_addresses", "stack_id", "cluster_id",
    )),
    ("replace", "/health_status", "FINE", "health_status"), ("replace", "/health_status_reason", "x", "map"),
    ("replace", "/health_status_reason/api", "x", "no attribute"), ("replace", "/labels", "x", "map"),
    ("replace", "/labels/nope", "x", "no label nope"), ("remove", "/labels/nope", None, "no label nope"),
    ("add", "/labels/a/b", "x", "no attribute"), ("replace", "/labels/a.b", "x", "path"),
    ("replace", "/labels", {"a": "b"}, "value"), ("replace", "/bogus", 1, "no attribute /bogus"),
    ("add", "/bogus", 1, "root"), ("remove", "/bogus", None, "no attribute"), ("test", "/name", "x", "op"),
    ("replace", "name", "x", "path"),
]  # fmt: skip
RESIZE: list[tuple[Any, int, str]] = [
    ({}, 400, "node_count"), ({"node_count": None}, 400, "node_count"), ({"node_count": "x"}, 400, "node_count"),
    ({"node_count": -1}, 400, "node_count"), ({"node_count": True}, 400, "node_count"),
    ({"node_count": 10_001}, 400, "node_count"), ({"node_count": 1, "nodegroup": ""}, 400, "nodegroup"),
    ({"node_count": 1, "nodegroup": "nope"}, 404, "Nodegroup nope"), ({"node_count": 1, "bogus": 1}, 400, "bogus"),
    ({"node_count": 1, "nodes_to_remove": "x"}, 400, "nodes_to_remove"),
    ({"node_count": 1, "nodes_to_remove": [""]}, 400, "Value"),
    ({"node_count": 1, "nodes_to_remove": ["a"]}, 400, "nodes_to_remove names 1 nodes"),
    ([], 400, "Value"),
]  # fmt: skip
UPGRADE: list[tuple[Any, int, str]] = [
    ({}, 400, "cluster_template"), ({"cluster_template": None}, 400, "cluster_template"),
    ({"cluster_template": ""}, 400, "cluster_template"), ({"cluster_template": "nope"}, 404, "ClusterTemplate nope"),
    *(({"cluster_template": "nope", "max_batch_size": size}, 400, "max_batch_size") for size in (0, -1, "x", 2**31)),
    ({"cluster_template": "nope", "nodegroup": 5}, 400, "nodegroup"),
    ({"cluster_template": "nope", "bogus": 1}, 400, "bogus"),
]  # fmt: skip
QUOTA: list[tuple[Any, str]] = [
    ({}, "project_id"), ({"project_id": ""}, "project_id"), ({"project_id": 5}, "project_id"),
    ({"project_id": "p", "resource": "cluster"}, "resource"), ({"project_id": "p", "hard_limit": -1}, "hard_limit"),
    ({"project_id": "p", "hard_limit": "x"}, "hard_limit"), ({"project_id": "p", "hard_limit": 2**31}, "hard_limit"),
    ({"project_id": "p", "bogus": 1}, "bogus"), ({"project_id": "p", "id": 1}, "id"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "status", "said"), CREATE)
async def test_create(standing: Caisson, fields: dict[str, Any], status: int, said: str) -> None:
    clusters = Clusters(standing)
    template = await clusters.template()
    body = {"name": "x", "cluster_template_id": template} | fields
    assert said in magnum_error(await clusters.ask("POST", "clusters", body), status)["detail"]
    assert await clusters.ok("GET", "stats") == {"clusters": 0, "nodes": 0}
    await clusters.ok("DELETE", f"clustertemplates/{template}")


@pytest.mark.parametrize(("op", "path", "value", "said"), PATCH)
async def test_patch(clusters: Clusters, op: str, path: str, value: Any, said: str) -> None:
    uuid = await clusters.made(labels={"a": "1"})
    before = await clusters.show(uuid)
    body = [{"op": op, "path": path} | ({} if value is None else {"value": value})]
    assert said in magnum_error(await clusters.ask("PATCH", f"clusters/{uuid}", body), 400)["detail"]
    good = {"op": "replace", "path": "/node_count", "value": 2}
    magnum_error(await clusters.ask("PATCH", f"clusters/{uuid}", [good, *body]), 400)
    assert await clusters.show(uuid) == before


async def test_actions(clusters: Clusters) -> None:
    uuid = await clusters.made()
    before = await clusters.show(uuid)
    for verb, wishes in (("resize", RESIZE), ("upgrade", UPGRADE)):
        for body, status, said in wishes:
            error = magnum_error(await clusters.ask("POST", f"clusters/{uuid}/actions/{verb}", body), status)
            assert said in error["detail"], body
        for path in ("nope", "00000000-0000-4000-8000-000000000000"):
            good = {"node_count": 1} if verb == "resize" else {"cluster_template": before["cluster_template_id"]}
            magnum_error(await clusters.ask("POST", f"clusters/{path}/actions/{verb}", good), 404)
    magnum_error(await clusters.ask("POST", f"clusters/{uuid}/actions/dance", {}), 404, "")
    assert await clusters.show(uuid) == before


@pytest.mark.parametrize(("body", "said"), QUOTA)
async def test_quota(standing: Caisson, body: Any, said: str) -> None:
    error = magnum_error(await Clusters(standing).ask("POST", "quotas", body, who="admin"), 400)
    assert said in error["detail"]


@pytest.mark.parametrize(
    ("raw", "kind", "status"),
    [
        (b"{no", "application/json", 400), (b"[]", "application/json", 400), (b"", "application/json", 400),
        (b"null", "application/json", 400), (b"x=y", "text/plain", 415), (b"{}", "application/octet-stream", 415),
        (b'{"name": "a\\u0000"}', "application/json", 400),
    ],
)  # fmt: skip
async def test_bodies(standing: Caisson, raw: bytes, kind: str, status: int) -> None:
    clusters = Clusters(standing)
    for path in ("clusters", "certificates", "federations", "clusters/x/nodegroups", "clusters/x/actions/resize"):
        magnum_error(await clusters.ask("POST", path, raw=raw, headers={"Content-Type": kind}), status)
    magnum_error(await clusters.ask("POST", "quotas", raw=raw, who="admin", headers={"Content-Type": kind}), status)


async def test_queries(clusters: Clusters) -> None:
    uuid = await clusters.made()
    for method, path, body in (
        ("GET", f"clusters/{uuid}", None), ("DELETE", f"clusters/{uuid}", None), ("PATCH", f"clusters/{uuid}", []),
        ("POST", "clusters", {"cluster_template_id": "x"}),
        ("POST", f"clusters/{uuid}/actions/resize", {"node_count": 1}),
        ("POST", f"clusters/{uuid}/actions/upgrade", {"cluster_template": "x"}),
        ("GET", f"clusters/{uuid}/nodegroups/default-worker", None),
        ("POST", f"clusters/{uuid}/nodegroups", {"name": "n"}),
        ("PATCH", f"clusters/{uuid}/nodegroups/default-worker", []), ("GET", f"certificates/{uuid}", None),
        ("DELETE", f"clusters/{uuid}/nodegroups/default-worker", None), ("PATCH", f"certificates/{uuid}", None),
        ("PATCH", f"credentials/{uuid}", None), ("POST", "certificates", {"cluster_uuid": uuid, "csr": "x"}),
    ):  # fmt: skip
        error = magnum_error(await clusters.ask(method, f"{path}?bogus=1", body), 400)
        assert error["detail"] == 'Unknown argument: "bogus"'
    magnum_error(await clusters.ask("PATCH", f"clusters/{uuid}?rollback=maybe", []), 400)
    assert (await clusters.show(uuid))["status"] == "CREATE_COMPLETE"


async def test_a_body_of_the_wrong_shape_comes_before_what_is_not_there(standing: Caisson) -> None:
    clusters = Clusters(standing)
    magnum_error(await clusters.ask("PATCH", "clusters/nope", {"name": "x"}), 400)
    magnum_error(await clusters.ask("PATCH", "clusters/nope", [{"op": "replace", "path": "/name", "value": "x"}]), 404)
