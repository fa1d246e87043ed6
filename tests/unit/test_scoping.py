"""Tenancy inside the session: whatever is asked in one project's scope, no other project's row is seen or changed."""

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import delete, exists, func, insert, literal, text, union_all, update
from sqlalchemy.orm import aliased
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from app.db import CLOCK, EVERYTHING, Database, Scope, ScopedSession, exists_anywhere, owned_tables, take_turn
from app.models import (
    Action,
    ClusterKey,
    ClusterTemplate,
    Container,
    Image,
    InjectedFile,
    Owned,
    Registry,
    Resource,
    Ticket,
)

ROOT = Path(__file__).resolve().parents[2]
ALPHA, BETA = Scope("alpha"), Scope("beta")
NAMES = {"alpha": {"alpha-1", "alpha-2"}, "beta": {"beta-1", "beta-2", "beta-3"}}


def box(project: str, name: str, **columns: Any) -> Container:
    return Container(
        project_id=project, user_id="u", name=name, image="i", backend="local", created_at=1.0, cpu=1.0, **columns
    )


@pytest_asyncio.fixture
async def database(schema_url: str) -> AsyncIterator[Database]:
    """Two projects with containers, of which each has an action, and a registry."""
    made = Database(schema_url)
    async with made.transaction(EVERYTHING) as session:
        for project, names in NAMES.items():
            registry = Registry(project_id=project, user_id="u", name=project, domain="d", created_at=1.0)
            session.add(registry)
            for name in sorted(names):
                row = box(project, name, registry_id=registry.uuid)
                session.add(row)
                session.add(
                    Action(
                        project_id=project, user_id="u", request_id="r", resource_kind="container", verb="create",
                        resource_id=row.uuid, backend="local", created_at=1.0, run_after=1.0,
                    )
                )  # fmt: skip
    yield made
    await made.close()


async def everything(database: Database) -> dict[str, tuple[str, str, str | None]]:
    """All containers, by name: project, image, status_reason."""
    async with database.reading(EVERYTHING) as session:
        return {
            row.name: (row.project_id, row.image, row.status_reason) for row in await session.exec(select(Container))
        }


# Reads. Each question is asked in alpha's scope and in beta's; the answer is the names of containers it came upon.

Question = Callable[[AsyncSession], Awaitable[set[str]]]


def other_than(one: Any, two: Any) -> Any:
    return one != two


async def by_entity(session: AsyncSession) -> set[str]:
    return {row.name for row in await session.exec(select(Container))}


async def by_column(session: AsyncSession) -> set[str]:
    return set(await session.exec(select(Container.name)))


async def by_columns(session: AsyncSession) -> set[str]:
    return {row[1] for row in await session.exec(select(Container.project_id, Container.name))}


async def by_alias(session: AsyncSession) -> set[str]:
    other = aliased(Container)
    return {row.name for row in await session.exec(select(other))}


async def by_alias_of_subquery(session: AsyncSession) -> set[str]:
    other = aliased(Container, select(Container).subquery())
    return {row.name for row in await session.exec(select(other))}


async def by_column_of_subquery(session: AsyncSession) -> set[str]:
    inner = select(Container.name).subquery()
    query: Any = select(Container, inner.c.name).join(inner, col(Container.name) == inner.c.name)
    return {row[1] for row in await session.exec(query)}


async def by_cte(session: AsyncSession) -> set[str]:
    inner = select(Container.uuid, Container.name).cte("inner")
    query: Any = select(Action, inner.c.name).join(inner, inner.c.uuid == col(Action.resource_id))
    return {row[1] for row in await session.exec(query)}


async def by_join(session: AsyncSession) -> set[str]:
    query = select(Action, Container).join(Container, col(Container.uuid) == Action.resource_id)
    return {found.name for _, found in await session.exec(query)}


async def by_outer_join_from_what_all_may_see(session: AsyncSession) -> set[str]:
    query = select(Registry, Container).join(Container, other_than(Container.id, -1), isouter=True)
    return {found.name for _, found in await session.exec(query)}


async def by_join_with_itself(session: AsyncSession) -> set[str]:
    one, two = aliased(Container), aliased(Container)
    found = await session.exec(select(one.name, two.name).join(two, other_than(one.name, two.name)))
    return {name for pair in found for name in pair}


async def by_join_with_an_alias_of_itself(session: AsyncSession) -> set[str]:
    other = aliased(Container)
    found = await session.exec(select(Container.name, other.name).join(other, other_than(Container.name, other.name)))
    return {name for pair in found for name in pair}


async def by_outer_join_with_an_alias(session: AsyncSession) -> set[str]:
    other = aliased(Container)
    query: Any = select(Container.name, other.name).join(other, other_than(Container.name, other.name), isouter=True)
    return {name for pair in await session.exec(query) for name in pair if name is not None}


async def by_where_in(session: AsyncSession) -> set[str]:
    inner = select(Action.resource_id).where(Action.verb == "create")
    return set(await session.exec(select(Container.name).where(col(Container.uuid).in_(inner))))


async def by_scalar_subquery(session: AsyncSession) -> set[str]:
    inner = select(func.max(Container.name)).scalar_subquery()
    return set(await session.exec(select(inner).select_from(Registry)))


async def by_exists(session: AsyncSession) -> set[str]:
    names = []
    for name in NAMES["alpha"] | NAMES["beta"]:
        query = select(Registry.name).where(exists().where(col(Container.name) == name))
        names += [name for _ in await session.exec(query)]
    return set(names)


async def by_get(session: AsyncSession) -> set[str]:
    found = [await session.get(Container, number) for number in range(1, 12)]
    return {row.name for row in found if row is not None}


async def by_lock(session: AsyncSession) -> set[str]:
    return {row.name for row in await session.exec(select(Container).with_for_update())}


async def by_wrong_filter(session: AsyncSession) -> set[str]:
    return set(await session.exec(select(Container.name).where(Container.project_id != "nobody")))


async def by_or(session: AsyncSession) -> set[str]:
    query = select(Container.name).where((Container.project_id == "alpha") | (Container.project_id == "beta"))
    return set(await session.exec(query))


async def by_group(session: AsyncSession) -> set[str]:
    return {row[0] for row in await session.exec(select(Container.name, func.count()).group_by(Container.name))}


async def by_order_and_limit(session: AsyncSession) -> set[str]:
    query = select(Container.name).order_by(col(Container.id).desc()).limit(3)
    return set(await session.exec(query)) | set(await session.exec(select(Container.name)))


async def by_union(session: AsyncSession) -> set[str]:
    union: Any = union_all(select(Container.name), select(Container.name).where(col(Container.id) > 0))
    return {row[0] for row in await session.exec(union)}


async def by_nothing_but_exists(session: AsyncSession) -> set[str]:
    names = NAMES["alpha"] | NAMES["beta"]
    asked = {name: select(exists(select(Container.id).where(Container.name == name))) for name in names}
    return {name for name, query in asked.items() if (await session.exec(query)).one()}


QUESTIONS = [question for name, question in globals().items() if name.startswith("by_")]


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.__name__)
async def test_reads_are_confined(database: Database, question: Question) -> None:
    for scope in (ALPHA, BETA):
        mine = NAMES[str(scope.project_id)]
        async with database.reading(scope) as session:
            found = await question(session)
        assert found <= mine
        assert found == mine or (question is by_scalar_subquery and found == {max(mine)})
        async with database.transaction(scope) as session:
            assert await question(session) <= mine
    async with database.reading(EVERYTHING) as session:
        assert await question(session) >= {max(NAMES["beta"])}


async def test_counts_are_confined(database: Database) -> None:
    for scope, boxes in ((ALPHA, 2), (BETA, 3), (Scope("nobody"), 0), (EVERYTHING, 5)):
        async with database.reading(scope) as session:
            assert (await session.exec(select(func.count(col(Container.id))))).one() == boxes
            assert (await session.exec(select(func.count()).select_from(Action))).one() == boxes
            assert (await session.exec(select(func.sum(Container.cpu)))).one() == (boxes or None)


async def test_refreshing_and_loading_again_is_confined(database: Database) -> None:
    async with database.transaction(ALPHA) as session:
        row = (await session.exec(select(Container).limit(1))).one()
        async with database.reading(EVERYTHING) as other:
            assert (await other.exec(select(func.count(col(Container.id))))).one() == 5
        await session.refresh(row)
        assert row.project_id == "alpha"


# Writes


async def test_updates_and_deletes_are_confined(database: Database) -> None:
    before = await everything(database)
    async with database.transaction(ALPHA) as session:
        await session.exec(update(Container).values(image="changed"))
        await session.exec(update(Container).where(col(Container.project_id) == "beta").values(status_reason="x"))
        inner = select(func.max(Container.name)).scalar_subquery()
        await session.exec(update(Container).values(status_reason=inner).execution_options(synchronize_session=False))
        beyond = select(Action.resource_id).where(Action.project_id == "beta")
        await session.exec(delete(Container).where(col(Container.uuid).in_(beyond)))
    after = await everything(database)
    assert after == {
        name: (project, "changed", "alpha-2") if project == "alpha" else (project, image, reason)
        for name, (project, image, reason) in before.items()
    }
    async with database.transaction(ALPHA) as session:
        await session.exec(delete(Container))
        await session.exec(delete(Action).where(exists().where(col(Container.uuid) == Action.resource_id)))
    assert set(await everything(database)) == NAMES["beta"]
    async with database.reading(EVERYTHING) as session:
        assert len((await session.exec(select(Action))).all()) == 5  # alpha's containers were gone already


async def test_a_project_can_add_change_and_remove_its_own(database: Database) -> None:
    async with database.transaction(ALPHA) as session:
        session.add(box("alpha", "alpha-3"))
        (await session.exec(select(Container).where(Container.name == "alpha-1"))).one().image = "changed"
        await session.delete((await session.exec(select(Container).where(Container.name == "alpha-2"))).one())
    found = await everything(database)
    assert set(found) == {"alpha-1", "alpha-3"} | NAMES["beta"]
    assert found["alpha-1"][1] == "changed"


async def foreign_row(session: AsyncSession) -> None:
    session.add(box("beta", "planted"))


async def row_given_away(session: AsyncSession) -> None:
    (await session.exec(select(Container).limit(1))).one().project_id = "beta"


async def row_without_project(session: AsyncSession) -> None:
    session.add(box("", "planted"))


async def foreign_row_merged(session: AsyncSession) -> None:
    await session.merge(box("beta", "planted", id=3))


@pytest.mark.parametrize("write", [foreign_row, row_given_away, row_without_project, foreign_row_merged])
async def test_rows_of_another_project_are_not_flushed(
    database: Database, write: Callable[..., Awaitable[None]]
) -> None:
    before = await everything(database)
    with pytest.raises(RuntimeError, match="in the scope of alpha"):
        async with database.transaction(ALPHA) as session:
            await write(session)
    assert await everything(database) == before


# What cannot be confined is refused


TABLE = Container.metadata.tables["container"]
UNCONFINED: dict[str, Any] = {
    "core select": select(TABLE),
    "core column": select(TABLE.c.name),
    "core update": update(TABLE).values(image="x"),
    "core delete": delete(TABLE),
    "core insert": insert(TABLE).values(name="x"),
    "text": text("SELECT name FROM container"),
    "union as entities": select(Container).from_statement(union_all(select(Container), select(Container))),
    "text as entities": select(Container).from_statement(text("SELECT * FROM container")),
    "bulk insert": insert(Container).values(project_id="alpha", name="x"),
    "insert from select": insert(Container).from_select(["name"], select(Container.name)),
    "nothing but a subquery": select(select(func.max(TABLE.c.name)).scalar_subquery()),
    "nothing but a literal": select(literal(1)),
    "another clock": select(func.current_timestamp()),
}


@pytest.mark.parametrize("name", UNCONFINED)
async def test_statements_that_cannot_be_confined_are_refused(database: Database, name: str) -> None:
    before = await everything(database)
    for opened in (database.reading, database.transaction):
        with pytest.raises(RuntimeError, match=r"confined|may not write"):
            async with opened(ALPHA) as session:
                await session.exec(UNCONFINED[name])
    assert await everything(database) == before


async def test_without_a_scope_nothing_is_touched(database: Database) -> None:
    for engine in (database._read, database._write):
        async with AsyncSession(engine, sync_session_class=ScopedSession) as session:
            with pytest.raises(RuntimeError, match="without a scope"):
                await session.exec(select(Container))
            session.add(box("alpha", "planted"))
            with pytest.raises(RuntimeError, match="may not write"):
                await session.flush()


async def test_a_reading_session_does_not_write(database: Database) -> None:
    for scope in (ALPHA, EVERYTHING):
        async with database.reading(scope) as session:
            for statement in (update(Container).values(image="x"), delete(Container)):
                with pytest.raises(RuntimeError, match="may not write"):
                    await session.exec(statement)
            session.add(box("alpha", "planted"))
            with pytest.raises(RuntimeError, match="may not write"):
                await session.flush()


async def test_the_clock_may_be_read_in_any_scope(database: Database) -> None:
    for scope in (ALPHA, EVERYTHING):
        async with database.reading(scope) as session:
            assert (await session.exec(CLOCK)).one() > 1_700_000_000
        async with database.transaction(scope) as session:
            await take_turn(session, "alpha")


async def test_a_question_about_all_projects_is_answered_by_yes_or_no_and_narrows_again(database: Database) -> None:
    async with database.transaction(ALPHA) as session:
        query = select(Container.uuid).where(Container.name == "beta-1")
        assert await exists_anywhere(session, query) is True
        assert await exists_anywhere(session, select(Container.uuid).where(Container.name == "none")) is False
        assert (await session.exec(select(Container.name).where(Container.name == "beta-1"))).all() == []


def test_every_table_with_an_owner_is_confined() -> None:
    assert {table for table in owned_tables() if not issubclass(table, Resource)} == {
        Action,
        ClusterKey,
        InjectedFile,
        Ticket,
    }
    assert {Action, Container, Image, Registry} <= set(owned_tables())
    mapped = {mapper.class_ for mapper in Owned._sa_registry.mappers}
    assert {table for table in mapped if "project_id" in table.__table__.c} - set(owned_tables()) == {
        table for table in mapped if table.__name__ in ("ClusterQuota", "IdentityGrant", "IdentityCredential", "Quota")
    }


def test_nobody_goes_past_the_session() -> None:
    """What no listener sees: connections, bare tables, text and bulk calls of SQLAlchemy's synchronous session."""
    beyond = re.compile(
        r"__table__|\.connection\(|\.bulk_(save|insert|update)|run_sync|metadata\.tables|\btext\(|literal_column|\._write|\._read\b"
        r"|create_(async_)?engine|(?<!\.)\binsert\("
    )
    allowed = {"app/db.py": None, "app/models.py": {"text("}}
    found = []
    for file in sorted((ROOT / "app").rglob("*.py")):
        name = str(file.relative_to(ROOT))
        for number, line in enumerate(file.read_text().splitlines(), 1):
            for match in beyond.finditer(line):
                words = allowed.get(name, set())
                if words is not None and match[0] not in words and "self._read(" not in line:
                    found.append(f"{name}:{number}: {line.strip()}")
    assert found == []


def test_a_relationship_cannot_be_loaded_past_the_scope() -> None:
    """There are none; the day there is one, this test wants a question of its own above."""
    for table in owned_tables():
        assert list(table.__mapper__.relationships) == []  # type: ignore[attr-defined]  # mapped


# The one exception: public cluster templates are read by all


TEMPLATES = {"own": ("alpha", False, False), "private": ("beta", False, False), "public": ("beta", True, False)}
TEMPLATES |= {"hidden": ("beta", True, True), "only-hidden": ("beta", False, True), "own-hidden": ("alpha", True, True)}


def cluster_template(name: str, **columns: Any) -> ClusterTemplate:
    fixed: dict[str, Any] = {"user_id": "u", "created_at": 1.0, "coe": "swarm", "driver": "swarm", "image_id": "i"}
    return ClusterTemplate(name=name, cluster_distro="debian", **(fixed | columns))


@pytest_asyncio.fixture
async def templates(database: Database) -> Database:
    async with database.transaction(EVERYTHING) as session:
        for name, (project, public, hidden) in TEMPLATES.items():
            session.add(cluster_template(name, project_id=project, public=public, hidden=hidden))
    return database


async def template_names(database: Database, scope: Scope) -> set[str]:
    async with database.reading(scope) as session:
        return set(await session.exec(select(ClusterTemplate.name)))


async def test_public_templates_are_read_by_all(templates: Database) -> None:
    assert await template_names(templates, ALPHA) == {"own", "own-hidden", "public"}
    assert await template_names(templates, BETA) == {"private", "public", "hidden", "only-hidden"}
    assert await template_names(templates, Scope("gamma")) == {"public"}
    assert await template_names(templates, EVERYTHING) == set(TEMPLATES)
    async with templates.reading(ALPHA) as session:
        other = aliased(ClusterTemplate)
        assert set(await session.exec(select(other.name))) == {"own", "own-hidden", "public"}
        assert (await session.exec(select(func.count(col(ClusterTemplate.id))))).one() == 3


async def change_public(templates: Database, changed: dict[str, str]) -> None:
    """In alpha's scope, the template of beta's that both can read: with no change it is deleted."""
    async with templates.transaction(ALPHA) as session:
        row = (await session.exec(select(ClusterTemplate).where(ClusterTemplate.name == "public"))).one()
        for name, value in changed.items():
            setattr(row, name, value)
        if not changed:
            await session.delete(row)


async def test_public_templates_of_others_are_not_written(templates: Database) -> None:
    async with templates.transaction(ALPHA) as session:
        await session.exec(update(ClusterTemplate).values(image_id="changed"))
        await session.exec(delete(ClusterTemplate).where(col(ClusterTemplate.name) == "public"))
    async with templates.reading(EVERYTHING) as session:
        rows = (await session.exec(select(ClusterTemplate))).all()
    assert {row.name for row in rows} == set(TEMPLATES)
    assert {row.name for row in rows if row.image_id == "changed"} == {"own", "own-hidden"}
    for changed in ({}, {"name": "taken over"}):
        with pytest.raises(RuntimeError, match="a row of project beta in the scope of alpha"):
            await change_public(templates, changed)
    assert await template_names(templates, EVERYTHING) == set(TEMPLATES)
