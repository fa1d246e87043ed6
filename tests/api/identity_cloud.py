"""What the tests of the embedded identity share: one that is served in process, and a gateway that asks it."""

import asyncio
import base64
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

from app.auth import Authenticator, AuthMiddleware
from app.db import Database
from app.identity import ROLE_IDS, EmbeddedIdentity
from app.routers.identity import identity_api
from app.settings import IdentitySettings, Settings
from app.vault import Vault

PASSWORD = "pw-of-admin"
DEFAULT = {"id": "default"}


class Cloud:
    """An embedded identity, a gateway that asks it, and a client of both."""

    def __init__(self, identity: EmbeddedIdentity, client: httpx.AsyncClient, database: Database) -> None:
        self.identity = identity
        self.database = database
        self._client = client

    async def call(
        self, method: str, path: str, token: str = "", body: Any = None, subject: str = "", **request: Any
    ) -> httpx.Response:
        headers = {"X-Auth-Token": token, "X-Subject-Token": subject}
        sent = {name: value for name, value in headers.items() if value}
        return await self._client.request(method, path, headers=sent, json=body, **request)

    async def v3(self, method: str, path: str, token: str = "", body: Any = None, **more: Any) -> httpx.Response:
        return await self.call(method, f"/identity/v3{path}", token, body, **more)

    async def log_in(self, identity: dict[str, Any], scope: Any = None) -> httpx.Response:
        body = {"auth": {"identity": identity} | ({"scope": scope} if scope is not None else {})}
        return await self.v3("POST", "/auth/tokens", body=body)

    async def by_password(self, name: str = "admin", password: str = PASSWORD, scope: Any = None) -> httpx.Response:
        user = {"name": name, "domain": DEFAULT, "password": password}
        return await self.log_in({"methods": ["password"], "password": {"user": user}}, scope)

    async def token(self, name: str = "admin", password: str = PASSWORD, scope: Any = None) -> str:
        answer = await self.by_password(name, password, scope)
        assert answer.status_code == 201, answer.text
        return answer.headers["X-Subject-Token"]

    async def by_credential(self, credential: dict[str, Any]) -> httpx.Response:
        return await self.log_in({"methods": ["application_credential"], "application_credential": credential})

    async def by_token(self, token: str, scope: Any = None) -> httpx.Response:
        return await self.log_in({"methods": ["token"], "token": {"id": token}}, scope)

    async def made(self, admin: str, path: str, noun: str, **fields: Any) -> dict[str, Any]:
        answer = await self.v3("POST", path, admin, {noun: fields})
        assert answer.status_code == 201, answer.text
        made: dict[str, Any] = answer.json()[noun]
        return made

    async def member(self, admin: str, name: str = "alice", role: str = "member") -> str:
        """Makes a user with a role on the project demo, which is its default, and the password "pw". Returns its id."""
        project = (await self.v3("GET", "/projects?name=demo", admin)).json()["projects"][0]["id"]
        user = await self.made(admin, "/users", "user", name=name, password="pw", default_project_id=project)
        answer = await self.v3("PUT", f"/projects/{project}/users/{user['id']}/roles/{ROLE_IDS[role]}", admin)
        assert answer.status_code == 204
        return str(user["id"])

    async def who(self, token: str) -> httpx.Response:
        """What the gateway makes of a token."""
        return await self.call("GET", "/who", token)


async def who(request: Request) -> JSONResponse:
    """The route of the gateway that tells who is calling."""
    caller = request.state.caller
    return JSONResponse({"user": caller.user_name, "project": caller.project_name, "roles": sorted(caller.roles)})


def configured(folder: Path, **more: Any) -> Settings:
    """Settings with a known first password."""
    return Settings(data_dir=folder, identity=IdentitySettings(admin_password=SecretStr(PASSWORD)), **more)


@asynccontextmanager
async def serving(settings: Settings, url: str, *, migrate: bool = True) -> AsyncIterator[Cloud]:
    """A cloud on this database, which is brought to the newest schema first."""
    database = Database(url)
    try:
        if migrate:
            await database.migrate()
        identity = EmbeddedIdentity(database, settings, Vault("key"))
        await identity.prepare()
        authenticator = Authenticator(identity, 60)
        identity.changed = authenticator.forget
        routes = [Mount("/identity", identity_api(identity, settings)), Route("/who", who)]
        app = AuthMiddleware(Starlette(routes=routes), authenticator, lambda path: path.startswith("/identity"))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            yield Cloud(identity, client, database)
        await authenticator.close()
    finally:
        await database.close()


class Prepared:
    """An identity after its first start, with a user alice, and tokens of both: made once, since hashing is slow."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "caisson.db"
        self.admin, self.alice, self.alice_id = asyncio.run(self._make(folder))

    async def _make(self, folder: Path) -> tuple[str, str, str]:
        async with serving(configured(folder), f"sqlite+aiosqlite:///{self._file}") as cloud:
            admin = await cloud.token()
            alice_id = await cloud.member(admin)
            return admin, await cloud.token("alice", "pw"), alice_id

    @asynccontextmanager
    async def copied(self, folder: Path, **settings: Any) -> AsyncIterator[Cloud]:
        """A cloud on a copy of its own."""
        shutil.copy(self._file, folder / "caisson.db")
        url = f"sqlite+aiosqlite:///{folder}/caisson.db"
        async with serving(configured(folder, **settings), url, migrate=False) as cloud:
            yield cloud


def error_of(answer: httpx.Response) -> dict[str, Any]:
    """The error object of an answer that must be in Keystone's shape."""
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) == {"code", "message", "title"}
    assert error["code"] == answer.status_code
    assert error["message"]
    return error


def b64(value: Any) -> str:
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(text).rstrip(b"=").decode()


def claims_of(token: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
    return content
