"""The Docker engine of this machine, for what is Docker's own."""

from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from app.backends.docker.engine import DockerEngine
from app.backends.swarm.driver import SwarmDriver
from app.settings import BackendSettings, ClusterSettings, Settings
from tests.conformance.place import Place, docker_place
from tests.engines.swarm_cluster import Swarm


@pytest.fixture
async def place(request: pytest.FixtureRequest) -> AsyncIterator[Place]:
    """Docker and its surroundings; what the test made is removed afterwards."""
    with ExitStack() as stop:
        made = docker_place(request, stop)
        yield made
        await made.clean_up()
        await made.engine.close()
        await made.twin.close()


@pytest.fixture
async def swarms(
    docker_url: str, busybox_image: str, swarm_image: str, tmp_path: Path
) -> AsyncIterator[Callable[..., Swarm]]:
    """Plans swarms: of how many masters and workers, with which further wishes. They are removed afterwards."""
    made: list[Swarm] = []

    def plan(masters: int, workers: int, settings: ClusterSettings | None = None, **wishes: Any) -> Swarm:
        clusters = settings or ClusterSettings()
        all_settings = Settings(clusters=clusters.model_copy(update={"preload": [busybox_image]}))
        engine = DockerEngine("docker", BackendSettings(url=docker_url), all_settings)
        folder = tmp_path / str(len(made))
        folder.mkdir()
        wishes = {"image": swarm_image, **wishes}
        made.append(
            Swarm.plan(engine, SwarmDriver(engine, all_settings), folder, masters=masters, workers=workers, **wishes)
        )
        return made[-1]

    yield plan
    for cluster in made:
        assert await cluster.driver.delete(cluster.spec.uuid)
        await cluster.driver.close()
        await cluster.engine.close()
