"""What every request meets before any route: request ids, spellings of paths, methods, tokens, links, health."""

import re

import httpx
import pytest

from app.identity import ROLE_IDS
from tests.api.caisson import ADMIN_PASSWORD, Caisson, error_of

pytestmark = pytest.mark.asyncio(loop_scope="session")

REQUEST_ID = re.compile(r"req-[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def request_id_of(answer: httpx.Response) -> str:
    ids = answer.headers.get_list("x-openstack-request-id")
    assert len(ids) == 1
    assert REQUEST_ID.fullmatch(ids[0])
    return ids[0]


@pytest.mark.parametrize(
    ("who", "version", "method", "path", "status"),
    [
        (None, None, "GET", "/", 200),
        (None, None, "GET", "/v1", 200),
        (None, None, "GET", "/healthcheck", 200),
        (None, None, "GET", "/docs", 200),
        (None, None, "GET", "/docs/nothing.js", 404),
        (None, None, "GET", "/openapi.json", 200),
        (None, None, "GET", "/identity/v3", 200),
        (None, None, "GET", "/identity/nothing", 404),
        (None, "container 1.40", "GET", "/v1/containers", 401),
        ("nobody's", "container 1.40", "GET", "/v1/containers", 401),
        ("member", "container 1.40", "GET", "/v1/containers", 200),
        ("member", "container 1.40", "GET", "/v1/images", 403),
        ("member", "container 1.40", "GET", "/v1/containers/nope", 404),
        ("member", "container 1.40", "GET", "/v1/nope", 404),
        ("member", "container 1.40", "PUT", "/v1/containers", 405),
        ("member", "container 2.0", "GET", "/v1/containers", 406),
        ("member", "container 1.40", "POST", "/v1/containers", 415),
        ("member", "container 1.40", "GET", "/v1/containers?limit=x", 400),
    ],
)
async def test_every_answer_has_a_request_id(
    standing: Caisson, who: str | None, version: str | None, method: str, path: str, status: int
) -> None:
    answer = await standing.call(method, path, who=who, version=version)
    assert answer.status_code == status
    request_id_of(answer)


async def test_request_ids_are_ours_and_fresh(standing: Caisson) -> None:
    theirs = "req-00000000-0000-4000-8000-000000000000"
    headers = {"X-Openstack-Request-Id": theirs}
    ids = {request_id_of(await standing.call("GET", "/v1/containers", headers=headers)) for _ in range(3)}
    assert len(ids) == 3
    assert theirs not in ids


async def test_the_request_id_is_the_actions_id(caisson: Caisson) -> None:
    answer = await caisson.call("POST", "/v1/containers", {"image": "busybox", "command": ["true"]})
    uuid = answer.json()["uuid"]
    found = await caisson.ok("GET", f"/v1/containers/{uuid}/container_actions/{request_id_of(answer)}")
    assert found["action"] == "create"


async def test_a_defect_shows_nothing_but_the_request_id(standing: Caisson) -> None:
    """The engine raises what no engine should."""
    box = await standing.put(status="Running", engine_ref="x" * 64)
    standing.engine.fail_next("top", ValueError("secret words"))  # type: ignore[arg-type]  # a defect is the point
    headers = {"X-Auth-Token": await standing.token("member")}
    answer = await standing.running.client.get(f"/v1/containers/{box.uuid}/top", headers=headers)
    error = error_of(answer, 500)
    assert error["title"] == "Internal Server Error"
    assert "secret" not in answer.text
    assert request_id_of(answer) in error["detail"]


LIST_SPELLINGS = (
    "/v1/containers", "/v1/containers/", "/containers", "/containers/", "/v1//containers", "/v1/containers//",
    "//v1/containers", "//containers", "/container/v1/containers", "/container/v1/containers/", "/container/containers",
    "/container//v1//containers//", "//container/v1/containers",
)  # fmt: skip


@pytest.mark.parametrize("path", LIST_SPELLINGS)
async def test_a_collection_has_many_spellings(standing: Caisson, path: str) -> None:
    client, token = standing.running.client, await standing.token("member")
    # A path that begins with two slashes must not be read as the name of a host.
    answer = await client.get(f"http://test{path}", headers={"X-Auth-Token": token})
    assert answer.status_code == 200, answer.text
    assert set(answer.json()) == {"containers", "next"}


@pytest.mark.parametrize(
    "before", ["/v1/containers/", "/containers/", "/container/v1/containers/", "/v1//containers//"]
)
@pytest.mark.parametrize("after", ["", "/"])
async def test_one_container_has_many_spellings(caisson: Caisson, before: str, after: str) -> None:
    box = await caisson.put(status="Stopped", name="many", engine_ref="r" * 64)
    assert (await caisson.ok("GET", f"{before}{box.uuid}{after}"))["uuid"] == box.uuid
    assert (await caisson.ok("GET", f"{before}many{after}"))["uuid"] == box.uuid
    assert await caisson.ok("GET", f"{before}many//container_actions{after}") == {"containerActions": []}
    answer = await caisson.call("POST", f"{before}many/pause{after}")
    error_of(answer, 409, "invalid-state-exception")


@pytest.mark.parametrize("path", ["/", "", "/container", "/container/", "//"])
async def test_the_root_has_many_spellings(standing: Caisson, path: str) -> None:
    answer = await standing.running.client.get(f"http://test{path}")
    assert answer.status_code == 200
    assert answer.json()["default_version"]["id"] == "v1"


@pytest.mark.parametrize("path", ["/v1", "/v1/", "/container/v1", "/container/v1/"])
async def test_version_one_has_many_spellings(standing: Caisson, path: str) -> None:
    answer = await standing.call("GET", path, who=None)
    assert answer.json()["id"] == "v1"


@pytest.mark.parametrize("path", ["/healthcheck", "/healthcheck/", "/container/healthcheck"])
async def test_health_needs_no_token(standing: Caisson, path: str) -> None:
    answer = await standing.call("GET", path, who=None, version=None)
    assert answer.status_code == 200
    assert answer.json() == {"detailed": False, "reasons": ["OK"]}


@pytest.mark.parametrize(
    "path",
    [
        "/v2", "/v2/containers", "/v1/v1/containers", "/nothing", "/v1/nothing", "/container/identity/v3",
        "/container/openapi.json", "/v1/container_actions", "/v1/experimental/capsules", "/v1/images/a/b/c",
        "/v1/containers/a/b/c/d",
    ],
)  # fmt: skip
async def test_unknown_paths(standing: Caisson, path: str) -> None:
    assert (await standing.call("GET", path, who=None)).status_code == 401
    error = error_of(await standing.call("GET", path), 404)
    assert (error["title"], error["detail"]) == ("Not Found", "")


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "HEAD", "TRACE", "BREW"])
async def test_wrong_methods_on_the_collection(standing: Caisson, method: str) -> None:
    answer = await standing.call(method, "/v1/containers")
    assert answer.status_code == 405
    assert answer.headers["allow"] == "GET, POST"
    if method != "HEAD":
        assert error_of(answer, 405)["title"] == "Method Not Allowed"


@pytest.mark.parametrize(("method", "action"), [("GET", "start"), ("POST", "logs"), ("PUT", "stop"), ("POST", "dance")])
async def test_wrong_methods_on_actions_are_unknown_paths(standing: Caisson, method: str, action: str) -> None:
    error_of(await standing.call(method, f"/v1/containers/whatever/{action}"), 404)


@pytest.mark.parametrize("path", ["users/%00", "projects/%00", f"projects/default/users/%00/roles/{ROLE_IDS['admin']}"])
async def test_nothing_of_the_identity_has_a_nul_in_its_name(standing: Caisson, path: str) -> None:
    answer = await standing.call("GET", f"/identity/v3/{path}", who="admin", version=None)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, 404)


@pytest.mark.parametrize("query", ["users?name=a%00", "projects?name=%00", "role_assignments?user.id=%00"])
async def test_nothing_of_the_identity_is_found_by_a_nul(standing: Caisson, query: str) -> None:
    found = await standing.ok("GET", f"/identity/v3/{query}", who="admin", version=None)
    assert found[query.partition("?")[0]] == []


# Tokens


async def test_without_a_token(standing: Caisson) -> None:
    for token in (None, "", "nonsense", "x" * 20000, "a.b.c"):
        answer = await standing.call("GET", "/v1/containers", who=token)
        assert answer.status_code == 401
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["www-authenticate"] == 'Keystone uri="http://127.0.0.1:9517/identity"'
        error = answer.json()["error"]
        assert (error["code"], error["title"]) == (401, "Unauthorized")
        assert error["message"]
        request_id_of(answer)


async def test_two_tokens_are_none(standing: Caisson) -> None:
    token = (await standing.token("member")).encode()
    headers = [(b"X-Auth-Token", token), (b"X-Auth-Token", token)]
    answer = await standing.running.client.get("/v1/containers", headers=headers)
    assert answer.status_code == 401


async def test_a_token_of_bytes(standing: Caisson) -> None:
    headers = [(b"X-Auth-Token", b"\xff\xfe\x80")]
    assert (await standing.running.client.get("/v1/containers", headers=headers)).status_code == 401


async def test_identity_headers_of_clients_count_for_nothing(standing: Caisson) -> None:
    claimed = {
        "X-Identity-Status": "Confirmed", "X-User-Id": "1", "X-Project-Id": "1", "X-Roles": "admin", "X-Role": "admin",
        "X-Is-Admin-Project": "True",
    }  # fmt: skip
    assert (await standing.call("GET", "/v1/containers", who=None, headers=claimed)).status_code == 401
    assert (await standing.call("GET", "/v1/images", headers=claimed)).status_code == 403
    made = await standing.create(name="whose")
    assert made["project_id"] == await standing.project("alpha")


async def test_a_withdrawn_role_counts_at_once(caisson: Caisson) -> None:
    token, project = await caisson.token("reader"), await caisson.project("alpha")
    assert (await caisson.call("GET", "/v1/containers", who="reader")).status_code == 200
    user = caisson.running.logins["id of reader"]
    identity, admin = caisson.running.identity, caisson.running.logins["admin"]
    grants = (await identity("GET", f"/projects/{project}/users/{user}/roles", admin)).json()["roles"]
    for role in grants:
        await identity("DELETE", f"/projects/{project}/users/{user}/roles/{role['id']}", admin)
    assert (await caisson.call("GET", "/v1/containers", who=token)).status_code == 401


async def test_a_revoked_token_counts_at_once(caisson: Caisson) -> None:
    token = await caisson.token("member")
    assert (await caisson.call("GET", "/v1/containers")).status_code == 200
    headers = {"X-Auth-Token": token, "X-Subject-Token": token}
    assert (await caisson.running.client.delete("/identity/v3/auth/tokens", headers=headers)).status_code == 204
    assert (await caisson.call("GET", "/v1/containers")).status_code == 401


async def test_an_unscoped_token_is_told_what_is_missing(standing: Caisson) -> None:
    user = {"name": "admin", "domain": {"id": "default"}, "password": ADMIN_PASSWORD}
    identity = {"methods": ["password"], "password": {"user": user}}
    body = {"auth": {"identity": identity, "scope": "unscoped"}}
    token = (await standing.running.identity("POST", "/auth/tokens", "", body)).headers["X-Subject-Token"]
    answer = await standing.call("GET", "/v1/containers", who=token)
    assert answer.status_code == 401
    assert "project" in answer.json()["error"]["message"]


# Links


@pytest.mark.parametrize("host", ["cloud.example", "cloud.example:9517", "[::1]:9517", "127.0.0.1"])
async def test_links_repeat_the_host_of_the_request_without_any_prefix(caisson: Caisson, host: str) -> None:
    answer = await caisson.call(
        "POST", "/container/v1/containers", {"image": "busybox", "command": ["true"]}, headers={"Host": host}
    )
    made = answer.json()
    assert answer.headers["location"] == f"http://{host}/v1/containers/{made['uuid']}"
    assert made["links"] == [
        {"href": f"http://{host}/v1/containers/{made['uuid']}", "rel": "self"},
        {"href": f"http://{host}/containers/{made['uuid']}", "rel": "bookmark"},
    ]


@pytest.mark.parametrize(
    "host", ["[", "[::1", "a b", "x:y:z", "a/b", "", '"><script>', "h\xe9", "x" * 5000, "host:99999999"]
)
async def test_a_strange_host_breaks_nothing(standing: Caisson, host: str) -> None:
    headers = {b"Host": host.encode("latin-1"), b"X-Auth-Token": (await standing.token("member")).encode()}
    for path in ("/", "/v1", "/v1/containers", "/openapi.json", "/docs"):
        answer = await standing.running.client.get(path, headers=headers)
        assert answer.status_code in (200, 400), f"{path} {answer.status_code} {answer.text}"
