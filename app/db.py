"""The database: two engines over one URL, one way to open a session, and tenancy inside it.

A session carries a `Scope`: one project, or EVERYTHING. In a project's scope every ORM statement on an owned table gets
``project_id = :scope``, joins, subqueries and relationship loads included; what cannot be confined (Core statements on
bare tables, text, bulk inserts) is refused, and so is flushing a row of another project. A careless query can thus be
wrong, but it cannot show one tenant's rows to another. See docs/scoping.md.

SQLite: WAL, one writer at a time (a pool of one connection), readers beside it. PostgreSQL: READ COMMITTED.
Reads run in autocommit: one statement each, no BEGIN and no COMMIT to pay for.
"""

import asyncio
import sqlite3
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from threading import Thread
from typing import Any
from weakref import WeakSet

import aiosqlite
import structlog
from sqlalchemy import and_, bindparam, event, func, inspect, not_, or_
from sqlalchemy import select as columns
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import LoaderCriteriaOption, ORMExecuteState, UOWTransaction, with_loader_criteria
from sqlalchemy.pool import AsyncAdaptedQueuePool
from sqlalchemy.sql.expression import FunctionElement
from sqlalchemy.types import Float
from sqlmodel import Session, SQLModel, select
from sqlmodel.ext.asyncio.session import AsyncSession

from app.answers import Answer, Answers
from app.errors import Busy, Invalid
from app.models import ClusterTemplate, Owned, Resource
from app.schema import Schema, look, upgrade

log = structlog.get_logger("caisson.db")


@dataclass(frozen=True, slots=True)
class Scope:
    """Whose rows a session may see: one project's, or all (`project_id` None)."""

    project_id: str | None


EVERYTHING = Scope(None)

in_transaction: ContextVar[bool] = ContextVar("in_transaction", default=False)
"""True while this task holds a database transaction: nothing but the database may be awaited then."""


class ScopedSession(Session):
    """A session that refuses to work without a scope; see the listeners below."""


class db_now(FunctionElement[float]):
    """The database's clock in epoch seconds: the only clock that leases and times are compared with."""

    type = Float()
    inherit_cache = True
    name = "db_now"


@compiles(db_now, "sqlite")
def _now_sqlite(element: Any, compiler: Any, **kw: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(db_now, "postgresql")
def _now_postgresql(element: Any, compiler: Any, **kw: Any) -> str:
    return "extract(epoch from clock_timestamp())::double precision"


CLOCK = select(db_now())
_TURN = select(func.pg_advisory_xact_lock(bindparam("turn")))
_WITHOUT_TABLES = (CLOCK, _TURN)
"""The statements without a table that every scope may run."""

PATIENCE = 10.0  # seconds for PostgreSQL to answer one statement; all of ours take milliseconds
CONNECT_PATIENCE = 5.0  # seconds to connect to it
CLOSE_PATIENCE = 10.0  # seconds for SQLite to end a statement whose task was cancelled
QUEUE_PATIENCE = 20.0  # seconds until one of the pool's connections is free

# Connection lost; deadlock or serialization; no resources; shut down, starting up or cancelled by an operator.
_PASSING_SQLSTATES = frozenset({"08", "40", "53", "57"})
_PASSING_SQLITE_CODES = frozenset(
    {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN}
)


class Database:
    """Owns the connections. One per process; close it, or SQLite's threads keep the process alive."""

    def __init__(self, url: str, *, readers: int = 4, writers: int = 8) -> None:
        self.url = url
        self.embedded = url.startswith("sqlite")
        self.answers = Answers()
        self._threads: WeakSet[Thread] = WeakSet()
        self._write = self._engine(1 if self.embedded else writers, {})
        self._read = self._engine(readers, {"isolation_level": "AUTOCOMMIT"})
        if self.embedded:
            event.listen(self._write.sync_engine, "begin", _begin_immediate)

    @asynccontextmanager
    async def transaction(self, scope: Scope) -> AsyncIterator[AsyncSession]:
        """A session that commits when the block ends and rolls back when it raises. Raises Busy."""
        info: dict[str, Any] = {}
        try:
            async with _session(self._write, {"scope": scope}) as session:
                info = session.info
                mark = in_transaction.set(True)
                try:
                    yield session
                    await session.commit()
                finally:
                    in_transaction.reset(mark)
        finally:
            if self.embedded:  # whatever happened: a commit that was cancelled may have taken place
                self.answers.changed(info.get("touched", ()))

    @asynccontextmanager
    async def reading(self, scope: Scope) -> AsyncIterator[AsyncSession]:
        """A session for reads only; each statement sees what is committed by then. Raises Busy."""
        async with _session(self._read, {"scope": scope, "read_only": True}, autoflush=False) as session:
            yield session

    async def remembered(
        self,
        scope: Scope,
        key: Hashable,
        render: Callable[[AsyncSession], Awaitable[Answer]],
        listed: Sequence[type[Resource]] = (),
    ) -> bytes:
        """The body that `render` makes of this scope's rows, made anew only when one of them changed.

        `listed` names the tables that a list is made of. Where other processes write as well, only lists of one
        project are kept: asking whether a single row changed costs as much as reading it.
        """
        mark: Hashable
        if self.embedded:
            mark = self.answers.count(scope.project_id)
        elif listed and scope.project_id is not None:
            mark = await self._mark(scope, listed)
        else:
            async with self.reading(scope) as session:
                return (await render(session)).content
        if (content := self.answers.find(scope.project_id, key, mark)) is not None:
            return content
        async with self.reading(scope) as session:
            answer = await render(session)
        self.answers.keep(scope.project_id, key, mark, answer)
        return answer.content

    async def _mark(self, scope: Scope, listed: Sequence[type[Resource]]) -> Hashable:
        """Differs after every change: a new row has a higher id, one less lowers the count, a change its revision."""
        tables: Sequence[Any] = listed
        marks = [func.concat_ws("/", func.count(of.id), func.max(of.id), func.sum(of.revision)) for of in tables]
        query: Any = columns(marks[0], *[select(mark).scalar_subquery() for mark in marks[1:]])
        async with self.reading(scope) as session:
            return tuple((await session.exec(query)).one())

    async def migrate(self) -> None:
        """Bring the schema to the newest revision; several replicas may call this at once.

        Raises Busy, and Invalid when the database is a newer program's.
        """
        # Replicas wait for each other here, and a large table takes its time: no limit but the operator's patience.
        engine = self._write if self.embedded else self._engine(1, {}, patience=None)
        try:
            with _away_is_busy():
                async with engine.begin() as connection:
                    if not self.embedded:
                        await connection.exec_driver_sql("SELECT pg_advisory_xact_lock(9517)")
                    await connection.run_sync(upgrade)
        finally:
            if engine is not self._write:
                await engine.dispose()

    async def schema(self) -> Schema:
        """How the schema compares with the program's. Raises Busy."""
        with _away_is_busy():
            async with self._read.connect() as connection:
                return await connection.run_sync(look)

    async def require_schema(self) -> None:
        """Raises Invalid when the schema is not the program's, and Busy."""
        if (problem := (await self.schema()).problem()) is not None:
            raise Invalid(problem)

    async def close(self) -> None:
        """Return every connection, and wait for those that a cancelled task left to themselves."""
        await self._write.dispose()
        await self._read.dispose()
        for thread in [thread for thread in self._threads if thread.is_alive()]:
            await asyncio.to_thread(thread.join, CLOSE_PATIENCE)

    def _engine(self, size: int, options: dict[str, Any], patience: float | None = PATIENCE) -> AsyncEngine:
        if not self.embedded:
            options |= {"connect_args": {"timeout": CONNECT_PATIENCE, "command_timeout": patience}}
        engine = create_async_engine(
            self.url,
            poolclass=AsyncAdaptedQueuePool,
            pool_size=size,
            max_overflow=0,
            pool_timeout=QUEUE_PATIENCE,
            **options,
        )
        if self.embedded:
            event.listen(engine.sync_engine, "do_connect", self._connect_sqlite)
            event.listen(engine.sync_engine, "connect", _sqlite_pragmas)
        return engine

    def _connect_sqlite(self, dialect: Any, record: Any, arguments: Any, options: dict[str, Any]) -> None:
        """Keep hold of the thread that each connection works in: it still answers to this loop after a cancellation."""

        def connect(*positional: Any, **named: Any) -> aiosqlite.Connection:
            connection = aiosqlite.connect(*positional, **named)
            connection._thread.daemon = True
            self._threads.add(connection._thread)
            return connection

        options["async_creator_fn"] = connect


@asynccontextmanager
async def _session(engine: AsyncEngine, info: dict[str, Any], **options: Any) -> AsyncIterator[AsyncSession]:
    with _away_is_busy():
        async with AsyncSession(
            engine, sync_session_class=ScopedSession, expire_on_commit=False, info=info, **options
        ) as session:
            try:
                yield session
            except TimeoutError:
                await session.invalidate()  # its answer may still come: nobody else must get this connection
                raise


@contextmanager
def _away_is_busy() -> Iterator[None]:
    """A database that cannot be reached, does not answer or asks to try again is Busy; what else it says is raised."""
    try:
        yield
    except (DBAPIError, PoolTimeout, OSError) as error:
        if not _is_away(error):
            raise
        log.warning("the database cannot answer", error=repr(getattr(error, "orig", None) or error))
        full = "The database has no space left: nothing can be stored right now."
        raise Busy(full if _is_full(error) else "The database cannot answer right now.") from error


def _is_away(error: Exception) -> bool:
    if not isinstance(error, DBAPIError) or error.connection_invalidated:
        return True
    if (sqlstate := getattr(error.orig, "sqlstate", None)) is not None:
        return str(sqlstate)[:2] in _PASSING_SQLSTATES
    code = getattr(error.orig, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in _PASSING_SQLITE_CODES


def _is_full(error: Exception) -> bool:
    orig = getattr(error, "orig", None)
    return getattr(orig, "sqlstate", None) == "53100" or getattr(orig, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL


async def take_turn(session: AsyncSession, what: str) -> None:
    """Wait until no other transaction has the turn called `what`; the commit passes it on.

    For rules that a row lock cannot keep, because the row is not there yet. SQLite has one writer at a time anyway.
    """
    if session.get_bind().dialect.name == "postgresql":
        await session.exec(_TURN, params={"turn": zlib.crc32(what.encode())})


async def exists_anywhere(session: AsyncSession, query: Any) -> bool:
    """Whether `query` finds a row in any project. The answer is a yes or no: no other project's row leaves here."""
    scope = session.info["scope"]
    session.info["scope"] = EVERYTHING
    try:
        return (await session.exec(query.limit(1))).first() is not None
    finally:
        session.info["scope"] = scope


async def sums_anywhere(session: AsyncSession, query: Any) -> Sequence[Any]:
    """What an aggregate counts over all projects. Only for sums: no other project's row leaves here."""
    scope = session.info["scope"]
    session.info["scope"] = EVERYTHING
    try:
        found: Sequence[Any] = (await session.exec(query)).all()
        return found
    finally:
        session.info["scope"] = scope


async def referred(session: AsyncSession, query: Any) -> Sequence[Any]:
    """Rows of any project that rows of this scope refer to, such as the template of a cluster, hidden since."""
    return await sums_anywhere(session, query)


def _sqlite_pragmas(connection: Any, record: Any) -> None:
    connection.isolation_level = None  # the driver must not begin transactions by itself: `_begin_immediate` does
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "foreign_keys=ON", "busy_timeout=10000", "synchronous=NORMAL"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_immediate(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def owned_tables() -> list[type[Owned]]:
    """Every mapped class with an owner. One criterion each: a criterion on the mixin would find no column."""
    mappers = SQLModel._sa_registry.mappers
    return [mapper.class_ for mapper in mappers if issubclass(mapper.class_, Owned)]


_OWNED = owned_tables()


def _confine(state: ORMExecuteState) -> None:
    scope: Scope | None = state.session.info.get("scope")
    if scope is None:
        raise RuntimeError("a session without a scope may not touch the database")
    if state.session.info.get("read_only") and not state.is_select:
        raise RuntimeError("a reading session may not write")
    if scope.project_id is None or any(state.statement is known for known in _WITHOUT_TABLES):
        return
    if not state.is_orm_statement or state.is_from_statement:
        raise RuntimeError("only ORM statements can be confined to a project")
    if state.is_insert:
        raise RuntimeError("bulk inserts cannot be confined to a project: add objects instead")
    state.statement = state.statement.options(*_criteria(scope.project_id, state.is_select))


@lru_cache(4096)
def _criteria(project_id: str, reads: bool) -> list[LoaderCriteriaOption]:
    # A function, not an expression: in a join with an alias an expression would stay on the table without the alias.
    own = [
        with_loader_criteria(cls, lambda entity: entity.project_id == project_id, include_aliases=True)
        for cls in _OWNED
        if not reads or cls is not ClusterTemplate
    ]
    if not reads:
        return own
    # The one exception: projects read each other's public cluster templates, unless these are hidden.
    return [
        *own,
        with_loader_criteria(
            ClusterTemplate,
            lambda entity: or_(entity.project_id == project_id, and_(entity.public, not_(entity.hidden))),
            include_aliases=True,
        ),
    ]


def _check_flush(session: Session, flush: UOWTransaction, instances: Any) -> None:
    scope: Scope | None = session.info.get("scope")
    if scope is None or session.info.get("read_only"):
        raise RuntimeError("this session may not write")
    for row in (*session.new, *session.dirty, *session.deleted):
        if isinstance(row, Owned) and scope.project_id is not None:
            was = inspect(row).attrs.project_id.history.deleted
            if row.project_id != scope.project_id or (was and was[0] != scope.project_id):
                raise RuntimeError(f"a row of project {row.project_id} in the scope of {scope.project_id}")
    touched = session.info.setdefault("touched", set())
    for row in session.dirty:
        if isinstance(row, Resource) and session.is_modified(row):
            row.revision += 1
            touched.add(row.project_id)
    touched |= {row.project_id for row in (*session.new, *session.deleted) if isinstance(row, Resource)}


event.listen(ScopedSession, "do_orm_execute", _confine)
event.listen(ScopedSession, "before_flush", _check_flush)
