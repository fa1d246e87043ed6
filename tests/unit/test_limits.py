"""What one project may ask: its pace, its number at a time, and that others do not notice."""

import asyncio
import json
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from app.auth import Caller
from app.limits import ALONE, COMPANY_SECONDS, PASS_SECONDS, PATIENCE, Limits, Pace, Turns
from app.settings import LimitSettings


def test_a_pace() -> None:
    now = 0.0
    pace = Pace(rate=10.0, burst=5.0, timer=lambda: now)
    assert [pace.wait("a", 1) for _ in range(5)] == [0.0] * 5
    assert [round(pace.wait("a", 1), 3) for _ in range(3)] == [0.1, 0.2, 0.3]
    assert pace.wait("b", 1) == 0.0, "another project has a pace of its own"
    now = 10.0
    assert [pace.wait("a", 1) for _ in range(5)] == [0.0] * 5
    assert pace.wait("a", 1) > 0


def test_what_is_refused_spends_nothing() -> None:
    pace = Pace(rate=1.0, burst=1.0, timer=lambda: 0.0)
    pace.wait("a", 1)
    assert pace.wait("a", 1) == PATIENCE
    first = pace.wait("a", 1)
    assert first > PATIENCE
    assert pace.wait("a", 1) == first


class Requests:
    """Requests through the layer, to an application that is held up."""

    def __init__(self, **settings: Any) -> None:
        self.limits = Limits(self._app, LimitSettings(**settings))
        self.inside = 0
        self.open = asyncio.Event()
        self.full = asyncio.Event()

    async def _app(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.inside += 1
        if self.inside == 3:
            self.full.set()
        await self.open.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def ask(
        self, project: str | None = "a", path: str = "/v1/containers", method: str = "GET"
    ) -> tuple[int, dict[bytes, bytes], Any]:
        state = {"request_id": "req-1"} | ({} if project is None else {"caller": caller(project)})
        scope = {"type": "http", "method": method, "path": path, "headers": [], "state": state}
        sent: list[Message] = []

        async def send(message: Message) -> None:
            sent.append(message)

        async def receive() -> Message:
            raise AssertionError("nobody reads the body")

        await self.limits(scope, receive, send)
        content = sent[1].get("body", b"")
        return sent[0]["status"], dict(sent[0]["headers"]), json.loads(content) if content else None


def caller(project: str) -> Caller:
    return Caller("u", "u", project, project, "d", "d", frozenset(), 0.0)


async def test_too_many_at_a_time() -> None:
    requests = Requests(concurrent=3)
    held = [asyncio.create_task(requests.ask()) for _ in range(3)]
    await requests.full.wait()
    status, headers, body = await requests.ask()
    assert (status, headers[b"retry-after"]) == (429, b"1")
    assert body["errors"][0]["code"] == "container.too-many-requests"
    assert "3 requests under way" in body["errors"][0]["title"]
    other = asyncio.create_task(requests.ask("b"))
    nobody = asyncio.create_task(requests.ask(None))
    requests.open.set()
    assert [(await task)[0] for task in (*held, other, nobody)] == [200] * 5
    assert (await requests.ask())[0] == 200, "those that ended no longer count"


@pytest.mark.parametrize(
    ("path", "code"), [("/v1/containers", "container.too-many-requests"), ("/container-infra/v1/clusters", "client")]
)
async def test_too_fast(path: str, code: str) -> None:
    requests = Requests(rate=0.01, burst=1)
    requests.open.set()
    assert (await requests.ask())[0] == 200
    status, headers, body = await requests.ask(path=path)
    assert (status, headers[b"retry-after"]) == (429, b"100")
    assert (body["errors"][0]["code"], body["errors"][0]["status"]) == (code, 429)
    assert (await requests.ask("b", path))[0] == 200


async def test_changes_cost_more_than_reads() -> None:
    requests = Requests(rate=0.01, burst=10, write_cost=10)
    requests.open.set()
    assert (await requests.ask(method="POST"))[0] == 200
    assert (await requests.ask(method="GET"))[0] == 429


async def test_a_little_too_fast_is_paced_and_not_refused() -> None:
    requests = Requests(rate=100.0, burst=1)
    requests.open.set()
    assert [status for status, _, _ in await asyncio.gather(*(requests.ask() for _ in range(20)))] == [200] * 20


async def test_refusals_are_held_and_do_not_pile_up() -> None:
    """Who asks again at once is answered as slowly, and who opens ever more requests is not waited with."""
    requests = Requests(rate=0.01, burst=1, concurrent=5)
    requests.open.set()
    await requests.ask()
    flood = [asyncio.create_task(requests.ask()) for _ in range(50)]
    done, waiting = await asyncio.wait(flood, timeout=PATIENCE / 2)
    assert (len(done), len(waiting)) == (45, 5)
    assert {(await task)[0] for task in flood} == {429}


class Begun:
    """Requests that were begun, in their order; each ends when it is told to."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self.order = list[str]()
        self.tasks = dict[str, asyncio.Task[None]]()
        self._ends = dict[str, asyncio.Event]()

    async def ask(self, *names: str) -> None:
        """Requests of the project that each name begins with."""
        for name in names:
            self._ends[name] = asyncio.Event()
            self.tasks[name] = asyncio.create_task(self._request(name))
        await asyncio.sleep(0)

    async def end(self, *names: str) -> None:
        """What waits for these has begun when this returns."""
        for name in names:
            self._ends[name].set()
        await asyncio.gather(*(self.tasks[name] for name in names))
        await asyncio.sleep(0)

    async def _request(self, name: str) -> None:
        async with self.turns.turn(name[0]):
            self.order.append(name)
            await self._ends[name].wait()


async def test_a_project_among_others_begins_one_at_a_time() -> None:
    """Others need not wait for all that it has begun; what takes long lets the next one begin."""
    begun = Begun(Turns())
    await begun.ask("b0", "a1", "a2", "a3")
    assert begun.order == ["b0", "a1"]
    begun.tasks["a2"].cancel()
    await begun.end("b0", "a1")
    assert begun.order == ["b0", "a1", "a3"], "one that was given up is passed over"
    await begun.ask("a4")
    await begun.end("a4")
    assert begun.order == ["b0", "a1", "a3", "a4"], "a3 still waits for something else"
    await begun.end("a3")


async def test_a_flood_lets_others_pass() -> None:
    """Its next request begins after those that others have begun by then, and before those that they begin later."""
    begun = Begun(Turns())
    await begun.ask("b0", "a1", "a2")
    await begun.end("a1")
    await begun.ask("c3")
    assert begun.order == ["b0", "a1", "c3"]
    await begun.end("b0")
    assert begun.order == ["b0", "a1", "c3", "a2"]
    await begun.end("a2", "c3")


async def test_a_flood_does_not_wait_for_what_takes_long() -> None:
    now = 0.0
    begun = Begun(Turns(lambda: now))
    await begun.ask("b0", "a1", "a2", "a3")
    await begun.end("a1")
    assert begun.order == ["b0", "a1"]
    await begun.end("a2")
    now += PASS_SECONDS
    await begun.end("a3")
    assert begun.order == ["b0", "a1", "a2", "a3"]
    await begun.end("b0")


async def test_a_project_by_itself_begins_many() -> None:
    now = 0.0
    turns, begun, end = Turns(lambda: now), list[str](), asyncio.Event()

    async def request(project: str) -> None:
        async with turns.turn(project):
            begun.append(project)
            await end.wait()

    tasks = [asyncio.create_task(request("a")) for _ in range(ALONE + 1)]
    await asyncio.sleep(0)
    assert len(begun) == ALONE
    end.set()
    await asyncio.gather(*tasks, request("b"))
    end.clear()
    tasks = [asyncio.create_task(request("a")) for _ in range(3)]
    await asyncio.sleep(0)
    assert len(begun) == ALONE + 3, "somebody else asked a moment ago"
    now += COMPANY_SECONDS
    tasks.append(asyncio.create_task(request("a")))
    end.set()
    await asyncio.gather(*tasks)
