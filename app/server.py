"""Serving: uvicorn with bounds on how slowly and how largely a request may begin, and an end that loses nobody.

On SIGTERM the process goes on serving for `drain_seconds` and says in every answer, and to whoever asks whether it is
ready, that it wants no more; then it stops listening, finishes what runs, and closes websockets with 1012.
"""

import asyncio
import gc
import json
import resource
import signal
import socket
import sys
import time
from contextlib import suppress
from http import HTTPStatus
from types import FrameType
from typing import Any
from uuid import uuid4

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.errors import GatewayError, HeadTooLarge, Invalid, SlowClient, envelope
from app.health import Draining
from app.main import create_app
from app.passwords import return_large_blocks
from app.settings import Settings

WEBSOCKET_MESSAGE = 1024 * 1024  # bytes that a client may send in one
HEAD_BYTES = 64 * 1024  # of a request's line and headers; a token has at most 16 KiB
HEAD_SECONDS = 10.0  # until they are complete
# Until the next request on a connection. OpenStack's clients look every five seconds whether something is done, and
# fail when the connection is closed just then; proxies close theirs after sixty, and must be the first.
IDLE_SECONDS = 75
UNREADABLE = Invalid("The request cannot be read as HTTP.", code="bad-request")
LATE = SlowClient("The line and the headers of the request did not come in time.")
LARGE = HeadTooLarge(f"The line and the headers of the request are larger than the limit of {HEAD_BYTES} bytes.")


class Protocol(HttpToolsProtocol):
    """Ends a connection on which a request's head does not get complete, or gets too large."""

    head_seconds = HEAD_SECONDS
    _head_timer: asyncio.TimerHandle | None = None
    _head_bytes = 0

    def connection_made(self, transport: Any) -> None:
        """The first request is awaited from here on."""
        super().connection_made(transport)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        """Count what belongs to a head; the first bytes after an answer begin the next."""
        if self.timeout_keep_alive_task is not None:
            self._await_head()
        self._head_bytes += len(data)
        super().data_received(data)
        if self._head_timer is not None and self._head_bytes > HEAD_BYTES:
            self._give_up(LARGE)

    def on_headers_complete(self) -> None:
        """What follows is the body, which is bounded elsewhere (`app.gate.Intake`)."""
        self._forget_head()
        if len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > HEAD_BYTES:
            self._give_up(LARGE)  # it came in one piece
            raise httptools.HttpParserError(LARGE.title)
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is awaited any more."""
        self._forget_head()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP."""
        self._give_up(UNREADABLE)

    def _await_head(self) -> None:
        self._forget_head()
        self._head_bytes = 0
        self._head_timer = self.loop.call_later(self.head_seconds, self._give_up, LATE)

    def _forget_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _give_up(self, error: GatewayError) -> None:
        self._forget_head()
        if not self.transport.is_closing():
            # Who has sent nothing asked nothing, and within another answer nobody could tell where this one begins.
            if self._head_bytes and getattr(self.cycle, "response_complete", True):
                self.transport.write(_refusal(error))
            self.transport.close()


def _refusal(error: GatewayError) -> bytes:
    """The answer to what never became a request, so that nobody knows which API it is for: in Zun's shape."""
    request_id = f"req-{uuid4()}"
    body = json.dumps(envelope(error.status, error.code, error.title, error.detail, request_id)).encode()
    lines = [
        f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}",
        "content-type: application/json",
        f"content-length: {len(body)}",
        "connection: close",
        f"x-openstack-request-id: {request_id}",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


class Server(uvicorn.Server):
    """Drains before it shuts down; a second signal ends that at once."""

    def __init__(self, config: uvicorn.Config, draining: Draining, seconds: float) -> None:
        super().__init__(config)
        self._draining = draining
        self._seconds = seconds
        self._until = 0.0

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to serve. What was made until now stays; to look through it for garbage takes a tenth of a second, in
        which nobody would be answered."""
        await super().startup(sockets)
        gc.freeze()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain, or end it."""
        if self._draining.now or not self._seconds or not self.started:
            self._draining.now = True
            super().handle_exit(sig, frame)
            return
        self._captured_signals.append(sig)
        self._until = time.monotonic() + self._seconds
        self._draining.now = True

    async def on_tick(self, counter: int) -> bool:
        """Asked ten times a second whether it is time to go."""
        if self._draining.now and time.monotonic() >= self._until:
            self.should_exit = True
        return await super().on_tick(counter)


def serve(settings: Settings, listener: socket.socket) -> bool:
    """Serve until a signal ends it; whether it had started. Raises Invalid for settings that cannot work."""
    _notice_dead_peers(listener)
    return_large_blocks()
    _allow_many_files()
    draining = Draining()
    config = uvicorn.Config(
        create_app(settings, draining=draining),
        http=Protocol,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=int(settings.shutdown_seconds),
        lifespan="on",
        # python-zunclient waits for output once it has met a ping, and no longer for what is typed.
        ws_ping_interval=None,
        ws_per_message_deflate=False,
        ws_max_size=WEBSOCKET_MESSAGE,
    )
    server = Server(config, draining, settings.drain_seconds)
    # Once it has shut down, uvicorn raises the signal that asked for it once more; to be asked to end is no error here.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    with suppress(KeyboardInterrupt):
        server.run(sockets=[listener])
    return server.started


def _notice_dead_peers(listener: socket.socket) -> None:
    """Connections inherit this: the system asks after idle peers, and ends what does not answer for two minutes."""
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, name):
            listener.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _allow_many_files() -> None:
    """Each terminal takes two descriptors, and systems give 1,024 unless asked for what they allow."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = 65536 if hard == resource.RLIM_INFINITY else hard
    if soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
