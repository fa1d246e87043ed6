"""The Docker engine's means to talk to what runs in a container: logs, commands inside, attached terminals."""

import asyncio
import json
import os
import signal
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
from aiodocker.exceptions import DockerError
from aiodocker.stream import Stream as Upgraded
from yarl import URL

from app.backends.docker import shapes
from app.backends.docker.calls import Calls, Session, container_path, next_chunk, translate
from app.backends.engine import ExecResult, LogOptions, Stream
from app.errors import EngineError, Gone, Refused, Taken, Unavailable

OUTPUT_LIMIT = 8 * shapes.MIB
RESIZE_SECONDS = 3.0  # the engine waits for longer until a command starts
START_SECONDS = 10.0  # until a command whose stream is open runs, or has ended


class DockerStreams:
    """What `DockerEngine` can say to a running container, and hear from it."""

    calls: Calls

    async def logs(self, ref: str, options: LogOptions) -> AsyncIterator[bytes]:
        """The log as raw bytes, in the order of writing; with `follow` until the container ends."""
        document = await self.calls.call("GET", f"{container_path(ref)}/json")
        frames = None if document["Config"]["Tty"] else shapes.Frames()
        asked: dict[str, Any] = {
            "stdout": options.stdout,
            "stderr": options.stderr,
            "timestamps": options.timestamps,
            "follow": options.follow,
            "tail": "all" if options.tail is None else options.tail,
        }
        if options.since is not None:
            asked["since"] = f"{options.since:.9f}"
        async with self.calls.reply("GET", f"{container_path(ref)}/logs", asked) as response:
            # A follower waits for as long as the container is silent.
            while chunk := await next_chunk(response, None if options.follow else self.calls.patience):
                if content := chunk if frames is None else b"".join(frames.feed(chunk)):
                    yield content

    async def execute(self, ref: str, command: Sequence[str], timeout: float) -> ExecResult:
        """Run a command to its end; an unknown one ends with 126 or 127 and the engine's words as output.

        Raises Taken when the container does not run, and after `timeout` seconds: the command is killed then if the
        engine is on this host, and runs on elsewhere, because engines have no means to end one. Refused when it prints
        more than 8 MiB.
        """
        wish = {"AttachStdout": True, "AttachStderr": True, "Cmd": list(command)}
        exec_id = (await self.calls.call("POST", f"{container_path(ref)}/exec", body=wish))["Id"]
        frames, output = shapes.Frames(), bytearray()
        try:
            async with asyncio.timeout(timeout):
                start = {"Detach": False, "Tty": False}
                async with self.calls.reply("POST", f"exec/{exec_id}/start", body=start) as response:
                    while chunk := await next_chunk(response, None):
                        output += b"".join(frames.feed(chunk))
                        if len(output) > OUTPUT_LIMIT:
                            raise Refused(f"the command printed more than {OUTPUT_LIMIT} bytes")
                return ExecResult(bytes(output), await self._exit_code(exec_id))
        except TimeoutError as error:
            await self._signal_exec(ref, exec_id, signal.SIGKILL)
            raise Taken(f"the command did not end within {timeout:g} seconds") from error
        except Refused:
            await self._signal_exec(ref, exec_id, signal.SIGKILL)
            raise

    async def execute_fed(
        self, ref: str, command: Sequence[str], stdin: AsyncIterator[bytes], timeout: float
    ) -> ExecResult:
        """As `execute`, with an input, whose end the command sees. Raises Refused over TLS, which cannot tell it."""
        wish = {"AttachStdin": True, "AttachStdout": True, "AttachStderr": True, "Cmd": list(command)}
        exec_id = (await self.calls.call("POST", f"{container_path(ref)}/exec", body=wish))["Id"]
        url, output = URL(f"exec/{exec_id}/start"), bytearray()
        try:
            async with asyncio.timeout(timeout), self._upgraded(url, {"Detach": False, "Tty": False}, False) as stream:
                feeding = asyncio.create_task(_feed(stream, stdin))
                try:
                    while chunk := await stream.read():
                        output += chunk
                        if len(output) > OUTPUT_LIMIT:
                            raise Refused(f"the command printed more than {OUTPUT_LIMIT} bytes")
                    if feeding.done():
                        feeding.result()
                finally:
                    feeding.cancel()
                    await asyncio.wait([feeding])
                return ExecResult(bytes(output), await self._exit_code(exec_id))
        except TimeoutError as error:
            await self._signal_exec(ref, exec_id, signal.SIGKILL)
            raise Taken(f"the command did not end within {timeout:g} seconds") from error
        except BaseException:
            await self._signal_exec(ref, exec_id, signal.SIGKILL)
            raise

    async def prepare_exec(self, ref: str, command: Sequence[str], interactive: bool) -> str:
        """A command that `open_exec` starts; an interactive one with input and a terminal. Returns its id."""
        wish = {
            "AttachStdin": interactive,
            "AttachStdout": True,
            "AttachStderr": True,
            "Tty": interactive,
            "Cmd": list(command),
        }
        return str((await self.calls.call("POST", f"{container_path(ref)}/exec", body=wish))["Id"])

    @asynccontextmanager
    async def open_exec(self, ref: str, exec_id: str) -> AsyncIterator[Stream]:
        """Start a prepared command and talk to it until the block ends."""
        document = await self._exec(ref, exec_id)
        if document["ExitCode"] is not None or document["Running"]:
            raise Taken(f"exec {exec_id} was started before")
        tty = bool(document["ProcessConfig"]["tty"])
        start = {"Detach": False, "Tty": tty}
        async with self._upgraded(URL(f"exec/{exec_id}/start"), start, tty) as stream:
            # The engine answers before it starts the command; only a running one can be resized.
            await self._started(ref, exec_id)
            yield stream

    async def resize_exec(self, ref: str, exec_id: str, height: int, width: int) -> None:
        """Resize its terminal. Raises Gone when `ref` has no such exec, Taken when it has not started or has ended."""
        document = await self._exec(ref, exec_id)
        if document["ExitCode"] is not None:
            raise Taken(f"exec {exec_id} has ended")
        try:
            query = {"h": height, "w": width}
            await self.calls.call("POST", f"exec/{exec_id}/resize", query, seconds=RESIZE_SECONDS)
        except Unavailable as error:
            if isinstance(error.__cause__, TimeoutError):
                raise Taken(f"exec {exec_id} has not started") from None
            raise
        except EngineError as error:
            raise Taken(error.title) from error

    async def hang_up(self, ref: str, exec_id: str) -> None:
        """Tell it and its children that their terminal is gone, if the engine is on this host; ended is fine."""
        await self._signal_exec(ref, exec_id, signal.SIGHUP)

    @asynccontextmanager
    async def attach(self, ref: str) -> AsyncIterator[Stream]:
        """Talk to the container's own process until the block ends; what it wrote before is not repeated."""
        document = await self.calls.call("GET", f"{container_path(ref)}/json")
        state = document["State"]
        if not state["Running"] or state["Paused"] or state["Restarting"]:
            raise Taken(f"container {ref} is {state['Status']}")
        query = {"stream": 1, "stdin": 1, "stdout": 1, "stderr": 1}
        url = URL(f"{container_path(ref)}/attach").with_query(query)
        async with self._upgraded(url, None, bool(document["Config"]["Tty"])) as stream:
            yield stream

    async def resize(self, ref: str, height: int, width: int) -> None:
        """Resize the container's terminal. Raises Taken when it does not run; one without a terminal ignores it."""
        try:
            await self.calls.call("POST", f"{container_path(ref)}/resize", {"h": height, "w": width})
        except (Unavailable, Gone):
            raise
        except EngineError as error:
            raise Taken(error.title) from error

    @asynccontextmanager
    async def _upgraded(self, url: URL, body: Mapping[str, Any] | None, tty: bool) -> AsyncIterator["_Open"]:
        async def setup() -> tuple[URL, bytes | None, bool]:
            return url, None if body is None else json.dumps(body).encode(), tty

        session = self.calls.session
        upgraded = _Upgraded(session.client, setup)
        async with _words():
            async with asyncio.timeout(self.calls.patience):
                await upgraded.__aenter__()
        try:
            yield _Open(upgraded)
        finally:
            upgraded.hang_up(session)

    async def _exec(self, ref: str, exec_id: str) -> dict[str, Any]:
        if not exec_id.isalnum() or not exec_id.isascii():
            raise Gone(f"No such exec instance: {exec_id}")
        document: dict[str, Any] = await self.calls.call("GET", f"exec/{exec_id}/json")
        if document["ContainerID"] != ref:
            raise Gone(f"No such exec instance: {exec_id}")
        return document

    async def _exit_code(self, exec_id: str) -> int:
        """Of a command whose stream is over: that ends with the last writer, the record is complete a moment later."""
        while True:
            code = (await self.calls.call("GET", f"exec/{exec_id}/json"))["ExitCode"]
            if code is not None:
                return int(code)
            await asyncio.sleep(0.01)

    async def _started(self, ref: str, exec_id: str) -> None:
        loop = asyncio.get_running_loop()
        deadline, pause = loop.time() + START_SECONDS, 0.002
        while loop.time() < deadline:
            document = await self._exec(ref, exec_id)
            if document["Pid"] or document["ExitCode"] is not None:
                return
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, 0.05)

    async def _signal_exec(self, ref: str, exec_id: str, number: signal.Signals) -> None:
        """Send a signal to the command and to all that it started, where its host can be told to."""
        if not self._reaches_processes:
            return
        with suppress(EngineError, OSError):
            document = await self._exec(ref, exec_id)
            if not document["Running"] or not document["Pid"]:
                return
            table = await self.calls.call("GET", f"{container_path(ref)}/top", {"ps_args": "-eo pid,ppid"})
            await self._signal(ref, _family(document["Pid"], table["Processes"] or ()), number)

    @property
    def _reaches_processes(self) -> bool:
        """Whether the engine's processes can be told anything: those of this host."""
        return self.calls.is_local

    async def _signal(self, ref: str, pids: Sequence[int], number: signal.Signals) -> None:
        """Send a signal to those of these processes that are a container's."""
        for pid in pids:
            _send(pid, ref, number)


class _Upgraded(Upgraded):
    def hang_up(self, session: Session) -> None:
        if self._resp is not None and not self._closed:
            self._closed = True
            with suppress(Refused):
                self.write_eof()
            session.hang_up(self._resp)

    def write_eof(self) -> None:
        connection = self._resp.connection if self._resp is not None else None
        transport = connection.transport if connection is not None else None
        if transport is not None and not transport.is_closing():
            if not transport.can_write_eof():
                raise Refused("the end of an input cannot be told to an engine that is reached over TLS")
            transport.write_eof()


async def _feed(stream: "_Open", chunks: AsyncIterator[bytes]) -> None:
    async for chunk in chunks:
        await stream.write(chunk)
    stream.end()


class _Open:
    """An upgraded connection, as `Stream` wants it."""

    def __init__(self, upgraded: _Upgraded) -> None:
        self._upgraded = upgraded

    async def read(self) -> bytes:
        async with _words():
            while (message := await self._upgraded.read_out()) is not None:
                if message.data:
                    return bytes(message.data)
        return b""

    async def write(self, data: bytes) -> None:
        # When the connection is gone, `read` tells; the library's words for that are these, or an error of its own.
        with suppress(AssertionError, AttributeError, aiohttp.ClientError, OSError):
            await self._upgraded.write_in(data)

    def end(self) -> None:
        """No more is written; what the process writes can still be read."""
        self._upgraded.write_eof()


@asynccontextmanager
async def _words() -> AsyncIterator[None]:
    """Whatever fails inside becomes one of our errors."""
    try:
        yield
    except (DockerError, aiohttp.ClientError, OSError) as error:
        raise translate(error) from error


def _family(first: int, processes: Sequence[Sequence[str]]) -> list[int]:
    """A process and all its descendants, from a table of pids and their parents'."""
    children: defaultdict[int, list[int]] = defaultdict(list)
    for row in processes:
        children[int(row[1])].append(int(row[0]))
    found = [first]
    for pid in found:
        found += children[pid]
    return found


def _send(pid: int, ref: str, number: signal.Signals) -> None:
    """Signal a process of this host, if it is one of the container's: numbers are used again, and if we live in a
    container ourselves, they are not the engine's."""
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        return
    try:
        with suppress(OSError):
            if ref in Path(f"/proc/{pid}/cgroup").read_text():
                signal.pidfd_send_signal(handle, number)
    finally:
        os.close(handle)
