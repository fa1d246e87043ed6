"""PostgreSQL from the system's packages, in a private directory, with nothing written through to the disk."""

import os
import pwd
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.stack import debian
from tests.stack.session import Service, Stack, StackError, free_port

# A lost machine loses the test as well, hence no fsync. A killed server must keep what it has committed: the default
# synchronous_commit stays.
SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": "300",
    "shared_buffers": "64MB",
    "log_min_messages": "warning",
    "autovacuum_naptime": "10s",
}


@dataclass(frozen=True)
class Postgres:
    """A running server; its superuser is ``postgres``, without a password, and only this machine reaches it."""

    service: Service

    @property
    def port(self) -> int:
        return int(self.service.facts["port"])

    def url(self, database: str) -> str:
        """SQLAlchemy's URL of a database, for asyncpg."""
        return f"postgresql+asyncpg://postgres@127.0.0.1:{self.port}/{database}"

    def create(self, database: str) -> str:
        """Makes an empty database and returns its URL.

        Raises:
            StackError: the server refused, for instance because the name is taken.
        """
        self.sql(f'CREATE DATABASE "{database}"')
        return self.url(database)

    def drop(self, database: str) -> None:
        """Removes a database together with whoever is connected to it. Absent: fine."""
        self.sql(f'DROP DATABASE IF EXISTS "{database}" WITH (FORCE)')

    def sql(self, statement: str, database: str = "postgres") -> str:
        """Runs one statement and returns what psql prints of it, without headings.

        Raises:
            StackError: with the server's words.
        """
        done = subprocess.run(
            [
                f"{self.service.facts['programs']}/psql", "--no-psqlrc", "--quiet", "--tuples-only", "--no-align",
                "--set", "ON_ERROR_STOP=1", "--host", "127.0.0.1", "--port", str(self.port), "--username", "postgres",
                "--dbname", database, "--command", statement,
            ],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise StackError(f"{statement}: {done.stderr.strip()}")
        return done.stdout.strip()

    def freeze(self) -> None:
        """Stops every process of the server without ending it: connections open, nothing answers."""
        for pid in self._processes():
            os.kill(pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Lets a frozen server go on."""
        for pid in self._processes():
            os.kill(pid, signal.SIGCONT)

    def _processes(self) -> list[int]:
        children = Path(f"/proc/{self.service.pid}/task/{self.service.pid}/children").read_text().split()
        return [self.service.pid, *map(int, children)]


def start(stack: Stack, name: str = "postgres", *, folder: Path | None = None, port: int | None = None) -> Service:
    """Starts a server under this name in the stack.

    Args:
        folder: the directory of a server that was stopped, to start it again with its data; else a new, empty one.
        port: the port of that server, so that its URLs stay true.
    """
    programs = debian.program("postgres").parent
    as_owner = _as_unprivileged_user()
    port = port or free_port()
    if folder is None:
        folder = stack.folder(name)
        if as_owner:
            shutil.chown(folder, "postgres", "postgres")
        command = [*as_owner, str(programs / "initdb"), "--pgdata", f"{folder}/data", "--username", "postgres"]
        options = ["--auth", "trust", "--encoding", "UTF8", "--locale", "C.UTF-8", "--no-sync", "--no-instructions"]
        done = subprocess.run([*command, *options], cwd="/", capture_output=True, text=True, check=False)
        if done.returncode:
            raise StackError(f"initdb failed: {done.stderr}")
    settings = {**SETTINGS, "port": str(port), "listen_addresses": "127.0.0.1", "unix_socket_directories": str(folder)}
    options = [argument for key, value in settings.items() for argument in ("-c", f"{key}={value}")]
    is_ready = [str(programs / "pg_isready"), "--quiet", "--host", "127.0.0.1", "--port", str(port)]
    return stack.spawn(
        name,
        [*as_owner, str(programs / "postgres"), "-D", f"{folder}/data", *options],
        log=folder / "log",
        ready=lambda: subprocess.run(is_ready, check=False).returncode == 0,
        # Immediate: nobody reads these data again, and a polite stop waits for every client.
        stop_signal=signal.SIGQUIT,
        facts={"port": str(port), "programs": str(programs), "folder": str(folder)},
    )


def restart(stack: Stack, server: Postgres) -> Postgres:
    """Stops a server at once, as a crash would, and starts it again with the same data on the same port."""
    service = server.service
    stack.stop(service)
    return Postgres(start(stack, service.name, folder=Path(service.facts["folder"]), port=server.port))


def _as_unprivileged_user() -> list[str]:
    """PostgreSQL refuses to run as root: how to become its own user, which the package has made."""
    if os.geteuid() != 0:
        return []
    try:
        pwd.getpwnam("postgres")
    except KeyError:
        raise StackError("there is no user postgres; the package postgresql makes it") from None
    return ["setpriv", "--reuid", "postgres", "--regid", "postgres", "--clear-groups", "--"]
