"""The ASGI layers in front of routing: request ids, canonical paths, what may come in, every error in its envelope.

Order, outermost first: `Gate` (request id, path, last resort for errors), ``auth.AuthMiddleware``,
``versions.VersionMiddleware``, `Intake`, then FastAPI. Zun checks in the same order: 401, 406, 404, 400.
"""

import asyncio
import json
import re
from typing import Any
from uuid import uuid4

import structlog
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.apis import MAGNUM, ZUN, choose, problem
from app.errors import GatewayError, Invalid, SlowClient, TooLarge
from app.health import Draining
from app.versions import version_header

log = structlog.get_logger("caisson.gate")

ARCHIVE = "/put_archive"
"""How the path ends of what takes an archive: its body may be larger than others, and is not stored."""

PROBES = ("healthcheck", "livez", "readyz")
"""What balancers ask, below a prefix or not."""

OUTSIDE = (*PROBES, "identity", "docs", "openapi.json")
"""First path segments that are neither Zun's nor Magnum's."""

PUBLIC = frozenset({"/", "/v1", MAGNUM.root, MAGNUM.collection, "/openapi.json", *(f"/{name}" for name in PROBES)})
_MUTTERED = re.compile(r"[^\x20-\x7e]")
_ESCAPED = re.compile(rb"\\u(0000|[dD][89a-fA-F])")


def is_public(path: str) -> bool:
    """Canonical paths that need no token."""
    return path in PUBLIC or path == "/docs" or path.startswith(("/docs/", "/identity/")) or path == "/identity"


def canonical(path: str, header: str | None = None) -> str:
    """One spelling for each resource, whatever the prefix and the slashes (zun-api, section 0; magnum-api, 3.1).

    ``/v1/…`` is Zun's, ``/container-infra/v1/…`` Magnum's. The catalogue lists each API under its prefix; without one
    the path decides, and where both APIs have it, the version header (`app.apis.choose`).
    """
    parts = [part for part in path.split("/") if part]
    api = next((api for api in (ZUN, MAGNUM) if parts[:1] == [api.prefix]), None)
    if api is not None:
        parts = parts[1:]
        if parts[:1] and parts[0] in OUTSIDE and not (len(parts) == 1 and parts[0] in PROBES):
            parts = ["v1", *parts]
    if parts == ["identity"]:
        return "/identity/"  # what is mounted has no path without the slash
    if parts and parts[0] in OUTSIDE:
        return "/" + "/".join(parts)
    versioned = parts[1:] if parts[:1] == ["v1"] else parts
    if api is None:
        api = choose(versioned, header)
    if not parts:
        return api.root or "/"
    return "/".join((api.collection, *versioned))


class Gate:
    """Gives each request an id that every answer carries, and a canonical path; what slipped through becomes a 500."""

    def __init__(self, app: ASGIApp, draining: Draining) -> None:
        self.app = app
        self._draining = draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = f"req-{uuid4()}"
        scope.setdefault("state", {})["request_id"] = request_id
        path = canonical(scope["path"], version_header(scope))
        scope["state"]["prefix"] = MAGNUM.root if scope["path"].lstrip("/").startswith(MAGNUM.prefix) else ""
        if path != scope["path"]:
            scope["path"], scope["raw_path"] = path, path.encode()
        started = ended = False

        async def send_with_id(message: Message) -> None:
            nonlocal started, ended
            ended = message["type"] == "http.response.body" and not message.get("more_body", False)
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [*message["headers"], (b"x-openstack-request-id", request_id.encode())]
                if self._draining.now and not _closes(
                    message
                ):  # whoever keeps connections open shall open the next one elsewhere
                    message["headers"].append((b"connection", b"close"))
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except Exception:
            log.exception("request failed", request_id=request_id, method=scope["method"], path=path)
            if started and not ended:
                raise  # the server breaks the connection off: half an answer must not look whole
            if not started:
                await internal_error(scope)(scope, receive, send_with_id)


def _closes(message: Message) -> bool:
    return any(name == b"connection" for name, _ in message["headers"])


class Intake:
    """Reads a request's body whole before anything else looks at it, up to a limit, and refuses text that no database
    can store: NUL characters and halves of surrogate pairs, wherever they are."""

    def __init__(self, app: ASGIApp, limit: int, archive_limit: int = 0, seconds: float = 60.0) -> None:
        """`seconds` are for a body to come; archives get ten times as long."""
        self.app = app
        self.limit = limit
        self.seconds = seconds
        # An archive comes in base64, or until 1.24 as text in which each of its many NUL characters takes six bytes.
        self.archive_limit = limit + 2 * archive_limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request. A body over the limit is answered with 413 and not read on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        body = b""
        archive = scope["method"] == "POST" and scope["path"].endswith(ARCHIVE)
        limit = self.archive_limit if archive else self.limit
        if {name for name, _ in scope["headers"]} & {b"content-length", b"transfer-encoding"}:
            try:
                async with asyncio.timeout(self.seconds * (10 if archive else 1)):
                    read = await self._read(receive, limit)
            except TimeoutError:
                await _hang_up(scope, receive, send, SlowClient("The request body did not come in time."))
                return
            except TooLarge as error:
                await _hang_up(scope, receive, send, error)
                return
            if read is None:
                return  # the client went away
            body = read
        if scope["path"].startswith(MAGNUM.collection):
            scope["headers"] = [plain_type(*header) for header in scope["headers"]]
        stored = b"" if archive else body
        if scope["path"].startswith(("/v1", MAGNUM.root)) and (where := _unstorable(scope, stored)) is not None:
            title = f"Invalid input for field '{where}'. Text must be Unicode in UTF-8, without the character NUL."
            await render(scope, Invalid(title, code="schema-validation-error"))(scope, receive, send)
            return
        sent = False

        async def replay() -> Message:
            nonlocal sent
            if sent:
                return await receive()
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self.app(scope, replay, send)

    async def _read(self, receive: Receive, limit: int) -> bytes | None:
        body = bytearray()
        more = True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return None
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > limit:
                raise TooLarge(f"The request body is larger than the limit of {limit} bytes.")
        return bytes(body)


async def _hang_up(scope: Scope, receive: Receive, send: Send, error: GatewayError) -> None:
    """Refuse, and do not wait for the rest of the body."""
    await render(scope, error, {"connection": "close"})(scope, receive, send)


def plain_type(name: bytes, value: bytes) -> tuple[bytes, bytes]:
    """Magnum's other names for JSON (magnum-api, section 3.3) become its own, which is what FastAPI knows."""
    scripts = (b"text/javascript", b"application/javascript")
    if name == b"content-type" and value.partition(b";")[0].strip().lower() in scripts:
        return name, b"application/json"
    return name, value


def _unstorable(scope: Scope, body: bytes) -> str | None:
    """Where a request has text that cannot be stored; None when there is none."""
    if "\0" in scope["path"] or not _is_unicode(scope["path"]):
        return "path"
    if b"%00" in scope["query_string"] or b"\0" in scope["query_string"]:
        return "query"
    if b"\0" in body:  # no JSON in UTF-8 has one; in UTF-16 and UTF-32 most bytes are
        return "body"
    if not _ESCAPED.search(body):
        return None
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return None  # to be refused as malformed
    return unstorable(content)


def unstorable(content: Any) -> str | None:
    """The field of a decoded body whose text no database can store; None when there is none."""
    waiting = [("body", content)]
    while waiting:
        where, value = waiting.pop()
        if isinstance(value, str) and ("\0" in value or not _is_unicode(value)):
            return where
        if isinstance(value, dict):
            waiting += [(where, key) for key in value]
            waiting += [(key, item) for key, item in value.items()]
        elif isinstance(value, list):
            waiting += [(where, item) for item in value]
    return None


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def render(scope: Scope, error: GatewayError, headers: dict[str, str] | None = None) -> Response:
    """An error in the envelope of the API that was asked."""
    error.title, error.detail = printable(error.title), printable(error.detail)
    return _json(error.status, problem(scope.get("path", ""), error, _request_id(scope)), headers)


def internal_error(scope: Scope) -> Response:
    """What a user sees of a defect: nothing but the id under which the log has it."""
    defect = GatewayError(
        "Internal Server Error", detail=f"Something failed inside. The log tells more under {_request_id(scope)}."
    )
    return _json(500, problem(scope.get("path", ""), defect, _request_id(scope)), None)


def _request_id(scope: Scope) -> str:
    found: str = scope.get("state", {}).get("request_id", "")
    return found


def printable(text: str) -> str:
    """A user's own input comes back in error texts: without control characters, and not at any length."""
    return _MUTTERED.sub("?", text)[:2000] if not text.isprintable() else text[:2000]


def _json(status: int, body: object, headers: dict[str, str] | None) -> Response:
    return Response(json.dumps(body), status, headers, "application/json")
