"""An application for all tests of this folder, on each kind of database; and projects of its own for each test."""

import secrets
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
import structlog

from tests.api import caisson as place
from tests.api.caisson import Caisson, Running
from tests.api.clusters import Clusters
from tests.stack.postgres import Postgres

# The default shows tracebacks with all variables, which takes seconds for each.
structlog.configure(processors=[structlog.processors.format_exc_info, structlog.processors.KeyValueRenderer()])


@pytest_asyncio.fixture(scope="session", loop_scope="session", params=["sqlite", "postgresql"])
async def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    """The application. Whoever makes its engine misbehave makes that good."""
    folder = tmp_path_factory.mktemp("shared")
    if request.param == "sqlite":
        async with place.running(f"sqlite+aiosqlite:///{folder}/caisson.db", folder) as running:
            yield running
        return
    server: Postgres = request.getfixturevalue("postgres_server")
    name = f"test_{secrets.token_hex(6)}"
    async with place.running(server.create(name), folder) as running:
        yield running
    server.drop(name)


@pytest_asyncio.fixture(loop_scope="session")
async def caisson(shared: Running) -> AsyncIterator[Caisson]:
    """Two empty projects on the shared application. What is left of clusters goes: all of them are watched together."""
    projects = Caisson(shared)
    yield projects
    await Clusters(projects).forget()


@pytest.fixture
def clusters(caisson: Caisson) -> Clusters:
    """The clusters of these projects."""
    return Clusters(caisson)


@pytest.fixture(scope="session")
def standing(shared: Running) -> Caisson:
    """Two empty projects for tests that only ask, and leave nothing behind."""
    return Caisson(shared)
