"""Limits of one project, through the whole application: in both APIs' words, and felt by nobody else."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest_asyncio

from app.settings import LimitSettings
from tests.api import caisson as place
from tests.api.caisson import Caisson, error_of
from tests.api.test_streams import attached, refused, terminal
from tests.api.websocket import websocket

IDLE = 100


@asynccontextmanager
async def allowing(folder: Path, **limits: Any) -> AsyncIterator[Caisson]:
    """An application where little is allowed."""
    url = f"sqlite+aiosqlite:///{folder}/caisson.db"
    async with place.running(url, folder, limits=LimitSettings(**limits)) as running:
        yield Caisson(running)


@pytest_asyncio.fixture
async def narrow(tmp_path: Path) -> AsyncIterator[Caisson]:
    """Forty reads, ten at a time, and then one in a hundred seconds."""
    async with allowing(tmp_path, rate=0.01, burst=40, concurrent=10) as made:
        yield made


@pytest_asyncio.fixture
async def two_websockets(tmp_path: Path) -> AsyncIterator[Caisson]:
    """No more than two terminals of a project."""
    async with allowing(tmp_path, websockets=2) as made:
        yield made


@pytest_asyncio.fixture
async def many_websockets(tmp_path: Path) -> AsyncIterator[Caisson]:
    """As many as `IDLE`."""
    async with allowing(tmp_path, websockets=IDLE) as made:
        yield made


async def test_a_flood(narrow: Caisson) -> None:
    await narrow.token("member")
    floods = [narrow.call("GET", "/v1/containers") for _ in range(60)]
    answers = await asyncio.gather(*floods)
    statuses = [answer.status_code for answer in answers]
    assert 0 < statuses.count(200) <= 40
    assert statuses.count(200) + statuses.count(429) == 60
    refused_one = answers[statuses.index(429)]
    error_of(refused_one, 429, "too-many-requests")
    assert int(refused_one.headers["retry-after"]) >= 1
    for _ in range(40):  # whatever is left
        if (await narrow.call("GET", "/v1/containers")).status_code == 429:
            break
    magnum = await narrow.call("GET", "/container-infra/v1/clustertemplates", version=None)
    assert magnum.status_code == 429
    (error,) = magnum.json()["errors"]
    assert (error["code"], error["status"]) == ("client", 429)
    assert (await narrow.call("GET", "/v1/containers", who="foreign")).status_code == 200
    assert (await narrow.call("GET", "/readyz", who=None, version=None)).status_code == 200


async def test_websockets(two_websockets: Caisson) -> None:
    narrow = two_websockets
    one = await terminal(narrow)
    urls = [await attached(narrow, one["uuid"])]
    async with websocket(narrow.running.app, urls[0]):
        async with websocket(narrow.running.app, await attached(narrow, one["uuid"])):
            await refused(narrow, await attached(narrow, one["uuid"]), 429, "too-many-requests")
            other = await narrow.made(run=True, who="foreign", command=["cat"], interactive=True, tty=True)
            url = await attached(narrow, other["uuid"], who="foreign")
            async with websocket(narrow.running.app, url) as socket:
                assert socket.subprotocol == "binary"
        async with websocket(narrow.running.app, await attached(narrow, one["uuid"])) as again:
            assert again.subprotocol == "binary", "one that was closed no longer counts"


async def test_idle_websockets_hurt_nobody(many_websockets: Caisson) -> None:
    """A project has as many open as it may, and nothing comes on them: everybody is served, and the limit holds."""
    crowded = many_websockets
    box = await terminal(crowded)
    other = await crowded.made(run=True, who="foreign", command=["cat"], interactive=True, tty=True)
    async with AsyncExitStack() as stack:
        for _ in range(IDLE):
            await stack.enter_async_context(websocket(crowded.running.app, await attached(crowded, box["uuid"])))
        await refused(crowded, await attached(crowded, box["uuid"]), 429, "too-many-requests")
        for who, found in (("member", box), ("foreign", other)):
            listed = await crowded.ok("GET", "/v1/containers", who=who)
            assert [shown["uuid"] for shown in listed["containers"]] == [found["uuid"]]
        async with websocket(crowded.running.app, await attached(crowded, other["uuid"], who="foreign")) as talking:
            await talking.send(b"hello\r")
            await talking.heard(b"hello\r\nhello\r\n")
        assert (await crowded.made(who="foreign"))["status"] == "Created"
    async with websocket(crowded.running.app, await attached(crowded, box["uuid"])) as again:
        assert again.subprotocol == "binary"
