"""What one can say to a container of the engine in memory: commands inside, and terminals.

``cat`` gives back what it is given; ``sh`` knows ``echo``, ``exit`` and ``stty size``, a line at a time. A terminal
echoes what is typed, and its end of input is Ctrl-D at the start of a line.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from app.backends.engine import ExecResult, State, Stream
from app.errors import Gone, Refused, Taken

PROGRAMS = frozenset({"true", "false", "echo", "sh", "/bin/sh", "sleep", "cat", "ping", "httpd"})
SHELLS = ("sh", "/bin/sh")
FLOW = 64 * 1024  # bytes of output that nobody reads, until a program that prints waits


class Process:
    """A program that talks: in a container as its first process, or beside that."""

    def __init__(self, command: Sequence[str], tty: bool, listens: bool) -> None:
        self.command, self.tty, self.listens = tuple(command), tty, listens
        self.size: tuple[int, int] | None = None
        self.code: int | None = None
        self.started = self.hung_up = False
        self._typed = b""
        self.output = bytearray()
        self._changed = asyncio.Event()

    def start(self) -> None:
        self.started = True
        if self.command[0] not in PROGRAMS:
            self.say(not_found(self.command[0]).encode())
            self.end(126)
            return
        output, code = play(self.command)
        self.say(output)
        if code is None and self._waits_for_input() and not self.listens:
            code = 0
        if code is not None:
            self.end(code)

    def hear(self, data: bytes) -> None:
        """Input."""
        if self.code is not None or not self._waits_for_input():
            return
        if self.tty:
            self.say(data.replace(b"\x04", b"").replace(b"\r", b"\n"))
        if self.command[0] == "cat" and not self.tty:
            self.say(data)
            return
        for byte in data.replace(b"\r", b"\n"):
            if byte == 4 and not self._typed:
                self.end(0)
                return
            self._typed += bytes([byte])
            if byte == 10:
                self._line(self._typed)
                self._typed = b""

    def say(self, data: bytes) -> None:
        """Output."""
        self.output += data.replace(b"\n", b"\r\n") if self.tty else data
        self._changed.set()

    def end(self, code: int) -> None:
        if self.code is None:
            self.code = code
        self._changed.set()

    @property
    def unread(self) -> int:
        return len(self.output)

    async def read(self) -> bytes:
        while not self.output:
            if self.code is not None:
                return b""
            self._changed.clear()
            await self._changed.wait()
        data = bytes(self.output[:FLOW])
        del self.output[:FLOW]
        return data

    async def write(self, data: bytes) -> None:
        await asyncio.sleep(0)
        self.hear(data)

    def _waits_for_input(self) -> bool:
        return len(self.command) == 1 and self.command[0] in (*SHELLS, "cat")

    def _line(self, line: bytes) -> None:
        if self.command[0] == "cat":
            self.say(line)
            return
        words = line.decode(errors="replace").split()
        if words[:1] == ["exit"]:
            self.end(int(words[1]) if len(words) > 1 else 0)
        elif words == ["stty", "size"]:
            self.say("{} {}\n".format(*(self.size or (0, 0))).encode())
        elif words:
            self.say(play(["sh", "-c", line.decode(errors="replace").strip()])[0])


class Attached:
    """A container's own process, from now on."""

    def __init__(self, engine: "FakeStreams", box: Any) -> None:
        self._engine, self._box, self._at = engine, box, len(box.log)

    async def read(self) -> bytes:
        while True:
            if lines := self._box.log[self._at :]:
                self._at += len(lines)
                return b"".join(line.data for line in lines)
            if self._box.seen.state not in (State.RUNNING, State.PAUSED):
                return b""
            self._box.changed.clear()
            await self._box.changed.wait()

    async def write(self, data: bytes) -> None:
        await asyncio.sleep(0)
        self._engine.type_into(self._box, data)


class FakeStreams:
    """Mixed into `FakeEngine`, which has what is declared here.

    Attributes:
        execs: prepared commands: the container's ref and the process, by id.
    """

    execs: dict[str, tuple[str, Process]]

    def _verb(self, verb: str) -> AbstractAsyncContextManager[None]:
        raise NotImplementedError

    def _box(self, ref: str) -> Any:
        raise NotImplementedError

    def _living(self, ref: str) -> Any:
        raise NotImplementedError

    def pings(self, ref: str, address: str) -> bool:
        raise NotImplementedError

    def _end(self, box: Any, code: int) -> None:
        raise NotImplementedError

    def write(self, uuid: Any, data: bytes) -> None:
        raise NotImplementedError

    async def execute(self, ref: str, command: Sequence[str], timeout: float) -> ExecResult:
        async with self._verb("execute"):
            process = self._prepare(ref, command, interactive=False)
            if command[0] == "ping":  # with -c: it ends
                return ExecResult(b"", 0 if self.pings(ref, command[-1]) else 1)
            process.start()
            if process.code is None:
                await asyncio.sleep(timeout)
                raise Taken(f"the command did not end within {timeout:g} seconds")
            output = b""
            while chunk := await process.read():
                output += chunk
            return ExecResult(output, process.code)

    async def prepare_exec(self, ref: str, command: Sequence[str], interactive: bool) -> str:
        async with self._verb("prepare_exec"):
            exec_id = secrets.token_hex(32)
            self.execs[exec_id] = (ref, self._prepare(ref, command, interactive))
            return exec_id

    @asynccontextmanager
    async def open_exec(self, ref: str, exec_id: str) -> AsyncIterator[Stream]:
        async with self._verb("open_exec"):
            process = self._exec(ref, exec_id)
            if process.started:
                raise Taken(f"exec {exec_id} was started before")
            self._awake(ref)
            process.start()
        yield process

    async def resize_exec(self, ref: str, exec_id: str, height: int, width: int) -> None:
        async with self._verb("resize_exec"):
            process = self._exec(ref, exec_id)
            if not process.started or process.code is not None:
                raise Taken(f"exec {exec_id} does not run")
            process.size = (height, width)

    async def hang_up(self, ref: str, exec_id: str) -> None:
        async with self._verb("hang_up"):
            process = self._exec(ref, exec_id)
            process.hung_up = True
            process.end(129)

    @asynccontextmanager
    async def attach(self, ref: str) -> AsyncIterator[Stream]:
        async with self._verb("attach"):
            box = self._awake(ref)
        yield Attached(self, box)

    async def resize(self, ref: str, height: int, width: int) -> None:
        async with self._verb("resize"):
            box = self._living(ref)
            self._process(box).size = (height, width)

    def type_into(self, box: Any, data: bytes) -> None:
        """Input for a container's own process."""
        process: Process = self._process(box)
        if not box.spec.interactive:
            return
        process.hear(data)
        if process.output:
            said = bytes(process.output)
            process.output.clear()
            self.write(box.seen.uuid, said)
        if process.code is not None:
            self._end(box, process.code)

    def end_execs(self, ref: str) -> None:
        """A container has ended, and what ran beside its first process with it."""
        for of, process in self.execs.values():
            if of == ref:
                process.end(137)

    def _process(self, box: Any) -> Process:
        if box.process is None:
            box.process = Process(box.command, box.spec.tty, box.spec.interactive)
        process: Process = box.process
        return process

    def _prepare(self, ref: str, command: Sequence[str], interactive: bool) -> Process:
        self._awake(ref)
        if not command:
            raise Refused("No exec command specified")
        return Process(command, interactive, interactive)

    def _awake(self, ref: str) -> Any:
        box = self._living(ref)
        if box.seen.state is State.PAUSED:
            raise Taken(f"Container {ref} is paused, unpause the container before exec")
        return box

    def _exec(self, ref: str, exec_id: str) -> Process:
        of, process = self.execs.get(exec_id, ("", None))
        if of != ref or process is None:
            raise Gone(f"No such exec instance: {exec_id}")
        self._box(ref)
        return process


def play(command: Sequence[str]) -> tuple[bytes, int | None]:
    """What a command prints, and its exit code: None when it runs on."""
    script = command[2] if len(command) == 3 and command[0] in SHELLS else " ".join(command)
    output, code = b"", None
    for statement in script.split("; "):
        word, _, rest = statement.partition(" ")
        if word == "echo":
            output, code = output + f"{rest}\n".encode(), 0
        elif word in ("true", "false", "exit"):
            code = int(rest or word == "false")
        else:
            return output, None
    return output, code


def not_found(program: str) -> str:
    """The engine's words for a program that is not there."""
    return f'OCI runtime create failed: exec: "{program}": executable file not found in $PATH'
