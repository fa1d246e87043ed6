"""PostgreSQL that is frozen, crashes and is cut off in chosen statements while Caisson works."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.faults.conftest import Place
from tests.faults.gateway import LEASE, Gateway, Proxy, until
from tests.stack import postgres as postgres_service
from tests.stack.postgres import Postgres
from tests.stack.session import Stack

STATEMENTS = {"^COMMIT": (2, 5, 9, 14), "^UPDATE action": (2, 6, 11), "^INSERT INTO action": (2, 4), "^SELECT": (7, 30)}
"""Where connections are cut: at which of the statements that begin so."""


@pytest.fixture
async def place(stack: Stack, private_postgres: Postgres, docker_url: str, busybox_image: str) -> AsyncIterator[Place]:
    """A place with a PostgreSQL of its own."""
    made = Place(stack, private_postgres.create("caisson"), docker_url, busybox_image)
    yield made
    await made.close()


@pytest.fixture
async def line(shared_place: Place, stack: Stack) -> AsyncIterator[Proxy]:
    """A proxy between the gateways of ``shared_place`` and its PostgreSQL."""
    address = shared_place.database_url.partition("@")[2].partition("/")[0]
    proxy = Proxy(stack, f"postgres://{address}")
    shared_place.reached_at = shared_place.database_url.replace(address, proxy.url.partition("://")[2])
    yield proxy
    proxy.close()


class Callers:
    """Users who read and write all the time, and what they were told."""

    def __init__(self, place: Place, gateway: Gateway) -> None:
        self.place, self.gateway = place, gateway
        self.seen: Counter[int] = Counter()
        self._tasks = [asyncio.create_task(task()) for task in (self._read, self._read, self._write)]

    async def end(self) -> None:
        """Stop calling. Raises what went wrong on the way."""
        for task in self._tasks:
            task.cancel()
        for outcome in await asyncio.gather(*self._tasks, return_exceptions=True):
            if isinstance(outcome, Exception):
                raise outcome

    async def _read(self) -> None:
        while True:
            self._note(await self.gateway.request("GET", "/v1/containers"), 200)
            await asyncio.sleep(0.02)

    async def _write(self) -> None:
        body = {"image": self.place.image, "command": ["sleep", "600"], "memory": 16}
        while True:
            self._note(await self.gateway.request("POST", "/v1/containers", json=body), 202)
            await asyncio.sleep(0.1)

    def _note(self, answer: httpx.Response, good: int) -> None:
        assert answer.status_code in (good, 503), answer.text
        if answer.status_code == 503:
            error = answer.json()["errors"][0]
            assert (error["status"], error["code"]) == (503, "container.service-unavailable")
            assert error["request_id"] == answer.headers["x-openstack-request-id"]
            assert int(answer.headers["retry-after"]) > 0
        self.seen[answer.status_code] += 1


async def _answers_more(callers: Callers, status: int, count: int) -> None:
    before = callers.seen[status]

    async def more() -> bool:
        return callers.seen[status] >= before + count

    await until(more, f"{count} more answers with {status}")


async def _stopping(gateway: Gateway, uuid: str) -> int:
    """A stop that the engine has carried out: the rule that holds its answer."""
    held = await gateway.proxy.add(r"^POST /containers/\w+/stop", "after", "hold")
    await gateway.act(uuid, "stop", timeout="0")
    await gateway.proxy.fired(held)
    return held


async def test_a_database_that_crashes_and_comes_back(place: Place, stack: Stack, private_postgres: Postgres) -> None:
    gateway = await place.gateway(LEASE_SECONDS=15)
    running = await gateway.create(place.image, run=True)
    await gateway.reaches(running, "Running")
    callers = Callers(place, gateway)
    await _answers_more(callers, 200, 10)
    held = await _stopping(gateway, running)
    # Down, and an engine that answers meanwhile: the outcome waits for the database.
    stack.stop(private_postgres.service)
    await gateway.proxy.release(held)
    await _answers_more(callers, 503, 10)
    folder = private_postgres.service.facts["folder"]
    await asyncio.to_thread(
        postgres_service.start, stack, private_postgres.service.name, folder=Path(folder), port=private_postgres.port
    )
    await _answers_more(callers, 200, 10)
    await _answers_more(callers, 202, 3)
    await callers.end()
    await gateway.reaches(running, "Stopped")
    stopped = [action for action in await place.truth.agree(gateway) if action["verb"] == "stop"]
    assert [(action["state"], action["attempts"]) for action in stopped] == [("done", 1)], "its outcome was forgotten"
    print(dict(callers.seen))
    await asyncio.gather(*(gateway.delete(row["uuid"]) for row in await place.truth.rows("SELECT uuid FROM container")))
    await place.truth.agree(gateway)


async def test_a_database_that_freezes(place: Place, private_postgres: Postgres) -> None:
    """Longer than leases, shorter than the patience of a statement: calls wait, and all is well afterwards."""
    gateway = await place.gateway()
    running = [await gateway.create(place.image, run=True) for _ in range(3)]
    for uuid in running:
        await gateway.reaches(uuid, "Running")
    callers = Callers(place, gateway)
    await _answers_more(callers, 200, 10)
    held = await gateway.proxy.add(r"^POST /containers/\w+/(stop|kill|pause)", "before", "hold", every=True)
    await gateway.act(running[0], "stop", timeout="0")
    await gateway.act(running[1], "kill")
    await gateway.act(running[2], "pause")
    await gateway.proxy.fired(held)
    private_postgres.freeze()
    began = time.monotonic()

    async def beyond_leases() -> bool:
        return time.monotonic() - began > 1.5 * LEASE

    try:
        await until(beyond_leases, "the leases to end")
    finally:
        private_postgres.thaw()
    await gateway.proxy.release(held)
    await _answers_more(callers, 200, 10)
    await callers.end()
    actions = await place.truth.agree(gateway)
    print(dict(callers.seen))
    ended = {action["verb"]: action for action in actions if action["verb"] != "create"}
    assert (ended["stop"]["state"], ended["pause"]["state"]) == ("done", "done")
    assert ended["kill"]["state"] == "done" or "is not repeated" in ended["kill"]["message"]
    assert ended["stop"]["attempts"] >= 2, "a step went on without a lease"


async def test_a_frozen_database_holds_nobody_for_ever(place: Place, private_postgres: Postgres) -> None:
    """Longer than the patience of a statement: 503, and connections that can be used again afterwards."""
    gateway = await place.gateway()
    uuid = await gateway.create(place.image)
    await gateway.reaches(uuid, "Created")
    private_postgres.freeze()
    try:
        answers: list[Any] = await asyncio.gather(
            *(gateway.request("GET", "/v1/containers") for _ in range(6)),
            gateway.request("DELETE", f"/v1/containers/{uuid}"),
        )
    finally:
        private_postgres.thaw()
    assert [answer.status_code for answer in answers] == [503] * 7

    async def answered() -> bool:
        again = await asyncio.gather(*(gateway.request("GET", "/v1/containers") for _ in range(6)))
        return all(answer.status_code == 200 for answer in again)

    await until(answered, "the gateway to answer again")
    await gateway.delete(uuid)
    await gateway.reaches(uuid, None)
    await place.truth.agree(gateway)


@pytest.mark.parametrize("when", ["before", "after"])
async def test_connections_cut_in_statements(shared_place: Place, line: Proxy, when: str) -> None:
    """Whether the database did it or not: what was answered with 202 is carried out, and nothing else has two lives."""
    gateway = await shared_place.gateway()
    callers = Callers(shared_place, gateway)
    await _answers_more(callers, 202, 3)
    rules = []
    for statement, places in STATEMENTS.items():
        rules += [await line.add(statement, when, "cut", nth=nth) for nth in places]
    slow = await line.add("^(COMMIT|SELECT container)", when, "delay", seconds=0.2, every=True, nth=5)
    await line.fired(*rules)
    await line.release(*rules, slow)
    await _answers_more(callers, 200, 10)
    await callers.end()
    await shared_place.truth.agree(gateway)
    print(dict(callers.seen))
    rows = await shared_place.truth.rows("SELECT uuid FROM container")
    assert len(rows) >= len(gateway.accepted)  # a commit whose answer was lost may have been one
    await asyncio.gather(*(gateway.delete(row["uuid"]) for row in rows))
    await shared_place.truth.agree(gateway)
    assert await shared_place.truth.engine_containers(gateway.project_id) == {}
