"""Nodes of clusters in memory. Of commands they know ``cat``, ``true``, ``false`` and ``sleep``, which never ends."""

import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from ipaddress import ip_network
from uuid import UUID

from app.backends.engine import ExecResult, ImageSeen, State
from app.backends.nodes import NodeNetwork, NodeSeen, NodeSpec
from app.errors import Gone, Refused, Taken

POOL = ip_network("10.222.0.0/16")
LIVING = (State.RUNNING, State.PAUSED)


@dataclass(slots=True)
class FakeNode:
    """One node; its files by path, without those in its volumes."""

    spec: NodeSpec
    seen: NodeSeen
    files: dict[str, bytes] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)


class FakeNodes:
    """Mixed into `FakeEngine`, which has what is declared here."""

    _images: dict[str, ImageSeen]
    _nodes: dict[tuple[UUID, str], FakeNode]
    _node_volumes: dict[tuple[UUID, str, str], dict[str, bytes]]
    _node_networks: dict[UUID, NodeNetwork]

    def _verb(self, verb: str) -> AbstractAsyncContextManager[None]:
        raise NotImplementedError

    def _full_name(self, image: str) -> str:
        raise NotImplementedError

    # What tests do to it

    def end_node(self, cluster: UUID, name: str, code: int, *log: str) -> None:
        """The node's process ends by itself, and says this before."""
        node = self._nodes[cluster, name]
        node.log += log
        node.seen = replace(node.seen, state=State.EXITED, exit_code=code)

    # Ability NODE

    async def ensure_node_network(self, cluster: UUID, project_id: str) -> NodeNetwork:
        async with self._verb("ensure_node_network"):
            if cluster not in self._node_networks:
                taken = {network.subnet for network in self._node_networks.values()}
                subnet = next((one for one in POOL.subnets(new_prefix=24) if str(one) not in taken), None)
                if subnet is None:
                    raise Refused(f"no network of /24 is left in {POOL}, the range of clusters")
                self._node_networks[cluster] = NodeNetwork(f"fake-{cluster}", str(subnet), str(subnet[1]))
            return self._node_networks[cluster]

    async def create_node(self, spec: NodeSpec) -> NodeSeen:
        async with self._verb("create_node"):
            key = (spec.cluster, spec.name)
            if not spec.name or len(spec.name) > 63 or spec.name.strip("-abcdefghijklmnopqrstuvwxyz0123456789"):
                raise Refused(f"{spec.name!r} is no host name")
            if key not in self._nodes:
                if self._full_name(spec.image) not in self._images:
                    raise Gone(f"No such image: {spec.image}")
                for other in self._of(spec.cluster):
                    if other.seen.address == spec.address:
                        raise Taken(f"address {spec.address} is already in use by node {other.seen.name}")
                self._nodes[key] = FakeNode(spec, _new(spec))
                for path in spec.volumes:
                    self._node_volumes.setdefault((*key, path), {})
            node = self._nodes[key]
            if node.seen.started_at is None:
                self._write(node, spec.files)
            return node.seen

    async def start_node(self, ref: str) -> None:
        async with self._verb("start_node"):
            node = self._node(ref)
            if node.seen.state not in LIVING:
                node.seen = replace(node.seen, state=State.RUNNING, exit_code=0, started_at=datetime.now(UTC))

    async def stop_node(self, ref: str, timeout: int) -> None:
        async with self._verb("stop_node"):
            node = self._node(ref)
            if node.seen.state in LIVING:
                node.seen = replace(node.seen, state=State.EXITED, exit_code=137)

    async def remove_node(self, ref: str, *, keep_volumes: bool = False) -> None:
        async with self._verb("remove_node"):
            for key, node in list(self._nodes.items()):
                if node.seen.ref == ref:
                    self._drop_node(key, keep_volumes=keep_volumes)

    async def drop_strays(self, cluster: UUID) -> None:
        async with self._verb("drop_strays"):
            for volume in [one for one in self._node_volumes if one[0] == cluster and one[:2] not in self._nodes]:
                del self._node_volumes[volume]

    async def nodes(self, cluster: UUID) -> list[NodeSeen]:
        async with self._verb("nodes"):
            return sorted((node.seen for node in self._of(cluster)), key=lambda seen: seen.name)

    async def put_files(self, ref: str, files: Mapping[str, bytes]) -> None:
        async with self._verb("put_files"):
            self._write(self._node(ref), files)

    async def run_in_node(
        self, ref: str, command: Sequence[str], *, stdin: AsyncIterator[bytes] | None = None, timeout: float = 30.0
    ) -> ExecResult:
        async with self._verb("run_in_node"):
            node = self._node(ref)
            if node.seen.state is not State.RUNNING:
                raise Taken(f"Container {ref} is not running")
            match list(command):
                case ["true"]:
                    return ExecResult(b"", 0)
                case ["false"]:
                    return ExecResult(b"", 1)
                case ["sleep", _]:
                    raise Taken(f"the command did not end within {timeout:g} seconds")
                case ["cat"] if stdin is not None:
                    return ExecResult(b"".join([chunk async for chunk in stdin]), 0)
                case ["cat", path]:
                    content = self._read(node, path)
                    words = f"cat: can't open '{path}': No such file or directory\n".encode()
                    return ExecResult(words, 1) if content is None else ExecResult(content, 0)
            return ExecResult(f"exec: {command[0]!r}: executable file not found\n".encode(), 127)

    async def node_log(self, ref: str, lines: int = 20) -> str:
        async with self._verb("node_log"):
            found = [node for node in self._nodes.values() if node.seen.ref == ref]
            return "\n".join(found[0].log[-lines:]) if found else ""

    async def remove_cluster(self, cluster: UUID) -> bool:
        async with self._verb("remove_cluster"):
            for key in [key for key in self._nodes if key[0] == cluster]:
                self._drop_node(key, keep_volumes=False)
            for volume in [volume for volume in self._node_volumes if volume[0] == cluster]:
                del self._node_volumes[volume]
            self._node_networks.pop(cluster, None)
            return True

    async def clusters(self) -> set[UUID]:
        async with self._verb("clusters"):
            return {key[0] for key in self._nodes} | {key[0] for key in self._node_volumes} | set(self._node_networks)

    # How it works

    def _of(self, cluster: UUID) -> list[FakeNode]:
        return [node for (owner, _), node in self._nodes.items() if owner == cluster]

    def _node(self, ref: str) -> FakeNode:
        for node in self._nodes.values():
            if node.seen.ref == ref:
                return node
        raise Gone(f"No such container: {ref}")

    def _drop_node(self, key: tuple[UUID, str], *, keep_volumes: bool) -> None:
        node = self._nodes.pop(key)
        if not keep_volumes:
            for path in node.spec.volumes:
                self._node_volumes.pop((*key, path), None)

    def _place(self, node: FakeNode, path: str) -> dict[str, bytes]:
        """Where a file is kept: in a volume, or in the node itself."""
        for volume in node.spec.volumes:
            if path.startswith(f"{volume}/"):
                return self._node_volumes[node.spec.cluster, node.spec.name, volume]
        return node.files

    def _write(self, node: FakeNode, files: Mapping[str, bytes]) -> None:
        for path, content in files.items():
            self._place(node, path)[path] = content

    def _read(self, node: FakeNode, path: str) -> bytes | None:
        return self._place(node, path).get(path)


def _new(spec: NodeSpec) -> NodeSeen:
    return NodeSeen(
        ref=secrets.token_hex(32),
        cluster=spec.cluster,
        project_id=spec.project_id,
        name=spec.name,
        group=spec.group,
        state=State.CREATED,
        image=spec.image,
        address=spec.address,
        labels=dict(spec.labels),
    )
