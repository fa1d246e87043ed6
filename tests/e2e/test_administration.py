"""What administrators do with OpenStack's own command: quotas, hosts and services; and networks of a container."""

from typing import Any

import pytest

from tests.e2e.served import CommandError, Gateway
from tests.stack.images import BUSYBOX

ADMIN = "alpha-admin"
LIMITS = {"containers": 40, "cpu": 20, "disk": 100, "memory": 51200}


def whole(gateway: Gateway, verb: str, *words: str, user: str = ADMIN) -> Any:
    """The answer of a command without the client's own columns."""
    shown = gateway.openstack_json(verb, *words, user=user)
    return {key.lower(): value for key, value in shown.items()} if isinstance(shown, dict) else shown


def test_quotas(gateway: Gateway) -> None:
    made = gateway.openstack_json("create", "--name", "counted", "--cpu", "0.5", "--memory", "64", BUSYBOX)
    project = made["project_id"]
    assert whole(gateway, "quota default", project, user="alpha-member") == LIMITS
    changed = whole(gateway, "quota update", "--containers", "1", "--memory", "-1", project)
    assert changed == LIMITS | {"containers": 1, "memory": -1}
    try:
        shown = whole(gateway, "quota get", "--usages", project, user="alpha-member")
        assert (shown["containers"], shown["cpu"]) == ({"limit": 1, "in_use": 1}, {"limit": 20, "in_use": 0.5})
        with pytest.raises(CommandError, match=r"Quota exceeded for resources: containers \(limit 1, in use 1"):
            gateway.openstack("create", "--name", "refused", BUSYBOX)
        with pytest.raises(CommandError, match=r"quota:update .*\(HTTP 403\)"):
            gateway.openstack("quota update", "--containers", "9", project)
    finally:
        assert "has been accepted" in gateway.openstack("quota delete", project, user=ADMIN)
    assert whole(gateway, "quota get", project) == LIMITS
    assert whole(gateway, "quota class update", "--disk", "7", "lab") == LIMITS | {"disk": 7}
    assert whole(gateway, "quota class get", "lab") == LIMITS | {"disk": 7}


def test_hosts_and_services(gateway: Gateway) -> None:
    (host,) = gateway.openstack_json("host list", user=ADMIN)
    assert list(host) == ["uuid", "hostname", "mem_total", "cpus", "disk_total"]
    shown = gateway.openstack_json("host show", host["hostname"], user=ADMIN)
    assert (shown["uuid"], shown["mem_total"]) == (host["uuid"], host["mem_total"])
    assert "runc" in shown["runtimes"]
    which = (host["hostname"], "zun-compute")
    disabled = gateway.openstack_json("service disable", "--reason", "cleaning", *which, user=ADMIN)
    assert (disabled["Disabled"], disabled["Disabled Reason"]) == (True, "cleaning")
    try:
        refused = gateway.openstack_json("create", "--name", "homeless", BUSYBOX)
        assert refused["status"] == "Error"
        assert f"host {host['hostname']} is disabled (cleaning)" in refused["status_reason"]
    finally:
        assert gateway.openstack_json("service enable", *which, user=ADMIN)["Disabled"] is False
    assert gateway.openstack_json("service forcedown", *which, user=ADMIN)["Forced_down"] is True
    (service,) = gateway.openstack_json("service list", user=ADMIN)
    assert (service["Host"], service["Binary"], service["State"]) == (*which, "down")
    assert gateway.openstack_json("service forcedown", "--unset", *which, user=ADMIN)["Forced_down"] is False
    assert "has been accepted" in gateway.openstack("service delete", *which, user=ADMIN)
    (zone,) = gateway.openstack_json("availability zone list")
    assert list(zone.values()) == ["nova"]


def test_networks_of_a_container(gateway: Gateway) -> None:
    gateway.openstack("run", "--name", "roaming", BUSYBOX, "sleep", "1000")
    box = gateway.become("roaming", "Running")
    # The command gets the same answer, and cannot print it: its formatter is none of those that osc-lib still takes.
    (place,) = gateway.zun().containers.network_list("roaming")
    with pytest.raises(CommandError, match="Invalid formatter provided"):
        gateway.openstack("network list", "roaming")
    ((network, (address,)),) = box["addresses"].items()
    assert (place.net_id, place.port_id) == (network, address["port"])
    assert [fixed["ip_address"] for fixed in place.fixed_ips] == [address["addr"]]
    assert "has been accepted" in gateway.openstack("network detach", "--network", network, "roaming")
    gateway.become("roaming", "Running", also=lambda box: box["addresses"] == {})
    said = gateway.openstack("exec", "roaming", "ip", "-o", "-4", "address")
    assert "eth" not in said
    assert "has been accepted" in gateway.openstack("network attach", "--network", network, "roaming")
    box = gateway.become("roaming", "Running", also=lambda box: box["addresses"] != {})
    ((address,),) = box["addresses"].values()
    assert address["addr"] in gateway.openstack("exec", "roaming", "ip", "-o", "-4", "address")
    actions = [action["action"] for action in gateway.openstack_json("action list", "roaming")]
    assert actions == ["network_attach", "network_detach", "create"]
