"""SIGKILL while a cluster is made, resized, upgraded and deleted, and a restart: it becomes what was wished, once."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.faults.conftest import Place
from tests.faults.fleet import LONG, Fleet, Point, settings
from tests.faults.gateway import until
from tests.stack.session import Stack

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(900)]

NETWORK, TRIAL = r"^POST /networks/create", r"^POST /containers/create$"
CREATE, START, REMOVE = r"^POST /containers/create\?name", r"^POST /containers/\w+/start", r"^DELETE /containers/\w+"
FILES, VOLUME, LEAVE = r"^PUT /containers/\w+/archive", r"^DELETE /volumes/", r"^DELETE /networks/\w+"

MAKING: dict[str, Point] = {
    "its network is made, and nobody knows": (NETWORK, "after", 1),
    "whether nodes may be privileged is tried, and nobody knows": (TRIAL, "after", 1),
    "the first node is made, and nobody knows": (CREATE, "after", 1),
    "it lacks its files": (FILES, "before", 1),
    "a node is not started": (START, "before", 2),
}
GROWING: dict[str, Point] = {
    "the worker is made, and nobody knows": (CREATE, "after", 1),
    "the worker is started, and nobody knows": (START, "after", 1),
}
SHRINKING: dict[str, Point] = {
    "the worker is not removed": (REMOVE, "before", 1),
    "the worker is removed, and nobody knows": (REMOVE, "after", 1),
}
REPLACING: dict[str, Point] = {
    "a node is removed, and nobody knows": (REMOVE, "after", 1),
    "another one's successor is made, and nobody knows": (CREATE, "after", 2),
}
REMOVING: dict[str, Point] = {
    "one node is removed, and nobody knows": (REMOVE, "after", 1),
    "all is removed, and nobody knows": (LEAVE, "after", 1),
}
REMOVING_HALF: dict[str, Point] = {
    "one node is not removed": (REMOVE, "before", 1),
    "nodes are removed, a volume is not": (VOLUME, "before", 1),
}


DRIVERS = {
    "swarm": ("swarm-mode", ("swarm_image", "next_swarm_image"), {"cpus": 1, "memory": 512}),
    "kubernetes": ("kubernetes", ("kubernetes_image", "next_kubernetes_image"), {"cpus": 2, "memory": 2048}),
}
"""By driver: what it makes, the fixtures of two images of its nodes, and their flavor."""


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=list(DRIVERS))
async def fleet(
    request: pytest.FixtureRequest, stack: Stack, docker_url: str, busybox_image: str
) -> AsyncIterator[Fleet]:
    """On SQLite alone: what a kill leaves does not depend on the database, and the API's tests run on both."""
    coe, images, flavor = DRIVERS[request.param]
    known = {name: request.getfixturevalue(name) for name in images}
    place = Place(stack, f"sqlite+aiosqlite:///{stack.folder('database')}/caisson.db", docker_url, busybox_image)
    gateway = await place.gateway(**settings(known, flavor), OBSERVE_SECONDS=600)
    made = Fleet(place, gateway, coe, request.getfixturevalue(images[1]))
    for image in images:
        await made.add_template(image)
    yield made
    await made.clear()
    await place.close()


async def test_killed_again_and_again_from_its_making_to_its_end(fleet: Fleet) -> None:
    uuid = await fleet.killed_at([*MAKING.values()], fleet.create())
    await fleet.is_made_of(uuid, 2, "CREATE_COMPLETE")

    async def resized(count: int, *points: Point) -> None:
        wish = fleet.ask("POST", f"clusters/{uuid}/actions/resize", {"node_count": count})
        await fleet.killed_at(points, wish)
        await fleet.is_made_of(uuid, 1 + count, "UPDATE_COMPLETE")

    await resized(3, *GROWING.values())
    for count, point in zip((2, 1), SHRINKING.values(), strict=True):
        await resized(count, point)
    wish = fleet.ask("POST", f"clusters/{uuid}/actions/upgrade", {"cluster_template": fleet.templates[1]})
    await fleet.killed_at([*REPLACING.values()], wish)
    await fleet.is_made_of(uuid, 2, "UPDATE_COMPLETE")
    (image,) = {container["Image"] for container in (await fleet.held(uuid))["containers"]}
    assert image == fleet.newer
    await fleet.killed_at([*REMOVING.values()], fleet.ask("DELETE", f"clusters/{uuid}"))
    await fleet.is_gone(uuid)


async def test_killed_while_it_is_deleted_before_it_is_made(fleet: Fleet) -> None:
    held = await fleet.gateway.proxy.add(START, "before", "hold", nth=2)
    uuid = await fleet.create()
    await until(lambda: fleet.gateway.proxy.acted(held), START, LONG)
    await fleet.gateway.proxy.release(held)
    await fleet.killed_at([*REMOVING_HALF.values()], fleet.ask("DELETE", f"clusters/{uuid}"))
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
