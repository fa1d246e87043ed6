"""A place for faults: an empty database, an engine, and gateways that are taken away at the end."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio

from tests.faults.gateway import Gateway
from tests.faults.truth import Truth
from tests.stack.postgres import Postgres
from tests.stack.session import Stack


class Place:
    """Gateways on one database and one engine, and the truth about both."""

    def __init__(self, stack: Stack, database_url: str, docker_url: str, image: str) -> None:
        self.stack, self.database_url, self.docker_url, self.image = stack, database_url, docker_url, image
        self.reached_at = database_url
        """The database's URL for gateways; a test may put a proxy there."""
        self.truth = Truth(database_url, docker_url)
        self._gateways: list[Gateway] = []

    async def gateway(self, **settings: Any) -> Gateway:
        """A running replica. `settings` are those of the environment, without their prefix."""
        made = Gateway(self.stack, self.reached_at, self.docker_url, **settings)
        self._gateways.append(made)
        await made.start()
        return made

    async def two_replicas(self, **settings: Any) -> list[Gateway]:
        """Two of them, started at the same time."""
        return list(await asyncio.gather(self.gateway(**settings), self.gateway(**settings)))

    async def close(self) -> None:
        """End the gateways and remove what they made."""
        for gateway in self._gateways:
            await gateway.close()
        await self.truth.close({gateway.project_id for gateway in self._gateways})


@pytest.fixture
async def place(stack: Stack, database_url: str, docker_url: str, busybox_image: str) -> AsyncIterator[Place]:
    """On SQLite and on PostgreSQL, with the shared engine."""
    made = Place(stack, database_url, docker_url, busybox_image)
    yield made
    await made.close()


@pytest.fixture
async def shared_place(
    stack: Stack, postgres: Callable[[], str], docker_url: str, busybox_image: str
) -> AsyncIterator[Place]:
    """On PostgreSQL, for several replicas."""
    made = Place(stack, postgres(), docker_url, busybox_image)
    yield made
    await made.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["sqlite", "postgresql"])
async def lasting_place(
    request: pytest.FixtureRequest, stack: Stack, docker_url: str, busybox_image: str
) -> AsyncIterator[Place]:
    """The same for all tests of a module, one after the other; they run in the module's loop."""
    server: Postgres | None = None
    name = f"test_{secrets.token_hex(6)}"
    if request.param == "sqlite":
        url = f"sqlite+aiosqlite:///{stack.folder('database')}/caisson.db"
    else:
        server = request.getfixturevalue("postgres_server")
        url = server.create(name)
    made = Place(stack, url, docker_url, busybox_image)
    yield made
    await made.close()
    if server is not None:
        server.drop(name)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(lasting_place: Place) -> Gateway:
    """One gateway of the lasting place, running at the end of each test. It looks only where events tell it to."""
    return await lasting_place.gateway(OBSERVE_SECONDS=600)
