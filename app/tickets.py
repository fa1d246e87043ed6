"""Tickets: the right to open one websocket once (zun-api, section 6). Clients send no token there, so this is all.

A ticket is a random secret in a URL; stored is its hash alone. It is good for one container, and one command in it or
the container's own terminal; it works once and expires. A new attach makes the older ones worthless.
"""

import hashlib
import secrets

from sqlalchemy import and_, delete, or_
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from app import actions
from app.db import EVERYTHING, Database
from app.models import Container, Ticket


def digest(secret: str) -> str:
    """What is stored of a secret. Secrets have 256 random bits: there is nothing to guess from their hash."""
    return hashlib.sha256(secret.encode()).hexdigest()


async def issue(session: AsyncSession, box: Container, exec_id: str | None, seconds: float) -> str:
    """A secret that opens the container's terminal, or a prepared command's, within so many seconds."""
    now = await actions.clock(session)
    worthless = col(Ticket.expires_at) <= now
    if exec_id is None:
        worthless = or_(worthless, col(Ticket.exec_id).is_(None))
    old = delete(Ticket).where(and_(col(Ticket.container_id) == box.uuid, worthless))
    await session.exec(old.execution_options(synchronize_session=False))
    secret = secrets.token_urlsafe(32)
    session.add(
        Ticket(
            project_id=box.project_id,
            secret_hash=digest(secret),
            container_id=box.uuid,
            exec_id=exec_id,
            expires_at=now + seconds,
        )
    )
    return secret


async def redeem(database: Database, secret: str, uuid: str, exec_id: str | None) -> Container | None:
    """Use a ticket up: the container that it opens, None when it opens nothing. Raises Busy."""
    query = select(Ticket).where(Ticket.secret_hash == digest(secret))
    async with database.reading(EVERYTHING) as session:
        # Guesses cost a read, not the one writer.
        if (await session.exec(query)).first() is None:
            return None
    async with database.transaction(EVERYTHING) as session:
        ticket = (await session.exec(query.with_for_update())).first()
        if ticket is None:
            return None
        await session.delete(ticket)
        late = ticket.expires_at <= await actions.clock(session)
        if late or ticket.container_id != uuid or ticket.exec_id != exec_id:
            return None
        boxes = select(Container).where(Container.uuid == uuid, Container.project_id == ticket.project_id)
        return (await session.exec(boxes)).first()


async def prune(session: AsyncSession) -> None:
    """Forget what has expired unused."""
    now = await actions.clock(session)
    old = delete(Ticket).where(col(Ticket.expires_at) <= now)
    await session.exec(old.execution_options(synchronize_session=False))
