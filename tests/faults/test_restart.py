"""Two replicas behind haproxy, configured as docs/operations.md says, are restarted in turn: no request is lost."""

import asyncio
import csv
import re
import socket
from collections import Counter
from typing import Any

import httpx

from scripts.newcomer.packages import tail
from tests.faults.conftest import Place
from tests.faults.gateway import Gateway, until
from tests.stack import debian
from tests.stack.session import ROOT, Stack, free_port

PAGE = ROOT / "docs" / "operations.md"
DRAIN = 3  # seconds, as the page says


class Balancer:
    """haproxy before two gateways."""

    def __init__(self, stack: Stack, gateways: list[Gateway]) -> None:
        self.port = free_port()
        self._stack = stack
        self._folder = stack.folder("balancer")
        self._socket = self._folder / "admin.sock"
        (self._folder / "haproxy.cfg").write_text(self._configuration(gateways))
        self._service = stack.spawn(
            self._folder.name,
            [str(debian.program("haproxy")), "-db", "-f", str(self._folder / "haproxy.cfg")],
            log=self._folder / "log",
            ready=lambda: self._socket.exists() and self.standing() == {"one": "UP", "two": "UP"},
        )

    def standing(self) -> dict[str, Any]:
        """How it sees each server that it checks."""
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(self._socket))
            client.sendall(b"show stat\n")
            shown = client.makefile().read()
        rows = csv.DictReader(shown.removeprefix("# ").splitlines())
        return {row["svname"]: row["status"] for row in rows if row["svname"] in ("one", "two")}

    def log(self) -> str:
        """What it said."""
        return tail(self._folder / "log", 20)

    def close(self) -> None:
        """End it."""
        self._stack.stop(self._service)

    def _configuration(self, gateways: list[Gateway]) -> str:
        (text,) = re.findall(r"^```haproxy\n(.*?)^```", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)
        instead = {"/run/haproxy/admin.sock": str(self._socket), "bind :9517": f"bind 127.0.0.1:{self.port}"}
        instead |= {f"192.0.2.{n}:9517": f"127.0.0.1:{gateway.port}" for n, gateway in enumerate(gateways, 1)}
        for words, others in instead.items():
            assert words in text
            text = text.replace(words, others)
        return str(text)


class Load:
    """Some who ask without a pause, and one who makes containers. Remembers what was answered, and what was not."""

    def __init__(self, port: int, headers: httpx.Headers, image: str) -> None:
        self.answers: Counter[str] = Counter()
        self.lost: list[str] = []
        self.registries: list[str] = []
        self.containers: list[str] = []
        self._client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=60)
        self._body = {"image": image, "command": ["true"], "memory": 16}
        self._ending = asyncio.Event()
        self._users = [asyncio.create_task(user()) for user in (*[self._asks] * 4, self._creates)]

    async def end(self) -> None:
        """Let everybody finish what they are about."""
        self._ending.set()
        await asyncio.gather(*self._users)
        await self._client.aclose()

    async def _asks(self) -> None:
        registry = {"registry": {"domain": "registry.test", "username": "u", "password": "p"}}
        while not self._ending.is_set():
            await self._ask("GET", "/v1/containers")
            if made := await self._ask("POST", "/v1/registries", registry):
                self.registries.append(made["registry"]["uuid"])
            await asyncio.sleep(0.02)

    async def _creates(self) -> None:
        while not self._ending.is_set():
            if made := await self._ask("POST", "/v1/containers", self._body):
                self.containers.append(made["uuid"])
            await asyncio.sleep(0.5)

    async def _ask(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        try:
            answer = await self._client.request(method, path, json=body)
        except httpx.TransportError as error:
            self.lost.append(f"{method} {path}: {error!r}")
            return {}
        self.answers[f"{method} {path} {answer.status_code}"] += 1
        if answer.status_code >= 400:
            self.lost.append(f"{method} {path}: {answer.status_code} {answer.text[:200]}")
            return {}
        return dict(answer.json())


async def test_a_rolling_restart_loses_nothing(shared_place: Place, stack: Stack) -> None:
    assert f"CAISSON_DRAIN_SECONDS={DRAIN}" in PAGE.read_text()
    gateways = await shared_place.two_replicas(DRAIN_SECONDS=DRAIN, LIMITS__RATE=1e6)
    balancer = await asyncio.to_thread(Balancer, stack, gateways)
    load = Load(balancer.port, gateways[0].headers, shared_place.image)

    async def both_up() -> bool:
        return await asyncio.to_thread(balancer.standing) == {"one": "UP", "two": "UP"}

    for gateway in gateways:
        assert await gateway.terminate() == 0
        await gateway.start()
        await until(both_up, "the balancer to find the replica ready again")
    await load.end()
    assert load.lost == [], balancer.log()
    await asyncio.to_thread(balancer.close)
    assert len(load.registries) > 50
    assert load.containers
    for table, made in (("registry", load.registries), ("container", load.containers)):
        rows = await shared_place.truth.rows(f"SELECT uuid FROM {table}")
        assert sorted(row["uuid"] for row in rows) == sorted(made), f"each {table} was made once"
    await shared_place.truth.agree(*gateways)
    print(dict(load.answers))
