"""Whether nodes of clusters fit on a host, and which host they go to."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import select

from app import capacity, hosts
from app.backends import Drivers, Engines
from app.capacity import Need
from app.db import EVERYTHING, Database, Scope
from app.errors import Conflict, Unsupported
from app.models import Cluster, Container, Host, NodeGroup
from app.settings import Settings
from tests.fake import MEMORY, FakeEngine
from tests.fake_driver import FakeDriver

OWNED: dict[str, Any] = {"user_id": "u", "created_at": 1.0}


class Town:
    """Two hosts that were asked, and a database."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.database = database
        self.settings = Settings(data_dir=folder)
        self.engines = Engines({"first": FakeEngine("first"), "second": FakeEngine("second")})
        self.drivers = Drivers({("kubernetes", name): FakeDriver() for name in self.engines})

    async def place(self, need: Need, driver: str = "kubernetes") -> str:
        async with self.database.transaction(Scope("p")) as session:
            return await capacity.place(session, self.engines, self.drivers, self.settings, driver, need)

    async def check(self, backend: str, need: Need) -> None:
        async with self.database.transaction(Scope("p")) as session:
            await capacity.check(session, self.engines, backend, need)

    async def add(self, backend: str, nodes: int, memory: int, disk: int = 0, project: str = "other") -> None:
        """A cluster is there already, of any project."""
        async with self.database.transaction(EVERYTHING) as session:
            cluster = Cluster(
                **OWNED, project_id=project, name="c", cluster_template_id="t", coe="kubernetes", driver="kubernetes",
                backend=backend,
            )  # fmt: skip
            session.add(cluster)
            session.add(
                NodeGroup(
                    **OWNED, project_id=project, cluster_id=cluster.uuid, name="g", node_count=nodes,
                    node_memory=memory, node_disk=disk,
                )
            )  # fmt: skip


@pytest.fixture
async def town(database_url: str, tmp_path: Path) -> AsyncIterator[Town]:
    database = Database(database_url)
    await database.migrate()
    made = Town(database, tmp_path)
    await made.engines.ping()
    made.engines.tried = True
    for name in made.engines:
        await hosts.report(database, made.engines, made.settings, name)
    yield made
    await database.close()


async def test_a_cluster_goes_where_most_is_left(town: Town) -> None:
    await town.add("first", 2, 512)
    assert await town.place(Need(memory=1024)) == "second"
    await town.add("second", 3, 512)
    assert await town.place(Need(memory=1024)) == "first"
    async with town.database.transaction(EVERYTHING) as session:
        session.add(Container(**OWNED, project_id="p", name="b", image="i", backend="first", memory=4096))
    assert await town.place(Need(memory=1024)) == "second"


async def test_a_host_without_room_is_passed_by_and_said_so_when_none_has_any(town: Town) -> None:
    await town.add("second", 1, MEMORY - 100)
    await town.add("first", 1, 200, disk=10)
    assert await town.place(Need(memory=1024)) == "first"
    with pytest.raises(Conflict) as refused:
        await town.place(Need(memory=MEMORY))
    assert refused.value.title == (
        f"There is no host for the cluster: host first-host has {MEMORY} MiB of memory, nodes of clusters there may "
        f"take 200 MiB, and these would take {MEMORY} MiB; host second-host has {MEMORY} MiB of memory, nodes of "
        f"clusters there may take {MEMORY - 100} MiB, and these would take {MEMORY} MiB."
    )
    with pytest.raises(Conflict, match="host first-host has 100 GiB of disk, nodes of clusters there may take 10 GiB"):
        await town.place(Need(disk=95, memory=200))


async def test_a_host_that_gets_nothing_new_gets_no_cluster(town: Town) -> None:
    async with town.database.transaction(EVERYTHING) as session:
        for row in await session.exec(select(Host).where(Host.backend == "first")):
            row.disabled, row.disabled_reason = True, "repair"
    assert await town.place(Need(memory=1024)) == "second"
    async with town.database.transaction(EVERYTHING) as session:
        for row in await session.exec(select(Host).where(Host.backend == "second")):
            row.forced_down = True
    with pytest.raises(Conflict, match=r"host first-host is disabled \(repair\); host second-host is forced down"):
        await town.place(Need())


async def test_a_driver_that_no_engine_can_carry_is_refused(town: Town) -> None:
    with pytest.raises(Unsupported, match="no engine here can carry nodes of clusters"):
        await town.place(Need(), driver="swarm")


async def test_further_nodes_have_to_fit_beside_those_of_all_projects(town: Town) -> None:
    await town.add("first", 4, 2048)
    await town.check("first", Need(memory=MEMORY - 4 * 2048))
    await town.check("second", Need(memory=MEMORY))
    await town.check("first", Need())
    with pytest.raises(Conflict, match=f"There is no room for more nodes: host first-host has {MEMORY} MiB of memory"):
        await town.check("first", Need(memory=MEMORY - 4 * 2048 + 1))


async def test_without_a_flavor_nothing_is_counted() -> None:
    group = NodeGroup(**OWNED, project_id="p", cluster_id="c", name="g", node_count=3, node_memory=512, node_disk=2)
    assert Need.of(group, 2) + Need.of(group, 1) == Need(memory=1536, disk=6)
    group.node_memory = group.node_disk = 0
    assert Need.of(group, 100) == Need()
