"""Who is calling: an X-Auth-Token becomes a `Caller`, or a 401. The same path whoever issued the token.

    AuthMiddleware -> Authenticator (cache, one question at a time) -> TokenSource (app.keystone or app.identity)

Nothing about the caller is ever read from anything but the answer of the token source.
"""

import asyncio
import hashlib
import json
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

import structlog
from cachetools import TTLCache
from jose import jwt
from jose.backends.base import Key
from jose.exceptions import ExpiredSignatureError, JWTError
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.apis import problem
from app.errors import Busy, GatewayError, Unauthorized

log = structlog.get_logger("caisson.auth")

ROLE_CHAIN = ("admin", "manager", "member", "reader")
"""Each role implies all that follow it."""

UNKNOWN_TOKEN = "The request you have made requires authentication."  # noqa: S105  (a sentence)
EXPIRED_TOKEN = "The token has expired."  # noqa: S105
LONGEST_TOKEN = 16 * 1024
REFUSED_SECONDS = 10.0
"""How long a token that was refused is refused without asking again."""
AT_ONCE = 32
"""Questions to the source at a time: a flood of new tokens must not become one of Keystone."""
WAITING = 256
"""Questions that may wait beside these; who would ask one more is told to come again."""

_PLAUSIBLE = re.compile(rf"[\x21-\x7e]{{1,{LONGEST_TOKEN}}}")
_JWS = re.compile(r"[\w-]+\.[\w-]+\.[\w-]{86}", re.ASCII)
_IDENTITY_HEADER = re.compile(
    rb"x[-_](service[-_])?"
    rb"((user|project|tenant)([-_](id|name|domain[-_](id|name)))?|domain[-_](id|name)|roles?|identity[-_]status|catalog)"
    rb"|x[-_]is[-_]admin[-_]project|x[-_]token[-_]info|openstack[-_]system[-_]scope",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who a request speaks for. Roles are expanded downwards; `token_expires` is epoch seconds."""

    user_id: str
    user_name: str
    project_id: str
    project_name: str
    user_domain_id: str
    project_domain_id: str
    roles: frozenset[str]
    token_expires: float
    system: bool = False


class TokenSource(Protocol):
    """What can tell whether a token is good."""

    www_authenticate: str
    """What a 401 answer names in its WWW-Authenticate header."""

    async def validate(self, token: str) -> dict[str, Any]:
        """The Keystone v3 ``token`` object of a good token.

        Raises:
            Unauthorized: the token is bad, expired, revoked or unknown.
            Busy: nobody can tell right now.
        """
        ...

    async def has_project(self, project_id: str) -> bool:
        """Whether there is a project with this id. Raises Busy when nobody can tell."""
        ...

    async def check(self) -> None:
        """Raises Busy when it cannot tell right now about tokens that nobody asked about yet."""
        ...

    async def close(self) -> None:
        """Give back connections."""
        ...


class Authenticator:
    """Remembers for a short while what the source said, and never asks twice at once about the same token.

    Tokens are remembered by their SHA-256 only. Refused ones have a cache of their own, so that a flood of bad tokens
    cannot push the good ones out.
    """

    def __init__(
        self,
        source: TokenSource,
        cache_seconds: float,
        *,
        clock: Callable[[], float] = time.time,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        """`clock` is compared with the expiry of tokens, `timer` counts the seconds of the caches."""
        self.source = source
        self._clock = clock
        self._good: TTLCache[bytes, Caller] = TTLCache(10_000, cache_seconds, timer)
        self._bad: TTLCache[bytes, str] = TTLCache(10_000, REFUSED_SECONDS, timer)
        self._asking: dict[bytes, asyncio.Task[Caller | GatewayError]] = {}
        self._turn = asyncio.Semaphore(AT_ONCE)

    async def caller(self, token: str) -> Caller:
        """The caller that a token stands for.

        Raises:
            Unauthorized: the token is malformed, bad, expired or not scoped to a project.
            Busy: the source cannot tell right now, or too many tokens wait to be asked about.
        """
        if not _PLAUSIBLE.fullmatch(token):
            raise Unauthorized(UNKNOWN_TOKEN)
        key = hashlib.sha256(token.encode()).digest()
        found = self._good.get(key)
        if found is None:
            if (reason := self._bad.get(key)) is not None:
                raise Unauthorized(reason)
            # A task of its own: whoever waits for it may be cancelled without harm to the others who do.
            answer = await asyncio.shield(self._asking.get(key) or self._start_asking(key, token))
            if isinstance(answer, GatewayError):
                raise type(answer)(answer.title)
            found = answer
        if found.token_expires <= self._clock():
            raise Unauthorized(EXPIRED_TOKEN)
        return found

    def forget(self, token: str | None = None) -> None:
        """Forget one token, or everything. Questions already asked still answer those who wait for them, but no one
        who comes later, and their answers are not remembered."""
        if token is None:
            for known in (self._good, self._bad, self._asking):
                known.clear()
        else:
            key = hashlib.sha256(token.encode(errors="replace")).digest()
            for known in (self._good, self._bad, self._asking):
                known.pop(key, None)

    async def close(self) -> None:
        """Close the source. Whoever still waits for an answer is cancelled."""
        open_questions = list(self._asking.values())
        for task in open_questions:
            task.cancel()
        await asyncio.gather(*open_questions, return_exceptions=True)
        await self.source.close()

    def _start_asking(self, key: bytes, token: str) -> asyncio.Task[Caller | GatewayError]:
        if len(self._asking) >= AT_ONCE + WAITING:
            raise Busy("The identity service is asked about too many tokens right now.")
        task = asyncio.create_task(self._ask(token))
        self._asking[key] = task
        task.add_done_callback(lambda done: self._remember(key, done))
        return task

    async def _ask(self, token: str) -> Caller | GatewayError:
        try:
            async with self._turn:
                return caller_of(await self.source.validate(token))
        except (Unauthorized, Busy) as error:
            return error

    def _remember(self, key: bytes, task: asyncio.Task[Caller | GatewayError]) -> None:
        if self._asking.get(key) is not task:
            return  # forgotten in the meantime
        del self._asking[key]
        if task.cancelled() or task.exception():
            return
        answer = task.result()
        if isinstance(answer, Caller):
            self._good[key] = answer
        elif isinstance(answer, Unauthorized):
            self._bad[key] = answer.title


class AuthMiddleware:
    """ASGI: puts the caller into ``scope["state"]["caller"]``, or answers 401 or 503 itself.

    Headers by which a client claims an identity are taken out of every request, public paths included.
    """

    def __init__(self, app: ASGIApp, authenticator: Authenticator, is_public: Callable[[str], bool]) -> None:
        self._app = app
        self._authenticator = authenticator
        self._is_public = is_public

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = [header for header in scope["headers"] if not _IDENTITY_HEADER.fullmatch(header[0])]
        scope = {**scope, "headers": headers}
        state = scope.setdefault("state", {})
        if not self._is_public(scope["path"]):
            if scope["type"] == "websocket":
                await receive()
                await send({"type": "websocket.close", "code": 1008, "reason": UNKNOWN_TOKEN})
                return
            try:
                state["caller"] = await self._authenticator.caller(_only_token(headers))
            except (Unauthorized, Busy) as error:
                await self._refuse(scope, send, error)
                return
        await self._app(scope, receive, send)

    async def _refuse(self, scope: Scope, send: Send, error: GatewayError) -> None:
        if isinstance(error, Unauthorized):
            extra = (b"www-authenticate", self._authenticator.source.www_authenticate.encode())
            body: dict[str, Any] = {"error": {"code": 401, "title": "Unauthorized", "message": error.title}}
        else:
            extra = (b"retry-after", b"5")
            request_id = scope["state"].get("request_id", "")
            body = problem(scope["path"], error, request_id)
        content = json.dumps(body).encode()
        start: Message = {
            "type": "http.response.start",
            "status": error.status,
            "headers": [
                (b"content-type", b"application/json"),
                (b"content-length", str(len(content)).encode()),
                extra,
            ],
        }
        await send(start)
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else content})


def caller_of(body: dict[str, Any]) -> Caller:
    """The caller in a v3 ``token`` object.

    Raises:
        Unauthorized: the token has no project: unscoped, or scoped to a domain or to the system.
        Busy: this is no token object.
    """
    try:
        user, project = body["user"], body.get("project")
        if project is None:
            raise Unauthorized("The token has no project scope; Caisson needs a token that is scoped to a project.")
        return Caller(
            user_id=str(user["id"]),
            user_name=str(user["name"]),
            project_id=str(project["id"]),
            project_name=str(project["name"]),
            user_domain_id=str((user.get("domain") or {}).get("id") or ""),
            project_domain_id=str((project.get("domain") or {}).get("id") or ""),
            roles=expand_roles(str(role["name"]) for role in body["roles"]),
            token_expires=datetime.fromisoformat(body["expires_at"]).timestamp(),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        log.error("a token object that cannot be understood", error=repr(error))
        raise Busy("The identity service gave an unusable answer.") from None


def expand_roles(names: Iterable[str]) -> frozenset[str]:
    """Role names in lower case, with every role that they imply."""
    roles = {name.lower() for name in names}
    highest = next((place for place, role in enumerate(ROLE_CHAIN) if role in roles), len(ROLE_CHAIN))
    return frozenset(roles.union(ROLE_CHAIN[highest:]))


def verified_claims(token: str, key: Key | Sequence[str]) -> dict[str, Any]:
    """The claims of a JWS signed with ES256, the only algorithm that is ever accepted, by the key or one of the PEMs.

    Raises:
        Unauthorized: it is not, or it has expired.
    """
    options = {"require_exp": True, "require_sub": True, "verify_aud": False}
    if len(token) > LONGEST_TOKEN or not _JWS.fullmatch(token):
        raise Unauthorized(UNKNOWN_TOKEN)
    try:
        claims = jwt.decode(token, key, algorithms=["ES256"], options=options)
    except ExpiredSignatureError:
        raise Unauthorized(EXPIRED_TOKEN) from None
    # A header may be nested so deeply that parsing it fails, and the library takes claims for numbers that are none.
    except (JWTError, RecursionError, TypeError, OverflowError):
        raise Unauthorized(UNKNOWN_TOKEN) from None
    if not isinstance(claims["exp"], int | float):
        raise Unauthorized(UNKNOWN_TOKEN)
    if claims["exp"] <= time.time():  # the library gives it a second more
        raise Unauthorized(EXPIRED_TOKEN)
    return claims


def _only_token(headers: list[tuple[bytes, bytes]]) -> str:
    tokens = [value for name, value in headers if name == b"x-auth-token"]
    if len(tokens) > 1:
        raise Unauthorized("There must be exactly one X-Auth-Token header.")
    return tokens[0].decode("latin-1") if tokens else ""
