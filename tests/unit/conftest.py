"""Databases that have the newest schema already: it is made once a session, and copied."""

import asyncio
import secrets
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
import structlog

from app.db import Database
from tests.stack.postgres import Postgres
from tests.stack.settable import Clock, settable
from tests.unit.workshop import Workshop, workshop

# The default shows tracebacks with all variables, which takes seconds for each.
structlog.configure(processors=[structlog.processors.format_exc_info, structlog.processors.KeyValueRenderer()])


async def _migrate(url: str) -> None:
    database = Database(url)
    try:
        await database.migrate()
    finally:
        await database.close()


@pytest.fixture(scope="session")
def sqlite_schema(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite file with the schema and nothing else."""
    file = tmp_path_factory.mktemp("schema") / "caisson.db"
    asyncio.run(_migrate(f"sqlite+aiosqlite:///{file}"))
    return file


@pytest.fixture(scope="session")
def postgresql_schema(postgres_server: Postgres) -> Iterator[Callable[[str], str]]:
    """Makes databases with the schema and nothing else: the name of one becomes its URL."""
    template = f"template_{secrets.token_hex(6)}"
    asyncio.run(_migrate(postgres_server.create(template)))

    def copy(name: str) -> str:
        postgres_server.sql(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        return postgres_server.url(name)

    yield copy
    postgres_server.drop(template)


@pytest.fixture(params=["sqlite", "postgresql"])
def schema_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database with the newest schema; the test runs once on SQLite and once on PostgreSQL."""
    if request.param == "sqlite":
        shutil.copy(request.getfixturevalue("sqlite_schema"), tmp_path / "caisson.db")
        yield f"sqlite+aiosqlite:///{tmp_path}/caisson.db"
        return
    name = f"test_{secrets.token_hex(6)}"
    copy: Callable[[str], str] = request.getfixturevalue("postgresql_schema")
    yield copy(name)
    server: Postgres = request.getfixturevalue("postgres_server")
    server.drop(name)


@pytest.fixture
def clock(request: pytest.FixtureRequest, schema_url: str) -> Iterator[Clock]:
    """The clock of the database of ``schema_url``."""
    server = None if schema_url.startswith("sqlite") else request.getfixturevalue("postgres_server")
    with settable(schema_url, server) as made:
        yield made


@pytest_asyncio.fixture
async def shop(schema_url: str, tmp_path: Path) -> AsyncIterator[Workshop]:
    """A database, an engine in memory, and workers that a test starts."""
    async with workshop(schema_url, tmp_path) as made:
        yield made
