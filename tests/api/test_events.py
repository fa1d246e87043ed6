"""What happens in the engine behind everybody's back shows in the API soon, by the engine's event stream."""

import asyncio
from uuid import UUID

import pytest

from tests.api.caisson import Caisson, eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_a_container_that_ends_by_itself(caisson: Caisson) -> None:
    uuid = (await caisson.made(run=True))["uuid"]
    caisson.engine.exit(UUID(uuid), 3)
    shown = await caisson.until(uuid, "Stopped")
    assert shown["status_detail"] is None or shown["status_detail"].startswith("Exited(3) ")
    assert shown["addresses"] == {}
    assert (await caisson.actions(uuid))[-1].verb == "create"  # nobody asked for anything


async def test_a_container_that_ran_out_of_memory(caisson: Caisson) -> None:
    uuid = (await caisson.made(run=True, memory=64))["uuid"]
    caisson.engine.exit(UUID(uuid), 137, oom_killed=True)
    assert "out of memory (limit 64 MiB)" in (await caisson.until(uuid, "Stopped"))["status_reason"]


async def test_a_container_that_is_removed_by_others(caisson: Caisson) -> None:
    uuid = (await caisson.made(run=True))["uuid"]
    caisson.engine.vanish(UUID(uuid))
    assert "No such container" in (await caisson.until(uuid, "Error"))["status_reason"]
    await caisson.ok("DELETE", f"/v1/containers/{uuid}")
    await caisson.until_gone(uuid)


async def test_a_container_that_others_pause_stop_and_start(caisson: Caisson) -> None:
    uuid = (await caisson.made(run=True))["uuid"]
    seen = await caisson.engine.find(UUID(uuid))
    assert seen is not None
    for verb, status in (("pause", "Paused"), ("unpause", "Running")):
        await getattr(caisson.engine, verb)(seen.ref)
        await caisson.until(uuid, status)
    await caisson.engine.stop(seen.ref, 0)
    await caisson.until(uuid, "Stopped")
    await caisson.engine.start(seen.ref)
    await caisson.until(uuid, "Running")


async def test_a_restarted_container_shows_the_new_start(caisson: Caisson) -> None:
    uuid = (await caisson.made(run=True, restart_policy={"Name": "always"}))["uuid"]
    caisson.engine.exit(UUID(uuid), 1)
    shown = await caisson.until(uuid, "Running")
    assert shown["status_reason"] is None


async def test_containers_that_end_at_once_are_shown_so(caisson: Caisson) -> None:
    """Their end comes while their create is being finished: the event must not be lost in between."""
    uuids = [(await caisson.create(run=True, command=["true"]))["uuid"] for _ in range(10)]
    await asyncio.gather(*(caisson.until(uuid, "Stopped") for uuid in uuids))


async def test_an_end_during_an_action_is_seen_after_it(caisson: Caisson) -> None:
    uuid = (await caisson.made(run=True))["uuid"]
    # The step sees it run, then it ends, and only afterwards is the outcome stored.
    caisson.engine.delay("find", 0.3, after=True)
    try:
        calls = caisson.engine.calls["kill"]
        await caisson.ok("POST", f"/v1/containers/{uuid}/kill?signal=HUP")

        async def sent() -> bool:
            return caisson.engine.calls["kill"] > calls

        await eventually(sent, lambda: "no signal was sent")
        await asyncio.sleep(0.1)
        caisson.engine.exit(UUID(uuid), 0)
    finally:
        caisson.engine.delay("find", 0)
    await caisson.until(uuid, "Stopped")


async def test_an_engine_that_comes_back_is_compared_at_once(caisson: Caisson) -> None:
    """Nothing was heard of it meanwhile; whoever waits for it goes on without waiting longer."""
    stopped, running = (await caisson.made(run=True))["uuid"], (await caisson.made(run=True))["uuid"]
    caisson.engine.go_down()
    try:
        waiting = (await caisson.create(run=True))["uuid"]

        async def told() -> bool:
            return "waiting for the engine" in ((await caisson.show(waiting))["status_reason"] or "")

        await eventually(told, lambda: "status_reason does not say what is waited for")
        answer = await caisson.call("GET", f"/v1/containers/{running}/logs")
        assert answer.status_code == 503
        assert (await caisson.show(running))["status"] == "Running"  # what is known is shown
        caisson.engine.exit(UUID(stopped), 0)
    finally:
        caisson.engine.come_up()
    await caisson.until(stopped, "Stopped")
    shown = await caisson.until(waiting, "Running")
    assert shown["status_reason"] is None
    assert (await caisson.show(running))["status"] == "Running"
