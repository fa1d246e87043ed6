"""Hosts: what the engines of all replicas say of themselves, and which of them a new container goes to.

Each replica writes down what its engines answered to its pings; one whose last answer is too old is down. Caisson
distributes nothing by itself over a cluster: this is a filter and a pick among the engines that settings name.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import func
from sqlalchemy import select as select_sums
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from app.actions import clock
from app.backends import Engines
from app.backends.engine import Ability, EngineInfo
from app.db import EVERYTHING, Database, sums_anywhere, take_turn
from app.errors import NotFound
from app.models import Container, Host, Installation
from app.settings import Settings

CLUSTER_PREFIX = "cluster:"
"""How the names of clusters' engines begin, and those of the zones that they are."""

REPORT_EVERY = 30.0  # seconds between two notes that a host is up
COLUMNS = {name: col(getattr(Host, name)) for name in ("id", "uuid", "hostname", "created_at", "updated_at")}
"""What lists can be sorted by."""


@dataclass(frozen=True, slots=True)
class Used:
    """What the containers of one backend may take together: MiB, cores, GiB."""

    containers: int = 0
    memory: int = 0
    cpu: float = 0.0
    disk: int = 0


@dataclass(frozen=True, slots=True)
class Wish:
    """What a container wants of its host; None and 0 want nothing. cpu in cores, memory in MiB.

    `backend` is the engine of a cluster, which only `zone` stands for: no host is looked for.
    """

    zone: str | None = None
    host: str | None = None
    runtime: str | None = None
    cpu: float = 0.0
    memory: int = 0
    needs: Collection[Ability] = ()
    backend: str | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Where a container goes; `reason` says why nowhere, and is the ``status_reason`` of an Error row."""

    backend: str
    host: str | None
    reason: str | None = None


async def place(session: AsyncSession, engines: Engines, settings: Settings, wish: Wish) -> Place:
    """Choose among this replica's engines.

    The zone and the host must be those that are wanted, and the host up and enabled. Of several, one that has what is
    wanted comes first, then the least loaded; what none has is refused by whoever checks that wish.
    Raises NotFound for a host that is none.
    """
    names = list(engines.hosts) if wish.backend is None else [wish.backend]
    if wish.host is not None:
        named = engines.on_host(wish.host) or await _backend_of(session, wish.host)
        if named is None or named not in engines.hosts:
            raise NotFound(f"Requested host {wish.host} could not be found.", code="requested-host-not-found")
        names = [named]
    rows = await _newest(session)
    zones = {name: engines.zone(name) or zone_of(settings, name) for name in names}
    if wish.zone is not None and wish.zone not in zones.values():
        known = ", ".join(sorted(set(zones.values())))
        return Place(names[0], None, f"There is no host in availability zone {wish.zone}; there is: {known}.")
    names = [name for name in names if wish.zone in (None, zones[name])]
    now = await clock(session)
    faults = _faults(rows, engines, settings, now, names)
    free = [name for name in names if name not in faults]
    if not free:
        return Place(names[0], None, f"There is no host for it: {'; '.join(faults.values())}.")
    best = free[0] if len(free) == 1 else await _pick(session, engines, free, wish)
    info = engines.info(best)
    known_as = rows[best].hostname if best in rows else None
    return Place(best, known_as or (info.hostname if info else None))


async def faults(session: AsyncSession, engines: Engines, settings: Settings, names: Collection[str]) -> dict[str, str]:
    """Why those of these backends whose host gets nothing new get nothing; none are known before all were asked."""
    return _faults(await _newest(session), engines, settings, await clock(session), names)


def zone_of(settings: Settings, backend: str) -> str:
    """The availability zone of a backend."""
    known = settings.backends.get(backend)
    return (known.availability_zone if known else None) or settings.availability_zone


def is_up(row: Host, now: float, settings: Settings) -> bool:
    """Whether a host answered lately, and nobody declared it down."""
    return not row.forced_down and now - (row.last_seen_up or 0.0) <= settings.host_down_seconds


async def installation(database: Database) -> str:
    """Which installation this is: the same for all replicas, made by the first."""
    async with database.transaction(EVERYTHING) as session:
        await take_turn(session, "installation")
        row = (await session.exec(select(Installation))).first()
        if row is None:
            session.add(row := Installation(id=1))
        return row.uuid


async def report(database: Database, engines: Engines, settings: Settings, name: str) -> None:
    """Note that a backend answered, and what it said of its host."""
    info = engines.info(name)
    if info is None:
        return
    zone = engines.zone(name) or zone_of(settings, name)
    facts = _facts(info, Ability.DISK_QUOTA in engines.reach(name).abilities, zone)
    async with database.reading(EVERYTHING) as session:
        known = (await session.exec(select(Host).where(Host.backend == name, _named(info, name)))).first()
        if known is not None and known.facts == facts:
            age = await clock(session) - (known.last_seen_up or 0.0)
            # One that is below zero was noted before somebody set the clock back.
            if 0.0 <= age < min(REPORT_EVERY, settings.host_down_seconds / 6):
                return
    async with database.transaction(EVERYTHING) as session:
        await take_turn(session, "hosts")
        row = (await session.exec(select(Host).where(Host.backend == name, _named(info, name)))).first()
        now = await clock(session)
        if row is None:
            taken = await session.exec(select(Host.id).where(Host.hostname == info.hostname))
            # Zun knows hosts by their names: of two engines on one host, the second bears its own name as well.
            hostname = info.hostname if taken.first() is None else f"{info.hostname}-{name}"
            row = Host(backend=name, hostname=hostname, created_at=now)
            session.add(row)
        row.facts, row.last_seen_up, row.updated_at = facts, now, now
        row.report_count += 1


async def find(session: AsyncSession, ident: str) -> Host:
    """By uuid or hostname. Raises NotFound."""
    row = (await session.exec(select(Host).where((col(Host.uuid) == ident) | (col(Host.hostname) == ident)))).first()
    if row is None:
        raise NotFound(f"Compute node {ident[:255]} could not be found.", code="compute-node-not-found")
    return row


async def find_service(session: AsyncSession, hostname: str, binary: str) -> Host:
    """The host as a service, locked. Raises NotFound."""
    query = select(Host).where(Host.hostname == hostname, Host.binary == binary).with_for_update()
    row = (await session.exec(query)).first()
    if row is None:
        raise NotFound(
            f"Binary {binary[:255]} could not be found on host {hostname[:255]}.", code="zun-service-not-found"
        )
    return row


async def services(session: AsyncSession) -> Sequence[Host]:
    """All of them, the oldest first."""
    return (await session.exec(select(Host).order_by(col(Host.id)))).all()


async def used(session: AsyncSession) -> dict[str, Used]:
    """What the containers of each backend take, of all projects."""
    sums = select_sums(
        col(Container.backend),
        func.count(col(Container.id)),
        func.sum(col(Container.memory)),
        func.sum(col(Container.cpu)),
        func.sum(col(Container.disk)),
    ).group_by(col(Container.backend))
    return {
        backend: Used(count, int(memory or 0), round(float(cpu or 0), 3), int(disk or 0))
        for backend, count, memory, cpu, disk in await sums_anywhere(session, sums)
    }


async def zones(session: AsyncSession, settings: Settings) -> list[str]:
    """The availability zones that have a host, or will have one; clusters are zones of their own projects alone."""
    found = {
        (row.facts or {}).get("zone") for row in await services(session) if not row.backend.startswith(CLUSTER_PREFIX)
    }
    found |= {zone_of(settings, name) for name in settings.backends}
    return sorted(filter(None, found))


async def known(session: AsyncSession) -> Sequence[Host]:
    """All hosts that ever answered and were not forgotten, the first one first."""
    return (await session.exec(select(Host).order_by(col(Host.id)))).all()


def _faults(
    rows: Mapping[str, Host], engines: Engines, settings: Settings, now: float, names: Collection[str]
) -> dict[str, str]:
    found = {}
    for name in names if engines.tried else ():
        if (row := rows.get(name)) is None:
            continue
        # An engine that was heard here is up whatever its row says: somebody may have set the clock.
        up = engines.heard(name, settings.host_down_seconds) or is_up(row, now, settings)
        if row.disabled:
            because = f" ({row.disabled_reason})" if row.disabled_reason else ""
            found[name] = f"host {row.hostname} is disabled{because}"
        elif row.forced_down:
            found[name] = f"host {row.hostname} is forced down"
        elif not up:
            silent = now - (row.last_seen_up or row.created_at)
            found[name] = f"host {row.hostname} has been down for {silent:.0f} seconds"
    return found


async def _newest(session: AsyncSession) -> dict[str, Host]:
    """The host that each backend was on last."""
    rows = (await session.exec(select(Host))).all()
    return {row.backend: row for row in sorted(rows, key=lambda row: row.last_seen_up or 0.0)}


async def _backend_of(session: AsyncSession, host: str) -> str | None:
    query = select(Host.backend).where((col(Host.uuid) == host) | (col(Host.hostname) == host))
    return (await session.exec(query)).first()


async def _pick(session: AsyncSession, engines: Engines, names: Sequence[str], wish: Wish) -> str:
    busy = await used(session)

    def cost(name: str) -> tuple[int, float, int]:
        info, has = engines.info(name), busy.get(name, Used())
        if info is None:
            return (len(wish.needs) + 4, 0.0, has.containers)
        lacks = len(set(wish.needs) - engines[name].abilities)
        lacks += wish.runtime is not None and wish.runtime not in info.runtimes
        lacks += (wish.cpu > info.cpus) + (wish.memory > info.memory)
        load = max(has.memory / max(info.memory, 1), has.cpu / max(info.cpus, 1))
        return (lacks, load, has.containers)

    return min(names, key=cost)


def _named(info: EngineInfo, name: str) -> Any:
    return col(Host.hostname).in_((info.hostname, f"{info.hostname}-{name}"))


def _facts(info: EngineInfo, disk_quota: bool, zone: str) -> dict[str, Any]:
    said = asdict(info) | {"runtimes": list(info.runtimes), "labels": dict(info.labels)}
    return said | {"disk_quota": disk_quota, "zone": zone}
