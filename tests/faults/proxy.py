"""A process before an engine or other service that holds, delays and cuts calls, and kills or freezes whom it is told.

Run as ``python -m tests.faults.proxy LISTEN ENGINE CONTROL SCHEME``, three Unix sockets; the first two may be
``host:port``. It speaks enough HTTP/1.1 to know one call from the next; event streams, logs and hijacked connections
pass through. With the scheme ``postgres`` it stands before a PostgreSQL: then each statement is a call, whose line is
its text, and ``CONNECT`` is the first of a connection. A client that goes away takes its connection to the engine
along, as it would without a proxy.

Control is a line of JSON for each command and each answer; `tests.faults.gateway.Proxy` is the other side.
"""

import asyncio
import itertools
import json
import os
import re
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any
from urllib.parse import unquote_plus

VERSION = re.compile(r"^/v\d+\.\d+(?=/)")
LARGEST_HEAD = 1 << 20
NO_TLS = (80877103).to_bytes(4, "big")  # what a client of PostgreSQL asks first, to be told no


class Cut(Exception):
    """Both connections of this client are to be closed now."""


@dataclass
class Call:
    """One request: what was asked, when it came and when its answer was passed on (seconds, monotonic clock)."""

    line: str
    began: float
    ended: float | None = None
    status: int = 0


@dataclass
class Rule:
    """What to do at the `nth` call (`every`: and at each later one) whose line matches.

    `line` is a regular expression for method, path and query without the API's version: ``POST /containers/create?…``.
    `when` is before the call is passed on, or after its whole answer has come and before any of it is passed back.
    `act`: kill or freeze `pid`; hold until released; delay for `seconds`; cut.
    A frozen client's call is passed on meanwhile, unless `hold_too`.
    """

    line: str
    when: str
    act: str
    pid: int = 0
    nth: int = 1
    every: bool = False
    seconds: float = 0.0
    hold_too: bool = False
    matched: int = 0
    fired: int = 0
    released: asyncio.Event = field(default_factory=asyncio.Event)


class Board:
    """The rules in force, and every call so far."""

    def __init__(self) -> None:
        self.rules: dict[int, Rule] = {}
        self.calls: list[Call] = []
        self._numbers = itertools.count(1)

    def add(self, rule: Rule) -> int:
        """Put a rule in force and return its number."""
        number = next(self._numbers)
        self.rules[number] = rule
        return number

    def release(self, number: int) -> None:
        """End a rule; what it holds goes on."""
        if rule := self.rules.pop(number, None):
            rule.released.set()

    def wants(self, call: Call) -> bool:
        """Whether a rule may act after this call, so that its answer has to be collected first."""
        return any(rule.when == "after" and re.search(rule.line, call.line) for rule in self.rules.values())

    async def reach(self, call: Call, when: str) -> None:
        """Let the rules act on a call at this moment. Raises Cut."""
        for rule in list(self.rules.values()):
            if rule.when != when or not re.search(rule.line, call.line):
                continue
            rule.matched += 1
            if rule.matched == rule.nth or (rule.every and rule.matched > rule.nth):
                rule.fired += 1
                await _act(rule)


async def _act(rule: Rule) -> None:
    match rule.act:
        case "kill":
            os.kill(rule.pid, signal.SIGKILL)
            raise Cut
        case "freeze":
            os.kill(rule.pid, signal.SIGSTOP)
            if rule.hold_too:
                await rule.released.wait()
        case "hold":
            await rule.released.wait()
        case "delay":
            await asyncio.sleep(rule.seconds)
        case "cut":
            raise Cut


class Reader(asyncio.StreamReader):
    """A stream that tells at once when its other end is gone, also while nobody reads."""

    def __init__(self) -> None:
        super().__init__(limit=LARGEST_HEAD)
        self.gone = asyncio.Event()

    def feed_eof(self) -> None:
        """See asyncio."""
        self.gone.set()
        super().feed_eof()

    def set_exception(self, exc: Exception) -> None:
        """See asyncio."""
        self.gone.set()
        super().set_exception(exc)


@dataclass
class Head:
    """The start line and headers of a message."""

    raw: bytes
    start: str
    headers: dict[str, str]

    @property
    def chunked(self) -> bool:
        """Whether the body comes in chunks."""
        return "chunked" in self.headers.get("transfer-encoding", "").lower()

    @property
    def length(self) -> int | None:
        """The body's length when the head tells it."""
        return int(self.headers["content-length"]) if "content-length" in self.headers else None


async def _head(reader: asyncio.StreamReader) -> Head:
    try:
        raw = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        raise Cut from None
    start, *lines = raw.decode("latin-1").rstrip("\r\n").split("\r\n")
    pairs = (line.partition(":") for line in lines)
    return Head(raw, start, {name.strip().lower(): value.strip() for name, _, value in pairs})


async def _body(head: Head, reader: asyncio.StreamReader, put: Callable[[bytes], Awaitable[None]], rest: bool) -> None:
    """Read a body as it comes. Without any length it is empty, or with `rest` all until the connection ends."""
    if head.chunked:
        while True:
            line = await reader.readuntil(b"\r\n")
            size = int(line.split(b";")[0], 16)
            await put(line + await reader.readexactly(size + 2))
            if size == 0:
                return
    left = head.length
    if left is None and not rest:
        return
    while left is None or left > 0:
        piece = await reader.read(65536 if left is None else min(left, 65536))
        if not piece:
            return
        await put(piece)
        left = None if left is None else left - len(piece)


class Proxy:
    """Accepts clients, and serves each over a connection of its own to the engine."""

    def __init__(self, listen: str, engine: str, scheme: str) -> None:
        self.board = Board()
        self._listen, self._engine = listen, engine
        self._talk = self._statements if scheme == "postgres" else self._exchange
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Listen, if it does not."""
        if self._server is not None:
            return
        loop = asyncio.get_running_loop()

        def client() -> asyncio.StreamReaderProtocol:
            return asyncio.StreamReaderProtocol(Reader(), self.serve)

        host, _, port = self._listen.partition(":")
        if port:
            self._server = await loop.create_server(client, host, int(port))
        else:
            self._server = await loop.create_unix_server(client, self._listen)

    def shut(self) -> None:
        """Refuse whoever comes, and cut off whoever is there."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in self._clients:
            task.cancel()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One client, until either side ends."""
        assert isinstance(reader, Reader)
        ends = [writer]
        exchange = asyncio.create_task(self._talk(reader, writer, ends))
        self._clients.add(exchange)
        exchange.add_done_callback(self._clients.discard)
        gone = asyncio.create_task(reader.gone.wait())
        await asyncio.wait((exchange, gone), return_when=asyncio.FIRST_COMPLETED)
        for task in (exchange, gone):
            task.cancel()
        await asyncio.gather(exchange, gone, return_exceptions=True)
        for end in ends:
            end.close()

    async def _exchange(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, ends: list[asyncio.StreamWriter]
    ) -> None:
        """Call after call, over a connection that is added to `ends` with the first."""
        behind: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        while True:
            request = await _head(reader)
            method, target, _ = request.start.split(" ", 2)
            call = Call(f"{method} {VERSION.sub('', unquote_plus(target))}", time.monotonic())
            self.board.calls.append(call)
            sent = bytearray(request.raw)

            async def collect(piece: bytes, sent: bytearray = sent) -> None:
                sent.extend(piece)

            await _body(request, reader, collect, rest=False)
            await self.board.reach(call, "before")
            if behind is None:
                # Not before there is something to say: a server that takes one client at a time would wait for it.
                behind = await _connect(self._engine)
                ends.append(behind[1])
            upstream_reader, upstream = behind
            upstream.write(sent)
            await upstream.drain()
            answer = await _head(upstream_reader)
            call.status = int(answer.start.split(" ")[1])
            if call.status == 101:
                writer.write(answer.raw)
                sending = asyncio.create_task(_pump(reader, upstream))
                try:
                    # What the engine ends is over, whatever the client could still send.
                    await _pump(upstream_reader, writer)
                finally:
                    sending.cancel()
                return
            await self._answer(call, answer, upstream_reader, writer)
            call.ended = time.monotonic()
            bodiless = call.line.startswith("HEAD ") or call.status in (204, 304)
            unbounded = not bodiless and not answer.chunked and answer.length is None
            if unbounded or answer.headers.get("connection", "").lower() == "close":
                return  # a body without a length ends with its connection

    async def _answer(
        self, call: Call, answer: Head, upstream_reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        kept = bytearray(answer.raw)
        collecting = self.board.wants(call)

        async def put(piece: bytes) -> None:
            if collecting:
                kept.extend(piece)
            else:
                writer.write(piece)
                await writer.drain()

        if not collecting:
            writer.write(answer.raw)
        if not call.line.startswith("HEAD ") and call.status not in (204, 304):
            await _body(answer, upstream_reader, put, rest=True)
        if collecting:
            await self.board.reach(call, "after")
            writer.write(kept)
        await writer.drain()

    async def _statements(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, ends: list[asyncio.StreamWriter]
    ) -> None:
        """PostgreSQL's protocol, until either side ends or a rule cuts."""
        startup = await _sized(reader)
        if startup[4:8] == NO_TLS:
            writer.write(b"N")
            startup = await _sized(reader)
        open_calls: list[Call] = []
        await self._begin("CONNECT", open_calls)
        upstream_reader, upstream = await _connect(self._engine)
        ends.append(upstream)
        upstream.write(startup)
        ways = [
            asyncio.create_task(self._ask(reader, upstream, open_calls)),
            asyncio.create_task(self._tell(upstream_reader, writer, open_calls)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _begin(self, line: str, open_calls: list[Call]) -> None:
        call = Call(line, time.monotonic())
        self.board.calls.append(call)
        open_calls.append(call)
        await self.board.reach(call, "before")

    async def _ask(self, reader: asyncio.StreamReader, upstream: asyncio.StreamWriter, open_calls: list[Call]) -> None:
        prepared: dict[bytes, bytes] = {}
        while True:
            kind, message = await reader.readexactly(1), await _sized(reader)
            first, _, rest = message[4:].partition(b"\0")
            second = rest.partition(b"\0")[0]
            if kind == b"P":  # parse: name, text
                prepared[first] = second
            text = {b"Q": first, b"B": prepared.get(second)}.get(kind)  # a simple query; bind: portal, name
            if text is not None:
                await self._begin(" ".join(text.decode().split()), open_calls)
            upstream.write(kind + message)
            await upstream.drain()

    async def _tell(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, open_calls: list[Call]) -> None:
        while True:
            kind, message = await reader.readexactly(1), await _sized(reader)
            if kind == b"Z":  # ready: all that was asked is done
                ended, open_calls[:] = list(open_calls), []
                for call in ended:
                    await self.board.reach(call, "after")
                    call.ended = time.monotonic()
            writer.write(kind + message)
            await writer.drain()

    async def control(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Commands, one a line."""
        with suppress(ConnectionError):
            while line := await reader.readline():
                writer.write(json.dumps(await self._command(**json.loads(line))).encode() + b"\n")
                await writer.drain()
        writer.close()

    async def _command(self, do: str, **given: Any) -> Any:
        match do:
            case "open":
                return await self.open()
            case "shut":
                return self.shut()
            case "add":
                return self.board.add(Rule(**given))
            case "fired":
                rule = self.board.rules.get(given["number"])
                return rule.fired if rule else 0
            case "release":
                self.board.release(given["number"])
                return True
            case "calls":
                return [asdict(call) for call in self.board.calls]
        raise ValueError(do)


async def _sized(reader: asyncio.StreamReader) -> bytes:
    """A message of PostgreSQL's that begins with its length, which is part of it."""
    length = await reader.readexactly(4)
    return length + await reader.readexactly(int.from_bytes(length, "big") - 4)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while piece := await reader.read(65536):
        writer.write(piece)
        await writer.drain()


async def _connect(address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, _, port = address.partition(":")
    if port:
        return await asyncio.open_connection(host, int(port), limit=LARGEST_HEAD)
    return await asyncio.open_unix_connection(address, limit=LARGEST_HEAD)


async def main(listen: str, engine: str, control: str, scheme: str) -> None:
    """Serve until killed."""
    proxy = Proxy(listen, engine, scheme)
    await proxy.open()
    server = await asyncio.start_unix_server(proxy.control, control)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
