"""What every cluster driver must do, and the plain values that cross the boundary.

Rules for drivers, checked by ``tests/conformance``:

- a spec is the whole wish. Create, resize, upgrade, rotation and changes of node groups are all "a different spec": a
  driver compares it with what is there and does what is missing, one short step a call;
- steps are idempotent: whatever was done before a kill is found again, and what two replicas do at once does no harm;
- nodes whose group is not in the spec leave, and so do those beyond a group's count;
- drivers never touch the database. What they must remember between two steps, and cannot see, is the memo;
- every failure is an EngineError in the words of the engine, or of the node's log.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol, runtime_checkable
from uuid import UUID

from app.backends.engine import ContainerEngine
from app.certificates import Authority
from app.errors import EngineError

MASTER = "master"
"""The role of the group whose nodes hold the cluster's state and serve its API."""


@dataclass(frozen=True, slots=True)
class ClusterType:
    """What a driver makes (magnum-api, section 7.1). `os` is the image's ``os_distro``; "*" is any."""

    server_type: str
    os: str
    coe: str


class ClusterAbility(StrEnum):
    """An optional ability; the API reads the set before it accepts a request."""

    UPGRADE = "upgrade"
    NODE_GROUPS = "node_groups"
    RESIZE_MASTERS = "resize_masters"
    ROTATE_CA = "rotate_ca"
    CONTAINERS = "containers"  # the cluster is a place to run containers


@dataclass(frozen=True, slots=True)
class Keys:
    """A cluster's secrets, made before its first step. `accounts` is a private key in PEM for tokens of the COE.

    `previous` is there while the authority of the API is being replaced: until every node has changed over, nodes trust
    both.
    """

    cluster: Authority
    etcd: Authority
    front_proxy: Authority
    accounts: str = field(repr=False)
    previous: Authority | None = None


@dataclass(frozen=True, slots=True)
class NodeGroupSpec:
    """A wish for the nodes of one group. cpus in cores, memory in MiB.

    `image` is what the engine knows it by, `profile` how the nodes of that image are started (a driver's own word).
    `leaving` are the nodes (by name, engine's ref or address) that go first when `count` shrinks; at most `batch` nodes
    are replaced at a time.
    """

    uuid: UUID
    name: str
    role: str
    count: int
    image: str
    cpus: float
    memory: int
    profile: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    node_labels: Mapping[str, str] = field(default_factory=dict)
    node_taints: Sequence[Mapping[str, str]] = ()
    leaving: Sequence[str] = ()
    batch: int = 1


@dataclass(frozen=True, slots=True)
class ClusterSpec:
    """A wish for one cluster. The first group is that of the masters."""

    uuid: UUID
    project_id: str
    name: str
    coe: str
    groups: Sequence[NodeGroupSpec]
    labels: Mapping[str, str] = field(default_factory=dict)
    tls: bool = True
    keys: Keys | None = field(default=None, repr=False)  # None only for `validate`
    api_port: int | None = None
    network_driver: str | None = None
    name_servers: Sequence[str] = ()
    http_proxy: str | None = None
    https_proxy: str | None = None
    no_proxy: str | None = None
    insecure_registry: str | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """What one step did. `text` says which node is doing what, for the user; `after` seconds until the next step."""

    done: bool
    text: str = ""
    after: float = 0.0
    memo: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NodeFact:
    """One node as the cluster and the engine show it; `reason` is why it is not ready."""

    name: str
    group: UUID
    address: str
    ready: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ClusterSeen:
    """What is seen of a cluster. `reachable` is False while its API does not answer.

    `reasons` is Magnum's ``health_status_reason``: ``api`` is "ok" or what is wrong, ``<node>.Ready`` is "True", or
    "False" and why (magnum-api, section 6.5).
    """

    api_address: str | None
    reachable: bool
    nodes: Sequence[NodeFact] = ()
    coe_version: str | None = None
    container_version: str | None = None
    reasons: Mapping[str, str] = field(default_factory=dict)

    @property
    def healthy(self) -> bool:
        """Whether the API answers and every node is ready."""
        return self.reachable and all(node.ready for node in self.nodes)


class ClusterFailed(EngineError):
    """The cluster cannot become what the spec says: final. `faults` are the reasons by group."""

    code = "cluster-failed"

    def __init__(self, title: str, faults: Mapping[UUID, str] | None = None) -> None:
        super().__init__(title)
        self.faults = dict(faults or {})


@runtime_checkable
class ClusterDriver(Protocol):
    """Makes clusters on one engine. Found by the entry point group ``app.drivers``: ``make(host, settings)``."""

    name: str
    provides: Sequence[ClusterType]
    abilities: frozenset[ClusterAbility]

    def validate(self, spec: ClusterSpec) -> None:
        """Asks nobody. Raises Invalid for what this driver can never make, naming field or label and limit."""
        ...

    async def converge(self, spec: ClusterSpec, memo: Mapping[str, Any]) -> Progress:
        """One step towards the spec; done when everything is as it says and every node is ready.

        Raises ClusterFailed when it never will be, Unavailable when trying again may help, other EngineErrors as final.
        """
        ...

    async def observe(self, spec: ClusterSpec) -> ClusterSeen | None:
        """What is there; None when the engine holds no node of it. Changes nothing."""
        ...

    async def mend(self, spec: ClusterSpec) -> str:
        """Start again what stopped by itself. Returns what was done, "" for nothing. Cheap when all is well."""
        ...

    async def delete(self, cluster: UUID) -> bool:
        """Remove what there is of it: whether nothing is left. Absent is fine."""
        ...

    def engine(self, spec: ClusterSpec) -> ContainerEngine:
        """Containers on this cluster, with ability CONTAINERS: nothing is connected before its first call."""
        ...

    async def close(self) -> None:
        """Free connections."""
        ...
