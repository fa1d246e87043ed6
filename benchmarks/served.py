"""A Caisson process of its own on a temporary database, and a client that is logged in."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import httpx

PASSWORD = "benchmark"  # noqa: S105  (of a process that lives for a minute on loopback)

VERSIONS = {"container": "1.40", "container-infra": "1.14"}


@dataclass(frozen=True)
class Served:
    """A running process. `cold_start` is seconds from its start to its first answer."""

    url: str
    pid: int
    token: str
    cold_start: float

    def headers(self, service: str = "container") -> dict[str, str]:
        """The token, and the newest version of one of the two APIs."""
        return {"X-Auth-Token": self.token, "OpenStack-API-Version": f"{service} {VERSIONS[service]}"}

    def client(self, service: str = "container") -> httpx.AsyncClient:
        """A client that sends these."""
        return httpx.AsyncClient(base_url=self.url, headers=self.headers(service), timeout=120)

    def memory(self) -> float:
        """Resident memory, MiB."""
        return resident(self.pid)


def resident(pid: int) -> float:
    """Resident memory of a process, MiB."""
    with open(f"/proc/{pid}/status") as status:
        line = next(line for line in status if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def process(command: list[str], url: str, environment: dict[str, str] | None = None) -> Iterator[tuple[int, float]]:
    """Run a server until the block ends; yields its pid and the seconds to its first answer."""
    began = time.perf_counter()
    child = subprocess.Popen(
        command, env={**os.environ, **(environment or {})}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        while True:
            try:
                httpx.get(url, timeout=1)
                break
            except httpx.TransportError:
                if child.poll() is not None:
                    raise RuntimeError(f"{command} ended with {child.returncode}") from None
                time.sleep(0.01)
        yield child.pid, time.perf_counter() - began
    finally:
        child.send_signal(signal.SIGTERM)
        child.wait(60)


@contextmanager
def caisson(
    database_url: str | None = None, log_mib: int = 50, environment: Mapping[str, str] | None = None
) -> Iterator[Served]:
    """Serve with the embedded identity and the local engine, which keeps so much of each log; further settings too."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            "CAISSON_PORT": str(port),
            "CAISSON_DATA_DIR": folder,
            "CAISSON_IDENTITY__ADMIN_PASSWORD": PASSWORD,
            "CAISSON_LOG_MAX_MIB": str(log_mib),
            "CAISSON_LIMITS__RATE": "1e9",
            "CAISSON_AUDIT_FILE": f"{folder}/audit.log",
            **{f"CAISSON_QUOTA__{name}": "-1" for name in ("CONTAINERS", "MEMORY", "DISK", "CPU")},
            **(environment or {}),
        }
        if database_url:
            settings |= {"CAISSON_DATABASE_URL": database_url, "CAISSON_SECRET_KEY": PASSWORD}
        with process([sys.executable, "-m", "app", "serve"], f"{url}/healthcheck", settings) as (pid, cold_start):
            yield Served(url, pid, _token(url), cold_start)


def _token(url: str) -> str:
    user = {"name": "admin", "domain": {"id": "default"}, "password": PASSWORD}
    scope = {"project": {"name": "demo", "domain": {"id": "default"}}}
    identity = {"methods": ["password"], "password": {"user": user}}
    answer = httpx.post(f"{url}/identity/v3/auth/tokens", json={"auth": {"identity": identity, "scope": scope}})
    return answer.headers["X-Subject-Token"]
