"""Two replicas behind a balancer are restarted one after the other: no request is lost. Copies carry on."""

import asyncio
import shutil
import subprocess
from collections import Counter
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import httpx
import pytest

from tests.faults.conftest import Place
from tests.faults.gateway import Gateway, until
from tests.stack import debian
from tests.stack.session import Service, Stack, free_port

DRAIN = 3  # seconds, six times what the balancer takes to notice
CONFIGURATION = """
global
    maxconn 500
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    option redispatch
    retries 3
frontend front
    bind 127.0.0.1:{port}
    default_backend caisson
backend caisson
    balance roundrobin
    option httpchk GET /readyz
    {servers}
"""


class Balancer:
    """Debian's haproxy before some gateways."""

    def __init__(self, stack: Stack, gateways: list[Gateway]) -> None:
        self.port = free_port()
        self._stack = stack
        folder = stack.folder("balancer")
        servers = "\n    ".join(
            f"server s{number} 127.0.0.1:{gateway.port} check inter 250ms fall 1 rise 1"
            for number, gateway in enumerate(gateways)
        )
        file = folder / "haproxy.cfg"
        file.write_text(CONFIGURATION.format(port=self.port, servers=servers))
        self.service: Service = stack.spawn(
            folder.name,
            [str(debian.program("haproxy")), "-db", "-f", str(file)],
            log=folder / "log",
            ready=self._answers,
        )

    def close(self) -> None:
        self._stack.stop(self.service)

    def _answers(self) -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}/readyz").status_code == 200
        except httpx.TransportError:
            return False


@pytest.fixture
async def gateways(shared_place: Place) -> list[Gateway]:
    return await shared_place.two_replicas(DRAIN_SECONDS=DRAIN)


@pytest.fixture
async def balancer(stack: Stack, gateways: list[Gateway]) -> AsyncIterator[Balancer]:
    made = await asyncio.to_thread(Balancer, stack, gateways)
    yield made
    await asyncio.to_thread(made.close)


async def _is_ready(gateway: Gateway) -> bool:
    try:
        return (await gateway.request("GET", "/readyz")).status_code == 200
    except httpx.TransportError:
        return False


async def test_a_rolling_restart_loses_nothing(
    shared_place: Place, gateways: list[Gateway], balancer: Balancer
) -> None:
    answers: Counter[str] = Counter()
    lost: list[str] = []
    uuids: list[str] = []
    ending = asyncio.Event()
    headers = dict(gateways[0]._client.headers)

    async def load(client: httpx.AsyncClient) -> None:
        while not ending.is_set():
            for method, path in (("GET", "/v1/containers"), ("POST", "/v1/containers"), ("GET", "/v1")):
                body = {"image": shared_place.image, "command": ["true"], "memory": 16} if method == "POST" else None
                try:
                    answer = await client.request(method, path, json=body)
                except httpx.TransportError as error:
                    lost.append(f"{method} {path}: {error!r}")
                    continue
                answers[f"{method} {answer.status_code}"] += 1
                if answer.status_code >= 400:
                    lost.append(f"{method} {path}: {answer.status_code} {answer.text[:200]}")
                elif method == "POST":
                    uuids.append(answer.json()["uuid"])
            await asyncio.sleep(0.2)

    url = f"http://127.0.0.1:{balancer.port}"
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=60) as client:
        users = [asyncio.create_task(load(client)) for _ in range(4)]
        for gateway in gateways:
            await asyncio.sleep(1)
            assert await gateway.terminate() == 0
            await gateway.start()
            await until(partial(_is_ready, gateway), "the replica to be ready again")
            await asyncio.sleep(1)  # the balancer notices
        ending.set()
        await asyncio.gather(*users)
    assert lost == []
    assert answers["POST 202"] >= 10
    rows = await shared_place.truth.rows("SELECT uuid FROM container")
    assert sorted(row["uuid"] for row in rows) == sorted(uuids), "each was made once"
    await shared_place.truth.agree(*gateways, seconds=60)
    print(dict(answers))


# Copies


async def test_a_restored_copy_carries_on(place: Place, stack: Stack, tmp_path: Path) -> None:
    """The copy is taken while an action is under way; what came of it afterwards is lost, and made again."""
    gateway = await place.gateway()
    running = await gateway.create(place.image, run=True)
    await gateway.reaches(running, "Running")
    body = {"registry": {"domain": "registry.test", "username": "u", "password": "kept"}}
    assert (await gateway.request("POST", "/v1/registries", json=body)).status_code == 201
    held = await gateway.proxy.add(r"^POST /containers/create\?", "before", "hold")
    queued = await gateway.create(place.image, run=True)
    await gateway.proxy.fired(held)

    kept = tmp_path / "kept"
    await asyncio.to_thread(_copy, place, gateway, kept)
    await gateway.kill()
    await gateway.proxy.release(held)
    await asyncio.to_thread(_restore, place, kept)

    await gateway.start()
    await gateway.reaches(queued, "Running")
    await gateway.reaches(running, "Running")
    shown = (await gateway.request("GET", "/v1/registries")).json()["registries"]
    assert [registry["domain"] for registry in shown] == ["registry.test"]
    checked = subprocess.run(gateway.command("check"), env=gateway.environment(), capture_output=True, text=True)
    assert "2 secrets are under the newest key" in checked.stdout
    await place.truth.agree(gateway)


def _copy(place: Place, gateway: Gateway, kept: Path) -> None:
    if place.database_url.startswith("sqlite"):
        subprocess.run(gateway.command("backup", str(kept)), env=gateway.environment(), check=True)
    else:
        url = place.database_url.replace("+asyncpg", "")
        program = debian.program("postgres").with_name("pg_dump")
        subprocess.run([program, "--format=custom", f"--file={kept}", url], check=True)


def _restore(place: Place, kept: Path) -> None:
    url = place.database_url.replace("+asyncpg", "")
    if url.startswith("sqlite"):
        database = Path(place.database_url.partition("///")[2])
        for file in database.parent.glob(f"{database.name}*"):
            file.unlink()
        shutil.copy(kept / "caisson.db", database)
    else:
        program = debian.program("postgres").with_name("pg_restore")
        subprocess.run([program, "--clean", "--if-exists", f"--dbname={url}", kept], check=True)
