"""Cluster templates: fields, defaults, patches, pages, and who sees and changes whose."""

from typing import Any
from uuid import uuid4

import pytest

from tests.api.caisson import Caisson
from tests.api.test_magnum_versions import magnum_error

pytestmark = pytest.mark.asyncio(loop_scope="session")

PATH = "/container-infra/v1/clustertemplates"
LATEST = "container-infra latest"
GOOD = {"image_id": "swarm-node", "coe": "swarm-mode"}


async def ask(caisson: Caisson, method: str, ident: str = "", body: Any = None, **more: Any) -> Any:
    path = f"{PATH}/{ident}" if ident and not ident.startswith("?") else PATH + ident
    return await caisson.call(method, path, body, **({"version": LATEST} | more))


async def make(caisson: Caisson, who: str = "member", **fields: Any) -> dict[str, Any]:
    answer = await ask(caisson, "POST", body=GOOD | fields, who=who)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    assert answer.headers["location"] == f"http://test/v1/clustertemplates/{made['uuid']}"
    return made


async def names(caisson: Caisson, query: str = "", **more: Any) -> list[str]:
    answer = await ask(caisson, "GET", query, **more)
    assert answer.status_code == 200, answer.text
    return [row["name"] for row in answer.json()["clustertemplates"]]


def replace(path: str, value: Any) -> list[dict[str, Any]]:
    return [{"op": "replace", "path": path, "value": value}]


async def test_defaults(caisson: Caisson) -> None:
    made = await make(caisson)
    assert made["name"].endswith("-template")
    expected = {
        "network_driver": "docker", "driver": "swarm", "cluster_distro": "ubuntu", "server_type": "vm", "labels": {},
        "floating_ip_enabled": True, "public": False, "hidden": False, "tls_disabled": False,
        "registry_enabled": False, "master_lb_enabled": False, "updated_at": None, "flavor_id": None,
        "apiserver_port": None, "project_id": await caisson.project("alpha"),
    }  # fmt: skip
    assert {name: made[name] for name in expected} == expected
    assert made["created_at"].endswith("+00:00")
    assert "." not in made["created_at"]
    assert (await make(caisson, coe="kubernetes"))["network_driver"] == "flannel"


@pytest.mark.parametrize("minor", range(1, 15))
async def test_templates_are_the_same_in_every_version(caisson: Caisson, minor: int) -> None:
    made = await make(caisson)
    answer = await ask(caisson, "GET", made["uuid"], version=f"container-infra 1.{minor}")
    assert answer.json() == made


async def test_what_is_given_is_stored(caisson: Caisson) -> None:
    given: dict[str, Any] = GOOD | {
        "name": "täglich", "flavor_id": "small", "master_flavor_id": "m1.small", "dns_nameserver": "8.8.8.8, 1.1.1.1",
        "keypair_id": "k", "external_network_id": "public", "fixed_network": "public", "fixed_subnet": "public",
        "network_driver": "flannel", "volume_driver": "rexray", "apiserver_port": "6443", "docker_volume_size": 3,
        "docker_storage_driver": "devicemapper", "http_proxy": "p", "https_proxy": "q", "no_proxy": "r",
        "insecure_registry": "s", "tags": "", "server_type": "vm", "registry_enabled": "yes", "tls_disabled": 1,
        "master_lb_enabled": True, "floating_ip_enabled": "off", "uuid": str(uuid4()), "driver": "swarm",
        "labels": {"a": 1, "b": True, "c": "x", "d": 1.5, "boot_volume_size": 0},
    }  # fmt: skip
    made = await make(caisson, **given)
    changed = {
        "apiserver_port": 6443, "registry_enabled": True, "tls_disabled": True, "floating_ip_enabled": False,
        "labels": {"a": "1", "b": "True", "c": "x", "d": "1.5", "boot_volume_size": "0"},
    }  # fmt: skip
    assert {name: made[name] for name in given} == given | changed
    assert (await ask(caisson, "GET", made["uuid"])).json() == made
    again = magnum_error(await ask(caisson, "POST", body=GOOD | {"uuid": made["uuid"]}, who="foreign"), 409)
    assert made["uuid"] in again["detail"]


async def test_null_is_nothing(caisson: Caisson) -> None:
    made = await make(caisson)
    keys = made.keys() - {"image_id", "coe", "links", "uuid", "project_id", "user_id", "created_at", "updated_at"}
    nothing: dict[str, Any] = dict.fromkeys([*keys, "uuid"])
    nulls = await make(caisson, **nothing)
    same = keys - {"name"}
    assert {name: nulls[name] for name in same} == {name: made[name] for name in same}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"coe": "mesos"}, "coe"), ({"coe": None}, "coe"),
        ({"image_id": None}, "image_id"), ({"image_id": ""}, "image_id"),
        ({"image_id": "nope"}, "Image nope could not be found. There are: busybox"), ({"name": ""}, "name"),
        ({"name": "x" * 256}, "name"), ({"flavor_id": "nope"}, "flavor nope. There are: m1.small, small"),
        ({"master_flavor_id": "nope"}, "flavor nope"), ({"external_network_id": "nope"}, "external network nope"),
        ({"fixed_network": "nope"}, "fixed network nope"), ({"fixed_subnet": "nope"}, "fixed subnet nope"),
        ({"network_driver": "calico"}, "docker/flannel"),
        ({"coe": "kubernetes", "network_driver": "cilium"}, "not allowed"),
        ({"volume_driver": "cinder"}, "rexray"), ({"server_type": "bm"}, "vm"),
        ({"server_type": "nope"}, "server_type"),
        ({"apiserver_port": 1023}, "apiserver_port"), ({"apiserver_port": 65536}, "apiserver_port"),
        ({"apiserver_port": "x"}, "apiserver_port"), ({"apiserver_port": True}, "apiserver_port"),
        ({"docker_volume_size": 0}, "docker_volume_size"), ({"docker_volume_size": 2**31}, "docker_volume_size"),
        ({"docker_storage_driver": "devicemapper"}, "docker_volume_size"),
        ({"docker_storage_driver": "devicemapper", "docker_volume_size": 2}, "3 or more"),
        ({"dns_nameserver": "x y"}, "dns"), ({"dns_nameserver": "8.8.8.8,"}, "dns"), ({"dns_nameserver": "::1"}, "dns"),
        ({"labels": ["x"]}, "labels"), ({"labels": "a=b"}, "labels"), ({"labels": {"a": {}}}, "label"),
        ({"labels": {"a": None}}, "label"), ({"labels": {"boot_volume_size": "big"}}, "boot_volume_size"),
        ({"tags": "x" * 256}, "tags"), ({"public": "maybe"}, "public"), ({"uuid": "x"}, "uuid"),
        ({"driver": "nope"}, "Cluster driver (nope)"), ({"driver": "kubernetes"}, "made by swarm"),
        ({"bogus": 1}, "bogus"), ({"project_id": "p"}, "project_id"), ({"links": None}, "links"),
        ({"keypair_id": 5}, "keypair_id"),
    ],
)  # fmt: skip
async def test_bad_fields(standing: Caisson, fields: dict[str, Any], said: str) -> None:
    error = magnum_error(await ask(standing, "POST", body=GOOD | fields), 400)
    assert said in error["detail"]


@pytest.mark.parametrize(
    ("raw", "kind", "status"),
    [
        (b"{no", "application/json", 400), (b"[]", "application/json", 400), (b"", "application/json", 400),
        (b"x=y", "text/plain", 415), (b"{}", "application/octet-stream", 415),
    ],
)  # fmt: skip
async def test_bad_bodies(standing: Caisson, raw: bytes, kind: str, status: int) -> None:
    magnum_error(await ask(standing, "POST", raw=raw, headers={"Content-Type": kind}), status)


@pytest.mark.parametrize("kind", ["text/javascript", "application/javascript; charset=utf-8"])
async def test_other_names_of_json(caisson: Caisson, kind: str) -> None:
    raw = b'{"image_id": "swarm-node", "coe": "swarm"}'
    assert (await ask(caisson, "POST", raw=raw, headers={"Content-Type": kind})).status_code == 201


async def test_a_template_is_found_by_uuid_in_any_spelling_and_by_name(caisson: Caisson) -> None:
    made = await make(caisson, name="one.two")
    for ident in (made["uuid"], made["uuid"].upper(), made["uuid"].replace("-", ""), "one.two"):
        assert (await ask(caisson, "GET", ident)).json() == made
    await make(caisson, name="one.two")
    for method in ("GET", "DELETE"):
        magnum_error(await ask(caisson, method, "one.two"), 409)
    for ident in ("nope", str(uuid4())):
        error = magnum_error(await ask(caisson, "GET", ident), 404)
        assert error["detail"] == f"ClusterTemplate {ident} could not be found."
    magnum_error(await caisson.call("GET", f"{PATH}/{made['uuid']}?x=1", version=LATEST), 400)


async def test_pages(caisson: Caisson) -> None:
    for name in ("b", "c", "a"):
        await make(caisson, name=name)
    assert await names(caisson) == ["b", "c", "a"]
    assert await names(caisson, "?sort_key=name&sort_dir=desc") == ["c", "b", "a"]
    for part in ("", "/detail"):
        first = (await caisson.call("GET", f"{PATH}{part}?limit=2&sort_key=name", version=LATEST)).json()
        assert [row["name"] for row in first["clustertemplates"]] == ["a", "b"]
        assert first["next"].startswith(f"http://test/v1/clustertemplates{part}?sort_key=name&sort_dir=asc&limit=2&")
        second = (await caisson.call("GET", first["next"], version=LATEST)).json()
        assert [row["name"] for row in second["clustertemplates"]] == ["c"]
        assert "next" not in second
    for query in (
        "limit=0",
        "limit=-1",
        "limit=x",
        "sort_key=labels",
        "sort_key=x",
        "sort_dir=x",
        "marker=x",
        "name=a",
    ):
        magnum_error(await ask(caisson, "GET", f"?{query}"), 400)
    magnum_error(await ask(caisson, "GET", f"?marker={uuid4()}"), 404)


async def test_a_patch(caisson: Caisson) -> None:
    made = await make(caisson, labels={"a": "b"}, dns_nameserver="8.8.8.8", master_lb_enabled=True)
    patch = [
        *replace("/name", "new"), {"op": "add", "path": "/labels/k", "value": 5},
        {"op": "remove", "path": "/labels/a"}, {"op": "remove", "path": "/dns_nameserver"},
        {"op": "remove", "path": "/master_lb_enabled"}, {"op": "add", "path": "/flavor_id", "value": "small"},
    ]  # fmt: skip
    answer = await ask(caisson, "PATCH", made["uuid"], patch)
    assert answer.status_code == 200, answer.text
    changes = {
        "name": "new",
        "labels": {"k": "5"},
        "dns_nameserver": None,
        "master_lb_enabled": False,
        "flavor_id": "small",
    }
    assert answer.json() | {"updated_at": None} == made | changes
    assert answer.json()["updated_at"] is not None
    assert (await ask(caisson, "GET", made["uuid"])).json() == answer.json()
    for path, value, shown in (("/labels", "{'x': 1}", {"x": "1"}), ("/image_id", "other-node", "other-node")):
        assert (await ask(caisson, "PATCH", made["uuid"], replace(path, value))).json()[path[1:]] == shown
    assert (await ask(caisson, "PATCH", made["uuid"], [])).status_code == 200


@pytest.mark.parametrize(
    ("patch", "said"),
    [
        ({"name": "x"}, "list"), ([{"op": "test", "path": "/name"}], "op"), (replace("name", "x"), "path"),
        (replace("/labels/a.b", "x"), "path"), (replace("/uuid", "x"), "internal"),
        (replace("/links/x", "x"), "internal"),
        ([{"op": "remove", "path": "/image_id"}], "mandatory"), ([{"op": "remove", "path": "/hidden"}], "mandatory"),
        ([{"op": "replace", "path": "/name"}], "needs value"), (replace("/name", None), "needs value"),
        ([{"op": "add", "path": "/bogus", "value": "x"}], "root"), (replace("/bogus", "x"), "Couldn't apply"),
        (replace("/name/x", "x"), "Couldn't apply"), (replace("/labels/no", "x"), "no label no"),
        ([{"op": "remove", "path": "/labels/no"}], "no label no"), ([{"op": "remove", "path": "/bogus"}], "Couldn't"),
        ([{"op": "add", "path": "/name", "value": "x"}], "has existed"), (replace("/labels", {"a": "b"}), "value"),
        (replace("/labels", "nonsense"), "map"), (replace("/labels", "['a']"), "map"),
        (replace("/labels", "(" * 999), "map"),
        (replace("/docker_volume_size", "6"), "integer"), (replace("/docker_volume_size", 0), "docker_volume_size"),
        (replace("/image_id", "nope"), "Image nope"), (replace("/flavor_id", "nope"), "flavor nope"),
        (replace("/coe", "mesos"), "coe"), (replace("/public", "maybe"), "public"), (replace("/name", 5), "name"),
        ([{"op": "replace", "path": "/name", "value": "x", "from": "y"}], "from"),
        ([*replace("/name", "new"), *replace("/bogus", "x")], "Couldn't apply"),
    ],
)  # fmt: skip
async def test_bad_patches_change_nothing(caisson: Caisson, patch: Any, said: str) -> None:
    made = await make(caisson, name="kept")
    error = magnum_error(await ask(caisson, "PATCH", made["uuid"], patch), 400)
    assert said in error["detail"]
    assert (await ask(caisson, "GET", made["uuid"])).json() == made


async def test_only_administrators_publish(caisson: Caisson) -> None:
    made = await make(caisson)
    for flag in ("public", "hidden"):
        error = magnum_error(await ask(caisson, "POST", body=GOOD | {flag: True}), 403)
        assert "public or hidden" in error["detail"]
        magnum_error(await ask(caisson, "PATCH", made["uuid"], replace(f"/{flag}", True)), 403)
        assert (await ask(caisson, "PATCH", made["uuid"], replace(f"/{flag}", False))).status_code == 200
        shown = await ask(caisson, "PATCH", made["uuid"], replace(f"/{flag}", True), who="admin")
        assert shown.json()[flag] is True
        assert shown.json()["project_id"] == await caisson.project("alpha")
        magnum_error(await ask(caisson, "PATCH", made["uuid"], replace(f"/{flag}", False)), 403)


async def test_public_templates_can_be_read_and_no_more(caisson: Caisson) -> None:
    made = await make(caisson, name="shared")
    uuid = made["uuid"]
    for method, body in (("GET", None), ("DELETE", None), ("PATCH", replace("/name", "x"))):
        magnum_error(await ask(caisson, method, uuid, body, who="foreign"), 404)
    assert uuid not in (await ask(caisson, "GET", who="foreign")).text
    shown = (await ask(caisson, "PATCH", uuid, replace("/public", True), who="admin")).json()
    assert (await ask(caisson, "GET", uuid, who="foreign")).json() == shown
    assert uuid in (await ask(caisson, "GET", "detail", who="foreign")).text
    for method, body in (("DELETE", None), ("PATCH", replace("/name", "x"))):
        magnum_error(await ask(caisson, method, uuid, body, who="foreign"), 403)
    await ask(caisson, "PATCH", uuid, replace("/hidden", True), who="admin")
    magnum_error(await ask(caisson, "GET", uuid, who="foreign"), 404)
    assert uuid not in (await ask(caisson, "GET", who="foreign")).text
    assert (await ask(caisson, "GET", uuid)).status_code == 200  # hidden from others, not from its owner
    assert (await ask(caisson, "DELETE", uuid)).status_code == 204
    magnum_error(await ask(caisson, "GET", uuid), 404)


async def test_readers_read(caisson: Caisson) -> None:
    made = await make(caisson)
    assert (await ask(caisson, "GET", made["uuid"], who="reader")).status_code == 200
    for method, ident, body in (
        ("POST", "", GOOD), ("PATCH", made["uuid"], replace("/name", "x")), ("DELETE", made["uuid"], None),
    ):  # fmt: skip
        assert "Policy" in magnum_error(await ask(caisson, method, ident, body, who="reader"), 403)["detail"]
    assert (await ask(caisson, "DELETE", made["uuid"], who="admin")).status_code == 204
