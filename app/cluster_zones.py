"""Clusters as places for containers: a finished one is the zone ``cluster:<name>`` of its own project.

Each replica serves the engines of the clusters whose driver it has. They join when a cluster is complete, are made anew
when its keys change, and leave when it is deleted; what its containers' rows say then is decided here. See
docs/clusters-as-zones.md.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from app import actions, cluster_specs, lookup, observe
from app.backends import Drivers, Engines
from app.backends.departed import departed
from app.backends.driver import ClusterAbility
from app.cluster_specs import Rows
from app.db import EVERYTHING, Database
from app.errors import Conflict, NotFound, Unsupported
from app.hosts import CLUSTER_PREFIX
from app.models import Cluster, ClusterStatus, Container, Host, Status
from app.settings import Settings
from app.vault import Vault

log = structlog.get_logger("caisson.zones")

FOLLOW_EVERY = 5.0  # seconds
LOST = "its cluster was deleted"

COMPLETE = (ClusterStatus.CREATE_COMPLETE, ClusterStatus.UPDATE_COMPLETE)
SERVED = (*COMPLETE, ClusterStatus.UPDATE_IN_PROGRESS, ClusterStatus.UPDATE_FAILED)
"""Of these the containers are reached; new ones are taken by those that are complete."""


def is_zone(zone: str | None) -> bool:
    """Whether a zone's name is that of a cluster."""
    return zone is not None and zone.startswith(CLUSTER_PREFIX)


def engine_name(cluster: str) -> str:
    """What the engine of the cluster with this uuid is called."""
    return f"{CLUSTER_PREFIX}{cluster}"


def zone_name(cluster: Cluster) -> str:
    """The zone that a cluster is to its project."""
    return f"{CLUSTER_PREFIX}{cluster.name}"


@dataclass(frozen=True, slots=True)
class _Served:
    """How an engine was made: it is made anew when this changes."""

    zone: str
    keys: tuple[str, ...]


class Zones:
    """The engines of clusters in this replica. `wake` tells its worker that there is something to do."""

    def __init__(
        self,
        database: Database,
        engines: Engines,
        drivers: Drivers,
        settings: Settings,
        vault: Vault,
        wake: Callable[[], None],
    ) -> None:
        self._database = database
        self._engines = engines
        self._drivers = drivers
        self._settings = settings
        self._vault = vault
        self._wake = wake
        self._served: dict[str, _Served] = {}
        self._watchers: dict[str, asyncio.Task[None]] = {}
        self._turn = asyncio.Lock()
        self._mark: Sequence[object] = ()

    async def find(self, session: AsyncSession, zone: str) -> Cluster:
        """The cluster that a zone's name means in the scope of a session, by name or uuid.

        Raises NotFound; Conflict when several have the name, or it is not complete; Unsupported when its driver runs no
        containers.
        """
        try:
            cluster: Cluster = await lookup.find(session, Cluster, zone.removeprefix(CLUSTER_PREFIX), "cluster")
        except NotFound:
            raise NotFound(f"Availability zone {zone[:255]} could not be found.") from None
        if cluster.status not in COMPLETE:
            raise Conflict(f"Cluster {cluster.name} is in {cluster.status} status: it takes containers when complete.")
        if not self._runs_containers(cluster):
            raise Unsupported(f"The cluster driver {cluster.driver!r} runs no containers: use the cluster's own API")
        return cluster

    async def hold(self, session: AsyncSession, cluster: Cluster) -> None:
        """Keep a cluster that was found from being deleted or changed until the transaction ends. Raises Conflict."""
        query = select(Cluster.status).where(Cluster.uuid == cluster.uuid).with_for_update()
        if (await session.exec(query)).first() not in COMPLETE:
            raise Conflict(f"Cluster {cluster.name} is being changed: it takes containers when complete.")

    async def names(self, session: AsyncSession) -> list[str]:
        """The zones that clusters in the scope of a session are."""
        rows = await session.exec(select(Cluster).where(col(Cluster.status).in_(COMPLETE)))
        return sorted({zone_name(cluster) for cluster in rows if self._runs_containers(cluster)})

    async def serve(self, cluster: Cluster) -> str:
        """The name of a cluster's engine, which is served from now on."""
        name = engine_name(cluster.uuid)
        if name not in self._served:
            await self.follow()
        return name

    async def keep_following(self) -> None:
        """Look for ever which clusters there are."""
        while True:
            await asyncio.sleep(FOLLOW_EVERY)
            try:
                await self.follow()
            except Exception as error:  # the next round makes up for it
                log.warning("clusters not followed", error=repr(error))

    async def follow(self) -> None:
        """Serve the clusters that there are, and settle what is left of those that are gone."""
        async with self._turn:
            mark = await self._newest()
            if mark != self._mark:
                await self._serve_all()
            elif not self._departed():
                return
            await self._settle()
            self._mark = mark

    async def close(self) -> None:
        """Stop watching. The engines are closed by whoever holds them."""
        for task in self._watchers.values():
            task.cancel()
        await asyncio.gather(*self._watchers.values(), return_exceptions=True)

    async def _serve_all(self) -> None:
        found = await cluster_specs.read(self._database, EVERYTHING, col(Cluster.status).in_(SERVED))
        there = {engine_name(uuid): rows for uuid, rows in found.items()}
        for name in [name for name in self._served if name not in there]:
            await self._leave(name)
        for name, rows in there.items():
            await self._join(name, rows)

    def _runs_containers(self, cluster: Cluster) -> bool:
        driver = self._drivers.get((cluster.driver, cluster.backend))
        return driver is not None and ClusterAbility.CONTAINERS in driver.abilities

    async def _join(self, name: str, rows: Rows) -> None:
        keys = tuple(sorted(f"{key.kind} {key.certificate}" for key in rows.keys))
        wanted = _Served(zone_name(rows.cluster), keys)
        if self._served.get(name) == wanted or not self._runs_containers(rows.cluster):
            return
        driver = self._drivers.find(rows.cluster.driver, rows.cluster.backend)
        engine = driver.engine(cluster_specs.spec_of(rows, self._vault))
        await self._leave(name)
        self._engines.join(name, engine, wanted.zone)
        self._served[name] = wanted
        await observe.ensure_observed(self._database, name)
        watching = observe.watch(engine, self._database, self._settings, self._wake)
        self._watchers[name] = asyncio.create_task(watching)
        log.info("cluster served", backend=name, zone=wanted.zone)
        self._wake()

    async def _leave(self, name: str) -> None:
        if self._served.pop(name, None) is None:
            return
        if (watcher := self._watchers.pop(name, None)) is not None:
            watcher.cancel()
            await asyncio.gather(watcher, return_exceptions=True)
        await self._engines.leave(name)

    async def _settle(self) -> None:
        """Containers whose cluster is gone are lost. What is still asked of them, their deletion, ends at once."""
        lost = await self._lost()
        for name in lost:
            if name not in self._engines:
                self._engines.join(name, departed(name, LOST))
            async with self._database.transaction(EVERYTHING) as session:
                await _give_up(session, name)
            self._wake()
        for name in self._departed():
            if name not in lost:
                await self._engines.leave(name)

    def _departed(self) -> list[str]:
        return [name for name in self._engines if name not in self._engines.hosts and name not in self._served]

    async def _newest(self) -> Sequence[object]:
        """Differs after every change of a cluster."""
        async with self._database.reading(EVERYTHING) as session:
            return (await session.exec(select(Cluster.uuid, Cluster.revision).order_by(col(Cluster.id)))).all()

    async def _lost(self) -> Sequence[str]:
        """The engines of clusters that are gone, as far as containers or hosts are left of them."""
        async with self._database.reading(EVERYTHING) as session:
            used = set()
            for kind in (Container, Host):
                query = select(kind.backend).where(col(kind.backend).startswith(CLUSTER_PREFIX)).distinct()
                used |= set((await session.exec(query)).all())
            staying = select(Cluster.uuid).where(~col(Cluster.status).startswith("DELETE_"))
            return sorted(used - {engine_name(uuid) for uuid in (await session.exec(staying)).all()})


async def _give_up(session: AsyncSession, backend: str) -> None:
    """Let the rows of an engine that is gone say so. Those that are being deleted go their way."""
    query = select(Container).where(
        Container.backend == backend,
        Container.status != Status.DELETING,
        (col(Container.status) != Status.ERROR) | col(Container.engine_ref).is_not(None),
    )
    now = await actions.clock(session)
    for box in (await session.exec(query.with_for_update())).all():
        await actions.cancel_older(session, box.uuid, now)
        box.updated_at = now
        box.status, box.status_reason, box.task_state = Status.ERROR, LOST, None
        box.engine_ref, box.addresses, box.wanted_running = None, {}, False
    await actions.cancel_older(session, observe.backend_id(backend), now)
    for host in await session.exec(select(Host).where(Host.backend == backend)):
        await session.delete(host)
