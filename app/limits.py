"""What one project may ask of a replica: so much at a time, so much per second. Others do not notice its flood.

Requests over the rate are paced first, each waits for its turn up to a second, and what would wait longer is told 429
and when to come back. That answer is held for as long, because whoever asks again at once would otherwise keep the
process busy with refusals.

All requests share one thread, so whoever has sixty of them begun makes everybody else wait for sixty at each turn. So a
project begins few at a time, others of its own wait in front, and let pass what other projects began; a request that
takes longer, because it waits for an engine or a body, stands in nobody's way and no longer counts.
"""

import asyncio
import math
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from cachetools import TTLCache
from starlette.types import ASGIApp, Receive, Scope, Send

from app.errors import TooManyRequests
from app.gate import render
from app.settings import LimitSettings

PATIENCE = 1.0  # seconds
READS = frozenset({"GET", "HEAD", "OPTIONS"})
MOST_PROJECTS = 100_000  # whose recent past is remembered
ALONE = 16  # requests that a project begins at a time while nobody else asks
AMONG_OTHERS = 1  # and while somebody does
COMPANY_SECONDS = 30.0  # since somebody else asked
PASS_SECONDS = 0.02  # that a project's next request waits at most for what others began
TURN_SECONDS = 0.05  # after which a request is taken to wait for something else than this process


class Pace:
    """When each project's next request is due (a token bucket, kept as one time each: GCRA)."""

    def __init__(self, rate: float, burst: float, timer: Callable[[], float] = time.monotonic) -> None:
        """`rate` is in units a second, `burst` the units that may come at once after a rest."""
        self._rate = rate
        self._slack = burst / rate
        self._timer = timer
        # Who was silent for longer than the slack has all of its burst again, and need not be remembered.
        self._due: TTLCache[str, float] = TTLCache(MOST_PROJECTS, self._slack + PATIENCE + 1, timer)

    def wait(self, project_id: str, units: float) -> float:
        """Seconds until these units are due, which are spent with that; over `PATIENCE` nothing is spent."""
        now = self._timer()
        due = max(self._due.get(project_id, now), now)
        seconds = max(0.0, due + units / self._rate - self._slack - now)
        if seconds <= PATIENCE:
            self._due[project_id] = due + units / self._rate
        return seconds


@dataclass(eq=False, slots=True)
class Lane:
    """One project's requests: how many have a turn, those that wait for one, and whose turns these let pass first."""

    project_id: str
    begun: int = 0
    waiting: deque[asyncio.Future[None]] = field(default_factory=deque)
    passing: set["Turn"] = field(default_factory=set)


@dataclass(eq=False, slots=True)
class Turn:
    """One request that was begun, when the timer showed `began`."""

    lane: Lane
    began: float


class Turns:
    """Lets each project begin few requests at a time, in the order in which they came.

    When a turn ends and more of its project wait, these let pass what others began by then. So nobody waits for more
    than one request of a flood, and the flood gets its turn after one of everybody else.
    """

    def __init__(self, timer: Callable[[], float] = time.monotonic) -> None:
        self._timer = timer
        self._lanes: dict[str, Lane] = {}
        self._under_way: set[Turn] = set()
        self._last = ""
        self._company_until = 0.0

    @asynccontextmanager
    async def turn(self, project_id: str) -> AsyncIterator[None]:
        """Wait for a turn. It ends with the block, or before that when the block takes long."""
        self._notice(project_id)
        lane = self._lanes.setdefault(project_id, Lane(project_id))
        if lane.begun < self._most() and not lane.waiting:
            lane.begun += 1
        else:
            await self._wait(lane)
        turn = Turn(lane, self._timer())
        self._under_way.add(turn)
        timer = asyncio.get_running_loop().call_later(TURN_SECONDS, self._end, turn)
        try:
            yield
        finally:
            timer.cancel()
            self._end(turn)

    def _notice(self, project_id: str) -> None:
        if self._last and project_id != self._last:
            self._company_until = self._timer() + COMPANY_SECONDS
        self._last = project_id

    def _most(self) -> int:
        return AMONG_OTHERS if self._timer() < self._company_until else ALONE

    async def _wait(self, lane: Lane) -> None:
        place = asyncio.get_running_loop().create_future()
        lane.waiting.append(place)
        try:
            await place
        except asyncio.CancelledError:
            if not place.cancelled():  # it had got its turn just now
                lane.begun -= 1
                self._go_on(lane)
            raise

    def _end(self, turn: Turn) -> None:
        if turn not in self._under_way:
            return  # it took long, and ended before
        self._under_way.remove(turn)
        lane = turn.lane
        lane.begun -= 1
        if lane.waiting:
            recent = self._timer() - PASS_SECONDS
            lane.passing = {other for other in self._under_way if other.lane is not lane and other.began > recent}
            if lane.passing:
                asyncio.get_running_loop().call_later(PASS_SECONDS, self._passed, lane, lane.passing)
        for held in [other for other in self._lanes.values() if turn in other.passing]:
            held.passing.remove(turn)
            self._go_on(held)
        self._go_on(lane)

    def _passed(self, lane: Lane, passing: set[Turn]) -> None:
        """What of them is still under way takes long."""
        passing.clear()
        if lane.waiting:
            self._go_on(lane)

    def _go_on(self, lane: Lane) -> None:
        while lane.waiting and not lane.passing and lane.begun < self._most():
            place = lane.waiting.popleft()
            if not place.done():  # else it was cancelled
                lane.begun += 1
                place.set_result(None)
        if not lane.begun and not lane.waiting:
            self._lanes.pop(lane.project_id, None)


class Limits:
    """ASGI, behind authentication: keeps each project to its pace and its number at a time, and gives it turns."""

    def __init__(self, app: ASGIApp, settings: LimitSettings) -> None:
        self.app = app
        self._settings = settings
        self._pace = Pace(settings.rate, settings.burst)
        self._turns = Turns()
        self._inside: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        caller = scope.get("state", {}).get("caller")
        if scope["type"] != "http" or caller is None:
            await self.app(scope, receive, send)
            return
        project = caller.project_id
        if self._inside[project] >= self._settings.concurrent:
            many = f"The project has {self._settings.concurrent} requests under way already, the most at a time."
            await _refuse(scope, receive, send, many, 1)
            return
        self._inside[project] += 1
        try:
            units = 1.0 if scope["method"] in READS else self._settings.write_cost
            seconds = self._pace.wait(project, units)
            if seconds:
                await asyncio.sleep(min(seconds, PATIENCE))
            if seconds > PATIENCE:
                rate = f"The project asks more than {self._settings.rate:g} units per second, where a change is "
                rate += f"{self._settings.write_cost:g} and a read 1."
                await _refuse(scope, receive, send, rate, math.ceil(seconds))
            else:
                async with self._turns.turn(project):
                    await self.app(scope, receive, send)
        finally:
            self._inside[project] -= 1
            if not self._inside[project]:
                del self._inside[project]


async def _refuse(scope: Scope, receive: Receive, send: Send, why: str, seconds: int) -> None:
    answer = render(scope, TooManyRequests(why), {"retry-after": str(seconds)})
    await answer(scope, receive, send)
