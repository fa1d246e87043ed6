"""Calls of Docker's HTTP API through aiodocker: connecting, limits of time, and every failure as one of our errors.

Requests go through aiodocker's `_do_query`: its own methods know no update, search or ping, give text where we want
bytes, put no limit on a silent stream, and take a broken stream for a finished one.
"""

import asyncio
import json
import os
import socket
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from weakref import WeakSet, WeakValueDictionary

import aiohttp
from aiodocker import Docker
from aiodocker.exceptions import DockerError
from aiohttp.client_exceptions import UnixClientConnectorError
from yarl import URL

from app.backends.docker import shapes
from app.errors import EngineBug, EngineError, Gone, Unavailable

NO_CONNECTION = 900  # aiodocker's number, beside the statuses of HTTP
CLOSE_TURNS = 100  # of the loop, at most, until connections that were cut are gone


def find_url() -> str | None:
    """Where an engine listens: DOCKER_HOST, else the first socket of Docker or Podman that is there."""
    if url := os.environ.get("DOCKER_HOST"):
        return url
    sockets = ["/var/run/docker.sock", "/run/docker.sock", "/run/podman/podman.sock"]
    if own := os.environ.get("XDG_RUNTIME_DIR"):
        sockets[2:2] = [f"{own}/docker.sock", f"{own}/podman/podman.sock"]
    return next((f"unix://{path}" for path in sockets if Path(path).is_socket()), None)


def translate(error: Exception) -> EngineError:
    """Any exception of aiodocker, aiohttp or the system as one of ours, with the engine's own sentence as title."""
    if isinstance(error, EngineError):
        return error
    if isinstance(error, DockerError):
        if error.status == NO_CONNECTION:
            return Unavailable(f"the engine does not answer: {_reason(error.__context__) or error.message}")
        return shapes.failure(error.status, error.message)
    if isinstance(error, TimeoutError):
        return Unavailable("the engine did not answer in time")
    if isinstance(error, aiohttp.ClientError | OSError):
        return Unavailable(f"the connection to the engine broke: {error}")
    return EngineBug(f"the engine's answer makes no sense: {error!r}")


def _reason(error: BaseException | None) -> str:
    if isinstance(error, UnixClientConnectorError):
        return f"{error.path}: {error.strerror}"
    return str(error or "")


class Session:
    """What belongs to one event loop: the client, its open replies, the semaphore for dear calls, locks of networks."""

    def __init__(self, url: str, slots: int, tls: ssl.SSLContext | None = None) -> None:
        self._sockets: WeakSet[socket.socket] = WeakSet()
        self.client, self._connector = _connect(url, tls, self._sockets)
        self.slots = asyncio.Semaphore(slots)
        self.networks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self.replies: set[aiohttp.ClientResponse] = set()
        self.daemon_api: str | None = None

    def hang_up(self, reply: aiohttp.ClientResponse) -> None:
        """Close a reply, over TLS without a goodbye: a node that is gone would be waited for half a minute."""
        transport = reply.connection.transport if reply.connection is not None else None
        if transport is not None and transport.get_extra_info("sslcontext"):
            transport.abort()
        reply.close()

    async def close(self) -> None:
        """Close all connections, also those that are being made, before the loop ends."""
        # Closing connections alone does not wake whoever reads from one.
        for reply in tuple(self.replies):
            self.hang_up(reply)
        await self.client.close()
        if self._connector is not None:
            await self._connector.close(abort_ssl=True)
        # asyncio forgets one whose making is given up just before its TLS begins.
        for one in tuple(self._sockets):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for _ in range(CLOSE_TURNS):
            if all(one.fileno() < 0 for one in tuple(self._sockets)):
                break
            await asyncio.sleep(0)


def _connect(
    url: str, tls: ssl.SSLContext | None, sockets: WeakSet[socket.socket]
) -> tuple[Docker, aiohttp.BaseConnector | None]:
    """The client of an engine, and its connector unless the client knows better; `sockets` gets those of TLS."""

    def make(address: aiohttp.AddrInfoType) -> socket.socket:
        made = socket.socket(*address[:3])
        sockets.add(made)
        return made

    # Without a limit on connections, because each stream holds one.
    try:
        if tls is not None:
            sealed = aiohttp.TCPConnector(limit=0, ssl=tls, socket_factory=make)
            return Docker(url.replace("tcp://", "https://"), connector=sealed), sealed
        if url.startswith("unix://"):
            local = aiohttp.UnixConnector(url.removeprefix("unix://"), limit=0)
            return Docker("unix://localhost", connector=local), local
        if url.startswith("tcp://") and os.environ.get("DOCKER_TLS_VERIFY", "0") != "1":
            remote = aiohttp.TCPConnector(limit=0)
            return Docker(url, connector=remote), remote
        return Docker(url), None
    except (ValueError, ImportError) as error:
        raise Unavailable(f"{url}: {error}") from error


class Calls:
    """The API of the daemon at `url` (None: look for one when the first call is made), over TLS if `tls` says how.

    `patience` is the seconds within which a unary call must be answered; `slots` is how many dear calls run at a time.
    """

    def __init__(self, name: str, url: str | None, slots: int, tls: ssl.SSLContext | None = None) -> None:
        self.patience = 60.0
        self.closed = False
        self._name = name
        self._url = url
        self._slots = slots
        self._tls = tls
        self._sessions: dict[asyncio.AbstractEventLoop, Session] = {}

    @property
    def is_local(self) -> bool:
        """Whether the engine is on this host, so that files of this host tell about it."""
        return (self._url or find_url() or "").startswith("unix://")

    @property
    def session(self) -> Session:
        """The running event loop's session, made on first use. Raises Unavailable when there is no engine."""
        if self.closed:
            raise Unavailable(f"engine {self._name} is closed")
        loop = asyncio.get_running_loop()
        if loop not in self._sessions:
            url = self._url or find_url()
            if url is None:
                raise Unavailable("no container engine found: no DOCKER_HOST, and no socket of Docker or Podman")
            self._sessions[loop] = Session(url, self._slots, self._tls)
        return self._sessions[loop]

    async def close(self) -> None:
        """Free the connections of the running event loop. No more calls are made."""
        self.closed = True
        if session := self._sessions.pop(asyncio.get_running_loop(), None):
            await session.close()

    async def call(
        self,
        method: str,
        path: str,
        query: Mapping[str, Any] | None = None,
        *,
        body: Mapping[str, Any] | None = None,
        seconds: float | None = None,
    ) -> Any:
        """A unary call, within `seconds` instead of `patience`: the decoded answer, None when it is empty."""
        try:
            async with (
                asyncio.timeout(seconds or self.patience),
                self.reply(method, path, query, body=body, seconds=seconds) as response,
            ):
                raw = await response.read()
                return json.loads(raw) if raw else None
        except TimeoutError as error:
            raise translate(error) from error

    @asynccontextmanager
    async def reply(
        self,
        method: str,
        path: str,
        query: Mapping[str, Any] | None = None,
        *,
        body: Mapping[str, Any] | bytes | AsyncIterator[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        seconds: float | None = None,
        versioned: bool = True,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The head of an answer, within `seconds` instead of `patience`; what is read then is the caller's to limit.

        A `body` of bytes, whole or in pieces, is sent as it is, any other as JSON.
        Raises EngineError, also for what goes wrong while the caller reads.
        """
        try:
            session = self.session
            async with asyncio.timeout(seconds or self.patience):
                if versioned and session.client.api_version == "auto":
                    document = await session.client._query_json("version", versioned_api=False)
                    session.client.api_version = shapes.api_version(document)
                response = await session.client._do_query(
                    path,
                    method,
                    params=query or {},
                    data=json.dumps(body).encode() if isinstance(body, Mapping) else body,
                    headers=headers,
                    timeout=None,
                    versioned_api=versioned,
                )
            session.replies.add(response)
            try:
                yield response
            finally:
                session.replies.discard(response)
                session.hang_up(response)
        except (DockerError, aiohttp.ClientError, OSError, ValueError, LookupError) as error:
            if isinstance(error, DockerError) and error.status != NO_CONNECTION and not await self._is_open():
                raise Unavailable(error.message) from error
            raise translate(error) from error
        except RuntimeError as error:
            # aiohttp's word for a call that met the closing.
            if self.closed:
                raise Unavailable(f"engine {self._name} is closed") from error
            raise

    async def _is_open(self) -> bool:
        """Whether the daemon takes new connections.

        One that is told to end closes its door first, and answers whoever is inside with failures of every sort while
        it takes itself apart. Those are nobody's fault, and asking again later helps.
        """
        url = URL(self._url or find_url() or "")
        try:
            async with asyncio.timeout(self.patience):
                if url.scheme == "unix":
                    _, writer = await asyncio.open_unix_connection(url.path)
                elif url.host and url.port:
                    _, writer = await asyncio.open_connection(url.host, url.port)
                else:
                    return True
        except OSError:
            return False
        writer.close()
        with suppress(OSError):  # the daemon may have closed it first
            await writer.wait_closed()
        return True


def container_path(ref: str) -> str:
    """The path of a container. Raises Gone for what is no id, so that no `ref` reaches another path."""
    if not (ref.isascii() and ref.replace("-", "").isalnum()):
        raise Gone(f"No such container: {ref}")
    return f"containers/{ref}"


async def next_chunk(response: aiohttp.ClientResponse, silence: float | None) -> bytes:
    """What the stream has next, b"" at its end. Raises TimeoutError after `silence` seconds without a byte."""
    async with asyncio.timeout(silence):
        return await response.content.readany()


def text_of(path: str) -> str:
    """What a file of this host holds; nothing when it cannot be read."""
    try:
        return Path(path).read_text()
    except OSError:
        return ""
