"""Run by ``app.db.Database.migrate`` with a connection, or by the alembic command with CAISSON_DATABASE_URL."""

import asyncio

from alembic import context
from sqlmodel import SQLModel

import app.models  # noqa: F401  (fills the metadata)
from app.db import Database
from app.settings import Settings


def run(connection: object) -> None:
    """Bring the schema that `connection` sees to the wished revision."""
    context.configure(connection=connection, target_metadata=SQLModel.metadata, render_as_batch=True)
    with context.begin_transaction():
        context.run_migrations()


async def run_by_itself() -> None:
    """For ``alembic revision --autogenerate`` and the like."""
    database = Database(Settings().database)
    async with database._write.begin() as connection:
        await connection.run_sync(run)
    await database.close()


given = context.config.attributes.get("connection")
if given is None:
    asyncio.run(run_by_itself())
else:
    run(given)
