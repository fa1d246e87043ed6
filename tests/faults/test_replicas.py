"""Two replicas on one PostgreSQL and one engine: frozen in a call, and killed at random under load."""

import asyncio
import random
import secrets
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.faults.conftest import Place
from tests.faults.gateway import LEASE, Gateway, until
from tests.stack.postgres import Postgres
from tests.stack.session import Stack

pytestmark = pytest.mark.asyncio(loop_scope="module")

SEED = 20261124
CREATES = 80  # and more until there were that many kills
KILLS = 4


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_place(
    stack: Stack, postgres_server: Postgres, docker_url: str, busybox_image: str
) -> AsyncIterator[Place]:
    """One PostgreSQL for all tests here."""
    name = f"test_{secrets.token_hex(6)}"
    made = Place(stack, postgres_server.create(name), docker_url, busybox_image)
    yield made
    await made.close()
    postgres_server.drop(name)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateways(shared_place: Place) -> list[Gateway]:
    """Two replicas, running at the end of each test."""
    return await shared_place.two_replicas(OBSERVE_SECONDS=1)


async def _freeze_one(gateways: list[Gateway], line: str, when: str) -> list[int]:
    """Rules by which whichever replica makes this call is frozen in it. Returns a rule number for each."""
    return [await gateway.proxy.add(line, when, "freeze", pid=gateway.pid, hold_too=True) for gateway in gateways]


async def _frozen(gateways: list[Gateway], rules: list[int]) -> tuple[Gateway, int, Gateway, int]:
    """Which replica is frozen now, and which is not, each with its rule."""

    async def which() -> list[int]:
        return [at for at, gateway in enumerate(gateways) if await gateway.proxy.acted(rules[at])]

    at = (await until(which, "a replica to be frozen"))[0]
    return gateways[at], rules[at], gateways[1 - at], rules[1 - at]


async def _thaw(gateway: Gateway) -> None:
    """Let a replica go on that was frozen in one step, and wait until it has dropped that and answers."""
    stopped = gateway.log().count("lease not renewed, stopped")
    gateway.thaw()

    async def dropped() -> bool:
        return gateway.log().count("lease not renewed, stopped") > stopped

    await until(dropped, "the frozen replica to stop its step")
    assert (await gateway.request("GET", "/v1/containers")).status_code == 200


@pytest.mark.parametrize("when", ["before", "after"])
async def test_frozen_in_a_create_beyond_its_lease(shared_place: Place, gateways: list[Gateway], when: str) -> None:
    """The other replica takes over; the late call meets what is there, and the late replica writes nothing."""
    rules = await _freeze_one(gateways, r"^POST /containers/create\?", when)
    uuid = await gateways[0].create(shared_place.image, run=True)
    late, late_rule, other, other_rule = await _frozen(gateways, rules)
    await other.proxy.release(other_rule)  # the other one may make the call
    await other.reaches(uuid, "Running")
    made = await shared_place.truth.engine_containers(other.project_id)
    outcome = await shared_place.truth.settled()
    await late.proxy.release(late_rule)  # before: only now does the late call reach the engine
    await _thaw(late)
    assert await shared_place.truth.agree(*gateways) == outcome, "the late replica wrote something"
    assert outcome[-1]["attempts"] == 2
    now = await shared_place.truth.engine_containers(other.project_id)
    assert {uuid: box["Id"] for uuid, box in now.items()} == {uuid: box["Id"] for uuid, box in made.items()}
    await other.delete(uuid, force="true")
    await other.reaches(uuid, None)


async def test_a_create_that_comes_after_the_delete(shared_place: Place, gateways: list[Gateway]) -> None:
    """The worst case: taken over, deleted, and then the frozen replica's call reaches the engine. It is swept away."""
    rules = await _freeze_one(gateways, r"^POST /containers/create\?", "before")
    uuid = await gateways[0].create(shared_place.image)
    late, late_rule, other, other_rule = await _frozen(gateways, rules)
    await other.proxy.release(other_rule)
    await other.reaches(uuid, "Created")
    await other.delete(uuid)
    await other.reaches(uuid, None)
    assert await shared_place.truth.engine_containers(other.project_id) == {}
    await late.proxy.release(late_rule)

    async def came() -> bool:
        calls = await late.proxy.calls()
        return any(call["line"].startswith("POST /containers/create") and call["ended"] for call in calls)

    await until(came, "the late call to be made")
    await _thaw(late)
    await shared_place.truth.agree(*gateways)


async def test_a_kill_is_sent_once_whoever_does_it(shared_place: Place, gateways: list[Gateway]) -> None:
    """Frozen after the attempt was noted: the other replica does not send the signal again, and says so."""
    uuid = await gateways[0].create(shared_place.image, run=True)
    await gateways[0].reaches(uuid, "Running")
    rules = await _freeze_one(gateways, r"^POST /containers/\w+/kill\?", "after")
    await gateways[0].act(uuid, "kill", signal="SIGUSR1")
    late, late_rule, other, _ = await _frozen(gateways, rules)
    actions = await shared_place.truth.settled()
    assert actions[-1]["state"] == "failed"
    assert "is not repeated" in actions[-1]["message"]
    await late.proxy.release(late_rule)
    await _thaw(late)
    assert await shared_place.truth.agree(*gateways) == actions
    answer = await other.request("GET", f"/v1/containers/{uuid}/logs")
    assert answer.json().split() == ["up", "usr1"]
    await other.delete(uuid, force="true")
    await other.reaches(uuid, None)


class Load:
    """Containers made and deleted over two replicas of which either may be dead at any moment."""

    def __init__(self, place: Place, gateways: list[Gateway]) -> None:
        self.place, self.gateways = place, gateways
        self.chance = random.Random(SEED)
        self.killed = 0
        self.broken = 0
        self.twice: list[str] = []
        self.done = False

    async def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        """One request to either replica, repeated elsewhere while there is no answer."""
        while True:
            gateway = self.chance.choice(self.gateways)
            try:
                answer = await gateway.request(method, path, **options)
            except httpx.TransportError:
                self.broken += 1
                await asyncio.sleep(0.1)
                continue
            assert answer.status_code < 500, answer.text
            return answer

    async def live(self) -> None:
        """One container from its creation to its end."""
        run = self.chance.random() < 0.4
        body = {"image": self.place.image, "command": ["sleep", "600"], "memory": 16}
        created = await self.ask("POST", "/v1/containers", params={"run": str(run)}, json=body)
        assert created.status_code == 202, created.text
        uuid = created.json()["uuid"]

        async def at_rest() -> bool:
            shown = (await self.ask("GET", f"/v1/containers/{uuid}")).json()
            assert shown["status"] != "Error", shown
            return shown["status"] in ("Created", "Running") and shown["task_state"] is None

        if self.chance.random() < 0.7:  # the others are deleted while they are being made
            await until(at_rest, f"container {uuid} to be there", 90)
        deleted = await self.ask("DELETE", f"/v1/containers/{uuid}", params={"force": "true"})
        # 404 or 409: the first attempt was accepted, and its answer was lost.
        assert deleted.status_code in (204, 404), deleted.text

    async def harass(self) -> None:
        """Kill one replica, start it again, and so on."""
        while not self.done:
            await asyncio.sleep(self.chance.uniform(0.3, 2.0))
            victim = self.chance.choice(self.gateways)
            await victim.kill()
            self.killed += 1
            await asyncio.sleep(self.chance.uniform(0.0, LEASE))
            await victim.start()

    async def sample(self) -> None:
        """Look for two live leases on one resource, all the time."""
        while not self.done:
            holders = Counter(
                action["resource_id"] for action in await self.place.truth.actions(state="running") if action["taken"]
            )
            self.twice += [uuid for uuid, count in holders.items() if count > 1]
            await asyncio.sleep(0.05)


async def test_replicas_killed_at_random_under_load(
    shared_place: Place, gateways: list[Gateway], record_property: Any
) -> None:
    load, began = Load(shared_place, gateways), time.monotonic()
    spoilers = [asyncio.create_task(load.harass()), asyncio.create_task(load.sample())]
    crowd = asyncio.Semaphore(10)

    async def one() -> None:
        async with crowd:
            await load.live()

    async with asyncio.TaskGroup() as group:
        for _ in range(CREATES):
            group.create_task(one())
    while load.killed < KILLS:
        await load.live()
    load.done = True
    await asyncio.gather(*spoilers)
    unheard = await shared_place.truth.rows("SELECT uuid FROM container WHERE status != 'Deleting'")
    for row in unheard:  # created, and killed before it could say so
        await gateways[0].delete(row["uuid"], force="true")
    actions = await shared_place.truth.agree(*gateways, seconds=60)
    assert await shared_place.truth.rows("SELECT uuid FROM container") == []
    assert load.twice == []
    assert await _overlaps(gateways, began) == []
    accepted = sum(len(gateway.accepted) for gateway in gateways)
    figures = {
        "seed": SEED, "kills": load.killed, "accepted": accepted, "requests without an answer": load.broken,
        "created without an answer": len(unheard), "actions": len(actions),
        "taken over": sum(action["attempts"] > 1 for action in actions),
    }  # fmt: skip
    print(figures)
    record_property("figures", figures)


async def _overlaps(gateways: list[Gateway], since: float) -> list[str]:
    """Containers that calls of different replicas changed at the same time."""
    spans: dict[str, list[tuple[float, float, int]]] = defaultdict(list)
    for number, gateway in enumerate(gateways):
        for call in await gateway.proxy.calls():
            method, path = call["line"].split(" ", 1)
            if call["began"] < since or call["ended"] is None:
                continue
            if method != "GET" and path.startswith("/containers/"):
                ident = path.partition("name=caisson-")[2] or path.split("/")[2].partition("?")[0]
                spans[ident].append((call["began"], call["ended"], number))
    return [
        ident
        for ident, calls in spans.items()
        for first in calls
        for second in calls
        if first[2] < second[2] and first[0] < second[1] and second[0] < first[1]
    ]
