"""Transactions, the clock, turns, kept answers, and migrations."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, inspect
from sqlalchemy.exc import IntegrityError
from sqlmodel import SQLModel, select
from sqlmodel.ext.asyncio.session import AsyncSession

from app import actions
from app.answers import Answer
from app.db import EVERYTHING, Database, Scope, in_transaction, take_turn
from app.errors import Busy
from app.models import Capsule, Container, IdentityUser, Resource

ALPHA, BETA = Scope("alpha"), Scope("beta")


def box(project: str = "alpha", name: str = "box", **columns: Any) -> Container:
    return Container(project_id=project, user_id="u", name=name, image="i", backend="local", created_at=1.0, **columns)


async def names(database: Database, scope: Scope = EVERYTHING) -> set[str]:
    async with database.reading(scope) as session:
        return set(await session.exec(select(Container.name)))


@pytest_asyncio.fixture
async def database(schema_url: str) -> AsyncIterator[Database]:
    made = Database(schema_url)
    yield made
    await made.close()


# Transactions


async def test_a_transaction_commits_at_its_end_and_not_before(database: Database) -> None:
    async with database.transaction(ALPHA) as session:
        session.add(box())
        await session.flush()
        assert await names(database) == set()
    assert await names(database) == {"box"}


async def test_a_transaction_that_fails_leaves_nothing(database: Database) -> None:
    async def fail() -> None:
        async with database.transaction(ALPHA) as session:
            session.add(box())
            await session.flush()
            raise ValueError("on purpose")

    with pytest.raises(ValueError, match="on purpose"):
        await fail()
    assert await names(database) == set()


async def test_a_transaction_that_is_cancelled_leaves_nothing(database: Database) -> None:
    inside = asyncio.Event()

    async def add() -> None:
        async with database.transaction(ALPHA) as session:
            session.add(box())
            await session.flush()
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(add())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await names(database) == set()
    async with database.transaction(ALPHA) as session:  # and its connection can be used again
        session.add(box(name="next"))
    assert await names(database) == {"next"}


async def test_rows_can_be_used_after_the_commit(database: Database) -> None:
    async with database.transaction(ALPHA) as session:
        row = box()
        session.add(row)
    assert (row.name, row.project_id) == ("box", "alpha")
    assert row.id > 0


async def test_it_is_known_whether_a_transaction_is_open(database: Database) -> None:
    assert not in_transaction.get()
    async with database.reading(ALPHA):
        assert not in_transaction.get()
    async with database.transaction(ALPHA):
        assert in_transaction.get()
        assert await asyncio.create_task(_seen_by_a_task()) is True  # whatever it starts counts as inside
    assert not in_transaction.get()


async def _seen_by_a_task() -> bool:
    return in_transaction.get()


async def test_each_change_of_a_resource_raises_its_revision(database: Database) -> None:
    async with database.transaction(ALPHA) as session:
        row = box()
        session.add(row)
    assert row.revision == 0
    for number in (1, 2):
        async with database.transaction(ALPHA) as session:
            found = (await session.exec(select(Container))).one()
            found.image = f"i{number}"
        assert found.revision == number
    async with database.transaction(ALPHA) as session:
        (await session.exec(select(Container))).one().image = "i2"  # as it was
    async with database.reading(ALPHA) as session:
        assert (await session.exec(select(Container))).one().revision == 2


async def test_constraints_hold(database: Database) -> None:
    async with database.transaction(ALPHA) as session:
        session.add(box(uuid="same"))
    with pytest.raises(IntegrityError):
        async with database.transaction(BETA) as session:
            session.add(box("beta", uuid="same"))


async def test_writers_wait_for_each_other_and_lose_nothing(database: Database) -> None:
    async with database.transaction(ALPHA) as session:
        session.add(box(name="counted", cpu=0.0))

    async def add_one() -> None:
        async with database.transaction(ALPHA) as session:
            row = (await session.exec(select(Container).with_for_update())).one()
            row.cpu = (row.cpu or 0.0) + 1
            await asyncio.sleep(0)

    await asyncio.gather(*(add_one() for _ in range(20)))
    async with database.reading(ALPHA) as session:
        assert (await session.exec(select(Container.cpu))).one() == 20


async def test_readers_do_not_wait_for_writers(database: Database) -> None:
    async with database.transaction(ALPHA) as session:
        session.add(box())
        await session.flush()
        async with asyncio.timeout(10):
            assert await names(database) == set()


async def test_only_one_has_the_turn(database: Database) -> None:
    inside, most = 0, 0

    async def turn(what: str) -> None:
        nonlocal inside, most
        async with database.transaction(ALPHA) as session:
            await take_turn(session, what)
            await session.exec(select(Container.uuid))  # on SQLite the first statement waits
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0.01)
            inside -= 1

    await asyncio.gather(*(turn("same") for _ in range(5)))
    assert most == 1


async def test_the_clock_is_the_databases_and_goes_on_within_a_transaction(database: Database) -> None:
    async with database.transaction(ALPHA) as session:
        first = await actions.clock(session)
        await asyncio.sleep(0.02)
        assert await actions.clock(session) > first


async def test_a_database_that_cannot_be_reached_is_busy(tmp_path: Path) -> None:
    for url in ("postgresql+asyncpg://nobody@127.0.0.1:1/none", f"sqlite+aiosqlite:///{tmp_path}/no/such/folder/c.db"):
        database = Database(url)
        with pytest.raises(Busy):
            await names(database)
        with pytest.raises(Busy):
            await database.migrate()
        await database.close()


# Answers that are kept


async def _asked(database: Database, scope: Scope, calls: list[str], *listed: type[Resource]) -> bytes:
    async def render(session: AsyncSession) -> Answer:
        calls.append("rendered")
        found = sorted(await session.exec(select(Container.name)))
        return Answer(",".join(found).encode(), 1e12)

    return await database.remembered(scope, ("names", listed), render, listed)


async def test_an_answer_is_made_anew_after_a_change_in_its_scope(database: Database) -> None:
    calls: list[str] = []
    assert await _asked(database, ALPHA, calls) == b""
    for number in range(3):
        async with database.transaction(ALPHA) as session:
            session.add(box(name=f"n{number}"))
        expected = ",".join(f"n{found}" for found in range(number + 1)).encode()
        for _ in range(2):
            assert await _asked(database, ALPHA, calls) == expected
            assert await _asked(database, EVERYTHING, calls) == expected
            assert await _asked(database, BETA, calls) == b""
    async with database.transaction(EVERYTHING) as session:
        for row in await session.exec(select(Container)):
            await session.delete(row)
    assert await _asked(database, ALPHA, calls) == b""


async def test_answers_are_kept_where_every_change_is_seen_or_cheap_to_ask_for(database: Database) -> None:
    cases: list[tuple[list[type[Resource]], bool]] = [([], database.embedded), ([Container, Capsule], True)]
    for listed, kept in cases:
        calls: list[str] = []
        for _ in range(3):
            await _asked(database, ALPHA, calls, *listed)
        assert len(calls) == (1 if kept else 3)


async def test_a_list_is_made_anew_for_each_of_its_tables_and_no_other_project(database: Database) -> None:
    calls: list[str] = []
    await _asked(database, ALPHA, calls, Container, Capsule)
    for project, rendered in (("beta", 1), ("alpha", 2)):
        async with database.transaction(Scope(project)) as session:
            session.add(Capsule(project_id=project, user_id="u", name="c", backend="local", created_at=1.0))
        await _asked(database, ALPHA, calls, Container, Capsule)
        assert len(calls) == rendered


async def test_a_list_shows_what_another_replica_changed(postgres: Callable[[], str]) -> None:
    """A new row, a changed one, one that goes, and one that takes another's place."""
    url = postgres()
    ours, theirs = Database(url), Database(url)
    try:
        await ours.migrate()
        calls: list[str] = []

        async def shown() -> str:
            return (await _asked(ours, ALPHA, calls, Container)).decode()

        async def change(*, new: str = "", old: str = "", renamed: str = "") -> None:
            async with theirs.transaction(ALPHA) as session:
                if new:
                    session.add(box(name=new))
                if old:
                    row = (await session.exec(select(Container).where(Container.name == old))).one()
                    if renamed:
                        row.name = renamed
                    else:
                        await session.delete(row)

        assert await shown() == ""
        await change(new="a")
        assert await shown() == "a"
        await change(old="a", renamed="b")
        assert await shown() == "b"
        await change(old="b", new="c")
        assert await shown() == "c"
        await change(old="c")
        assert await shown() == ""
        assert len(calls) == 5
    finally:
        await ours.close()
        await theirs.close()


async def test_a_change_while_an_answer_is_made_is_not_missed(database: Database) -> None:
    async def render(session: AsyncSession) -> Answer:
        found = sorted(await session.exec(select(Container.name)))
        async with database.transaction(ALPHA) as other:
            other.add(box(name=f"n{len(found)}"))
        return Answer(",".join(found).encode(), 1e12)

    assert await database.remembered(ALPHA, "names", render) == b""
    assert await database.remembered(ALPHA, "names", render) == b"n0"


async def test_an_answer_is_made_anew_when_its_time_is_over(database: Database) -> None:
    calls = []

    async def render(session: AsyncSession) -> Answer:
        calls.append("rendered")
        return Answer(b"x", 1.0)

    for _ in range(2):
        await database.remembered(ALPHA, "aged", render)
    assert len(calls) == 2


# Migrations


def _differences(connection: Connection) -> list[Any]:
    context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
    return list(compare_metadata(context, SQLModel.metadata))


def _tables(connection: Connection) -> set[str]:
    return set(inspect(connection).get_table_names())


async def test_migrations_make_what_the_models_say(database_url: str) -> None:
    database = Database(database_url)
    await database.migrate()
    async with database._read.connect() as connection:
        assert await connection.run_sync(_differences) == []
        assert await connection.run_sync(_tables) == {*SQLModel.metadata.tables, "alembic_version"}
    await database.close()


async def test_migrating_again_changes_nothing(database_url: str) -> None:
    database = Database(database_url)
    await database.migrate()
    async with database.transaction(EVERYTHING) as session:
        session.add(IdentityUser(id="u", name="n", password_hash="h"))
        session.add(box())
    await database.migrate()
    assert await names(database) == {"box"}
    async with database.reading(EVERYTHING) as session:
        assert (await session.exec(select(IdentityUser.name))).all() == ["n"]
    await database.close()


async def test_replicas_may_migrate_at_the_same_time(database_url: str) -> None:
    databases = [Database(database_url) for _ in range(1 if database_url.startswith("sqlite") else 3)]
    await asyncio.gather(*(database.migrate() for database in databases))
    async with databases[0]._read.connect() as connection:
        assert await connection.run_sync(_differences) == []
    for database in databases:
        await database.close()


async def test_indexes_that_the_claim_relies_on_exist(database: Database) -> None:
    def found(connection: Connection) -> dict[str, Any]:
        return {str(index["name"]): index for index in inspect(connection).get_indexes("action")}

    async with database._read.connect() as connection:
        indexes = await connection.run_sync(found)
    assert indexes["action_one_running"]["unique"]
    for name in ("action_one_running", "action_fifo", "action_open"):
        (condition,) = (value for key, value in indexes[name]["dialect_options"].items() if key.endswith("_where"))
        assert "running" in str(condition)
