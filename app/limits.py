"""What one project may ask of a replica: so much at a time, so much per second. Others do not notice its flood.

Requests over the rate are paced first, each waits for its turn up to a second, and what would wait longer is told 429
and when to come back. That answer is held for as long, because whoever asks again at once would otherwise keep the
process busy with refusals.
"""

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable

from cachetools import TTLCache
from starlette.types import ASGIApp, Receive, Scope, Send

from app.errors import TooManyRequests
from app.gate import render
from app.settings import LimitSettings

PATIENCE = 1.0  # seconds
READS = frozenset({"GET", "HEAD", "OPTIONS"})
MOST_PROJECTS = 100_000  # whose recent past is remembered


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


class Limits:
    """ASGI, behind authentication: keeps each project to its pace and its number of requests at a time."""

    def __init__(self, app: ASGIApp, settings: LimitSettings) -> None:
        self.app = app
        self._settings = settings
        self._pace = Pace(settings.rate, settings.burst)
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
                await self.app(scope, receive, send)
        finally:
            self._inside[project] -= 1
            if not self._inside[project]:
                del self._inside[project]


async def _refuse(scope: Scope, receive: Receive, send: Send, why: str, seconds: int) -> None:
    answer = render(scope, TooManyRequests(why), {"retry-after": str(seconds)})
    await answer(scope, receive, send)
