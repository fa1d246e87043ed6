"""The Docker engine of this machine, for what is Docker's own."""

from collections.abc import AsyncIterator
from contextlib import ExitStack

import pytest

from tests.conformance.place import Place, docker_place


@pytest.fixture
async def place(request: pytest.FixtureRequest) -> AsyncIterator[Place]:
    """Docker and its surroundings; what the test made is removed afterwards."""
    with ExitStack() as stop:
        made = docker_place(request, stop)
        yield made
        await made.clean_up()
        await made.engine.close()
        await made.twin.close()
