"""Docker engines: the one of this machine, and private ones that a test may kill."""

import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from scripts.newcomer.engine import SOCKET, answers, client, daemon_command
from scripts.newcomer.packages import locked
from tests.stack.guard import remove_control_groups
from tests.stack.session import Service, Stack, StackError, wait_until

__all__ = ["PrivateDocker", "answers", "client", "engine", "existing"]

STARTS = 3
RESTART_SECONDS = 2.0  # as docker.service has it


def existing() -> str | None:
    """The engine that is already there: at ``DOCKER_HOST``, else at Docker's own socket.

    Raises:
        StackError: ``DOCKER_HOST`` is set and nothing answers there; quietly taking another engine would be wrong.
    """
    if url := os.environ.get("DOCKER_HOST"):
        if not answers(url):
            raise StackError(f"DOCKER_HOST is {url}, and no engine answers there")
        return url
    url = f"unix://{SOCKET}"
    return url if answers(url) else None


def engine(stack: Stack) -> str:
    """The address of the engine for tests: what is there already, else a daemon that lives as long as the session."""
    if url := existing():
        return url
    # Two sessions at once must not both start a daemon on the same socket.
    with locked(Path(f"{tempfile.gettempdir()}/caisson-dockerd.lock")):
        return existing() or _start_daemon(stack)


def _start_daemon(stack: Stack) -> str:
    url = f"unix://{SOCKET}"
    log = stack.folder("docker") / "log"
    stack.spawn("docker", daemon_command(url), log=log, ready=lambda: answers(url))
    return url


class PrivateDocker:
    """A Docker daemon of one test's own, which it may stop, kill, freeze and start again.

    It lives in namespaces of its own (network, mounts, processes): its bridge and its packet filter are not the
    machine's, and whatever it leaves behind, shims and mounts included, goes with the namespaces. Hence its containers
    reach one another, but neither the host nor a registry there: load images with :func:`tests.stack.images.build`.
    The host reaches them where `route` says so.
    """

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._folder = stack.folder("engine")
        self.name = self._folder.name
        self.url = f"unix://{self._folder}/docker.sock"
        # Asked first, so that a system without Docker gets it before the namespaces are made.
        self._command = daemon_command(
            self.url,
            "--data-root", f"{self._folder}/data",
            "--exec-root", f"{self._folder}/exec",
            "--pidfile", f"{self._folder}/docker.pid",
            "--cgroup-parent", f"/{self.name}",
        )  # fmt: skip
        self._space = self._make_namespaces()
        self._entrance: Service | None = None
        self.start()

    def start(self) -> None:
        """Starts the daemon and returns when it answers. Running already: nothing happens."""
        if self._entrance is not None and self._entrance.alive:
            return
        # One that was killed may panic over what it left when it is started; any init system starts it once more.
        for _ in range(STARTS - 1):
            try:
                self._start()
            except StackError:
                time.sleep(RESTART_SECONDS)
            else:
                return
        self._start()

    @property
    def pid(self) -> int:
        """The daemon's process id as the host counts.

        Raises:
            StackError: the daemon does not run.
        """
        if self._entrance is None or not self._entrance.alive:
            raise StackError(f"{self.name} does not run")
        return _only_child(self._entrance.pid)

    def stop(self) -> None:
        """Ends the daemon as an operator would; it stops its containers first."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Ends the daemon by SIGKILL; its containers run on until it is started again."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop, then start."""
        self.stop()
        self.start()

    def freeze(self) -> None:
        """Stops the daemon's process without ending it: connections open, nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Lets a frozen daemon go on."""
        os.kill(self.pid, signal.SIGCONT)
        assert self._entrance is not None
        # nsenter stops itself with its child, and would not see the end of it.
        os.kill(self._entrance.pid, signal.SIGCONT)

    def spoil_start(self, ref: str) -> None:
        """Leaves behind of a container's process what a daemon does that ends while it starts it."""
        tasks = self._folder / "exec" / "containerd" / "daemon" / "io.containerd.runtime.v2.task" / "moby"
        (tasks / ref).mkdir(parents=True)

    def route(self, network: str) -> None:
        """Lets the host reach containers in this range at their own addresses, until the namespaces end."""
        token = secrets.token_hex(4)
        inner, outside, inside = str(_only_child(self._space.pid)), f"co-{token}", f"ci-{token}"
        first = f"100.{64 + secrets.randbelow(64)}.{secrets.randbelow(256)}"
        enter = ["nsenter", "--target", inner, "--net", "--"]
        for command in (
            ["ip", "link", "add", outside, "type", "veth", "peer", "name", inside, "netns", inner],
            ["ip", "address", "add", f"{first}.1/24", "dev", outside],
            ["ip", "link", "set", outside, "up"],
            [*enter, "ip", "address", "add", f"{first}.2/24", "dev", inside],
            [*enter, "ip", "link", "set", inside, "up"],
            # Docker keeps this chain for others, over its own restarts too.
            [*enter, "iptables", "--wait", "--insert", "DOCKER-USER", "--in-interface", inside, "--jump", "ACCEPT"],
            ["ip", "route", "add", network, "via", f"{first}.2"],
        ):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise StackError(f"{' '.join(command)}: {done.stderr.strip()}")

    def close(self) -> None:
        """Ends the daemon, its containers and its namespaces."""
        if self._entrance is not None:
            self._stack.stop(self._entrance)
        self._stack.stop(self._space)
        remove_control_groups(self.name)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _start(self) -> None:
        # What a killed daemon left; the number in its pidfile may by now be some other process of the namespace.
        for leftover in ("docker.sock", "docker.pid"):
            (self._folder / leftover).unlink(missing_ok=True)
        inner = _only_child(self._space.pid)
        self._entrance = self._stack.spawn(
            f"{self.name}-daemon",
            ["nsenter", "--target", str(inner), "--net", "--mount", "--pid", "--", *self._command],
            log=self._folder / "log",
            ready=lambda: answers(self.url),
            stop_signal=signal.SIGKILL,
        )

    def _end(self, how: signal.Signals) -> None:
        entrance = self._entrance
        if entrance is None or not entrance.alive:
            return
        os.kill(self.pid, how)
        # nsenter ends with the daemon, and is our child, or our worker's.
        wait_until(lambda: not entrance.alive, f"{self.name} to end")
        self._stack.stop(entrance)

    def _make_namespaces(self) -> Service:
        ready = self._folder / "ready"
        # The init collects the shims that a killed daemon orphans.
        return self._stack.spawn(
            f"{self.name}-namespaces",
            [
                "unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "docker-init", "--",
                "sh", "-c", f"ip link set lo up && touch {ready} && exec sleep infinity",
            ],
            log=self._folder / "namespaces.log",
            ready=ready.exists,
            # unshare ignores SIGTERM; its end takes every process of the namespaces along.
            stop_signal=signal.SIGKILL,
            facts={"control_group": self.name},
        )  # fmt: skip


def _only_child(pid: int) -> int:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    if len(children) != 1:
        raise StackError(f"process {pid} has {len(children)} children, not one")
    return int(children[0])
