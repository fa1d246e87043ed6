"""Schemas: from the first to the newest with data in it, and what is refused."""

from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio
import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from app.db import Database
from app.errors import Invalid
from app.schema import NEWEST, Standing, known_revisions, look, upgrade
from tests.api import caisson as place
from tests.api.caisson import Caisson

ROWS = 3
PROJECT = "of-old"


@pytest_asyncio.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    """An empty database, below Caisson."""
    made = create_async_engine(database_url)
    yield made
    await made.dispose()


async def run(engine: AsyncEngine, act: Callable[[Connection], Any]) -> Any:
    async with engine.begin() as connection:
        return await connection.run_sync(act)


def _fill(connection: Connection) -> dict[str, list[dict[str, Any]]]:
    """Rows in every table, with a value in every column; returns what is stored then."""
    metadata = sa.MetaData()
    metadata.reflect(connection)
    for table in metadata.sorted_tables:
        if table.name != "alembic_version":
            for number in range(ROWS):
                connection.execute(table.insert().values(_row(table, number)))
    return _stored(connection, metadata)


def _row(table: sa.Table, number: int) -> dict[str, Any]:
    return {
        column.name: _value(column, number)
        for column in table.columns
        if not (column.primary_key and column.name == "id" and isinstance(column.type, sa.Integer))
    } | ({"id": number + 1} if table.name == "installation" else {})


def _value(column: sa.Column[Any], number: int) -> Any:
    if column.name == "state":
        return "done"  # nobody shall carry it out
    kind = column.type
    if column.name == "uuid":
        return str(UUID(int=number + 1))
    if column.name == "project_id":
        return PROJECT + str(number) if column.primary_key else PROJECT
    if isinstance(kind, sa.JSON):
        return [] if column.name not in ("labels", "environment", "facts") else {"a": "b"}
    if isinstance(kind, sa.Boolean):
        return False
    if isinstance(kind, sa.Integer | sa.Float | sa.Numeric):
        return number + 1
    if isinstance(kind, sa.DateTime):
        return datetime(2026, 1, 1, tzinfo=UTC)
    return {"backend": "local", "status": "Stopped", "kind": "cluster"}.get(column.name, f"{column.name}-{number}")


def _stored(connection: Connection, metadata: sa.MetaData) -> dict[str, list[dict[str, Any]]]:
    return {
        table.name: sorted(
            (dict(row) for row in connection.execute(sa.select(table)).mappings()), key=lambda row: str(row)
        )
        for table in metadata.sorted_tables
        if table.name != "alembic_version"
    }


@pytest.mark.parametrize("revision", known_revisions()[1:])
async def test_data_of_an_older_schema_survive_the_upgrade(
    engine: AsyncEngine, database_url: str, revision: str
) -> None:
    await run(engine, lambda connection: upgrade(connection, revision))
    before = await run(engine, _fill)
    assert all(len(rows) == ROWS for rows in before.values())
    assert before.keys() >= {"action", "container", "capsule", "registry", "injected_file", "quota", "identity_user"}
    assert (await run(engine, look)).standing is Standing.OLD
    database = Database(database_url)
    await database.migrate()
    await database.close()
    assert (await run(engine, look)).standing is Standing.CURRENT

    def kept(connection: Connection) -> dict[str, list[dict[str, Any]]]:
        metadata = sa.MetaData()
        metadata.reflect(connection)
        return _stored(connection, metadata)

    after = await run(engine, kept)
    for table, rows in before.items():
        columns = rows[0].keys()
        trimmed = [{name: row.get(name) for name in columns} for row in after[table]]
        assert sorted(trimmed, key=str) == sorted(rows, key=str), table


async def test_an_upgraded_installation_serves_what_it_had(
    engine: AsyncEngine, database_url: str, tmp_path: Path
) -> None:
    await run(engine, lambda connection: upgrade(connection, "0001"))

    def add(connection: Connection) -> None:
        metadata = sa.MetaData()
        for name in ("container", "action"):
            table = sa.Table(name, metadata, autoload_with=connection)
            for number in range(ROWS):
                without = {column.name: None for column in table.columns if column.nullable}
                row = _row(table, number) | without
                if name == "action":
                    row |= {"resource_kind": "container", "resource_id": str(UUID(int=number + 1)), "message": "told"}
                connection.execute(table.insert().values(row))

    await run(engine, add)
    async with place.running(database_url, tmp_path) as running:
        shown = await Caisson(running).ok("GET", "/v1/containers?all_projects=true", who="admin")
        assert {box["name"] for box in shown["containers"]} == {f"name-{number}" for number in range(ROWS)}
        path = f"/v1/containers/{UUID(int=1)}/container_actions?all_projects=true"
        (action,) = (await Caisson(running).ok("GET", path, who="admin"))["containerActions"]
        assert (action["action"], action["request_id"], action["message"]) == ("verb-0", "request_id-0", "told")


async def test_a_newer_programs_database_is_refused_and_not_touched(engine: AsyncEngine, database_url: str) -> None:
    await run(engine, upgrade)
    await run(engine, lambda connection: connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'")))
    database = Database(database_url)
    for refused in (database.migrate, database.require_schema):
        with pytest.raises(Invalid, match=r"schema 9999, made by a newer Caisson.*restore the backup"):
            await refused()
    await database.close()
    assert (await run(engine, look)).found == "9999"


async def test_an_older_or_empty_database_is_not_served_without_its_upgrade(
    engine: AsyncEngine, database_url: str
) -> None:
    database = Database(database_url)
    with pytest.raises(Invalid, match="is empty: run caisson migrate"):
        await database.require_schema()
    await run(engine, lambda connection: upgrade(connection, "0001"))
    with pytest.raises(Invalid, match=r"has schema 0001, this Caisson needs \d+: run caisson migrate"):
        await database.require_schema()
    await database.migrate()
    await database.require_schema()
    await database.close()


def test_the_newest_revision_is_the_last_migration() -> None:
    assert known_revisions()[0] == NEWEST
