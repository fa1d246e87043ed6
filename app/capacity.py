"""Where the nodes of a cluster go, and whether they fit there.

What counts is what nodes may take at most, by their flavors: those of all clusters on one host must not be promised
more than it has. Containers are not counted: their limits are meant to be overcommitted, as Zun's are.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import BigInteger, cast, func
from sqlalchemy import select as select_sums
from sqlmodel import col
from sqlmodel.ext.asyncio.session import AsyncSession

from app import hosts
from app.backends import Drivers, Engines
from app.backends.engine import EngineInfo
from app.db import sums_anywhere, take_turn
from app.errors import Conflict, Unsupported
from app.models import Cluster, NodeGroup
from app.settings import Settings


@dataclass(frozen=True, slots=True)
class Need:
    """MiB of memory and GiB of disk that nodes may take together; 0 is not counted."""

    memory: int = 0
    disk: int = 0

    @classmethod
    def of(cls, group: NodeGroup, nodes: int) -> "Need":
        """What so many (further) nodes of a group need."""
        return cls(nodes * group.node_memory, nodes * group.node_disk)

    def __add__(self, other: "Need") -> "Need":
        return Need(self.memory + other.memory, self.disk + other.disk)


async def place(
    session: AsyncSession, engines: Engines, drivers: Drivers, settings: Settings, driver: str, need: Need
) -> str:
    """The engine for a new cluster of this driver: of those that can and have room, the one with most of it left.

    Its rows are not there yet. Raises Unsupported when no engine can, and Conflict saying of each why not: its host is
    down, or lacks what. The turn that is taken lasts until the caller's transaction ends: what two ask at once is
    counted together.
    """
    if not (able := drivers.backends(driver)):
        raise Unsupported(f"no engine here can carry nodes of clusters, which the cluster driver {driver} needs")
    await take_turn(session, "capacity")
    down = await hosts.faults(session, engines, settings, able)
    taken = await _taken(session)
    full = {name: _shortage(engines.info(name), taken.get(name, Need()), need) for name in able}
    free = [name for name in able if name not in down and full[name] is None]
    if not free:
        reasons = [down.get(name) or full[name] or "" for name in able]
        raise Conflict(f"There is no host for the cluster: {'; '.join(reasons)}.")
    used = await hosts.used(session)

    def load(name: str) -> float:
        info, busy = engines.info(name), taken.get(name, Need()).memory + used.get(name, hosts.Used()).memory
        return busy / max(info.memory, 1) if info is not None else float("inf")

    return min(free, key=load)


async def check(session: AsyncSession, engines: Engines, backend: str, need: Need) -> None:
    """Whether an engine has room for further nodes, whose count is in no row yet.

    Raises Conflict saying what is there and what is missing. The turn that is taken lasts until the caller's
    transaction ends.
    """
    await take_turn(session, "capacity")
    taken = await _taken(session)
    reason = _shortage(engines.info(backend), taken.get(backend, Need()), need)
    if reason is not None:
        raise Conflict(f"There is no room for more nodes: {reason}.")


async def _taken(session: AsyncSession) -> Mapping[str, Need]:
    """What the nodes of all projects' clusters may take, by engine."""
    count = cast(col(NodeGroup.node_count), BigInteger)  # many nodes of a large flavor pass what an integer holds
    sums = (
        select_sums(
            col(Cluster.backend),
            func.sum(count * col(NodeGroup.node_memory)),
            func.sum(count * col(NodeGroup.node_disk)),
        )
        .join(NodeGroup, col(NodeGroup.cluster_id) == col(Cluster.uuid))
        .group_by(col(Cluster.backend))
    )
    return {
        backend: Need(int(memory or 0), int(disk or 0)) for backend, memory, disk in await sums_anywhere(session, sums)
    }


def _shortage(info: EngineInfo | None, taken: Need, need: Need) -> str | None:
    """What a host lacks, in words; None when it has room, or has not said yet how large it is."""
    if info is None:
        return None
    for what, unit, has, used, asked in (
        ("memory", "MiB", info.memory, taken.memory, need.memory),
        ("disk", "GiB", info.disk, taken.disk, need.disk),
    ):
        if asked and has and used + asked > has:
            return (
                f"host {info.hostname} has {has} {unit} of {what}, nodes of clusters there may take {used} {unit}, "
                f"and these would take {asked} {unit}"
            )
    return None
