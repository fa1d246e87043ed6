"""Every recorded call is replayed; what differs on purpose stands in `ON_PURPOSE`, with the reason.

docs/compatibility.md has the same table for readers.
"""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.contract.replay import RECORDED_IMAGE, RECORDED_UUID, Call, differences, recorded
from tests.e2e.served import Gateway, serve
from tests.stack.keystone import Keystone
from tests.stack.registry import Registry
from tests.stack.session import Stack, wait_until

USERS = {
    "member": "alpha-member",
    "reader": "alpha-reader",
    "foreign": "beta-member",
    "admin": "admin",
    "padmin": "alpha-admin",
}
NO_ANSWER = "Zun's process fails without an answer"
ON_PURPOSE: dict[str, tuple[int | tuple[int, ...], str]] = {
    "version 'container 1.41'": (406, NO_ANSWER),
    "version 'container 1.0'": (406, NO_ANSWER),
    "version 'container 2.0'": (406, NO_ANSWER),
    "create: null body": (400, NO_ANSWER),
    "create text": (415, NO_ANSWER),
    "create xml": (415, NO_ANSWER),
    "create: restart+auto_remove": (400, "the container would never be removed: refused at once, not an Error later"),
    "create: disk": (501, "this engine's storage driver has no disk limit: refused, never dropped"),
    "create: healthcheck bad": (400, "an interval that is no number is bad input"),
    "create as reader": (403, "a reader only reads"),
    "get /v1/images/nope": ((403, 404), "Zun fails inside (500)"),
    "get 1.1 /v1/images/nope": (404, "Zun fails inside (500)"),
    "search": (503, "Zun fails inside (500); here the registry that cannot be reached is named"),
    "collection DELETE": (405, "Zun fails inside (500)"),
    "collection PATCH": (405, "Zun fails inside (500)"),
    "collection OPTIONS": (405, "no CORS, so nothing to say to OPTIONS"),
    "exec none": (400, "Zun fails inside (500)"),
    "stop paused": (409, "Zun had not yet seen that it is paused"),
    "kill": (202, "Zun was still rebooting the container"),
    "add sg 1.1": (202, "Zun was still rebooting the container"),
    "exec stopped": (409, "Zun showed Running: its kill had been refused"),
    "stop stopped": (409, "Zun showed Running: its kill had been refused"),
    "kill stopped": (409, "Zun showed Running: its kill had been refused"),
    "pause stopped": (409, "Zun showed Running: its kill had been refused"),
    "top bad": (400, "Zun splits a query at `;`; here ps itself refuses the argument"),
    "get_archive absent": (400, "Zun fails inside (500)"),
    "get_archive none": (400, "Zun fails inside (500)"),
    "get /v1/services/nope": (404, "there is no such path"),
    "get 1.1 /v1/services/nope": (404, "there is no such path"),
    "delete reader": (403, "a reader only reads"),
}
DOCUMENT = Path(__file__).parents[2] / "docs" / "compatibility.md"
UNTIL = {"run": "Running", "pause": "Paused", "unpause": "Running", "reboot": "Running", "kill": "Stopped"}
"""What is waited for after a call of a container's life, as the recorder did."""


@pytest.fixture(scope="module")
def gateway(
    stack: Stack,
    keystone: Keystone,
    docker_url: str,
    busybox_image: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Gateway]:
    """A gateway that pulls each time, as Zun does."""
    folder: Path = tmp_path_factory.mktemp("gateway")
    with serve(stack, folder, keystone, docker_url, CAISSON_PULL_POLICY="always") as served:
        yield served
        served.clear()
        admin = served.keystone.token("alpha-admin")
        for image in served.call("GET", "/v1/images", admin).json()["images"]:
            if "/" not in image["repo"]:  # a commit: what was pulled is the registry's, and others use it
                served.call("DELETE", f"/v1/images/{image['uuid']}", admin).raise_for_status()
                gone = f"/v1/images/{image['uuid']}"
                served.until(lambda path=gone: served.call("GET", path, admin).status_code == 404)  # type: ignore[misc]


@pytest.fixture(scope="module")
def image(registry: Registry, docker_url: str, busybox_image: str) -> str:
    """An image that a pull finds, in the place of the recorded one."""
    return registry.push(docker_url, "tp:1", busybox_image)


def ask(gateway: Gateway, call: Call, image: str, path: str) -> httpx.Response:
    """Ask one recorded call of the gateway."""
    headers = dict(call.headers)
    if call.who is not None:
        user = USERS.get(call.who)
        headers["X-Auth-Token"] = gateway.keystone.token(user) if user else call.who
    return httpx.request(call.method, gateway.url + path, headers=headers, content=call.content(image), timeout=60)


def judge(call: Call, answer: httpx.Response) -> list[str]:
    """What is wrong with an answer, by the recording or by the table."""
    if call.name not in ON_PURPOSE:
        return [f"{call.name}: {found} ({answer.text[:200]})" for found in differences(call, answer)]
    status, _ = ON_PURPOSE[call.name]
    if answer.status_code not in (status if isinstance(status, tuple) else (status,)):
        return [f"{call.name}: status {answer.status_code} instead of {status}, which the table says"]
    return []


def test_requests(gateway: Gateway, image: str) -> None:
    found = [
        line
        for call in recorded("requests")
        for line in judge(call, ask(gateway, call, image, call.path.replace(RECORDED_IMAGE, image)))
    ]
    assert not found, "\n".join(found)


def test_life(gateway: Gateway, image: str) -> None:
    gateway.clear()
    token = gateway.keystone.token("alpha-member")
    found, uuid = [], RECORDED_UUID
    for call in recorded("life"):
        answer = ask(gateway, call, image, call.path.replace(RECORDED_UUID, uuid))
        found += judge(call, answer)
        if call.name == "run":
            uuid = answer.json()["uuid"]
        if call.name in UNTIL:
            gateway.become(uuid, UNTIL[call.name])
        if call.name == "run" or call.name == "reboot":
            logs = f"/v1/containers/{uuid}/logs"
            wait_until(lambda path=logs: "hello" in gateway.call("GET", path, token).text, "its greeting")  # type: ignore[misc]
        if call.name == "delete stop":
            gateway.become(uuid, "Gone")
    assert not found, "\n".join(found)


def test_every_difference_is_documented() -> None:
    text = DOCUMENT.read_text()
    names = {call.name for part in ("requests", "life") for call in recorded(part)}
    assert set(ON_PURPOSE) <= names
    missing = [name for name, (status, reason) in ON_PURPOSE.items() if f"| {name} |" not in text or reason not in text]
    assert not missing
