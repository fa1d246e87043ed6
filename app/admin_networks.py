"""Networks that an administrator makes on an engine, for those of Neutron, or of whatever knows them by an id.

The engine's network bears the id's name, so that making it again after a crash finds it. With Neutron it is the one
that containers are on, and stays when the last of them goes.
"""

from sqlmodel import select
from sqlmodel.ext.asyncio.session import AsyncSession

from app import attachments, wiring
from app.actions import clock
from app.backends import Engines
from app.backends.engine import Ability, Networks
from app.backends.wires import Wires
from app.db import exists_anywhere, take_turn
from app.errors import Conflict, NotFound, Unsupported
from app.models import Network
from app.neutron import Neutron
from app.settings import Settings


async def check_new(session: AsyncSession, row: Network) -> None:
    """Raises Conflict when there is a network for this id already, of whatever project."""
    same = select(Network.uuid).where(Network.neutron_net_id == row.neutron_net_id, Network.uuid != row.uuid)
    if await exists_anywhere(session, same):
        raise Conflict(f"A network for {row.neutron_net_id} exists already.", code="network-already-exists")


async def is_known(session: AsyncSession, neutron_net_id: str) -> bool:
    """Whether an administrator made an engine's network for this id."""
    return await exists_anywhere(session, select(Network.uuid).where(Network.neutron_net_id == neutron_net_id))


async def make(engines: Engines, settings: Settings, neutron: Neutron | None, row: Network) -> None:
    """Make the network on the first engine that has such networks; `neutron` answers as the caller.

    Raises NotFound, Invalid, Conflict when Neutron has no such network, or none that a host can have; Unsupported,
    Busy, EngineError.
    """
    ability = Ability.NETWORK if neutron is None else Ability.WIRE
    row.backend = next((name for name, engine in engines.items() if ability in engine.abilities), "")
    if not row.backend:
        raise Unsupported(f"None of the engines {', '.join(engines)} has networks (ability {ability})")
    engine = engines[row.backend]
    if neutron is not None:
        if await neutron.show("networks", row.neutron_net_id) is None:
            raise not_found(row.neutron_net_id)
        attachments.check_engine(engine, settings)
        await wiring.check_ranges(neutron, engine, settings, [row.neutron_net_id])
        row.network_id = await wiring.lay_wire(neutron.own(), engine, settings, row.neutron_net_id)
    elif isinstance(engine, Networks):
        row.network_id = await engine.ensure_network(row.neutron_net_id)


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
        raise not_found(neutron_net_id)
    return row


def not_found(neutron_net_id: str) -> NotFound:
    """There is no such network."""
    return NotFound(f"Network {neutron_net_id[:255]} could not be found.", code="network-not-found")


async def unmake(engines: Engines, neutron: Neutron | None, row: Network) -> None:
    """Remove it from its engine; one that is in use stays. Raises Busy, EngineError."""
    engine = engines.get(row.backend)
    if isinstance(engine, Networks):
        await engine.remove_network(row.neutron_net_id)
    if neutron is not None and isinstance(engine, Wires):
        await wiring.drop_wire(neutron, engine, row.neutron_net_id)


async def forget(session: AsyncSession, neutron_net_id: str) -> None:
    """Delete its row. Raises NotFound when somebody else was quicker."""
    await session.delete(await find(session, neutron_net_id))
