"""Every fault, with containers, capsules and clusters under way at once: on both databases, and with three replicas.

Each fault meets calls of the engine for a container, a capsule and two clusters that are half done. What was asked is
carried out all the same, once, and reads are answered meanwhile.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import httpx
import pytest
import pytest_asyncio

from tests.faults.fleet import LONG, VERSION, Fleet
from tests.faults.gateway import LEASE, RUNS, Gateway, until
from tests.faults.world import Ground, World, ground, world
from tests.stack.session import Stack

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(600)]

SEED = 20261126
SECONDS = {
    "a replica is killed": 0.5,
    "a replica is frozen": 0.5,
    "the engine is killed": 1.0,
    "the engine is stopped": 1.0,
    "the engine hangs": 2 * LEASE,
    "the clock is set": 2.0,
    "keystone is down": 2.0,
    "keystone is slow": 2.0,
    "the disk is full": 3.0,
    "the database crashes": 2.0,
    "the database fails over": 10.0,  # and as long once more, in which it is silent
}
"""How long each fault lasts."""
ON_DATABASES = ["the database crashes", "the database fails over"]
ANYWHERE = [harm for harm in SECONDS if harm not in ["the disk is full", *ON_DATABASES]]
ALONE_ON_SQLITE = [*ANYWHERE, "the disk is full"]
ALONE_ON_POSTGRESQL = [*ON_DATABASES, *ANYWHERE]
TOGETHER = ["the database crashes", *ANYWHERE, "the database fails over"]
"""An odd number comes before the others here, so that each meets the other turn: what makes, or what deletes."""


class Wishes:
    """What is asked, in turns: to make and to grow, then to shrink and to delete."""

    def __init__(self, there: World, fleet: Fleet) -> None:
        self.world, self.fleet, self.place = there, fleet, there.place
        self.base = ""
        self.made: dict[str, str] = {}
        self.reads: Counter[str] = Counter()

    async def under_way(self) -> None:
        """Ask for the next, and wait until each has come to a call of the engine, which is held."""
        growing = not self.made
        line = r"^POST /containers/create\?name=" if growing else r"^DELETE /containers/"
        # Whether the engine has done it already is a matter of chance.
        whens = [self.world.chance.choice(["before", "after"]) for _ in self.world.gateways]
        self._rules = [
            (gateway.proxy, await gateway.proxy.add(line, when, "hold", every=True))
            for gateway, when in zip(self.world.gateways, whens, strict=True)
        ]
        marks = await (self._grow() if growing else self._shrink())

        async def held() -> bool:
            calls = [call for proxy, _ in self._rules for call in await proxy.calls()]
            open_ = [call["line"] for call in calls if call["ended"] is None]
            return all(any(ref in line for line in open_ for ref in refs) for refs in marks)

        await until(held, f"all of {marks} to be under way")

    async def released(self) -> None:
        """Let what was held go on."""
        for proxy, number in self._rules:
            await proxy.release(number)

    async def fulfilled(self) -> None:
        """All is as it was asked, and rows and engine agree."""
        await self.place.truth.agree(*self.world.gateways, seconds=LONG)
        wanted = await self.place.truth.rows("SELECT uuid, status FROM cluster")
        if self.made:
            assert {row["uuid"] for row in wanted} == {self.base, self.made["cluster"]}
            await self.fleet.is_made_of(self.made["cluster"], 1, "CREATE_COMPLETE")
            await self.fleet.is_made_of(self.base, 3, "UPDATE_COMPLETE")
        else:
            assert {row["uuid"] for row in wanted} == {self.base}
            await self.fleet.is_made_of(self.base, 2, "UPDATE_COMPLETE")
        for kind in ("container", "capsule"):
            alone = " WHERE capsule_id IS NULL" if kind == "container" else ""
            rows = await self.place.truth.rows(f"SELECT uuid FROM {kind}{alone}")
            assert {row["uuid"] for row in rows} == ({self.made[kind]} if self.made else set())

    async def end(self) -> None:
        """Delete all, and see that nothing is left of it."""
        await self.fleet.clear()
        if self.made:
            await self.anyone.delete(self.made["container"], force="true")
            await self.anyone.request("DELETE", f"/v1/capsules/{self.made['capsule']}")
        await self.place.truth.agree(*self.world.gateways)
        for kind in ("container", "capsule", "cluster"):
            assert await self.place.truth.rows(f"SELECT uuid FROM {kind}") == []
        assert await self.place.truth.engine_containers(self.anyone.project_id) == {}
        assert await self.place.truth.engine_networks(self.anyone.project_id) == []
        assert await self.place.truth.clusters(project=self.anyone.project_id) == {}

    @asynccontextmanager
    async def reading(self, blind: bool) -> AsyncIterator[None]:
        """Somebody reads all the time, and is answered unless `blind`: the database or the identity is harmed."""
        self.reads.clear()
        paths = ("/v1/containers", "/v1/capsules", "/container-infra/v1/clusters")

        async def read() -> None:
            while True:
                for path in paths:
                    await self._read(path, blind)
                await asyncio.sleep(0.05)

        reader = asyncio.create_task(read())
        try:
            yield
        finally:
            reader.cancel()
            outcome = (await asyncio.gather(reader, return_exceptions=True))[0]
        if isinstance(outcome, Exception):
            raise outcome
        assert self.reads["200"]

    async def _read(self, path: str, blind: bool) -> None:
        there = [one for one in self.world.gateways if one not in self.world.away]
        if not there:
            return
        gateway = self.world.chance.choice(there)
        try:
            answer = await gateway.request("GET", path, headers=VERSION if "infra" in path else {})
        except httpx.TransportError:
            assert gateway in self.world.away  # it was taken away just then
            return
        self.reads[str(answer.status_code)] += 1
        assert answer.status_code == 200 or (blind and answer.status_code == 503), answer.text
        assert answer.status_code == 200 or int(answer.headers["retry-after"]) > 0

    async def _grow(self) -> list[list[str]]:
        """A container, a capsule, a cluster of one node, and one more node of the other."""
        box = {"image": self.place.image, "command": RUNS}
        spec = {"containers": [box | {"resources": {"requests": {"cpu": 0.1, "memory": 32}}}]}
        body = {"template": {"kind": "capsule", "metadata": {"name": "pod"}, "spec": spec}}
        capsule = await self.anyone.request("POST", "/v1/capsules", json=body)
        assert capsule.status_code == 202, capsule.text
        self.made = {
            "container": await self.anyone.create(self.place.image, run=True),
            "capsule": str(capsule.json()["uuid"]),
            "cluster": await self.fleet.create(0),
        }
        await self._resize(2)
        return [[uuid] for uuid in (*self.made.values(), self.base)]

    async def _shrink(self) -> list[list[str]]:
        """All that was made is to go."""
        boxes = await self.place.truth.engine_containers(self.anyone.project_id)
        nodes = await self.place.truth.clusters(project=self.anyone.project_id)
        refs = {"container": [boxes[self.made["container"]]["Id"]]}
        refs["capsule"] = [box["Id"] for uuid, box in boxes.items() if uuid != self.made["container"]]
        for name, uuid in (("cluster", self.made["cluster"]), ("base", self.base)):
            refs[name] = [one["Id"] for one in nodes[uuid]["containers"]]
        await self.anyone.delete(self.made["container"], force="true")
        answer = await self.anyone.request("DELETE", f"/v1/capsules/{self.made['capsule']}")
        assert answer.status_code == 204, answer.text
        await self.fleet.ask("DELETE", f"clusters/{self.made['cluster']}")
        await self._resize(1)
        self.made = {}
        return list(refs.values())

    async def _resize(self, count: int) -> None:
        await self.fleet.ask("POST", f"clusters/{self.base}/actions/resize", {"node_count": count})

    @property
    def anyone(self) -> Gateway:
        return self.world.chance.choice(self.world.gateways)


@pytest.fixture(scope="module")
def harmed(stack: Stack) -> Iterator[Ground]:
    """An engine for all tests here."""
    with ground(stack) as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def wishes(request: pytest.FixtureRequest, stack: Stack, harmed: Ground) -> AsyncIterator[Wishes]:
    """Of somebody who has a cluster already, on this database, with so many replicas."""
    database, replicas = request.param
    async with world(stack, harmed, database, replicas, SEED) as there:
        fleet = Fleet(there.place, there.gateways[0], harmed.coe, harmed.nodes)
        await fleet.add_template("node")
        made = Wishes(there, fleet)
        made.base = await fleet.create()
        await fleet.reaches(made.base, "CREATE_COMPLETE")
        yield made
        await made.end()


# The world is a parameter, so that each ends before the next begins: they share a project and an engine.


@pytest.mark.parametrize("harm", ALONE_ON_SQLITE)
@pytest.mark.parametrize("wishes", [("sqlite", 1)], indirect=True, ids=["1"], scope="module")
async def test_one_replica_on_sqlite(wishes: Wishes, harm: str) -> None:
    await _harmed(wishes, harm)


@pytest.mark.parametrize("harm", ALONE_ON_POSTGRESQL)
@pytest.mark.parametrize("wishes", [("postgresql", 1)], indirect=True, ids=["1"], scope="module")
async def test_one_replica_on_postgresql(wishes: Wishes, harm: str) -> None:
    await _harmed(wishes, harm)


@pytest.mark.parametrize("harm", TOGETHER)
@pytest.mark.parametrize("wishes", [("postgresql", 3)], indirect=True, ids=["3"], scope="module")
async def test_three_replicas_on_postgresql(wishes: Wishes, harm: str) -> None:
    await _harmed(wishes, harm)


async def _harmed(wishes: Wishes, harm: str) -> None:
    await wishes.under_way()
    async with wishes.reading(blind=harm.startswith(("the database", "keystone"))):
        async with wishes.world.harms[harm]():
            await wishes.released()
            await asyncio.sleep(SECONDS[harm])
        await wishes.fulfilled()
    print(dict(wishes.reads))
