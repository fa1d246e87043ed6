"""Clusters of one master and two workers: through the API, and by plain ``docker`` commands; a list of 100 of them."""

import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from uuid import uuid4

import httpx
from sqlmodel import Session, create_engine, select

from app.models import Cluster, ClusterStatus, NodeGroup
from benchmarks.by_docker import ASK_EVERY, Direct
from benchmarks.reads import against_bare
from benchmarks.served import Served, caisson

API = "/container-infra/v1"
WORKERS, CPUS, MEMORY = 2, 2.0, 2048
ROUNDS = 2
LISTED = 100


@dataclass
class Times:
    """Seconds of each creation and of each deletion."""

    making: list[float] = field(default_factory=list)
    removing: list[float] = field(default_factory=list)


class ThroughApi:
    """The same cluster, from POST to CREATE_COMPLETE; a client has nothing but asking."""

    def __init__(self, client: httpx.AsyncClient, coe: str) -> None:
        self._client, self._coe, self._path = client, coe, f"{API}/clusters/bench"

    async def make(self) -> None:
        """Create it, and wait until it is complete. Raises RuntimeError when it fails."""
        template = {"name": f"bench-{self._coe}", "coe": self._coe, "image_id": self._coe}
        sizes = {"flavor_id": "node", "master_flavor_id": "node", "external_network_id": "public"}
        await self._client.delete(f"{API}/clustertemplates/{template['name']}")
        (await self._client.post(f"{API}/clustertemplates", json=template | sizes)).raise_for_status()
        body = {"name": "bench", "cluster_template_id": template["name"], "node_count": WORKERS}
        (await self._client.post(f"{API}/clusters", json=body)).raise_for_status()
        while (seen := (await self._client.get(self._path)).raise_for_status().json())["status"] != "CREATE_COMPLETE":
            if seen["status"] == "CREATE_FAILED":
                raise RuntimeError(f"cluster of {self._coe}: {seen['status_reason']}")
            await asyncio.sleep(ASK_EVERY)

    async def remove(self) -> None:
        """Delete it, and wait until it is gone."""
        (await self._client.delete(self._path)).raise_for_status()
        while True:
            if (await self._client.get(self._path)).status_code == 404:
                return
            await asyncio.sleep(ASK_EVERY)


FAILED = ClusterStatus.UPDATE_FAILED


def measure(images: dict[str, str]) -> Sequence[str]:
    """Lines with times and rates, and their ratios; `images` are those of nodes, by COE."""
    settings = {
        "CAISSON_CLUSTERS__IMAGES": json.dumps(
            {coe: {"os_distro": "debian", "image": image} for coe, image in images.items()}
        ),
        "CAISSON_CLUSTERS__FLAVORS": json.dumps({"node": {"cpus": CPUS, "memory": MEMORY}}),
        # Copies of a cluster have no nodes, which nobody should look for.
        "CAISSON_CLUSTERS__HEALTH_SECONDS": "3600",
    }
    with tempfile.TemporaryDirectory() as folder:
        database = f"sqlite:///{folder}/caisson.db"
        with caisson(database, environment=settings) as served:
            lines = [asyncio.run(_compare(served, coe, image)) for coe, image in images.items()]
            return [*lines, *_list(served, database, next(iter(images)))]


async def _compare(served: Served, coe: str, image: str) -> str:
    times = {"direct": Times(), "gateway": Times()}
    async with served.client("container-infra") as client:
        for _ in range(ROUNDS):  # in turns, so that whatever else the machine does hits both alike
            for name, side in (
                ("direct", Direct(coe, image, WORKERS, CPUS, MEMORY)),
                ("gateway", ThroughApi(client, coe)),
            ):
                try:
                    times[name].making.append(await _seconds(side.make()))
                finally:
                    times[name].removing.append(await _seconds(side.remove()))
    medians = {name: (statistics.median(one.making), statistics.median(one.removing)) for name, one in times.items()}
    (own, own_end), (ours, our_end) = medians["direct"], medians["gateway"]
    return (
        f"{coe}, 1+{WORKERS} nodes: {ours:.1f} s against {own:.1f} s by docker commands, ratio {ours / own:.2f}; "
        f"deletion {our_end:.1f} s against {own_end:.1f} s"
    )


async def _seconds(work: Awaitable[None]) -> float:
    began = time.perf_counter()
    await work
    return time.perf_counter() - began


def _list(served: Served, database: str, coe: str) -> Sequence[str]:
    """A list of clusters, of which all but one are rows alone: copies of the one."""

    async def surround(verb: str) -> None:
        async with served.client("container-infra") as client:
            await getattr(ThroughApi(client, coe), verb)()

    asyncio.run(surround("make"))
    _copy(database, LISTED - 1)
    lines = against_bare(served, f"GET list of {LISTED} clusters", f"{API}/clusters", 0.1, "container-infra")
    asyncio.run(surround("remove"))
    return lines


def _copy(database: str, count: int) -> None:
    """Store `count` clusters with the node groups of the only one: failed ones, which are no zones to watch."""
    with Session(create_engine(database)) as session:
        cluster = session.exec(select(Cluster)).one()
        groups = session.exec(select(NodeGroup)).all()
        for number in range(count):
            new = {"uuid": str(uuid4()), "id": None}
            session.add(Cluster(**cluster.model_dump() | new | {"name": f"bench-{number}", "status": FAILED}))
            for group in groups:
                of = {"cluster_id": new["uuid"], "uuid": str(uuid4()), "id": None}
                session.add(NodeGroup(**group.model_dump() | of))
        session.commit()
