"""Any sequence of wishes and faults over the action log.

Whatever happens, every accepted wish ends in what was wished or in a failure with its reason, no resource has two live
holders, rows and engine show the same, and the engine has nothing that no row knows.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import pytest_asyncio
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from sqlmodel import col, select

from app import actions, observe
from app.backends.engine import State
from app.db import EVERYTHING, db_now
from app.errors import NotFound, Refused, Unavailable, WrongState
from app.models import UNFINISHED, Action, ActionState
from tests.api.caisson import eventually
from tests.stack.settable import Clock
from tests.unit.workshop import Workshop, workshop

Found = TypeVar("Found")
WANTED = {
    "start": "Running", "stop": "Stopped", "reboot": "Running", "pause": "Paused", "unpause": "Running",
    "kill": "Stopped",
}  # fmt: skip
CALLS = ("create", "start", "stop", "restart", "pause", "unpause", "kill", "remove", "find")
SHOWN = {State.CREATED: "Created", State.RUNNING: "Running", State.PAUSED: "Paused", State.EXITED: "Stopped"}
HOUR = 3600.0
MOST = 5
FAULTS = (
    "a call is cut", "a call is refused", "a call takes long", "the engine goes", "the engine comes",
    "a worker is killed", "leases end under their holders", "the clock is set",
)  # fmt: skip


class Faults(RuleBasedStateMachine):
    """Two workers on one database and one engine, and a few containers at a time."""

    def __init__(self, shop: Workshop, clock: Clock, loop: asyncio.AbstractEventLoop, tally: Counter[str]) -> None:
        super().__init__()
        self.shop, self.clock, self.loop, self.tally = shop, clock, loop, tally
        self.workers = [self.wait(self._start()) for _ in range(2)]
        self.uuids: list[str] = []

    def wait(self, work: Coroutine[Any, Any, Found]) -> Found:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()

    async def _start(self) -> Any:
        return self.shop.worker(replica=True)

    # Wishes

    @initialize(runs=st.lists(st.booleans(), min_size=2, max_size=MOST))
    def begin(self, runs: list[bool]) -> None:
        self.create(runs)

    @rule(runs=st.lists(st.booleans(), min_size=1, max_size=MOST))
    def create(self, runs: list[bool]) -> None:
        for run in runs[: MOST - len(self.uuids)]:
            self.uuids.append(self.wait(self.shop.create(run=run)))
            self.tally["accepted"] += 1

    @rule(verbs=st.lists(st.sampled_from([*WANTED, *WANTED, "delete"]), min_size=MOST, max_size=MOST))
    def act(self, verbs: list[str]) -> None:
        for uuid, verb in zip(self.uuids, verbs, strict=False):
            self._ask(self.shop.delete(uuid) if verb == "delete" else self.shop.act(uuid, verb))

    def _ask(self, wish: Coroutine[Any, Any, None]) -> None:
        try:
            self.wait(wish)
        except (WrongState, NotFound):
            self.tally["refused"] += 1
        else:
            self.tally["accepted"] += 1

    # Faults

    @rule(
        whats=st.lists(st.sampled_from(FAULTS), min_size=1, max_size=3),
        call=st.sampled_from(CALLS),
        one=st.booleans(),
    )
    def faults(self, whats: list[str], call: str, one: bool) -> None:
        for what in whats:
            self.tally["faults"] += 1
            self.wait(self._fault(what, call, one))

    async def _fault(self, what: str, call: str, one: bool) -> None:
        engine = self.shop.engine
        match what:
            case "a call is cut":
                engine.fail_next(call, Unavailable("cut"), after=one)
            case "a call is refused":
                engine.fail_next(call, Refused("the engine says no"))
            case "a call takes long":
                engine.delay(call, 0.05, after=one)
            case "the engine goes":
                engine.go_down()
            case "the engine comes":
                engine.come_up()
            case "a worker is killed":
                await self.shop.kill(self.workers[one])
                self.workers[one] = await self._start()
            case "leases end under their holders":  # as if these were frozen: they go on with what is others' now
                await self.shop.change(col(Action.state) == ActionState.RUNNING, lease_until=db_now() - 1)
            case "the clock is set":
                await self.clock.set(-HOUR if one else HOUR)

    # What holds all the time, and when all is quiet

    @invariant()
    def nothing_has_two_holders(self) -> None:
        assert self.wait(self._held_twice()) == []

    async def _held_twice(self) -> list[str]:
        async with self.shop.database.reading(EVERYTHING) as session:
            query = select(Action.resource_id).where(
                Action.state == ActionState.RUNNING, col(Action.lease_until) > db_now()
            )
            held = Counter((await session.exec(query)).all())
        return [uuid for uuid, holders in held.items() if holders > 1]

    @rule()
    def all_becomes_quiet(self) -> None:
        self.wait(self._quiet())

    async def _quiet(self) -> None:
        engine = self.shop.engine
        engine.come_up()
        for call in CALLS:
            engine.delay(call, 0)
        await eventually(self._ended, lambda: f"unfinished: {self.open}", 60, every=0.05)
        engine.forgive()
        await observe.compare(engine, self.shop.database, self.shop.settings)
        await eventually(self._ended, lambda: f"unfinished: {self.open}", 60, every=0.05)
        rows = {box.uuid: box for box in await self.shop.boxes()}
        shown = {str(seen.uuid): seen for seen in await engine.find_all()}
        assert shown.keys() <= rows.keys(), "the engine has what no row knows"
        for uuid, row in rows.items():
            assert row.task_state is None, row
            assert row.status == (SHOWN[shown[uuid].state] if uuid in shown else "Error") or row.status == "Error", row
            if uuid in shown:
                assert row.engine_ref == shown[uuid].ref
        for uuid in self.uuids:
            await self._check(uuid, rows.get(uuid))
        self.uuids = [uuid for uuid in self.uuids if uuid in rows]

    async def _check(self, uuid: str, row: Any) -> None:
        history = await self.shop.actions(uuid)
        for action in history:
            assert action.state != ActionState.FAILED or action.message, action
            assert action.state != ActionState.CANCELLED or "later delete" in (action.message or ""), action
        last = history[-1]
        if last.state != ActionState.DONE:
            self.tally["failed"] += 1
            assert row is not None
            return
        if last.verb == "delete":
            assert row is None
            assert await self.shop.engine.find(UUID(uuid)) is None
            return
        wanted = WANTED.get(last.verb) or ("Running" if (last.args or {})["run"] else "Created")
        assert row.status == wanted, (last, row)

    async def _ended(self) -> bool:
        """Let time pass, and look what is still open."""
        await actions.hurry(self.shop.database, "local")
        for worker in self.workers:
            worker.wake()
        async with self.shop.database.reading(EVERYTHING) as session:
            self.open = (await session.exec(select(Action).where(col(Action.state).in_(UNFINISHED)))).all()
        return not self.open

    def teardown(self) -> None:
        self.wait(self._quiet())
        for uuid in self.uuids:
            self.wait(self.shop.delete(uuid))
        self.wait(self._quiet())
        assert self.wait(self.shop.boxes()) == []
        assert self.wait(self.shop.engine.find_all()) == []
        for worker in self.workers:
            self.wait(self.shop.stop(worker))


@pytest_asyncio.fixture
async def shop(clock: Clock, schema_url: str, tmp_path: Path) -> AsyncIterator[Workshop]:
    async with workshop(schema_url, tmp_path, lease_seconds=2.0) as made:
        yield made


async def test_whatever_happens_nothing_is_lost(shop: Workshop, clock: Clock) -> None:
    loop, tally = asyncio.get_running_loop(), Counter[str]()

    class Here(Faults):
        def __init__(self) -> None:
            super().__init__(shop, clock, loop, tally)

    # The same sequences each time: scripts/soak is what looks for new ones.
    few = settings(
        max_examples=5, stateful_step_count=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    await asyncio.to_thread(run_state_machine_as_test, Here, settings=few)
    print(dict(tally))
    assert tally["accepted"] > 0
