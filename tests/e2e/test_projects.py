"""Roles, two projects beside each other, and tokens that stop being good: a real Keystone decides."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from zunclient.common.apiclient import exceptions as refusals

from tests.e2e.served import CommandError, Gateway, serve
from tests.stack.images import BUSYBOX
from tests.stack.keystone import Keystone
from tests.stack.session import Stack

SLEEPER = ["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.1; done"]


def test_a_reader_reads(gateway: Gateway) -> None:
    made = gateway.zun("alpha-member").containers.run(name="shown", image=BUSYBOX, command=["echo", "hello"])
    gateway.become("shown", "Stopped")
    reader = gateway.zun("alpha-reader")
    assert [box.uuid for box in reader.containers.list()] == [made.uuid]
    assert reader.containers.logs("shown", stdout=True, stderr=True) == "hello\n"
    attempts: list[Callable[[], Any]] = [
        lambda: reader.containers.create(image=BUSYBOX),
        lambda: reader.containers.start("shown"),
        lambda: reader.containers.delete("shown"),
        lambda: reader.registries.create(domain="registry.example"),
    ]
    for refused in attempts:
        with pytest.raises(refusals.Forbidden, match="Policy doesn't allow"):
            refused()
    with pytest.raises(CommandError, match="Policy doesn't allow container:create"):
        gateway.openstack("run", BUSYBOX, user="alpha-reader")
    assert [box.uuid for box in reader.containers.list()] == [made.uuid]


def test_two_projects_do_not_meet(gateway: Gateway) -> None:
    """They see nothing of each other: not in lists, not by id, not by name, and not on the network."""
    alpha, beta = gateway.zun("alpha-member"), gateway.zun("beta-member")
    mine = alpha.containers.run(name="same", image=BUSYBOX, command=["httpd", "-f", "-p", "80"])
    theirs = beta.containers.run(name="same", image=BUSYBOX, command=SLEEPER)
    address = _address(gateway.become("same", "Running"))
    other = _address(gateway.become("same", "Running", user="beta-member"))
    assert address.rpartition(".")[0] != other.rpartition(".")[0]

    assert [box.uuid for box in alpha.containers.list()] == [mine.uuid]
    assert [box.uuid for box in beta.containers.list()] == [theirs.uuid]
    assert beta.containers.get("same").uuid == theirs.uuid
    attempts: list[Callable[[], Any]] = [
        lambda: beta.containers.get(mine.uuid),
        lambda: beta.containers.logs(mine.uuid, stdout=True, stderr=True),
        lambda: beta.containers.execute(mine.uuid, command="id"),
        lambda: beta.containers.stop(mine.uuid, 1),
        lambda: beta.containers.delete(mine.uuid),
        lambda: beta.actions.list(mine.uuid),
    ]
    for refused in attempts:
        with pytest.raises(refusals.NotFound):
            refused()
    with pytest.raises(refusals.Forbidden, match="all_projects"):
        beta.containers.list(all_projects=True)

    # The server answers within its project, and not to the other one.
    ask = f"printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 3 {address} 80"
    alpha.containers.run(name="near", image=BUSYBOX, command=["sh", "-c", ask])
    gateway.become("near", "Stopped")
    assert "404 Not Found" in alpha.containers.logs("near", stdout=True, stderr=True)
    far = beta.containers.execute("same", command=f"ping -c 1 -W 1 {address}")
    assert (far["exit_code"], "100% packet loss" in far["output"]) == (1, True)
    gateway.become(mine.uuid, "Running")


def test_an_administrator_sees_all_when_asking_for_it(gateway: Gateway) -> None:
    made = {
        gateway.zun(f"{project}-member").containers.create(name="one", image=BUSYBOX).uuid
        for project in ("alpha", "beta")
    }
    admin = gateway.zun("alpha-admin")
    assert len(admin.containers.list()) == 1
    assert {box.uuid for box in admin.containers.list(all_projects=True)} == made
    assert {box["uuid"] for box in gateway.openstack_json("list", "--all-projects", user="alpha-admin")} == made


def test_an_application_credential(gateway: Gateway) -> None:
    keystone = gateway.keystone
    ident, secret = keystone.application_credential(name=f"for-{gateway.region}", roles=["reader"])
    token = keystone.token_of_credential(ident, secret)
    assert gateway.call("GET", "/v1/containers", token).json() == {"containers": [], "next": None}
    assert gateway.call("POST", "/v1/containers", token, json={"image": BUSYBOX}).status_code == 403


def test_tokens_that_are_not_good(gateway: Gateway) -> None:
    keystone = gateway.keystone
    good = keystone.token()
    assert gateway.call("GET", "/v1/containers", good).status_code == 200
    keystone.revoke(good)
    for token in (good, keystone.unscoped_token(), good[:-10] + "AAAAAAAAAA", "x", "x" * 8000):
        answer = gateway.call("GET", "/v1/containers", token)
        assert (answer.status_code, token and answer.json()["error"]["title"]) == (401, "Unauthorized")
        assert answer.headers["WWW-Authenticate"] == f'Keystone uri="{keystone.url.removesuffix("/v3")}"'
        assert answer.headers["X-Openstack-Request-Id"].startswith("req-")


def test_what_a_client_says_of_itself_does_not_count(gateway: Gateway) -> None:
    claims = {"X-Roles": "admin", "X-Project-Id": "beta", "X-User-Id": "x", "X-Identity-Status": "Confirmed"}
    answer = httpx.get(f"{gateway.url}/v1/containers", headers=claims)
    assert answer.status_code == 401
    token = gateway.keystone.token("alpha-reader")
    assert gateway.call("POST", "/v1/containers", token, json={"image": BUSYBOX}, headers=claims).status_code == 403


def test_keystone_is_down(
    stack: Stack, private_keystone: Callable[..., Keystone], docker_url: str, tmp_path: Path
) -> None:
    """Nobody is let in or turned away then: 503, and all is well again once it is back."""
    keystone = private_keystone()
    with serve(stack, tmp_path, keystone, docker_url, CAISSON_KEYSTONE__TIMEOUT="2") as gateway:
        token = keystone.token()
        assert gateway.call("GET", "/v1/containers", token).status_code == 200
        stack.stop(keystone.service)
        answer = gateway.call("GET", "/v1/containers", token)
        assert answer.status_code == 503
        assert "WWW-Authenticate" not in answer.headers
        assert httpx.get(f"{gateway.url}/healthcheck").status_code == 200


def _address(box: dict[str, dict[str, list[dict[str, str]]]]) -> str:
    ((address,),) = box["addresses"].values()
    return address["addr"]
