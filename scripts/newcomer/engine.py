"""The container engine: the one that is there, else Docker from the system's packages, started without any init."""

import getpass
import grp
import os
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from app.backends.docker.calls import find_url
from scripts.newcomer import packages
from scripts.newcomer.packages import SetupError, locked, tail

SOCKET = Path("/var/run/docker.sock")
PIDFILE = Path("/var/run/docker.pid")
LOG = Path("/var/log/caisson-dockerd.log")
SYSTEMD = Path("/run/systemd/system")
"""There while systemd runs the machine; then Docker is one of its services, and not ours to start another way."""

CONTROL_GROUPS = Path("/sys/fs/cgroup")
PROGRAMS = {"dockerd": "docker.io", "iptables": "iptables", "ip": "iproute2"}
"""What an engine of our own needs, and the Debian packages that bring it."""

PATIENCE = 60.0
"""Seconds that a daemon gets to answer for the first time."""


def client(url: str, timeout: float = 60.0) -> httpx.Client:
    """A plain HTTP client of the engine's API at ``unix:///path`` or ``tcp://host:port``."""
    if url.startswith("unix://"):
        transport = httpx.HTTPTransport(uds=url.removeprefix("unix://"))
        return httpx.Client(transport=transport, base_url="http://engine", timeout=timeout)
    return httpx.Client(base_url=url.replace("tcp://", "http://"), timeout=timeout)


def ping(url: str) -> None:
    """Asks the engine at this address for a sign of life.

    Raises:
        OSError: nothing answers there, or this user may not ask.
    """
    # Not by httpx, which forgets to close a Unix socket that it could not connect.
    address: str | tuple[str, int]
    if url.startswith("unix://"):
        family, address = socket.AF_UNIX, url.removeprefix("unix://")
    else:
        parts = urlsplit(url)
        family, address = socket.AF_INET, (parts.hostname or "127.0.0.1", parts.port or 2375)
    with socket.socket(family) as connection:
        connection.settimeout(5.0)
        connection.connect(address)
        if family == socket.AF_INET and os.environ.get("DOCKER_TLS_VERIFY"):
            return  # speaking TLS is left to the gateway
        connection.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
        if b" 200 " not in connection.recv(64):
            raise ConnectionError("what answers there is no container engine")


def answers(url: str) -> bool:
    """Whether an engine answers at this address."""
    try:
        ping(url)
    except OSError:
        return False
    return True


def find() -> str | None:
    """The address of the engine that is there, None when there is none.

    Raises:
        SetupError: ``DOCKER_HOST`` names one that does not answer, or this user may not use the one that is there.
    """
    url = find_url()
    if url is None:
        return None
    try:
        ping(url)
    except PermissionError:
        raise SetupError(_no_permission(Path(url.removeprefix("unix://")))) from None
    except OSError as error:
        if os.environ.get("DOCKER_HOST"):
            reason = error.strerror or error
            raise SetupError(f"no container engine answers at DOCKER_HOST={url} ({reason}): start it") from None
        # A socket file that nobody listens on any more is as good as none.
        return None
    return url


def start() -> str:
    """Starts Docker, installed first if need be, as a process of its own that outlives this one. Returns its address.

    Raises:
        SetupError: this user cannot start or install it, or it does not come up.
    """
    url = f"unix://{SOCKET}"
    _check_root()
    # Two starts at once must not make two daemons on one socket.
    with locked(Path(f"{tempfile.gettempdir()}/caisson-dockerd.lock")):
        if answers(url):
            return url
        command = daemon_command(url)
        if SYSTEMD.is_dir():
            _run_to_its_end(["systemctl", "start", "docker"])
        else:
            _start_detached(command)
        deadline = time.monotonic() + PATIENCE
        while not answers(url):
            if time.monotonic() > deadline:
                raise SetupError(f"Docker did not answer within {PATIENCE:.0f} seconds:\n{tail(LOG)}")
            time.sleep(0.05)
    return url


def how_to_stop() -> str:
    """The command that stops what `start` started."""
    return "systemctl stop docker" if SYSTEMD.is_dir() else f"kill $(cat {PIDFILE})"


def daemon_command(url: str, *options: str) -> list[str]:
    """How to start dockerd here, without any init system. Mounts the control groups if nothing has done so.

    Raises:
        SetupError: no Docker and no right to install it, or not root.
    """
    _check_root()
    packages.install([package for program, package in PROGRAMS.items() if packages.path_of(program) is None])
    mount_control_groups()
    return [str(packages.path_of("dockerd")), "--host", url, *options]


def mount_control_groups() -> None:
    """Mounts the kernel's control groups where engines look for them. Does nothing where an init system has done it."""
    if (CONTROL_GROUPS / "cgroup.controllers").exists() or any(CONTROL_GROUPS.glob("*/cgroup.procs")):
        return
    # Columns: name, hierarchy, number of groups, enabled. The unified hierarchy owns what no v1 mount has taken.
    table = [line.split() for line in Path("/proc/cgroups").read_text().splitlines() if not line.startswith("#")]
    in_version_1 = [row[0] for row in table if row[3] == "1" and row[1] != "0"]
    if not in_version_1:
        _run_to_its_end(["mount", "-t", "cgroup2", "cgroup2", str(CONTROL_GROUPS)])
        return
    _run_to_its_end(["mount", "-t", "tmpfs", "-o", "mode=755", "cgroup", str(CONTROL_GROUPS)])
    for controller in in_version_1:
        folder = CONTROL_GROUPS / controller
        folder.mkdir(exist_ok=True)
        _run_to_its_end(["mount", "-t", "cgroup", "-o", controller, "cgroup", str(folder)])


def _check_root() -> None:
    if os.geteuid() != 0:
        raise SetupError(
            "no container engine answers, and only root can start one: start Docker or Podman, set DOCKER_HOST, "
            "or run this as root"
        )


def _start_detached(command: list[str]) -> None:
    with LOG.open("a") as log:
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True, cwd="/"
        )


def _run_to_its_end(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SetupError(f"{' '.join(command)} failed: {done.stderr.strip()}")


def _no_permission(path: Path) -> str:
    try:
        group = grp.getgrgid(path.stat().st_gid).gr_name
    except (KeyError, OSError):
        return f"no permission to use the container engine at {path}: run this as root"
    return (
        f"no permission to use the container engine at {path}: run this as root, or join the group {group} "
        f"(sudo usermod -aG {group} {getpass.getuser()}) and log in again"
    )
