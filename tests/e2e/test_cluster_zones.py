"""Containers in a cluster, by OpenStack's own command: the cluster is made by it, and is an availability zone then."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.leaks import leaks
from tests.e2e.served import CommandError, Gateway, serve
from tests.stack.images import BUSYBOX
from tests.stack.keystone import Keystone
from tests.stack.session import Stack

pytestmark = pytest.mark.timeout(600)  # commands of OpenStack take seconds each

SLEEPER = ("sh", "-c", "trap 'exit 0' TERM; echo started; while :; do sleep 0.1; done")
FLAVORS = {"node": {"cpus": 2, "memory": 2048}}


@pytest.fixture(scope="module")
def gateway(
    stack: Stack,
    keystone: Keystone,
    docker_url: str,
    busybox_image: str,
    swarm_image: str,
    kubernetes_image: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Gateway]:
    """A gateway that makes clusters on the real engine."""
    node_images = {
        "swarm-node": {"os_distro": "debian", "image": swarm_image},
        "kubernetes-node": {"os_distro": "debian", "image": kubernetes_image},
    }
    with serve(
        stack,
        tmp_path_factory.mktemp("gateway"),
        keystone,
        docker_url,
        CAISSON_CLUSTERS__IMAGES=json.dumps(node_images),
        CAISSON_CLUSTERS__FLAVORS=json.dumps(FLAVORS),
    ) as served:
        yield served
        for row in coe(served, "list"):  # of a test that failed
            remove(served, row["name"])


def coe(gateway: Gateway, *words: str, user: str = "alpha-member") -> Any:
    """What ``openstack coe cluster WORDS…`` prints as JSON."""
    printed = gateway.command("coe", "cluster", *words, "-f", "json", user=user)
    return json.loads(re.sub(r"^Request to create .* accepted\n", "", printed))


def cluster(gateway: Gateway, name: str, kind: str) -> None:
    """Makes a cluster of two nodes, and waits for it."""
    coe(
        gateway, "template", "create", kind, "--coe", kind, "--image", f"{kind.partition('-')[0]}-node",
        "--external-network", "public", "--flavor", "node", "--master-flavor", "node",
    )  # fmt: skip
    gateway.command("coe", "cluster", "create", name, "--cluster-template", kind, "--node-count", "1")

    def complete() -> bool:
        shown = coe(gateway, "show", name)
        assert shown["status"] != "CREATE_FAILED", shown["status_reason"]
        return bool(shown["status"] == "CREATE_COMPLETE")

    gateway.until(complete)


def remove(gateway: Gateway, name: str) -> None:
    """Deletes a cluster, and waits until it is gone."""
    gateway.command("coe", "cluster", "delete", name)
    gateway.until(lambda: name not in [row["name"] for row in coe(gateway, "list")])


def live(gateway: Gateway, zone: str) -> None:
    """A container's life in that zone, command by command."""
    made = gateway.openstack_json("run", "--name", "inside", "--availability-zone", zone, BUSYBOX, *SLEEPER)
    assert made["status"] == "Creating"
    gateway.become("inside", "Running")
    (listed,) = gateway.openstack_json("list")
    assert (listed["uuid"], listed["name"], listed["status"]) == (made["uuid"], "inside", "Running")
    shown = gateway.openstack_json("show", "inside")
    assert (shown["image"], shown["status"], shown["status_reason"]) == (BUSYBOX, "Running", None)
    gateway.until(lambda: gateway.openstack("logs", "inside").strip() == "started")
    assert "hello" in gateway.openstack("exec", "inside", "echo", "hello")
    gateway.openstack("stop", "--timeout", "5", "inside")
    gateway.become("inside", "Stopped")
    assert "started\n" in gateway.openstack("logs", "inside")
    gateway.openstack("start", "inside")
    gateway.become("inside", "Running")
    ended = gateway.openstack_json("run", "--availability-zone", zone, BUSYBOX, "sh", "-c", "echo over; exit 3")
    gateway.become(ended["uuid"], "Stopped", also=lambda box: "Exited(3)" in (box["status_detail"] or ""))
    assert gateway.openstack("logs", ended["uuid"]).strip() == "over"
    wrong = gateway.openstack_json("run", "--availability-zone", zone, BUSYBOX, "no-such-command")
    refused = gateway.become(wrong["uuid"], "Error")
    assert "no-such-command" in refused["status_reason"]
    gateway.openstack("pause", "inside")  # the client tells of the 501, and ends well
    assert gateway.openstack_json("show", "inside")["status"] == "Running"
    for ident in (ended["uuid"], wrong["uuid"]):
        gateway.openstack("delete", ident)
        gateway.become(ident, "Gone")
    gateway.openstack("delete", "--stop", "inside")
    gateway.become(made["uuid"], "Gone")


def test_a_swarm_is_a_zone_of_its_project(gateway: Gateway) -> None:
    cluster(gateway, "demo", "swarm-mode")
    zones = [row["availability_zone"] for row in gateway.openstack_json("availability zone list")]
    assert zones == ["nova", "cluster:demo"]
    others = gateway.openstack_json("availability zone list", user="beta-member")
    assert [row["availability_zone"] for row in others] == ["nova"]
    with pytest.raises(CommandError, match=r"cluster:demo could not be found"):
        gateway.openstack("run", "--availability-zone", "cluster:demo", BUSYBOX, "true", user="beta-member")
    live(gateway, "cluster:demo")
    assert leaks(gateway) == []
    # With the cluster goes what is in it, and nothing is stuck.
    left = gateway.openstack_json("run", "--availability-zone", "cluster:demo", BUSYBOX, *SLEEPER)
    gateway.become(left["uuid"], "Running")
    remove(gateway, "demo")
    lost = gateway.become(left["uuid"], "Error")
    assert lost["status_reason"] == "its cluster was deleted"
    gateway.openstack("delete", left["uuid"])
    gateway.become(left["uuid"], "Gone")


def test_so_is_a_cluster_of_kubernetes(gateway: Gateway) -> None:
    cluster(gateway, "kube", "kubernetes")
    live(gateway, "cluster:kube")
    assert leaks(gateway) == []
    remove(gateway, "kube")
