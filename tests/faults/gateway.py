"""A gateway as a process of its own, behind a proxy of its own, and what a test does to it."""

import asyncio
import json
import os
import re
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from http.client import HTTPConnection
from typing import Any

import httpx

from scripts.newcomer.packages import tail
from tests.stack.session import ROOT, Service, Stack, StackError, free_port

PASSWORD = "the-faults-admin"
SECRET = "the-secret-that-replicas-share"
LEASE = 2.0  # seconds; the least that the settings allow
Login = Callable[[], tuple[str, str]]
"""Gives a token and its project's id, where identity is not the gateway's own."""
PATIENCE = 40.0  # seconds until what must happen has happened

RUNS = ["sh", "-c", "trap 'exit 0' TERM; trap 'echo usr1' USR1; echo up; while :; do sleep 600 & wait; done"]
"""A command that runs until it is asked to end, says ``up`` at each start, and ``usr1`` at each SIGUSR1."""


async def until(ready: Callable[[], Awaitable[Any]], what: str, seconds: float = PATIENCE) -> Any:
    """Ask every 50 ms until the answer is true, and return it. Raises StackError naming `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (answer := await ready()):
        if time.monotonic() > deadline:
            raise StackError(f"{what}: not so after {seconds:g} seconds")
        await asyncio.sleep(0.05)
    return answer


class Proxy:
    """The proxy of `tests.faults.proxy`, as seen from here."""

    def __init__(self, stack: Stack, url: str, *, remote: bool = False) -> None:
        """Stand before `url`. With `remote` a Unix socket is shown over TCP, as that of another host would be."""
        folder = stack.folder("proxy")
        scheme, _, address = url.partition("://")
        self._control = folder / "control.sock"
        scheme = "tcp" if remote else scheme
        listens = str(folder / "engine.sock") if scheme == "unix" else f"127.0.0.1:{free_port()}"
        self.url = f"{scheme}://{listens}"
        """Where it is found, instead of what is behind it."""
        self._stack = stack
        self.service = stack.spawn(
            folder.name,
            [sys.executable, "-m", "tests.faults.proxy", listens, address, str(self._control), scheme],
            log=folder / "log",
            ready=self._control.exists,
            environment={"PYTHONPATH": str(ROOT)},
            stop_signal=signal.SIGKILL,
        )
        self._lines: dict[int, str] = {}

    async def add(self, line: str, when: str, act: str, **more: Any) -> int:
        """Put a rule in force; see `tests.faults.proxy.Rule`."""
        number: int = await self._ask({"do": "add", "line": line, "when": when, "act": act, **more})
        self._lines[number] = line
        return number

    async def acted(self, number: int) -> bool:
        """Whether a rule has acted."""
        return bool(await self._ask({"do": "fired", "number": number}))

    async def fired(self, *numbers: int) -> None:
        """Wait until each of these rules has acted."""

        waiting: list[str] = []

        async def all_have() -> bool:
            waiting[:] = [self._lines[number] for number in numbers if not await self.acted(number)]
            return not waiting

        try:
            await until(all_have, "the proxy's rules to act")
        except StackError as error:
            raise StackError(f"{error}; left: {waiting}") from None

    async def release(self, *numbers: int) -> None:
        """End rules; calls that they hold go on."""
        for number in numbers:
            await self._ask({"do": "release", "number": number})

    async def calls(self) -> list[dict[str, Any]]:
        """Every call so far, as `tests.faults.proxy.Call`."""
        calls: list[dict[str, Any]] = await self._ask({"do": "calls"})
        return calls

    async def shut(self) -> None:
        """Cut off all its clients, and refuse new ones."""
        await self._ask({"do": "shut"})

    async def open(self) -> None:
        """Let clients come again."""
        await self._ask({"do": "open"})

    def close(self) -> None:
        """End it."""
        self._stack.stop(self.service)

    async def _ask(self, command: dict[str, Any]) -> Any:
        reader, writer = await asyncio.open_unix_connection(str(self._control), limit=1 << 26)
        try:
            writer.write(json.dumps(command).encode() + b"\n")
            return json.loads(await reader.readline())
        finally:
            writer.close()
            await writer.wait_closed()


class Gateway:
    """One replica. It is started, killed and started again; proxy, port and data directory stay.

    Attributes:
        accepted: what it answered with 202 or 204 to a write on a resource, by request id.
        project_id: the project that the administrator is logged in to; known after the first start.
    """

    def __init__(
        self,
        stack: Stack,
        database_url: str,
        engine_url: str,
        *,
        login: Login | None = None,
        remote: bool = False,
        environment: Mapping[str, str] | None = None,
        **settings: Any,
    ) -> None:
        self.folder = stack.folder("gateway")
        self.proxy = Proxy(stack, engine_url, remote=remote)
        self.port = free_port()
        self.accepted: dict[str, str] = {}
        self.project_id = ""
        self._stack = stack
        self._login = login
        self._environment = environment or {}
        self._service: Service | None = None
        self._settings = {
            "PORT": self.port,
            "DATA_DIR": self.folder,
            "DATABASE_URL": re.sub(r"\+\w+:", ":", database_url, count=1),
            "SECRET_KEY": SECRET,
            "IDENTITY__ADMIN_PASSWORD": PASSWORD,
            "BACKENDS__LOCAL__URL": self.proxy.url,
            "BACKENDS__LOCAL__CONCURRENCY": 32,
            "LEASE_SECONDS": LEASE,
            "POLL_SECONDS": 0.2,
            "OBSERVE_SECONDS": 3,
            "NETWORK_POOL": "10.219.0.0/16",
            **settings,
        }
        self._client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.port}", timeout=PATIENCE)

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._service is not None
        return self._service.pid

    @property
    def headers(self) -> httpx.Headers:
        """What goes with each request: its token, and the API's version."""
        return self._client.headers

    @property
    def alive(self) -> bool:
        """Whether its process runs, or is frozen."""
        return self._service is not None and self._service.alive

    async def start(self, **settings: Any) -> None:
        """Start the process and log in. `settings` hold for this start only."""
        self._service = await asyncio.to_thread(
            self._stack.spawn,
            f"{self.folder.name}-process",
            self.command("serve"),
            log=self.folder / "log",
            ready=self._answers,
            environment=self.environment(**settings),
        )
        if not self.project_id:
            token, self.project_id = await asyncio.to_thread(self._login) if self._login else await self._embedded()
            self._client.headers.update({"X-Auth-Token": token, "OpenStack-API-Version": "container 1.40"})

    def command(self, *words: str) -> list[str]:
        """One of the program's commands."""
        return [sys.executable, "-m", "app", *words]

    def environment(self, **settings: Any) -> dict[str, str]:
        """What its process and its commands find in the environment."""
        unlimited: dict[str, Any] = {f"QUOTA__{name}": -1 for name in ("CONTAINERS", "MEMORY", "DISK", "CPU")}
        # Thirteen actions of one project are held at a time, which gets three quarters of the slots.
        settings = {**unlimited, "WORKER_SLOTS": 24, **self._settings, **settings}
        told = {f"CAISSON_{key}": str(value) for key, value in settings.items()}
        return {"PYTHONPATH": str(ROOT), **self._environment, **told}

    async def kill(self) -> None:
        """SIGKILL, now."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        await self.ended()

    def freeze(self) -> None:
        """SIGSTOP."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)

    async def terminate(self) -> int:
        """SIGTERM; returns the exit code, which is negative when a signal ended it."""
        os.kill(self.pid, signal.SIGTERM)
        return await self.ended()

    async def ended(self) -> int:
        """Wait for the end of the process; returns its exit code as `terminate` does."""
        _, status = await asyncio.to_thread(os.waitpid, self.pid, 0)
        return os.waitstatus_to_exitcode(status)

    async def close(self) -> None:
        """End process and proxy."""
        await self._client.aclose()
        if self._service is not None:
            await asyncio.to_thread(self._stack.stop, self._service, signal.SIGKILL)
        self.proxy.close()

    def log(self, lines: int = 100_000) -> str:
        """The end of what it logged, over all starts."""
        return tail(self.folder / "log", lines)

    # The API

    async def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Any request. One that it accepts is remembered. Raises httpx.TransportError when there is no answer."""
        answer = await self._client.request(method, path, **options)
        if (
            method != "GET"
            and answer.status_code in (202, 204)
            and path.startswith(("/v1/containers", "/v1/capsules", "/v1/images", "/container-infra/v1/clusters"))
            and not (
                answer.content and (answer.json() or {}).get("status") == "Error"
            )  # no host fits: no action either
        ):
            self.accepted[answer.headers["x-openstack-request-id"]] = f"{method} {path}"
        return answer

    async def create(self, image: str, *, run: bool = False, **body: Any) -> str:
        """Accepts a container; returns its uuid."""
        query = {"run": "true"} if run else {}
        answer = await self.request(
            "POST", "/v1/containers", params=query, json={"image": image, "command": RUNS, "memory": 32, **body}
        )
        assert answer.status_code == 202, answer.text
        return str(answer.json()["uuid"])

    async def act(self, uuid: str, verb: str, **query: Any) -> None:
        """Has an action accepted."""
        answer = await self.request("POST", f"/v1/containers/{uuid}/{verb}", params=query)
        assert answer.status_code == 202, answer.text

    async def delete(self, uuid: str, **query: Any) -> None:
        """Has a deletion accepted."""
        answer = await self.request("DELETE", f"/v1/containers/{uuid}", params=query)
        assert answer.status_code == 204, answer.text

    async def show(self, uuid: str) -> dict[str, Any] | None:
        """A container; None when there is none."""
        answer = await self.request("GET", f"/v1/containers/{uuid}")
        if answer.status_code == 404:
            return None
        assert answer.status_code == 200, answer.text
        shown: dict[str, Any] = answer.json()
        return shown

    async def reaches(self, uuid: str, status: str | None, seconds: float = PATIENCE) -> dict[str, Any]:
        """Wait for a status of a container at rest (None: until it is gone), and return the container."""
        last: dict[str, Any] | None = None

        async def there() -> bool:
            nonlocal last
            last = await self.show(uuid)
            if last is None or status is None:
                return last is None and status is None
            return last["status"] == status and last["task_state"] is None

        try:
            await until(there, f"container {uuid} to be {status}", seconds)
        except StackError as error:
            seen = last and {name: last[name] for name in ("status", "status_reason", "task_state")}
            raise StackError(f"{error}; it is {seen}\n{self.log(15)}") from None
        return last or {}

    def _answers(self) -> bool:
        # Not by httpx.get, which reads all certificates of the system each time: that would slow down the start.
        connection = HTTPConnection("127.0.0.1", self.port, timeout=5.0)
        try:
            connection.request("GET", "/healthcheck")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    async def _embedded(self) -> tuple[str, str]:
        user = {"name": "admin", "domain": {"id": "default"}, "password": PASSWORD}
        scope = {"project": {"name": "demo", "domain": {"id": "default"}}}
        identity = {"methods": ["password"], "password": {"user": user}}
        answer = await self._client.post(
            "/identity/v3/auth/tokens", json={"auth": {"identity": identity, "scope": scope}}
        )
        assert answer.status_code == 201, answer.text
        return answer.headers["X-Subject-Token"], answer.json()["token"]["project"]["id"]
