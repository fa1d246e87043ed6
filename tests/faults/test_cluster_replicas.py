"""Two replicas, one PostgreSQL, and a cluster."""

from typing import Any

import pytest

from tests.faults.conftest import Place
from tests.faults.fleet import LONG, Fleet, settings
from tests.faults.gateway import RUNS, Gateway, until

pytestmark = pytest.mark.timeout(600)

CREATE = r"^POST /containers/create\?name"


async def test_a_cluster_is_everybodys(shared_place: Place, swarm_image: str) -> None:
    """Who makes it is killed, and the other one finishes; then both change it, show it, and run containers there."""
    more = settings({"node": swarm_image}, {"cpus": 1, "memory": 512})
    gateways = await shared_place.two_replicas(**more)
    fleets = [Fleet(shared_place, gateway, "swarm-mode", swarm_image) for gateway in gateways]
    await fleets[0].add_template("node")
    held = [await gateway.proxy.add(CREATE, "after", "hold") for gateway in gateways]
    uuid = await fleets[0].create()

    async def which() -> list[int]:
        return [at for at, gateway in enumerate(gateways) if await gateway.proxy.acted(held[at])]

    (at, *_) = await until(which, "a replica to make a node", LONG)
    killed, other = gateways[at], gateways[1 - at]
    await killed.kill()
    for gateway, rule in zip(gateways, held, strict=True):
        await gateway.proxy.release(rule)
    await fleets[1 - at].is_made_of(uuid, 2, "CREATE_COMPLETE")

    await killed.start()
    await fleets[at].ask("POST", f"clusters/{uuid}/actions/resize", {"node_count": 2})
    for fleet in fleets[::-1]:
        await fleet.is_made_of(uuid, 3, "UPDATE_COMPLETE")
    shown = [await fleet.ask("GET", f"clusters/{uuid}") for fleet in fleets]
    assert shown[0] | {"links": []} == shown[1] | {"links": []}  # each by its own address

    for here, there in ((killed, other), (other, killed)):
        box = await _run(here, shared_place.image)
        await there.reaches(box, "Running", LONG)
        query = {"command": "echo here", "run": "true", "interactive": "false"}
        for gateway in gateways:
            answer = await gateway.request("POST", f"/v1/containers/{box}/execute", params=query)
            assert (answer.status_code, answer.json()["output"]) == (200, "here\n"), answer.text
        await there.delete(box, force="true")
        await here.reaches(box, None, LONG)
    await fleets[at].clear()


async def _run(gateway: Gateway, image: str) -> str:
    body: dict[str, Any] = {"image": image, "command": RUNS, "availability_zone": "cluster:blue"}
    answer = await gateway.request("POST", "/v1/containers", params={"run": "true"}, json=body)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["uuid"])
