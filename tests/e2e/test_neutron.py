"""Containers on networks of a real Neutron: ports, addresses, and packets that pass or do not."""

import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from tests.e2e import served
from tests.e2e.served import CommandError, Gateway, serve
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

    def start(
        self, user: str = "alpha-member", command: tuple[str, ...] = SERVER, status: str = "Running", **body: Any
    ) -> Any:
        """A container that serves a page, once it has this status."""
        wish = {"image": BUSYBOX, "command": list(command), **body}
        made = self.gateway.call("POST", "/v1/containers?run=true", self.token(user), json=wish)
        assert made.status_code < 300, made.text
        return self.gateway.become(made.json()["uuid"], status, user=user)

    def refused(self, user: str = "alpha-member", **body: Any) -> tuple[int, str]:
        """How a container is refused: the status and the sentence."""
        answer = self.gateway.call("POST", "/v1/containers", self.token(user), json={"image": BUSYBOX, **body})
        return answer.status_code, answer.json()["errors"][0]["title"]

    def act(self, method: str, uuid: str, verb: str, user: str = "alpha-member", **query: str) -> httpx.Response:
        return self.gateway.call(method, f"/v1/containers/{uuid}/{verb}", self.token(user), params=query)

    def group(self, *rules: Mapping[str, Any], user: str = "alpha-member") -> str:
        """A security group with these rules for what comes in, beside what all have for what goes out."""
        token = self.token(user)
        made: str = self.neutron.create(token, "security-group", name=f"g-{secrets.token_hex(3)}")["id"]
        for rule in rules:
            self.rule(made, user=user, **rule)
        return made

    def rule(self, group: str, user: str = "alpha-member", **fields: Any) -> str:
        wish = {"direction": "ingress", "ethertype": "IPv4", "security_group_id": group, **fields}
        made: str = self.neutron.create(self.token(user), "security-group-rule", **wish)["id"]
        return made

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
        get = f"printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 1 {address} 80"
        return "hello" in self.inside(uuid, f'sh -c "{get}"', user)[1]

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
    with serve(stack, folder, keystone, docker_url, services, CAISSON_GUARD_SECONDS="0.5") as gateway:
        yield Cloud(gateway, neutron)
        gateway.clear()


@pytest.fixture(autouse=True)
def _nothing_left(cloud: Cloud) -> Iterator[None]:
    yield
    cloud.gateway.clear()
    token = cloud.token("caisson")
    left = cloud.neutron.find(token, "port", device_owner=["compute:kuryr", "network:distributed"])
    # Other tests have containers on this Neutron in their own project meanwhile.
    theirs = cloud.gateway.keystone.describe(cloud.token("faults-admin"))["project"]["id"]
    assert [port for port in left if port["project_id"] != theirs] == []
    known = {net["id"] for net in cloud.neutron.find(token, "network") if net["project_id"] != theirs}
    with engines.client(cloud.gateway.engine_url) as http:
        labels = [net["Labels"] or {} for net in http.get("/networks").json()]
    assert [one["caisson.network"] for one in labels if one.get("caisson.network") in known] == []


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


HTTP: Mapping[str, Any] = {"protocol": "tcp", "port_range_min": 80, "port_range_max": 80}


def test_only_what_a_rule_names_passes(cloud: Cloud) -> None:
    """And what is taken back stops, also for a conversation that goes on."""
    net, _ = cloud.network("10.82.0.0/24")
    nets = [{"network": net["id"]}]
    group = cloud.group()
    server = cloud.start(nets=nets, security_groups=[group])
    assert server["security_groups"] == [group]
    client = cloud.start(nets=nets)
    address = _only(server)[1]["addr"]
    assert not cloud.reaches(client["uuid"], address)
    assert not cloud.pings(client["uuid"], address)
    rule = cloud.rule(group, **HTTP)
    cloud.gateway.until(lambda: cloud.reaches(client["uuid"], address))
    assert not cloud.pings(client["uuid"], address)
    # What goes out of the server is answered, though nothing may come in to it.
    cloud.rule(client["security_groups"][0], protocol="icmp")
    cloud.gateway.until(lambda: cloud.pings(server["uuid"], _only(client)[1]["addr"]))
    assert not cloud.pings(client["uuid"], address)
    cloud.neutron.call("DELETE", f"/security-group-rules/{rule}", cloud.token())
    cloud.gateway.until(lambda: not cloud.reaches(client["uuid"], address))


def test_members_of_a_group_reach_each_other(cloud: Cloud) -> None:
    """The default group's own rule, and one for another group; the rules stay right when a container starts anew."""
    net, _ = cloud.network("10.83.0.0/24")
    nets = [{"network": net["id"]}]
    first, second = cloud.start(nets=nets), cloud.start(nets=nets)
    address = _only(first)[1]["addr"]
    assert cloud.reaches(second["uuid"], address)
    strangers = cloud.group()
    third = cloud.start(nets=nets, security_groups=[strangers])
    assert not cloud.reaches(third["uuid"], address)
    cloud.rule(first["security_groups"][0], remote_group_id=strangers, **HTTP)
    cloud.gateway.until(lambda: cloud.reaches(third["uuid"], address))
    assert cloud.act("POST", first["uuid"], "reboot", timeout="1").status_code == 202
    cloud.gateway.become(first["uuid"], "Running")
    cloud.gateway.until(lambda: cloud.reaches(third["uuid"], address))
    # The engine starts it by itself: another interface, which nobody has told of.
    with engines.client(cloud.gateway.engine_url) as http:
        http.post(f"/containers/caisson-{first['uuid']}/restart", params={"t": 1}).raise_for_status()
    cloud.gateway.until(lambda: cloud.reaches(third["uuid"], address))


def test_nobody_speaks_with_a_foreign_address(cloud: Cloud) -> None:
    """A container may forge packets; none of them arrives."""
    net, _ = cloud.network("10.84.0.0/24")
    nets = [{"network": net["id"]}]
    everything = cloud.group({"protocol": None})
    victim, liar = (cloud.start(nets=nets, security_groups=[everything]) for _ in range(2))
    address = _only(victim)[1]["addr"]
    assert cloud.reaches(liar["uuid"], address)
    with engines.client(cloud.gateway.engine_url) as http:
        pid = http.get(f"/containers/caisson-{liar['uuid']}/json").json()["State"]["Pid"]
    # By the host, since the container itself has no right to change its addresses.
    inside = ["nsenter", f"--net=/proc/{pid}/ns/net"]
    served.run([*inside, "ip", "address", "add", "10.84.0.250/24", "dev", "eth0"], {})
    probe = [*inside, str(debian.program("busybox")), "ping", "-c", "1", "-W", "1", "-I", "10.84.0.250", address]
    with pytest.raises(CommandError):
        served.run(probe, {})
    # With its own address the same probe passes.
    served.run([*probe[:-3], "-I", _only(liar)[1]["addr"], address], {})


def test_a_users_port_is_bound_and_freed(cloud: Cloud) -> None:
    net, subnet = cloud.network("10.85.0.0/24")
    fixed = [{"subnet_id": subnet["id"], "ip_address": "10.85.0.77"}]
    port = cloud.neutron.create(cloud.token(), "port", network_id=net["id"], name="mine", fixed_ips=fixed)
    box = cloud.start(nets=[{"port": port["id"]}])
    network, address = _only(box)
    assert (network, address["addr"], address["port"]) == (net["id"], "10.85.0.77", port["id"])
    assert address["preserve_on_delete"] is True
    (bound,) = cloud.ports(box["uuid"])
    assert (bound["id"], bound["device_owner"]) == (port["id"], "compute:kuryr")
    assert cloud.refused(nets=[{"port": port["id"]}]) == (400, f"Port {port['id']} is in use.")
    assert cloud.refused("beta-member", nets=[{"port": port["id"]}])[0] == 404
    theirs = cloud.neutron.create(cloud.token("alpha-admin"), "port", network_id=net["id"])
    status, sentence = cloud.refused("beta-admin", nets=[{"port": theirs["id"]}])
    assert status == 400
    assert "another project" in sentence
    cloud.gateway.clear()
    (freed,) = cloud.neutron.find(cloud.token("caisson"), "port", id=port["id"])
    assert (freed["device_id"], freed["device_owner"], freed["binding:host_id"]) == ("", "", "")


def test_the_default_network_is_the_oldest_own_one(cloud: Cloud) -> None:
    """Beta has none of its own at first."""
    assert cloud.refused("beta-member")[0] == 409
    shared, _ = cloud.neutron.network(cloud.token("alpha-admin"), "for-all", "10.86.0.0/24")
    share = {"network": {"shared": True}}
    cloud.neutron.call("PUT", f"/networks/{shared['id']}", cloud.token("alpha-admin"), json=share)
    assert _only(cloud.start("beta-member"))[0] == shared["id"]
    own, _ = cloud.network("10.87.0.0/24", "beta-member")
    # Neutron tells times by the second.
    cloud.gateway.until(lambda: datetime.now(UTC) - datetime.fromisoformat(own["created_at"]) >= timedelta(seconds=1))
    cloud.network("10.88.0.0/24", "beta-member")
    assert _only(cloud.start("beta-member"))[0] == own["id"]


def test_what_cannot_be_is_refused(cloud: Cloud) -> None:
    net, subnet = cloud.network("10.89.0.0/24")
    ident = net["id"]
    assert cloud.refused("beta-member", nets=[{"network": ident}])[0] == 404
    assert cloud.refused(nets=[{"network": "no-such"}])[0] == 404
    assert cloud.refused(nets=[{"port": "no-such"}])[0] == 404
    assert cloud.refused(nets=[{"network": ident, "v4-fixed-ip": "10.1.1.1"}])[0] == 400
    assert cloud.refused(nets=[{"network": ident, "v4-fixed-ip": "fd00::1"}])[0] == 400
    assert cloud.refused(nets=[{"network": ident}, {"network": ident}])[0] == 400
    assert cloud.refused(security_groups=["no-such"])[0] == 400
    empty = cloud.neutron.create(cloud.token(), "network", name="empty")
    assert cloud.refused(nets=[{"network": "empty"}])[0] == 400
    cloud.neutron.create(cloud.token(), "network", name="empty")
    assert cloud.refused(nets=[{"network": "empty"}])[0] == 409
    outer, _ = cloud.neutron.network(cloud.token("admin"), "outer", "10.90.0.0/24")
    external = {"network": {"router:external": True}}
    cloud.neutron.call("PUT", f"/networks/{outer['id']}", cloud.token("admin"), json=external)
    status, sentence = cloud.refused(nets=[{"network": outer["id"]}])
    assert (status, "network:attach_external_network" in sentence) == (403, True)
    assert cloud.neutron.find(cloud.token(), "subnet", id=subnet["id"])
    assert empty


def test_overlapping_addresses_are_refused_before_anything_is_stored(cloud: Cloud) -> None:
    """The second of two networks on one host; it names the first one to those only who may see it."""
    first, _ = cloud.network("10.96.0.0/22")
    second, _ = cloud.network("10.96.2.0/24")
    theirs, _ = cloud.network("10.96.3.0/24", "beta-member")
    free, _ = cloud.network("10.97.0.0/24", "beta-member")
    nets = [{"network": first["id"]}, {"network": second["id"]}]
    assert cloud.refused(nets=nets)[0] == 409
    cloud.start(nets=nets[:1])
    status, sentence = cloud.refused(nets=nets[1:])
    assert status == 409
    assert f"10.96.2.0/24 overlap 10.96.0.0/22 of the network {first['id']}" in sentence
    status, sentence = cloud.refused("beta-member", nets=[{"network": theirs["id"]}])
    assert status == 409
    assert "10.96.3.0/24 overlap" in sentence
    assert not any(word in sentence for word in ("10.96.0.0", first["id"]))
    box = cloud.start("beta-member", nets=[{"network": free["id"]}])
    attach = cloud.act("POST", box["uuid"], "network_attach", "beta-member", network=theirs["id"])
    assert (attach.status_code, "10.96.3.0/24 overlap" in attach.text) == (409, True)
    made = cloud.gateway.call(
        "POST", "/v1/networks", cloud.token("alpha-admin"), json={"neutron_net_id": second["id"], "name": "second"}
    )
    assert (made.status_code, "10.96.2.0/24 overlap" in made.text) == (409, True)
    assert len(cloud.gateway.call("GET", "/v1/containers", cloud.token("beta-member")).json()["containers"]) == 1


def test_addresses_that_a_host_may_need_itself_are_refused(cloud: Cloud) -> None:
    """Whoever makes a network would else get what the host sends there."""
    public, _ = cloud.network("8.8.8.0/24")
    status, sentence = cloud.refused(nets=[{"network": public["id"]}])
    assert (status, "8.8.8.0/24" in sentence, "wire_ranges" in sentence) == (400, True, True)
    link = f"own-{secrets.token_hex(4)}"
    served.run(["ip", "link", "add", link, "type", "bridge"], {})
    try:
        for words in (["address", "add", "10.95.1.1/16", "dev", link], ["link", "set", link, "up"]):
            served.run(["ip", *words], {})
        taken, _ = cloud.network("10.95.2.0/24")
        status, sentence = cloud.refused(nets=[{"network": taken["id"]}])
        assert (status, "10.95.2.0/24 overlap" in sentence) == (409, True)
    finally:
        served.run(["ip", "link", "delete", link], {})
    assert cloud.start(nets=[{"network": taken["id"]}])


def test_an_administrators_network_is_neutrons(cloud: Cloud) -> None:
    """It is there before the first container, and stays when the last one goes."""
    admin = cloud.token("alpha-admin")

    def post(ident: str) -> httpx.Response:
        return cloud.gateway.call("POST", "/v1/networks", admin, json={"name": "lab", "neutron_net_id": ident})

    assert post("no-such-network").status_code == 404
    empty = cloud.neutron.create(admin, "network", name="without-subnet")
    answer = post(empty["id"])
    assert (answer.status_code, "has no subnet" in answer.text) == (400, True)
    net, _ = cloud.network("10.98.0.0/24", gateway_ip=None)
    made = post(net["id"]).raise_for_status().json()
    assert (made["neutron_net_id"], made["name"]) == (net["id"], "lab")
    assert post(net["id"]).status_code == 409

    def subnets() -> list[str]:
        with engines.client(cloud.gateway.engine_url) as http:
            answer = http.get(f"/networks/{made['network_id']}")
        return [one["Subnet"] for one in answer.json()["IPAM"]["Config"]] if answer.status_code == 200 else []

    assert subnets() == ["10.98.0.0/24"]
    box = cloud.start(nets=[{"network": net["id"]}])
    with engines.client(cloud.gateway.engine_url) as http:
        places = http.get(f"/containers/caisson-{box['uuid']}/json").json()["NetworkSettings"]["Networks"]
    assert list(places) == [made["network_id"]]
    cloud.gateway.clear()
    assert subnets() == ["10.98.0.0/24"]
    box = cloud.start(nets=[{"network": net["id"]}])
    path = f"/v1/networks/{net['id']}"
    assert cloud.gateway.call("DELETE", path, admin).status_code == 204
    assert cloud.gateway.call("DELETE", path, admin).status_code == 404
    assert subnets() == ["10.98.0.0/24"]
    cloud.gateway.clear()
    assert subnets() == []


def test_security_groups_are_added_and_removed(cloud: Cloud) -> None:
    """Until microversion 1.14; what changes is seen by packets, and by the ports in Neutron."""
    net, _ = cloud.network("10.99.0.0/24")
    nets = [{"network": net["id"]}]
    own, web = cloud.group(), cloud.group(HTTP)
    server, client = cloud.start(nets=nets, security_groups=[own]), cloud.start(nets=nets)
    address = _only(server)[1]["addr"]
    assert not cloud.reaches(client["uuid"], address)

    def change(verb: str, name: str, version: str, user: str = "alpha-member") -> httpx.Response:
        path, headers = f"/v1/containers/{server['uuid']}/{verb}", {"OpenStack-API-Version": f"container {version}"}
        return cloud.gateway.call("POST", path, cloud.token(user), params={"name": name}, headers=headers)

    def groups() -> list[str]:
        (port,) = cloud.ports(server["uuid"])
        return sorted(port["security_groups"])

    assert change("add_security_group", web, "1.15").status_code == 406
    assert change("add_security_group", "no-such", "1.14").status_code == 400
    for version in ("1.14", "1.1"):
        assert change("add_security_group", web, version).status_code == 202
        shown = cloud.gateway.become(server["uuid"], "Running", also=lambda box: web in box["security_groups"])
        assert shown["security_groups"] == [own, web]
        assert groups() == sorted([own, web])
        cloud.gateway.until(lambda: cloud.reaches(client["uuid"], address))
        assert change("remove_security_group", web, version).status_code == 202
        shown = cloud.gateway.become(server["uuid"], "Running", also=lambda box: web not in box["security_groups"])
        assert shown["security_groups"] == groups() == [own]
        cloud.gateway.until(lambda: not cloud.reaches(client["uuid"], address))


def test_networks_are_attached_listed_and_detached(cloud: Cloud) -> None:
    """By the real command; a container on two networks has Neutron's addresses on both."""
    first, _ = cloud.network("10.91.0.0/24")
    second, _ = cloud.network("10.92.0.0/24", gateway_ip=None)
    box = cloud.start(nets=[{"network": first["id"], "v4-fixed-ip": "10.91.0.50"}], security_groups=[cloud.group(HTTP)])
    assert _only(box)[1]["addr"] == "10.91.0.50"
    again = cloud.act("POST", box["uuid"], "network_attach", network=first["name"])
    assert (again.status_code, "already attached" in again.text) == (400, True)
    words = ("--network", second["name"], "--fixed-ip", "10.92.0.60", box["uuid"])
    cloud.gateway.openstack("network attach", *words)
    cloud.gateway.become(box["uuid"], "Running", also=lambda box: second["id"] in box["addresses"])
    # Not by the command, whose own `network list` fails in the client.
    listed = cloud.act("GET", box["uuid"], "network_list").text
    assert all(text in listed for text in (first["id"], "10.91.0.50", second["id"], "10.92.0.60"))
    for port in cloud.ports(box["uuid"]):
        _, said = cloud.inside(box["uuid"], "ip address show")
        assert port["mac_address"] in said
        assert port["fixed_ips"][0]["ip_address"] in said
    peer = cloud.start(nets=[{"network": second["id"]}])
    cloud.gateway.until(lambda: cloud.reaches(peer["uuid"], "10.92.0.60"))
    cloud.gateway.openstack("network detach", "--network", first["name"], box["uuid"])
    left = cloud.gateway.become(box["uuid"], "Running", also=lambda box: first["id"] not in box["addresses"])
    assert _only(left)[0] == second["id"]
    assert [port["network_id"] for port in cloud.ports(box["uuid"])] == [second["id"]]
    gone = cloud.act("POST", box["uuid"], "network_detach", network=first["id"])
    assert (gone.status_code, "not attached" in gone.text) == (400, True)
    cloud.act("POST", box["uuid"], "reboot", timeout="1")
    cloud.gateway.become(box["uuid"], "Running")
    cloud.gateway.until(lambda: cloud.reaches(peer["uuid"], "10.92.0.60"))


def test_exposed_ports_open_a_group_of_their_own(cloud: Cloud) -> None:
    net, _ = cloud.network("10.93.0.0/24")
    nets = [{"network": net["id"]}]
    box = cloud.start(nets=nets, exposed_ports={"80/tcp": {}})
    (group,) = box["security_groups"]
    (shown,) = cloud.neutron.find(cloud.token(), "security-group", id=group)
    assert shown["name"] == f"zun-{box['uuid']}"
    peer = cloud.start(nets=nets)
    assert cloud.reaches(peer["uuid"], _only(box)[1]["addr"])
    assert not cloud.pings(peer["uuid"], _only(box)[1]["addr"])
    cloud.gateway.clear()
    assert cloud.neutron.find(cloud.token(), "security-group", id=group) == []


def test_both_versions_of_ip(cloud: Cloud) -> None:
    net, _ = cloud.network("10.94.0.0/24")
    cloud.neutron.create(cloud.token(), "subnet", network_id=net["id"], cidr="fd00:94::/64", ip_version=6)
    nets = [{"network": net["id"]}]
    group = cloud.group({**HTTP, "ethertype": "IPv6"})
    server, client = (cloud.start(nets=nets, security_groups=[group]) for _ in range(2))
    (addresses,) = server["addresses"].values()
    assert {address["version"] for address in addresses} == {4, 6}
    assert len({address["port"] for address in addresses}) == 1
    four, six = (next(a["addr"] for a in addresses if a["version"] == version) for version in (4, 6))
    assert cloud.reaches(client["uuid"], six)
    assert not cloud.reaches(client["uuid"], four)


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
