"""Talking to what runs in a pod: the API server's websockets, which carry input, output and the outcome in channels."""

import json
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlencode

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.typing import Subprotocol

from app.backends.kubernetes.api import failure
from app.errors import EngineError, Unavailable

PROTOCOL = Subprotocol("v4.channel.k8s.io")
INPUT, OUTPUT, ERRORS, OUTCOME, SIZE = range(5)


class PodStream:
    """Both directions of a process in a pod; see `engine.Stream`. `outcome` is there when it has ended."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self.outcome: dict[str, Any] | None = None

    async def read(self) -> bytes:
        """What comes next of output and errors; b"" when the process has ended."""
        while True:
            try:
                message = await self._socket.recv(decode=False)
            except ConnectionClosed:
                return b""
            channel, content = message[0], message[1:]
            if channel == OUTCOME:
                self.outcome = json.loads(content or b"{}")
            elif channel in (OUTPUT, ERRORS) and content:
                return content

    async def write(self, data: bytes) -> None:
        """Hand over input; who has ended ignores it."""
        await self._send(INPUT, data)

    async def resize(self, height: int, width: int) -> None:
        """Tell the terminal its size."""
        await self._send(SIZE, json.dumps({"Width": width, "Height": height}).encode())

    async def close(self) -> None:
        """Hang up."""
        await self._socket.close()

    @property
    def exit_code(self) -> int:
        """What the process ended with; 126 for one that could not be begun."""
        if self.outcome is None or self.outcome.get("status") == "Success":
            return 0
        causes = (self.outcome.get("details") or {}).get("causes") or ()
        return next((int(cause["message"]) for cause in causes if cause.get("reason") == "ExitCode"), 126)

    @property
    def complaint(self) -> str:
        """Why a process could not be begun; "" when it was."""
        outcome = self.outcome or {}
        begun = outcome.get("status") == "Success" or outcome.get("reason") == "NonZeroExitCode"
        return "" if begun else str(outcome.get("message", ""))

    async def _send(self, channel: int, data: bytes) -> None:
        try:
            await self._socket.send(bytes([channel]) + data)
        except ConnectionClosed:
            return


@asynccontextmanager
async def opened(
    server: str, tls: ssl.SSLContext, path: str, query: Sequence[tuple[str, str]]
) -> AsyncIterator[PodStream]:
    """A stream of a pod until the block ends. Raises EngineError in the words of the API server."""
    url = f"{server.replace('https://', 'wss://', 1)}{path}?{urlencode(query)}"
    try:
        socket = await connect(url, ssl=tls, subprotocols=[PROTOCOL], max_size=None, proxy=None)
    except InvalidStatus as error:
        raise _refusal(error) from error
    except (WebSocketException, OSError, TimeoutError) as error:
        raise Unavailable(f"{server}: {error}") from error
    try:
        yield PodStream(socket)
    finally:
        await socket.close()


def _refusal(error: InvalidStatus) -> EngineError:
    try:
        words = str(json.loads(error.response.body or b"{}").get("message", ""))
    except ValueError:
        words = bytes(error.response.body or b"").decode(errors="replace")
    return failure(error.response.status_code, words or str(error))
