"""Containers that take what they can get: each is held to its limits, and the gateway goes on serving others."""

from collections.abc import Iterator

import pytest

from tests.e2e.served import Gateway, serve
from tests.stack.images import BUSYBOX
from tests.stack.keystone import Keystone
from tests.stack.session import Stack

PROCESSES, LOG_MIB = 48, 1
FORKS = "(while :; do (sleep 1000 &); done) 2>/dev/null & exec sleep 1000"
MEMORY = "sleep 2; exec dd if=/dev/zero of=/dev/null bs=128M count=1"  # dd writes to all of its block
LOG = f"exec yes {'x' * 1000}"


@pytest.fixture(scope="module")
def gateway(
    stack: Stack, keystone: Keystone, docker_url: str, busybox_image: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    """A gateway that gives little."""
    limits = {"CAISSON_PIDS_LIMIT": str(PROCESSES), "CAISSON_LOG_MAX_MIB": str(LOG_MIB)}
    with serve(stack, tmp_path_factory.mktemp("gateway"), keystone, docker_url, None, **limits) as served:
        yield served
        served.clear()


def test_who_takes_all_gets_his_share_and_others_theirs(gateway: Gateway) -> None:
    token = gateway.keystone.token("alpha-member")
    hogs = {}
    for name, command in (("forks", FORKS), ("memory", MEMORY), ("log", LOG)):
        wish = {"name": name, "image": BUSYBOX, "command": ["sh", "-c", command], "cpu": 0.2, "memory": 32}
        made = gateway.call("POST", "/v1/containers?run=true", token, json=wish).raise_for_status()
        hogs[name] = made.json()["uuid"]

    def processes() -> int:
        answer = gateway.call("GET", f"/v1/containers/{hogs['forks']}/top", token)
        return len(answer.raise_for_status().json()["Processes"])

    gateway.become("forks", "Running")
    gateway.until(lambda: processes() >= PROCESSES - 4)
    assert processes() <= PROCESSES
    # There is room for no further process in it: that is said, and is nobody's failure but the container's.
    said = gateway.call("POST", f"/v1/containers/{hogs['forks']}/execute", token, params={"command": "true"})
    assert said.status_code in (200, 409), said.text

    ended = gateway.become("memory", "Stopped")
    assert "out of memory (limit 32 MiB)" in ended["status_reason"]

    gateway.become("log", "Running")
    where = f"/v1/containers/{hogs['log']}/logs"

    def written() -> int:
        return len(gateway.call("GET", where, token, params={"stdout": "true"}).raise_for_status().content)

    gateway.until(lambda: written() > LOG_MIB * 1024 * 1024 // 3)
    assert written() <= LOG_MIB * 1024 * 1024

    # Meanwhile somebody else makes a container, uses it, and is rid of it.
    other = gateway.zun("beta-member")
    mine = other.containers.run(name="well", image=BUSYBOX, command=["sleep", "1000"])
    gateway.become("well", "Running", user="beta-member")
    assert other.containers.execute("well", command="echo hello")["output"] == "hello\n"
    other.containers.delete("well", stop=True)
    gateway.become(mine.uuid, "Gone", user="beta-member")
    assert gateway.call("GET", "/readyz", token).json()["status"] == "ok"
    for uuid in hogs.values():
        gateway.call("DELETE", f"/v1/containers/{uuid}", token, params={"stop": "true"}).raise_for_status()
        gateway.become(uuid, "Gone")
