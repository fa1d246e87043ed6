"""Creating containers: what is stored, what is answered, what reaches the engine, who sees which field."""

import re
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from app.backends.engine import HealthCheck, Port, Restart
from app.networks import network_id, security_group_id
from tests.api.caisson import BUSY, Caisson, error_of, eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

KEYS = {
    "uuid", "links", "user_id", "project_id", "name", "image", "image_driver", "command", "entrypoint", "status",
    "status_reason", "status_detail", "task_state", "cpu", "cpu_policy", "memory", "disk", "environment", "labels",
    "workdir", "hostname", "ports", "addresses", "security_groups", "restart_policy", "healthcheck", "interactive",
    "tty", "auto_remove", "auto_heal", "registry_id", "created_at", "updated_at",
}  # fmt: skip
HIDDEN = {"host", "image_pull_policy", "privileged", "runtime"}
NAIVE_TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d{6})?")

FULL = {  # as the openstack command writes it, strings for numbers included
    "image": BUSY,
    "name": "full",
    "command": ["sh", "-c", "sleep 1000"],
    "entrypoint": ["/bin/sh"],
    "cpu": "0.5",
    "memory": "256",
    "environment": {"A": "1", "B": ""},
    "labels": {"l": "v", "n": 1, "b": True},
    "workdir": "/tmp",
    "hostname": "h1",
    "interactive": True,
    "tty": "True",
    "restart_policy": {"Name": "on-failure", "MaximumRetryCount": "3"},
    "healthcheck": {"cmd": "true", "interval": 5, "retries": "2", "timeout": 3},
    "exposed_ports": {"80/tcp": {}, "53/udp": {}, "8080": {}},
    "auto_heal": "false",
    "auto_remove": False,
    "hints": {},
    "nets": [],
    "mounts": [],
}


async def test_the_answer_is_202_with_a_location(caisson: Caisson) -> None:
    answer = await caisson.call("POST", "/v1/containers", {"image": BUSY})
    assert answer.status_code == 202
    made = answer.json()
    assert answer.headers["location"] == f"http://test/v1/containers/{made['uuid']}"
    assert set(made) == KEYS
    assert UUID(made["uuid"]).version == 4
    assert made["project_id"] == await caisson.project("alpha")
    assert made["user_id"] == caisson.running.logins["id of member"]
    assert NAIVE_TIME.fullmatch(made["created_at"])
    assert (
        abs(datetime.fromisoformat(made["created_at"]).replace(tzinfo=UTC).timestamp() - datetime.now(UTC).timestamp())
        < 3600
    )
    assert re.fullmatch(r"[a-z]+-([1-9]|1\d|2[0-4])-container", made["name"])


async def test_what_was_not_asked_for_is_null_at_first_and_empty_afterwards(caisson: Caisson) -> None:
    fresh = await caisson.ok("POST", "/v1/containers", {"image": BUSY})
    never_set = ("command", "environment", "labels", "ports", "addresses", "restart_policy", "security_groups",
                 "healthcheck", "entrypoint")  # fmt: skip
    assert {name: fresh[name] for name in never_set} == dict.fromkeys(never_set)
    others = {"status": "Creating", "status_reason": None, "status_detail": None, "task_state": None, "cpu": 1.0,
              "cpu_policy": "shared", "memory": "512", "disk": 0, "workdir": None, "hostname": None,
              "image_driver": "docker", "interactive": False, "tty": False, "auto_remove": False, "auto_heal": False,
              "registry_id": None, "updated_at": None, "image": BUSY}  # fmt: skip
    assert {name: fresh[name] for name in others} == others

    shown = await caisson.until(fresh["uuid"], "Created")
    assert shown["command"] == ["sh"]  # the image's own
    assert shown["entrypoint"] == []
    assert {name: shown[name] for name in ("environment", "labels", "addresses", "restart_policy", "healthcheck")} == {
        "environment": {}, "labels": {}, "addresses": {}, "restart_policy": {}, "healthcheck": {},
    }  # fmt: skip
    assert (shown["ports"], shown["security_groups"], shown["status_detail"]) == ([], [], "Created")
    assert shown["hostname"]
    assert NAIVE_TIME.fullmatch(shown["updated_at"])


async def test_every_field_is_kept_and_reaches_the_engine(caisson: Caisson) -> None:
    made = await caisson.ok("POST", "/v1/containers", FULL)
    shown = await caisson.until(made["uuid"], "Created")
    said = {
        "name": "full",
        "image": BUSY,
        "command": ["sh", "-c", "sleep 1000"],
        "entrypoint": ["/bin/sh"],
        "cpu": 0.5,
        "memory": "256",
        "environment": {"A": "1", "B": ""},
        "labels": {"l": "v", "n": "1", "b": "True"},
        "workdir": "/tmp",
        "hostname": "h1",
        "interactive": True,
        "tty": True,
        "auto_remove": False,
        "auto_heal": False,
        "restart_policy": {"Name": "on-failure", "MaximumRetryCount": "3"},
        "healthcheck": {"test": "true", "interval": 5, "retries": 2, "timeout": 3},
    }
    assert {name: made[name] for name in said} == said
    assert {name: shown[name] for name in said} == said
    assert shown["ports"] == [53, 80, 8080]

    spec = caisson.engine.spec(UUID(made["uuid"]))
    assert spec.project_id == made["project_id"]
    assert spec.image == f"{BUSY}:latest"
    assert (spec.command, spec.entrypoint) == (["sh", "-c", "sleep 1000"], ["/bin/sh"])
    assert (spec.cpu, spec.memory, spec.disk) == (0.5, 256, 0)
    assert (spec.environment, spec.labels) == (said["environment"], said["labels"])
    assert (spec.workdir, spec.hostname, spec.interactive, spec.tty) == ("/tmp", "h1", True, True)
    assert spec.restart == Restart("on-failure", 3)
    assert spec.healthcheck == HealthCheck("true", interval=5, timeout=3, retries=2)
    assert sorted(spec.ports, key=lambda port: port.number) == [Port(53, "udp"), Port(80), Port(8080)]
    assert spec.pids_limit == caisson.settings.pids_limit
    assert (spec.privileged, spec.runtime) == (False, None)
    assert spec.network == caisson.engine.networks[made["project_id"]]


async def test_run_starts_it_and_shows_its_address(caisson: Caisson) -> None:
    made = await caisson.made(run=True)
    project = await caisson.project("alpha")
    assert made["status_detail"] in (None, "Up 1 seconds", "Up 2 seconds")
    ((network, (address,)),) = made["addresses"].items()
    assert network == network_id(project)
    assert set(address) == {"addr", "version", "port", "subnet_id", "preserve_on_delete"}
    assert (address["version"], address["preserve_on_delete"]) == (4, False)
    assert UUID(address["port"]).version
    assert UUID(address["subnet_id"]).version
    stopped = await caisson.ok("POST", f"/v1/containers/{made['uuid']}/stop")
    assert stopped is None
    assert (await caisson.until(made["uuid"], "Stopped"))["addresses"] == {}


async def test_each_project_has_a_network_of_its_own(caisson: Caisson) -> None:
    mine, theirs = await caisson.made(run=True), await caisson.made(run=True, who="foreign")
    specs = [caisson.engine.spec(UUID(box["uuid"])) for box in (mine, theirs)]
    assert specs[0].network != specs[1].network
    assert not mine["addresses"].keys() & theirs["addresses"].keys()
    project = await caisson.project("alpha")
    assert project in caisson.engine.networks
    await caisson.ok("DELETE", f"/v1/containers/{mine['uuid']}?stop=1")
    await caisson.until_gone(mine["uuid"])
    assert project not in caisson.engine.networks  # it goes with the last container
    assert await caisson.project("beta") in caisson.engine.networks


@pytest.mark.parametrize("value", ["1", "true", "True", "TRUE", "on", "On", "ON", "yes", "Yes", "YES"])
async def test_run_is_true_in_many_words(caisson: Caisson, value: str) -> None:
    made = await caisson.ok("POST", f"/v1/containers?run={value}", {"image": BUSY, "command": ["sleep", "9"]})
    await caisson.until(made["uuid"], "Running")


@pytest.mark.parametrize("value", ["0", "false", "False", "off", "no"])
async def test_run_is_false_in_many_words(caisson: Caisson, value: str) -> None:
    made = await caisson.ok("POST", f"/v1/containers?run={value}", {"image": BUSY})
    await caisson.until(made["uuid"], "Created")


async def test_administrators_see_four_more_fields(caisson: Caisson) -> None:
    uuid = (await caisson.made())["uuid"]
    assert set(await caisson.show(uuid)) == KEYS
    assert set(await caisson.show(uuid, who="reader")) == KEYS
    shown = await caisson.show(uuid, who="admin")
    assert set(shown) == KEYS | HIDDEN
    assert {name: shown[name] for name in HIDDEN} == {
        "host": "local-host", "image_pull_policy": None, "privileged": False, "runtime": "runc",
    }  # fmt: skip
    (listed,) = (await caisson.ok("GET", "/v1/containers"))["containers"]
    assert set(listed) == KEYS - {"links"}
    project = await caisson.project("alpha")
    (listed,) = (await caisson.ok("GET", f"/v1/containers?all_projects=1&project_id={project}", who="admin"))[
        "containers"
    ]
    assert set(listed) == (KEYS | HIDDEN) - {"links"}
    made = await caisson.create(who="admin")
    assert set(made) == KEYS | HIDDEN


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("privileged", True, "container:create:privileged"),
        ("privileged", False, "container:create:privileged"),
        ("runtime", "runc", "container:create:runtime"),
        ("host", "local-host", "container:create:requested_destination"),
        ("image_pull_policy", "always", "container:create:image_pull_policy"),
        ("exposed_ports", {"80": {"host_port": 8080}}, "container:create:host_port"),
    ],
)
async def test_what_only_administrators_may_ask_for(caisson: Caisson, field: str, value: Any, rule: str) -> None:
    body = {"image": BUSY, field: value}
    for who in ("member", "foreign"):
        error = error_of(await caisson.call("POST", "/v1/containers", body, who=who), 403, "policy-not-authorized")
        assert rule in error["title"]
    await caisson.nothing_stored()
    answer = await caisson.call("POST", "/v1/containers", body | {"image_pull_policy": "never"}, who="admin")
    assert answer.status_code == (403 if field == "privileged" else 202), answer.text


async def test_an_administrator_chooses_host_runtime_and_host_port(caisson: Caisson) -> None:
    fields = {"host": "local-host", "runtime": "runc", "exposed_ports": {"80": {"host_port": 18080}}}
    made = await caisson.made(who="admin", run=True, image_pull_policy="Never", **fields)
    assert (made["host"], made["runtime"], made["image_pull_policy"]) == ("local-host", "runc", "Never")
    spec = caisson.engine.spec(UUID(made["uuid"]))
    assert spec.ports == [Port(80, "tcp", 18080)]
    # The port is taken now: the next one says so, in the engine's words.
    second = await caisson.create(who="admin", run=True, exposed_ports={"80": {"host_port": 18080}})
    failed = await caisson.until(second["uuid"], "Error", who="admin")
    assert "port is already allocated" in failed["status_reason"]
    for uuid in (made["uuid"], second["uuid"]):
        await caisson.ok("DELETE", f"/v1/containers/{uuid}?force=1", who="admin")
        await caisson.until_gone(uuid)


async def test_a_host_or_runtime_that_is_not_there(caisson: Caisson) -> None:
    answer = await caisson.call("POST", "/v1/containers", {"image": BUSY, "host": "nope"}, who="admin")
    assert "nope" in error_of(answer, 404, "requested-host-not-found")["title"]
    answer = await caisson.call("POST", "/v1/containers", {"image": BUSY, "runtime": "nope"}, who="admin")
    assert "runc" in error_of(answer, 400, "invalid-value")["title"]


async def test_a_zone_without_hosts_makes_an_error_row(caisson: Caisson) -> None:
    """As Zun has it: 202, and a container in Error."""
    made = await caisson.ok("POST", "/v1/containers", {"image": BUSY, "availability_zone": "nowhere"})
    assert made["status"] == "Error"
    assert "nowhere" in made["status_reason"]
    assert caisson.settings.availability_zone in made["status_reason"]
    assert await caisson.actions(made["uuid"]) == []
    await caisson.ok("DELETE", f"/v1/containers/{made['uuid']}")
    await caisson.until_gone(made["uuid"])
    await caisson.made(availability_zone=caisson.settings.availability_zone)


async def test_the_projects_network_and_security_group_have_names(caisson: Caisson) -> None:
    project = await caisson.project("alpha")
    for net in ("project", network_id(project)):
        await caisson.made(nets=[{"network": net}])
    for group in ("default", security_group_id(project)):
        made = await caisson.made(security_groups=[group, group])
        assert made["security_groups"] == [security_group_id(project)]


@pytest.mark.parametrize(
    ("policy", "shown"),
    [
        ({"Name": "no"}, {"Name": "no", "MaximumRetryCount": "0"}),
        ({"Name": "no", "MaximumRetryCount": 5}, {"Name": "no", "MaximumRetryCount": "0"}),
        ({"Name": "always"}, {"Name": "always", "MaximumRetryCount": "0"}),
        ({"Name": "always", "MaximumRetryCount": "0"}, {"Name": "always", "MaximumRetryCount": "0"}),
        ({"Name": "unless-stopped", "MaximumRetryCount": None}, {"Name": "unless-stopped", "MaximumRetryCount": "0"}),
        ({"Name": "on-failure", "MaximumRetryCount": 2}, {"Name": "on-failure", "MaximumRetryCount": "2"}),
    ],
)
async def test_restart_policies(caisson: Caisson, policy: dict[str, Any], shown: dict[str, str]) -> None:
    made = await caisson.made(restart_policy=policy)
    assert made["restart_policy"] == shown
    spec = caisson.engine.spec(UUID(made["uuid"]))
    assert spec.restart == Restart(shown["Name"], int(shown["MaximumRetryCount"]))


@pytest.mark.parametrize(
    ("fields", "shown"),
    [
        ({"cpu": 0.1, "memory": 4}, {"cpu": 0.1, "memory": "4"}),
        ({"cpu": 16, "memory": "8192"}, {"cpu": 16.0, "memory": "8192"}),
        ({"cpu": "1"}, {"cpu": 1.0}),
        ({"cpu": "0.25"}, {"cpu": 0.25}),
        ({"cpu": ".5"}, {"cpu": 0.5}),
        ({"cpu": None, "memory": None, "disk": None}, {"cpu": 1.0, "memory": "512", "disk": 0}),
        ({"disk": 1}, {"disk": 1}),
        ({"disk": "100"}, {"disk": 100}),
        ({"name": "ab"}, {"name": "ab"}),
        ({"name": "n" * 255}, {"name": "n" * 255}),
        ({"name": "0._-"}, {"name": "0._-"}),
        ({"hostname": "-x-"}, {"hostname": "-x-"}),
        ({"hostname": "h" * 63}, {"hostname": "h" * 63}),
        ({"image_driver": "docker"}, {"image_driver": "docker"}),
        ({"image_driver": "None"}, {"image_driver": "docker"}),
        ({"image_driver": None}, {"image_driver": "docker"}),
        ({"healthcheck": {}}, {"healthcheck": None}),
        ({"environment": {}, "labels": {}, "hints": {"a": "b"}}, {"environment": None, "labels": None}),
        ({"interactive": "true"}, {"interactive": True}),
        ({"entrypoint": []}, {"entrypoint": None}),
    ],
)
async def test_limits_and_spellings(caisson: Caisson, fields: dict[str, Any], shown: dict[str, Any]) -> None:
    made = await caisson.create(**fields)
    assert {name: made[name] for name in shown} == shown


async def test_names_need_not_be_unique(caisson: Caisson) -> None:
    first, second = await caisson.made(name="twin"), await caisson.made(name="twin")
    assert first["uuid"] != second["uuid"]


async def test_a_container_is_removed_by_itself_when_asked_for(caisson: Caisson) -> None:
    made = await caisson.made(run=True, auto_remove=True)
    caisson.engine.exit(UUID(made["uuid"]), 0)
    await caisson.until_gone(made["uuid"])
    assert await caisson.engine.find(UUID(made["uuid"])) is None


@pytest.mark.parametrize("run", [True, False])
async def test_a_container_is_healed_when_asked_for(caisson: Caisson, run: bool) -> None:
    made = await caisson.made(run=run, auto_heal=True)
    uuid = UUID(made["uuid"])
    before = await caisson.engine.find(uuid)
    caisson.engine.vanish(uuid)

    async def healed() -> bool:
        seen = await caisson.engine.find(uuid)
        return seen is not None and before is not None and seen.ref != before.ref

    await eventually(healed, lambda: "not made again")
    shown = await caisson.until(made["uuid"], "Running" if run else "Created")
    assert shown["name"] == made["name"]
