"""Caisson in process, on the engine in memory, with its embedded identity and a few people who use it.

One application serves many tests, since starting one takes seconds: each test gets projects of its own.
"""

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx
from fastapi import FastAPI
from pydantic import SecretStr
from sqlmodel import select

from app.backends import Drivers, Engines
from app.db import EVERYTHING, in_transaction
from app.gateway import Gateway
from app.identity import ROLE_IDS
from app.main import create_app
from app.models import Action, Capsule, ClusterQuota, Container, Host, Image, InjectedFile, Registry, Volume
from app.settings import ClusterSettings, Flavor, IdentitySettings, NodeImage, Settings
from tests.fake import FakeEngine
from tests.fake_driver import FakeDriver

ADMIN_PASSWORD = "pw-of-admin"
PATIENCE = 15.0  # seconds until a wait fails; nothing is asserted about how long things take
BUSY = "busybox"  # an image that the engine holds, whose command is a shell
PEOPLE = {"member": ("alpha", "member"), "reader": ("alpha", "reader"), "foreign": ("beta", "member")}
"""Who: their project and role. Beside them there is ``admin``, of a third project."""
CLUSTERS: dict[str, Any] = {
    "clusters": ClusterSettings(
        images={name: NodeImage(os_distro="ubuntu") for name in (BUSY, "swarm-node", "other-node")},
        flavors={name: Flavor(cpus=1, memory=512) for name in ("m1.small", "small")},
        keypairs=["default"],
    )
}
Row = TypeVar("Row", Action, Capsule, ClusterQuota, Container, Host, Image, InjectedFile, Registry, Volume)


class StrictEngine(FakeEngine):
    """Refuses to be called by a task that holds a database transaction open."""

    @asynccontextmanager
    async def _verb(self, verb: str) -> AsyncIterator[None]:
        assert not in_transaction.get(), f"{verb} within a transaction"
        async with super()._verb(verb):
            yield


@dataclass(frozen=True, slots=True)
class Running:
    """A running application with all its layers, its parts, a client, and the token of its administrator."""

    app: Any
    api: FastAPI
    engine: StrictEngine
    client: httpx.AsyncClient
    logins: Mapping[str, str]

    @property
    def gateway(self) -> Gateway:
        gateway: Gateway = self.api.state.gateway
        return gateway

    @property
    def settings(self) -> Settings:
        return self.gateway.settings

    def driver(self, name: str = "kubernetes") -> FakeDriver:
        """The driver in memory that makes clusters of this kind."""
        driver = self.gateway.drivers.find(name, self.engine.name)
        assert isinstance(driver, FakeDriver)
        return driver

    async def forget_zones(self) -> None:
        """Let go of the engines of clusters that are gone: once to settle what is left of them, then of themselves."""
        for _ in range(2):
            await self.gateway.zones.follow()

    async def identity(self, method: str, path: str, token: str, body: Any = None) -> httpx.Response:
        answer = await self.client.request(
            method, f"/identity/v3{path}", headers={"X-Auth-Token": token} if token else {}, json=body
        )
        assert answer.status_code < 300, answer.text
        return answer

    async def granted(self, project: str, who: str, role: str) -> str:
        """A token of one of `people` who has this role in a project from now on."""
        grant = f"/projects/{project}/users/{self.logins[f'id of {who}']}/roles/{ROLE_IDS[role]}"
        await self.identity("PUT", grant, self.logins["admin"])
        method = {"methods": ["token"], "token": {"id": self.logins[who]}}
        body = {"auth": {"identity": method, "scope": {"project": {"id": project}}}}
        answer = await self.identity("POST", "/auth/tokens", "", body)
        return answer.headers["X-Subject-Token"]

    async def rows(self, kind: type[Row], *where: Any) -> list[Row]:
        async with self.gateway.database.reading(EVERYTHING) as session:
            return list((await session.exec(select(kind).where(*where).order_by(kind.id))).all())  # type: ignore[arg-type]  # a column at class level


class Caisson:
    """What a test works with: fresh projects ``alpha`` and ``beta``, and tokens for whom `PEOPLE` names, and admin.

    Projects and tokens are made when they are first used: most tests need one of each.
    """

    def __init__(self, running: Running) -> None:
        self.running = running
        self._tag = secrets.token_hex(6)
        self._projects: dict[str, str] = {}
        self._tokens = {"admin": running.logins["admin"]}

    @property
    def engine(self) -> StrictEngine:
        return self.running.engine

    @property
    def settings(self) -> Settings:
        return self.running.settings

    @property
    def projects(self) -> list[str]:
        """The ids of those that were used by now."""
        return list(self._projects.values())

    async def project(self, name: str) -> str:
        """The id of ``alpha`` or ``beta``."""
        if name not in self._projects:
            body = {"project": {"name": f"{name}-{self._tag}"}}
            made = await self.running.identity("POST", "/projects", self.running.logins["admin"], body)
            self._projects[name] = made.json()["project"]["id"]
        return self._projects[name]

    async def token(self, who: str) -> str:
        """A token of somebody; what is no one's name is a token already."""
        if who in PEOPLE and who not in self._tokens:
            project, role = await self.project(PEOPLE[who][0]), PEOPLE[who][1]
            self._tokens[who] = await self.running.granted(project, who, role)
        return self._tokens.get(who, who)

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        who: str | None = "member",
        version: str | None = "container 1.40",
        raw: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """One request. `who` is somebody of `PEOPLE`, ``admin``, a token, or None for nobody."""
        sent = dict(headers or {})
        if who is not None:
            sent["X-Auth-Token"] = await self.token(who)
        if version is not None:
            sent["OpenStack-API-Version"] = version
        content = raw
        if raw is None and body is not None:
            content = json.dumps(body).encode()
        if content is not None and "Content-Type" not in sent:
            sent["Content-Type"] = "application/json"
        answer = await self.running.client.request(method, path, headers=sent, content=content)
        assert answer.status_code < 500 or answer.status_code in (501, 502, 503), answer.text
        return answer

    async def ok(self, method: str, path: str, body: Any = None, **more: Any) -> Any:
        """As `call`, for what must succeed. Returns the decoded body."""
        answer = await self.call(method, path, body, **more)
        assert answer.status_code < 300, f"{answer.status_code} {answer.text}"
        return answer.json() if answer.content else None

    async def create(self, *, run: bool = False, who: str = "member", **fields: Any) -> dict[str, Any]:
        """Ask for a container; returns the answer's body at once."""
        body = {"image": BUSY, "command": ["sleep", "1000"]} | fields
        made: dict[str, Any] = await self.ok("POST", f"/v1/containers?run={run}", body, who=who)
        return made

    async def made(self, *, run: bool = False, who: str = "member", **fields: Any) -> dict[str, Any]:
        """As `create`; returns the container when its status says that it is ready."""
        uuid = (await self.create(run=run, who=who, **fields))["uuid"]
        return await self.until(uuid, "Running" if run else "Created", who=who)

    async def show(self, uuid: str, *, who: str = "member") -> dict[str, Any]:
        shown: dict[str, Any] = await self.ok("GET", f"/v1/containers/{uuid}", who=who)
        return shown

    async def until(self, uuid: str, *statuses: str, who: str = "member") -> dict[str, Any]:
        """Wait until the container has one of the statuses and nothing is under way."""
        shown: dict[str, Any] = {}

        async def there() -> bool:
            nonlocal shown
            idle = not await self.unfinished(uuid)  # asked first, or what is shown may be older than the end
            shown = await self.show(uuid, who=who)
            return shown["status"] in statuses and shown["task_state"] is None and idle

        await eventually(there, lambda: f"{statuses}: {shown.get('status')}, {shown.get('status_reason')}")
        return shown

    async def until_gone(self, uuid: str) -> None:
        async def gone() -> bool:
            return not await self.running.rows(Container, Container.uuid == uuid)

        await eventually(gone, lambda: f"{uuid} is still there")

    async def actions(self, uuid: str) -> list[Action]:
        """What the log holds of a resource, oldest first."""
        return await self.running.rows(Action, Action.resource_id == uuid)

    async def unfinished(self, uuid: str) -> bool:
        return any(action.finished_at is None for action in await self.actions(uuid))

    async def put(self, **columns: Any) -> Container:
        """Store a container as a row only, whatever its status: nothing stands behind it in the engine."""
        row: dict[str, Any] = {
            "project_id": await self.project("alpha"),
            "user_id": "u",
            "name": "row",
            "image": BUSY,
            "backend": self.engine.name,
            "host": "local-host",
            "created_at": 1.0,
        }
        box = Container(**(row | columns))
        async with self.running.gateway.database.transaction(EVERYTHING) as session:
            session.add(box)
        return box

    async def nothing_stored(self) -> None:
        """What was refused leaves no row, no action and no engine object."""
        projects = set(self._projects.values())
        stored: list[Any] = []
        for kind in (Container, Capsule, Image, Registry, Action):
            stored += await self.running.rows(kind)
        assert not [row for row in stored if row.project_id in projects]
        assert not [seen for seen in await self.engine.find_all() if seen.project_id in projects]


async def eventually(
    true: Callable[[], Awaitable[bool]], what: Callable[[], str], seconds: float = PATIENCE, every: float = 0.01
) -> None:
    """Ask again and again; fails with `what` when it is not so in time."""
    deadline = time.monotonic() + seconds
    while not await true():
        assert time.monotonic() < deadline, what()
        await asyncio.sleep(every)


def error_of(answer: httpx.Response, status: int, code: str = "") -> dict[str, Any]:
    """The error object of an answer that must be in Zun's envelope, with this status and code."""
    assert answer.status_code == status, f"{answer.status_code} {answer.text}"
    assert answer.headers["content-type"] == "application/json"
    errors = answer.json()["errors"]
    assert len(errors) == 1
    error: dict[str, Any] = errors[0]
    assert set(error) >= {"request_id", "code", "status", "title", "detail", "links"}
    assert error["status"] == status
    assert error["code"] == f"container.{code}"
    assert isinstance(error["title"], str)
    assert error["title"]
    assert isinstance(error["detail"], str)
    assert error["links"] == []
    assert error["request_id"] == answer.headers["x-openstack-request-id"]
    return error


@asynccontextmanager
async def running(
    url: str, folder: Any, people: Sequence[str] = tuple(PEOPLE), driver: type[FakeDriver] = FakeDriver, **more: Any
) -> AsyncIterator[Running]:
    """An application on this database. `people` can log in; `more` are settings."""
    settings = Settings(
        data_dir=folder,
        database_url=url,
        secret_key=SecretStr("key"),
        identity=IdentitySettings(admin_password=SecretStr(ADMIN_PASSWORD)),
        **({"poll_seconds": 0.2, "observe_seconds": 3600} | CLUSTERS | more),
    )
    engine = StrictEngine("local")
    engine.add_image(BUSY)
    drivers = Drivers({(name, "local"): driver(name) for name in ("kubernetes", "swarm")})
    app = create_app(settings, Engines({"local": engine}), drivers)
    api = app
    while not isinstance(api, FastAPI):
        api = next(vars(api)[name] for name in ("app", "_app") if name in vars(api))
    async with lifespan(app), httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        found = Running(app, api, engine, client, {})
        await eventually(_pinged(found), lambda: "the engine was not pinged")
        yield Running(app, api, engine, client, await _logins(found, people))


def _pinged(found: Running) -> Callable[[], Awaitable[bool]]:
    async def pinged() -> bool:
        return found.gateway.engines.info("local") is not None

    return pinged


async def _logins(found: Running, people: Sequence[str]) -> dict[str, str]:
    """A token for each of `people`, good for being exchanged, and one for admin."""
    tokens = {"admin": await _log_in(found, "admin", ADMIN_PASSWORD)}
    for name in people:
        user = {"user": {"name": name, "password": "pw"}}
        tokens[f"id of {name}"] = (await found.identity("POST", "/users", tokens["admin"], user)).json()["user"]["id"]
        tokens[name] = await _log_in(found, name, "pw")
    return tokens


async def _log_in(found: Running, name: str, password: str) -> str:
    user = {"name": name, "domain": {"id": "default"}, "password": password}
    methods = {"methods": ["password"], "password": {"user": user}}
    answer = await found.identity("POST", "/auth/tokens", "", {"auth": {"identity": methods}})
    return answer.headers["X-Subject-Token"]


@asynccontextmanager
async def lifespan(app: Any) -> AsyncIterator[None]:
    """Start an ASGI application and stop it, as a server does. Raises RuntimeError when it does not start."""
    events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    answers: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    task = asyncio.create_task(app({"type": "lifespan", "asgi": {"version": "3.0"}}, events.get, answers.put))
    try:
        await events.put({"type": "lifespan.startup"})
        if (started := await answers.get())["type"] != "lifespan.startup.complete":
            raise RuntimeError(started.get("message", ""))
        yield
        await events.put({"type": "lifespan.shutdown"})
        assert (await answers.get())["type"] == "lifespan.shutdown.complete"
    finally:
        await task
