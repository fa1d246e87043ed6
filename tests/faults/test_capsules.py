"""SIGKILL while a capsule is made and deleted, and a restart: it becomes what was wished, and leaves nothing."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.faults.conftest import Place
from tests.faults.gateway import RUNS, Gateway, until
from tests.stack.session import Stack

pytestmark = pytest.mark.asyncio(loop_scope="module")

CREATE, START, REMOVE = r"^POST /containers/create\?", r"^POST /containers/\w+/start", r"^DELETE /containers/\w+"
MAKING = {
    "the sandbox is made, and nobody knows": (CREATE, "after", 1),
    "the first member is started, and nobody knows": (START, "after", 3),
    "the last member is not made": (CREATE, "before", 4),
}
REMOVING = {
    "a member is removed, and nobody knows": (REMOVE, "after", 2),
    "all is removed, and nobody knows": (REMOVE, "after", 4),
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lasting_place(stack: Stack, docker_url: str, busybox_image: str) -> AsyncIterator[Place]:
    """On SQLite alone: what a kill leaves does not depend on the database, and the API's tests run on both."""
    made = Place(stack, f"sqlite+aiosqlite:///{stack.folder('database')}/caisson.db", docker_url, busybox_image)
    yield made
    await made.close()


async def accepted(place: Place, gateway: Gateway) -> str:
    """A capsule of an init container and two others has been accepted; returns its uuid."""
    stays = {"image": place.image, "command": RUNS, "resources": {"requests": {"cpu": 0.1, "memory": 32}}}
    first = stays | {"command": ["sh", "-c", "echo ran"]}
    spec = {"containers": [stays, stays], "initContainers": [first]}
    body = {"template": {"kind": "capsule", "metadata": {"name": "pod"}, "spec": spec}}
    answer = await gateway.request("POST", "/v1/capsules", json=body)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["uuid"])


async def reaches(gateway: Gateway, uuid: str, status: str | None) -> Any:
    """Wait for a status of a capsule (None: until it is gone), and return the capsule."""

    async def there() -> Any:
        answer = await gateway.request("GET", f"/v1/capsules/{uuid}")
        if answer.status_code == 404:
            return status is None
        return answer.json() if answer.json()["status"] == status else None

    return await until(there, f"capsule {uuid} to be {status}")


async def killed_at(gateway: Gateway, point: tuple[str, str, int], wish: Any) -> Any:
    """Ask for something, kill the gateway when it has come to this call of the engine's, and start it again."""
    line, when, nth = point
    held = await gateway.proxy.add(line, when, "hold", nth=nth)
    answer = await wish
    await gateway.proxy.fired(held)
    await gateway.kill()
    await gateway.proxy.release(held)
    await gateway.start()
    return answer


async def test_killed_while_it_is_made(lasting_place: Place, gateway: Gateway) -> None:
    for point in MAKING.values():
        uuid = await killed_at(gateway, point, accepted(lasting_place, gateway))
        capsule = await reaches(gateway, uuid, "Running")
        assert [box["status"] for box in capsule["containers"]] == ["Running", "Running"]
        assert [box["status"] for box in capsule["init_containers"]] == ["Stopped"]
        # Three members and a sandbox: nothing was made twice.
        assert len(await lasting_place.truth.engine_containers(gateway.project_id)) == 4
        ran = await gateway.request("GET", f"/v1/containers/{capsule['init_containers'][0]['uuid']}/logs")
        assert ran.json() == "ran\n"
        assert (await gateway.request("DELETE", f"/v1/capsules/{uuid}")).status_code == 204
        await reaches(gateway, uuid, None)
        await lasting_place.truth.agree(gateway)


async def test_killed_while_it_is_deleted(lasting_place: Place, gateway: Gateway) -> None:
    for point in REMOVING.values():
        uuid = await accepted(lasting_place, gateway)
        await reaches(gateway, uuid, "Running")
        await killed_at(gateway, point, gateway.request("DELETE", f"/v1/capsules/{uuid}"))
        await reaches(gateway, uuid, None)
        await lasting_place.truth.agree(gateway)
        assert await lasting_place.truth.engine_containers(gateway.project_id) == {}
        assert await lasting_place.truth.engine_networks(gateway.project_id) == []
        assert await lasting_place.truth.rows("SELECT uuid FROM container") == []


async def test_deleted_while_it_is_made(lasting_place: Place, gateway: Gateway) -> None:
    """And the engine is busy with a call that the delete cut off."""
    held = await gateway.proxy.add(CREATE, "before", "hold", nth=3)
    uuid = await accepted(lasting_place, gateway)
    await gateway.proxy.fired(held)
    assert (await gateway.request("DELETE", f"/v1/capsules/{uuid}")).status_code == 204
    await gateway.proxy.release(held)
    await reaches(gateway, uuid, None)
    await lasting_place.truth.agree(gateway)
    assert await lasting_place.truth.engine_containers(gateway.project_id) == {}


async def test_a_sandbox_that_somebody_kills(lasting_place: Place, gateway: Gateway) -> None:
    """It is started again, with another network: the members are started again into it."""
    uuid = await accepted(lasting_place, gateway)
    capsule = await reaches(gateway, uuid, "Running")
    before = await lasting_place.truth.engine_containers(gateway.project_id)
    answer = await lasting_place.truth.docker.post(f"/containers/{before[uuid]['Id']}/kill")
    assert answer.status_code == 204
    members = [box["uuid"] for box in capsule["containers"]]

    async def joined() -> bool:
        shown = await lasting_place.truth.engine_containers(gateway.project_id)
        since = shown[uuid]["State"]["StartedAt"]
        started = [shown[box]["State"]["StartedAt"] for box in members]
        return since > before[uuid]["State"]["StartedAt"] and all(moment > since for moment in started)

    await until(joined, "the members to join the new network")
    await reaches(gateway, uuid, "Running")
    await lasting_place.truth.agree(gateway)
    assert (await gateway.request("DELETE", f"/v1/capsules/{uuid}")).status_code == 204
    await reaches(gateway, uuid, None)
