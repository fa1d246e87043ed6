"""Audit events: who did what to whom, how it ended, and nothing more."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from app.audit import EVENT
from app.auditing import describe
from tests.api import caisson as place
from tests.api.caisson import Caisson, Running, eventually


class Audit:
    """An application of this test's own, and what it wrote."""

    def __init__(self, running: Running, file: Path) -> None:
        self.caisson = Caisson(running)
        self._file = file

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._file.read_text().splitlines()]

    async def of(self, request_id: str, count: int) -> list[dict[str, Any]]:
        """The events of one request, once there are so many."""
        found: list[dict[str, Any]] = []

        async def there() -> bool:
            nonlocal found
            found = [event for event in self.events() if event["request_id"] == request_id]
            return len(found) >= count

        await eventually(there, lambda: f"{count} events: {found}")
        return found


@pytest_asyncio.fixture
async def audit(tmp_path: Path) -> AsyncIterator[Audit]:
    url, file = f"sqlite+aiosqlite:///{tmp_path}/caisson.db", tmp_path / "audit.log"
    async with place.running(url, tmp_path, audit_file=file) as running:
        yield Audit(running, file)


async def test_a_request_and_what_came_of_it(audit: Audit) -> None:
    caisson = audit.caisson
    answer = await caisson.call("POST", "/v1/containers?run=true", {"image": "busybox", "command": ["sleep", "9"]})
    request_id, uuid = answer.headers["x-openstack-request-id"], answer.json()["uuid"]
    asked, done = await audit.of(request_id, 2)
    assert asked["typeURI"] == done["typeURI"] == EVENT
    assert asked["eventType"] == "activity"
    assert (asked["action"], asked["outcome"], done["action"], done["outcome"]) == (
        "create", "pending", "create", "success",
    )  # fmt: skip
    target = {"typeURI": "service/container/containers", "id": uuid}
    assert asked["target"] == done["target"] == target
    assert asked["requestPath"] == "/v1/containers"
    assert (asked["reason"], done["reason"]) == (
        {"reasonType": "HTTP", "reasonCode": "202"}, {"reasonType": "action", "reasonCode": "done"},
    )  # fmt: skip
    project = await caisson.project("alpha")
    for event in (asked, done):
        assert event["initiator"]["project_id"] == project
        assert event["initiator"]["id"] == caisson.running.logins["id of member"]
        assert event["observer"]["id"] == "caisson"
    assert asked["id"] != done["id"]
    assert "busybox" not in json.dumps(asked), "bodies are no part of it"


async def test_a_failure_has_the_engines_reason(audit: Audit) -> None:
    answer = await audit.caisson.call("POST", "/v1/containers", {"image": "absent:1"})
    _, failed = await audit.of(answer.headers["x-openstack-request-id"], 2)
    assert (failed["outcome"], failed["reason"]["reasonCode"]) == ("failure", "failed")
    assert "manifest unknown" in failed["attachments"][0]["content"]


async def test_what_a_delete_cancels(audit: Audit) -> None:
    caisson = audit.caisson
    box = await caisson.made(run=True)
    caisson.engine.delay("stop", 5.0)
    await caisson.ok("POST", f"/v1/containers/{box['uuid']}/stop")
    answer = await caisson.call("POST", f"/v1/containers/{box['uuid']}/kill")
    assert answer.status_code == 202
    deleted = await caisson.call("DELETE", f"/v1/containers/{box['uuid']}?stop=true")
    assert deleted.status_code == 204
    ended = (await audit.of(answer.headers["x-openstack-request-id"], 2))[-1]
    assert (ended["outcome"], ended["reason"]["reasonCode"]) == ("failure", "cancelled")
    caisson.engine.delay("stop", 0)
    gone = await audit.of(deleted.headers["x-openstack-request-id"], 3)
    assert [(event["action"], event["outcome"]) for event in gone] == [
        ("delete", "success"), ("stop", "success"), ("delete", "success"),
    ]  # fmt: skip


async def test_refusals_and_reads(audit: Audit) -> None:
    caisson = audit.caisson
    for who, path, body, status in (
        ("reader", "/v1/containers", {"image": "busybox"}, 403),
        (None, "/v1/containers", {"image": "busybox"}, 401),
        ("member", "/v1/containers", {"nonsense": 1}, 400),
    ):
        answer = await caisson.call("POST", path, body, who=who)
        assert answer.status_code == status
        (event,) = await audit.of(answer.headers["x-openstack-request-id"], 1)
        assert (event["outcome"], event["reason"]["reasonCode"]) == ("failure", str(status))
        assert event["target"]["id"] == "unknown"
        assert (event["initiator"]["id"] == "unknown") is (who is None)
    read = await caisson.call("GET", "/v1/containers")
    last = await caisson.call("DELETE", "/v1/containers/absent")
    await audit.of(last.headers["x-openstack-request-id"], 1)
    assert [e for e in audit.events() if e["request_id"] == read.headers["x-openstack-request-id"]] == []


async def test_logins(audit: Audit) -> None:
    client = audit.caisson.running.client
    user = {"name": "member", "domain": {"id": "default"}, "password": "pw"}
    login = {"auth": {"identity": {"methods": ["password"], "password": {"user": user}}, "scope": "unscoped"}}
    answer = await client.post("/identity/v3/auth/tokens", json=login)
    assert answer.status_code == 201
    (event,) = await audit.of(answer.headers["x-openstack-request-id"], 1)
    assert (event["action"], event["outcome"]) == ("authenticate", "success")
    assert event["initiator"]["id"] == audit.caisson.running.logins["id of member"]
    user["password"] = "a wrong one"
    answer = await client.post("/identity/v3/auth/tokens", json=login)
    (event,) = await audit.of(answer.headers["x-openstack-request-id"], 1)
    assert (event["outcome"], event["initiator"]["id"]) == ("failure", "unknown")
    assert "wrong one" not in json.dumps(event)


async def test_accounts_are_changed_by_somebody(audit: Audit) -> None:
    caisson = audit.caisson
    body = {"user": {"name": "new", "password": "pw"}}
    admin = caisson.running.logins["admin"]
    answer = await caisson.running.identity("POST", "/users", admin, body)
    (event,) = await audit.of(answer.headers["x-openstack-request-id"], 1)
    assert event["target"] == {"typeURI": "service/identity/users", "id": answer.json()["user"]["id"]}
    assert event["initiator"]["name"] == "admin"


async def test_reads_when_wanted(tmp_path: Path) -> None:
    url, file = f"sqlite+aiosqlite:///{tmp_path}/caisson.db", tmp_path / "audit.log"
    async with place.running(url, tmp_path, audit_file=file, audit_reads=True) as running:
        audit = Audit(running, file)
        answer = await audit.caisson.call("GET", "/v1/containers")
        (event,) = await audit.of(answer.headers["x-openstack-request-id"], 1)
        assert (event["action"], event["outcome"]) == ("read", "success")
        await audit.caisson.call("GET", "/readyz", who=None, version=None)
    assert "readyz" not in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("method", "path", "action", "kind", "ident"),
    [
        ("POST", "/v1/containers", "create", "container/containers", None),
        ("DELETE", "/v1/containers/x", "delete", "container/containers", "x"),
        ("POST", "/v1/containers/x/start", "update/start", "container/containers", "x"),
        ("PATCH", "/container-infra/v1/clusters/x", "update", "container-infra/clusters", "x"),
        ("POST", "/container-infra/v1/clusters/x/actions/resize", "update/actions/resize", "container-infra/clusters",
         "x"),
        ("POST", "/container-infra/v1/clusters/x/nodegroups", "create", "container-infra/nodegroups", None),
        ("DELETE", "/container-infra/v1/clusters/x/nodegroups/y", "delete", "container-infra/nodegroups", "y"),
        ("PUT", "/identity/v3/projects/p/users/u/roles/r", "update", "identity/roles", "r"),
        ("POST", "/identity/v3/auth/tokens", "authenticate", "identity/tokens", None),
        ("DELETE", "/v1", "delete", "container", None),
        ("GET", "/v1/containers/x/logs", "read", "container/containers", "x"),
    ],
)  # fmt: skip
def test_names(method: str, path: str, action: str, kind: str, ident: str | None) -> None:
    target = {"typeURI": f"service/{kind}"} | ({} if ident is None else {"id": ident})
    assert describe(method, path) == (action, target)
