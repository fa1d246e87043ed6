"""How this replica is, for load balancers and people: asked by anybody, answered from what was found a moment ago.

Ready means that sending requests here makes sense. Whatever another replica would suffer from just as much, and what
only some requests need, is shown and does not make it unready: an engine that is away, an identity that is away.
"""

import asyncio
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from app.auth import TokenSource
from app.db import Database
from app.errors import GatewayError
from app.schema import Standing
from app.worker import Worker

KEPT_SECONDS = 2.0
"""How long what was found is told again: a flood of questions costs the database nothing."""
PATIENCE = 5.0  # seconds for each thing to answer
SILENT_SECONDS = 35.0  # an engine is asked every ten
STALLED_SECONDS = 60.0  # the worker looks at the log every second, and a database gets 20 to answer it


class Draining:
    """Set once the process was asked to end: it still serves, and wants no more."""

    now = False


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at. `problem` is a sentence without secrets, None when all is well."""

    name: str
    problem: str | None = None
    required: bool = True

    def shown(self) -> dict[str, Any]:
        """As an answer has it."""
        status = "ok" if self.problem is None else "failed" if self.required else "degraded"
        return {"name": self.name, "status": status, "required": self.required, "reason": self.problem or "OK"}


class Health:
    """Looks when asked, no more often than every two seconds, and once at a time."""

    def __init__(
        self,
        database: Database,
        identity: TokenSource,
        engines: Collection[str],
        worker: Worker,
        draining: Draining,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self.draining = draining
        self._database = database
        self._identity = identity
        self._worker = worker
        self._timer = timer
        self._answered: dict[str, float | None] = dict.fromkeys(engines)
        self._found: list[Check] = []
        self._found_at: float | None = None
        self._looking: asyncio.Task[list[Check]] | None = None

    def answered(self, engine: str) -> None:
        """An engine answered just now."""
        self._answered[engine] = self._timer()

    async def checks(self) -> list[Check]:
        """What was found at most two seconds ago; whether the process ends is always of now."""
        if self._found_at is None or self._timer() - self._found_at >= KEPT_SECONDS:
            if self._looking is None:
                self._looking = asyncio.create_task(self._look())
                self._looking.add_done_callback(self._remember)
            await asyncio.shield(self._looking)
        ending = "the process was asked to end" if self.draining.now else None
        return [*self._found, self._worker_check(), Check("serving", ending)]

    def alive(self) -> list[Check]:
        """Whether this process works at all: what a restart would mend. Asks nobody."""
        return [self._worker_check()]

    def _remember(self, task: asyncio.Task[list[Check]]) -> None:
        self._looking = None
        if not task.cancelled():
            self._found, self._found_at = task.result(), self._timer()

    async def _look(self) -> list[Check]:
        database, identity = await asyncio.gather(self._database_checks(), self._identity_check())
        return [*database, identity, *map(self._engine_check, self._answered)]

    async def _database_checks(self) -> list[Check]:
        try:
            async with asyncio.timeout(PATIENCE):
                schema = await self._database.schema()
        except TimeoutError:
            return [Check("database", "the database does not answer in time"), Check("schema", "not known")]
        except GatewayError as error:
            return [Check("database", error.title), Check("schema", "not known")]
        # A newer one means that another replica was upgraded: the old ones serve until it is their turn.
        older = schema.standing in (Standing.EMPTY, Standing.OLD)
        return [Check("database"), Check("schema", schema.problem(), required=older)]

    async def _identity_check(self) -> Check:
        try:
            async with asyncio.timeout(PATIENCE):
                await self._identity.check()
        except TimeoutError:
            return Check("identity", "the identity service does not answer in time", required=False)
        except GatewayError as error:
            return Check("identity", error.title, required=False)
        return Check("identity", required=False)

    def _engine_check(self, name: str) -> Check:
        last = self._answered[name]
        if last is None:
            return Check(f"engine {name}", "has not answered yet", required=False)
        silent = self._timer() - last
        problem = f"has been silent for {silent:.0f} seconds" if silent > SILENT_SECONDS else None
        return Check(f"engine {name}", problem, required=False)

    def _worker_check(self) -> Check:
        stalled = self._worker.silent_seconds()
        if stalled is None:
            return Check("worker", "does not run")
        return Check("worker", f"has not looked for work for {stalled:.0f} s" if stalled > STALLED_SECONDS else None)
