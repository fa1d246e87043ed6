"""The worker: claims due actions, runs their steps under a lease, and stops itself before a lease ends.

It knows actions and leases, no verbs. Each replica runs one. See docs/action-log.md for the rules it keeps:
claim no more than can start now; renew often; a step whose lease was not renewed in time is cancelled by its own
process; on shutdown running steps get a little time, then their leases are handed back.
"""

import asyncio
import math
import random
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

import structlog

from app import actions
from app.actions import STEPS, Again, Done, Failed, Job, Outcome
from app.backends import Drivers
from app.backends.engine import ContainerEngine
from app.catalogue import Catalogue
from app.db import EVERYTHING, Database
from app.errors import Busy, GatewayError, Unavailable
from app.models import KINDS
from app.settings import Settings
from app.vault import Vault

log = structlog.get_logger("caisson.worker")

CRASHES = 3  # how often a step may raise something unexpected before its action fails
LONGEST_WAIT = 15.0  # seconds between two tries of an engine that does not answer
SET_BACK = 5.0  # seconds by which a clock must go back to have been set: less is waited for
LOST_GRACE = 1.0  # seconds until a step ends whose lease is lost; one that was just stored has ended by then


@dataclass(slots=True)
class Run:
    """One action in progress in this process."""

    job: Job
    task: asyncio.Task[None]
    timeout: asyncio.Timeout | None = None
    cancelling: bool = False


class Worker:
    """Runs until `stop`. `wake` makes it look at the log now instead of at the next poll."""

    def __init__(
        self,
        database: Database,
        engines: Mapping[str, ContainerEngine],
        settings: Settings,
        vault: Vault,
        catalogue: Catalogue | None = None,
        drivers: Drivers | None = None,
    ) -> None:
        self.database = database
        self.engines = engines
        self.settings = settings
        self.vault = vault
        self.catalogue = catalogue
        self.drivers = drivers or Drivers()
        # By id and lease: a process that was frozen may claim anew what it still seems to run.
        self._runs: dict[tuple[int, str], Run] = {}
        self._wake = asyncio.Event()
        self._beat = asyncio.Event()
        self._stopping = False
        self._looked_at = 0.0
        self._ahead: float | None = None  # the database's clock, less the event loop's
        self._compared_at = float("-inf")
        self._loops: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin claiming, in the running event loop."""
        self._looked_at = asyncio.get_running_loop().time()
        self._loops = [asyncio.create_task(self._claim_loop()), asyncio.create_task(self._heartbeat_loop())]

    def silent_seconds(self) -> float | None:
        """How long ago it last looked for work, of the event loop's clock; None when it does not run."""
        if not self._loops or any(loop.done() for loop in self._loops):
            return None
        return asyncio.get_running_loop().time() - self._looked_at

    def wake(self) -> None:
        """Something was submitted: look at once, also for cancelled runs."""
        self._wake.set()
        if self._runs:
            self._beat.set()

    async def stop(self) -> None:
        """Claim nothing more, give running steps time, then cancel them and hand their leases back."""
        self._stopping = True
        self._wake.set()
        await asyncio.wait(self._loops[:1], timeout=self.settings.shutdown_seconds)  # it may be claiming just now
        self._loops[0].cancel()
        tasks = [run.task for run in self._runs.values()]
        if tasks:
            await asyncio.wait(tasks, timeout=self.settings.shutdown_seconds)
        left = [run.job.action for run in self._runs.values()]
        for run in list(self._runs.values()):
            run.task.cancel()
        await asyncio.gather(*(run.task for run in self._runs.values()), return_exceptions=True)
        self._loops[1].cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        if left:
            with suppress(Busy):  # then the leases end by themselves
                await actions.release(self.database, [a.id for a in left], [a.lease_token or "" for a in left])

    async def _claim_loop(self) -> None:
        while not self._stopping:
            self._looked_at = asyncio.get_running_loop().time()
            self._wake.clear()
            try:
                more = await self._claim()
            except Exception as error:
                log.warning("claim failed", error=repr(error))
                more = False
                await asyncio.sleep(self.settings.poll_seconds)
            if not more:
                await _wait(self._wake, self.settings.poll_seconds)

    async def _claim(self) -> bool:
        slots = self.settings.worker_slots - len(self._runs)
        if slots <= 0:
            return False
        lease = self.settings.lease_seconds
        asked_at = asyncio.get_running_loop().time()
        engines = dict(self.engines)  # one may leave while the database is asked
        share = max(1, self.settings.worker_slots * 3 // 4)
        busy = Counter(run.job.action.project_id for run in self._runs.values())
        here = [id_ for id_, _ in self._runs]
        claimed = await actions.claim(
            self.database, list(engines), slots, lease, share=share, busy=busy, running_here=here
        )
        for action, resource in claimed:
            job = Job(
                action,
                resource,
                None,
                dict(action.memo or {}),
                engines[action.backend],
                self.database,
                self.settings,
                self.vault,
                self.catalogue,
                self.drivers,
            )
            self._runs[_key(job)] = Run(job, asyncio.create_task(self._run(job, asked_at + lease)))
        return len(claimed) == slots

    async def _run(self, job: Job, lease_ends: float) -> None:
        action = job.action
        run = self._runs[_key(job)]
        try:
            async with asyncio.timeout_at(lease_ends - self._margin) as run.timeout:
                await self._work(job)
        except TimeoutError:
            log.warning("lease not renewed, stopped", action=action.id, verb=action.verb)
        except asyncio.CancelledError:
            if not run.cancelling:
                raise
            with suppress(Busy):  # whoever claims it next sees that it was cancelled
                await actions.cancelled(self.database, job)
        except Exception as error:
            log.error("outcome not stored", action=action.id, verb=action.verb, error=repr(error))
        finally:
            del self._runs[_key(job)]
            self._wake.set()

    async def _work(self, job: Job) -> None:
        if job.action.cancel:
            await actions.cancelled(self.database, job)
            return
        while True:
            outcome = await self._step(job)
            if not (isinstance(outcome, Again) and outcome.after <= 0):
                break
            if outcome.memo is not None:
                if not await actions.note(self.database, job, outcome.memo):
                    return
                job.memo = dict(outcome.memo)
        stored = await self._store(job, outcome)
        log.info("step", action=job.action.id, verb=job.action.verb, kind=job.action.resource_kind,
                 resource=job.action.resource_id, outcome=type(outcome).__name__, stored=stored)  # fmt: skip

    async def _store(self, job: Job, outcome: Outcome) -> bool:
        """Store an outcome, and try again as long as the lease lasts: what the engine did must not be forgotten."""
        while True:
            try:
                if isinstance(outcome, Again) and await self._is_late(job):
                    reason = outcome.changes.get("status_reason") or "the engine did not get there in time"
                    outcome = Failed(f"gave up after the deadline: {reason}")
                return await actions.finish(self.database, job, outcome)
            except Busy as error:
                log.warning("outcome not stored yet", action=job.action.id, verb=job.action.verb, reason=error.title)
                await asyncio.sleep(self.settings.poll_seconds)

    async def _is_late(self, job: Job) -> bool:
        if job.action.deadline is None:
            return False
        async with self.database.reading(EVERYTHING) as session:
            return await actions.clock(session) > job.action.deadline

    async def _step(self, job: Job) -> Outcome:
        action = job.action
        kind, verb = action.resource_kind, action.verb
        recurring = kind not in KINDS
        if job.resource is None and not recurring:
            return Done(message="the resource is gone")
        try:
            job.args = STEPS[kind, verb].args.model_validate(action.args or {})
            return await STEPS[kind, verb].run(job)
        except Unavailable as error:
            return self._wait(job, f"waiting for the engine: {error.title}")
        except Busy as error:
            log.warning("step waits", action=action.id, verb=verb, reason=error.title)
            return self._wait(job, f"waiting: {error.title}")
        except GatewayError as error:
            if recurring:
                log.warning("recurring work failed", verb=verb, backend=action.backend, reason=error.title)
                return Again(LONGEST_WAIT)
            return Failed(error.title)
        except Exception as error:
            crashes = job.memo.get("crashes", 0) + 1
            log.error("step raised", action=action.id, verb=verb, crashes=crashes, exc_info=True)
            if recurring:
                return Again(LONGEST_WAIT)
            if crashes < CRASHES:
                return Again(float(crashes), {**job.memo, "crashes": crashes})
            return Failed(f"internal error in {verb}: {type(error).__name__} (request {action.request_id})")

    def _wait(self, job: Job, reason: str) -> Outcome:
        """For what cannot answer now: the engine, another service or the database."""
        action = job.action
        wait = min(LONGEST_WAIT, 0.25 * 2 ** min(action.attempts, 10)) * random.uniform(0.5, 1.0)  # noqa: S311
        return Again(wait, job.memo, {} if action.cancel or job.resource is None else {"status_reason": reason})

    async def _heartbeat_loop(self) -> None:
        while True:
            try:
                await self._compare_clocks()
            except Exception as error:
                log.warning("clock not looked at", error=repr(error))
            await _wait(self._beat, self.settings.lease_seconds / 3)
            self._beat.clear()
            if self._runs:
                try:
                    await self._renew()
                except Exception as error:
                    log.warning("leases not renewed", error=repr(error))

    async def _compare_clocks(self) -> None:
        """Notice that the database's clock was set back: what waits for a time would wait for that long."""
        loop = asyncio.get_running_loop()
        asked_at = loop.time()
        if asked_at - self._compared_at < self.settings.lease_seconds / 4:
            return
        async with self.database.reading(EVERYTHING) as session:
            now = await actions.clock(session)
        answered_at = self._compared_at = loop.time()
        if answered_at - asked_at > SET_BACK / 2:
            return  # nobody knows of which moment this is
        ahead = now - answered_at
        known, embedded = self._ahead is not None, self.database.embedded
        if self._ahead is None or ahead < self._ahead - SET_BACK:
            if known:
                log.warning("the database's clock was set back", seconds=round((self._ahead or 0) - ahead))
            # At the start nobody knows. Leases of other replicas are let alone then; an embedded database has none.
            longest = self.settings.lease_seconds if known or embedded else None
            await actions.clock_was_set_back(self.database, longest)
        self._ahead = ahead

    async def _renew(self) -> None:
        loop = asyncio.get_running_loop()
        held = dict(self._runs)
        tokens = {run.job.action.lease_token or "" for run in held.values()}
        asked_at = loop.time()
        kept = await actions.renew(self.database, sorted(tokens), self.settings.lease_seconds)
        for key, run in held.items():
            if run.task.done() or run.cancelling:
                continue
            if key not in kept:  # finished meanwhile, or lost: then nothing that it does is stored
                if run.timeout is not None and not run.timeout.expired():
                    run.timeout.reschedule(min(run.timeout.when() or math.inf, loop.time() + LOST_GRACE))
                continue
            if kept[key]:
                run.cancelling = True
                run.task.cancel()
            elif run.timeout is not None and not run.timeout.expired():
                run.timeout.reschedule(asked_at + self.settings.lease_seconds - self._margin)

    @property
    def _margin(self) -> float:
        """How long before the lease's end a step is stopped: a sixth of it, 5 s of 30."""
        return self.settings.lease_seconds / 6


def _key(job: Job) -> tuple[int, str]:
    return job.action.id, job.action.lease_token or ""


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass
