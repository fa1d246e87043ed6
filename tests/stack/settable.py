"""A clock that a test sets: a database's, with PostgreSQL's and SQLite's own means, or that of whole processes."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import make_url
from sqlalchemy.pool import Pool

from tests.stack.debian import program
from tests.stack.postgres import Postgres

# Found before PostgreSQL's own, because the search path names this schema first.
SCHEMA = """
CREATE SCHEMA settable;
CREATE TABLE settable.clock AS SELECT 0.0 AS ahead;
CREATE FUNCTION settable.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE AS
    'SELECT pg_catalog.clock_timestamp() + ahead * interval ''1 second'' FROM settable.clock';
"""


class Clock:
    """How far the clock of a database is ahead of the machine's."""

    def __init__(self, server: Postgres | None = None, name: str = "") -> None:
        self.ahead = 0.0
        self._server, self._name = server, name

    def julian_day(self, _: str) -> float:
        """What SQLite is told instead of the time."""
        return (time.time() + self.ahead) / 86400.0 + 2440587.5

    async def set(self, ahead: float) -> None:
        """Let it be so many seconds ahead."""
        self.ahead = ahead
        if self._server is not None:
            statement = f"UPDATE settable.clock SET ahead = {ahead}"
            await asyncio.to_thread(self._server.sql, statement, self._name)


class ProcessClock:
    """The clock of every process that is started with its `environment`; how long something takes stays true."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "ahead"
        self._file.write_text("+0")
        self.environment = {
            "LD_PRELOAD": str(program("libfaketime.so.1")),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            # A mend for an old C library: with it, threads that wait for Python's lock ask all the time instead.
            "FAKETIME_FORCE_MONOTONIC_FIX": "0",
        }

    async def set(self, ahead: float) -> None:
        """Let it be so many seconds ahead, within a second."""
        draft = self._file.with_name("draft")
        draft.write_text(f"{ahead:+}")
        draft.replace(self._file)


@contextmanager
def settable(url: str, server: Postgres | None) -> Iterator[Clock]:
    """The clock of this database, for connections that are opened from now on. `server` has it, if none is SQLite's."""
    if server is not None:
        name = str(make_url(url).database)
        server.sql(SCHEMA, name)
        server.sql(f'ALTER DATABASE "{name}" SET search_path = settable, pg_catalog, public')
        yield Clock(server, name)
        return
    clock = Clock()

    def connected(connection: Any, record: Any) -> None:
        connection.create_function("julianday", 1, clock.julian_day)

    event.listen(Pool, "connect", connected)
    try:
        yield clock
    finally:
        event.remove(Pool, "connect", connected)
