"""Tenancy and roles, on all routes there are: a route that is missing in `tests.api.routes` fails a test.

Each route is asked by each caller for its own, for a foreign and for a public object. What is somebody else's is told
apart from what is not there neither by status, body and headers, nor by what the database is asked on the way.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx
import pytest
import pytest_asyncio
from fastapi import FastAPI
from jose import jwt
from sqlalchemy import Engine, event
from sqlmodel import select

from app import hosts
from app.db import EVERYTHING
from app.identity import ROLE_IDS, EmbeddedIdentity
from app.models import ClusterTemplate
from app.policy import RULES, Allow, Who
from tests.api.caisson import Caisson, Running
from tests.api.routes import MAGNUM, PUBLIC, SAMPLES, TEMPLATES, Things, named_by, routes, things_of

pytestmark = pytest.mark.asyncio(loop_scope="session")

CALLERS = {"nobody": 0, "expired": 0, "reader": 1, "member": 2, "foreign": 2, "admin": 3}
"""Who asks, and what they may at most: of alpha the first four, of beta the fifth; the sixth has a project as well."""
NEEDED = {Who.READER: 1, Who.MEMBER: 2, Who.ADMIN: 3}
WHOSE = ("own", "foreign", "public")
PUBLISHED = {"template"}
"""Kinds of things that can be public."""
OF_THEIR_MAKER = {"certificate:get", "certificate:create"}
"""Rules that hold for who made the cluster, and for administrators."""
ORDER = ("GET", "POST", "PUT", "PATCH", "DELETE")
NEVER_THERE = (f"{MAGNUM}/federations/", "/v1/networks/")
"""Paths of kinds of which these projects have nothing."""


@dataclass(frozen=True)
class Case:
    """One square of the matrix. `end` is what has to come of it: 401, 403, absent, or in."""

    route: tuple[str, str]
    rule: str
    who: str
    whose: str
    end: str


def matrix(api: FastAPI) -> Iterator[Case]:
    """All squares there are: what names nothing has no foreign object, and what names no template no public one."""
    for method, path, guard in routes(api):
        if guard is None:
            continue
        named = named_by(*SAMPLES[method, path])
        for who in CALLERS:
            for whose in WHOSE:
                if whose == "own" or (named and (whose == "foreign" or named & PUBLISHED)):
                    yield Case((method, path), guard.rule, who, whose, _end(guard, who, whose, path, named))


def _end(guard: Allow, who: str, whose: str, path: str, named: set[str]) -> str:
    if CALLERS[who] == 0:
        return "401"
    if CALLERS[who] < NEEDED[RULES[guard.rule]]:
        return "403"
    if named and path.startswith(NEVER_THERE):
        return "absent"
    if whose == "foreign" and not (who == "admin" and (guard.always or RULES[guard.rule] is Who.ADMIN)):
        return "absent"
    if whose == "public" and RULES[guard.rule] is Who.MEMBER and path.startswith(TEMPLATES) and who != "admin":
        return "403"  # it can be read and used, and no more
    if guard.rule in OF_THEIR_MAKER and who == "reader":
        return "403"
    return "in"


class World:
    """Three projects with one of each kind, and a public template."""

    def __init__(self, of: dict[str, Things], public: str, tokens: dict[str, str | None]) -> None:
        self.of = of
        self.public = public
        self.tokens = tokens

    def ids(self, case: Case) -> dict[str, str]:
        """What the case's request names."""
        home = {"foreign": "beta", "admin": "gamma"}.get(case.who, "alpha")
        if case.whose == "foreign":
            home = "alpha" if home == "beta" else "beta"
        return self.of[home].ids | ({"template": self.public} if case.whose == "public" else {})

    async def ask(self, case: Case, ids: dict[str, str]) -> httpx.Response:
        """The case's request, which names these."""
        return await self.of["alpha"].ask(case.route, self.tokens.get(case.who, case.who), **ids)

    async def snapshot(self) -> Any:
        return [await things.snapshot() for things in self.of.values()]


@pytest_asyncio.fixture(loop_scope="session")
async def world(caisson: Caisson) -> AsyncIterator[World]:
    """Three projects with a thing of each kind, and a template for all: others see that only while this is used."""
    tokens = {"nobody": None, "expired": await expired_token(caisson), "admin": await administrator(caisson)}
    people = {"alpha": "member", "beta": "foreign", "gamma": tokens["admin"]}
    made = await asyncio.gather(*(things_of(caisson, str(who)) for who in people.values()))
    body = {"image_id": "busybox", "coe": "swarm", "name": "published", "public": True}
    public = await caisson.ok("POST", TEMPLATES, body, who="admin", version=None)
    yield World(dict(zip(people, made, strict=True)), public["uuid"], tokens)
    async with caisson.running.gateway.database.transaction(EVERYTHING) as session:
        for row in await session.exec(select(ClusterTemplate).where(ClusterTemplate.uuid == public["uuid"])):
            row.public = False


async def expired_token(caisson: Caisson) -> str:
    """A member's token whose time is over, in which all else is good."""
    source: Any = caisson.running.gateway.authenticator.source
    assert isinstance(source, EmbeddedIdentity)
    claims = jwt.get_unverified_claims(await caisson.token("member")) | {"exp": int(time.time()) - 1}
    return str(jwt.encode(claims, source._signing_key, algorithm="ES256"))


async def administrator(caisson: Caisson) -> str:
    """A token of an administrator in a project of this test's own."""
    project, admin = await caisson.project("gamma"), caisson.running.logins["admin"]
    user = jwt.get_unverified_claims(admin)["sub"]
    await caisson.running.identity("PUT", f"/projects/{project}/users/{user}/roles/{ROLE_IDS['admin']}", admin)
    method = {"methods": ["token"], "token": {"id": admin}}
    body = {"auth": {"identity": method, "scope": {"project": {"id": project}}}}
    answer = await caisson.running.identity("POST", "/auth/tokens", "", body)
    return answer.headers["X-Subject-Token"]


def absent(ids: dict[str, str]) -> dict[str, str]:
    """Ids of the same form, of things that there are not."""
    forms = {"request": lambda: f"req-{uuid4()}", "project": lambda: uuid4().hex}
    return {kind: forms.get(kind, lambda: str(uuid4()))() for kind in ids}


def looks(answer: httpx.Response, ids: dict[str, str]) -> Any:
    """All that a client sees of an answer, apart from what it asked for and the answer's own id."""
    request_id = answer.headers["x-openstack-request-id"]
    text = answer.text.replace(request_id, "")
    for kind, ident in ids.items():
        text = text.replace(ident, f"<{kind}>")
    headers = sorted((name, value) for name, value in answer.headers.items() if value != request_id)
    return answer.status_code, headers, text


_told: ContextVar[list[str] | None] = ContextVar("told", default=None)


@contextmanager
def statements() -> Iterator[list[str]]:
    """What this task, and nobody else, asks of the database meanwhile; who the caller is was asked before."""
    heard: list[str] = []

    def hear(connection: Any, cursor: Any, statement: str, *more: Any) -> None:
        if _told.get() is heard and "identity_" not in statement:
            heard.append(statement)

    event.listen(Engine, "before_cursor_execute", hear)
    mark = _told.set(heard)
    try:
        yield heard
    finally:
        _told.reset(mark)
        event.remove(Engine, "before_cursor_execute", hear)


async def test_every_route_is_guarded_or_public(shared: Running) -> None:
    found = {(method, path): guard for method, path, guard in routes(shared.api)}
    assert {route for route, guard in found.items() if guard is None} == PUBLIC
    assert found.keys() - PUBLIC == SAMPLES.keys()


async def test_every_rule_that_a_route_checks_has_a_default(shared: Running) -> None:
    for _, path, guard in routes(shared.api):
        if guard is not None:
            for rule in (guard.rule, guard.on_request, guard.always):
                assert rule is None or rule in RULES, path


async def test_the_matrix_is_whole(shared: Running) -> None:
    cases = list(matrix(shared.api))
    assert len(set(cases)) == len(cases)
    assert {(case.route, case.who) for case in cases} == {(route, who) for route in SAMPLES for who in CALLERS}
    ends = {end: sum(case.end == end for case in cases) for end in ("401", "403", "absent", "in")}
    print(f"isolation matrix: {len(cases)} cases, {ends}")
    assert len(cases) >= 1000
    assert min(ends.values()) >= 100


async def test_what_is_refused_changes_nothing_and_tells_nothing(caisson: Caisson, world: World) -> None:
    before = await world.snapshot()
    for case in matrix(caisson.running.api):
        ids = world.ids(case)
        if case.end == "401":
            answer = await world.ask(case, ids)
            assert answer.status_code == 401, case
            assert not [ident for ident in ids.values() if ident in answer.text], case
        elif case.end == "403":
            answer = await world.ask(case, ids)
            assert answer.status_code == 403, (case, answer.text)
            assert case.rule in answer.text or case.whose == "public", (case, answer.text)
        elif case.end == "absent":
            await is_absent(world, case, ids)
        elif RULES[case.rule] is Who.READER:
            answer = await world.ask(case, ids)
            assert answer.status_code == 200, (case, answer.text)
    assert await world.snapshot() == before


async def is_absent(world: World, case: Case, ids: dict[str, str]) -> None:
    """Ask for what is somebody else's and for what nobody has: nobody could tell the answers, or the ways to them."""
    nothing = absent(ids)
    with statements() as of_absent:
        answer = await world.ask(case, nothing)
    with statements() as of_foreign:
        told = await world.ask(case, ids)
    assert looks(told, ids) == looks(answer, nothing), case
    assert of_foreign == of_absent, case
    assert told.status_code in (400, 403, 404), (case, told.text)


@pytest.mark.parametrize(
    "turns",
    [
        [("member", "own"), ("foreign", "own"), ("admin", "own")],
        [("member", "public"), ("foreign", "public"), ("admin", "public"), ("admin", "foreign")],
    ],
    ids=["own", "others"],
)
async def test_who_may_gets_in(caisson: Caisson, world: World, turns: list[tuple[str, str]]) -> None:
    """Deletes come last, of what stands in others first; what is there may be changed by then, and refused as such."""
    entering = [case for case in matrix(caisson.running.api) if case.end == "in"]
    for turn in turns:
        cases = [case for case in entering if (case.who, case.whose) == turn]
        cases.sort(key=lambda case: (ORDER.index(case.route[0]), -len(case.route[1])))
        for case in cases:
            answer = await world.ask(case, world.ids(case))
            assert answer.status_code not in (401, 403, 404), (case, answer.text)
    gateway = caisson.running.gateway  # the host is among what was deleted: it comes back with its next sign of life
    await hosts.report(gateway.database, gateway.engines, gateway.settings, "local")


async def test_lists_hold_nothing_of_another_project(caisson: Caisson) -> None:
    alpha = await things_of(caisson)
    project = await caisson.project("alpha")
    for path in ("/v1/containers", "/v1/registries", "/v1/capsules"):
        for query in ("", f"?project_id={project}", "?name=alpha.example", "?all_projects=no"):
            answer = await caisson.ok("GET", path + query, who="foreign")
            assert answer[path.rpartition("/")[2]] == []
    answer = await caisson.call("GET", f"/v1/containers?marker={alpha.ids['box']}", who="foreign")
    assert answer.status_code == 404


async def test_the_same_question_of_two_projects_has_two_answers(caisson: Caisson) -> None:
    """Answers may be kept: what one project asked for must not be another's answer."""
    mine = await caisson.made(name="same", run=True)
    for _ in range(2):
        assert (await caisson.show("same"))["uuid"] == mine["uuid"]
        assert (await caisson.call("GET", "/v1/containers/same", who="foreign")).status_code == 404
        assert len((await caisson.ok("GET", "/v1/containers"))["containers"]) == 1
        assert (await caisson.ok("GET", "/v1/containers", who="foreign"))["containers"] == []
    theirs = await caisson.made(name="same", who="foreign")
    for _ in range(2):
        assert (await caisson.show("same", who="foreign"))["uuid"] == theirs["uuid"]
        assert (await caisson.show("same"))["uuid"] == mine["uuid"]
    # And what an administrator may see is not shown to a member.
    assert "host" in await caisson.show(mine["uuid"], who="admin")
    assert "host" not in await caisson.show(mine["uuid"])


async def test_an_answer_is_new_after_every_change(caisson: Caisson) -> None:
    box = await caisson.made(name="fresh")
    for verb, status in (("start", "Running"), ("pause", "Paused"), ("unpause", "Running"), ("stop", "Stopped")):
        await caisson.show("fresh")
        await caisson.ok("GET", "/v1/containers")
        await caisson.ok("POST", f"/v1/containers/fresh/{verb}")
        await caisson.until("fresh", status)
        (listed,) = (await caisson.ok("GET", "/v1/containers"))["containers"]
        assert listed["status"] == status
    await caisson.ok("DELETE", "/v1/containers/fresh")
    await caisson.until_gone(box["uuid"])
    assert (await caisson.ok("GET", "/v1/containers"))["containers"] == []
    assert (await caisson.call("GET", "/v1/containers/fresh")).status_code == 404
