"""Projects take turns in the action log: one's thousand queued actions do not delay another's single one."""

from app import actions
from app.actions import Asked
from app.db import EVERYTHING
from app.models import Container
from tests.unit.workshop import Workshop


async def test_a_thousand_actions_of_one_project_do_not_delay_anothers(shop: Workshop) -> None:
    """Who came last is taken with the first, because its project has nothing running yet."""
    async with shop.database.transaction(EVERYTHING) as session:
        now = await actions.clock(session)
        for number in range(1001):
            box = Container(
                project_id="crowd" if number < 1000 else "single", user_id="u", name="box", image="i", backend="local",
                created_at=now,
            )  # fmt: skip
            session.add(box)
            actions.submit(session, Asked("u", "req-1"), "container", box, "start", "local", now)
    taken = await actions.claim(shop.database, ["local"], 16, 30.0, share=12)
    projects = [action.project_id for action, _ in taken]
    assert (projects.count("single"), projects.count("crowd")) == (1, 12)
    more = await actions.claim(shop.database, ["local"], 3, 30.0, share=12, busy={"crowd": 12, "single": 1})
    assert more == [], "the rest of the slots stays free for others"
    more = await actions.claim(shop.database, ["local"], 3, 30.0, share=12, busy={"crowd": 10})
    assert [action.project_id for action, _ in more] == ["crowd", "crowd"]


async def test_projects_take_turns(shop: Workshop) -> None:
    for project in ("a", "a", "a", "b", "b", "c"):
        await shop.create(project=project)
    taken = await actions.claim(shop.database, ["local"], 4, 30.0)
    assert sorted(action.project_id for action, _ in taken) == ["a", "a", "b", "c"]


async def test_recurring_work_is_not_counted_among_projects(shop: Workshop) -> None:
    for number in range(3):
        await actions.ensure_recurring(shop.database, f"r{number}", "backend", "observe", "local")
    assert len(await actions.claim(shop.database, ["local"], 3, 30.0, share=1)) == 3
