"""A cluster as it is beside what it should be: which nodes are missing, which must go, and which are of the wrong kind.

Pure: made anew in each step from the spec and from what the engine shows.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from app.backends.driver import ClusterSpec, Keys, NodeGroupSpec
from app.backends.engine import State
from app.backends.kubernetes import files, k3s, plan
from app.backends.kubernetes.files import Layout
from app.backends.kubernetes.trust import Trust, stages
from app.backends.nodes import NodeNetwork, NodeSeen, NodeSpec

BALANCER = "api"
"""The name of the node in front of several control planes; it belongs to their group, and is no node of the cluster."""

# Labels of nodes.
ROLE, SHAPE, TRUST, MASTERS, PUBLISHED = "role", "shape", "trust", "masters", "published"

FIRST_PUBLISHED, LAST_PUBLISHED = 20000, 29999


@dataclass(frozen=True, slots=True)
class Wish:
    """A node to be: `role` is master, worker or balancer; `address` is empty when there is none left for it."""

    group: NodeGroupSpec
    name: str
    address: str
    role: str


@dataclass(frozen=True, slots=True)
class View:
    """One look at a cluster. `nodes` are those of its groups, by group and name; `balancer` stands beside them."""

    layout: Layout
    nodes: Sequence[NodeSeen]
    balancer: NodeSeen | None
    missing: Sequence[Wish]
    surplus: Sequence[NodeSeen]
    published: int | None = None
    groups: Mapping[str, NodeGroupSpec] = field(default_factory=dict)  # of nodes that stay, by name

    @property
    def spec(self) -> ClusterSpec:
        return self.layout.spec

    @property
    def all(self) -> Sequence[NodeSeen]:
        """Whatever the engine runs for this cluster."""
        return [*([self.balancer] if self.balancer else ()), *self.nodes]

    @property
    def staying(self) -> Sequence[NodeSeen]:
        """Nodes that are wanted, masters first."""
        return [node for node in self.nodes if node.name in self.groups]

    @property
    def masters(self) -> Sequence[NodeSeen]:
        return [node for node in self.nodes if node.labels.get(ROLE) == "master"]

    @property
    def server(self) -> str:
        """The API's address for clients."""
        if self.layout.outside and self.published:
            return f"https://{self.layout.outside}:{self.published}"
        return self.layout.server

    def wish_of(self, node: NodeSeen) -> Wish:
        """What this node, which stays, should be."""
        group = self.spec.groups[0] if node is self.balancer else self.groups[node.name]
        return Wish(group, node.name, node.address, node.labels.get(ROLE, ""))

    def is_outdated(self, node: NodeSeen) -> bool:
        """Whether a node must be made anew to be as the spec says."""
        group = self.spec.groups[0] if node is self.balancer else self.groups[node.name]
        return node.labels.get(SHAPE) != shape(self.spec, group, node.labels.get(ROLE, ""))


def look(spec: ClusterSpec, keys: Keys, network: NodeNetwork, seen: Sequence[NodeSeen],
         memory: Mapping[str, str], outside: str | None) -> View:  # fmt: skip
    """The cluster now. `memory` are the addresses of nodes that are being made anew, by name."""
    balancer = next((node for node in seen if node.labels.get(ROLE) == "balancer"), None)
    nodes = [node for node in seen if node is not balancer]
    told = _told_masters(seen)
    kept = {**told, **memory}
    taken = {node.address for node in nodes} | set(kept.values())
    free = iter(plan.addresses(network, taken))
    wishes: list[Wish] = []
    staying: dict[str, NodeGroupSpec] = {}
    surplus = [node for node in nodes if node.group not in {group.uuid for group in spec.groups}]
    for number, group in enumerate(spec.groups):
        here = [node for node in nodes if node.group == group.uuid]
        leaving = _leaving(group, here)
        surplus += leaving
        staying |= {node.name: group for node in here if node not in leaving}
        role = "worker" if number else "master"
        for name in plan.node_names(spec, group, [node.name for node in here]):
            wishes.append(Wish(group, name, kept.get(name) or next(free, ""), role))
    masters = told or {wish.name: wish.address for wish in wishes if wish.role == "master"}
    layout = Layout(spec, keys, network, _ranges(spec, nodes), masters, outside)
    if len(masters) > 1 and balancer is None:
        wishes.insert(0, Wish(spec.groups[0], BALANCER, plan.balancer_address(network), "balancer"))
    order = {group.uuid: number for number, group in enumerate(spec.groups)}
    nodes.sort(key=lambda node: (order.get(node.group, len(order)), len(node.name), node.name))
    published = next((int(node.labels[PUBLISHED]) for node in seen if PUBLISHED in node.labels), None)
    return View(layout, nodes, balancer, wishes, surplus, published, staying)


def node_spec(view: View, wish: Wish, trusting: Trust, published: int | None) -> NodeSpec:
    """How the engine is to make a node; `published` is the host's port for the API, None where it is not published."""
    spec, layout = view.spec, view.layout
    labels = {
        ROLE: wish.role,
        SHAPE: shape(spec, wish.group, wish.role),
        TRUST: trusting.state,
        **layout.ranges.to_labels(),
    }
    if wish.role != "worker":
        labels[MASTERS] = json.dumps(dict(layout.masters))
    if published is not None:
        labels[PUBLISHED] = str(published)
    recipe = _recipe(layout, wish, trusting)
    return NodeSpec(
        cluster=spec.uuid,
        project_id=spec.project_id,
        name=wish.name,
        group=wish.group.uuid,
        image=plan.image_of(spec, wish.group),
        address=wish.address,
        cpu=0 if wish.role == "balancer" else wish.group.cpus,
        memory=0 if wish.role == "balancer" else wish.group.memory,
        command=recipe.command,
        volumes=recipe.volumes,
        files=recipe.files,
        labels=labels,
        publish={} if published is None else {layout.port: published},
    )


def shape(spec: ClusterSpec, group: NodeGroupSpec, role: str) -> str:
    """What a node is made of, in short: one whose shape is another has to be made anew."""
    parts: list[object] = [plan.image_of(spec, group), group.profile]
    if role != "balancer":
        parts += [group.cpus, group.memory, list(spec.name_servers), spec.insecure_registry]
        parts += [spec.http_proxy, spec.https_proxy, spec.no_proxy]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def is_publishing(view: View, wish: Wish) -> bool:
    """Whether this node is the one at which the API is found."""
    return view.layout.outside is not None and wish.role == ("balancer" if len(view.layout.masters) > 1 else "master")


def _recipe(layout: Layout, wish: Wish, trusting: Trust) -> files.Recipe:
    if wish.group.profile == k3s.PROFILE:
        return k3s.recipe(layout, wish.group, wish.name, wish.address, master=wish.role == "master")
    if wish.role == "balancer":
        return files.balancer(layout)
    return files.node(layout, wish.group, wish.name, wish.address, trusting, master=wish.role == "master")


def _leaving(group: NodeGroupSpec, here: Sequence[NodeSeen]) -> list[NodeSeen]:
    """The nodes that go when a group has too many: those that were named, then who does not run, then the newest."""

    def stays(node: NodeSeen) -> tuple[bool, bool]:
        return not {node.name, node.ref, node.address} & set(group.leaving), node.state == State.RUNNING

    newest = sorted(here, key=lambda node: (len(node.name), node.name), reverse=True)
    return sorted(newest, key=stays)[: max(0, len(here) - group.count)]


def _told_masters(seen: Sequence[NodeSeen]) -> Mapping[str, str]:
    """The control planes' addresses by name, as the first of them was told; nothing while there is none."""
    told = next((node.labels[MASTERS] for node in seen if MASTERS in node.labels), "{}")
    known: dict[str, str] = json.loads(told)
    return known


def _ranges(spec: ClusterSpec, nodes: Sequence[NodeSeen]) -> plan.Ranges:
    """Those that the cluster was made with: addresses which are in use cannot become others."""
    for node in nodes:
        if (found := plan.Ranges.from_labels(node.labels)) is not None:
            return found
    return plan.ranges(spec.labels)


def states(keys: Keys) -> Sequence[str]:
    """The states of trust that nodes pass through."""
    return [trusting.state for trusting in stages(keys)]
