"""What a replica says of itself, and what that costs."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest_asyncio
from sqlalchemy import text

from app.auth import TokenSource
from app.db import EVERYTHING, Database
from app.errors import Busy
from app.health import KEPT_SECONDS, SILENT_SECONDS, Check, Draining, Health
from app.schema import Schema
from tests.unit.workshop import Workshop, workshop


class Identity(TokenSource):
    """Answers unless it is told not to."""

    www_authenticate = ""
    trouble: Busy | None = None

    async def validate(self, token: str) -> dict[str, Any]:
        raise NotImplementedError

    async def has_project(self, project_id: str) -> bool:
        raise NotImplementedError

    async def check(self) -> None:
        if self.trouble is not None:
            raise self.trouble

    async def close(self) -> None:
        """Nothing to close."""


class Asked(Database):
    """Counts how often its schema is asked for."""

    count = 0

    async def schema(self) -> Schema:
        self.count += 1
        return await super().schema()


class Replica:
    """The parts whose health is told, and a clock that is moved by hand."""

    def __init__(self, shop: Workshop, url: str) -> None:
        self.shop = shop
        self.now = 0.0
        self.identity, self.draining, self.database = Identity(), Draining(), Asked(url)
        self.worker = shop.worker()
        self.health = Health(
            self.database, self.identity, ["local"], self.worker, self.draining, timer=lambda: self.now
        )
        self.health.answered("local")

    async def failing(self) -> dict[str, Check]:
        return {check.name: check for check in await self.health.checks() if check.problem is not None}


@pytest_asyncio.fixture
async def replica(schema_url: str, tmp_path: Path) -> AsyncIterator[Replica]:
    async with workshop(schema_url, tmp_path) as shop:
        made = Replica(shop, schema_url)
        yield made
        await made.database.close()


async def test_all_is_well(replica: Replica) -> None:
    assert await replica.failing() == {}
    names = [check.name for check in await replica.health.checks()]
    assert names == ["database", "schema", "identity", "engine local", "worker", "serving"]
    assert [check.name for check in replica.health.alive()] == ["worker"]


async def test_a_flood_of_questions_is_one_question(replica: Replica) -> None:
    await asyncio.gather(*(replica.health.checks() for _ in range(500)))
    assert replica.database.count == 1
    replica.now += KEPT_SECONDS - 0.1
    await replica.health.checks()
    assert replica.database.count == 1
    replica.now += 0.1
    await replica.health.checks()
    assert replica.database.count == 2


async def test_an_engine_that_is_silent_is_shown_and_keeps_it_ready(replica: Replica) -> None:
    replica.now += SILENT_SECONDS + 1
    check = (await replica.failing())["engine local"]
    assert (check.problem, check.required) == ("has been silent for 36 seconds", False)
    replica.health.answered("local")
    replica.now += KEPT_SECONDS
    assert await replica.failing() == {}


async def test_an_identity_that_is_away_is_shown_and_keeps_it_ready(replica: Replica) -> None:
    replica.identity.trouble = Busy("The identity service cannot be reached.")
    check = (await replica.failing())["identity"]
    assert (check.problem, check.required) == ("The identity service cannot be reached.", False)


async def test_a_worker_that_does_not_run_makes_it_unready(replica: Replica) -> None:
    await replica.shop.stop(replica.worker)
    assert (await replica.failing())["worker"].required
    assert replica.health.alive()[0].problem == "does not run"


async def test_being_asked_to_end_counts_at_once(replica: Replica) -> None:
    assert await replica.failing() == {}
    replica.draining.now = True
    assert (await replica.failing())["serving"].required
    assert [check.problem for check in replica.health.alive()] == [None]


async def test_a_schema_that_is_not_the_programs(replica: Replica) -> None:
    """An older one cannot be served; a newer one means that another replica was upgraded first."""
    for revision, required in (("0001", True), ("9999", False)):
        async with replica.database.transaction(EVERYTHING) as session:
            await session.exec(text(f"UPDATE alembic_version SET version_num = '{revision}'"))  # type: ignore[call-overload]  # no table of ours
        replica.now += KEPT_SECONDS
        check = (await replica.failing())["schema"]
        assert check.required is required
        assert revision in (check.problem or "")


async def test_a_database_that_is_away(replica: Replica, tmp_path: Path) -> None:
    gone = Database(f"sqlite+aiosqlite:///{tmp_path}/nowhere/caisson.db")
    health = Health(gone, replica.identity, [], replica.worker, replica.draining)
    found = {check.name: check for check in await health.checks()}
    assert found["database"].problem == "The database cannot answer right now."
    assert found["database"].required
    assert found["schema"].problem == "not known"
    await gone.close()
