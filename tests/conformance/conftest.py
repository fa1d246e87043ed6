"""Every test here runs once on each engine that has the abilities which its mark ``needs`` names."""

from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from secrets import token_hex

import pytest

from app.backends.driver import ClusterSpec
from app.backends.engine import Ability
from app.backends.kubernetes import engine as kubernetes_engine
from app.backends.swarm import engine as swarm_engine
from tests.conformance.place import Place, cluster, cluster_place, docker_place, fake_place

LANES = {
    "fake": frozenset(Ability),
    "docker": frozenset(Ability),
    "swarm": swarm_engine.ABILITIES,
    "kubernetes": kubernetes_engine.ABILITIES,
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Choose the engines of a test: what one cannot do is not asked of it."""
    if "place" in metafunc.fixturenames:
        needs = {ability for mark in metafunc.definition.iter_markers("needs") for ability in mark.args}
        metafunc.parametrize("place", [name for name, has in LANES.items() if needs <= has], indirect=True)


@pytest.fixture
async def place(request: pytest.FixtureRequest) -> AsyncIterator[Place]:
    """An engine and its surroundings; what the test made is removed afterwards."""
    with ExitStack() as stop:
        match request.param:
            case "fake":
                made = fake_place()
            case "docker":
                made = docker_place(request, stop)
            case _:
                made = cluster_place(request, stop)
        yield made
        await made.clean_up()
        for engine in (made.engine, made.twin, *made.below):
            await engine.close()


@pytest.fixture(scope="session")
def swarm_cluster(docker_url: str, swarm_image: str) -> Iterator[ClusterSpec]:
    """A swarm of this session."""
    with cluster("swarm", docker_url, swarm_image) as spec:
        yield spec


@pytest.fixture(scope="session")
def kubernetes_cluster(docker_url: str, kubernetes_image: str) -> Iterator[ClusterSpec]:
    """A cluster of Kubernetes of this session."""
    with cluster("kubernetes", docker_url, kubernetes_image) as spec:
        yield spec


@pytest.fixture
def path() -> str:
    """The path of an image that no other test uses."""
    return f"conformance/{token_hex(4)}:1"
