"""The gateway as a process beside this one: started, waited for, spoken to, stopped."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from app.errors import GatewayError
from app.lock import only_process
from app.settings import Settings
from scripts.newcomer import cloud
from scripts.newcomer.cloud import Cloud
from scripts.newcomer.packages import SetupError, tail

HOST = "127.0.0.1"
START_SECONDS = 60.0
STOP_SECONDS = 30.0


def check_port(port: int) -> None:
    """Raises SetupError when somebody listens on the port already, or this user may not."""
    try:
        socket.create_server((HOST, port)).close()
    except OSError as error:
        reason = "is taken" if error.strerror and "in use" in error.strerror else f"cannot be used: {error.strerror}"
        raise SetupError(f"port {port} of {HOST} {reason}; name another one with --port") from None


def check_data(data_dir: Path) -> None:
    """Makes the data directory. Raises SetupError when that cannot be, or when another gateway uses it."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        with only_process(Settings.model_construct(data_dir=data_dir)):
            pass
    except OSError as error:
        raise SetupError(f"{data_dir} cannot be used: {error.strerror}; name another one with --data-dir") from None
    except GatewayError as error:
        raise SetupError(f"{error.title}; or name another --data-dir") from None


class Gateway:
    """``caisson serve`` on this port and data directory, with its log in the latter."""

    def __init__(
        self, port: int, data_dir: Path, engine: str, password: str, settings: Mapping[str, str] | None = None
    ) -> None:
        self.url = f"http://{HOST}:{port}"
        self.log = data_dir / "gateway.log"
        # What the user has set counts.
        environment = {**(settings or {}), **os.environ}
        environment |= {"DOCKER_HOST": engine, "CAISSON_IDENTITY__ADMIN_PASSWORD": password}
        with self.log.open("w") as log:
            self._process = subprocess.Popen(
                [
                    sys.executable, "-P", "-m", "app", "serve",
                    "--host", HOST, "--port", str(port), "--data-dir", str(data_dir),
                ],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ctrl-C is for the script, which then stops the gateway.
                process_group=0,
            )  # fmt: skip
        # Whatever proxy the environment names does not reach this machine's loopback.
        self._http = httpx.Client(base_url=self.url, trust_env=False, timeout=30)

    def wait_until_it_serves(self) -> None:
        """Returns when it answers. Raises SetupError when it ended instead, with its last words."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise SetupError(_last_words(self.log))
            try:
                self._http.get("/healthcheck")
            except httpx.TransportError:
                time.sleep(0.05)
            else:
                return
        raise SetupError(f"the gateway did not answer within {START_SECONDS:.0f} seconds; its log is {self.log}")

    def log_in(self, login: Cloud) -> None:
        """Takes a token for the calls below. Raises SetupError when the password is not the right one."""
        user = {"name": cloud.USER, "domain": {"name": cloud.DOMAIN}, "password": login.password}
        scope = {"project": {"name": cloud.PROJECT, "domain": {"name": cloud.DOMAIN}}}
        body = {"auth": {"identity": {"methods": ["password"], "password": {"user": user}}, "scope": scope}}
        answer = self._http.post("/identity/v3/auth/tokens", json=body)
        if answer.status_code != 201:
            raise SetupError(
                f"the gateway does not take the password of {cloud.USER} in {login.file} ({answer.status_code}): "
                "put the right one there, or name another --data-dir"
            )
        self._http.headers["X-Auth-Token"] = answer.headers["X-Subject-Token"]

    def container(self, ident: str) -> dict[str, Any] | None:
        """A container of the project by uuid or name; None when there is none, or not one."""
        answer = self._http.get(f"/v1/containers/{ident}")
        found: dict[str, Any] | None = answer.json() if answer.status_code == 200 else None
        return found

    def names(self) -> set[str]:
        """The names of the project's containers."""
        return {container["name"] for container in self._http.get("/v1/containers").json()["containers"]}

    def delete(self, ident: str) -> None:
        """Asks for a container to be stopped and deleted; whether that worked is not told."""
        headers = {"OpenStack-API-Version": "container latest"}
        self._http.delete(f"/v1/containers/{ident}", params={"stop": "true"}, headers=headers)

    def cluster(self, ident: str) -> dict[str, Any] | None:
        """A cluster of the project by uuid or name; None when there is none, or not one."""
        answer = self._http.get(f"/v1/clusters/{ident}")
        found: dict[str, Any] | None = answer.json() if answer.status_code == 200 else None
        return found

    def cluster_names(self) -> set[str]:
        """The names of the clusters and cluster templates that the project sees."""
        lists = [self._http.get(f"/v1/{kind}").json()[kind] for kind in ("clusters", "clustertemplates")]
        return {row["name"] for rows in lists for row in rows}

    def delete_cluster(self, ident: str) -> None:
        """Asks for a cluster to be deleted, and then its template of the same name; whether that worked is not told."""
        self._http.delete(f"/v1/clusters/{ident}")
        deadline = time.monotonic() + START_SECONDS
        while self._http.delete(f"/v1/clustertemplates/{ident}").status_code == 400 and time.monotonic() < deadline:
            time.sleep(0.1)

    def wait_for_its_end(self) -> int:
        """Returns the exit code when it has ended by itself."""
        return self._process.wait()

    def last_words(self) -> str:
        """The end of its log."""
        return _last_words(self.log)

    def stop(self) -> None:
        """Ends it: running steps are finished, containers run on. Ended already: nothing happens."""
        self._http.close()
        if self._process.poll() is not None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_SECONDS)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            self._process.kill()
            self._process.wait()


def _last_words(log: Path) -> str:
    words = tail(log, 1).removeprefix("caisson: ").strip()
    return f"the gateway ended: {words or 'without a word'} (its log is {log})"
