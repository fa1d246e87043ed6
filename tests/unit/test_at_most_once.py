"""What an engine may be told once only: a call whose answer was lost is not repeated."""

import pytest

from app.errors import Unavailable
from app.models import ActionState
from tests.unit.workshop import Workshop


@pytest.mark.parametrize(
    ("verb", "engine_verb", "ends"), [("kill", "kill", ("Stopped", 137)), ("reboot", "restart", ("Running", 0))]
)
async def test_what_happened_and_whose_answer_was_lost_is_seen(
    shop: Workshop, verb: str, engine_verb: str, ends: tuple[str, int]
) -> None:
    shop.worker()
    uuid = await shop.made()
    shop.engine.fail_next(engine_verb, Unavailable("timed out"), after=True)
    await shop.act(uuid, verb)
    await shop.called(engine_verb)
    await shop.idle(uuid)
    assert shop.engine.calls[engine_verb] == 1
    box = await shop.box(uuid)
    assert (box.status, box.exit_code) == ends
    assert "interrupted" not in (box.status_reason or "")


@pytest.mark.parametrize(("verb", "engine_verb"), [("kill", "kill"), ("reboot", "restart")])
async def test_what_may_not_have_arrived_is_told_and_not_repeated(shop: Workshop, verb: str, engine_verb: str) -> None:
    shop.worker()
    uuid = await shop.made()
    shop.engine.fail_next(engine_verb, Unavailable("timed out"))
    await shop.act(uuid, verb)
    await shop.called(engine_verb)
    await shop.idle(uuid)
    assert shop.engine.calls[engine_verb] == 1
    box = await shop.box(uuid)
    assert box.status == "Running"
    assert "interrupted" in (box.status_reason or "")


async def test_a_kill_that_did_not_arrive_is_not_taken_for_done_because_of_a_pause(shop: Workshop) -> None:
    """Both were accepted while it ran; the pause came first, and the kill's call was lost."""
    worker = shop.worker()
    uuid = await shop.made()
    await shop.stop(worker)
    await shop.act(uuid, "pause")
    await shop.act(uuid, "kill")
    shop.engine.fail_next("kill", Unavailable("cut"))
    shop.worker()
    await shop.idle(uuid)
    action = await shop.last(uuid)
    assert action.state == ActionState.FAILED
    assert "is not repeated" in (action.message or "")
    assert (await shop.box(uuid)).status == "Paused"


async def test_an_engine_that_goes_away_in_the_middle_is_not_asked_again(shop: Workshop) -> None:
    shop.worker()
    uuid = await shop.made()
    shop.engine.delay("kill", 0.2)
    await shop.act(uuid, "kill")
    await shop.called("kill")
    shop.engine.go_down()
    await shop.reaches(uuid, ActionState.QUEUED)
    shop.engine.come_up()
    await shop.due(uuid)
    await shop.idle(uuid)
    assert shop.engine.calls["kill"] == 1
    box = await shop.box(uuid)
    assert box.status == "Running"
    assert "interrupted" in (box.status_reason or "")
