"""A soak: all faults of this folder at random, one after the other, on a real Docker and a real database, under load.

Run by ``scripts/soak``. Afterwards, and as far as possible all the time, it is seen that nothing that was accepted is
lost, nothing has two live holders, rows and engine agree, and nothing is left over.
"""

import argparse
import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy.exc import SQLAlchemyError

from tests.faults.conftest import Place
from tests.faults.gateway import LEASE, RUNS, Gateway, Proxy
from tests.stack import images
from tests.stack import postgres as postgres_service
from tests.stack.docker import PrivateDocker
from tests.stack.postgres import Postgres
from tests.stack.session import Stack, StackError
from tests.stack.settable import Clock, settable

LIVES = 6  # containers and capsules that live at a time
ANSWER = 5.0  # seconds that somebody waits for a replica, and asks another one then
VERBS = ("start", "stop?timeout=0", "pause", "unpause", "kill", "reboot?timeout=0", "rebuild")
CALLS = (
    "POST /containers/create", r"POST /containers/\w+/(start|stop|kill|restart|pause)", "DELETE /containers/",
    "GET /containers/", "POST /networks/create",
)  # fmt: skip
STATEMENTS = ("COMMIT", "UPDATE action", "INSERT INTO action", "UPDATE container", "SELECT", "CONNECT")


class Soak:
    """Gateways on one database and one engine, people who use them, and somebody who does them harm."""

    def __init__(self, place: Place, docker: PrivateDocker, seed: int) -> None:
        self.place, self.docker = place, docker
        self.chance = random.Random(seed)
        self.gateways: list[Gateway] = []
        self.away: set[Gateway] = set()
        self.done = False
        self.faults: Counter[str] = Counter()
        self.reads: Counter[str] = Counter()
        self.answers: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.harms: list[Callable[[], Awaitable[None]]] = [
            self.a_replica_is_killed, self.a_replica_is_frozen, self.the_engine_is_killed, self.the_engine_is_silent,
            self.calls_of_the_engine_are_cut,
        ]  # fmt: skip

    def on_postgresql(self, server: Postgres, line: Proxy, clock: Clock) -> None:
        """Do harm to the database as well. `line` is the proxy before it."""
        self.server, self.line, self.clock = server, line, clock
        self.harms += [
            self.the_database_crashes, self.the_database_refuses, self.the_database_is_silent,
            self.statements_are_cut, self.the_clock_is_set,
        ]  # fmt: skip

    async def run(self, seconds: float) -> None:
        """Load and harm for so long, then quiet."""
        users = [asyncio.create_task(task()) for task in [self._live] * LIVES + [self._read, self._look]]
        ends = time.monotonic() + seconds
        while time.monotonic() < ends and not self.wrong:
            for harm in self.chance.sample(self.harms, len(self.harms)):
                if time.monotonic() < ends:
                    await asyncio.sleep(self.chance.uniform(0.5, 3.0))
                    self.faults[harm.__name__.replace("_", " ")] += 1
                    await harm()
        self.done = True
        for outcome in await asyncio.gather(*users, return_exceptions=True):
            if isinstance(outcome, BaseException):
                self.wrong.append(repr(outcome))

    async def end(self) -> dict[str, Any]:
        """Delete everything and see that all agrees. Returns the figures; raises StackError when something is lost."""
        truth = self.place.truth
        await truth.agree(*self.gateways, seconds=120)
        for kind in ("capsule", "container"):
            alone = " WHERE capsule_id IS NULL" if kind == "container" else ""
            for row in await truth.rows(f"SELECT uuid FROM {kind}{alone}"):
                path = f"/v1/{kind}s/{row['uuid']}"
                answer = await self.gateways[0].request("DELETE", path, params={"force": "true"})
                assert answer.status_code == 204, answer.text
        actions = await truth.agree(*self.gateways, seconds=120)
        for kind in ("capsule", "container"):
            self.wrong += [f"{kind} {row['uuid']} is left" for row in await truth.rows(f"SELECT uuid FROM {kind}")]
        self.wrong += [f"{uuid} is left" for uuid in await truth.engine_containers(self.gateways[0].project_id)]
        silent = [action["id"] for action in actions if action["state"] == "failed" and not action["message"]]
        self.wrong += [f"action {number} failed without a reason" for number in silent]
        return {
            "faults": dict(self.faults),
            "accepted": sum(len(gateway.accepted) for gateway in self.gateways),
            "answers to writes": dict(self.answers),
            "reads": dict(self.reads),
            "actions": dict(Counter(action["state"] for action in actions)),
            "taken over or tried again": sum(action["attempts"] > 1 for action in actions),
            "failed because": dict(Counter(str(a["message"])[:60] for a in actions if a["state"] == "failed")),
            "losses": self.wrong,
        }

    # Harm; each is healed before it returns

    async def a_replica_is_killed(self) -> None:
        victim = self.chance.choice(self.gateways)
        self.away.add(victim)
        await victim.kill()
        await asyncio.sleep(self.chance.uniform(0.0, 2 * LEASE))
        await victim.start()
        self.away.discard(victim)

    async def a_replica_is_frozen(self) -> None:
        victim = self.chance.choice(self.gateways)
        self.away.add(victim)
        victim.freeze()
        await asyncio.sleep(self.chance.uniform(1.2, 3.0) * LEASE)
        victim.thaw()
        self.away.discard(victim)

    async def the_engine_is_killed(self) -> None:
        await asyncio.to_thread(self.docker.kill)
        await asyncio.sleep(self.chance.uniform(0.0, 3.0))
        await asyncio.to_thread(self.docker.start)

    async def the_engine_is_silent(self) -> None:
        await self._for_a_while([(gateway.proxy, ".", "hold", 1) for gateway in self.gateways])

    async def calls_of_the_engine_are_cut(self) -> None:
        proxies = [gateway.proxy for gateway in self.gateways]
        await self._for_a_while(
            [(proxy, f"^{line}", "cut", self.chance.randint(1, 3)) for proxy in proxies for line in CALLS]
        )

    async def the_database_crashes(self) -> None:
        folder = Path(self.server.service.facts["folder"])
        await asyncio.to_thread(self.place.stack.stop_by_name, self.server.service.name)
        await asyncio.sleep(self.chance.uniform(0.0, 5.0))
        name, port = self.server.service.name, self.server.port
        await asyncio.to_thread(postgres_service.start, self.place.stack, name, folder=folder, port=port)

    async def the_database_refuses(self) -> None:
        await self.line.shut()
        await asyncio.sleep(self.chance.uniform(2.0, 20.0))
        await self.line.open()

    async def the_database_is_silent(self) -> None:
        await self._for_a_while([(self.line, ".", "hold", 1)])

    async def statements_are_cut(self) -> None:
        await self._for_a_while([(self.line, f"^{start}", "cut", self.chance.randint(1, 20)) for start in STATEMENTS])

    async def the_clock_is_set(self) -> None:
        for ahead in (self.chance.choice([-3600.0, 3600.0]), 0.0):
            await self.clock.set(ahead)
            await asyncio.sleep(self.chance.uniform(0.5, 3.0))

    async def _for_a_while(self, harms: list[tuple[Proxy, str, str, int]]) -> None:
        rules = []
        for proxy, line, act, nth in harms:
            when = "before" if act == "hold" else self.chance.choice(["before", "after"])
            rules.append((proxy, await proxy.add(line, when, act, nth=nth, every=act == "hold")))
        await asyncio.sleep(self.chance.uniform(1.0, 8.0))
        for proxy, number in rules:
            await proxy.release(number)

    # People

    async def _ask(self, method: str, path: str, **options: Any) -> httpx.Response | None:
        """One request to a replica; None when it had no answer, or one to come again."""
        gateway = self.chance.choice(self.gateways)
        try:
            answer = await gateway.request(method, path, timeout=ANSWER, **options)
        except httpx.TransportError:
            self.answers["none"] += 1
            await asyncio.sleep(0.2)
            return None
        if method != "GET":
            self.answers[str(answer.status_code)] += 1
        if answer.status_code == 503:
            if "retry-after" not in answer.headers:
                self.wrong.append(f"503 without Retry-After: {answer.text}")
            await asyncio.sleep(0.5)
            return None
        if answer.status_code >= 500:
            self.wrong.append(f"{method} {path}: {answer.status_code} {answer.text}")
        return answer

    async def _live(self) -> None:
        while not self.done:
            kind, body = self._wish()
            run = str(self.chance.random() < 0.6)
            query = {"run": run} if kind == "container" else {}
            made = await self._ask("POST", f"/v1/{kind}s", json=body, params=query)
            if made is None or made.status_code != 202:
                continue
            path = f"/v1/{kind}s/{made.json()['uuid']}"
            for _ in range(self.chance.randint(0, 4)):
                await asyncio.sleep(self.chance.uniform(0.0, 1.5))
                if kind == "container":
                    await self._ask("POST", f"{path}/{self.chance.choice(VERBS)}")
            gone = None
            while gone is None and not self.done:
                gone = await self._ask("DELETE", path, params={"force": "true"})

    def _wish(self) -> tuple[str, dict[str, Any]]:
        box = {"image": self.place.image, "command": RUNS}
        if self.chance.random() < 0.85:
            return "container", box | {"memory": 32, "auto_heal": self.chance.random() < 0.2}
        spec = {"containers": [box | {"resources": {"requests": {"cpu": 0.1, "memory": 32}}}]}
        return "capsule", {"template": {"kind": "capsule", "metadata": {"name": "pod"}, "spec": spec}}

    async def _read(self) -> None:
        """Reads are answered all the time, by whoever is there, unless the database itself is away."""
        while not self.done:
            await asyncio.sleep(0.1)
            asked = self.chance.choice([one for one in self.gateways if one not in self.away] or self.gateways)
            try:
                status = str((await asked.request("GET", "/v1/containers", timeout=30)).status_code)
            except httpx.TransportError:
                status = "none"  # it was killed or frozen just then
            self.reads[status] += 1
            if status not in ("200", "503", "none"):
                self.wrong.append(f"a read was answered with {status}")

    async def _look(self) -> None:
        """Look for two live leases on one resource, all the time."""
        while not self.done:
            with suppress(SQLAlchemyError, OSError):
                held = await self.place.truth.actions(state="running")
                counts = Counter(action["resource_id"] for action in held if action["taken"])
                self.wrong += [f"{uuid} has {count} holders" for uuid, count in counts.items() if count > 1]
            await asyncio.sleep(0.2)


async def soak(stack: Stack, database: str, replicas: int, seconds: float, seed: int) -> dict[str, Any]:
    """Run one; `database` is postgresql or sqlite, which has one replica. Returns its figures.

    Raises StackError with what is wrong when rows and engine do not agree in the end.
    """
    docker = await asyncio.to_thread(PrivateDocker, stack)
    await asyncio.to_thread(images.build, docker.url)
    server = Postgres(postgres_service.start(stack, "postgres-soak")) if database == "postgresql" else None
    url = server.create("caisson") if server else f"sqlite+aiosqlite:///{stack.folder('database')}/caisson.db"
    place = Place(stack, url, docker.url, images.BUSYBOX)
    made = Soak(place, docker, seed)
    with settable(url, server) as clock:
        try:
            if server is not None:
                line = Proxy(stack, f"postgres://127.0.0.1:{server.port}")
                place.reached_at = url.replace(f"127.0.0.1:{server.port}", line.url.partition("://")[2])
                made.on_postgresql(server, line, clock)
            made.gateways = [await place.gateway() for _ in range(replicas if server else 1)]
            await made.run(seconds)
            return await made.end()
        finally:
            await place.close()
            await asyncio.to_thread(docker.close)


def main() -> None:
    """Print the figures; the exit status tells whether anything was lost."""
    parser = argparse.ArgumentParser(prog="scripts/soak", description="Faults of every kind under load.")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--database", choices=["postgresql", "sqlite"], default="postgresql")
    parser.add_argument("--replicas", type=int, default=3, help="on PostgreSQL (default: 3)")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    given = parser.parse_args()
    print(f"seed {given.seed}", flush=True)
    stack = Stack.open()
    try:
        figures = asyncio.run(soak(stack, given.database, given.replicas, 60 * given.minutes, given.seed))
    except (StackError, AssertionError) as error:
        raise SystemExit(f"lost: {error}") from None
    finally:
        stack.close()
    print(json.dumps(figures, indent=2))
    if figures["losses"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
