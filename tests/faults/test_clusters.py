"""SIGKILL while a cluster is made, resized, upgraded and deleted, and a restart: it becomes what was wished, once."""

import json
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio

from tests.faults.conftest import Place
from tests.faults.gateway import Gateway, until
from tests.stack.session import Stack

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(900)]

LONG = 240.0  # seconds that a cluster may take on a machine that does other things too
VERSION = {"OpenStack-API-Version": "container-infra 1.14"}
NETWORK = r"^POST /networks/create"
CREATE, START, REMOVE = r"^POST /containers/create\?", r"^POST /containers/\w+/start", r"^DELETE /containers/\w+"
VOLUME, LEAVE = r"^DELETE /volumes/", r"^DELETE /networks/\w+"

Point = tuple[str, str, int]
MAKING: dict[str, Point] = {
    "its network is made, and nobody knows": (NETWORK, "after", 1),
    "the master is made, and nobody knows": (CREATE, "after", 1),
    "the worker is not started": (START, "before", 2),
}
GROWING: dict[str, Point] = {
    "the worker is made, and nobody knows": (CREATE, "after", 1),
    "the worker is started, and nobody knows": (START, "after", 1),
}
REPLACING: dict[str, Point] = {
    "a node is removed, and nobody knows": (REMOVE, "after", 1),
    "its successor is made, and nobody knows": (CREATE, "after", 2),
}
REMOVING: dict[str, Point] = {
    "nothing is removed": (REMOVE, "before", 1),
    "one node is removed, and nobody knows": (REMOVE, "after", 1),
    "nodes are removed, their volumes are not": (VOLUME, "before", 1),
    "all but the network is removed": (LEAVE, "before", 1),
    "all is removed, and nobody knows": (LEAVE, "after", 1),
}


@dataclass
class Fleet:
    """Clusters of one driver, behind a gateway that is killed."""

    place: Place
    gateway: Gateway
    coe: str
    templates: list[str]

    async def ask(self, method: str, path: str, body: Any = None) -> Any:
        """One request to Magnum's API, which must be accepted. Returns the decoded body."""
        answer = await self.gateway.request(method, f"/container-infra/v1/{path}", json=body, headers=VERSION)
        assert answer.status_code < 300, answer.text
        return answer.json() if answer.content else None

    async def create(self, workers: int = 1) -> str:
        body = {"name": "blue", "cluster_template_id": self.templates[0], "node_count": workers, "master_count": 1}
        return str((await self.ask("POST", "clusters", body))["uuid"])

    async def reaches(self, uuid: str, status: str | None) -> dict[str, Any]:
        """Wait for a status (None: until it is gone), and return the cluster."""
        last: list[Any] = []

        async def there() -> Any:
            answer = await self.gateway.request("GET", f"/container-infra/v1/clusters/{uuid}", headers=VERSION)
            if answer.status_code == 404:
                return {"status": None} if status is None else None
            last[:] = [answer.json()["status"], answer.json()["status_reason"]]
            return answer.json() if last[0] == status else None

        try:
            found: dict[str, Any] = await until(there, f"cluster {uuid} to be {status}", LONG)
        except Exception as error:
            raise AssertionError(f"{error}; it is {last}\n{self.gateway.log(15)}") from None
        return found

    async def killed_at(self, point: Point, wish: Awaitable[Any]) -> Any:
        """Ask for something, kill the gateway when it has come to this call of the engine's, and start it again."""
        line, when, nth = point
        held = await self.gateway.proxy.add(line, when, "hold", nth=nth)
        answer = await wish
        await until(lambda: self.gateway.proxy.acted(held), f"{point}", LONG)
        await self.gateway.kill()
        await self.gateway.proxy.release(held)
        await self.gateway.start()
        return answer

    async def held(self, uuid: str) -> dict[str, list[Any]]:
        """What the engine has of a cluster: containers that run, all containers, volumes and networks."""
        filters = json.dumps({"label": [f"caisson.cluster={uuid}"]})
        docker = self.place.truth.docker
        asked: dict[str, tuple[str, dict[str, str]]] = {
            "running": ("/containers/json", {}),
            "containers": ("/containers/json", {"all": "true"}),
            "volumes": ("/volumes", {}),
            "networks": ("/networks", {}),
        }
        found = {}
        for name, (path, more) in asked.items():
            body = (await docker.get(path, params={"filters": filters, **more})).json()
            found[name] = (body["Volumes"] or []) if name == "volumes" else body
        return found

    async def is_made_of(self, uuid: str, nodes: int, status: str) -> None:
        """The cluster is complete, healthy, and the engine has so many nodes of it, each once."""
        shown = await self.reaches(uuid, status)
        assert len(shown["node_addresses"]) + len(shown["master_addresses"]) == nodes
        assert shown["status_reason"] is None
        held = await self.held(uuid)
        assert (len(held["running"]), len(held["containers"]), len(held["networks"])) == (nodes, nodes, 1)
        groups = await self.ask("GET", f"clusters/{uuid}/nodegroups")
        assert {group["status"].partition("_")[2] for group in groups["nodegroups"]} == {"COMPLETE"}

    async def is_gone(self, uuid: str) -> None:
        """Nothing is left of it, neither in the engine nor in the database."""
        await self.reaches(uuid, None)
        assert {name: found for name, found in (await self.held(uuid)).items() if found} == {}
        for table in ("cluster", "node_group", "cluster_key"):
            column = "uuid" if table == "cluster" else "cluster_id"
            assert await self.place.truth.rows(f"SELECT * FROM {table} WHERE {column} = :uuid", uuid=uuid) == []
        open_ = "SELECT verb, state FROM action WHERE resource_id = :uuid AND state IN ('queued', 'running')"
        assert await self.place.truth.rows(open_, uuid=uuid) == []


DRIVERS = {"swarm": ("swarm-mode", ("swarm_image", "next_swarm_image"))}
"""By driver: what it makes, and the fixtures of two images of its nodes."""


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=list(DRIVERS))
async def fleet(
    request: pytest.FixtureRequest, stack: Stack, docker_url: str, busybox_image: str
) -> AsyncIterator[Fleet]:
    """On SQLite alone: what a kill leaves does not depend on the database, and the API's tests run on both."""
    coe, images = DRIVERS[request.param]
    known = {name: {"os_distro": "debian", "image": request.getfixturevalue(name)} for name in images}
    place = Place(stack, f"sqlite+aiosqlite:///{stack.folder('database')}/caisson.db", docker_url, busybox_image)
    gateway = await place.gateway(
        OBSERVE_SECONDS=600,
        CLUSTERS__IMAGES=json.dumps(known),
        CLUSTERS__FLAVORS=json.dumps({"small": {"cpus": 1, "memory": 512}}),
        CLUSTERS__HEALTH_SECONDS=5,
    )
    made = Fleet(place, gateway, coe, [])
    for image in images:
        body = {
            "name": image, "coe": coe, "image_id": image, "flavor_id": "small", "master_flavor_id": "small",
            "external_network_id": "public",
        }  # fmt: skip
        made.templates.append((await made.ask("POST", "clustertemplates", body))["uuid"])
    yield made
    for cluster in (await made.ask("GET", "clusters"))["clusters"]:
        await made.ask("DELETE", f"clusters/{cluster['uuid']}")
        await made.is_gone(cluster["uuid"])
    await place.close()


async def test_killed_while_it_is_made(fleet: Fleet) -> None:
    for point in MAKING.values():
        uuid = await fleet.killed_at(point, fleet.create())
        await fleet.is_made_of(uuid, 2, "CREATE_COMPLETE")
        await fleet.ask("DELETE", f"clusters/{uuid}")
        await fleet.is_gone(uuid)


async def test_killed_while_it_grows_shrinks_and_is_upgraded(fleet: Fleet) -> None:
    uuid = await fleet.create()
    await fleet.is_made_of(uuid, 2, "CREATE_COMPLETE")
    for count, point in enumerate(GROWING.values(), start=2):
        await fleet.killed_at(point, fleet.ask("POST", f"clusters/{uuid}/actions/resize", {"node_count": count}))
        await fleet.is_made_of(uuid, 1 + count, "UPDATE_COMPLETE")
    for count, when in ((2, "before"), (1, "after")):
        wish = fleet.ask("POST", f"clusters/{uuid}/actions/resize", {"node_count": count})
        await fleet.killed_at((REMOVE, when, 1), wish)
        await fleet.is_made_of(uuid, 1 + count, "UPDATE_COMPLETE")
    for point, template in zip(REPLACING.values(), fleet.templates[::-1], strict=True):
        wish = fleet.ask("POST", f"clusters/{uuid}/actions/upgrade", {"cluster_template": template})
        await fleet.killed_at(point, wish)
        await fleet.is_made_of(uuid, 2, "UPDATE_COMPLETE")
        images = {container["Image"] for container in (await fleet.held(uuid))["containers"]}
        assert len(images) == 1
    await fleet.ask("DELETE", f"clusters/{uuid}")
    await fleet.is_gone(uuid)


async def test_killed_while_it_is_deleted(fleet: Fleet) -> None:
    for point in REMOVING.values():
        uuid = await fleet.create()
        await fleet.is_made_of(uuid, 2, "CREATE_COMPLETE")
        await fleet.killed_at(point, fleet.ask("DELETE", f"clusters/{uuid}"))
        await fleet.is_gone(uuid)


async def test_deleted_while_it_is_made(fleet: Fleet) -> None:
    """And the engine is busy with a call that the delete cut off."""
    for line in (CREATE, START):
        held = await fleet.gateway.proxy.add(line, "before", "hold", nth=2)
        uuid = await fleet.create()
        await until(lambda held=held: fleet.gateway.proxy.acted(held), line, LONG)  # type: ignore[misc]
        await fleet.ask("DELETE", f"clusters/{uuid}")
        await fleet.gateway.proxy.release(held)
        await fleet.is_gone(uuid)
