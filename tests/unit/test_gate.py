"""Canonical paths, what may come in, and the shape of errors."""

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message, Receive, Scope, Send

from app.errors import Busy, Conflict, Invalid, NotFound, UnknownVersion
from app.gate import Gate, Intake, canonical, is_public, printable, render
from app.health import Draining

PIECES = st.lists(
    st.sampled_from(
        ["v1", "container", "container-infra", "containers", "quotas", "x", "docs", "identity", "healthcheck", "", ".."]
    )
)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("", "/"), ("/", "/"), ("//", "/"), ("/container", "/"), ("/container/", "/"),
        ("/v1", "/v1"), ("/v1/", "/v1"), ("/container/v1", "/v1"), ("//v1//", "/v1"),
        ("/containers", "/v1/containers"), ("/v1/containers/", "/v1/containers"),
        ("/container/containers", "/v1/containers"), ("/container/v1/containers//x", "/v1/containers/x"),
        ("/v2/x", "/v1/v2/x"), ("/v1/v1", "/v1/v1"), ("/container/container", "/v1/container"),
        ("/healthcheck", "/healthcheck"), ("/container/healthcheck", "/healthcheck"),
        ("/docs/x.js", "/docs/x.js"), ("/container/docs", "/v1/docs"),
        ("/identity/v3/", "/identity/v3"), ("/container/identity/v3", "/v1/identity/v3"),
        ("/openapi.json", "/openapi.json"), ("/container/openapi.json", "/v1/openapi.json"),
        ("/containers/..", "/v1/containers/.."),
        ("/container-infra", "/container-infra"), ("//container-infra//", "/container-infra"),
        ("/container-infra/v1/", "/container-infra/v1"), ("/container-infra/clusters", "/container-infra/v1/clusters"),
        ("/clusters", "/container-infra/v1/clusters"), ("/v1/clusters/x/", "/container-infra/v1/clusters/x"),
        ("/clustertemplates", "/container-infra/v1/clustertemplates"), ("/v1/stats", "/container-infra/v1/stats"),
        ("/container/clusters", "/v1/clusters"), ("/container-infra/containers", "/container-infra/v1/containers"),
        ("/container-infra/healthcheck", "/healthcheck"), ("/container-infra/docs", "/container-infra/v1/docs"),
        ("/quotas", "/v1/quotas"), ("/quotas/p", "/v1/quotas/p"), ("/v1/quotas/p/defaults", "/v1/quotas/p/defaults"),
        ("/quotas/p/Cluster", "/container-infra/v1/quotas/p/Cluster"),
    ],
)  # fmt: skip
def test_canonical_paths(path: str, expected: str) -> None:
    assert canonical(path) == expected


@pytest.mark.parametrize(
    ("path", "header", "expected"),
    [
        ("/", "container-infra latest", "/container-infra"), ("/", "container latest", "/"), ("/", "compute 2.1", "/"),
        ("/v1", "container-infrastructure-management 1.14", "/container-infra/v1"), ("/v1", "container 1.1", "/v1"),
        ("/v1/quotas", "container-infra 1.9", "/container-infra/v1/quotas"), ("/v1/quotas", "", "/v1/quotas"),
        ("/quotas/p", "compute 2.1, container-infra 1.9", "/container-infra/v1/quotas/p"),
        ("/quotas/p", "container 1.1, container-infra 1.9", "/v1/quotas/p"),
        ("/quotas/p/Cluster", "container 1.1", "/v1/quotas/p/Cluster"),
        # What only one of them has is that one's, whatever the header says.
        ("/clusters", "container 1.40", "/container-infra/v1/clusters"),
        ("/containers", "container-infra 1.1", "/v1/containers"),
        ("/container/v1", "container-infra 1.1", "/v1"), ("/container-infra", "container 1.1", "/container-infra"),
        ("/container/quotas", "container-infra 1.1", "/v1/quotas"),
    ],
)  # fmt: skip
def test_the_version_header_decides_what_both_apis_have(path: str, header: str, expected: str) -> None:
    assert canonical(path, header) == expected


@given(PIECES)
def test_a_canonical_path_is_its_own(pieces: list[str]) -> None:
    once = canonical("/" + "/".join(pieces))
    assert once.startswith("/")
    assert "//" not in once
    assert once in ("/", "/identity/") or not once.endswith("/")  # a mounted application has a root of its own
    assert canonical(once) == once


@given(PIECES)
def test_nothing_of_the_api_is_public(pieces: list[str]) -> None:
    path = canonical("/" + "/".join(pieces))
    if path.startswith(("/v1/", "/container-infra/v1/")):
        assert not is_public(path)


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/v1",
        "/container-infra",
        "/container-infra/v1",
        "/healthcheck",
        "/docs",
        "/docs/x",
        "/openapi.json",
        "/identity",
        "/identity/v3",
    ],
)
def test_public_paths(path: str) -> None:
    assert is_public(path)


@pytest.mark.parametrize(
    "path", ["/docsx", "/identityx", "/healthcheck/x", "/openapi.jsonx", "/v1/docs", "/v1/containers"]
)
def test_paths_that_are_not_public(path: str) -> None:
    assert not is_public(path)


class Told:
    """An application that remembers what reached it, and a client that remembers what came back."""

    def __init__(self, body: list[bytes] | None = None) -> None:
        self.chunks = list(body or [b""])
        self.read = 0
        self.scope: Scope | None = None
        self.body: bytes | None = None
        self.sent: list[Message] = []

    async def receive(self) -> Message:
        if self.read >= len(self.chunks):
            return {"type": "http.disconnect"}
        self.read += 1
        more = self.read < len(self.chunks)
        return {"type": "http.request", "body": self.chunks[self.read - 1], "more_body": more}

    async def send(self, message: Message) -> None:
        self.sent.append(message)

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.body = (await receive())["body"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    @property
    def title(self) -> str:
        title: str = json.loads(self.sent[1]["body"])["errors"][0]["title"]
        return title


def request(path: str = "/v1/containers", query: bytes = b"", body: bool = True) -> Scope:
    headers = [(b"content-length", b"1")] if body else []
    return {"type": "http", "method": "POST", "path": path, "query_string": query, "headers": headers, "raw_path": b""}


async def taken_in(body: list[bytes], scope: Scope | None = None, limit: int = 1000) -> Told:
    told = Told(body)
    await Intake(told.app, limit)(scope or request(), told.receive, told.send)
    return told


async def test_a_body_is_handed_on_whole() -> None:
    told = await taken_in([b'{"a":', b" 1", b"}"])
    assert (told.status, told.body) == (200, b'{"a": 1}')


async def test_a_body_over_the_limit_is_not_read_on() -> None:
    told = await taken_in([b"x" * 600] * 100)
    assert told.status == 413
    assert told.read == 2
    assert told.body is None
    assert "1000" in told.title
    assert (await taken_in([b" " * 1000])).status == 200


async def test_a_client_that_goes_away_gets_no_answer() -> None:
    told = Told()
    told.chunks = []
    await Intake(told.app, 10)(request(), told.receive, told.send)
    assert told.sent == []


async def test_a_request_without_a_body_is_not_read() -> None:
    told = await taken_in([b"never"], request(body=False))
    assert (told.status, told.read, told.body) == (200, 0, b"")


@pytest.mark.parametrize(
    ("body", "where"),
    [
        (b'{"a": "\\u0000"}', "a"), (b'{"a": ["x", {"b": "\\ud800"}]}', "b"), (b'{"\\u0000": 1}', "body"),
        (b'"\\udfff"', "body"), (b'{"a": "\\uD83D"}', "a"), (b'{"a": "\\ud83d\\ud83d\\ude00"}', "a"),
        (b'{"a": {"x": {"\\u0000": 1}}}', "x"), ('{"a": 1}'.encode("utf-16"), "body"), (b'{"a": "\x00"}', "body"),
    ],
)  # fmt: skip
async def test_text_that_cannot_be_stored(body: bytes, where: str) -> None:
    told = await taken_in([body])
    assert told.status == 400
    assert f"'{where}'" in told.title
    assert (await taken_in([body], request("/identity/v3/users"))).status == 200  # which looks for itself


@pytest.mark.parametrize(
    "body", [b'{"a": "\\ud83d\\ude00"}', b'{"a": "\\\\u0000"}', b'{"a": "\\u0001"}', b"\\u0000", b""]
)
async def test_text_that_can_be_stored_or_is_no_json(body: bytes) -> None:
    assert (await taken_in([body])).status == 200


@given(st.recursive(st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8))
async def test_exactly_what_holds_no_such_text_comes_in(content: Any) -> None:
    def storable(value: Any) -> bool:
        if isinstance(value, str):
            return "\0" not in value and value.encode(errors="replace").decode() == value
        if isinstance(value, dict):
            return all(storable(part) for pair in value.items() for part in pair)
        return all(storable(part) for part in value)

    told = await taken_in([json.dumps(content).encode()], limit=10**6)
    assert told.status == (200 if storable(content) else 400)


@pytest.mark.parametrize(
    ("path", "query"), [("/v1/a\0b", b""), ("/v1/a\ud800", b""), ("/v1/a", b"x=%00"), ("/v1/a", b"\0")]
)
async def test_paths_and_queries_that_cannot_be_stored(path: str, query: bytes) -> None:
    assert (await taken_in([b""], request(path, query))).status == 400


# The gate itself


async def through(app: Any, path: str = "/containers") -> Told:
    told = Told()
    scope = request(path)
    await Gate(app, Draining())(scope, told.receive, told.send)
    told.scope = scope
    return told


async def test_the_path_is_made_canonical_before_anybody_sees_it() -> None:
    told = Told()
    await Gate(told.app, Draining())(request("/container//containers/é/"), told.receive, told.send)
    assert told.scope is not None
    assert told.scope["path"] == "/v1/containers/é"
    assert told.scope["raw_path"].decode() == "/v1/containers/é"


async def test_a_defect_before_the_answer_becomes_an_error() -> None:
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        raise ValueError("secret")

    told = await through(broken)
    assert told.status == 500
    assert b"secret" not in told.sent[1]["body"]
    assert told.scope is not None
    assert told.scope["state"]["request_id"].encode() in told.sent[1]["body"]


async def test_half_an_answer_is_broken_off() -> None:
    """Whoever reads it must not take it for whole."""

    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise ValueError("on purpose")

    with pytest.raises(ValueError, match="on purpose"):
        await through(broken)


async def test_a_defect_after_the_answer_changes_nothing() -> None:
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"whole"})
        raise ValueError("on purpose")

    told = await through(broken)
    assert [message["type"] for message in told.sent] == ["http.response.start", "http.response.body"]


# Errors


def error_of(error: Any) -> dict[str, Any]:
    answer = render({"type": "http", "state": {"request_id": "req-1"}}, error)
    assert answer.media_type == "application/json"
    errors = json.loads(bytes(answer.body))["errors"]
    assert len(errors) == 1
    found: dict[str, Any] = errors[0]
    assert found["status"] == answer.status_code
    return found


def test_the_envelope() -> None:
    assert error_of(Conflict("taken")) == {
        "request_id": "req-1", "code": "container.conflict", "status": 409, "title": "taken", "detail": "taken",
        "links": [],
    }  # fmt: skip
    error = error_of(UnknownVersion("no", detail="why", min_version="1.1"))
    assert (error["code"], error["title"], error["detail"], error["min_version"]) == ("container.", "no", "why", "1.1")


def magnum_error(error: Any, path: str = "/container-infra/v1/clusters") -> dict[str, Any]:
    scope = {"type": "http", "path": path, "state": {"request_id": "req-1"}}
    found: dict[str, Any] = json.loads(bytes(render(scope, error).body))["errors"][0]
    return found


def test_the_envelope_of_magnum() -> None:
    assert magnum_error(NotFound("Cluster v1.2 could not be found. Look again.")) == {
        "request_id": "req-1", "code": "client", "status": 404, "title": "Cluster v1.2 could not be found",
        "detail": "Cluster v1.2 could not be found. Look again.", "links": [],
    }  # fmt: skip
    assert magnum_error(Conflict("taken"), "/container-infra")["code"] == "client"
    assert magnum_error(Conflict("taken"), "/container-infrared")["code"] == "container.conflict"
    assert magnum_error(Busy("wait."))["code"] == "server"
    assert magnum_error(UnknownVersion("Not Acceptable", detail="why")) == {
        "request_id": "req-1", "code": "", "status": 406, "title": "Not Acceptable", "detail": "why", "links": [],
    }  # fmt: skip
    refused = magnum_error(UnknownVersion("no", code="microversion-unsupported", detail="why", min_version="1.1"))
    assert refused.keys() == {"code", "title", "description", "min_version", "links"}
    assert refused["code"] == "magnum.microversion-unsupported"


@given(st.text())
def test_error_texts_are_printable_and_short(text: str) -> None:
    shown = printable(text * 100)
    assert len(shown) <= 2000
    assert shown == "" or shown.isprintable()
    assert error_of(Invalid(text))["title"] == printable(text)


def test_texts_of_all_languages_are_printable() -> None:
    assert printable("Größe, 大きさ, 🐳") == "Größe, 大きさ, 🐳"
    assert printable("a\nb\x1b[31mc\0") == "a?b?[31mc?"


async def test_a_body_that_does_not_come() -> None:
    """Who sends a part and waits is told so, and let go."""
    told = Told()
    parts = [{"type": "http.request", "body": b"{", "more_body": True}]

    async def receive() -> Message:
        if parts:
            return parts.pop()
        await asyncio.Event().wait()
        raise AssertionError

    await Intake(told.app, 1000, seconds=0.05)(request(), receive, told.send)
    assert told.status == 408
    assert (b"connection", b"close") in told.sent[0]["headers"]
