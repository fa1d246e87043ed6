"""GET of one container and of a list of 100, against a bare handler that returns the same bytes; by wrk."""

import asyncio
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import httpx

from benchmarks.lifecycle import IMAGE, until
from benchmarks.served import Served, free_port, process

CONNECTIONS = (1, 8, 32)
SECONDS = 4


@dataclass(frozen=True)
class Load:
    """What wrk measured; times in milliseconds."""

    rate: float
    p50: float
    p99: float

    def __str__(self) -> str:
        return f"{self.rate:.0f}/s, p50 {self.p50:.2f} ms, p99 {self.p99:.2f} ms"


def measure(url: str, connections: int, headers: Mapping[str, str]) -> Load:
    """Load one URL for some seconds. Raises RuntimeError when an answer was not 2xx."""
    words = [word for name, value in headers.items() for word in ("-H", f"{name}: {value}")]
    command = ["wrk", "-t1", f"-c{connections}", f"-d{SECONDS}s", "--latency", *words, url]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in printed:
        raise RuntimeError(f"{url}: {printed}")
    percentiles = {name: _ms(value, unit) for name, value, unit in re.findall(r"(\d+)%\s+([\d.]+)(us|ms|s)", printed)}
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", printed)[1])  # type: ignore[index]  # wrk always prints it
    return Load(rate, percentiles["50"], percentiles["99"])


def _ms(value: str, unit: str) -> float:
    return float(value) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[unit]


async def fill(served: Served, count: int) -> str:
    """Make `count` containers without starting them; returns one's uuid."""
    async with served.client() as client:
        slots = asyncio.Semaphore(8)

        async def one(number: int) -> str:
            async with slots:
                body = {"name": f"bench-{number}", "image": IMAGE, "command": ["sleep", "1000"], "labels": {"a": "b"}}
                uuid = str((await client.post("/v1/containers", json=body)).json()["uuid"])
                await until(client, uuid, lambda status: status != "Creating")
                return uuid

        return (await asyncio.gather(*(one(number) for number in range(count))))[0]


async def empty(served: Served) -> None:
    """Delete every container."""
    async with served.client() as client:
        while containers := (await client.get("/v1/containers")).json()["containers"]:
            for container in containers:
                await client.delete(f"/v1/containers/{container['uuid']}?force=true")
            await asyncio.sleep(0.5)


def compare(served: Served, uuid: str) -> Sequence[str]:
    """Lines with rates, latencies and the ratio to the bare handler."""
    wanted = (("GET one", f"/v1/containers/{uuid}", 0.3), ("GET list of 100", "/v1/containers", 0.1))
    return [line for name, path, aim in wanted for line in against_bare(served, name, path, aim)]


def against_bare(served: Served, name: str, path: str, aim: float, service: str = "container") -> Sequence[str]:
    """Lines about one path, which is called `name`, for each number of connections."""
    lines = []
    headers = served.headers(service)
    content = httpx.get(served.url + path, headers=headers).raise_for_status().content
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        port = free_port()
        command = [sys.executable, "-m", "benchmarks.bare", str(port), file.name]
        with process(command, f"http://127.0.0.1:{port}/"):
            for connections in CONNECTIONS:
                floor = measure(f"http://127.0.0.1:{port}/", connections, headers)
                ours = measure(served.url + path, connections, headers)
                what = f"{name} ({len(content)} bytes), {connections} connections"
                lines.append(f"{what}: {ours}; bare {floor}; ratio {ours.rate / floor.rate:.2f} (aim >= {aim})")
    return lines
