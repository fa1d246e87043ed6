"""Hosts, services and zones."""

from typing import Any

import pytest

from app import hosts
from tests.api.caisson import Caisson, error_of, eventually
from tests.api.capsule import template
from tests.fake import CPUS, MEMORY

pytestmark = pytest.mark.asyncio(loop_scope="session")

SERVICE = "host=local-host&binary=zun-compute"


async def service(caisson: Caisson) -> dict[str, Any]:
    found: list[dict[str, Any]] = []

    async def reported() -> bool:
        nonlocal found
        found = (await caisson.ok("GET", "/v1/services", who="admin"))["services"]
        return bool(found)

    await eventually(reported, lambda: "no host was reported")
    (one,) = found
    return one


async def test_services(caisson: Caisson) -> None:
    shown = await service(caisson)
    assert (shown["host"], shown["binary"], shown["state"]) == ("local-host", "zun-compute", "up")
    assert (shown["disabled"], shown["disabled_reason"], shown["forced_down"]) == (False, None, False)
    assert shown["availability_zone"] == "nova"
    assert shown["report_count"] >= 1
    for moment in ("last_seen_up", "created_at", "updated_at"):
        assert len(shown[moment]) == len("2026-11-23T21:20:45.000000")


async def test_hosts_and_what_is_used_of_them(caisson: Caisson) -> None:
    await service(caisson)
    (before,) = (await caisson.ok("GET", "/v1/hosts", who="admin"))["hosts"]
    await caisson.create(cpu=0.5, memory=100)
    await caisson.create(cpu=0.25, memory=50, who="foreign")
    (after,) = (await caisson.ok("GET", "/v1/hosts", who="admin"))["hosts"]
    assert after["total_containers"] - before["total_containers"] == 2
    assert after["mem_used"] - before["mem_used"] == 150
    assert after["cpu_used"] - before["cpu_used"] == pytest.approx(0.75)
    assert (after["mem_total"], after["cpus"], after["runtimes"]) == (MEMORY, CPUS, ["runc"])
    assert after["disk_quota_supported"] is True
    for ident in (after["uuid"], "local-host"):
        one = await caisson.ok("GET", f"/v1/hosts/{ident}", who="admin")
        assert one["uuid"] == after["uuid"]
        assert one["links"][0]["href"].endswith(f"/v1/hosts/{after['uuid']}")
    error_of(await caisson.call("GET", "/v1/hosts/nope", who="admin"), 404, "compute-node-not-found")
    assert (await caisson.call("GET", "/v1/hosts", who="admin", version="container 1.3")).status_code == 406
    answer = await caisson.ok("GET", "/v1/hosts?limit=1&sort_key=hostname&sort_dir=desc", who="admin")
    assert answer["next"].endswith(f"marker={after['uuid']}")
    assert (await caisson.ok("GET", f"/v1/hosts?marker={after['uuid']}", who="admin"))["hosts"] == []
    error_of(await caisson.call("GET", "/v1/hosts?sort_key=x", who="admin"), 400, "invalid-parameter-value")
    error_of(await caisson.call("GET", f"/v1/hosts?marker={'0' * 36}", who="admin"), 404, "compute-node-not-found")


async def test_zones(caisson: Caisson) -> None:
    for who in ("reader", "foreign", "admin"):
        answer = await caisson.ok("GET", "/v1/availability_zones?limit=5", who=who)
        assert answer == {"availability_zones": [{"availability_zone": "nova"}], "next": None}


@pytest.mark.parametrize("by_body", [False, True])
async def test_a_disabled_host_gets_nothing_new(caisson: Caisson, by_body: bool) -> None:
    await service(caisson)
    old = await caisson.made(run=True)
    wish: dict[str, Any] = {"host": "local-host", "binary": "zun-compute", "disabled_reason": "spring cleaning"}
    query = "" if by_body else f"?{SERVICE}&disabled_reason=spring%20cleaning"
    try:
        answer = await caisson.ok("PUT", f"/v1/services/disable{query}", wish if by_body else None, who="admin")
        assert answer == {"service": wish | {"disabled": True}}
        assert (await service(caisson))["disabled_reason"] == "spring cleaning"
        named = await caisson.create(who="admin", host="local-host")
        for made in (await caisson.create(), named):
            assert made["status"] == "Error"
            assert "host local-host is disabled (spring cleaning)" in made["status_reason"]
            assert not await caisson.actions(made["uuid"])
        await caisson.ok("POST", f"/v1/containers/{old['uuid']}/stop")
        await caisson.until(old["uuid"], "Stopped")
    finally:
        answer = await caisson.ok("PUT", f"/v1/services/enable?{SERVICE}", who="admin")
    assert answer == {"service": wish | {"disabled": False, "disabled_reason": None}}
    await caisson.made()


async def test_a_host_that_is_declared_down(caisson: Caisson) -> None:
    await service(caisson)
    try:
        answer = await caisson.ok("PUT", f"/v1/services/force_down?{SERVICE}&forced_down=True", who="admin")
        assert answer["service"] == {"host": "local-host", "binary": "zun-compute", "forced_down": True}
        assert (await service(caisson))["state"] == "down"
        assert "host local-host is forced down" in (await caisson.create())["status_reason"]
        capsule = await caisson.ok("POST", "/v1/capsules", template(name="resting"))
        assert (capsule["status"], "forced down" in capsule["status_reason"]) == ("Error", True)
    finally:
        await caisson.ok("PUT", f"/v1/services/force_down?{SERVICE}&forced_down=False", who="admin")
    assert (await service(caisson))["state"] == "up"
    await caisson.made()


@pytest.mark.parametrize("verb", ["enable", "disable", "force_down", ""])
@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("host=nope&binary=zun-compute", 404, "zun-service-not-found"),
        ("host=local-host&binary=nope", 404, "zun-service-not-found"),
        ("host=local-host", 400, "schema-validation-error"),
        ("binary=zun-compute", 400, "schema-validation-error"),
        ("host=&binary=zun-compute", 400, "schema-validation-error"),
        ("host=a%20b&binary=zun-compute", 400, "schema-validation-error"),
        (f"{SERVICE}&colour=red", 400, "schema-validation-error"),
    ],
)
async def test_services_that_are_none(caisson: Caisson, verb: str, query: str, status: int, code: str) -> None:
    more = "&forced_down=1" if verb == "force_down" else ""
    method, path = ("PUT", f"/v1/services/{verb}") if verb else ("DELETE", "/v1/services")
    error_of(await caisson.call(method, f"{path}?{query}{more}", who="admin"), status, code)


async def test_a_service_that_is_deleted_comes_back_with_its_next_sign_of_life(caisson: Caisson) -> None:
    was = await service(caisson)
    answer = await caisson.call("DELETE", f"/v1/services?{SERVICE}", who="admin")
    assert (answer.status_code, answer.json()) == (200, None)
    # Nor is its absence a defect of what tells of it in Magnum's words.
    await caisson.ok("GET", "/container-infra/v1/mservices", who="admin", version=None)
    gateway = caisson.running.gateway
    await hosts.report(gateway.database, gateway.engines, gateway.settings, "local")
    assert (await service(caisson))["created_at"] > was["created_at"]


async def test_networks_of_administrators(caisson: Caisson) -> None:
    ident = f"net-{await caisson.project('alpha')}"
    made = await caisson.ok("POST", "/v1/networks", {"name": "lab", "neutron_net_id": ident}, who="admin")
    assert set(made) == {"uuid", "name", "project_id", "user_id", "network_id", "neutron_net_id"}
    assert made["neutron_net_id"] == ident
    assert caisson.engine.networks[ident] == made["network_id"]
    again = await caisson.call("POST", "/v1/networks", {"name": "lab", "neutron_net_id": ident}, who="admin")
    error_of(again, 409, "network-already-exists")
    error_of(await caisson.call("POST", "/v1/networks", {"name": "lab"}, who="admin"), 400, "schema-validation-error")
    assert (await caisson.call("GET", "/v1/networks", who="admin")).status_code == 405
    path = f"/v1/networks/{ident}"
    assert (await caisson.call("DELETE", path, who="admin", version="container 1.26")).status_code == 406
    assert (await caisson.call("DELETE", path, who="admin")).status_code == 204
    assert ident not in caisson.engine.networks
    error_of(await caisson.call("DELETE", path, who="admin"), 404, "network-not-found")
