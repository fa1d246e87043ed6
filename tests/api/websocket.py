"""A websocket to an application in process: what a server would tell it, and what it answers."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

from tests.api.caisson import PATIENCE


class Refused(Exception):
    """The handshake was refused."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(f"{status} {body!r}")
        self.status, self.body = status, body


class Closed(Exception):
    """The other side closed."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code} {reason}")
        self.code, self.reason = code, reason


class Socket:
    """An open websocket.

    Attributes:
        subprotocol: the chosen one.
        taking: cleared, the client takes no more messages than it has, and the application's `send` waits.
        waiting: how many messages were sent and not yet read.
    """

    def __init__(self) -> None:
        self.subprotocol: str | None = None
        self.taking = asyncio.Event()
        self.taking.set()
        self.given: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._told: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    @property
    def waiting(self) -> int:
        return self._told.qsize()

    async def send(self, data: bytes | str) -> None:
        kind = "text" if isinstance(data, str) else "bytes"
        await self.given.put({"type": "websocket.receive", kind: data})

    async def leave(self, code: int = 1005) -> None:
        """The client is gone."""
        await self.given.put({"type": "websocket.disconnect", "code": code})

    async def message(self) -> bytes:
        """The next message. Raises Closed."""
        async with asyncio.timeout(PATIENCE):
            told = await self._told.get()
        if told["type"] == "websocket.close":
            raise Closed(told["code"], told["reason"])
        assert told["type"] == "websocket.send"
        found: bytes = told["bytes"]
        return found

    async def heard(self, wanted: bytes) -> bytes:
        """Messages in one, until `wanted` is in them."""
        found = b""
        while wanted not in found:
            found += await self.message()
        return found

    async def closed(self) -> int:
        """Reads on until the other side closes; its code."""
        while True:
            try:
                await self.message()
            except Closed as closed:
                return closed.code

    async def _take(self, message: dict[str, Any]) -> None:
        await self.taking.wait()
        await self._told.put(message)

    async def _handshake(self) -> None:
        async with asyncio.timeout(PATIENCE):
            told = await self._told.get()
            if told["type"] == "websocket.close":
                raise Refused(403, b"")
            if told["type"] == "websocket.http.response.start":
                raise Refused(told["status"], (await self._told.get())["body"])
        assert told["type"] == "websocket.accept"
        self.subprotocol = told["subprotocol"]


@asynccontextmanager
async def websocket(
    app: Any,
    url: str,
    *,
    offered: Sequence[str] = ("binary", "base64"),
    headers: Mapping[str, str] | None = None,
    extensions: Sequence[str] = ("websocket.http.response",),
    scheme: str = "ws",
) -> AsyncIterator[Socket]:
    """Open it; leaves when the block ends, and waits until the application has noticed. Raises Refused."""
    parts = urlsplit(url)
    sent = {"host": parts.netloc} | dict(headers or {})
    scope = {
        "type": "websocket",
        "scheme": scheme,
        "path": parts.path,
        "raw_path": parts.path.encode(),
        "query_string": parts.query.encode(),
        "headers": [(name.lower().encode(), value.encode()) for name, value in sent.items()],
        "subprotocols": list(offered),
        "extensions": {name: {} for name in extensions},
        "state": {},
    }
    socket = Socket()
    await socket.given.put({"type": "websocket.connect"})
    task = asyncio.create_task(app(scope, socket.given.get, socket._take))
    try:
        await socket._handshake()
        yield socket
    finally:
        await socket.leave()
        socket.taking.set()
        with suppress(TimeoutError):
            await asyncio.wait_for(task, PATIENCE)
        assert task.done()
        assert not scope["query_string"], "the secret would be logged"
