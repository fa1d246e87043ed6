"""Clusters on the real engine, asked for through gateways that are taken away meanwhile."""

import json
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.faults.conftest import Place
from tests.faults.gateway import Gateway, until
from tests.faults.truth import NOTHING

LONG = 240.0  # seconds that a cluster may take on a machine that does other things too
VERSION = {"OpenStack-API-Version": "container-infra 1.14"}

Point = tuple[str, str, int]
"""A moment to be killed at: a call of the engine, whether before or after it, and the how manieth."""


def settings(images: Mapping[str, str], flavor: Mapping[str, int]) -> dict[str, Any]:
    """What gateways are told: images of nodes by their names, and what a node gets."""
    known = {name: {"os_distro": "debian", "image": image} for name, image in images.items()}
    return {
        "CLUSTERS__IMAGES": json.dumps(known),
        "CLUSTERS__FLAVORS": json.dumps({"small": flavor}),
        "CLUSTERS__HEALTH_SECONDS": 5,
    }


@dataclass
class Fleet:
    """Clusters of one driver, behind a gateway that is killed."""

    place: Place
    gateway: Gateway
    coe: str
    newer: str
    templates: list[str] = field(default_factory=list)

    async def ask(self, method: str, path: str, body: Any = None) -> Any:
        """One request to Magnum's API, which must be accepted. Returns the decoded body."""
        answer = await self.gateway.request(method, f"/container-infra/v1/{path}", json=body, headers=VERSION)
        assert answer.status_code < 300, answer.text
        return answer.json() if answer.content else None

    async def add_template(self, image: str) -> None:
        """One more template, of this image."""
        body = {
            "name": image, "coe": self.coe, "image_id": image, "flavor_id": "small", "master_flavor_id": "small",
            "external_network_id": "public",
        }  # fmt: skip
        self.templates.append((await self.ask("POST", "clustertemplates", body))["uuid"])

    async def clear(self) -> None:
        """Delete all clusters, also after a test that failed while nobody ran."""
        if not self.gateway.alive:
            await self.gateway.start()
        for cluster in (await self.ask("GET", "clusters"))["clusters"]:
            await self.ask("DELETE", f"clusters/{cluster['uuid']}")
            await self.is_gone(cluster["uuid"])

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
            assert last[0] == status or not last[0].endswith("_FAILED"), "it has failed"
            return answer.json() if last[0] == status else None

        try:
            found: dict[str, Any] = await until(there, f"cluster {uuid} to be {status}", LONG)
        except Exception as error:
            raise AssertionError(f"{error}; it is {last}\n{self.gateway.log(15)}") from None
        return found

    async def killed_at(self, points: Sequence[Point], wish: Awaitable[Any]) -> Any:
        """Ask for something, and kill the gateway whenever it has come to the next of these calls of the engine's."""
        answer: Any = None
        for number, (line, when, nth) in enumerate(points):
            held = await self.gateway.proxy.add(line, when, "hold", nth=nth)
            if number:
                await self.gateway.start()
            else:
                answer = await wish
            await until(lambda held=held: self.gateway.proxy.acted(held), f"{points[number]}", LONG)  # type: ignore[misc]
            await self.gateway.kill()
            await self.gateway.proxy.release(held)
        await self.gateway.start()
        return answer

    async def held(self, uuid: str) -> dict[str, list[Any]]:
        """What the engine has of a cluster: containers that run, all containers, volumes and networks."""
        return (await self.place.truth.clusters(uuid=uuid)).get(uuid, NOTHING)

    async def is_made_of(self, uuid: str, nodes: int, status: str) -> None:
        """The cluster is complete, healthy, and the engine has so many nodes of it, each once."""
        shown = await self.reaches(uuid, status)
        assert len(shown["node_addresses"]) + len(shown["master_addresses"]) == nodes
        assert shown["status_reason"] is None
        held = await self.held(uuid)
        assert (len(held["running"]), len(held["containers"]), len(held["networks"])) == (nodes, nodes, 1)
        names = {document["Labels"]["caisson.node"] for document in held["containers"]}
        assert {document["Labels"]["caisson.node"] for document in held["volumes"]} == names
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
