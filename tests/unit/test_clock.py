"""The database's clock is set forward and back by an hour while actions wait and run."""

import asyncio
from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path

import pytest_asyncio

from app.db import db_now
from app.models import ActionState
from tests.api.caisson import eventually
from tests.stack.settable import Clock
from tests.unit.workshop import Workshop, workshop

HOUR = 3600.0
LEASE = 2.0


@pytest_asyncio.fixture
async def shop(clock: Clock, schema_url: str, tmp_path: Path) -> AsyncIterator[Workshop]:
    async with workshop(schema_url, tmp_path, lease_seconds=LEASE) as made:
        yield made


async def test_forward_under_a_step(shop: Workshop, clock: Clock) -> None:
    """By the clock its lease has ended. Its own process keeps it, and nothing is done twice."""
    shop.worker()
    uuid = await shop.made()
    shop.engine.delay("kill", 1.5 * LEASE)
    await shop.act(uuid, "kill")
    await shop.called("kill")
    await clock.set(HOUR)
    await shop.idle(uuid)
    action = await shop.last(uuid)
    assert (action.state, action.attempts) == (ActionState.DONE, 1), action.message
    assert shop.engine.calls["kill"] == 1
    assert (await shop.box(uuid)).status == "Stopped"


async def test_forward_under_another_replicas_step(shop: Workshop, clock: Clock) -> None:
    """Whoever takes over finds what is there; the first one learns of it, ends its step and writes nothing."""
    first = shop.worker()
    uuid = await shop.create(run=False)
    shop.engine.delay("create", 3600)
    await shop.called("create")
    shop.engine.delay("create", 0)
    shop.worker(replica=True)
    hours = count(1)

    async def taken_over() -> bool:
        """Unless its own process renewed the lease first."""
        await clock.set(next(hours) * HOUR)
        await asyncio.sleep(LEASE / 4)
        return (await shop.last(uuid)).attempts > 1

    await eventually(taken_over, lambda: "nobody took it over")
    await shop.idle(uuid)
    assert (await shop.box(uuid)).status == "Created"

    async def dropped() -> bool:
        return not [run for run in first._runs.values() if run.job.action.resource_id == uuid]

    await eventually(dropped, lambda: "the first worker goes on with what it lost")
    assert len(await shop.engine.find_all()) == 1


async def test_back_while_actions_wait(shop: Workshop, clock: Clock) -> None:
    """For an engine that is away, and for a lease of somebody who died: neither waits for an hour."""
    await clock.set(HOUR)
    worker = shop.worker()
    uuid, other = await shop.made(), await shop.made()
    shop.engine.go_down()
    await shop.act(uuid, "pause")
    await shop.called("find", shop.engine.calls["find"] + 1)
    await shop.act(other, "pause")
    await shop.called("find", shop.engine.calls["find"] + 1)
    held = await shop.last(other)
    await shop.set(held, state="running", lease_token="a dead one's", lease_until=db_now() + LEASE)
    await clock.set(0.0)
    shop.engine.come_up()
    await shop.idle(uuid, other)
    assert worker.silent_seconds() is not None
    assert [(await shop.box(one)).status for one in (uuid, other)] == ["Paused", "Paused"]


async def test_back_before_the_start(shop: Workshop, clock: Clock) -> None:
    await clock.set(HOUR)
    uuid = await shop.create(run=True)
    await clock.set(0.0)
    shop.worker()
    await shop.idle(uuid)
    assert (await shop.box(uuid)).status == "Running"
