"""Networks that an administrator makes on an engine for those that are known elsewhere by an id.

The engine's network bears the id's name, so that making it again after a crash finds it.
"""

from sqlmodel import select
from sqlmodel.ext.asyncio.session import AsyncSession

from app.actions import clock
from app.backends import Engines
from app.backends.engine import Networks
from app.db import exists_anywhere, take_turn
from app.errors import Conflict, NotFound, Unsupported
from app.models import Network


async def check_new(session: AsyncSession, row: Network) -> None:
    """Raises Conflict when there is a network for this id already, of whatever project."""
    same = select(Network.uuid).where(Network.neutron_net_id == row.neutron_net_id, Network.uuid != row.uuid)
    if await exists_anywhere(session, same):
        raise Conflict(f"A network for {row.neutron_net_id} exists already.", code="network-already-exists")


async def make(engines: Engines, row: Network) -> None:
    """Make the network on the first engine that has networks. Raises Unsupported, EngineError."""
    for name, engine in engines.items():
        if isinstance(engine, Networks):
            row.backend, row.network_id = name, await engine.ensure_network(row.neutron_net_id)
            return
    raise Unsupported(f"None of the engines {', '.join(engines)} has networks (ability network)")


async def store(session: AsyncSession, row: Network) -> None:
    """Raises Conflict when somebody else was quicker."""
    await take_turn(session, "networks")
    await check_new(session, row)
    row.created_at = await clock(session)
    session.add(row)


async def find(session: AsyncSession, neutron_net_id: str) -> Network:
    """By the id that it is known by elsewhere. Raises NotFound."""
    row = (await session.exec(select(Network).where(Network.neutron_net_id == neutron_net_id))).first()
    if row is None:
        raise NotFound(f"Network {neutron_net_id[:255]} could not be found.", code="network-not-found")
    return row


async def unmake(engines: Engines, row: Network) -> None:
    """Remove it from its engine. Raises EngineError."""
    engine = engines.get(row.backend)
    if isinstance(engine, Networks):
        await engine.remove_network(row.neutron_net_id)


async def forget(session: AsyncSession, neutron_net_id: str) -> None:
    """Delete its row. Raises NotFound when somebody else was quicker."""
    await session.delete(await find(session, neutron_net_id))
