"""Why a container is not what was wished: the engine's own words, in `status_reason`."""

import re
from typing import Any

import pytest

from tests.e2e.served import Gateway
from tests.stack import docker
from tests.stack.images import BUSYBOX
from tests.stack.registry import Registry
from tests.stack.session import free_port


@pytest.fixture
def zun(gateway: Gateway) -> Any:
    """The client of a member of project alpha."""
    return gateway.zun()


def test_an_image_that_its_registry_does_not_have(gateway: Gateway, zun: Any, registry: Registry) -> None:
    zun.containers.run(name="unknown", image=f"{registry.host}/no/such:1", command=["true"])
    assert "not found: manifest unknown" in gateway.become("unknown", "Error")["status_reason"]


def test_a_registry_that_is_not_there(gateway: Gateway, zun: Any) -> None:
    zun.containers.run(name="nowhere", image=f"127.0.0.1:{free_port()}/no/such:1", command=["true"])
    assert "connection refused" in gateway.become("nowhere", "Error")["status_reason"]


def test_an_image_that_may_not_be_pulled(gateway: Gateway) -> None:
    gateway.zun("alpha-admin").containers.run(name="never", image="no-such-image:1", image_pull_policy="never")
    assert "pull policy is never" in gateway.become("never", "Error")["status_reason"]


def test_an_unknown_command(gateway: Gateway, zun: Any) -> None:
    zun.containers.run(name="unknown", image=BUSYBOX, command=["no-such-command"])
    seen = gateway.become("unknown", "Error")
    assert '"no-such-command": executable file not found in $PATH' in seen["status_reason"]
    (action,) = zun.actions.list("unknown")
    assert "executable file not found" in action.message


def test_out_of_memory(gateway: Gateway, zun: Any) -> None:
    # tail keeps what it has read until there is a line's end, which never comes.
    zun.containers.run(name="hungry", image=BUSYBOX, memory="16", command=["sh", "-c", "cat /dev/zero | tail"])
    seen = gateway.become("hungry", "Stopped", also=lambda box: box["status_reason"] is not None)
    assert re.match(
        # The latter when Docker lost the kernel's word for it.
        r"(OOMKilled: the container|Killed by signal 9, not by a request here: it) ran out of memory \(limit 16 MiB\)",
        seen["status_reason"],
    )


def test_a_port_that_is_taken(gateway: Gateway) -> None:
    admin = gateway.zun("alpha-admin")
    wish = {"80/tcp": {"host_port": free_port()}}
    server = ["httpd", "-f", "-p", "80"]
    admin.containers.run(name="first", image=BUSYBOX, command=server, exposed_ports=wish)
    gateway.become("first", "Running")
    admin.containers.run(name="second", image=BUSYBOX, command=server, exposed_ports=wish)
    seen = gateway.become("second", "Error")
    assert re.search(r"port is already allocated|address already in use", seen["status_reason"])


def test_ports_of_the_host_are_for_administrators(gateway: Gateway, zun: Any) -> None:
    with pytest.raises(Exception, match="container:create:host_port"):
        zun.containers.run(image=BUSYBOX, exposed_ports={"80/tcp": {"host_port": free_port()}})
    assert zun.containers.list() == []


def test_a_reason_goes_when_it_no_longer_holds(gateway: Gateway) -> None:
    """A port that is free again lets the same container start."""
    admin = gateway.zun("alpha-admin")
    wish = {"80/tcp": {"host_port": free_port()}}
    server = ["httpd", "-f", "-p", "80"]
    admin.containers.run(name="first", image=BUSYBOX, command=server, exposed_ports=wish)
    gateway.become("first", "Running")
    admin.containers.run(name="second", image=BUSYBOX, command=server, exposed_ports=wish)
    gateway.become("second", "Error")
    admin.containers.kill("first")
    gateway.become("first", "Stopped")
    admin.containers.start("second")
    assert gateway.become("second", "Running")["status_reason"] is None


def test_a_container_that_is_removed_behind_our_back(gateway: Gateway, zun: Any) -> None:
    made = zun.containers.run(name="stolen", image=BUSYBOX, command=["sleep", "600"])
    gateway.become("stolen", "Running")
    with docker.client(gateway.engine_url) as http:
        http.delete(f"/containers/caisson-{made.uuid}", params={"force": "true"}).raise_for_status()
    assert "No such container" in gateway.become("stolen", "Error")["status_reason"]
