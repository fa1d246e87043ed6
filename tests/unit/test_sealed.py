"""Rotation of keys: every sealed column is found, whatever breaks off in between is finished later."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from pydantic import SecretStr
from sqlmodel import SQLModel, select
from sqlmodel.ext.asyncio.session import AsyncSession

from app.db import EVERYTHING, Database, Scope
from app.errors import Invalid
from app.lock import only_process
from app.models import ClusterKey, IdentityKey, InjectedFile, Registry
from app.sealed import BATCH, SEALED, count, reseal, rotate
from app.settings import Settings
from app.vault import Vault, keep_keys, kept_keys, key_file

SECRETIVE = re.compile(r"passw|secret|private|_pem|_key$|token|content|credential")
NOT_SEALED = {
    "action.lease_token": "names a lease, opens nothing",
    "identity_user.password_hash": "a slow hash",
    "identity_credential.secret_hash": "a slow hash",
    "ticket.secret_hash": "a hash of 256 random bits",
}
"""Columns whose names sound like secrets and that need no sealing, and why."""


def test_every_column_that_sounds_secret_is_sealed_or_says_why_not() -> None:
    known = {f"{model.__tablename__}.{name}" for model, name in SEALED}
    sounding = {
        f"{table.name}.{column.name}"
        for table in SQLModel.metadata.tables.values()
        for column in table.columns
        if SECRETIVE.search(column.name)
    }
    assert sounding - known - NOT_SEALED.keys() == set(), "seal it and list it in app.sealed, or say why not"
    assert known <= sounding
    assert NOT_SEALED.keys() <= sounding


def row(model: type[SQLModel], number: int, text: str) -> SQLModel:
    """A row of a sealed table that holds this sealed text."""
    of: dict[Any, dict[str, Any]] = {
        ClusterKey: {"project_id": "p", "cluster_id": f"c{number}", "kind": "cluster", "private_key": text},
        IdentityKey: {"id": f"k{number}", "private_pem": text, "created_at": 1.0},
        InjectedFile: {"project_id": "p", "container_id": "b", "destination": "/x", "content": text},
        Registry: {
            "project_id": "p", "user_id": "u", "created_at": 1.0, "name": "r", "domain": "d", "password": text,
        },
    }  # fmt: skip
    return model(**of[model])


@pytest_asyncio.fixture
async def database(schema_url: str) -> AsyncIterator[Database]:
    made = Database(schema_url)
    yield made
    await made.close()


async def fill(database: Database, vault: Vault, rows: int = 3) -> None:
    """Some rows in every sealed table; the secret of each is its number."""
    async with database.transaction(EVERYTHING) as session:
        for model, _ in SEALED:
            session.add_all([row(model, number, vault.seal(str(number))) for number in range(rows)])
        session.add(Registry(project_id="p", user_id="u", created_at=1.0, name="without", domain="d"))


async def texts(database: Database) -> dict[str, list[str]]:
    """The sealed texts of each sealed column, in the order of their secrets' making."""
    found = {}
    async with database.reading(EVERYTHING) as session:
        for model, name in SEALED:
            column: Any = getattr(model, name)
            rows = await session.exec(select(column).where(column.is_not(None)))
            found[f"{model.__tablename__}.{name}"] = list(rows.all())
    return found


async def secrets(database: Database, vault: Vault) -> dict[str, list[str]]:
    return {name: sorted(map(vault.open, those), key=int) for name, those in (await texts(database)).items()}


async def test_every_secret_gets_under_the_new_key(database: Database) -> None:
    rows = BATCH + 3
    await fill(database, Vault("old"), rows)
    both = Vault("new", "old")
    assert await count(database, both) == {"older": rows * len(SEALED)}
    assert await reseal(database, both) == rows * len(SEALED)
    assert await count(database, both) == {"newest": rows * len(SEALED)}
    expected = [str(number) for number in range(rows)]
    assert await secrets(database, Vault("new")) == {f"{m.__tablename__}.{n}": expected for m, n in SEALED}


async def test_what_is_under_the_newest_key_stays_as_it_is(database: Database) -> None:
    vault = Vault("key")
    await fill(database, vault)
    before = await texts(database)
    assert await reseal(database, vault) == 0
    assert await texts(database) == before


async def test_nothing_visible_changes(database: Database) -> None:
    """A rotation is not a change of a registry: its revision and its time of change stay."""
    await fill(database, Vault("old"))
    await reseal(database, Vault("new", "old"))
    async with database.reading(EVERYTHING) as session:
        rows = (await session.exec(select(Registry))).all()
    assert {(row.revision, row.updated_at) for row in rows} == {(0, None)}


class Broken(Vault):
    """Dies after so many secrets, as a process does that is killed."""

    lives = BATCH + 2

    def reseal(self, sealed: str) -> str:
        self.lives -= 1
        if self.lives < 0:
            raise KeyboardInterrupt
        return super().reseal(sealed)


async def test_a_rotation_that_breaks_off_is_harmless_and_finished_by_the_next(database: Database) -> None:
    await fill(database, Vault("old"), BATCH)
    with pytest.raises(KeyboardInterrupt):
        await reseal(database, Broken("new", "old"))
    both = Vault("new", "old")
    found = await count(database, both)
    assert found == {"newest": BATCH, "older": BATCH * (len(SEALED) - 1)}
    assert await secrets(database, both)  # all of them can be read in between
    assert await reseal(database, both) == BATCH * (len(SEALED) - 1)
    await secrets(database, Vault("new"))


class Racing(Database):
    """Somebody else stores another password just before each transaction."""

    password = ""

    @asynccontextmanager
    async def transaction(self, scope: Scope) -> AsyncIterator[AsyncSession]:
        async with super().transaction(scope) as session:
            (await session.exec(select(Registry))).one().password = self.password
        async with super().transaction(scope) as session:
            yield session


async def test_a_secret_that_changes_meanwhile_is_not_overwritten(schema_url: str, database: Database) -> None:
    async with database.transaction(EVERYTHING) as session:
        session.add(row(Registry, 0, Vault("old").seal("before")))
    both = Vault("new", "old")
    racing = Racing(schema_url)
    racing.password = both.seal("after")
    await reseal(racing, both)
    await racing.close()
    assert (await texts(database))["registry.password"] == [racing.password]


async def test_a_secret_that_fits_no_key_is_named_and_the_others_are_done(database: Database) -> None:
    await fill(database, Vault("old"))
    async with database.transaction(EVERYTHING) as session:
        session.add(ClusterKey(project_id="p", cluster_id="x", kind="etcd", private_key=Vault("lost").seal("1")))
    with pytest.raises(Invalid, match=r"1 secrets fit none of the keys: cluster_key\.private_key of x/etcd"):
        await reseal(database, Vault("new", "old"))
    assert await count(database, Vault("new")) == {"newest": 3 * len(SEALED), "lost": 1}


# The command


async def test_a_kept_key_is_replaced(sqlite_settings: Settings) -> None:
    path = key_file(sqlite_settings)
    (old,) = kept_keys(path)
    assert await rotate(sqlite_settings, None) == 3 * len(SEALED)
    (new,) = kept_keys(path)
    assert new != old
    assert await _readable(sqlite_settings, new)


async def test_a_given_key_is_taken(sqlite_settings: Settings) -> None:
    await rotate(sqlite_settings, "given")
    assert kept_keys(key_file(sqlite_settings)) == ["given"]
    assert await _readable(sqlite_settings, "given")


async def test_a_broken_off_rotation_goes_on_with_its_own_key(sqlite_settings: Settings) -> None:
    path = key_file(sqlite_settings)
    (old,) = kept_keys(path)
    keep_keys(path, ["new", old])  # this far it came
    assert await rotate(sqlite_settings, None) == 3 * len(SEALED)
    assert kept_keys(path) == ["new"]
    assert await _readable(sqlite_settings, "new")


async def test_the_old_key_is_kept_when_something_does_not_fit(sqlite_settings: Settings) -> None:
    database = Database(sqlite_settings.database)
    async with database.transaction(EVERYTHING) as session:
        session.add(ClusterKey(project_id="p", cluster_id="x", kind="etcd", private_key=Vault("lost").seal("1")))
    await database.close()
    with pytest.raises(Invalid, match="fit none"):
        await rotate(sqlite_settings, None)
    assert len(kept_keys(key_file(sqlite_settings))) == 2


async def test_no_process_may_serve_meanwhile(sqlite_settings: Settings) -> None:
    keys = kept_keys(key_file(sqlite_settings))
    with only_process(sqlite_settings), pytest.raises(Invalid, match="another Caisson uses"):
        await rotate(sqlite_settings, None)
    assert kept_keys(key_file(sqlite_settings)) == keys


async def test_keys_of_the_settings(schema_url: str, tmp_path: Path) -> None:
    database = Database(schema_url)
    await fill(database, Vault("old"))
    settings = Settings(
        data_dir=tmp_path, database_url=schema_url, secret_key=SecretStr("new"), other_secret_keys=[SecretStr("old")]
    )
    with pytest.raises(Invalid, match="CAISSON_OTHER_SECRET_KEYS"):
        await rotate(settings, "given")
    assert await rotate(settings, None) == 3 * len(SEALED)
    assert await count(database, Vault("new")) == {"newest": 3 * len(SEALED)}
    await database.close()


@pytest_asyncio.fixture
async def sqlite_settings(sqlite_schema: Path, tmp_path: Path) -> Settings:
    """An installation that keeps its own key, with secrets in it."""
    (tmp_path / "caisson.db").write_bytes(sqlite_schema.read_bytes())
    keep_keys(tmp_path / "secret.key", ["the first key"])
    settings = Settings(data_dir=tmp_path)
    database = Database(settings.database)
    await fill(database, Vault("the first key"))
    await database.close()
    return settings


async def _readable(settings: Settings, key: str) -> bool:
    database = Database(settings.database)
    try:
        return bool(await secrets(database, Vault(key)))
    finally:
        await database.close()
