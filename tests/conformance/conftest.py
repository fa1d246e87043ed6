"""Every test here runs once on each engine."""

from collections.abc import AsyncIterator
from contextlib import ExitStack
from secrets import token_hex

import pytest

from tests.conformance.place import Place, docker_place, fake_place


@pytest.fixture(params=["fake", "docker"])
async def place(request: pytest.FixtureRequest) -> AsyncIterator[Place]:
    """An engine and its surroundings; what the test made is removed afterwards."""
    with ExitStack() as stop:
        made = fake_place() if request.param == "fake" else docker_place(request, stop)
        yield made
        await made.clean_up()
        await made.engine.close()
        await made.twin.close()


@pytest.fixture
def path() -> str:
    """The path of an image that no other test uses."""
    return f"conformance/{token_hex(4)}:1"
