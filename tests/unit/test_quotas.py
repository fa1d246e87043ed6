"""Quotas count in the transaction that takes: whatever comes at once, what is accepted is what the limit says."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from app import changes, containers, quotas
from app.actions import Asked
from app.changes import LimitsArgs
from app.containers import CreateArgs
from app.db import EVERYTHING, Database, Scope
from app.errors import QuotaExceeded
from app.models import Container
from app.settings import QuotaSettings
from tests.api.caisson import BUSY
from tests.unit.workshop import PROJECT, Workshop, workshop


@pytest.fixture
async def shop(schema_url: str, tmp_path: Path) -> AsyncIterator[Workshop]:
    """No worker runs: what is accepted stays as it was accepted."""
    async with workshop(schema_url, tmp_path, quota=QuotaSettings(containers=10)) as made:
        yield made


async def take(shop: Workshop, database: Database, **columns: Any) -> str:
    """One create, as a replica with this database accepts it: what came of it."""
    row: dict[str, Any] = {"cpu": 0.1, "memory": 10, "disk": 0, **columns}
    box = Container(project_id=PROJECT, user_id="u", name="box", image=BUSY, backend="local", created_at=0.0, **row)
    try:
        async with database.transaction(Scope(PROJECT)) as session:
            await containers.accept(session, Asked("u", "req"), box, shop.engine, shop.settings, CreateArgs())
    except QuotaExceeded as error:
        return error.title
    return box.uuid


async def grow(shop: Workshop, uuid: str, **limits: Any) -> str:
    """One change of limits."""
    try:
        async with shop.database.transaction(Scope(PROJECT)) as session:
            box = await containers.find(session, uuid, lock=True)
            await changes.update(session, Asked("u", "req"), box, LimitsArgs(**limits), shop.settings)
    except QuotaExceeded as error:
        return error.title
    return ""


async def test_a_hundred_at_once_on_two_replicas(shop: Workshop) -> None:
    databases = [shop.database]
    if not shop.database.embedded:
        databases.append(Database(shop.url))
        shop._databases.append(databases[1])
    outcomes = await asyncio.gather(*(take(shop, databases[number % len(databases)]) for number in range(100)))
    said = Counter("taken" if len(outcome) == 36 else outcome for outcome in outcomes)
    assert said == {
        "taken": 10,
        "Quota exceeded for resources: containers (limit 10, in use 10, requested 1)": 90,
    }
    assert len(await shop.boxes()) == 10


async def test_growth_at_once(shop: Workshop) -> None:
    """What is accepted but not yet done by the engine is taken all the same."""
    shop.settings.quota.memory = 100
    made = [await take(shop, shop.database, memory=10) for _ in range(5)]
    for uuid in made:
        async with shop.database.transaction(EVERYTHING) as session:
            (await containers.find(session, uuid, lock=True)).status = "Running"
    said = await asyncio.gather(*(grow(shop, uuid, memory=30) for uuid in made))
    assert sorted(map(bool, said)) == [False, False, True, True, True]
    assert "memory (limit 100, in use 90, requested 20)" in max(said)
    # To shrink needs no permission.
    assert await grow(shop, made[-1], memory=5) == ""


async def test_the_sum_of_all_that_is_over_is_named(shop: Workshop) -> None:
    shop.settings.quota = QuotaSettings(containers=1, memory=100, cpu=1, disk=5)
    assert len(await take(shop, shop.database, cpu=1.0, memory=100)) == 36
    title = await take(shop, shop.database, cpu=0.5, memory=1)
    for words in (
        "containers (limit 1, in use 1, requested 1)",
        "memory (limit 100, in use 100, requested 1)",
        "cpu (limit 1, in use 1, requested 0.5)",
    ):
        assert words in title
    assert "disk" not in title


async def test_exactly_the_limit_is_allowed_in_tenths(shop: Workshop) -> None:
    shop.settings.quota = QuotaSettings(cpu=1, containers=-1, memory=-1)
    for _ in range(10):
        assert len(await take(shop, shop.database, cpu=0.1)) == 36
    assert "cpu (limit 1, in use 1, requested 0.1)" in await take(shop, shop.database, cpu=0.1)


async def test_an_override_wins_over_the_class_and_the_class_over_settings(shop: Workshop) -> None:
    async def limits() -> dict[str, int]:
        async with shop.database.reading(EVERYTHING) as session:
            return await quotas.limits(session, PROJECT, shop.settings)

    assert await limits() == {"containers": 10, "memory": 51200, "disk": 100, "cpu": 20}
    async with shop.database.transaction(EVERYTHING) as session:
        await quotas.override_class(session, "default", {"containers": 5, "cpu": 7})
        await quotas.override_class(session, "gold", {"containers": 99})
    assert await limits() == {"containers": 5, "memory": 51200, "disk": 100, "cpu": 7}
    async with shop.database.transaction(EVERYTHING) as session:
        await quotas.override(session, PROJECT, {"containers": -1})
        await quotas.override(session, "other", {"containers": 1})
    assert await limits() == {"containers": -1, "memory": 51200, "disk": 100, "cpu": 7}
    for _ in range(12):
        assert len(await take(shop, shop.database)) == 36
    async with shop.database.transaction(EVERYTHING) as session:
        await quotas.forget(session, PROJECT)
    assert (await limits())["containers"] == 5
    assert "containers (limit 5, in use 12, requested 1)" in await take(shop, shop.database)


async def test_another_projects_containers_do_not_count(shop: Workshop) -> None:
    for number in range(10):
        await shop.create(project=f"other-{number % 2}")
    assert len(await take(shop, shop.database)) == 36
