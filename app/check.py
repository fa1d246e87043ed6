"""``caisson check``: whether an installation is fit to serve, in plain sentences. It changes nothing."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol, runtime_checkable

from app.advisories import open_holes
from app.backends import load
from app.backends.engine import ContainerEngine
from app.db import Database
from app.errors import GatewayError
from app.identity import check_binding
from app.keystone import Keystone
from app.policy import Policy
from app.schema import Standing
from app.sealed import count
from app.settings import Settings
from app.vault import Vault, open_vault


@dataclass(frozen=True, slots=True)
class Finding:
    """One sentence; `good` is false for what keeps the installation from being fit."""

    text: str
    good: bool = True


@runtime_checkable
class Assembled(Protocol):
    """An engine that tells what it is made of."""

    async def components(self) -> dict[str, str]:
        """The version of each part, by its name. Raises Unavailable."""
        ...


@runtime_checkable
class Fencing(Protocol):
    """An engine whose containers can be kept from its host."""

    may_fence: bool


async def examine(settings: Settings) -> AsyncIterator[Finding]:
    """Look at everything, one thing after the other; what cannot be looked at is a finding as well."""
    yield Finding("the settings can be read")
    for look in (_binding, _policy, _database, _identity):
        async for finding in _safely(settings, look):
            yield finding
    for name in settings.backends:
        async for finding in _safely(settings, partial(_engine, name=name)):
            yield finding


async def _safely(settings: Settings, look: Callable[[Settings], Awaitable[list[Finding]]]) -> AsyncIterator[Finding]:
    try:
        for finding in await look(settings):
            yield finding
    except GatewayError as error:
        yield Finding(error.title, good=False)


async def _binding(settings: Settings) -> list[Finding]:
    check_binding(settings)
    return []


async def _policy(settings: Settings) -> list[Finding]:
    Policy(settings.policy_file)
    return [] if settings.policy_file is None else [Finding(f"the policy file {settings.policy_file} can be read")]


async def _database(settings: Settings) -> list[Finding]:
    if not settings.data_dir.is_dir() and settings.database_url is None:
        return [Finding("there is no database yet; the first start makes it", good=settings.migrate_on_start)]
    database = Database(settings.database)
    try:
        schema = await database.schema()
        if schema.standing is Standing.CURRENT:
            found = Finding(f"the database has schema {schema.found}, the newest")
            return [found, *await _secrets(database, open_vault(settings))]
        mended = settings.migrate_on_start and schema.standing is not Standing.NEWER
        by_itself = "; the next start does so by itself" if mended else ""
        return [Finding(f"{schema.problem()}{by_itself}", good=mended)]
    finally:
        await database.close()


async def _secrets(database: Database, vault: Vault) -> list[Finding]:
    counted = await count(database, vault)
    found = [Finding(f"{counted['newest']} secrets are under the newest key")]
    if counted["older"]:
        found.append(
            Finding(f"{counted['older']} secrets are under older keys: run caisson secrets rotate", good=False)
        )
    if counted["lost"]:
        found.append(Finding(f"{counted['lost']} secrets fit none of the keys (CAISSON_SECRET_KEY)", good=False))
    return found


async def _identity(settings: Settings) -> list[Finding]:
    if settings.keystone is None:
        return [Finding("the embedded identity says who is calling")]
    keystone = Keystone(settings.keystone)
    try:
        await keystone.check()
    finally:
        await keystone.close()
    return [Finding(f"Keystone at {settings.keystone.url} lets Caisson log in")]


async def _engine(settings: Settings, name: str) -> list[Finding]:
    backend = settings.backends[name]
    engine = load(name, backend, settings)
    try:
        info = await engine.ping()
        about = f"{backend.kind} {info.version} on {info.hostname}, API {info.api_version}"
        return [Finding(f"engine {name}: {about}"), *_fence(name, engine), *await _holes(settings, name, engine)]
    except GatewayError as error:
        return [Finding(f"engine {name}: {error.title}", good=False)]
    finally:
        await engine.close()


def _fence(name: str, engine: ContainerEngine) -> list[Finding]:
    if not isinstance(engine, Fencing):
        return []
    whose = "by Caisson" if engine.may_fence else "by nobody, unless you do it: docs/security.md, The fence"
    return [Finding(f"engine {name}: containers are kept from its host {whose}")]


async def _holes(settings: Settings, name: str, engine: ContainerEngine) -> list[Finding]:
    if not isinstance(engine, Assembled):
        return []
    found = []
    for advisory, version in open_holes(await engine.components()):
        told = f"engine {name}: {advisory.component} {version} may have {advisory.cve}: {advisory.what}"
        if advisory.cve in settings.accepted_advisories:
            found.append(Finding(f"{told}; accepted by the settings"))
        else:
            told += (
                f"; closed in {' and '.join(advisory.fixed)}. If your distribution closed it in this version, "
                "name it in CAISSON_ACCEPTED_ADVISORIES"
            )
            found.append(Finding(told, good=False))
    return found
