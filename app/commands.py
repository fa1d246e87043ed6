"""What the commands of `app.__main__` do."""

import argparse
import asyncio
import json
import logging
import os
import socket
import sys
from dataclasses import asdict
from typing import Any

import structlog
from pydantic import ValidationError

from app import policy
from app.backends import DriverKind, Engines, load, load_drivers
from app.backends.driver import ClusterType
from app.backup import copy
from app.check import examine
from app.db import Database
from app.errors import GatewayError
from app.lock import only_process
from app.schema import Standing
from app.sealed import rotate
from app.server import serve
from app.settings import Settings
from app.vault import kept_keys, new_key


def run(options: argparse.Namespace) -> int:
    """Run the command that was said. Returns the exit code; what is wrong is one line on standard error."""
    try:
        return _run(options)
    except ValidationError as error:
        for found in error.errors():
            print(f"caisson: setting {'.'.join(map(str, found['loc']))}: {found['msg']}", file=sys.stderr)
    except GatewayError as error:
        print(f"caisson: {error.title}", file=sys.stderr)
    return 2


def _run(options: argparse.Namespace) -> int:
    if options.command == "policy":
        print(policy.sample(), end="")
        return 0
    if options.command == "secrets" and options.what == "new-key":
        print(new_key())
        return 0
    given = {key: value for key in ("host", "port", "data_dir") if (value := getattr(options, key, None)) is not None}
    settings = Settings(**given)
    _log_setup()
    if options.command == "serve":
        return _serve(settings)
    if options.command == "drivers":
        print(asyncio.run(_drivers(settings, details=options.details, as_json=options.format == "json")))
        return 0
    if options.command == "migrate":
        return asyncio.run(_migrate(settings))
    if options.command == "backup":
        print("".join(f"caisson: copied to {path}\n" for path in copy(settings, options.folder)), end="")
        return 0
    if options.command == "secrets":
        key = kept_keys(options.key_file)[0] if options.key_file else None
        changed = asyncio.run(rotate(settings, key))
        print(f"caisson: {changed} secrets are under the newest key now; nothing needs an older one")
        return 0
    return asyncio.run(_check(settings))


def _serve(settings: Settings) -> int:
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    # The lifespan holds this lock, and migrates; what hinders either would be told by a traceback there, and is a line
    # here.
    with only_process(settings):
        asyncio.run(_fits(settings))
    try:
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        listener = socket.create_server((settings.host, settings.port), family=family, backlog=512)
    except OSError as error:
        print(f"caisson: cannot listen on {settings.host}:{settings.port}: {error.strerror}", file=sys.stderr)
        return 1
    return 0 if serve(settings, listener) else 1


async def _fits(settings: Settings) -> None:
    """Raises Invalid when the database is not one that this program can serve, or bring there."""
    database = Database(settings.database)
    try:
        schema = await database.schema()
        if schema.standing is Standing.NEWER or not settings.migrate_on_start:
            await database.require_schema()
    finally:
        await database.close()


async def _migrate(settings: Settings) -> int:
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    database = Database(settings.database)
    try:
        await database.migrate()
    finally:
        await database.close()
    print("caisson: the database has the newest schema")
    return 0


async def _check(settings: Settings) -> int:
    """Every finding in a line; what keeps the installation from being fit goes to standard error."""
    unfit = 0
    async for finding in examine(settings):
        unfit += not finding.good
        print(f"caisson: {finding.text}", file=sys.stdout if finding.good else sys.stderr)
    if unfit:
        print(f"caisson: not fit to serve: {unfit} of the findings above", file=sys.stderr)
    return 1 if unfit else 0


async def _drivers(settings: Settings, *, details: bool, as_json: bool) -> str:
    """All installed drivers (magnum-api, section 11); in detail a line for each kind of cluster that one makes."""
    engines = Engines({name: load(name, backend, settings) for name, backend in settings.backends.items()})
    drivers = load_drivers(engines, settings)
    try:
        rows = [row for kind in drivers.kinds() for row in _described(kind, details=details)]
    finally:
        await drivers.close()
        await engines.close()
    if as_json:
        return json.dumps(rows, indent=2)
    heads = ["name", "enabled", *(["server_type", "os", "coe"] if details else [])]
    lines = [heads, *([str(row[head]) for head in heads] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def _described(kind: DriverKind, *, details: bool) -> list[dict[str, Any]]:
    known: dict[str, Any] = {"name": kind.name, "enabled": kind.enabled}
    if not details:
        return [known]
    return [known | asdict(made) for made in kind.provides or [ClusterType("-", "-", "-")]]


def _log_setup() -> None:
    """One line an event on standard error: text for people, JSON where CAISSON_LOG_JSON is set."""
    as_json = bool(os.environ.get("CAISSON_LOG_JSON"))
    renderer = structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer(colors=False)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
