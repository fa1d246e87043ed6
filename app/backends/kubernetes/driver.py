"""Clusters of Kubernetes whose nodes are containers: upstream's own programs, started from nothing but certificates.

A step looks at what the engine and the cluster's API show, and does the one missing thing (`ClusterDriver`). Control
planes come before workers in everything. A node that must change is made anew on its own volumes, under its name and
address, after its pods have left; only new certificates are taken up in place.
"""

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, cast
from uuid import UUID

from app.backends.driver import (
    ClusterAbility,
    ClusterFailed,
    ClusterSeen,
    ClusterSpec,
    ClusterType,
    Keys,
    NodeFact,
    Progress,
)
from app.backends.engine import ContainerEngine, State
from app.backends.kubernetes import plan
from app.backends.kubernetes.api import Api, Document
from app.backends.kubernetes.engine import KubernetesEngine
from app.backends.kubernetes.k3s import PROFILE as K3S
from app.backends.kubernetes.steps import Steps, why_not_ready
from app.backends.kubernetes.view import View, look
from app.backends.nodes import ImageHost, NodeHost, NodeSeen
from app.errors import EngineError, Invalid, Unavailable
from app.settings import Settings

PROFILES = ("", K3S)


def make(host: NodeHost, settings: Settings) -> "KubernetesDriver":
    """The entry point of group ``app.drivers``."""
    return KubernetesDriver(host, settings)


class KubernetesDriver:
    """Clusters on one engine that has ability NODE."""

    name = "kubernetes"
    provides: Sequence[ClusterType] = (ClusterType("vm", "*", "kubernetes"),)
    abilities = frozenset(
        {ClusterAbility.UPGRADE, ClusterAbility.NODE_GROUPS, ClusterAbility.ROTATE_CA, ClusterAbility.CONTAINERS}
    )

    def __init__(self, host: NodeHost, settings: Settings) -> None:
        self._host = host
        self._settings = settings
        self._apis: dict[UUID, tuple[Keys, Api]] = {}

    def validate(self, spec: ClusterSpec) -> None:
        """Raises Invalid for what can never be made, by the name of field or label; see `ClusterDriver`."""
        plan.check(spec, self._settings.clusters.network_pool, self._settings.clusters.network_prefix)
        for group in spec.groups:
            if group.profile not in PROFILES:
                raise Invalid(f"image: profile {group.profile!r} of its nodes is not known; known: {K3S}, or none")
        if len({group.profile for group in spec.groups}) > 1:
            raise Invalid("image: nodes of different profiles do not make one cluster")
        if spec.groups[0].profile == K3S and spec.groups[0].count > 1:
            raise Invalid(f"master_count: {spec.groups[0].count}; clusters of profile {K3S} have one control plane")

    async def converge(self, spec: ClusterSpec, memo: Mapping[str, Any]) -> Progress:
        """One step towards the spec; see `ClusterDriver`."""
        keys = _keys(spec)
        network = await self._host.ensure_node_network(spec.uuid, spec.project_id)
        remembered = {name: value.copy() if isinstance(value, dict) else value for name, value in memo.items()}
        seen = await self._host.nodes(spec.uuid)
        view = look(spec, keys, network, seen, remembered.get("addresses", {}), self._settings.clusters.publish_address)
        api = await self._api(spec.uuid, keys, view.server)
        return await Steps(self._host, view, api, remembered).next()

    async def observe(self, spec: ClusterSpec) -> ClusterSeen | None:
        """What there is; see `ClusterDriver`."""
        seen = await self._host.nodes(spec.uuid)
        if not seen:
            return None
        keys = _keys(spec)
        network = await self._host.ensure_node_network(spec.uuid, spec.project_id)
        view = look(spec, keys, network, seen, {}, self._settings.clusters.publish_address)
        api = await self._api(spec.uuid, keys, view.server)
        answer = await api.ready()
        documents: dict[str, Document] = {}
        version = None
        if answer == "ok":
            try:
                documents, version = await asyncio.gather(api.nodes(), api.version())
            except EngineError as error:
                answer = error.title
        return _seen(view, answer, documents, version)

    async def mend(self, spec: ClusterSpec) -> str:
        """Start again what stopped by itself, and make anew what is gone; see `ClusterDriver`."""
        view = await self._view(spec)
        # One that never ran is for `converge`, which makes sure of its files first.
        down = [node for node in view.all if node.state == State.EXITED]
        for node in down:
            await self._host.start_node(node.ref)
        if down or not view.missing:
            return ", ".join(f"{node.name} started again" for node in down)
        return await Steps(self._host, view, await self._api(spec.uuid, _keys(spec), view.server), {}).mend()

    async def delete(self, cluster: UUID) -> bool:
        """Remove what there is of it: whether nothing is left. Absent is fine."""
        if (known := self._apis.pop(cluster, None)) is not None:
            await known[1].close()
        return await self._host.remove_cluster(cluster)

    def engine(self, spec: ClusterSpec) -> ContainerEngine:
        """Containers as pods; see `app.backends.kubernetes.engine`."""
        connect, nodes = partial(self._connect, spec), partial(self._members, spec)
        return KubernetesEngine(f"cluster:{spec.uuid}", connect, nodes, cast(ImageHost, self._host))

    async def close(self) -> None:
        """Free connections."""
        apis = [api for _, api in self._apis.values()]
        self._apis.clear()
        for api in apis:
            await api.close()

    async def _view(self, spec: ClusterSpec) -> View:
        """What there is of it. Raises Unavailable when that is nothing: no network is made anew then."""
        seen = await self._host.nodes(spec.uuid)
        if not seen:
            raise Unavailable("the engine holds no node of the cluster")
        network = await self._host.ensure_node_network(spec.uuid, spec.project_id)
        return look(spec, _keys(spec), network, seen, {}, self._settings.clusters.publish_address)

    async def _connect(self, spec: ClusterSpec) -> Api:
        """The cluster's API, as long as there is a node that serves it."""
        view = await self._view(spec)
        if not any(node.state is State.RUNNING for node in view.masters):
            raise Unavailable("no control plane of the cluster runs")
        return await self._api(spec.uuid, _keys(spec), view.server)

    async def _members(self, spec: ClusterSpec) -> Sequence[NodeSeen]:
        """The nodes that run."""
        return [node for node in (await self._view(spec)).nodes if node.state is State.RUNNING]

    async def _api(self, cluster: UUID, keys: Keys, server: str) -> Api:
        """The cluster's API at `server`. Kept, because a new one has to make itself known first."""
        known = self._apis.get(cluster)
        if known is not None:
            if known[0] == keys and known[1].server == server:
                return known[1]
            await known[1].close()
        api = Api(server, keys)
        self._apis[cluster] = (keys, api)
        return api


def _keys(spec: ClusterSpec) -> Keys:
    if spec.keys is None:
        raise ClusterFailed("the cluster's keys are missing")
    return spec.keys


def _seen(view: View, answer: str, documents: Mapping[str, Document], version: str | None) -> ClusterSeen:
    reachable = answer == "ok"
    facts = [_fact(node, documents.get(node.name), reachable) for node in view.nodes]
    facts += [
        NodeFact(wish.name, wish.group.uuid, "", False, "its container is gone")
        for wish in view.missing
        if wish.role != "balancer"
    ]
    if view.balancer is not None and view.balancer.state != State.RUNNING:
        answer = f"the balancer of the API is {view.balancer.state}"
    reasons = {"api": answer}
    reasons |= {f"{fact.name}.Ready": "True" if fact.ready else f"False: {fact.reason}" for fact in facts}
    runtimes = {document["status"]["nodeInfo"]["containerRuntimeVersion"] for document in documents.values()}
    return ClusterSeen(
        api_address=view.server if view.layout.masters else None,
        reachable=reachable,
        nodes=facts,
        coe_version=version,
        container_version=", ".join(sorted(runtimes)) or None,
        reasons=reasons,
    )


def _fact(node: NodeSeen, document: Document | None, reachable: bool) -> NodeFact:
    if node.state != State.RUNNING:
        killed = ", killed for lack of memory" if node.oom_killed else ""
        reason = f"its container is {node.state} ({node.error or f'code {node.exit_code}'}{killed})"
    elif not reachable:
        reason = "not known while the API does not answer"
    else:
        reason = why_not_ready(document, None)
    return NodeFact(node.name, node.group, node.address, not reason, reason)
