"""python-zunclient as a library: every call of its that Caisson answers, and those that it does not answer yet."""

import time
from contextlib import closing
from http.client import HTTPConnection
from typing import Any

import httpx
import pytest
from zunclient import api_versions
from zunclient.common.apiclient import exceptions as http_refusals

from tests.e2e.served import Gateway, serve
from tests.stack.images import BUSYBOX
from tests.stack.keystone import Keystone
from tests.stack.session import Stack

SLEEPER = ["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.1; done"]


@pytest.fixture
def zun(gateway: Gateway) -> Any:
    """The client of a member of project alpha."""
    return gateway.zun()


def test_a_life(gateway: Gateway, zun: Any) -> None:
    made = zun.containers.run(name="life", image=BUSYBOX, command=SLEEPER)
    gateway.become(made.uuid, "Running")
    assert zun.containers.get("life").uuid == made.uuid
    assert [box.uuid for box in zun.containers.list()] == [made.uuid]

    zun.containers.pause("life")
    gateway.become("life", "Paused")
    zun.containers.unpause("life")
    gateway.become("life", "Running")
    zun.containers.restart("life", 5)
    gateway.become("life", "Running")
    zun.containers.stop("life", 5)
    gateway.become("life", "Stopped")
    zun.containers.start("life")
    gateway.become("life", "Running")
    zun.containers.kill("life")
    gateway.become("life", "Stopped")
    zun.containers.delete("life")
    gateway.become(made.uuid, "Gone")


def test_looking_inside(gateway: Gateway, zun: Any) -> None:
    zun.containers.run(name="inside", image=BUSYBOX, command=["sh", "-c", "echo out; echo err >&2; exec sleep 600"])
    gateway.become("inside", "Running")
    assert sorted(zun.containers.logs("inside", stdout=True, stderr=True).split()) == ["err", "out"]
    assert zun.containers.logs("inside", stdout=True, stderr=False, timestamps=False, tail="all", since=None) == "out\n"
    # Its command for this one fails before it asks anybody; the library does not.
    top = zun.containers.top("inside")
    assert any("sleep 600" in " ".join(process) for process in top["Processes"])
    assert top["Titles"][:2] == ["UID", "PID"]
    found = zun.containers.execute("inside", command="sh -c 'exit 3'")
    assert found == {"output": "", "exit_code": 3, "exec_id": None, "proxy_url": None}
    stats = zun.containers.stats("inside")
    assert set(stats) == {
        "CONTAINER", "CPU %", "MEM USAGE(MiB)", "MEM LIMIT(MiB)", "MEM %", "BLOCK I/O(B)", "NET I/O(B)",
    }  # fmt: skip


def test_pages(gateway: Gateway, zun: Any) -> None:
    uuids = [zun.containers.create(name=f"box-{number}", image=BUSYBOX).uuid for number in range(5)]
    assert [box.uuid for box in zun.containers.list(limit=2)] == uuids[:2]
    assert [box.name for box in zun.containers.list(marker=uuids[2])] == ["box-3", "box-4"]
    listed = zun.containers.list(sort_key="name", sort_dir="desc")
    assert [box.name for box in listed] == ["box-4", "box-3", "box-2", "box-1", "box-0"]
    assert [box.name for box in zun.containers.list(name="box-3")] == ["box-3"]


def test_a_name_of_two_containers(zun: Any) -> None:
    for _ in range(2):
        zun.containers.create(name="twin", image=BUSYBOX)
    with pytest.raises(http_refusals.Conflict, match="Multiple containers exist with same name"):
        zun.containers.get("twin")


def test_actions(gateway: Gateway, zun: Any) -> None:
    zun.containers.run(name="watched", image=BUSYBOX, command=["true"])
    gateway.become("watched", "Stopped")
    (action,) = zun.actions.list("watched")
    seen = zun.actions.get("watched", action.request_id)
    assert (seen.action, seen.message, [event["result"] for event in seen.events]) == (
        "create",
        None,
        ["Success", "Success"],
    )


def test_the_version_is_negotiated(gateway: Gateway, zun: Any) -> None:
    found = api_versions.discover_version(zun, api_versions.APIVersion("1.latest"))
    assert found.get_string() == "1.40"
    (version,) = zun.versions.list()
    assert (version.id, version.status, version.max_version, version.min_version) == ("v1", "CURRENT", "1.40", "1.1")


@pytest.mark.parametrize("asked", ["container 1.0", "container 1.41", "container 2.0"])
def test_a_version_out_of_range(gateway: Gateway, asked: str) -> None:
    token = gateway.keystone.token()
    answer = gateway.call("GET", "/v1/containers", token, headers={"OpenStack-API-Version": asked})
    assert answer.status_code == 406
    assert answer.headers["OpenStack-API-Maximum-Version"] == "container 1.40"


def test_fields_of_a_later_version_are_refused(gateway: Gateway) -> None:
    with pytest.raises(http_refusals.BadRequest, match="hostname"):
        gateway.zun(version="1.8").containers.create(image=BUSYBOX, hostname="new")


def test_without_a_login(gateway: Gateway) -> None:
    answer = httpx.get(f"{gateway.url}/v1/containers", headers={"OpenStack-API-Version": "container latest"})
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"].startswith('Keystone uri="')


def test_containers_are_there_after_a_restart(
    stack: Stack, keystone: Keystone, docker_url: str, busybox_image: str, tmp_path: Any
) -> None:
    with serve(stack, tmp_path, keystone, docker_url) as first:
        first.zun().containers.run(name="stays", image=BUSYBOX, command=SLEEPER)
        before = first.become("stays", "Running")
    with serve(stack, tmp_path, keystone, docker_url) as second:
        try:
            after = second.become("stays", "Running")
            assert (after["uuid"], after["addresses"]) == (before["uuid"], before["addresses"])
            assert second.zun().containers.execute("stays", command="echo still")["output"] == "still\n"
        finally:
            second.clear()


def test_a_client_that_looks_every_five_seconds_keeps_its_connection(gateway: Gateway) -> None:
    """So does `--wait` of the commands; http.client does not try again."""
    connection = HTTPConnection(gateway.url.removeprefix("http://"))
    with closing(connection):
        for pause in (0, 6):
            time.sleep(pause)
            connection.request("GET", "/v1/")
            answer = connection.getresponse()
            assert (answer.status, answer.read() != b"") == (200, True)
