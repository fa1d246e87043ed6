"""What balancers and people are told about a replica, without a token."""

from collections.abc import Iterator

import pytest

from tests.api.caisson import Caisson

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.fixture
def draining(standing: Caisson) -> Iterator[Caisson]:
    """A replica that was asked to end."""
    mark = standing.running.gateway.health.draining
    mark.now = True
    yield standing
    mark.now = False


@pytest.mark.parametrize("prefix", ["", "/container", "/container-infra"])
async def test_a_replica_that_is_ready(standing: Caisson, prefix: str) -> None:
    ready = await standing.call("GET", f"{prefix}/readyz", who=None, version=None)
    assert ready.status_code == 200
    names = ["database", "schema", "identity", "engine local", "worker", "serving"]
    checks = {check["name"]: check["status"] for check in ready.json()["checks"]}
    # Other tests may have left containers of clusters that are gone.
    assert [name for name in checks if not name.startswith("engine cluster:")] == names
    assert {checks[name] for name in names} == {"ok"}
    assert ready.json()["status"] == ("ok" if set(checks.values()) == {"ok"} else "degraded")
    alive = await standing.call("GET", f"{prefix}/livez/", who=None, version=None)
    assert (alive.status_code, alive.json()["status"]) == (200, "ok")


async def test_a_replica_that_drains_is_alive_and_not_ready(draining: Caisson) -> None:
    ready = await draining.call("GET", "/readyz", who=None, version=None)
    assert (ready.status_code, ready.json()["status"]) == (503, "failed")
    told = {check["name"]: check for check in ready.json()["checks"]}
    assert told["serving"] == {
        "name": "serving", "status": "failed", "required": True, "reason": "the process was asked to end",
    }  # fmt: skip
    health = await draining.call("GET", "/healthcheck", who=None, version=None)
    assert health.status_code == 503
    assert health.json() == {"detailed": False, "reasons": ["serving: the process was asked to end"]}
    assert (await draining.call("GET", "/livez", who=None, version=None)).status_code == 200


async def test_a_replica_that_drains_serves_and_keeps_no_connection(draining: Caisson) -> None:
    answer = await draining.call("GET", "/v1/containers")
    assert answer.status_code == 200
    assert answer.headers["connection"] == "close"


async def test_a_replica_that_does_not_drain_keeps_connections(standing: Caisson) -> None:
    assert "connection" not in (await standing.call("GET", "/v1/containers")).headers
