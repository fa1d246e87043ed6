"""One row by its uuid or its name, in the scope of a session (zun-api, section 5.2)."""

from typing import Any
from uuid import UUID

from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from app.errors import Conflict, NotFound


def uuid_of(ident: str) -> str | None:
    """The usual spelling of a uuid in any spelling; None for what is none."""
    try:
        return str(UUID(ident))
    except ValueError:
        return None


async def find(
    session: AsyncSession,
    kind: Any,
    ident: str,
    noun: str,
    *,
    code: str | None = None,
    own_project: str | None = None,
    named: Any = None,
    lock: bool = False,
) -> Any:
    """The row of `kind` that `ident` means: what reads as a uuid is one, everything else is a name.

    An administrator's session sees all projects; then a name means the one in `own_project` first. `named` is a further
    condition on rows that are asked for by name. Raises NotFound with `code`, or Conflict when several have the name.
    """
    uuid = uuid_of(ident)
    query = select(kind).where(kind.uuid == uuid if uuid is not None else col(kind.name) == ident).limit(1000)
    if uuid is None and named is not None:
        query = query.where(named)
    rows = (await session.exec(query.with_for_update() if lock else query)).all()
    if len(rows) > 1:
        rows = [row for row in rows if row.project_id == own_project] or rows
    if not rows:
        raise NotFound(f"{noun[:1].upper()}{noun[1:]} {ident[:255]} could not be found.", code=code)
    if len(rows) > 1:
        words = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
        raise Conflict(f"Multiple {words} exist with same name. Please use the {noun} uuid instead.")
    return rows[0]
