"""Cores of an engine's host that one container has to itself (``cpu_policy`` dedicated).

To itself among containers with dedicated cores: what shares its cores runs on any. One core always stays for that.
"""

from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from app import containers
from app.backends.engine import Ability, ContainerEngine, EngineInfo
from app.db import take_turn
from app.errors import Conflict, Invalid, Unavailable
from app.models import Container, PinnedCore


async def pin(session: AsyncSession, box: Container, engine: ContainerEngine, info: EngineInfo | None) -> None:
    """Give `box`, which is being stored, cores of its own. Raises Unsupported, Invalid, Unavailable, or Conflict when
    too few are left."""
    containers.check_ability(engine, Ability.PIN, "pin containers to cores", "use the cpu_policy shared")
    wanted = int(box.cpu or 0)
    if not wanted or wanted != box.cpu:
        raise Invalid(f"cpu_policy: dedicated cores are whole ones: cpu {box.cpu} must be 1, 2 or more")
    if info is None:
        raise Unavailable(f"the engine {engine.name!r} has not told yet how many cores its host has")
    await take_turn(session, f"cores of {box.backend}")
    pinned = set((await session.exec(select(PinnedCore.number).where(PinnedCore.backend == box.backend))).all())
    free = [number for number in range(1, info.cpus) if number not in pinned]
    if wanted > len(free):
        raise Conflict(
            f"cpu_policy: {wanted} dedicated cores are asked for, and {len(free)} of the host's {info.cpus} are left"
            " (one stays for containers that share)"
        )
    box.cores = free[:wanted]
    for number in box.cores:
        session.add(PinnedCore(backend=box.backend, number=number, container_id=box.uuid))


async def unpin(session: AsyncSession, box: Container) -> None:
    """Give back what a container had to itself."""
    for core in await session.exec(select(PinnedCore).where(col(PinnedCore.container_id) == box.uuid)):
        await session.delete(core)
