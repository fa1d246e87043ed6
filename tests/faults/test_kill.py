"""SIGKILL at every point of an action's life (docs/action-log.md), for every verb at once, and a restart after each.

The proxy holds one call of each verb. When all of them have got that far, the gateway is killed.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.faults.conftest import Place
from tests.faults.gateway import Gateway, until
from tests.stack import images
from tests.stack.registry import Registry

pytestmark = pytest.mark.asyncio(loop_scope="module")

WANTED = {
    "create": "Created",
    "run": "Running",
    "start": "Running",
    "stop": "Stopped",
    "pause": "Paused",
    "unpause": "Running",
    "kill": "Stopped",
    "signal": "Running",
    "reboot": "Running",
    "delete": None,
    "delete_running": None,
    "stop_and_delete": None,
}
"""What becomes of each container when all goes well; each bears its verb's name."""

ONCE = ("kill", "signal", "reboot")
"""Verbs that are tried once: interrupted, they may have failed, and must say so."""


class Boxes:
    """One container for each verb, and an image, each in the state that its verb begins with."""

    def __init__(self, place: Place, gateway: Gateway, pulled: str) -> None:
        self.place, self.gateway, self.pulled = place, gateway, pulled
        self.uuids: dict[str, str] = {}
        self.image = ""
        self.refs: dict[str, str] = {}

    async def prepare(self) -> None:
        """Make those that have to be there before."""
        running = ("stop", "pause", "unpause", "kill", "signal", "reboot", "delete_running", "stop_and_delete")
        await asyncio.gather(
            *(self._make(verb, run=False) for verb in ("start", "delete")),
            *(self._make(verb, run=True) for verb in running),
        )
        await self.gateway.act(self.uuids["unpause"], "pause")
        await self.gateway.reaches(self.uuids["unpause"], "Paused")
        shown = await self.place.truth.engine_containers(self.gateway.project_id)
        self.refs = {verb: shown[uuid]["Id"] for verb, uuid in self.uuids.items()}
        await self._quiet()

    def wishes(self) -> list[Coroutine[Any, Any, None]]:
        """One request for each verb."""
        gateway, uuids = self.gateway, self.uuids
        return [
            self._make("create", run=False, wait=False),
            self._make("run", run=True, wait=False),
            *(gateway.act(uuids[verb], verb) for verb in ("start", "pause", "unpause", "kill")),
            *(gateway.act(uuids[verb], verb, timeout="1") for verb in ("stop", "reboot")),
            gateway.act(uuids["signal"], "kill", signal="SIGUSR1"),
            gateway.delete(uuids["delete"]),
            gateway.delete(uuids["delete_running"], force="true"),
            gateway.delete(uuids["stop_and_delete"], stop="true"),
            self._pull(),
        ]

    async def check(self, told_engine: bool) -> None:
        """Everything became what was wished; what is tried once may have failed instead, if the engine was told."""
        await self.place.truth.agree(self.gateway)
        for action in await self.actions():
            if action["verb"] in ONCE and told_engine:
                assert action["state"] == "done" or "is not repeated" in action["message"], action
            else:
                assert action["state"] == "done", action
        failed = {action["resource_id"] for action in await self.actions() if action["state"] == "failed"}
        for verb, status in WANTED.items():
            if self.uuids[verb] not in failed:
                await self.gateway.reaches(self.uuids[verb], status)
        image = (await self.gateway.request("GET", f"/v1/images/{self.image}")).json()
        assert (image["status"], bool(image["image_id"])) == ("Created", True), image
        assert await self._said("reboot", "up") <= 2
        assert await self._said("signal", "usr1") <= 1

    async def actions(self) -> list[dict[str, Any]]:
        """The actions on these containers and the image."""
        mine = {*self.uuids.values(), self.image}
        return [action for action in await self.place.truth.actions() if action["resource_id"] in mine]

    async def clear(self) -> None:
        """Delete all at once, and see that it is gone."""
        left = [uuid for uuid in self.uuids.values() if await self.gateway.show(uuid)]
        await asyncio.gather(*(self.gateway.delete(uuid, force="true") for uuid in left))
        if self.image:
            assert (await self.gateway.request("DELETE", f"/v1/images/{self.image}")).status_code == 200
        await self.place.truth.agree(self.gateway)
        assert await self.place.truth.rows("SELECT uuid FROM container") == []
        assert await self.place.truth.rows("SELECT uuid FROM image") == []
        assert await self.place.truth.engine_containers(self.gateway.project_id) == {}

    async def _make(self, verb: str, *, run: bool, wait: bool = True) -> None:
        uuid = await self.gateway.create(self.place.image, run=run, name=verb)
        self.uuids[verb] = uuid
        if wait:
            await self.gateway.reaches(uuid, "Running" if run else "Created")

    async def _pull(self) -> None:
        info = (await self.place.truth.docker.get("/info")).json()
        repo, _, tag = self.pulled.rpartition(":")
        answer = await self.gateway.request("POST", "/v1/images", json={"repo": repo, "tag": tag, "host": info["Name"]})
        assert answer.status_code == 202, answer.text
        self.image = answer.json()["uuid"]

    async def _said(self, verb: str, word: str) -> int:
        """How often a container wrote this word."""
        answer = await self.gateway.request("GET", f"/v1/containers/{self.uuids[verb]}/logs")
        return str(answer.json()).split().count(word)

    async def _quiet(self) -> None:
        """Wait until the observers have looked at all that was made."""

        async def still() -> bool:
            before = await self._looks()
            await asyncio.sleep(0.25)
            return before == await self._looks()

        await until(still, "the gateway to be at rest")

    async def _looks(self) -> int:
        return sum("/containers/" in call["line"] for call in await self.gateway.proxy.calls())

    # Where the proxy stops each verb: which line, and which of those that match.

    def first_looks(self) -> dict[str, tuple[str, int]]:
        """The first call that a step makes."""
        named = {verb: (f"GET /containers/caisson-{uuid}/json", 1) for verb, uuid in self.uuids.items()}
        return {
            **named,
            "create and run": (self._new_by_name("json"), 1),
            "pull": (f"POST /images/create.*{re.escape(self.pulled.rpartition(':')[0])}", 1),
        }

    def deeds(self) -> dict[str, tuple[str, int]]:
        """The call that changes something."""
        refs = self.refs
        paths = {"signal": "kill", "delete_running": "", "delete": "", "stop_and_delete": "stop"}
        deeds = {
            verb: (f"(DELETE|POST) /containers/{ref}.*{paths.get(verb, verb).replace('reboot', 'restart')}", 1)
            for verb, ref in refs.items()
        }
        known = "|".join(refs.values())
        return {
            **deeds,
            "create and run": (r"POST /containers/create\?", 1),
            "start of run": (f"POST /containers/(?!{known})[0-9a-f]+/start", 1),
            "pull": self.first_looks()["pull"],
        }

    def last_looks(self) -> dict[str, tuple[str, int]]:
        """The call whose answer becomes the outcome."""
        named = {
            verb: (f"GET /containers/caisson-{uuid}/json", 3 if verb in ONCE else 2)
            for verb, uuid in self.uuids.items()
        }
        return {
            **named,
            # Both are looked for before they are made; then one of them is seen first.
            "create and run": (self._new_by_name("json"), 3),
            "pull": (f"GET /images/{re.escape(self.pulled)}/json", 2),
        }

    def _new_by_name(self, what: str) -> str:
        known = "|".join(self.uuids.values())
        return f"GET /containers/caisson-(?!{known})[0-9a-f-]+/{what}"


POINTS: dict[str, tuple[str, Callable[[Boxes], dict[str, tuple[str, int]]], bool]] = {
    "claimed, nothing asked of the engine": ("before", Boxes.first_looks, False),
    "looked, before the engine is told": ("before", Boxes.deeds, True),
    "the engine did it, the answer not read": ("after", Boxes.deeds, True),
    "looked again, nothing recorded": ("after", Boxes.last_looks, True),
}


@pytest.fixture(scope="module")
def pulled(lasting_place: Place, registry: Registry) -> Iterator[str]:
    """The name of an image that the engine has to pull."""
    name = registry.push(lasting_place.docker_url, f"{lasting_place.stack.folder('image').name}:1")
    yield name
    images.remove(lasting_place.docker_url, name)


@pytest_asyncio.fixture(loop_scope="module")
async def boxes(lasting_place: Place, gateway: Gateway, pulled: str) -> AsyncIterator[Boxes]:
    """Everything prepared; at the end it is deleted through the API, and nothing may be left of it."""
    made = Boxes(lasting_place, gateway, pulled)
    await made.prepare()
    yield made
    await made.clear()


@pytest.mark.parametrize("point", POINTS)
async def test_killed_while_it_works(boxes: Boxes, point: str) -> None:
    when, stops, told_engine = POINTS[point]
    gateway, proxy = boxes.gateway, boxes.gateway.proxy
    rules = {
        verb: await proxy.add(f"^{line}", when, "hold", nth=nth, every=verb == "create and run")
        for verb, (line, nth) in stops(boxes).items()
    }
    await asyncio.gather(*boxes.wishes())
    if "start of run" in rules:  # it comes only after a create that went on
        made = rules.pop("create and run")
        await proxy.fired(made)
        await proxy.release(made)
    await proxy.fired(*rules.values())
    await gateway.kill()
    await proxy.release(*rules.values())
    await gateway.start()
    await boxes.check(told_engine)
    assert {action["attempts"] for action in await boxes.actions()} >= {2}


@pytest.mark.parametrize("when", ["before", "after"])
async def test_killed_while_it_makes_the_network(lasting_place: Place, gateway: Gateway, when: str) -> None:
    made = await gateway.proxy.add("^POST /networks/create", when, "hold")
    uuid = await gateway.create(lasting_place.image, run=True)
    await gateway.proxy.fired(made)
    await gateway.kill()
    await gateway.proxy.release(made)
    await gateway.start()
    await gateway.reaches(uuid, "Running")
    assert len(await lasting_place.truth.engine_networks(gateway.project_id)) == 1
    await gateway.delete(uuid, force="true")
    await lasting_place.truth.agree(gateway)
    assert await lasting_place.truth.engine_networks(gateway.project_id) == []


async def test_frozen_beyond_its_lease(lasting_place: Place, gateway: Gateway) -> None:
    """And nobody there to take over: it finds its own lease ended, drops the step, and takes it up anew."""
    made = await gateway.proxy.add(r"^POST /containers/create\?", "after", "freeze", pid=gateway.pid)
    uuid = await gateway.create(lasting_place.image, run=True)
    await gateway.proxy.fired(made)

    async def ended() -> bool:
        return not any(action["taken"] for action in await lasting_place.truth.actions(state="running"))

    await until(ended, "the lease to end")
    gateway.thaw()
    await gateway.reaches(uuid, "Running")
    action = (await lasting_place.truth.agree(gateway))[-1]
    assert (action["state"], action["attempts"]) == ("done", 2)
    assert "lease not renewed, stopped" in gateway.log()
    await gateway.delete(uuid, force="true")
    await lasting_place.truth.agree(gateway)


async def test_killed_before_the_commit(boxes: Boxes) -> None:
    gateway, before = boxes.gateway, await boxes.actions()
    async with boxes.place.truth.no_writes():
        asking = asyncio.create_task(_answered(boxes.wishes()))
        for _ in range(5):  # reads are answered meanwhile, and after what was asked before them
            assert (await gateway.request("GET", "/v1/containers")).status_code == 200
        await gateway.kill()
        answers = await asking
    assert all(isinstance(answer, httpx.TransportError) for answer in answers), answers
    await gateway.start()
    await boxes.place.truth.agree(gateway)
    assert await boxes.actions() == before


async def test_killed_after_the_commit(boxes: Boxes) -> None:
    """One slot, and a container in it that the engine does not answer for: everything else is queued."""
    gateway = boxes.gateway
    await gateway.kill()
    await gateway.start(WORKER_SLOTS=1)
    blocked = await gateway.proxy.add("^GET /containers/caisson-[0-9a-f-]+/json", "before", "hold")
    first = boxes.uuids["first"] = await gateway.create(boxes.place.image, name="first")
    await gateway.proxy.fired(blocked)
    await asyncio.gather(*boxes.wishes())
    queued = [action["verb"] for action in await boxes.place.truth.actions(state="queued")]
    assert len(queued) == len(WANTED) + 2, queued  # one makes two actions, and the pull belongs to no container
    await gateway.kill()
    await gateway.proxy.release(blocked)
    await gateway.start()
    await boxes.check(told_engine=False)
    await gateway.reaches(first, "Created")


async def test_killed_after_the_outcome(boxes: Boxes) -> None:
    gateway = boxes.gateway
    await asyncio.gather(*boxes.wishes())
    await boxes.place.truth.settled()
    await gateway.kill()
    ended = await boxes.actions()
    await gateway.start()
    await boxes.check(told_engine=False)
    assert await boxes.actions() == ended, "what had ended was taken up again"


async def _answered(wishes: list[Coroutine[Any, Any, None]]) -> list[BaseException | None]:
    return await asyncio.gather(*wishes, return_exceptions=True)
