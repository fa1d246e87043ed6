"""A soak: all faults of this folder at random, one after the other, on a real Docker and a real database, under load.

Run by ``scripts/soak``. Afterwards, and as far as possible all the time, it is seen that nothing that was accepted is
lost, nothing has two live holders, rows and engine agree, and nothing is left over.
"""

import argparse
import asyncio
import json
import random
import sys
import time
import traceback
from collections import Counter
from contextlib import suppress
from typing import Any

import httpx
from sqlalchemy.exc import SQLAlchemyError

from tests.faults.fleet import LONG, VERSION, Fleet
from tests.faults.gateway import RUNS
from tests.faults.world import World, ground, world
from tests.stack.session import Stack, StackError

LIVES = 6  # containers and capsules that live at a time
CLUSTERS = 2  # and clusters
ANSWER = 5.0  # seconds that somebody waits for a replica, and asks another one then
LOG_LINES = 3000  # of each replica that are shown when something was wrong
BLIND = 10.0  # seconds after a harm of the database or the identity in which reads may still be told to come again
VERBS = ("start", "stop?timeout=0", "pause", "unpause", "kill", "reboot?timeout=0", "rebuild")
LASTING: dict[str, tuple[float, float]] = {
    "a replica is killed": (0.0, 4.0),
    "a replica is frozen": (0.0, 3.0),
    "the engine is killed": (0.0, 3.0),
    "the engine is stopped": (0.0, 3.0),
    "the database crashes": (0.0, 5.0),
    "the database fails over": (1.0, 10.0),
    "the clock is set": (0.5, 3.0),
}
"""Seconds that harms last."""
OTHERWISE = (1.0, 8.0)


class Soak:
    """People who use a world, and somebody who does it harm."""

    def __init__(self, there: World, template: str, seed: int) -> None:
        self.world, self.place, self.gateways = there, there.place, there.gateways
        self.template = template
        self.chance = random.Random(seed)
        self.done = False
        self.faults: Counter[str] = Counter()
        self.reads: Counter[str] = Counter()
        self.answers: Counter[str] = Counter()
        self.clusters: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.longest = 0.0
        self._blind_until = 0.0

    async def run(self, seconds: float) -> None:
        """Load and harm for so long, then quiet."""
        tasks = [*[self._live] * LIVES, *[self._live_cluster] * CLUSTERS, self._read, self._look]
        users = [asyncio.create_task(task()) for task in tasks]
        ends = time.monotonic() + seconds
        while time.monotonic() < ends and not self.wrong:
            for name in self.chance.sample(list(self.world.harms), len(self.world.harms)):
                if time.monotonic() < ends and not self.wrong:
                    await asyncio.sleep(self.chance.uniform(0.5, 3.0))
                    await self._harm(name)
        self.done = True
        for outcome in await asyncio.gather(*users, return_exceptions=True):
            if isinstance(outcome, BaseException):
                self.wrong.append(repr(outcome))

    async def _harm(self, name: str) -> None:
        self.faults[name] += 1
        print(f"{time.strftime('%H:%M:%S')} {name}", flush=True)
        async with self.world.harms[name]():
            blind = self.world.blind
            await asyncio.sleep(self.chance.uniform(*LASTING.get(name, OTHERWISE)))
        if blind:
            self._blind_until = time.monotonic() + BLIND

    async def end(self) -> dict[str, Any]:
        """Delete everything and see that all agrees. Returns the figures; raises StackError when something is lost."""
        truth, project_id = self.place.truth, self.gateways[0].project_id
        await truth.agree(*self.gateways, seconds=LONG)
        await self._delete_all()
        if again := await self._delete_all():
            # A daemon that is killed may be unable to remove a container until it is started once more.
            await asyncio.to_thread(self.world.docker.restart)
            await self._delete_all()
        actions = await truth.agree(*self.gateways, seconds=LONG)
        for kind in ("capsule", "container", "cluster"):
            self.wrong += [f"{kind} {row['uuid']} is left" for row in await truth.rows(f"SELECT uuid FROM {kind}")]
        self.wrong += [f"{uuid} is left" for uuid in await truth.engine_containers(project_id)]
        self.wrong += [f"cluster {uuid} is left" for uuid in await truth.clusters(project=project_id)]
        silent = [action["id"] for action in actions if action["state"] == "failed" and not action["message"]]
        self.wrong += [f"action {number} failed without a reason" for number in silent]
        return {
            "faults": dict(self.faults),
            "accepted": sum(len(gateway.accepted) for gateway in self.gateways),
            "of clusters": dict(self.clusters),
            "answers to writes": dict(self.answers),
            "reads": dict(self.reads),
            "the longest read, seconds": round(self.longest, 1),
            "actions": dict(Counter(action["state"] for action in actions)),
            "taken over or tried again": sum(action["attempts"] > 1 for action in actions),
            "failed because": dict(Counter(str(a["message"])[:60] for a in actions if a["state"] == "failed")),
            "deletions that failed, each with its reason, until the engine was started again": again,
            "losses": self.wrong,
        }

    async def _delete_all(self) -> int:
        """Ask for the deletion of all that is there, wait for its end, and return of how many that was."""
        count = 0
        for kind in ("capsule", "container", "cluster"):
            alone = " WHERE capsule_id IS NULL" if kind == "container" else ""
            for row in await self.place.truth.rows(f"SELECT uuid FROM {kind}{alone}"):
                answer = await self.gateways[0].request("DELETE", **_removal(kind, row["uuid"]))
                assert answer.status_code == 204, answer.text
                count += 1
        await self.place.truth.settled(LONG)
        return count

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

    async def _live_cluster(self) -> None:
        """Made, resized and deleted, sometimes in the middle of what was asked before."""
        while not self.done:
            body = {"cluster_template_id": self.template, "master_count": 1, "node_count": self.chance.randint(0, 1)}
            made = await self._ask_of_cluster("create", "POST", "", json=body)
            if made is None:
                continue
            uuid = made.json()["uuid"]
            for _ in range(self.chance.randint(0, 2)):
                await self._at_rest(uuid)
                count = {"node_count": self.chance.randint(0, 2)}
                await self._ask_of_cluster("resize", "POST", f"/{uuid}/actions/resize", json=count)
            if self.chance.random() < 0.7:
                await self._at_rest(uuid)
            gone = None
            while gone is None and not self.done:
                gone = await self._ask_of_cluster("delete", "DELETE", f"/{uuid}")

    async def _ask_of_cluster(self, what: str, method: str, path: str, **options: Any) -> httpx.Response | None:
        """None when it was not accepted: nobody answered, or something is under way, or it is gone."""
        answer = await self._ask(method, f"/container-infra/v1/clusters{path}", headers=VERSION, **options)
        if answer is None:
            return None
        if answer.status_code not in (202, 204, 404, 409) and "when status is" not in answer.text:
            self.wrong.append(f"{what} of a cluster: {answer.status_code} {answer.text}")
        self.clusters[f"{what} {answer.status_code}"] += 1
        accepted = answer.status_code < 300 or (method == "DELETE" and answer.status_code == 404)
        return answer if accepted else None

    async def _at_rest(self, uuid: str) -> None:
        """Wait until nothing of this cluster is under way."""
        while not self.done:
            await asyncio.sleep(self.chance.uniform(0.3, 2.0))
            answer = await self._ask("GET", f"/container-infra/v1/clusters/{uuid}", headers=VERSION)
            if answer is not None and not str(answer.json().get("status")).endswith("_IN_PROGRESS"):
                return

    def _wish(self) -> tuple[str, dict[str, Any]]:
        box = {"image": self.place.image, "command": RUNS}
        if self.chance.random() < 0.8:
            return "container", box | {"memory": 32, "auto_heal": self.chance.random() < 0.2}
        spec = {"containers": [box | {"resources": {"requests": {"cpu": 0.1, "memory": 32}}}]}
        return "capsule", {"template": {"kind": "capsule", "metadata": {"name": "pod"}, "spec": spec}}

    async def _read(self) -> None:
        """Reads are answered all the time, by whoever is there, unless the database or Keystone itself is away."""
        while not self.done:
            await asyncio.sleep(0.1)
            asked = self.chance.choice([one for one in self.gateways if one not in self.world.away] or self.gateways)
            path, headers = self.chance.choice([("/v1/containers", {}), ("/container-infra/v1/clusters", VERSION)])
            began = time.monotonic()
            try:
                answer = await asked.request("GET", path, headers=headers, timeout=30)
            except httpx.TransportError:
                self.reads["none"] += 1  # it was killed or frozen just then
                continue
            self.reads[str(answer.status_code)] += 1
            self.longest = max(self.longest, time.monotonic() - began)
            excused = answer.status_code == 503 and (self.world.blind or began < self._blind_until)
            if answer.status_code != 200 and not excused:
                self.wrong.append(f"a read was answered with {answer.status_code} {answer.text}")

    async def _look(self) -> None:
        """Look for two live leases on one resource, all the time."""
        while not self.done:
            with suppress(SQLAlchemyError, OSError):
                held = await self.place.truth.actions(state="running")
                counts = Counter(action["resource_id"] for action in held if action["taken"])
                self.wrong += [f"{uuid} has {count} holders" for uuid, count in counts.items() if count > 1]
            await asyncio.sleep(0.2)


def _removal(kind: str, uuid: str) -> dict[str, Any]:
    if kind == "cluster":
        return {"path": f"/container-infra/v1/clusters/{uuid}", "headers": VERSION}
    return {"path": f"/v1/{kind}s/{uuid}", "params": {"force": "true"}}


async def soak(stack: Stack, given: argparse.Namespace) -> dict[str, Any]:
    """Run one as the command line says. Returns its figures.

    Raises StackError with what is wrong when rows and engine do not agree in the end.
    """
    many = {"CLUSTERS__QUOTA": 1000, "OBSERVE_SECONDS": 3}
    replicas = given.replicas if given.database == "postgresql" else 1
    with ground(stack, given.clusters) as on:
        async with world(stack, on, given.database, replicas, given.seed, **many) as there:
            fleet = Fleet(there.place, there.gateways[0], on.coe, on.nodes)
            await fleet.add_template("node")
            made = Soak(there, fleet.templates[0], given.seed)
            try:
                await made.run(60 * given.minutes)
                figures = await made.end()
            except BaseException:
                traceback.print_exc()  # here, for what is closed next may fail for the same reason and hide it
                _tell(made)
                raise
            if made.wrong:
                _tell(made)
            return figures


def _tell(made: Soak) -> None:
    """What was wrong, and what the replicas logged last: that goes with the stack."""
    print(json.dumps(made.wrong, indent=2), file=sys.stderr)
    for gateway in made.gateways:
        print(f"--- {gateway.folder.name}\n{gateway.log(LOG_LINES)}", file=sys.stderr)


def main() -> None:
    """Print the figures; the exit status tells whether anything was lost."""
    parser = argparse.ArgumentParser(prog="scripts/soak", description="Faults of every kind under load.")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--database", choices=["postgresql", "sqlite"], default="postgresql")
    parser.add_argument("--clusters", choices=["swarm-mode", "kubernetes"], default="swarm-mode")
    parser.add_argument("--replicas", type=int, default=3, help="on PostgreSQL (default: 3)")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    given = parser.parse_args()
    print(f"seed {given.seed}", flush=True)
    stack = Stack.open()
    try:
        figures = asyncio.run(soak(stack, given))
    except (StackError, AssertionError) as error:
        raise SystemExit(f"lost: {error}") from None
    finally:
        stack.close()
    print(json.dumps(figures, indent=2))
    if figures["losses"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
