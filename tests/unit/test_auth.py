"""The cache in front of a token source, what becomes of an answer, and the ASGI layer."""

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message, Receive, Scope, Send

from app.auth import (
    AT_ONCE,
    ROLE_CHAIN,
    WAITING,
    Authenticator,
    AuthMiddleware,
    Caller,
    TokenSource,
    caller_of,
    expand_roles,
)
from app.errors import Busy, GatewayError, Unauthorized

NOW = 1_800_000_000.0


def token_object(**changes: Any) -> dict[str, Any]:
    """What Keystone says of a project token; a change of None takes the key away."""
    domain = {"id": "default", "name": "Default"}
    body = {
        "methods": ["password"],
        "user": {"domain": domain, "id": "u1", "name": "alice", "password_expires_at": None},
        "audit_ids": ["a"],
        "expires_at": datetime.fromtimestamp(NOW + 3600, UTC).strftime("%Y-%m-%dT%H:%M:%S.000000Z"),
        "issued_at": "2026-01-01T00:00:00.000000Z",
        "project": {"domain": domain, "id": "p1", "name": "alpha"},
        "is_domain": False,
        "roles": [{"id": "r1", "name": "member"}],
    } | changes
    return {key: value for key, value in body.items() if value is not None}


class Source(TokenSource):
    """Gives one answer, when it is let, and counts how often it is asked."""

    www_authenticate = 'Keystone uri="http://identity.test"'

    def __init__(self) -> None:
        self.answer: dict[str, Any] | GatewayError = token_object()
        self.asked: list[str] = []
        self.questions: asyncio.Queue[str] = asyncio.Queue()
        self.open = asyncio.Event()
        self.open.set()
        self.closed = False

    async def validate(self, token: str) -> dict[str, Any]:
        self.asked.append(token)
        self.questions.put_nowait(token)
        answer = self.answer
        await self.open.wait()
        if isinstance(answer, GatewayError):
            raise answer
        return answer

    async def has_project(self, project_id: str) -> bool:
        return False

    async def check(self) -> None:
        raise NotImplementedError

    async def close(self) -> None:
        self.closed = True


class Time:
    """A clock that only moves when it is told to."""

    def __init__(self) -> None:
        self.passed = 0.0

    def clock(self) -> float:
        return NOW + self.passed

    def timer(self) -> float:
        return self.passed


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def authenticator(source: Source, time: Time) -> Authenticator:
    return Authenticator(source, 60, clock=time.clock, timer=time.timer)


# What an answer says


def test_a_caller_is_what_the_source_says() -> None:
    assert caller_of(token_object()) == Caller(
        user_id="u1",
        user_name="alice",
        project_id="p1",
        project_name="alpha",
        user_domain_id="default",
        project_domain_id="default",
        roles=frozenset({"member", "reader"}),
        token_expires=NOW + 3600,
    )


@pytest.mark.parametrize(
    ("given_roles", "expected"),
    [
        (["admin"], {"admin", "manager", "member", "reader"}),
        (["manager"], {"manager", "member", "reader"}),
        (["member"], {"member", "reader"}),
        (["reader"], {"reader"}),
        (["service"], {"service"}),
        (["reader", "Admin", "audit"], {"admin", "manager", "member", "reader", "audit"}),
        ([], set()),
    ],
)
def test_roles_imply_downwards_and_never_upwards(given_roles: list[str], expected: set[str]) -> None:
    assert expand_roles(given_roles) == expected


@given(st.sets(st.sampled_from([*ROLE_CHAIN, "service", "auditor"])))
def test_expanding_roles_twice_changes_nothing(roles: set[str]) -> None:
    once = expand_roles(roles)
    assert roles <= once
    assert expand_roles(once) == once
    assert ("admin" in once) == ("admin" in roles)


@pytest.mark.parametrize(
    "scope",
    [
        {"project": None, "roles": None},
        {"project": None, "domain": {"id": "default", "name": "Default"}},
        {"project": None, "system": {"all": True}},
    ],
    ids=["unscoped", "domain", "system"],
)
def test_a_token_without_a_project_is_refused_and_told_why(scope: dict[str, Any]) -> None:
    with pytest.raises(Unauthorized, match="project scope"):
        caller_of(token_object(**scope))


@pytest.mark.parametrize(
    "changes",
    [
        {"user": None},
        {"user": {"name": "no id"}},
        {"roles": None},
        {"roles": [{"id": "no name"}]},
        {"roles": "admin"},
        {"expires_at": "tomorrow"},
        {"expires_at": 5},
        {"project": "p1"},
        {"project": {"id": "no name"}},
    ],
    ids=str,
)
def test_an_answer_that_makes_no_sense_is_our_trouble_and_not_the_users(changes: dict[str, Any]) -> None:
    with pytest.raises(Busy):
        caller_of(token_object(**changes))


def test_a_project_that_is_a_domain_has_no_domain_of_its_own() -> None:
    assert caller_of(token_object(project={"id": "p", "name": "n", "domain": None})).project_domain_id == ""


# Remembering


async def test_a_good_token_is_asked_about_once_a_minute(
    authenticator: Authenticator, source: Source, time: Time
) -> None:
    for _ in range(3):
        await authenticator.caller("good")
    time.passed = 59
    await authenticator.caller("good")
    assert source.asked == ["good"]
    time.passed = 61
    await authenticator.caller("good")
    assert source.asked == ["good", "good"]


async def test_every_token_is_asked_about_for_itself(authenticator: Authenticator, source: Source) -> None:
    await authenticator.caller("one")
    await authenticator.caller("two")
    assert source.asked == ["one", "two"]


async def test_without_a_cache_every_call_asks(source: Source) -> None:
    authenticator = Authenticator(source, 0)
    source.answer = token_object(expires_at="2999-01-01T00:00:00.000000Z")
    await authenticator.caller("good")
    await authenticator.caller("good")
    assert len(source.asked) == 2


async def test_a_remembered_token_expires_on_time(authenticator: Authenticator, source: Source, time: Time) -> None:
    source.answer = token_object(expires_at=datetime.fromtimestamp(NOW + 10, UTC).isoformat())
    await authenticator.caller("short")
    time.passed = 9
    await authenticator.caller("short")
    time.passed = 10
    with pytest.raises(Unauthorized, match="expired"):
        await authenticator.caller("short")
    assert source.asked == ["short"]


async def test_a_source_that_believes_an_expired_token_is_not_believed(
    authenticator: Authenticator, source: Source
) -> None:
    source.answer = token_object(expires_at=datetime.fromtimestamp(NOW - 1, UTC).isoformat())
    with pytest.raises(Unauthorized, match="expired"):
        await authenticator.caller("old")


async def test_a_refusal_is_remembered_for_ten_seconds_with_its_reason(
    authenticator: Authenticator, source: Source, time: Time
) -> None:
    source.answer = Unauthorized("no such token")
    for _ in range(3):
        with pytest.raises(Unauthorized, match="no such token"):
            await authenticator.caller("bad")
    assert source.asked == ["bad"]
    source.answer = token_object()
    time.passed = 11
    assert (await authenticator.caller("bad")).user_id == "u1"


async def test_an_unscoped_token_is_not_asked_about_again_and_again(
    authenticator: Authenticator, source: Source
) -> None:
    source.answer = token_object(project=None)
    for _ in range(2):
        with pytest.raises(Unauthorized, match="project scope"):
            await authenticator.caller("unscoped")
    assert len(source.asked) == 1


async def test_that_nobody_could_tell_is_never_remembered(authenticator: Authenticator, source: Source) -> None:
    source.answer = Busy("identity is down")
    for _ in range(2):
        with pytest.raises(Busy, match="identity is down"):
            await authenticator.caller("good")
    source.answer = token_object()
    await authenticator.caller("good")
    assert len(source.asked) == 3


async def test_a_flood_of_bad_tokens_does_not_push_out_the_good_ones(
    authenticator: Authenticator, source: Source
) -> None:
    await authenticator.caller("good")
    source.answer = Unauthorized("bad")
    for number in range(10_100):
        with pytest.raises(Unauthorized):
            await authenticator.caller(f"bad{number}")
    await authenticator.caller("good")
    assert source.asked.count("good") == 1


async def test_the_token_itself_is_not_kept(authenticator: Authenticator) -> None:
    await authenticator.caller("a-secret-token")
    kept = {key: repr(value) for key, value in vars(authenticator).items() if key != "source"}
    assert "_good" in kept
    assert "a-secret-token" not in str(kept)


@pytest.mark.parametrize(
    "token",
    ["", " ", "a b", "a\x00b", "a\nb", "tab\t", "del\x7f", "é", "☃", "x" * (16 * 1024 + 1)],
    ids=["empty", "space", "inner space", "nul", "newline", "tab", "del", "latin", "snowman", "long"],
)
async def test_what_cannot_be_a_token_is_refused_without_a_question(
    authenticator: Authenticator, source: Source, token: str
) -> None:
    with pytest.raises(Unauthorized):
        await authenticator.caller(token)
    assert source.asked == []


async def test_a_long_token_that_may_be_one_is_asked_about(authenticator: Authenticator, source: Source) -> None:
    await authenticator.caller("x" * 16 * 1024)
    assert len(source.asked) == 1


# Asking once


async def test_many_requests_with_one_token_ask_once(authenticator: Authenticator, source: Source) -> None:
    source.open.clear()
    waiting = [asyncio.create_task(authenticator.caller("good")) for _ in range(20)]
    await source.questions.get()
    source.open.set()
    callers = await asyncio.gather(*waiting)
    assert {caller.user_id for caller in callers} == {"u1"}
    assert source.asked == ["good"]


async def test_one_refusal_answers_all_who_wait_for_it(authenticator: Authenticator, source: Source) -> None:
    source.answer = Unauthorized("bad")
    source.open.clear()
    waiting = [asyncio.create_task(authenticator.caller("bad")) for _ in range(3)]
    await source.questions.get()
    source.open.set()
    refused = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(error) for error in refused] == [Unauthorized] * 3
    assert source.asked == ["bad"]


async def test_a_slow_source_is_asked_few_questions_at_a_time_and_nobody_waits_behind_too_many(
    authenticator: Authenticator, source: Source
) -> None:
    await authenticator.caller("known")
    source.open.clear()
    waiting = [asyncio.create_task(authenticator.caller(f"new-{n}")) for n in range(AT_ONCE + WAITING)]
    for _ in range(1 + AT_ONCE):
        await source.questions.get()
    with pytest.raises(Busy, match="too many tokens"):
        await authenticator.caller("one-more")
    assert len(source.asked) == 1 + AT_ONCE
    assert (await authenticator.caller("known")).user_id == "u1"
    joined = asyncio.create_task(authenticator.caller("new-0"))  # asks nothing of its own
    source.open.set()
    assert {caller.user_id for caller in await asyncio.gather(joined, *waiting)} == {"u1"}
    assert len(source.asked) == 1 + AT_ONCE + WAITING
    assert (await authenticator.caller("one-more")).user_id == "u1"


@pytest.mark.parametrize("leaver", [0, 1, 2])
async def test_who_gives_up_waiting_does_not_disturb_the_others(
    authenticator: Authenticator, source: Source, leaver: int
) -> None:
    source.open.clear()
    waiting = [asyncio.create_task(authenticator.caller("good")) for _ in range(3)]
    await source.questions.get()
    waiting[leaver].cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting[leaver]
    source.open.set()
    stayed = [task for task in waiting if task is not waiting[leaver]]
    assert [caller.user_id for caller in await asyncio.gather(*stayed)] == ["u1", "u1"]
    assert source.asked == ["good"]


async def test_an_answer_that_everybody_gave_up_on_is_still_remembered(
    authenticator: Authenticator, source: Source
) -> None:
    source.open.clear()
    only = asyncio.create_task(authenticator.caller("good"))
    await source.questions.get()
    only.cancel()
    with pytest.raises(asyncio.CancelledError):
        await only
    source.open.set()
    await authenticator.caller("good")
    assert source.asked == ["good"]


# Forgetting


async def test_a_forgotten_token_is_asked_about_again(authenticator: Authenticator, source: Source) -> None:
    await authenticator.caller("one")
    await authenticator.caller("two")
    authenticator.forget("one")
    source.answer = Unauthorized("revoked")
    with pytest.raises(Unauthorized, match="revoked"):
        await authenticator.caller("one")
    await authenticator.caller("two")


async def test_everything_can_be_forgotten_refusals_too(authenticator: Authenticator, source: Source) -> None:
    await authenticator.caller("one")
    source.answer = Unauthorized("bad")
    with pytest.raises(Unauthorized):
        await authenticator.caller("two")
    authenticator.forget()
    with pytest.raises(Unauthorized):
        await authenticator.caller("one")
    source.answer = token_object()
    authenticator.forget()
    await authenticator.caller("two")


@pytest.mark.parametrize("what", ["old", None])
async def test_an_answer_from_before_the_forgetting_serves_no_later_request(
    authenticator: Authenticator, source: Source, what: str | None
) -> None:
    source.open.clear()
    before = asyncio.create_task(authenticator.caller("old"))
    await source.questions.get()
    authenticator.forget(what)
    source.answer = Unauthorized("revoked")
    after = asyncio.create_task(authenticator.caller("old"))
    await source.questions.get()
    source.open.set()
    assert (await before).user_id == "u1"
    with pytest.raises(Unauthorized, match="revoked"):
        await after
    with pytest.raises(Unauthorized, match="revoked"):
        await authenticator.caller("old")


async def test_closing_ends_open_questions_and_closes_the_source(authenticator: Authenticator, source: Source) -> None:
    source.open.clear()
    waiting = asyncio.create_task(authenticator.caller("good"))
    await source.questions.get()
    await authenticator.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert source.closed


# The ASGI layer


class Inside:
    """The application behind the layer: keeps the scope it is called with and answers 200."""

    def __init__(self) -> None:
        self.scope: Scope | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"inside"})


class Outside:
    """Sends requests through the layer."""

    def __init__(self, authenticator: Authenticator) -> None:
        self.inside = Inside()
        self._layer = AuthMiddleware(self.inside, authenticator, lambda path: path == "/public")

    async def call(
        self, path: str = "/x", headers: list[tuple[bytes, bytes]] | None = None, **scope: Any
    ) -> list[Message]:
        sent: list[Message] = []

        async def receive() -> Message:
            return {"type": "websocket.connect" if scope.get("type") == "websocket" else "http.request"}

        async def send(message: Message) -> None:
            sent.append(message)

        request = {"type": "http", "method": "GET", "path": path, "headers": headers or []} | scope
        await self._layer(request, receive, send)
        return sent


@pytest.fixture
def outside(authenticator: Authenticator) -> Outside:
    return Outside(authenticator)


TOKEN = (b"x-auth-token", b"good")


async def test_a_request_with_a_good_token_goes_in_with_its_caller(outside: Outside) -> None:
    sent = await outside.call(headers=[TOKEN])
    assert sent[0]["status"] == 200
    assert outside.inside.scope is not None
    assert outside.inside.scope["state"]["caller"].project_id == "p1"


async def test_outer_layers_see_the_caller_in_the_state_they_made(outside: Outside) -> None:
    state: dict[str, Any] = {"request_id": "req-1"}
    await outside.call(headers=[TOKEN], state=state)
    assert state["caller"].user_id == "u1"


async def test_a_public_path_needs_no_token_and_has_no_caller(outside: Outside, source: Source) -> None:
    sent = await outside.call("/public", headers=[TOKEN])
    assert sent[0]["status"] == 200
    assert outside.inside.scope is not None
    assert "caller" not in outside.inside.scope["state"]
    assert source.asked == []


@pytest.mark.parametrize("headers", [[], [TOKEN, TOKEN], [(b"x-auth-token", b"")], [(b"x-auth-token", b"\xff\xfe")]])
async def test_without_exactly_one_token_nobody_gets_in(
    outside: Outside, source: Source, headers: list[tuple[bytes, bytes]]
) -> None:
    sent = await outside.call(headers=headers)
    assert sent[0]["status"] == 401
    assert outside.inside.scope is None
    assert source.asked == []


async def test_a_401_looks_like_keystonemiddlewares(outside: Outside) -> None:
    start, body = await outside.call()
    message = "The request you have made requires authentication."
    assert json.loads(body["body"]) == {"error": {"code": 401, "title": "Unauthorized", "message": message}}
    assert dict(start["headers"]) == {
        b"content-type": b"application/json",
        b"content-length": b"114",
        b"www-authenticate": b'Keystone uri="http://identity.test"',
    }


async def test_a_401_names_the_missing_scope(outside: Outside, source: Source) -> None:
    source.answer = token_object(project=None)
    start, body = await outside.call(headers=[TOKEN])
    assert start["status"] == 401
    assert "project scope" in json.loads(body["body"])["error"]["message"]


async def test_a_503_has_the_envelope_and_says_when_to_come_back(outside: Outside, source: Source) -> None:
    source.answer = Busy("The identity service cannot be reached.")
    start, body = await outside.call(headers=[TOKEN], state={"request_id": "req-7"})
    assert start["status"] == 503
    assert dict(start["headers"])[b"retry-after"] == b"5"
    assert b"www-authenticate" not in dict(start["headers"])
    error = json.loads(body["body"])["errors"][0]
    assert (error["code"], error["status"], error["request_id"]) == ("container.service-unavailable", 503, "req-7")
    assert error["title"] == "The identity service cannot be reached."


async def test_a_503_does_without_a_request_id(outside: Outside, source: Source) -> None:
    source.answer = Busy("down")
    _, body = await outside.call(headers=[TOKEN])
    assert json.loads(body["body"])["errors"][0]["request_id"] == ""


async def test_a_refused_head_has_the_headers_and_no_body(outside: Outside) -> None:
    start, body = await outside.call(method="HEAD")
    assert (start["status"], dict(start["headers"])[b"content-length"], body["body"]) == (401, b"114", b"")


async def test_a_websocket_is_closed_unless_its_path_is_public(outside: Outside) -> None:
    sent = await outside.call(type="websocket", headers=[TOKEN])
    assert [(message["type"], message["code"]) for message in sent] == [("websocket.close", 1008)]
    assert outside.inside.scope is None
    await outside.call("/public", type="websocket")
    assert outside.inside.scope is not None


async def test_lifespan_passes(outside: Outside) -> None:
    await outside.call(type="lifespan")
    assert outside.inside.scope is not None


# All that keystonemiddleware would set, and the older names that it sets beside them.
CLAIMS = [
    f"x{service}-{name}"
    for service in ("", "-service")
    for name in (
        "identity-status", "user-id", "user-name", "user-domain-id", "user-domain-name", "project-id", "project-name",
        "project-domain-id", "project-domain-name", "domain-id", "domain-name", "roles", "catalog",
    )
]  # fmt: skip
OLD_CLAIMS = [
    "x-user", "x-tenant", "x-tenant-id", "x-tenant-name", "x-role", "x-is-admin-project", "openstack-system-scope",
]  # fmt: skip


@pytest.mark.parametrize("path", ["/x", "/public"])
@pytest.mark.parametrize("name", CLAIMS + OLD_CLAIMS)
@pytest.mark.parametrize("spelling", [str.lower, str.title, lambda name: name.replace("-", "_")])
async def test_what_a_client_claims_to_be_never_gets_in(
    outside: Outside, path: str, name: str, spelling: Callable[[str], str]
) -> None:
    await outside.call(path, headers=[(spelling(name).encode(), b"admin"), TOKEN])
    assert outside.inside.scope is not None
    assert outside.inside.scope["headers"] == [TOKEN]
    if path == "/x":
        assert outside.inside.scope["state"]["caller"].user_id == "u1"


async def test_other_headers_stay_as_they_are(outside: Outside) -> None:
    headers = [
        TOKEN,
        (b"x-user-agent", b"a"),
        (b"x-roles-of-mine", b"b"),
        (b"user-agent", b"c"),
        (b"x-openstack", b"d"),
    ]
    await outside.call(headers=headers)
    assert outside.inside.scope is not None
    assert outside.inside.scope["headers"] == headers
