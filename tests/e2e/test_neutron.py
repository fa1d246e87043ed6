"""Containers on networks of a real Neutron: ports, addresses, and packets that pass or do not."""

import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.e2e.served import Gateway, serve
from tests.stack import debian
from tests.stack import docker as engines
from tests.stack.images import BUSYBOX
from tests.stack.keystone import Keystone
from tests.stack.neutron import Neutron
from tests.stack.session import Stack

SLEEPER = ("sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.1; done")
SERVER = ("sh", "-c", "trap 'exit 0' TERM; mkdir /w; echo hello > /w/index.html; httpd -f -p 80 -h /w & wait")


@dataclass(frozen=True)
class Cloud:
    """A gateway whose catalogue has `network`, and that Neutron."""

    gateway: Gateway
    neutron: Neutron

    def token(self, user: str = "alpha-member") -> str:
        return self.gateway.keystone.token(user)

    def network(self, cidr: str, user: str = "alpha-member", **subnet: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        return self.neutron.network(self.token(user), f"net-{secrets.token_hex(3)}", cidr, **subnet)

    def run(self, *words: str, user: str = "alpha-member", status: str = "Running", version: str | None = None) -> Any:
        made = self.gateway.openstack_json("run", *words, user=user, version=version)
        return self.gateway.become(made["uuid"], status, user=user)

    def ports(self, uuid: str) -> list[dict[str, Any]]:
        return self.neutron.find(self.token("caisson"), "port", device_id=uuid)

    def inside(self, uuid: str, command: str, user: str = "alpha-member") -> tuple[int, str]:
        body = {"command": command}
        answer = self.gateway.call("POST", f"/v1/containers/{uuid}/execute", self.token(user), params=body)
        said = answer.raise_for_status().json()
        return said["exit_code"], said["output"]

    def reaches(self, uuid: str, address: str, user: str = "alpha-member") -> bool:
        """Whether a page of `address` can be read from within a container."""
        return self.inside(uuid, f"wget -q -T 1 -O - http://{address}/", user) == (0, "hello\n")

    def pings(self, uuid: str, address: str, user: str = "alpha-member") -> bool:
        return self.inside(uuid, f"ping -c 1 -W 1 {address}", user)[0] == 0


@pytest.fixture(scope="module")
def cloud(
    stack: Stack,
    keystone: Keystone,
    neutron: Neutron,
    docker_url: str,
    busybox_image: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Cloud]:
    debian.install(["nft"])
    folder = tmp_path_factory.mktemp("gateway")
    services = {"network": neutron.url}
    with serve(stack, folder, keystone, docker_url, services, CAISSON_GUARD_SECONDS="0.5") as served:
        yield Cloud(served, neutron)
        served.clear()


@pytest.fixture(autouse=True)
def _nothing_left(cloud: Cloud) -> Iterator[None]:
    yield
    cloud.gateway.clear()
    token = cloud.token("caisson")
    left = cloud.neutron.find(token, "port", device_owner=["compute:kuryr", "network:distributed"])
    assert left == []
    with engines.client(cloud.gateway.engine_url) as http:
        networks = http.get("/networks").json()
    assert [network["Name"] for network in networks if network["Name"].startswith("caisson-net-")] == []


def _only(box: Any) -> tuple[str, dict[str, Any]]:
    """The one network and the one address of a container."""
    ((network, (address,)),) = box["addresses"].items()
    return network, address


def test_a_port_comes_and_goes_with_the_container(cloud: Cloud) -> None:
    net, subnet = cloud.network("10.81.0.0/24")
    box = cloud.run("--net", f"network={net['name']}", "--name", "on-net", BUSYBOX, *SLEEPER)
    (port,) = cloud.ports(box["uuid"])
    assert (port["device_owner"], port["project_id"]) == ("compute:kuryr", box["project_id"])
    assert port["binding:host_id"]
    assert box["addresses"] == {
        net["id"]: [
            {
                "addr": port["fixed_ips"][0]["ip_address"],
                "version": 4,
                "port": port["id"],
                "subnet_id": subnet["id"],
                "preserve_on_delete": False,
            }
        ]
    }
    assert box["security_groups"] == port["security_groups"]
    _, said = cloud.inside(box["uuid"], "ip address show eth0")
    assert port["fixed_ips"][0]["ip_address"] in said
    assert port["mac_address"] in said
    cloud.gateway.openstack("delete", "--force", "on-net", user="alpha-admin")
    cloud.gateway.become(box["uuid"], "Gone")
    assert cloud.ports(box["uuid"]) == []


def test_a_capsules_sandbox_has_the_port(cloud: Cloud) -> None:
    """On the project's default network; another container reaches a member there, and the port goes with it."""
    cloud.network("10.87.0.0/24")
    token = cloud.token()
    entry = {"image": BUSYBOX, "command": list(SERVER), "ports": [{"containerPort": 80}]}
    body = {"template": {"kind": "capsule", "metadata": {"name": "on-net"}, "spec": {"containers": [entry]}}}
    made = cloud.gateway.call("POST", "/v1/capsules", token, json=body).raise_for_status().json()
    path = f"/v1/capsules/{made['uuid']}"
    cloud.gateway.until(lambda: cloud.gateway.call("GET", path, token).json()["status"] == "Running")
    pod = cloud.gateway.call("GET", path, token).json()
    (port,) = cloud.ports(made["uuid"])
    network, address = _only(pod)
    assert (network, address["port"]) == (port["network_id"], port["id"])
    assert address["addr"] == port["fixed_ips"][0]["ip_address"]
    friend = cloud.run("--net", f"network={network}", BUSYBOX, *SLEEPER)
    ask = f"sh -c \"echo 'GET / HTTP/1.0' | nc -w 1 {address['addr']} 80\""
    cloud.gateway.until(lambda: "hello" in cloud.inside(friend["uuid"], ask)[1])
    assert cloud.gateway.call("DELETE", path, token).status_code == 204
    cloud.gateway.until(lambda: cloud.gateway.call("GET", path, token).status_code == 404)
    assert cloud.ports(made["uuid"]) == []
