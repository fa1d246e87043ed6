"""Websockets: the terminals of containers and of commands inside them (zun-api, section 6; docs/streams.md).

One path takes them all, and a ticket in its query is the only right to open one (``app.tickets``). Whatever else asks
for a websocket is refused here: nothing behind this layer ever sees one.
"""

import asyncio
from collections import Counter
from contextlib import AbstractAsyncContextManager, suppress
from typing import cast
from urllib.parse import parse_qs, urlencode, urlsplit

import structlog
from starlette.types import ASGIApp, Receive, Scope, Send

from app import tickets
from app.backends.engine import Attaches, ContainerEngine, Execs, Stream
from app.errors import EngineError, Forbidden, GatewayError, Invalid, NotFound, TooManyRequests
from app.gate import canonical, render
from app.gateway import Gateway
from app.models import Container
from app.settings import Settings

log = structlog.get_logger("caisson.streams")

PATH = "/container/websocket"
PROTOCOL = "binary"
ENDED, BROKEN = 1000, 1011
HANG_UP_SECONDS = 10.0
PORTS = {"http": 80, "https": 443}


def address(base: str, secret: str, uuid: str, exec_id: str | None) -> str:
    """The URL of a websocket at a base URL of http or https: always with a port, as clients need it. Raises Invalid."""
    try:
        parts = urlsplit(base)
        host, port = parts.hostname or "", parts.port or PORTS[parts.scheme]
    except (ValueError, KeyError):
        raise Invalid("the address of the request is no http address") from None
    query = {"token": secret, "uuid": uuid} | ({} if exec_id is None else {"exec_id": exec_id})
    host = f"[{host}]" if ":" in host else host
    scheme = parts.scheme.replace("http", "ws")
    return f"{scheme}://{host}:{port}{parts.path.rstrip('/')}{PATH}?{urlencode(query)}"


class Streams:
    """ASGI: serves websockets; everything else goes on to `app`."""

    def __init__(self, app: ASGIApp, gateway: Gateway) -> None:
        self.app = app
        self._gateway = gateway
        self._open: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "websocket":
            await self.app(scope, receive, send)
            return
        query = parse_qs(scope["query_string"].decode("latin-1"))
        # The server logs what it finds here, and a secret must not be in any log.
        scope["query_string"] = b""
        if (await receive())["type"] != "websocket.connect":
            return
        answered = False

        async def send_noted(message: object) -> None:
            nonlocal answered
            answered = True
            await send(message)  # type: ignore[arg-type]  # one of ASGI's, as it came

        try:
            await self._serve(scope, query, receive, send_noted)
        except GatewayError as error:
            if not answered:
                await _refuse(scope, send, error)
        except OSError:
            pass  # the server's word for a client that is gone
        except Exception:
            log.exception("websocket failed")
            if not answered:
                await _refuse(scope, send, GatewayError("Internal Server Error"))

    async def _serve(self, scope: Scope, query: dict[str, list[str]], receive: Receive, send: Send) -> None:
        if canonical(scope["path"]) != canonical(PATH):
            raise NotFound("Not Found")
        check_origin(scope, self._gateway.settings)
        subprotocol = _subprotocol(scope["subprotocols"])
        secret, uuid = _one(query, "token"), _one(query, "uuid")
        exec_id = _one(query, "exec_id") if "exec_id" in query else None
        box = await tickets.redeem(self._gateway.database, secret, uuid, exec_id)
        if box is None or box.engine_ref is None:
            raise Forbidden("The ticket is unknown, used or expired: ask for a new one.", code="ticket-refused")
        most = self._gateway.settings.limits.websockets
        if self._open[box.project_id] >= most:
            raise TooManyRequests(f"The project has {most} websockets open already, the most at a time.")
        self._open[box.project_id] += 1
        try:
            await self._connect(box, exec_id, subprotocol, receive, send)
        finally:
            self._open[box.project_id] -= 1
            if not self._open[box.project_id]:
                del self._open[box.project_id]

    async def _connect(
        self, box: Container, exec_id: str | None, subprotocol: str | None, receive: Receive, send: Send
    ) -> None:
        engine = self._gateway.engines.reach(box.backend)
        async with _stream(engine, box.engine_ref or "", exec_id) as stream:
            await send({"type": "websocket.accept", "subprotocol": subprotocol})
            log.info("stream opened", container=box.uuid, exec=exec_id)
            ended = False
            try:
                ended = await _talk(stream, receive, send)
            finally:
                if exec_id is not None and not ended:
                    await _hang_up(engine, box, exec_id)
                log.info("stream closed", container=box.uuid, exec=exec_id, by="target" if ended else "client")


def check_origin(scope: Scope, settings: Settings) -> None:
    """Whether the page that a browser shows may talk to us (zun-api, section 6). Raises Forbidden.

    Its host must be the one that the request was sent to, the public one, or one that settings name; its scheme that of
    the address we give out. Programs send no Origin, or the right one.
    """
    headers = [(name, value.decode("latin-1")) for name, value in scope["headers"]]
    origins = [value for name, value in headers if name == b"origin"]
    if not origins:
        return
    hosts = [f"//{value}" for name, value in headers if name == b"host"]
    public = settings.public_url
    secure = urlsplit(public).scheme == "https" if public else scope["scheme"] in ("wss", "https")
    try:
        origin = urlsplit(origins[0])
        known = {urlsplit(url).hostname for url in [*hosts, *([public] if public else [])]}
        known |= {name.lower() for name in settings.allowed_origins}
        same = len(origins) == 1 and origin.hostname is not None and origin.hostname in known
        good = same and origin.scheme == ("https" if secure else "http")
    except ValueError:
        good = False
    if not good:
        raise Forbidden("Pages of this origin may not open a websocket here.", code="origin-refused")


def _subprotocol(offered: list[str]) -> str | None:
    if PROTOCOL in offered:
        return PROTOCOL
    if offered:
        raise Invalid(f"The only sub-protocol here is {PROTOCOL!r}.")
    return None


def _one(query: dict[str, list[str]], name: str) -> str:
    values = query.get(name, [])
    if len(values) != 1 or len(values[0]) > 255:
        raise Forbidden(f"There must be exactly one {name} in the query.", code="ticket-refused")
    return values[0]


def _stream(engine: ContainerEngine, ref: str, exec_id: str | None) -> AbstractAsyncContextManager[Stream]:
    """A ticket was only given out for what the engine can do."""
    if exec_id is None:
        return cast(Attaches, engine).attach(ref)
    return cast(Execs, engine).open_exec(ref, exec_id)


async def _talk(stream: Stream, receive: Receive, send: Send) -> bool:
    """Carry bytes both ways until one side ends; whether that was the target.

    Neither side is read faster than the other takes it: `send` waits for a slow client, `write` for a slow target.
    """
    there = asyncio.create_task(_to_client(stream, send))
    back = asyncio.create_task(_to_target(stream, receive))
    try:
        await asyncio.wait((there, back), return_when=asyncio.FIRST_COMPLETED)
        if there.done() and not there.cancelled():
            there.result()
            return True
        return False
    finally:
        for task in (there, back):
            task.cancel()
        await asyncio.gather(there, back, return_exceptions=True)


async def _to_client(stream: Stream, send: Send) -> None:
    """Output as binary messages. Clients decode each by itself, so none ends within a character of UTF-8."""
    rest, code, reason = b"", ENDED, ""
    try:
        while chunk := await stream.read():
            chunk = rest + chunk if rest else chunk
            end = whole(chunk)
            rest = chunk[end:]
            if end:
                await send({"type": "websocket.send", "bytes": chunk[:end] if rest else chunk})
    except EngineError as error:
        code, reason = BROKEN, error.title.encode()[:120].decode(errors="ignore")
    if rest:
        await send({"type": "websocket.send", "bytes": rest})
    await send({"type": "websocket.close", "code": code, "reason": reason})


async def _to_target(stream: Stream, receive: Receive) -> None:
    while (message := await receive())["type"] == "websocket.receive":
        data = message.get("bytes")
        await stream.write((message.get("text") or "").encode() if data is None else data)


def whole(data: bytes) -> int:
    """How much of `data` there is before a character of UTF-8 whose end is missing; all, when none is."""
    for back in range(1, min(3, len(data)) + 1):
        byte = data[-back]
        if byte >= 0xC0:
            needs = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return len(data) - back if needs > back else len(data)
        if byte < 0x80:
            break
    return len(data)


async def _hang_up(engine: ContainerEngine, box: Container, exec_id: str) -> None:
    """Nobody can come back to a command whose terminal is gone."""
    with suppress(EngineError, TimeoutError):
        async with asyncio.timeout(HANG_UP_SECONDS):
            await cast(Execs, engine).hang_up(box.engine_ref or "", exec_id)


async def _refuse(scope: Scope, send: Send, error: GatewayError) -> None:
    """An HTTP answer instead of a handshake, where the server can; else its own 403."""
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": 1008, "reason": ""})
        return
    answer = render(scope, error)
    await send({"type": "websocket.http.response.start", "status": answer.status_code, "headers": answer.raw_headers})
    await send({"type": "websocket.http.response.body", "body": bytes(answer.body), "more_body": False})
