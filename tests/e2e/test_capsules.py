"""Capsules by OpenStack's own command and by a strict client, against a real Keystone and a real engine."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.served import Gateway
from tests.stack import docker
from tests.stack.images import BUSYBOX
from tests.stack.session import ROOT, wait_until

EXAMPLE = ROOT / "docs" / "examples" / "capsule.yaml"


def capsule(gateway: Gateway, ident: str, status: str) -> Any:
    """Waits until a capsule has this status (``Gone``: is no more) and returns it."""
    token = gateway.keystone.token("alpha-member")
    found: Any = None

    def reached() -> bool:
        nonlocal found
        answer = gateway.call("GET", f"/v1/capsules/{ident}", token)
        if answer.status_code == 404:
            return status == "Gone"
        found = answer.raise_for_status().json()
        return bool(found["status"] == status)

    try:
        wait_until(reached, f"capsule {ident} to be {status}", 60)
    except Exception as error:
        error.add_note(f"it is {found}")
        raise
    return found


def left(gateway: Gateway, made: Any) -> list[str]:
    """What the engine still has of a capsule: its sandbox and members."""
    boxes = [*made["containers"], *made["init_containers"]]
    found = []
    with docker.client(gateway.engine_url) as http:
        for uuid in (made["uuid"], *(box["uuid"] for box in boxes)):
            label = json.dumps({"label": [f"caisson.uuid={uuid}"]})
            found += [seen["Id"] for seen in http.get("/containers/json", params={"all": 1, "filters": label}).json()]
    return found


def test_the_example(gateway: Gateway, tmp_path: Path) -> None:
    """What docs/capsules.md shows: create from a file, list, show, look inside, delete; nothing is left."""
    file = tmp_path / "capsule.yaml"
    file.write_text(EXAMPLE.read_text().replace("busybox:1", BUSYBOX))
    asked = json.loads(gateway.command("capsule", "create", "--file", str(file), "-f", "json"))
    assert (asked["name"], asked["status"]) == ("demo", "Creating")
    made = capsule(gateway, "demo", "Running")
    (listed,) = json.loads(gateway.command("capsule", "list", "-f", "json"))
    assert (listed["uuid"], listed["name"], listed["status"]) == (made["uuid"], "demo", "Running")
    shown = json.loads(gateway.command("capsule", "show", "demo", "-f", "json"))
    assert (shown["status"], shown["memory"]) == (
        "Running",
        str(64 + 512),
    )  # one member asks for 64 MiB, the other gets the default
    assert made["init_containers"][0]["status"] == "Stopped"
    server, client = made["containers"]
    assert (server["name"], client["name"]) == ("capsule-demo-server", "capsule-demo-client")
    assert [box["status"] for box in (server, client)] == ["Running", "Running"]
    token = gateway.keystone.token("alpha-member")
    assert gateway.call("GET", "/v1/containers", token).json() == {"containers": [], "next": None}
    # The client hears the server at 127.0.0.1; members answer by their uuids.
    inside = f"/v1/containers/{client['uuid']}"
    wait_until(lambda: "hello" in gateway.call("GET", f"{inside}/logs", token).text, "the client to hear", 30)
    said = gateway.call("POST", f"{inside}/execute", token, json={"command": "sh -c 'echo $ROLE'"}).json()
    assert (said["output"], said["exit_code"]) == ("client\n", 0)
    first = f"/v1/containers/{made['init_containers'][0]['uuid']}/logs"
    assert gateway.call("GET", first, token).json() == "ready\n"
    refused = gateway.call("POST", f"{inside}/stop", token)
    assert (refused.status_code, made["uuid"] in refused.text) == (409, True)
    gateway.command("capsule", "delete", "demo")
    capsule(gateway, made["uuid"], "Gone")
    assert left(gateway, made) == []


def test_a_restart_policy_and_its_end(gateway: Gateway) -> None:
    """OnFailure: what fails is started again, what ends well is not, and the capsule ends with it."""
    retry = "test -e /tried && exit 0; touch /tried; exit 7"
    token = gateway.keystone.token("alpha-member")
    body = {
        "kind": "capsule", "metadata": {"name": "batch"},
        "spec": {"restartPolicy": "OnFailure", "containers": [{"image": BUSYBOX, "command": ["sh", "-c", retry]}]},
    }  # fmt: skip
    # As gophercloud sends it: the template is a string.
    answer = gateway.call("POST", "/v1/capsules", token, json={"template": json.dumps(body)})
    assert answer.status_code == 202, answer.text
    done = capsule(gateway, "batch", "Stopped")
    assert done["status_reason"] is None
    assert gateway.call("DELETE", "/v1/capsules/batch", token).status_code == 204
    capsule(gateway, "batch", "Gone")


def test_an_init_container_that_fails(gateway: Gateway) -> None:
    token = gateway.keystone.token("alpha-member")
    spec = {
        "restartPolicy": "Never",
        "initContainers": [{"image": BUSYBOX, "name": "check", "command": ["sh", "-c", "exit 3"]}],
        "containers": [{"image": BUSYBOX, "command": ["sleep", "1000"]}],
    }
    body = {"template": {"kind": "capsule", "metadata": {"name": "broken"}, "spec": spec}}
    gateway.call("POST", "/v1/capsules", token, json=body).raise_for_status()
    failed = capsule(gateway, "broken", "Error")
    assert failed["status_reason"] == "init container capsule-broken-check ended with exit code 3"
    gateway.call("DELETE", "/v1/capsules/broken", token).raise_for_status()
    capsule(gateway, failed["uuid"], "Gone")
    assert left(gateway, failed) == []


def test_members_share_a_volume(gateway: Gateway) -> None:
    """What an init container writes the others read; one may only read. It goes with the capsule."""
    token = gateway.keystone.token("alpha-member")
    write = {"name": "data", "mountPath": "/data"}
    spec = {
        "initContainers": [{"image": BUSYBOX, "command": ["sh", "-c", "echo one > /data/f"], "volumeMounts": [write]}],
        "containers": [{"image": BUSYBOX, "command": ["sleep", "1000"], "volumeMounts": [write | {"readOnly": True}]}],
        "volumes": [{"name": "data", "emptyDir": {}}],
    }
    body = {"template": {"kind": "capsule", "metadata": {"name": "sharing"}, "spec": spec}}
    gateway.call("POST", "/v1/capsules", token, json=body).raise_for_status()
    made = capsule(gateway, "sharing", "Running")
    (volume,) = gateway.call("GET", "/v1/volumes", token).json()["volumes"]
    inside = f"/v1/containers/{made['containers'][0]['uuid']}/execute"
    said = gateway.call("POST", inside, token, json={"command": "sh -c 'cat /data/f; echo two > /data/f'"}).json()
    assert said["exit_code"] != 0
    assert "one\n" in said["output"]
    assert "Read-only file system" in said["output"]
    gateway.call("DELETE", "/v1/capsules/sharing", token).raise_for_status()
    capsule(gateway, made["uuid"], "Gone")
    assert left(gateway, made) == []
    with docker.client(gateway.engine_url) as http:
        label = json.dumps({"label": [f"caisson.volume={volume['uuid']}"]})
        assert not http.get("/volumes", params={"filters": label}).json()["Volumes"]


STRICT: dict[str, type | tuple[type, ...]] = {
    "uuid": str, "name": str, "image": str, "status": str, "cpu": (int, float), "memory": str, "disk": int,
    "command": list, "ports": list, "environment": dict, "labels": dict, "addresses": dict, "restart_policy": dict,
    "interactive": bool, "auto_remove": bool, "auto_heal": bool, "workdir": str, "image_driver": str,
    "security_groups": list, "runtime": str, "hostname": str, "status_reason": str, "status_detail": str,
    "task_state": str, "host": str, "image_pull_policy": str, "user_id": str, "project_id": str,
}  # fmt: skip
"""The types into which gophercloud decodes a container of a capsule; null fits everywhere."""


@pytest.mark.parametrize("version", ["container 1.1", "container 1.40"])
def test_a_strict_client_can_decode_it(gateway: Gateway, version: str) -> None:
    token = gateway.keystone.token("alpha-member")
    entry = {"image": BUSYBOX, "command": ["sleep", "1000"], "ports": [{"containerPort": 80}]}
    body = {"template": {"kind": "capsule", "metadata": {"name": "strict"}, "spec": {"containers": [entry]}}}
    gateway.call("POST", "/v1/capsules", token, json=body).raise_for_status()
    uuid = capsule(gateway, "strict", "Running")["uuid"]
    headers = {"OpenStack-API-Version": version}
    for document in (
        gateway.call("GET", f"/v1/capsules/{uuid}", token, headers=headers).json(),
        gateway.call("GET", "/v1/capsules", token, headers=headers).json()["capsules"][0],
    ):
        restart = document["restart_policy"]
        values = [restart] if version == "container 1.1" else list(restart.values())
        assert all(isinstance(value, str) for value in values)
        assert isinstance(document["cpu"], int | float)
        assert isinstance(document["memory"], str)
        for address in [entry for addresses in document["addresses"].values() for entry in addresses]:
            assert isinstance(address["version"], int)
            assert isinstance(address["preserve_on_delete"], bool)
        for box in document["containers"]:
            wrong = [name for name, kind in STRICT.items() if not isinstance(box.get(name), (kind, type(None)))]
            assert not wrong
            assert all(isinstance(port, int) for port in box["ports"])
        for moment in (document["created_at"], document["updated_at"]):
            # Go takes fractions of a second also where its layout has none.
            datetime.strptime(moment.partition(".")[0], "%Y-%m-%d %H:%M:%S").astimezone()
    gateway.call("DELETE", f"/v1/capsules/{uuid}", token).raise_for_status()
    capsule(gateway, uuid, "Gone")
