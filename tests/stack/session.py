"""The directory, the processes and the locks that the services of one test session share.

The process that pytest was started in opens the stack; workers of pytest-xdist find it through the environment. A
service is started by whoever needs it first, under a file lock, and recorded as JSON for everybody else.
"""

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from scripts.newcomer.packages import locked, tail
from tests.stack import guard

VARIABLE = "CAISSON_TEST_STACK"
ROOT = Path(__file__).resolve().parents[2]


class StackError(Exception):
    """A service could not be started; the text says which, why, and how its log ends."""


@dataclass(frozen=True)
class Service:
    """A running process of the stack, in a form that another process of the same session can use."""

    name: str
    pid: int
    born: int
    signal: int = signal.SIGTERM
    facts: dict[str, str] = field(default_factory=dict)

    @property
    def alive(self) -> bool:
        return guard.is_alive(self.pid, self.born)


def cache_directory(name: str) -> Path:
    """A directory that outlives the session, for what is dear to make: ``$CAISSON_CACHE`` or ``~/.cache/caisson``."""
    top = os.environ.get("CAISSON_CACHE") or str(Path.home() / ".cache" / "caisson")
    directory = Path(top) / name
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(ready: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
    """Asks every 20 ms until ``ready()`` is true.

    Raises:
        StackError: it was not true after so many seconds.
    """
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            raise StackError(f"{what}: not so after {seconds:.0f} seconds")
        time.sleep(0.02)


class Stack:
    """All services of one test session."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._guard: subprocess.Popen[bytes] | None = None

    @classmethod
    def open(cls) -> "Stack":
        """The stack of this session: the one that the environment names, else a new one with a guard of its own."""
        if known := os.environ.get(VARIABLE):
            return cls(Path(known))
        directory = Path(tempfile.mkdtemp(prefix="caisson-stack-"))
        # Services that give up root, as PostgreSQL does, must be able to pass through.
        directory.chmod(0o711)
        (directory / "services").mkdir()
        stack = cls(directory)
        stack._guard = subprocess.Popen(
            [sys.executable, "-m", "tests.stack.guard", str(directory)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        os.environ[VARIABLE] = str(directory)
        return stack

    def close(self) -> None:
        """Stops everything. Does nothing in a process that did not make the stack."""
        if self._guard is None:
            return
        os.environ.pop(VARIABLE, None)
        # Closes the pipe, which is the guard's sign to begin.
        self._guard.communicate()
        self._guard = None

    def shared(self, name: str, start: Callable[[], Service]) -> Service:
        """The running service of this name, started first if nobody has done that or if it has died since."""
        with self.lock(name):
            record = self.directory / "services" / f"{name}.json"
            if record.exists():
                service = Service(**json.loads(record.read_text()))
                if service.alive:
                    return service
            return start()

    def lock(self, name: str) -> contextlib.AbstractContextManager[None]:
        """Excludes the other processes of this session from one named piece of work."""
        return locked(self.directory / "locks" / name)

    def folder(self, name: str) -> Path:
        """A new empty directory for one start of a service."""
        path = self.directory / f"{name}-{secrets.token_hex(4)}"
        path.mkdir()
        return path

    def spawn(
        self,
        name: str,
        argv: list[str],
        *,
        log: Path,
        ready: Callable[[], bool],
        environment: dict[str, str] | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
        facts: dict[str, str] | None = None,
        seconds: float = 60.0,
    ) -> Service:
        """Starts a program in a session of its own and returns when ``ready()``.

        Raises:
            StackError: the program is not installed, ended at once, or was not ready in time.
        """
        program = shutil.which(argv[0])
        if program is None:
            raise StackError(f"{name}: {argv[0]} is not installed")
        # Not subprocess: its objects complain when they are dropped while the process, rightly, runs on.
        pid = os.posix_spawn(
            program,
            argv,
            {**os.environ, **(environment or {})},
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
        )
        born = guard.state_of(pid)
        service = Service(name, pid, born[1] if born else 0, stop_signal, {**(facts or {}), "log": str(log)})
        self._record(service)
        try:
            wait_until(lambda: not service.alive or ready(), f"{name} to be ready", seconds)
        except StackError as error:
            self.stop(service)
            raise StackError(f"{error}\n{tail(log)}") from None
        if not service.alive:
            self.stop(service)
            raise StackError(f"{name} ended at once: {' '.join(argv)}\n{tail(log)}")
        return service

    def stop(self, service: Service, stop_signal: signal.Signals | None = None) -> None:
        """Stops a service and returns when it is gone; a second time does nothing."""
        guard.stop(service.pid, service.born, stop_signal or service.signal)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(service.pid, 0)
        record = self.directory / "services" / f"{service.name}.json"
        # A later start of the same name keeps its record.
        if record.exists() and json.loads(record.read_text())["pid"] == service.pid:
            record.unlink()

    def stop_by_name(self, name: str) -> None:
        """Stops the service that runs under this name now, which may not be the one that was started first."""
        record = self.directory / "services" / f"{name}.json"
        if record.exists():
            self.stop(Service(**json.loads(record.read_text())))

    def _record(self, service: Service) -> None:
        record = self.directory / "services" / f"{service.name}.json"
        draft = record.with_suffix(".draft")
        draft.write_text(json.dumps(asdict(service)))
        draft.replace(record)
