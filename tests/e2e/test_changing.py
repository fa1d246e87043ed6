"""Changing a container, files in and out, and mounts, with the real clients, a real Keystone and a real engine."""

from pathlib import Path
from typing import Any

import httpx
import pytest
from zunclient.common.apiclient import exceptions as http_refusals

from tests.e2e.served import Gateway
from tests.stack import docker
from tests.stack.images import BUSYBOX

SLEEPER = ["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.1; done"]


@pytest.fixture
def zun(gateway: Gateway) -> Any:
    """The client of a member of project alpha."""
    return gateway.zun()


def run(gateway: Gateway, zun: Any, name: str, **more: Any) -> Any:
    zun.containers.run(**{"name": name, "image": BUSYBOX, "command": SLEEPER, **more})
    return gateway.become(name, "Running")


def inspect(gateway: Gateway, uuid: str) -> Any:
    with docker.client(gateway.engine_url) as http:
        return http.get(f"/containers/caisson-{uuid}/json").raise_for_status().json()


def said(zun: Any, name: str, command: str) -> str:
    output: str = zun.containers.execute(name, command=command)["output"]
    return output


def test_limits_and_name_change_in_place(gateway: Gateway, zun: Any) -> None:
    before = run(gateway, zun, "small", environment={"KEPT": "yes"}, memory="64", cpu=0.5)
    pid = inspect(gateway, before["uuid"])["State"]["Pid"]
    gateway.openstack("set", "--memory", "128", "--cpu", "1", "--name", "large", "small")
    after = gateway.become("large", "Running")
    changed = {"name": "large", "memory": "128", "cpu": 1.0}
    moving = ("updated_at", "status_detail", "links")
    assert {key: value for key, value in after.items() if key not in moving} == {
        key: value for key, value in (before | changed).items() if key not in moving
    }
    document = inspect(gateway, before["uuid"])
    assert document["State"]["Pid"] == pid
    assert document["HostConfig"]["Memory"] == document["HostConfig"]["MemorySwap"] == 128 * 2**20
    assert document["HostConfig"]["NanoCpus"] == 10**9
    assert said(zun, "large", "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes").count(
        str(128 * 2**20)
    )
    with pytest.raises(http_refusals.Conflict, match="CPUs"):
        zun.containers.update("large", cpu="16")
    token = gateway.keystone.token("alpha-member")
    gateway.call("POST", "/v1/containers/large/resize_container", token, json={"memory": "96"}).raise_for_status()
    gateway.become("large", "Running", also=lambda box: box["memory"] == "96")
    gateway.zun(version="1.13").containers.rename("large", "older")
    assert zun.containers.get("older").uuid == before["uuid"]


def test_files_go_in_and_out(gateway: Gateway, zun: Any, tmp_path: Path) -> None:
    run(gateway, zun, "copied")
    (tmp_path / "note.txt").write_text("from outside\n")
    gateway.openstack("cp", str(tmp_path / "note.txt"), "copied:/tmp")
    assert said(zun, "copied", "cat /tmp/note.txt") == "from outside\n"
    assert said(zun, "copied", "sh -c 'echo from inside > /tmp/answer'") == ""
    (tmp_path / "out").mkdir()
    gateway.openstack("cp", "copied:/tmp/answer", str(tmp_path / "out"))
    assert (tmp_path / "out" / "answer").read_text() == "from inside\n"
    with pytest.raises(http_refusals.BadRequest, match="/nowhere"):
        zun.containers.get_archive("copied", "/nowhere")
    old = gateway.zun(version="1.24").containers
    old.put_archive("copied", "/tmp", zun.containers.get_archive("copied", "/tmp/note.txt")["data"].decode())
    assert old.get_archive("copied", "/tmp/note.txt")["stat"]["size"] == len("from outside\n")


def test_a_rebuild_keeps_what_is_mounted(gateway: Gateway, zun: Any, tmp_path: Path) -> None:
    token = gateway.keystone.token("alpha-member")
    volume = gateway.call("POST", "/v1/volumes", token, json={"name": "data"}).raise_for_status().json()
    (tmp_path / "config").write_text("secret = 1\n")
    mounts = ["--mount", "source=data,destination=/data"]
    mounts += ["--mount", f"type=bind,source={tmp_path / 'config'},destination=/etc/app/config"]
    gateway.openstack("run", "--name", "mounting", *mounts, BUSYBOX, "sleep", "1000")
    before = gateway.become("mounting", "Running")
    said(zun, "mounting", "sh -c 'echo kept > /data/note; echo lost > /note'")
    gateway.openstack("rebuild", "mounting")
    gateway.become("mounting", "Running", also=lambda box: box["status_reason"] is None)
    gateway.until(lambda: zun.containers.execute("mounting", command="cat /note")["exit_code"] == 1)
    assert said(zun, "mounting", "cat /data/note /etc/app/config") == "kept\nsecret = 1\n"
    assert zun.containers.get("mounting").uuid == before["uuid"]
    refused = gateway.call("DELETE", "/v1/volumes/data", token)
    assert refused.status_code == 409
    with pytest.raises(http_refusals.NotFound, match="nowhere"):
        zun.containers.create(image=BUSYBOX, mounts=[{"source": "nowhere", "destination": "/d"}])
    other = gateway.keystone.token("beta-member")
    assert gateway.call("GET", "/v1/volumes/data", other).status_code == 404
    zun.containers.delete("mounting", stop=True)
    gateway.become(before["uuid"], "Gone")
    gateway.call("DELETE", "/v1/volumes/data", token).raise_for_status()

    def gone() -> bool:
        with docker.client(gateway.engine_url) as http:
            return bool(http.get(f"/volumes/caisson-{volume['uuid']}").status_code == httpx.codes.NOT_FOUND)

    gateway.until(gone)


def test_a_commit_runs_in_its_project_only(gateway: Gateway, zun: Any) -> None:
    run(gateway, zun, "source")
    said(zun, "source", "sh -c 'echo mine > /mark'")
    printed = gateway.openstack("commit", "source", "kept:v1")
    gateway.become("source", "Running")
    image = printed.split()[-1].rstrip(".")
    admin = gateway.keystone.token("alpha-admin")
    gateway.until(lambda: gateway.call("GET", f"/v1/images/{image}", admin).json().get("status") == "Created")
    run(gateway, zun, "copy", image="kept:v1")
    assert said(zun, "copy", "cat /mark") == "mine\n"
    run(gateway, zun, "by-uuid", image=image)
    stranger = gateway.zun("beta-member").containers
    for name in ("kept:v1", image):
        made = stranger.create(image=name, command=SLEEPER)
        gateway.become(made.uuid, "Error", user="beta-member")
    for name in ("copy", "by-uuid"):
        uuid = zun.containers.get(name).uuid
        zun.containers.delete(name, stop=True)
        gateway.become(uuid, "Gone")
    gateway.call("DELETE", f"/v1/images/{image}", admin).raise_for_status()
    gateway.until(lambda: gateway.call("GET", f"/v1/images/{image}", admin).status_code == 404)


def test_dedicated_cores_and_health(gateway: Gateway, zun: Any) -> None:
    wish = {
        "name": "pinned",
        "image": BUSYBOX,
        "command": SLEEPER,
        "cpu_policy": "dedicated",
        "cpu": 1,
        "healthcheck": {"cmd": "true", "interval": 1},
    }
    token = gateway.keystone.token("alpha-member")
    gateway.call("POST", "/v1/containers?run=true", token, json=wish).raise_for_status()
    box = gateway.become("pinned", "Running", also=lambda box: (box["status_detail"] or "").endswith("(healthy)"))
    assert inspect(gateway, box["uuid"])["HostConfig"]["CpusetCpus"] == "1"
    assert "1" in said(zun, "pinned", "grep Cpus_allowed_list /proc/1/status")


def test_security_groups_of_old_versions(gateway: Gateway, zun: Any) -> None:
    run(gateway, zun, "grouped")
    gateway.openstack("add security group", "grouped", "default", version="1.14")
    gateway.become("grouped", "Running", also=lambda box: len(box["security_groups"]) == 1)
    gateway.zun(version="1.14").containers.remove_security_group("grouped", "default")
    gateway.become("grouped", "Running", also=lambda box: box["security_groups"] == [])
