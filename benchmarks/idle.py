"""Websockets on which nobody types: what each takes, and whether others notice; and memory as load goes on."""

import asyncio
from collections.abc import Sequence

import aiohttp
import httpx

from benchmarks.lifecycle import IMAGE, until
from benchmarks.reads import measure
from benchmarks.served import Served

SOCKETS = 1000
SETTINGS = {"CAISSON_LIMITS__WEBSOCKETS": str(SOCKETS)}


async def compare(served: Served) -> Sequence[str]:
    """Lines with what a socket takes, and with p99 of a list beside all of them."""
    headers = served.headers()
    url = f"{served.url}/v1/containers"
    async with served.client() as client, _session() as session:
        body = {"image": IMAGE, "command": ["cat"], "interactive": True, "tty": True}
        uuid = str((await client.post("/v1/containers?run=true", json=body)).json()["uuid"])
        await until(client, uuid, lambda status: status == "Running")
        await asyncio.to_thread(measure, url, 1, headers)
        alone, before = await asyncio.to_thread(measure, url, 1, headers), served.memory()
        sockets = []
        for _ in range(SOCKETS):  # one after the other: a new ticket makes older ones worthless
            found = (await client.get(f"/v1/containers/{uuid}/attach")).raise_for_status().json()
            sockets.append(await session.ws_connect(found, protocols=["binary"]))
        each = (served.memory() - before) * 1024 / SOCKETS
        beside = await asyncio.to_thread(measure, url, 1, headers)
        for socket in sockets:
            await socket.close()
        await client.delete(f"/v1/containers/{uuid}?force=true")
        await until(client, uuid, lambda status: status is None)
    return [
        f"idle websocket: {each:.0f} KiB each, of {SOCKETS}",
        f"list beside {SOCKETS} idle websockets: p99 {beside.p99:.2f} ms; alone {alone.p99:.2f} ms",
        await asyncio.to_thread(_memory, served, url),
    ]


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))


def _memory(served: Served, url: str) -> str:
    """Resident memory after some load, and after as much again."""
    after = list[float]()
    for _ in range(2):
        for _ in range(3):
            measure(url, 32, served.headers())
        after.append(served.memory())
    httpx.get(f"{served.url}/livez").raise_for_status()
    return f"resident memory after a load {after[0]:.0f} MiB, after twice as much {after[1]:.0f} MiB (aim: the same)"
