"""Clusters of Docker Swarm, whose nodes are containers with an engine of their own.

State is in a volume of each node, so that a node can be stopped, killed or made anew, and is itself again. Access is by
the cluster's own authority over TLS, which this driver uses as everybody does.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, cast
from uuid import UUID

from app.backends.driver import (
    ClusterAbility,
    ClusterDriver,
    ClusterSeen,
    ClusterSpec,
    ClusterType,
    NodeFact,
    Progress,
)
from app.backends.engine import ContainerEngine, State
from app.backends.nodes import ImageHost, NodeHost, NodeSeen
from app.backends.swarm import plan as planning
from app.backends.swarm.api import Apis, Contexts, Member, NodeError
from app.backends.swarm.engine import SwarmEngine
from app.backends.swarm.nodes import Endpoint
from app.backends.swarm.steps import Steps, not_ready, why_stopped
from app.settings import Settings

NO_MESH = (
    "the host's kernel has no IPVS: publish ports with mode=host, and let names resolve to tasks "
    "(--endpoint-mode dnsrr)"
)


def make(host: NodeHost, settings: Settings) -> ClusterDriver:
    """The driver on one engine. Nothing is asked before its first call."""
    return SwarmDriver(host, settings)


class SwarmDriver:
    """See `ClusterDriver`."""

    name = "swarm"
    provides: Sequence[ClusterType] = (ClusterType("vm", "*", "swarm"), ClusterType("vm", "*", "swarm-mode"))
    abilities = frozenset(
        {
            ClusterAbility.UPGRADE,
            ClusterAbility.NODE_GROUPS,
            ClusterAbility.RESIZE_MASTERS,
            ClusterAbility.ROTATE_CA,
            ClusterAbility.CONTAINERS,
        }
    )

    def __init__(self, host: NodeHost, settings: Settings) -> None:
        self._host = host
        self._settings = settings.clusters
        self._all_settings = settings
        self._contexts = Contexts()
        self._mesh: bool | None = None

    def validate(self, spec: ClusterSpec) -> None:
        """Raises Invalid for a swarm that can never be made."""
        planning.check(spec, self._settings)

    async def converge(self, spec: ClusterSpec, memo: Mapping[str, Any]) -> Progress:
        """One step towards the spec: see `app.backends.swarm.steps`."""
        steps = Steps(self._host, self._settings, spec, self._contexts)
        try:
            return await steps.converge(memo)
        finally:
            await steps.close()

    async def mend(self, spec: ClusterSpec) -> str:
        """Start nodes that stopped, make those anew whose container is gone, and let them join again."""
        steps = Steps(self._host, self._settings, spec, self._contexts)
        try:
            return await steps.mend()
        finally:
            await steps.close()

    async def observe(self, spec: ClusterSpec) -> ClusterSeen | None:
        """What is there, as the managers and the engine see it."""
        nodes = await self._host.nodes(spec.uuid)
        if not nodes:
            return None
        apis = Apis(spec, self._contexts)
        try:
            return await self._look(spec, nodes, apis)
        finally:
            await apis.close()

    async def delete(self, cluster: UUID) -> bool:
        """Remove what there is of it; whether nothing is left."""
        return await self._host.remove_cluster(cluster)

    def engine(self, spec: ClusterSpec) -> ContainerEngine:
        """Containers as services of one replica; see `app.backends.swarm.engine`."""
        where = partial(self._endpoints, spec)
        return SwarmEngine(f"cluster:{spec.uuid}", where, cast(ImageHost, self._host), self._all_settings)

    async def close(self) -> None:
        """Connections live as long as a call."""

    async def _endpoints(self, spec: ClusterSpec) -> Sequence[Endpoint]:
        """Where its nodes are asked; tasks may still be on those that are to leave."""
        found = planning.plan(spec, await self._host.nodes(spec.uuid))
        nodes = [(wish.seen, wish.manager) for wish in found.wishes if wish.seen is not None]
        nodes += [(seen, False) for seen in found.surplus]
        return [
            Endpoint(
                address=seen.address,
                url=f"tcp://{seen.address}:{planning.port(spec)}",
                tls=self._contexts.of(spec, seen.labels.get(planning.TRUST, "")) if spec.tls else None,
                manager=manager,
                ref=seen.ref,
            )
            for seen, manager in nodes
        ]

    async def _look(self, spec: ClusterSpec, nodes: Sequence[NodeSeen], apis: Apis) -> ClusterSeen:
        found = planning.plan(spec, nodes)
        masters = [wish.seen for wish in found.wishes if wish.manager and wish.seen is not None]
        members, trouble = await _members(apis, masters)
        # Of two by one name the one that is ready counts; the other is what a node was before it lost everything.
        by_name = {member.name: member for member in sorted(members or (), key=lambda one: one.state == "ready")}
        facts = []
        for wish in found.wishes:
            reason = "its container is gone" if wish.seen is None else why_stopped(wish.seen)
            if not reason:
                reason = trouble if members is None else not_ready(wish.manager, by_name.get(wish.name), None)
            address = wish.seen.address if wish.seen else ""
            facts.append(NodeFact(wish.name, wish.group.uuid, address, not reason, reason))
        reasons = {"api": trouble or "ok"} | {
            f"{fact.name}.Ready": "True" if fact.ready else f"False: {fact.reason}" for fact in facts
        }
        if members is not None:
            mesh = await self._has_mesh([seen for seen in masters if seen.state is State.RUNNING])
            reasons["routing_mesh"] = "True" if mesh else f"False: {NO_MESH}"
        version = max((member.version for member in members or () if member.manager), default=None)
        return ClusterSeen(
            api_address=self._api_address(spec, masters),
            reachable=members is not None,
            nodes=tuple(facts),
            coe_version=version,
            container_version=version,
            reasons=reasons,
        )

    def _api_address(self, spec: ClusterSpec, masters: Sequence[NodeSeen]) -> str | None:
        for seen in masters:
            if self._settings.publish_address and planning.PUBLISHED in seen.labels:
                return f"tcp://{self._settings.publish_address}:{seen.labels[planning.PUBLISHED]}"
        return f"tcp://{masters[0].address}:{planning.port(spec)}" if masters else None

    async def _has_mesh(self, masters: Sequence[NodeSeen]) -> bool:
        """Whether the kernel balances published ports and virtual addresses. It is the same for all nodes here."""
        if self._mesh is None and masters:
            listed = await self._host.run_in_node(masters[0].ref, ["cat", "/proc/net/ip_vs"])
            self._mesh = listed.exit_code == 0
        return bool(self._mesh)


async def _members(apis: Apis, masters: Sequence[NodeSeen]) -> tuple[list[Member] | None, str]:
    """What the first manager that answers says; None and why when none does."""
    trouble = "there is no manager"
    for seen in masters:
        if seen.state is not State.RUNNING:
            trouble = f"node {seen.name}: {why_stopped(seen)}"
            continue
        try:
            return await apis.of(seen).members(), ""
        except NodeError as error:
            trouble = error.title
    return None, trouble
