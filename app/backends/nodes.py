"""Nodes of clusters as containers of an engine: what ability NODE means.

The rules of ``app.backends.engine`` hold here as well: verbs are idempotent, objects are found by names and labels made
from our uuids, failures carry the engine's own words. Nodes bear labels of their own, so that no call for tenants'
containers (`find_all`, events) ever shows one. Node containers are privileged as far as the host lets them be: who may
use a cluster is trusted with its host, unless a sandboxing runtime is named in settings.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol, runtime_checkable
from uuid import UUID

from app.backends.engine import ContainerEngine, ExecResult, State, Tars


@dataclass(frozen=True, slots=True)
class NodeNetwork:
    """The network of one cluster: the engine's name of it, its range, and the engine's own address in that."""

    name: str
    subnet: str
    gateway: str


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """A wish for one node. cpu in cores, memory in MiB; 0 is no limit.

    `name` is unique in its cluster, and the node's host name. `volumes` are the paths whose content outlives the
    container, and is removed with the node. `files` (absolute path to content) are written before it first starts, for
    root alone to read.
    """

    cluster: UUID
    project_id: str
    name: str
    group: UUID
    image: str
    address: str
    cpu: float = 0.0
    memory: int = 0
    command: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    volumes: Sequence[str] = ()
    files: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    labels: Mapping[str, str] = field(default_factory=dict)  # a driver's own, shown again in `NodeSeen.labels`
    publish: Mapping[int, int] = field(default_factory=dict)  # TCP port of the node to port of the engine's host


@dataclass(frozen=True, slots=True)
class NodeSeen:
    """What an engine shows of one node. `image` is the name that it was made from; times are UTC."""

    ref: str
    cluster: UUID
    project_id: str
    name: str
    group: UUID
    state: State
    image: str
    address: str
    labels: Mapping[str, str] = field(default_factory=dict)
    exit_code: int = 0
    oom_killed: bool = False
    error: str = ""
    started_at: datetime | None = None


@runtime_checkable
class Nodes(Protocol):
    """Ability NODE."""

    async def ensure_node_network(self, cluster: UUID, project_id: str) -> NodeNetwork:
        """The cluster's own network, made when absent, with a range that nothing else on the engine has.

        Raises Refused when the range that settings give for clusters is used up.
        """
        ...

    async def create_node(self, spec: NodeSpec) -> NodeSeen:
        """Make it, or return the one that is there; it is not started. One that never ran has all `files`.

        Raises Gone when the image is absent, Taken when its address is in use.
        """
        ...

    async def start_node(self, ref: str) -> None:
        """Start; already running is fine. Raises Taken when a published port is in use.

        Unavailable: one that the engine can never start again may be gone then, all but its volumes.
        """
        ...

    async def stop_node(self, ref: str, timeout: int) -> None:
        """Ask, and after `timeout` seconds kill; already stopped is fine. Its volumes and its address stay."""
        ...

    async def remove_node(self, ref: str, *, keep_volumes: bool = False) -> None:
        """Remove it, running or not, with its volumes unless they are kept for a node of the same name."""
        ...

    async def drop_strays(self, cluster: UUID) -> None:
        """Remove the volumes of nodes that are gone, once all that are wished for are there.

        Who removed a node may have been killed before its volumes went; another one of its name must not find them.
        """
        ...

    async def nodes(self, cluster: UUID) -> list[NodeSeen]:
        """All nodes of one cluster, by name."""
        ...

    async def put_files(self, ref: str, files: Mapping[str, bytes]) -> None:
        """Write files (absolute path to content) into a node, running or not, for root alone to read."""
        ...

    async def run_in_node(
        self, ref: str, command: Sequence[str], *, stdin: AsyncIterator[bytes] | None = None, timeout: float = 30.0
    ) -> ExecResult:
        """Run a command to its end, fed with `stdin`. Raises Taken when the node does not run, or after `timeout`."""
        ...

    async def node_log(self, ref: str, lines: int = 20) -> str:
        """The last lines that the node's own process wrote; empty when the node is absent."""
        ...

    async def remove_cluster(self, cluster: UUID) -> bool:
        """Remove nodes, volumes and network of a cluster: whether nothing of it is left. Absent is fine."""
        ...

    async def clusters(self) -> set[UUID]:
        """Every cluster of which the engine holds anything, of this installation."""
        ...


class NodeHost(ContainerEngine, Nodes, Protocol):
    """An engine that has ability NODE."""


class ImageHost(NodeHost, Tars, Protocol):
    """One whose images can be copied into its nodes as well."""
