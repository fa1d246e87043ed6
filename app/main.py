"""Assembly: settings in, a running application out."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import structlog
from fastapi import FastAPI
from starlette.types import ASGIApp

import app.steps  # noqa: F401  # the worker runs what is registered by then
from app import audit, cluster_watch, documents, firewall, hosts, observe, refusals
from app.auditing import Audited
from app.auth import Authenticator, AuthMiddleware, TokenSource
from app.backends import Drivers, Engines, load, load_drivers
from app.cluster_zones import Zones
from app.db import Database
from app.gate import Gate, Intake, is_public, render
from app.gateway import Gateway
from app.health import Draining, Health
from app.identity import EmbeddedIdentity, check_binding
from app.keystone import Keystone
from app.limits import Limits
from app.lock import only_process
from app.policy import Policy
from app.routers import container_api, container_infra_api
from app.routers.identity import identity_api
from app.settings import Settings
from app.streams import Streams
from app.vault import Vault, open_vault
from app.versions import VersionMiddleware
from app.worker import Worker

log = structlog.get_logger("caisson.main")


def create_app(
    settings: Settings,
    engines: Engines | None = None,
    drivers: Drivers | None = None,
    draining: Draining | None = None,
) -> ASGIApp:
    """The whole service as one ASGI application. Raises Invalid for settings that cannot work.

    `engines` replaces the configured ones, and `drivers` those that are installed, for tests. `draining` is set by
    whoever serves it.
    """
    vault = open_vault(settings)
    database = Database(settings.database)
    if engines is None:
        engines = Engines({name: load(name, backend, settings) for name, backend in settings.backends.items()})
    if drivers is None:
        drivers = load_drivers(engines, settings)
    source, embedded = _identity(settings, database, vault)
    catalogue = source if isinstance(source, Keystone) else None
    worker = Worker(database, engines, settings, vault, catalogue, drivers)
    health = Health(database, source, engines.hosts, worker, draining or Draining())
    gateway = Gateway(
        settings, database, engines, Authenticator(source, _cache_seconds(settings)), Policy(settings.policy_file),
        vault, worker.wake, Zones(database, engines, drivers, settings, vault, worker.wake), health, catalogue,
        drivers,
    )  # fmt: skip

    @asynccontextmanager
    async def lifespan(api: FastAPI) -> AsyncIterator[None]:
        async with _running(gateway, worker, embedded):
            yield

    api = FastAPI(
        title="Caisson",
        summary="OpenStack's container services in one process",
        version="1.40",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        # As they are: FastAPI would make each route that it includes once more, at the first request.
        routes=[route for router in (*container_api(), *container_infra_api()) for route in router.routes],
    )
    api.state.gateway = gateway
    if embedded is not None:
        embedded.changed = gateway.authenticator.forget
        api.mount("/identity", identity_api(embedded, settings))
    documents.install(api)
    refusals.install(api)
    return _layers(api, gateway)


def _layers(api: FastAPI, gateway: Gateway) -> ASGIApp:
    settings = gateway.settings
    taken_in = Intake(api, settings.max_body_bytes, settings.max_archive_bytes, settings.body_seconds)
    limited = Limits(VersionMiddleware(taken_in, render), settings.limits)
    audited = Audited(AuthMiddleware(limited, gateway.authenticator, is_public), settings.audit_reads)
    return Streams(Gate(audited, gateway.health.draining), gateway)


def _identity(settings: Settings, database: Database, vault: Vault) -> tuple[TokenSource, EmbeddedIdentity | None]:
    if settings.keystone is not None:
        return Keystone(settings.keystone), None
    check_binding(settings)
    embedded = EmbeddedIdentity(database, settings, vault)
    return embedded, embedded


def _cache_seconds(settings: Settings) -> float:
    if settings.keystone is not None:
        return settings.keystone.cache_seconds
    # One process hears at once of every change to its own identity; replicas do not hear of each other's.
    return 60.0 if settings.database.startswith("sqlite") else 5.0


@asynccontextmanager
async def _running(gateway: Gateway, worker: Worker, embedded: EmbeddedIdentity | None) -> AsyncIterator[None]:
    """Everything that lives as long as the process serves."""
    settings, database, engines = gateway.settings, gateway.database, gateway.engines
    with only_process(settings), audit.writing(settings.audit_file):
        try:
            if settings.migrate_on_start:
                await database.migrate()
            else:
                await database.require_schema()
            if embedded is not None and (password := await embedded.prepare()) is not None:
                sys.stdout.write(f"caisson: first start: user admin, project demo, password {password}\n")
                sys.stdout.flush()
            engines.belong_to(await hosts.installation(database))
            await observe.ensure(database, engines.hosts)
            await cluster_watch.ensure(database, gateway.drivers.backends())
            if gateway.catalogue is not None:
                await firewall.ensure(database, engines.hosts)
            await gateway.zones.follow()
            background = [asyncio.create_task(engines.keep_pinging(partial(_report, gateway)))]
            background += [
                asyncio.create_task(observe.watch(engines[name], database, settings, worker.wake))
                for name in engines.hosts
            ]
            background.append(asyncio.create_task(gateway.zones.keep_following()))
            worker.start()
            yield
            for task in background:
                task.cancel()
            await asyncio.gather(*background, return_exceptions=True)
            await gateway.zones.close()
            await worker.stop()
        finally:
            await gateway.drivers.close()
            await engines.close()
            await gateway.authenticator.close()
            await database.close()


async def _report(gateway: Gateway, engine: str) -> None:
    """An engine answered its ping."""
    gateway.health.answered(engine)
    await hosts.report(gateway.database, gateway.engines, gateway.settings, engine)
