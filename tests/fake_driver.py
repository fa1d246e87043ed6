"""A cluster driver in memory that behaves as real ones do, kept honest by ``tests/conformance/test_drivers.py``.

Each step makes, removes or replaces a node, and a node takes some looks until it is ready. Beside the verbs there are
methods for tests: to fail, delay and freeze verbs, to break, stop and remove nodes behind everybody's back.
"""

import asyncio
import copy
import secrets
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

from app.backends.driver import (
    MASTER,
    ClusterAbility,
    ClusterFailed,
    ClusterSeen,
    ClusterSpec,
    ClusterType,
    Keys,
    NodeFact,
    NodeGroupSpec,
    Progress,
)
from app.backends.engine import Ability, ContainerEngine
from app.backends.nodes import NodeHost
from app.db import in_transaction
from app.errors import EngineError, Invalid
from app.settings import Settings
from tests.fake import FakeEngine

NETWORK = {"kubernetes": ("flannel", "calico"), "swarm-mode": ("docker",), "swarm": ("docker",)}
TYPES = {
    "kubernetes": (ClusterType("vm", "*", "kubernetes"),),
    "swarm": (ClusterType("vm", "*", "swarm-mode"), ClusterType("vm", "*", "swarm")),
}
INSIDE = frozenset({Ability.KILL, Ability.EXEC, Ability.ATTACH, Ability.MEASURE, Ability.COPY, Ability.WATCH})
"""What containers on a cluster can do."""
SMALLEST = 64  # MiB that a node needs
MOST_MASTERS, MOST_NODES = 7, 253


@dataclass(slots=True)
class FakeNode:
    """One node. `looks` are those that it takes until it is ready."""

    name: str
    group: UUID
    ref: str
    address: str
    spec: NodeGroupSpec
    looks: int
    running: bool = True
    trusts: tuple[str, ...] = ()
    serves: str = ""

    @property
    def ready(self) -> bool:
        return self.running and self.looks <= 0


@dataclass(slots=True)
class FakeCluster:
    """What the engine holds of one cluster."""

    number: int
    nodes: dict[str, FakeNode] = field(default_factory=dict)
    addresses: int = 9

    def address(self) -> str:
        """One that no node had before."""
        self.addresses += 1
        return f"10.222.{self.number}.{self.addresses}"


def make(host: NodeHost, settings: Settings) -> "FakeDriver":
    """The entry point of a distribution that has it."""
    return FakeDriver()


class FakeDriver:
    """A driver with every ability.

    Attributes:
        calls: how often each verb was called, failures included.
        engines: what runs containers on each cluster, as far as somebody asked for it.
        looks: how many looks a node takes until it is ready; it starts while somebody looks.
        pause: seconds between two looks at nodes that start.
    """

    def __init__(self, name: str = "kubernetes", abilities: frozenset[ClusterAbility] | None = None) -> None:
        self.name = name
        self.provides: Sequence[ClusterType] = TYPES[name]
        self.abilities = frozenset(ClusterAbility) if abilities is None else abilities
        self.calls: Counter[str] = Counter()
        self.engines: dict[UUID, FakeEngine] = {}
        self.looks = 1
        self.pause = 0.01
        self._clusters: dict[UUID, FakeCluster] = {}
        self._broken: dict[str, str] = {}
        self._failures: defaultdict[str, list[tuple[EngineError, bool]]] = defaultdict(list)
        self._delays: dict[str, float] = {}
        self._thawed = asyncio.Event()
        self._thawed.set()

    # What tests do to it

    def fail_next(self, verb: str, error: EngineError, *, after: bool = False) -> None:
        """The next call of `verb` raises `error`; with `after` only when its work is done. Several calls queue up."""
        self._failures[verb].append((error, after))

    def delay(self, verb: str, seconds: float) -> None:
        """Every call of `verb` takes so much longer from now on; 0 ends that."""
        self._delays[verb] = seconds

    def freeze(self) -> None:
        """No call comes back until `thaw`."""
        self._thawed.clear()

    def thaw(self) -> None:
        """All calls go on."""
        self._thawed.set()

    def break_nodes(self, group: str, reason: str) -> None:
        """Nodes of the groups of this name end when they start, and say this."""
        self._broken[group] = reason

    def repair_nodes(self, group: str) -> None:
        """They start again."""
        del self._broken[group]

    def reset(self) -> None:
        """Nothing fails, is late, frozen or broken any more."""
        self.looks = 1
        self._broken.clear()
        self._failures.clear()
        self._delays.clear()
        self.thaw()

    def stop_node(self, cluster: UUID, name: str) -> None:
        """The node stops by itself."""
        self._clusters[cluster].nodes[name].running = False

    def vanish(self, cluster: UUID) -> None:
        """Somebody removes the whole cluster from the engine."""
        del self._clusters[cluster]

    def held(self) -> set[UUID]:
        """The clusters of which there is anything."""
        return set(self._clusters)

    def nodes(self, cluster: UUID) -> list[FakeNode]:
        """What there is, by name."""
        found = self._clusters.get(cluster)
        return sorted(found.nodes.values(), key=lambda node: node.name) if found else []

    def twin(self) -> "FakeDriver":
        """The same engine as another replica's driver sees it."""
        return copy.copy(self)

    # The verbs

    def validate(self, spec: ClusterSpec) -> None:
        coes = {kind.coe for kind in self.provides}
        if spec.coe not in coes:
            raise Invalid(f"coe: {spec.coe} is none of {', '.join(sorted(coes))}")
        if spec.network_driver not in (None, *NETWORK[spec.coe]):
            raise Invalid(f"network_driver: {spec.network_driver} is none of {', '.join(NETWORK[spec.coe])}")
        if not spec.groups or spec.groups[0].role != MASTER:
            raise Invalid("the first node group must be that of the masters")
        masters = spec.groups[0].count
        if masters % 2 == 0 or masters > MOST_MASTERS:
            raise Invalid(f"master_count: {masters} masters cannot agree; use an odd number up to {MOST_MASTERS}")
        if (nodes := sum(group.count for group in spec.groups)) > MOST_NODES:
            raise Invalid(f"node_count: a cluster's network has room for {MOST_NODES} nodes; these are {nodes}")
        for group in spec.groups:
            if group.memory and group.memory < SMALLEST:
                raise Invalid(f"flavor_id: nodes of {group.name} need {SMALLEST} MiB of memory, not {group.memory}")
            if len(f"{spec.name}-{group.name}") > 60:
                raise Invalid(f"name: node group {group.name} makes host names that are longer than 63 characters")

    async def converge(self, spec: ClusterSpec, memo: Mapping[str, Any]) -> Progress:
        async with self._verb("converge"):
            self.validate(spec)
            cluster = self._clusters.setdefault(spec.uuid, FakeCluster(len(self._clusters) + 1))
            text = self._leave(cluster, spec) or self._change(cluster, spec) or self._make(cluster, spec)
            if text is not None:
                return Progress(False, text, 0.0, {"steps": memo.get("steps", 0) + 1})
            if text := self._start(cluster, spec):
                return Progress(False, text, self.pause, memo)
            if text := self._change(cluster, spec):  # those that waited for their turn
                return Progress(False, text, 0.0, memo)
            return Progress(True)

    async def observe(self, spec: ClusterSpec) -> ClusterSeen | None:
        async with self._verb("observe"):
            nodes = self.nodes(spec.uuid)
            if not nodes:
                return None
            masters = [node for node in nodes if node.group == spec.groups[0].uuid]
            reachable = any(node.ready for node in masters)
            facts = [NodeFact(node.name, node.group, node.address, node.ready, _why(node)) for node in nodes]
            for node in nodes:
                if node.running and node.spec.name not in self._broken:
                    node.looks -= node.looks > 0  # as time goes by for nodes that do something
            reasons = {f"{fact.name}.Ready": "True" if fact.ready else f"False: {fact.reason}" for fact in facts}
            scheme, port = ("https", 6443) if self.name == "kubernetes" else ("tcp", 2376)
            return ClusterSeen(
                api_address=f"{scheme}://{masters[0].address}:{spec.api_port or port}" if masters else None,
                reachable=reachable,
                nodes=facts,
                coe_version=f"v{masters[0].spec.image}" if reachable else None,
                container_version="1.0" if reachable else None,
                reasons={"api": "ok" if reachable else "no master is ready"} | reasons,
            )

    async def mend(self, spec: ClusterSpec) -> str:
        async with self._verb("mend"):
            stopped = [node for node in self.nodes(spec.uuid) if not node.running]
            for node in stopped:
                self._run(node)
            return f"started {', '.join(node.name for node in stopped)}" if stopped else ""

    async def delete(self, cluster: UUID) -> bool:
        async with self._verb("delete"):
            if (found := self._clusters.get(cluster)) is None:
                return True
            if found.nodes:
                del found.nodes[max(found.nodes)]
                return False
            del self._clusters[cluster]
            return True

    def engine(self, spec: ClusterSpec) -> ContainerEngine:
        if spec.uuid not in self.engines:
            self.engines[spec.uuid] = FakeEngine(f"cluster:{spec.uuid}", INSIDE)
            self.engines[spec.uuid].add_image("busybox")
        return self.engines[spec.uuid].twin()

    async def close(self) -> None:
        return

    # How it works

    @asynccontextmanager
    async def _verb(self, verb: str) -> AsyncIterator[None]:
        assert not in_transaction.get(), f"{verb} within a transaction"
        self.calls[verb] += 1
        await self._thawed.wait()
        await asyncio.sleep(self._delays.get(verb, 0))
        error, after = self._failures[verb].pop(0) if self._failures[verb] else (None, False)
        if error is not None and not after:
            raise error
        yield
        if error is not None:
            raise error

    def _leave(self, cluster: FakeCluster, spec: ClusterSpec) -> str | None:
        """Remove one node too many."""
        groups = {group.uuid: group for group in spec.groups}
        for node in cluster.nodes.values():
            if node.group not in groups:
                return self._remove(cluster, node)
        for group in spec.groups:
            mine = _of(cluster, group)
            if len(mine) > group.count:
                named = [node for node in mine if {node.name, node.ref, node.address} & set(group.leaving)]
                return self._remove(cluster, (named or mine[::-1])[0])
        return None

    def _change(self, cluster: FakeCluster, spec: ClusterSpec) -> str | None:
        """Replace nodes of another image, a batch at a time; hand out what the keys say to one that has others."""
        for group in spec.groups:
            mine = _of(cluster, group)
            old = [node for node in mine if node.spec.image != group.image]
            if old and sum(not node.ready for node in mine if node not in old) < group.batch:
                old[0].spec, old[0].ref = replace(group), secrets.token_hex(8)
                self._run(old[0])
                return f"{old[0].name}: being replaced"
        for node in cluster.nodes.values():
            if spec.keys is not None and (node.serves, node.trusts) != _trust(spec.keys):
                node.serves, node.trusts = _trust(spec.keys)
                return f"{node.name}: given new certificates"
        return None

    def _make(self, cluster: FakeCluster, spec: ClusterSpec) -> str | None:
        """Make one missing node: a worker only when there is a master to join."""
        for group in spec.groups:
            if group.role != MASTER and not any(node.ready for node in _of(cluster, spec.groups[0])):
                return None
            if len(_of(cluster, group)) < group.count:
                name = next(name for name in _names(spec, group) if name not in cluster.nodes)
                node = FakeNode(name, group.uuid, secrets.token_hex(8), cluster.address(), replace(group), self.looks)
                if spec.keys is not None:
                    node.serves, node.trusts = _trust(spec.keys)
                cluster.nodes[name] = node
                return f"{name}: made"
        return None

    def _start(self, cluster: FakeCluster, spec: ClusterSpec) -> str:
        """One look at every node that is not ready."""
        for node in cluster.nodes.values():
            if not node.running:
                self._run(node)
            elif not node.ready:
                if node.spec.name in self._broken:
                    reason = self._broken[node.spec.name]
                    raise ClusterFailed(f"{node.name}: {reason}", {node.group: f"{node.name}: {reason}"})
                node.looks -= 1
        late = [node.name for node in cluster.nodes.values() if not node.ready]
        missing = sum(group.count for group in spec.groups) - len(cluster.nodes)
        images = {group.uuid: group.image for group in spec.groups}
        old = any(node.spec.image != images[node.group] for node in cluster.nodes.values())
        if not late and not missing and not old:
            return ""
        words = [f"{len(cluster.nodes) - len(late)} of {len(cluster.nodes) + missing} nodes ready"]
        return "; ".join(words + [f"{name}: starting" for name in late])

    def _remove(self, cluster: FakeCluster, node: FakeNode) -> str:
        del cluster.nodes[node.name]
        return f"{node.name}: removed"

    def _run(self, node: FakeNode) -> None:
        node.running, node.looks = True, self.looks


def _of(cluster: FakeCluster, group: NodeGroupSpec) -> list[FakeNode]:
    return [node for node in cluster.nodes.values() if node.group == group.uuid]


def _names(spec: ClusterSpec, group: NodeGroupSpec) -> list[str]:
    return [f"{spec.name}-{group.name}-{number}" for number in range(group.count)]


def _trust(keys: Keys) -> tuple[str, tuple[str, ...]]:
    """The authority whose certificate a node shows, and those that it trusts."""
    trusted = [keys.cluster, *([keys.previous] if keys.previous else [])]
    return keys.cluster.certificate, tuple(one.certificate for one in trusted)


def _why(node: FakeNode) -> str:
    if not node.running:
        return "stopped"
    return "" if node.ready else "starting"
