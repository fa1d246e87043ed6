"""A node's own Docker API: what it says of itself and of its swarm, and how it joins one."""

import asyncio
import ssl
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.backends.docker.calls import Calls
from app.backends.docker.images import DockerImages
from app.backends.driver import ClusterSpec
from app.backends.nodes import NodeSeen
from app.backends.swarm.plan import SWARM_PORT, TRUST, authorities, fingerprint, port
from app.certificates import issue
from app.errors import EngineError, Gone

PATIENCE = 10.0  # seconds for one call
JOIN_SECONDS = 30.0
UPDATE_TRIES = 5

WORKING = frozenset({"new", "pending", "assigned", "accepted", "preparing", "ready", "starting", "running"})
"""States of tasks that have not ended."""


class NodeError(EngineError):
    """A node's own engine does not answer, or says no; trying again may help."""

    def __init__(self, node: NodeSeen, error: EngineError) -> None:
        super().__init__(f"node {node.name}: {error.title}")
        self.node = node
        self.__cause__ = error


@dataclass(frozen=True, slots=True)
class Self:
    """What a node says of itself. `state` is inactive, pending, active, error or locked."""

    id: str
    state: str
    manager: bool
    error: str
    version: str


@dataclass(frozen=True, slots=True)
class Member:
    """What the managers say of a node. `state` is ready, down, disconnected or unknown."""

    id: str
    name: str
    address: str
    state: str
    message: str
    availability: str
    manager: bool
    reachable: bool
    version: str
    labels: Mapping[str, str]


class Api(DockerImages):
    """One node's API. Every method raises NodeError."""

    def __init__(self, node: NodeSeen, url: str, tls: ssl.SSLContext | None) -> None:
        self.node = node
        self.calls = Calls(node.name, url, 4, tls)
        self.calls.patience = PATIENCE

    async def close(self) -> None:
        await self.calls.close()

    async def itself(self) -> Self:
        """What it says of itself."""
        document = await self._call("GET", "info")
        swarm = document["Swarm"]
        return Self(
            swarm.get("NodeID", ""),
            swarm["LocalNodeState"],
            bool(swarm.get("ControlAvailable")),
            swarm.get("Error") or "",
            document["ServerVersion"],
        )

    async def init(self) -> None:
        """Begin a swarm, as its first manager."""
        place = {"ListenAddr": f"0.0.0.0:{SWARM_PORT}", "AdvertiseAddr": self.node.address}
        await self._call("POST", "swarm/init", body=place, seconds=JOIN_SECONDS)

    async def join(self, managers: Sequence[NodeSeen], token: str) -> None:
        """Join the swarm of these managers, in the role that `token` is for."""
        body = {
            "ListenAddr": f"0.0.0.0:{SWARM_PORT}",
            "AdvertiseAddr": self.node.address,
            "RemoteAddrs": [f"{manager.address}:{SWARM_PORT}" for manager in managers],
            "JoinToken": token,
        }
        await self._call("POST", "swarm/join", body=body, seconds=JOIN_SECONDS)

    async def leave(self) -> None:
        """Leave the swarm, whatever becomes of it."""
        await self._call("POST", "swarm/leave", {"force": True}, seconds=JOIN_SECONDS)

    async def tokens(self) -> Mapping[str, str]:
        """What joins the swarm: by role, Manager and Worker. Secrets."""
        tokens: Mapping[str, str] = (await self._call("GET", "swarm"))["JoinTokens"]
        return tokens

    async def members(self) -> list[Member]:
        """All nodes of the swarm; only a manager knows."""
        return [_member(document) for document in await self._call("GET", "nodes")]

    async def change(self, member: Member, **changes: Any) -> None:
        """Change some fields of a member's spec; who has left meanwhile needs no change."""
        for attempt in range(UPDATE_TRIES):
            try:
                document = await self._call("GET", f"nodes/{member.id}")
                wanted = {**document["Spec"], **changes}
                if wanted != document["Spec"]:
                    version = {"version": document["Version"]["Index"]}
                    await self._call("POST", f"nodes/{member.id}/update", version, body=wanted)
            except NodeError as error:
                if isinstance(error.__cause__, Gone):
                    return
                # The managers themselves change it as well.
                if "out of sequence" not in error.title or attempt == UPDATE_TRIES - 1:
                    raise
            else:
                return

    async def forget(self, member: Member) -> None:
        """Strike a member off the swarm's list; one that is not on it is fine."""
        try:
            await self._call("DELETE", f"nodes/{member.id}", {"force": True})
        except NodeError as error:
            if not isinstance(error.__cause__, Gone):
                raise

    async def busy(self, member: Member) -> int:
        """How many tasks a member has that have not ended."""
        tasks = await self._call("GET", "tasks", {"filters": f'{{"node": ["{member.id}"]}}'})
        return sum(task["Status"]["State"] in WORKING for task in tasks)

    async def has(self, image: str) -> bool:
        """Whether the node holds an image."""
        try:
            await self._call("GET", f"images/{image}/json")
        except NodeError as error:
            if isinstance(error.__cause__, Gone):
                return False
            raise
        return True

    async def take(self, image: str, chunks: AsyncIterator[bytes]) -> None:
        """Load an image that is a tar as `engine.Tars` has it."""
        try:
            await self.load(image, chunks)
        except EngineError as error:
            raise NodeError(self.node, error) from error

    async def _call(
        self,
        method: str,
        path: str,
        query: Mapping[str, Any] | None = None,
        *,
        body: Mapping[str, Any] | None = None,
        seconds: float | None = None,
    ) -> Any:
        try:
            return await self.calls.call(method, path, query, body=body, seconds=seconds)
        except EngineError as error:
            raise NodeError(self.node, error) from error


class Apis:
    """The APIs of a cluster's nodes, connected when they are asked for."""

    def __init__(self, spec: ClusterSpec, contexts: "Contexts") -> None:
        self._spec = spec
        self._contexts = contexts
        self._open: dict[str, Api] = {}

    def of(self, node: NodeSeen) -> Api:
        """The API of one node."""
        if node.ref not in self._open:
            tls = self._contexts.of(self._spec, node.labels.get(TRUST, "")) if self._spec.tls else None
            self._open[node.ref] = Api(node, f"tcp://{node.address}:{port(self._spec)}", tls)
        return self._open[node.ref]

    async def close(self) -> None:
        """Free all connections."""
        await asyncio.gather(*(api.close() for api in self._open.values()))


class Contexts:
    """How to talk to nodes over TLS: with a client's certificate of an authority that they trust, kept for later."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, ...], ssl.SSLContext] = {}

    def of(self, spec: ClusterSpec, trusted: str) -> ssl.SSLContext:
        """For a node that trusts the authorities of these fingerprints."""
        known = authorities(spec)
        mine = next((one for one in known if fingerprint(one) in trusted.split(",")), known[0])
        key = (fingerprint(mine), *map(fingerprint, known))
        if key not in self._kept:
            if len(self._kept) > 500:
                self._kept.clear()
            client = issue(mine, "caisson")
            context = ssl.create_default_context(cadata="\n".join(one.certificate for one in known))
            with tempfile.NamedTemporaryFile("w", prefix="caisson-client-") as file:
                file.write(f"{client.certificate}\n{client.key}")
                file.flush()
                context.load_cert_chain(Path(file.name))
            self._kept[key] = context
        return self._kept[key]


def _member(document: Mapping[str, Any]) -> Member:
    spec, status = document["Spec"], document["Status"]
    manager = document.get("ManagerStatus") or {}
    return Member(
        id=document["ID"],
        name=document["Description"].get("Hostname", ""),
        address=str(manager.get("Addr") or status.get("Addr") or "").partition(":")[0],
        state=status["State"],
        message=status.get("Message") or "",
        availability=spec["Availability"],
        manager=bool(manager),
        reachable=manager.get("Reachability") == "reachable",
        version=(document["Description"].get("Engine") or {}).get("EngineVersion", ""),
        labels=spec.get("Labels") or {},
    )
