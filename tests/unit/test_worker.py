"""How actions are carried out: outcomes, retries, crashes, leases, cancelling, several workers, shutdown."""

import asyncio
from contextlib import AsyncExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from app import actions, containers
from app.actions import Asked
from app.db import EVERYTHING, db_now
from app.errors import Refused, Taken, Unavailable
from app.models import Action, ActionState, Capsule, Status
from tests.api.caisson import eventually
from tests.unit.workshop import CountingEngine, Workshop, again, workshop

# Outcomes


async def test_an_accepted_wish_is_carried_out_once(shop: Workshop) -> None:
    shop.worker()
    uuid = await shop.made(run=True)
    (action,) = await shop.actions(uuid)
    assert (action.state, action.attempts, action.lease_token, action.lease_until) == ("done", 1, None, None)
    assert action.created_at <= (action.started_at or 0) <= (action.finished_at or 0)
    assert shop.engine.calls["create"] == shop.engine.calls["start"] == 1
    box = await shop.box(uuid)
    seen = await shop.engine.find(UUID(uuid))
    assert seen is not None
    assert (box.status, box.engine_ref, box.task_state, box.status_reason) == ("Running", seen.ref, None, None)


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"image": "absent:1"}, "manifest unknown"),
        ({"command": ["nosuch"]}, '"nosuch": executable file not found'),
        ({"memory": 5}, "Minimum memory limit"),
        ({"cpu": 15.0}, "Range of CPUs"),
        ({"image": "127.0.0.1:1/x/y"}, "connection refused"),
    ],
)
async def test_what_the_engine_refuses_is_an_error_in_its_words(
    shop: Workshop, columns: dict[str, Any], reason: str
) -> None:
    shop.worker()
    uuid = await shop.create(run=True, **columns)
    await shop.idle(uuid)
    box, action = await shop.box(uuid), await shop.last(uuid)
    assert (box.status, box.task_state) == (Status.ERROR, None)
    assert reason in (box.status_reason or "")
    assert (action.state, action.message) == (ActionState.FAILED, box.status_reason)


async def test_a_container_that_cannot_start_is_kept_and_can_be_started_later(shop: Workshop) -> None:
    shop.worker()
    shop.engine.fail_next("start", Taken("port is already allocated"))
    uuid = await shop.create(run=True)
    await shop.idle(uuid)
    box = await shop.box(uuid)
    assert (box.status, box.status_reason) == ("Error", "port is already allocated")
    assert box.engine_ref is not None
    await shop.act(uuid, "start")
    await shop.idle(uuid)
    box = await shop.box(uuid)
    assert (box.status, box.status_reason) == ("Running", None)


@pytest.mark.parametrize("verb", ["stop", "pause", "kill", "reboot"])
async def test_a_verb_that_is_refused_leaves_the_status_that_is_true(shop: Workshop, verb: str) -> None:
    shop.worker()
    uuid = await shop.made()
    shop.engine.fail_next({"reboot": "restart"}.get(verb, verb), Refused("no"))
    await shop.act(uuid, verb)
    await shop.idle(uuid)
    box = await shop.box(uuid)
    assert (box.status, box.status_reason) == ("Running", "no")
    assert (await shop.last(uuid)).state == ActionState.FAILED


@pytest.mark.parametrize("verb", ["start", "stop", "pause", "kill", "reboot"])
async def test_a_container_that_is_gone_from_the_engine(shop: Workshop, verb: str) -> None:
    shop.worker()
    uuid = await shop.made(run=verb != "start")
    shop.engine.vanish(UUID(uuid))
    await shop.act(uuid, verb)
    await shop.idle(uuid)
    box = await shop.box(uuid)
    assert box.status == "Error"
    assert "No such container" in (box.status_reason or "")


async def test_memory_that_ran_out_is_told(shop: Workshop) -> None:
    shop.worker()
    uuid = await shop.made(memory=64)
    shop.engine.exit(UUID(uuid), 137, oom_killed=True)
    await shop.act(uuid, "stop")
    await shop.idle(uuid)
    box = await shop.box(uuid)
    assert (box.status, box.exit_code) == ("Stopped", 137)
    assert "OOMKilled" in (box.status_reason or "")
    assert "64 MiB" in (box.status_reason or "")


async def test_an_object_that_bears_another_projects_label_is_left_alone(shop: Workshop) -> None:
    shop.worker()
    uuid = await shop.made()
    seen = await shop.engine.find(UUID(uuid))
    assert seen is not None
    async with shop.database.transaction(EVERYTHING) as session:
        (await containers.find(session, uuid)).project_id = "beta"
    await shop.delete(uuid)
    await shop.idle(uuid)
    assert (await shop.box(uuid)).status == "Error"
    assert await shop.engine.find(UUID(uuid)) == seen


# An engine that does not answer


async def test_an_engine_that_does_not_answer_is_waited_for(shop: Workshop) -> None:
    shop.worker()
    shop.engine.go_down()
    uuid = await shop.create(run=True)

    async def told() -> bool:
        return "waiting for the engine: Cannot connect" in ((await shop.box(uuid)).status_reason or "")

    await eventually(told, lambda: "status_reason does not say what is waited for")
    box = await shop.box(uuid)
    assert box.status == "Creating"
    shop.engine.come_up()
    await actions.hurry(shop.database, "local")
    await shop.due(uuid)
    await shop.idle(uuid)
    box = await shop.box(uuid)
    assert (box.status, box.status_reason) == ("Running", None)
    assert (await shop.last(uuid)).attempts >= 2


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("verb", ["create", "start", "image", "ensure_network", "find"])
async def test_a_call_that_fails_once_is_repeated_without_harm(shop: Workshop, verb: str, late: bool) -> None:
    """`late`: the engine did what was asked, and only its answer was lost."""
    shop.engine.fail_next(verb, Unavailable("timed out"), after=late)
    shop.worker()
    uuid = await shop.create(run=True)
    await shop.called(verb)
    await again(shop, uuid)
    await shop.idle(uuid)
    box = await shop.box(uuid)
    assert (box.status, box.status_reason) == ("Running", None)
    assert len(await shop.engine.find_all()) == 1


async def test_waiting_ends_at_the_deadline(schema_url: str, tmp_path: Path) -> None:
    async with workshop(schema_url, tmp_path, action_deadline=0.3) as shop:
        shop.engine.go_down()
        shop.worker()
        uuid = await shop.create(run=True)

        async def ended() -> bool:
            await shop.due(uuid)
            return (await shop.last(uuid)).state == ActionState.FAILED

        await eventually(ended, lambda: "not given up", every=0.05)
        box = await shop.box(uuid)
        assert box.status == "Error"
        assert "deadline" in (box.status_reason or "")
        assert "Cannot connect" in (box.status_reason or "")


async def test_a_delete_that_gave_up_can_be_asked_for_again(schema_url: str, tmp_path: Path) -> None:
    async with workshop(schema_url, tmp_path, action_deadline=0.3) as shop:
        shop.worker()
        uuid = await shop.made()
        shop.engine.go_down()
        await shop.delete(uuid)

        async def ended() -> bool:
            await shop.due(uuid)
            return (await shop.last(uuid)).state == ActionState.FAILED

        await eventually(ended, lambda: "not given up", every=0.05)
        box = await shop.box(uuid)
        assert box.status == "Error"
        assert "deadline" in (box.status_reason or "")
        shop.engine.come_up()
        await shop.delete(uuid, force=False)
        await shop.idle(uuid)
        assert await shop.boxes() == []
        assert await shop.engine.find_all() == []


# Defects


async def test_a_step_that_crashes_is_tried_three_times(shop: Workshop) -> None:
    shop.worker()
    for _ in range(3):
        shop.engine.fail_next("create", ZeroDivisionError("secret words"))  # type: ignore[arg-type]  # a defect is the point
    uuid = await shop.create(run=True)
    for times in (1, 2):
        await shop.called("create", times)
        await again(shop, uuid)
    await shop.idle(uuid)
    assert shop.engine.calls["create"] == 3
    box = await shop.box(uuid)
    assert box.status == "Error"
    assert "internal error in create" in (box.status_reason or "")
    assert "secret" not in (box.status_reason or "")
    assert "req-1" in (box.status_reason or "")


async def test_a_step_that_crashed_once_goes_on(shop: Workshop) -> None:
    shop.worker()
    shop.engine.fail_next("create", KeyError("x"))  # type: ignore[arg-type]  # a defect is the point
    uuid = await shop.create(run=True)
    await shop.called("create")
    await again(shop, uuid)
    await shop.idle(uuid)
    assert (await shop.box(uuid)).status == "Running"


async def test_an_unknown_verb_is_left_to_those_who_know_it(shop: Workshop) -> None:
    """During an upgrade a newer replica may submit what this one has never heard of."""
    uuid = await shop.create(run=True)
    async with shop.database.transaction(EVERYTHING) as session:
        for kind, verb in (("container", "levitate"), ("starship", "create")):
            session.add(
                Action(
                    project_id="alpha", user_id="u", request_id="r", resource_kind=kind, resource_id=f"{kind}-1",
                    verb=verb, backend="local", created_at=0.0, run_after=0.0,
                )
            )  # fmt: skip
    shop.worker()
    await shop.idle(uuid)
    assert (await shop.box(uuid)).status == "Running"
    assert {(await shop.last(f"{kind}-1")).state for kind in ("container", "starship")} == {"queued"}


async def test_an_action_whose_resource_is_gone_ends(shop: Workshop) -> None:
    async with shop.database.transaction(EVERYTHING) as session:
        session.add(
            Action(
                project_id="alpha", user_id="u", request_id="r", resource_kind="container", resource_id="gone",
                verb="start", backend="local", created_at=0.0, run_after=0.0,
            )
        )  # fmt: skip
    shop.worker()
    action = await shop.reaches("gone", ActionState.DONE)
    assert action.message == "the resource is gone"


async def test_actions_of_engines_elsewhere_are_left_alone(shop: Workshop) -> None:
    elsewhere = await shop.create(backend="other")
    shop.worker()
    await shop.made()
    assert (await shop.last(elsewhere)).state == ActionState.QUEUED


# Cancelling


async def test_a_delete_cancels_a_slow_pull(shop: Workshop) -> None:
    shop.worker()
    shop.engine.publish("slow:1")
    shop.engine.pull_seconds = 3600
    uuid = await shop.create(image="slow:1")
    await shop.called("pull")
    await shop.delete(uuid)

    async def cancelled() -> bool:
        return (await shop.actions(uuid))[0].state == ActionState.CANCELLED

    await eventually(cancelled, lambda: "the pull goes on")
    # The engine may still be busy with the call, so the delete looks again before it lets the row go.
    action = await shop.reaches(uuid, ActionState.QUEUED)

    async def looked() -> bool:
        return ((await shop.last(uuid)).memo or {}).get("looked") is True

    await eventually(looked, lambda: f"{action.memo}")
    assert (await shop.box(uuid)).status == "Deleting"
    await shop.due(uuid)
    await shop.idle(uuid)
    assert await shop.boxes() == []
    assert await shop.engine.find_all() == []


async def test_a_delete_cancels_what_is_queued(shop: Workshop) -> None:
    uuid = await shop.create(run=True)
    await shop.delete(uuid)
    shop.worker()
    await shop.idle(uuid)
    assert [(action.verb, action.state) for action in await shop.actions(uuid)] == [
        ("create", "cancelled"), ("delete", "done"),
    ]  # fmt: skip
    assert shop.engine.calls["create"] == 0
    assert await shop.boxes() == []


async def test_a_delete_cancels_what_waits_for_the_engine(shop: Workshop) -> None:
    shop.engine.go_down()
    shop.worker()
    uuid = await shop.create(run=True)
    await shop.called("find")
    await shop.reaches(uuid, ActionState.QUEUED)
    await shop.delete(uuid)
    shop.engine.come_up()

    async def gone() -> bool:
        await shop.due(uuid)
        return await shop.boxes() == []

    await eventually(gone, lambda: "not deleted", every=0.05)
    assert (await shop.actions(uuid))[0].state == ActionState.CANCELLED


async def test_creates_and_deletes_cross_without_waiting_for_each_other(shop: Workshop) -> None:
    """Deletes meet actions that are being claimed, run and finished."""
    shop.worker()
    shop.worker(replica=True)

    async def life(number: int) -> None:
        uuid = await shop.create(run=True)
        await asyncio.sleep(number % 7 * 0.004)
        await shop.delete(uuid)

        async def gone() -> bool:
            await shop.due(uuid)
            return uuid not in {box.uuid for box in await shop.boxes()}

        await eventually(gone, lambda: f"{uuid} is not deleted", every=0.05)

    await asyncio.gather(*(life(number) for number in range(14)))
    await shop.idle()
    assert await shop.engine.find_all() == []


# Leases


async def test_who_lost_its_lease_writes_nothing(shop: Workshop) -> None:
    worker = shop.worker()
    uuid = await shop.made()
    shop.engine.delay("pause", 0.3)
    await shop.act(uuid, "pause")
    await shop.called("pause")
    action = await shop.last(uuid)
    await shop.set(action, lease_token="another's", lease_until=db_now() + 3600)
    await shop.stop(worker)  # waits for the step to end
    seen = await shop.engine.find(UUID(uuid))
    assert seen is not None
    assert seen.state == "paused"
    box, action = await shop.box(uuid), await shop.last(uuid)
    assert (box.status, action.state, action.lease_token) == ("Running", "running", "another's")
    # When the other's lease has ended, whoever claims it finds that the work is done.
    await shop.set(action, lease_until=db_now() - 1)
    shop.engine.delay("pause", 0)
    shop.worker()
    await shop.idle(uuid)
    assert (await shop.box(uuid)).status == "Paused"
    assert shop.engine.calls["pause"] == 1


async def test_a_long_step_keeps_its_lease(schema_url: str, tmp_path: Path) -> None:
    async with workshop(schema_url, tmp_path, lease_seconds=2.0) as shop:
        shop.worker()
        shop.worker(replica=True)
        uuid = await shop.made()
        shop.engine.delay("pause", 2.5)
        await shop.act(uuid, "pause")
        await shop.idle(uuid)
        assert (await shop.box(uuid)).status == "Paused"
        assert shop.engine.calls["pause"] == 1
        assert (await shop.last(uuid)).attempts == 1


async def test_a_step_whose_lease_is_lost_is_stopped_before_it_ends(schema_url: str, tmp_path: Path) -> None:
    async with workshop(schema_url, tmp_path, lease_seconds=2.0) as shop:
        shop.worker()
        uuid = await shop.made()
        (ref,) = [seen.ref for seen in await shop.engine.find_all()]
        shop.engine.delay("pause", 3600)
        await shop.act(uuid, "pause")
        await shop.called("pause")
        action = await shop.last(uuid)
        await shop.set(action, lease_token="another's", lease_until=db_now() + 3600)

        async def stopped() -> bool:
            return shop.engine.inside[ref] == 0

        await eventually(stopped, lambda: "the step runs on")


async def test_a_lease_that_ended_is_taken_over(shop: Workshop) -> None:
    uuid = await shop.create(run=True)
    action = await shop.last(uuid)
    await shop.set(action, state="running", lease_token="a dead one's", lease_until=db_now() - 1, attempts=1)
    shop.worker()
    await shop.idle(uuid)
    assert (await shop.last(uuid)).attempts == 2
    assert (await shop.box(uuid)).status == "Running"


# Several workers


async def test_two_workers_never_work_on_one_container_at_once(shop: Workshop) -> None:
    for _ in range(2):
        shop.worker(replica=True)
    uuids = await asyncio.gather(*(shop.create(run=True) for _ in range(6)))
    await shop.idle()
    for verb in ("pause", "unpause"):
        shop.engine.delay(verb, 0.02)
    for uuid in uuids:
        # Against the rules of the API, on purpose: many actions of one container at the same time.
        async with shop.database.transaction(EVERYTHING) as session:
            for number in range(6):
                now = await actions.clock(session)
                box = await containers.find(session, uuid, lock=True)
                verb = "unpause" if number % 2 else "pause"
                actions.submit(session, Asked("u", "r"), "container", box, verb, "local", now)
                await session.flush()
    await shop.idle()
    assert shop.engine.overlaps == []
    for uuid in uuids:
        found = await shop.actions(uuid)
        assert [action.state for action in found] == ["done"] * 7
        for earlier, later in pairwise(found):
            assert (earlier.finished_at or 0) <= (later.started_at or 0)
        assert (await shop.box(uuid)).status == "Running"


async def test_each_action_is_claimed_by_one(shop: Workshop) -> None:
    uuids = [await shop.create() for _ in range(20)]
    claims = await asyncio.gather(*(actions.claim(shop.database, ["local"], 5, 30) for _ in range(6)))
    claimed = [action.resource_id for batch in claims for action, _ in batch]
    assert len(claimed) == len(set(claimed))
    assert set(claimed) <= set(uuids)
    assert all(len(batch) <= 5 for batch in claims)
    while batch := await actions.claim(shop.database, ["local"], 5, 30):
        assert len(batch) <= 5
        claimed += [action.resource_id for action, _ in batch]
    assert sorted(claimed) == sorted(uuids)


async def test_what_somebody_holds_is_claimed_without_waiting_for_it(shop: Workshop) -> None:
    """Who holds it may wait for its actions: a deletion does."""
    uuid = await shop.create()
    async with shop.database.transaction(EVERYTHING) as session:
        capsule = Capsule(project_id="p", user_id="u", name="c", backend="local", created_at=0.0)
        session.add(capsule)
        await session.flush()
        actions.submit(session, Asked("u", "r"), "capsule", capsule, "create", "local", await actions.clock(session))
    async with AsyncExitStack() as held:
        if not shop.database.embedded:  # SQLite has one writer at a time
            holder = await held.enter_async_context(shop.database.transaction(EVERYTHING))
            await containers.find(holder, uuid, lock=True)
        async with asyncio.timeout(10):
            claimed = await actions.claim(shop.database, ["local"], 5, 30)
    assert {action.resource_id for action, _ in claimed} == {uuid, capsule.uuid}


# Shutdown


async def test_a_worker_that_stops_waits_for_its_steps(shop: Workshop) -> None:
    worker = shop.worker()
    uuid = await shop.made()
    shop.engine.delay("pause", 0.3)
    await shop.act(uuid, "pause")
    await shop.called("pause")
    await shop.stop(worker)
    assert (await shop.box(uuid)).status == "Paused"
    assert (await shop.last(uuid)).state == ActionState.DONE


async def test_a_worker_that_stops_hands_back_what_takes_long(shop: Workshop) -> None:
    worker = shop.worker(shutdown_seconds=0.1)
    shop.engine.publish("slow:1")
    shop.engine.pull_seconds = 3600
    uuid = await shop.create(image="slow:1")
    await shop.called("pull")
    await shop.stop(worker)
    action = await shop.last(uuid)
    assert (action.state, action.lease_token, action.lease_until) == (ActionState.QUEUED, None, None)
    shop.engine.pull_seconds = 0
    shop.worker(replica=True)
    await shop.idle(uuid)
    assert (await shop.box(uuid)).status == "Created"


async def test_a_worker_that_stops_claims_nothing_more(shop: Workshop) -> None:
    worker = shop.worker()
    await shop.made()
    await shop.stop(worker)
    uuid = await shop.create()
    worker.wake()
    await asyncio.sleep(0.1)
    assert (await shop.last(uuid)).state == ActionState.QUEUED


async def test_no_more_is_claimed_than_can_run(schema_url: str, tmp_path: Path) -> None:
    async with workshop(schema_url, tmp_path, worker_slots=2) as shop:
        shop.engine.delay("create", 0.2)
        for _ in range(5):
            await shop.create()
        shop.worker()
        most = 0

        async def ended() -> bool:
            nonlocal most
            states = [(await shop.last(box.uuid)).state for box in await shop.boxes()]
            most = max(most, states.count(ActionState.RUNNING))
            return set(states) == {ActionState.DONE}

        await eventually(ended, lambda: "not done")
        assert 1 <= most <= 2


def test_the_engine_of_these_tests_notices_overlaps() -> None:
    async def overlap() -> list[str]:
        engine = CountingEngine("local")
        async with engine._on("a"), engine._on("b"), engine._on("a"):
            return engine.overlaps

    assert asyncio.run(overlap()) == ["a"]
