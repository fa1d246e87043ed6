"""Capsules: shapes, lists, lookups, and what can be done to their members."""

import json
from collections.abc import Mapping
from typing import Any
from uuid import UUID

import pytest

from app.backends.engine import Ability, State
from app.models import Container
from tests.api.caisson import BUSY, Caisson, error_of, eventually
from tests.api.capsule import STAYS, made, template, until, until_gone

pytestmark = pytest.mark.asyncio(loop_scope="session")

CAPSULE = {
    "uuid", "links", "user_id", "project_id", "name", "labels", "annotations", "status", "status_reason",
    "restart_policy", "cpu", "memory", "addresses", "containers", "init_containers", "created_at", "updated_at",
}  # fmt: skip
MEMBER = {
    "uuid", "name", "project_id", "user_id", "image", "cpu", "cpu_policy", "memory", "command", "status",
    "status_reason", "task_state", "environment", "workdir", "auto_remove", "ports", "hostname", "labels", "addresses",
    "restart_policy", "status_detail", "interactive", "tty", "image_driver", "security_groups", "disk", "auto_heal",
    "healthcheck", "registry_id", "entrypoint", "created_at", "updated_at",
}  # fmt: skip


async def test_a_capsule_is_made(caisson: Caisson) -> None:
    body = template({"image": BUSY, "command": ["sleep"], "args": ["1000"], "env": {"A": "1"}, "workDir": "/"})
    body["template"]["metadata"]["labels"] = {"app": "web"}
    answer = await caisson.call("POST", "/v1/capsules/", body)
    assert answer.status_code == 202
    fresh = answer.json()
    assert answer.headers["location"].endswith(f"/v1/capsules/{fresh['uuid']}")
    assert set(fresh) == CAPSULE
    assert (fresh["status"], fresh["addresses"], fresh["annotations"]) == ("Creating", None, None)
    shown = await until(caisson, fresh["uuid"], "Running")
    assert set(shown) == CAPSULE
    assert shown["restart_policy"] == {"MaximumRetryCount": "0", "Name": "always"}
    assert (shown["cpu"], shown["memory"], shown["labels"]) == (1.0, "512", {"app": "web"})
    (addresses,) = shown["addresses"].values()
    assert addresses[0]["version"] == 4
    (member,) = shown["containers"]
    assert set(member) == MEMBER
    assert (member["status"], member["command"], member["environment"]) == ("Running", ["sleep", "1000"], {"A": "1"})
    assert (member["image_driver"], member["disk"], member["cpu"], member["memory"]) == (None, 0, 1.0, "512")
    assert member["name"].startswith("capsule-pod-")
    assert shown["init_containers"] == []
    spec = caisson.engine.spec(UUID(member["uuid"]))
    assert (spec.group, spec.network) == (UUID(shown["uuid"]), None)
    assert spec.memory == 512  # what asks for nothing is limited all the same


async def test_the_old_shape(caisson: Caisson) -> None:
    capsule = await made(caisson)
    old = await caisson.ok("GET", f"/v1/capsules/{capsule['uuid']}", version="container 1.31")
    renamed = CAPSULE - {"name", "labels"} | {"meta_name", "meta_labels"}
    assert set(old) == renamed | {"volumes_info", "containers_uuids", "init_containers_uuids", "capsule_version"}
    assert (old["meta_name"], old["restart_policy"]) == ("pod", "always")
    assert (old["volumes_info"], old["containers_uuids"], old["capsule_version"]) == ({}, [], "")
    (listed,) = (await caisson.ok("GET", "/v1/capsules", version=None))["capsules"]
    assert listed["restart_policy"] == "always"
    (listed,) = (await caisson.ok("GET", "/v1/capsules"))["capsules"]
    assert listed["name"] == "pod"
    assert [link["rel"] for link in listed["links"]] == ["self", "bookmark"]


async def test_types_as_gophercloud_wants_them(caisson: Caisson) -> None:
    ports = [{"containerPort": 80}]
    requests = {"requests": {"cpu": "0.5", "memory": "64"}}
    capsule = await made(caisson, STAYS | {"ports": ports, "resources": requests}, STAYS | {"resources": requests})
    assert (capsule["cpu"], capsule["memory"]) == (1.0, "128")
    member = capsule["containers"][0]
    assert (member["cpu"], member["memory"], member["ports"], member["disk"]) == (0.5, "64", [80], 0)
    for name, kind in {
        "command": list, "environment": dict, "labels": dict, "interactive": bool, "auto_remove": bool,
        "auto_heal": bool, "tty": bool, "restart_policy": dict,
    }.items():  # fmt: skip
        assert isinstance(member[name], kind), name
    assert all(isinstance(value, str) for value in capsule["restart_policy"].values())
    assert len(capsule["created_at"].partition(".")[0]) == len("2006-01-02 15:04:05")


async def test_a_template_may_be_a_string(caisson: Caisson) -> None:
    body = {"template": json.dumps(template(name="text")["template"])}
    assert (await caisson.ok("POST", "/v1/capsules", body))["name"] == "text"


async def test_administrators_see_hosts(caisson: Caisson) -> None:
    capsule = await made(caisson)
    shown = await caisson.ok("GET", f"/v1/capsules/{capsule['uuid']}", who="admin")
    assert shown["host"] == "local-host"
    assert set(shown["containers"][0]) == MEMBER | {"host", "image_pull_policy", "privileged", "runtime"}


async def test_lookup(caisson: Caisson) -> None:
    capsule = await made(caisson, name="twice")
    assert (await caisson.ok("GET", "/v1/capsules/twice"))["uuid"] == capsule["uuid"]
    await made(caisson, name="twice")
    error_of(await caisson.call("GET", "/v1/capsules/twice"), 409, "conflict")
    for ident in ("nope", "1" * 32):
        error_of(await caisson.call("GET", f"/v1/capsules/{ident}"), 404, "container-not-found")
    for method in ("GET", "DELETE"):
        answer = await caisson.call(method, f"/v1/capsules/{capsule['uuid']}", who="foreign")
        error_of(answer, 404, "container-not-found")
    assert (await caisson.ok("GET", f"/v1/capsules/{capsule['uuid']}", who="admin"))["name"] == "twice"


async def test_lists_and_paging(caisson: Caisson) -> None:
    uuids = [(await made(caisson, name=name))["uuid"] for name in ("bb", "aa", "cc")]
    listed = (await caisson.ok("GET", "/v1/capsules?limit=2&unknown=1"))["capsules"]
    assert [capsule["uuid"] for capsule in listed] == uuids[:2]
    page = await caisson.ok("GET", "/v1/capsules?limit=2")
    rest = await caisson.ok("GET", page["next"].removeprefix("http://test"))
    assert [capsule["uuid"] for capsule in rest["capsules"]] == uuids[2:]
    assert rest["next"] is None
    by_name = await caisson.ok("GET", "/v1/capsules?sort_key=name&sort_dir=desc")
    assert [capsule["name"] for capsule in by_name["capsules"]] == ["cc", "bb", "aa"]
    error_of(await caisson.call("GET", "/v1/capsules?sort_key=zzz"), 400, "invalid-parameter-value")
    error_of(await caisson.call("GET", "/v1/capsules?limit=0"), 400, "invalid-value")
    error_of(await caisson.call("GET", f"/v1/capsules?marker={UUID(int=1)}"), 404, "capsule-not-found")


async def test_all_projects_is_for_administrators(caisson: Caisson) -> None:
    capsule = await made(caisson)
    mine = await caisson.ok("GET", "/v1/capsules?all_projects=1", who="foreign")
    assert mine["capsules"] == []
    everything = await caisson.ok("GET", "/v1/capsules?all_projects=1", who="admin")
    assert capsule["uuid"] in [shown["uuid"] for shown in everything["capsules"]]
    answer = await caisson.call("DELETE", f"/v1/capsules/{capsule['uuid']}?all_projects=1")
    error_of(answer, 403, "policy-not-authorized")
    answer = await caisson.call("DELETE", f"/v1/capsules/{capsule['uuid']}?all_projects=1", who="admin")
    assert (answer.status_code, answer.content) == (204, b"")
    await until_gone(caisson, capsule["uuid"])


async def test_init_containers_run_first(caisson: Caisson) -> None:
    init = [{"image": BUSY, "command": ["echo", word]} for word in ("one", "two")]
    capsule = await made(caisson, init=init)
    first, second = capsule["init_containers"]
    assert (first["status"], second["status"]) == ("Stopped", "Stopped")
    assert first["restart_policy"] == {"MaximumRetryCount": "10", "Name": "on-failure"}
    order = [(await caisson.engine.find(UUID(box["uuid"]))) for box in (first, second, capsule["containers"][0])]
    started = [seen.started_at for seen in order if seen is not None and seen.started_at is not None]
    assert len(started) == 3
    assert started == sorted(started)


async def test_an_init_container_that_fails_ends_it(caisson: Caisson) -> None:
    init = [{"image": BUSY, "command": ["sh", "-c", "echo no; exit 3"]}]
    capsule = await made(caisson, init=init, restart="Never", status="Error")
    assert capsule["init_containers"][0]["name"] in capsule["status_reason"]
    assert "exit code 3" in capsule["status_reason"]
    assert capsule["containers"][0]["status"] == "Error"
    assert await caisson.engine.find(UUID(capsule["containers"][0]["uuid"])) is None


async def test_restart_policies(caisson: Caisson) -> None:
    for word, policy in (("Always", "always"), ("OnFailure", "on-failure"), ("Never", "no")):
        capsule = await made(caisson, name=policy, restart=word)
        assert capsule["restart_policy"]["Name"] == policy
        assert caisson.engine.spec(UUID(capsule["containers"][0]["uuid"])).restart.name == policy
    body = template()
    body["template"]["restartPolicy"] = "Never"  # its old place
    assert (await caisson.ok("POST", "/v1/capsules", body))["restart_policy"]["Name"] == "no"


async def test_it_ends_with_its_members(caisson: Caisson) -> None:
    capsule = await made(caisson, STAYS, STAYS, restart="Never")
    first, second = capsule["containers"]
    caisson.engine.exit(UUID(first["uuid"]), 2)

    async def noticed() -> bool:
        shown = await caisson.ok("GET", f"/v1/capsules/{capsule['uuid']}")
        return first["name"] in (shown["status_reason"] or "") and shown["status"] == "Running"

    await eventually(noticed, lambda: "the end of a member is not told")
    caisson.engine.exit(UUID(second["uuid"]), 0)
    shown = await until(caisson, capsule["uuid"], "Stopped")
    assert "exit code 2" in shown["status_reason"]


async def test_a_command_that_cannot_be_started(caisson: Caisson) -> None:
    capsule = await made(caisson, {"image": BUSY, "command": ["no-such"]}, status="Error")
    (member,) = capsule["containers"]
    assert member["name"] in capsule["status_reason"]
    assert "executable file not found" in capsule["status_reason"]
    assert (member["status"], member["status_reason"]) == ("Error", capsule["status_reason"].partition(": ")[2])


async def test_an_image_that_is_not_there(caisson: Caisson) -> None:
    capsule = await made(caisson, STAYS, {"image": "nowhere:1"}, status="Error")
    assert "nowhere" in capsule["status_reason"]
    # Its last image is missing: nothing was made of it.
    assert not [seen for seen in await caisson.engine.find_all() if seen.project_id == await caisson.project("alpha")]


async def test_members_are_no_containers_of_their_own(caisson: Caisson) -> None:
    capsule = await made(caisson, STAYS | {"name": "web"})
    (member,) = capsule["containers"]
    assert member["name"] == "capsule-pod-web"
    assert (await caisson.ok("GET", "/v1/containers"))["containers"] == []
    assert (await caisson.ok("GET", f"/v1/containers?name={member['name']}"))["containers"] == []
    error_of(await caisson.call("GET", f"/v1/containers/{member['name']}"), 404, "container-not-found")
    assert (await caisson.show(member["uuid"]))["name"] == member["name"]


async def test_members_can_be_looked_into(caisson: Caisson) -> None:
    capsule = await made(caisson, {"image": BUSY, "command": ["sh", "-c", "echo hello; sleep 1000"]})
    path = f"/v1/containers/{capsule['containers'][0]['uuid']}"
    assert await caisson.ok("GET", f"{path}/logs") == "hello\n"
    assert (await caisson.ok("POST", f"{path}/execute?command=true"))["exit_code"] == 0
    assert (await caisson.ok("GET", f"{path}/top"))["Processes"]
    assert await caisson.ok("GET", f"{path}/stats")
    assert await caisson.ok("GET", f"{path}/container_actions") == {"containerActions": []}


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", f"/{verb}") for verb in ("start", "stop", "reboot", "pause", "unpause", "kill")]
    + [("DELETE", ""), ("DELETE", "?stop=1"), ("DELETE", "?force=1"), ("PATCH", ""), ("POST", "/rebuild")]
    + [("POST", "/resize_container"), ("POST", "/commit?repository=mine"), ("POST", "/put_archive?path=/")],
)
async def test_members_cannot_be_changed(caisson: Caisson, method: str, path: str) -> None:
    capsule = await made(caisson)
    bodies = {"": {"name": "other"}, "/resize_container": {"memory": 64}, "/put_archive?path=/": {"data": ""}}
    body = bodies.get(path) if method != "DELETE" else None
    answer = await caisson.call(method, f"/v1/containers/{capsule['containers'][0]['uuid']}{path}", body, who="admin")
    assert capsule["uuid"] in error_of(answer, 409, "conflict")["title"]


async def test_delete_leaves_nothing(caisson: Caisson) -> None:
    capsule = await made(caisson, STAYS, STAYS, init=[{"image": BUSY, "command": ["true"]}])
    answer = await caisson.call("DELETE", "/v1/capsules/pod")
    assert (answer.status_code, answer.content) == (204, b"")
    await until_gone(caisson, capsule["uuid"])
    project = await caisson.project("alpha")
    assert not [seen for seen in await caisson.engine.find_all() if seen.project_id == project]
    assert project not in caisson.engine.networks
    assert await caisson.running.rows(Container, Container.project_id == project) == []


async def test_what_fails_can_be_deleted(caisson: Caisson) -> None:
    capsule = await made(caisson, {"image": BUSY, "command": ["no-such"]}, status="Error")
    await caisson.ok("DELETE", f"/v1/capsules/{capsule['uuid']}")
    await until_gone(caisson, capsule["uuid"])


async def test_a_sandbox_that_dies_is_brought_back(caisson: Caisson) -> None:
    capsule = await made(caisson, STAYS, STAYS)
    before = [await caisson.engine.find(UUID(box["uuid"])) for box in capsule["containers"]]
    caisson.engine.vanish(UUID(capsule["uuid"]))

    async def healed() -> bool:
        seen = await caisson.engine.find(UUID(capsule["uuid"]))
        return seen is not None and not await caisson.unfinished(capsule["uuid"])

    await eventually(healed, lambda: "the sandbox is not there again")
    shown = await until(caisson, capsule["uuid"], "Running")
    sandbox = await caisson.engine.find(UUID(capsule["uuid"]))
    assert sandbox is not None
    for box, old in zip(shown["containers"], before, strict=True):
        seen = await caisson.engine.find(UUID(box["uuid"]))
        assert seen is not None
        assert old is not None
        assert (seen.state, seen.joined, seen.ref != old.ref) == (State.RUNNING, sandbox.ref, True)
        assert box["status"] == "Running"


async def test_without_restarts_a_lost_sandbox_is_an_error(caisson: Caisson) -> None:
    capsule = await made(caisson, restart="Never")
    caisson.engine.vanish(UUID(capsule["uuid"]))
    shown = await until(caisson, capsule["uuid"], "Error")
    assert "sandbox" in shown["status_reason"]
    assert shown["addresses"] == {}


async def test_a_member_that_vanishes_is_an_error(caisson: Caisson) -> None:
    capsule = await made(caisson, STAYS, STAYS)
    lost = capsule["containers"][1]
    caisson.engine.vanish(UUID(lost["uuid"]))
    shown = await until(caisson, capsule["uuid"], "Error")
    assert lost["name"] in shown["status_reason"]
    assert "removed from the engine by others" in shown["status_reason"]


async def test_an_engine_without_groups(caisson: Caisson) -> None:
    abilities = caisson.engine.abilities
    caisson.engine.abilities = abilities - {Ability.GROUP}
    try:
        error = error_of(await caisson.call("POST", "/v1/capsules", template()), 501, "unsupported")
    finally:
        caisson.engine.abilities = abilities
    assert "'local'" in error["title"]
    assert "group" in error["title"]
    await caisson.nothing_stored()


async def test_another_zone_has_no_host(caisson: Caisson) -> None:
    body = template()
    body["template"]["availabilityZone"] = "mars"
    capsule = await caisson.ok("POST", "/v1/capsules", body)
    assert (capsule["status"], "mars" in capsule["status_reason"]) == ("Error", True)
    await caisson.ok("DELETE", f"/v1/capsules/{capsule['uuid']}")
    await until_gone(caisson, capsule["uuid"])


HOST_PORT = STAYS | {"ports": [{"containerPort": 80, "hostPort": 8080}]}
NEVER = STAYS | {"imagePullPolicy": "never"}


@pytest.mark.parametrize(
    ("entry", "rule"), [(HOST_PORT, "container:create:host_port"), (NEVER, "container:create:image_pull_policy")]
)
async def test_what_is_for_administrators(caisson: Caisson, entry: Mapping[str, Any], rule: str) -> None:
    error = error_of(await caisson.call("POST", "/v1/capsules", template(dict(entry))), 403, "policy-not-authorized")
    assert rule in error["title"]
    await caisson.nothing_stored()
    made_by_admin = await caisson.ok("POST", "/v1/capsules", template(dict(entry)), who="admin")
    await caisson.ok("DELETE", f"/v1/capsules/{made_by_admin['uuid']}", who="admin")
    await until_gone(caisson, made_by_admin["uuid"])


def mounting(name: str, path: str = "/data", **more: Any) -> dict[str, Any]:
    return STAYS | {"volumeMounts": [{"name": name, "mountPath": path, **more}]}


async def held(caisson: Caisson) -> set[str]:
    """The volumes that the engine has of the test's project."""
    project = await caisson.project("alpha")
    return {str(seen.uuid) for seen in await caisson.engine.volumes() if seen.project_id == project}


async def test_volumes_are_shared(caisson: Caisson) -> None:
    """One that goes with the capsule, one that stays, and one that was there before."""
    there = (await caisson.ok("POST", "/v1/volumes", {"name": "before"}))["uuid"]
    entries = [
        {"name": "scratch", "emptyDir": {}},
        {"name": "gone", "cinder": {"size": 1, "autoRemove": True}},
        {"name": "kept", "cinder": {"size": 2}},
        {"name": "there", "cinder": {"volumeID": there}},
    ]
    first = STAYS | {"volumeMounts": [{"name": entry["name"], "mountPath": f"/{entry['name']}"} for entry in entries]}
    capsule = await made(caisson, first, mounting("scratch", readOnly=True), volumes=entries)
    one, two = (caisson.engine.spec(UUID(box["uuid"])).mounts for box in capsule["containers"])
    assert [(mount.path, mount.read_only) for mount in one] == [(f"/{e['name']}", False) for e in entries]
    assert [(mount.volume, mount.path, mount.read_only) for mount in two] == [(one[0].volume, "/data", True)]
    assert str(one[3].volume) == there
    assert await held(caisson) == {str(mount.volume) for mount in one}
    for ident in (there, str(one[0].volume)):
        error_of(await caisson.call("DELETE", f"/v1/volumes/{ident}"), 409, "volume-in-use")
    await caisson.ok("DELETE", f"/v1/capsules/{capsule['uuid']}")
    await until_gone(caisson, capsule["uuid"])
    assert await held(caisson) == {there, str(one[2].volume)}
    kept = await caisson.ok("GET", f"/v1/volumes/{one[2].volume}")
    assert kept["name"].startswith("pod-kept-")
    assert (kept["size"], kept["container_uuid"]) == (2, None)


@pytest.mark.parametrize(
    ("cinder", "ability", "status", "code"),
    [
        ({"size": 1}, Ability.VOLUME_SIZE, 501, "unsupported"),
        ({"size": 1}, Ability.VOLUMES, 501, "unsupported"),
        ({"size": 100_000}, None, 400, "schema-validation-error"),
        ({"volumeID": str(UUID(int=5))}, None, 404, "volume-not-found"),
    ],
)
async def test_volumes_that_cannot_be_had(
    caisson: Caisson, cinder: Mapping[str, Any], ability: Ability | None, status: int, code: str
) -> None:
    abilities = caisson.engine.abilities
    caisson.engine.abilities = abilities - {ability}
    try:
        body = template(mounting("v1"), volumes=[{"name": "v1", "cinder": dict(cinder)}])
        error_of(await caisson.call("POST", "/v1/capsules", body), status, code)
    finally:
        caisson.engine.abilities = abilities
    await caisson.nothing_stored()


async def test_another_projects_volume(caisson: Caisson) -> None:
    theirs = (await caisson.ok("POST", "/v1/volumes", {"name": "theirs"}, who="foreign"))["uuid"]
    body = template(mounting("v1"), volumes=[{"name": "v1", "cinder": {"volumeID": theirs}}])
    for who in ("member", "admin"):
        error_of(await caisson.call("POST", "/v1/capsules", body, who=who), 404, "volume-not-found")
