"""The served process's edge: heads that do not end, and how it goes away."""

import asyncio
import json
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn
import websockets

from app.health import Draining
from app.server import HEAD_BYTES, Protocol, Server
from tests.api.caisson import eventually

OK = b"HTTP/1.1 200"


class Impatient(Protocol):
    """Does not wait for long."""

    head_seconds = 0.3


async def app(scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]) -> None:
    """Says ok, or holds a websocket open."""
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (await receive())["type"] != "websocket.disconnect":
            pass
    else:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})


class Served:
    """A server in this process."""

    def __init__(self, seconds: float) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self.draining = Draining()
        config = uvicorn.Config(app, http=Impatient, log_level="critical", lifespan="off", access_log=False)
        self.server = Server(config, self.draining, seconds)
        self.task = asyncio.create_task(self.server._serve([self.listener]))

    async def started(self) -> None:
        async def yes() -> bool:
            return self.server.started

        await eventually(yes, lambda: "it did not start")

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        await self.started()
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def end(self) -> None:
        self.server.should_exit = True
        await self.task


@asynccontextmanager
async def serving(seconds: float = 0.0) -> AsyncIterator[Served]:
    made = Served(seconds)
    try:
        yield made
    finally:
        await made.end()


def told(answer: bytes, status: int, code: str) -> None:
    """A refusal that stands before every route has the shape of all others."""
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert lines[0].startswith(f"HTTP/1.1 {status} ")
    headers = dict(line.split(": ") for line in lines[1:])
    assert headers["content-length"] == str(len(body))
    (error,) = json.loads(body)["errors"]
    assert (error["status"], error["code"], error["links"]) == (status, code, [])
    assert error["title"] == error["detail"] != ""
    assert error["request_id"] == headers["x-openstack-request-id"]


@pytest.mark.parametrize("head", [b"G", b"GET / HTTP/1.1\r\nhost: x\r\n", b"GET / HTTP/1.1\r\nx: " + b"a" * 1000])
async def test_a_head_that_does_not_end(head: bytes) -> None:
    async with serving() as served:
        reader, writer = await served.connect()
        writer.write(head)
        told(await reader.read(), 408, "container.request-timeout")
        writer.close()


@pytest.mark.parametrize(
    "line", [b"nonsense\r\n\r\n", b"GET / HTTP/9\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\r\n", b"GET\r\n\r\n"]
)
async def test_what_is_no_http(line: bytes) -> None:
    async with serving() as served:
        reader, writer = await served.connect()
        writer.write(line)
        told(await reader.read(), 400, "container.bad-request")
        writer.close()


async def test_a_connection_that_says_nothing() -> None:
    async with serving() as served:
        reader, writer = await served.connect()
        assert await reader.read() == b""
        writer.close()


async def test_a_second_head_that_does_not_end() -> None:
    """After an answer, a few bytes do not keep the connection for ever, not even empty lines."""
    async with serving() as served:
        reader, writer = await served.connect()
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        assert (await reader.readuntil(b"ok")).startswith(OK)
        writer.write(b"\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 408 ")
        writer.close()


@pytest.mark.parametrize("end", [b"", b"\r\n\r\n"], ids=["unfinished", "finished"])
async def test_a_head_that_is_too_large(end: bytes) -> None:
    async with serving() as served:
        reader, writer = await served.connect()
        # No more than that: what is not read breaks the answer off.
        writer.write(b"GET / HTTP/1.1\r\nx: %s" % (b"a" * HEAD_BYTES) + end)
        told(await reader.read(), 431, "container.request-header-too-large")
        writer.close()


async def test_what_is_no_http_does_not_get_into_the_answer_before_it() -> None:
    """A client that sends the next request early could take a refusal for a part of the first answer."""
    async with serving() as served:
        reader, writer = await served.connect()
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\nnonsense\r\n\r\n")
        assert b"errors" not in await reader.read()
        writer.close()


async def test_requests_one_after_the_other() -> None:
    async with serving() as served:
        reader, writer = await served.connect()
        for _ in range(3):
            writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            assert (await reader.readuntil(b"ok")).startswith(OK)
            await asyncio.sleep(0.2)  # together longer than one head may take
        writer.close()


async def test_it_serves_while_it_drains_and_a_second_signal_ends_that() -> None:
    async with serving(seconds=600) as served:
        await served.started()
        served.server.handle_exit(signal.SIGTERM, None)
        assert served.draining.now
        reader, writer = await served.connect()
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        assert (await reader.readuntil(b"ok")).startswith(OK)
        assert not served.task.done()
        served.server.handle_exit(signal.SIGTERM, None)
        await asyncio.wait_for(served.task, 20)
        writer.close()


async def test_it_ends_by_itself_once_it_has_drained() -> None:
    async with serving(seconds=0.2) as served:
        await served.started()
        served.server.handle_exit(signal.SIGTERM, None)
        await asyncio.wait_for(served.task, 20)


async def test_websockets_are_told_that_it_restarts() -> None:
    async with serving() as served:
        await served.started()
        async with websockets.connect(f"ws://127.0.0.1:{served.port}/") as client:
            served.server.handle_exit(signal.SIGTERM, None)
            with pytest.raises(websockets.ConnectionClosed):
                await client.recv()
            assert client.close_code == 1012
