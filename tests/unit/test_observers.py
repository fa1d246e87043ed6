"""Observers: rows follow the engine, never a newer outcome with an older look."""

import asyncio
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from sqlmodel import select

from app import observe
from app.backends.engine import ContainerSpec
from app.db import EVERYTHING
from app.models import Action, ActionState, Container
from app.observe import Looked, backend_id, compare, refresh
from tests.api.caisson import BUSY, eventually
from tests.unit.workshop import Workshop, workshop


async def look(shop: Workshop, uuid: str) -> Looked:
    return await refresh(shop.engine, shop.database, shop.settings, UUID(uuid))


async def test_a_look_stores_what_changed_and_nothing_else(shop: Workshop) -> None:
    shop.worker()
    uuid = await shop.made()
    before = await shop.box(uuid)
    assert await look(shop, uuid) is Looked.SETTLED
    assert (await shop.box(uuid)).revision == before.revision
    shop.engine.exit(UUID(uuid), 2)
    assert await look(shop, uuid) is Looked.SETTLED
    after = await shop.box(uuid)
    assert (after.status, after.exit_code, after.revision) == ("Stopped", 2, before.revision + 1)
    assert (after.updated_at or 0) > (before.updated_at or 0)


async def test_a_container_that_an_action_works_on_is_left_alone(shop: Workshop) -> None:
    worker = shop.worker()
    uuid = await shop.made()
    await shop.stop(worker)
    await shop.act(uuid, "pause")
    shop.engine.exit(UUID(uuid), 0)
    assert await look(shop, uuid) is Looked.BUSY
    await compare(shop.engine, shop.database, shop.settings)
    assert (await shop.box(uuid)).status == "Running"


async def test_what_nobody_makes_any_more_does_not_stay_in_creation(shop: Workshop) -> None:
    """As a member of a capsule whose creation passed its deadline."""
    uuid = await shop.create(run=True)
    await compare(shop.engine, shop.database, shop.settings)
    assert (await shop.box(uuid)).status == "Creating"
    await shop.set(await shop.last(uuid), state=ActionState.FAILED, finished_at=1.0)
    await compare(shop.engine, shop.database, shop.settings)
    box = await shop.box(uuid)
    assert box.status == "Error"
    assert "given up" in (box.status_reason or "")


async def test_what_nobody_deletes_any_more_does_not_stay_in_deletion(shop: Workshop) -> None:
    """As a member, which was not made yet, of a capsule whose deletion passed its deadline."""
    uuid = await shop.create(run=True)
    await shop.set(await shop.last(uuid), state=ActionState.FAILED, finished_at=1.0)
    async with shop.database.transaction(EVERYTHING) as session:
        (await session.exec(select(Container).where(Container.uuid == uuid))).one().status = "Deleting"
    await compare(shop.engine, shop.database, shop.settings)
    box = await shop.box(uuid)
    assert box.status == "Error"
    assert "given up" in (box.status_reason or "")


@pytest.mark.parametrize("verb", ["find", "find_all"])
async def test_an_older_look_does_not_overwrite_a_newer_outcome(shop: Workshop, verb: str) -> None:
    shop.worker()
    uuid = await shop.made()
    shop.engine.delay(verb, 0.5, after=True)  # it answers what it saw half a second ago
    before = shop.engine.calls[verb]
    looking = asyncio.create_task(look(shop, uuid) if verb == "find" else _compare(shop))
    await shop.called(verb, before + 1)
    shop.engine.delay(verb, 0)
    await shop.act(uuid, "pause")
    await shop.idle(uuid)
    shop.engine.exit(UUID(uuid), 0)  # so that the old look differs from the row
    assert await looking is not Looked.SUBMITTED
    assert (await shop.box(uuid)).status == "Paused"
    assert await look(shop, uuid) is Looked.SETTLED
    assert (await shop.box(uuid)).status == "Stopped"


async def _compare(shop: Workshop) -> Looked:
    await compare(shop.engine, shop.database, shop.settings)
    return Looked.SETTLED


async def test_a_comparison_finds_what_no_event_told(shop: Workshop) -> None:
    shop.worker()
    same, ended, gone, removed, healed = [
        await shop.made(**columns) for columns in ({}, {}, {}, {"auto_remove": True}, {"auto_heal": True})
    ]
    shop.engine.exit(UUID(ended), 1)
    shop.engine.exit(UUID(removed), 0)
    for uuid in (gone, healed):
        shop.engine.vanish(UUID(uuid))
    before = await shop.box(same)
    await compare(shop.engine, shop.database, shop.settings)
    await shop.idle()
    assert {box.uuid: box.status for box in await shop.boxes()} == {
        ended: "Stopped", gone: "Error", same: "Running", healed: "Running",
    }  # fmt: skip
    assert "removed from the engine by others" in ((await shop.box(gone)).status_reason or "")
    assert (await shop.box(same)).revision == before.revision
    assert await shop.engine.find(UUID(healed)) is not None
    assert await shop.engine.find(UUID(removed)) is None


async def test_a_row_in_error_is_not_touched_again_and_again(shop: Workshop) -> None:
    shop.worker()
    uuid = await shop.create(image="absent:1")
    await shop.idle(uuid)
    before = await shop.box(uuid)
    assert before.status == "Error"
    for _ in range(2):
        await compare(shop.engine, shop.database, shop.settings)
    after = await shop.box(uuid)
    assert (after.revision, after.status_reason) == (before.revision, before.status_reason)


async def test_orphans_are_removed_if_the_log_holds_their_delete_and_else_kept(shop: Workshop) -> None:
    shop.worker()
    uuid = await shop.made()
    await shop.delete(uuid)
    await shop.idle(uuid)
    stranger = uuid4()
    for number, ident in enumerate((UUID(uuid), stranger)):
        await shop.engine.create(ident, ContainerSpec(project_id=f"p{number}", image=BUSY))
    await compare(shop.engine, shop.database, shop.settings)
    assert [seen.uuid for seen in await shop.engine.find_all()] == [stranger]


async def test_recurring_work_exists_once_and_goes_on_for_ever(shop: Workshop) -> None:
    await asyncio.gather(*(observe.ensure(shop.database, ["local"]) for _ in range(4)))
    async with shop.database.reading(EVERYTHING) as session:
        found = (await session.exec(select(Action))).all()
    assert sorted(action.verb for action in found) == ["observe", "prune"]
    shop.worker()
    for times in range(1, 4):
        await shop.called("find_all", times)
        await waiting(shop)
        await shop.due(backend_id("local"))


async def waiting(shop: Workshop) -> None:
    """Wait until the comparison waits for its next turn."""

    async def waits() -> bool:
        return (await shop.last(backend_id("local"))).state == ActionState.QUEUED

    await eventually(waits, lambda: "it does not wait for its next turn")


async def test_recurring_work_outlives_an_engine_that_is_down(shop: Workshop) -> None:
    shop.engine.go_down()
    await observe.ensure(shop.database, ["local"])
    shop.worker()
    await shop.called("find_all")
    await waiting(shop)
    shop.engine.come_up()
    before = shop.engine.calls["find_all"]
    await shop.due(backend_id("local"))
    await shop.called("find_all", before + 1)


async def test_old_history_is_forgotten_once_its_resource_is_gone(schema_url: str, tmp_path: Path) -> None:
    async with workshop(schema_url, tmp_path, history_days=1.0) as shop:
        shop.worker()
        living, gone = await shop.made(), await shop.made()
        await shop.delete(gone)
        await shop.idle()
        for uuid in (living, gone):
            for action in await shop.actions(uuid):
                await shop.set(action, finished_at=(action.finished_at or 0) - 2 * 86400)
        recent = await shop.made()
        await shop.delete(recent)
        await shop.idle()
        await observe.ensure(shop.database, ["local"])

        async def pruned() -> bool:
            return not await shop.actions(gone)

        await eventually(pruned, lambda: "not pruned")
        assert len(await shop.actions(living)) == 1
        assert len(await shop.actions(recent)) == 2
