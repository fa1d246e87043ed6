"""Nodes of clusters on Docker: containers with containers in them, on a network of their cluster's own.

Nodes, their volumes and their network bear labels of their own: whatever looks for tenants' containers, volumes or
networks does not find them. A node's fixed address survives its stop, and its restart policy brings it back with the
engine.
"""

import asyncio
import io
import json
import posixpath
import re
import tarfile
from collections.abc import AsyncIterator, Mapping, Sequence
from ipaddress import IPv4Network
from typing import Any
from uuid import UUID

import structlog

from app.backends.docker import nftables, shapes
from app.backends.docker.calls import container_path
from app.backends.docker.containers import DockerContainers
from app.backends.docker.networks import DockerNetworks, NameTaken
from app.backends.docker.streams import DockerStreams
from app.backends.engine import ExecResult, LogOptions
from app.backends.nodes import NodeNetwork, NodeSeen, NodeSpec
from app.errors import EngineError, Gone, Refused, Taken, Unavailable

LABEL_CLUSTER = "caisson.cluster"
LABEL_NODE = "caisson.node"
LABEL_GROUP = "caisson.nodegroup"
LABEL_PROJECT = "caisson.cluster.project"
LABEL_TRIAL = "caisson.trial"
LABEL_DRIVER = "caisson.node.label."

PRIVILEGED: Mapping[str, Any] = {"Privileged": True}
CAPABLE: Mapping[str, Any] = {
    "CapAdd": ["ALL"],
    "CapDrop": ["SYS_RESOURCE"],
    "SecurityOpt": ["seccomp=unconfined", "apparmor=unconfined"],
    "MaskedPaths": [],
    "ReadonlyPaths": [],
    "DeviceCgroupRules": ["a *:* rwm"],
}
"""As good as privileged, where the host itself may not raise limits and hence may not hand out all capabilities."""

log = structlog.get_logger("caisson.nodes")


class DockerNodes(DockerNetworks, DockerStreams, DockerContainers):
    """Ability NODE of a Docker engine."""

    _privileges: Mapping[str, Any] | None = None

    async def ensure_node_network(self, cluster: UUID, project_id: str) -> NodeNetwork:
        """The cluster's own network, made when absent. Raises Refused when the range for clusters is used up."""
        name, settings = _network_name(cluster), self._settings.clusters
        async with self.calls.session.networks.setdefault(name, asyncio.Lock()):
            # Docker allows two networks of one name: of those that two replicas made at once, the lowest id stays.
            while len(found := await self._node_networks(cluster)) != 1:
                for document in found[1:]:
                    await self._drop("networks", document["Id"])
                if found:
                    continue
                pool, prefix = settings.network_pool, settings.network_prefix
                labels = self._node_labels(cluster, project_id)
                try:
                    bridge = nftables.new_bridge(nftables.OF_NODES)
                    if await self.cut_network(name, labels, pool, prefix, str(cluster), bridge) is None:
                        raise Refused(
                            f"no network of /{prefix} is left in {pool}, which clusters' networks are cut from"
                        )
                except NameTaken:
                    if not await self._node_networks(cluster):
                        raise
        await self.fence()
        subnet = IPv4Network(found[0]["IPAM"]["Config"][0]["Subnet"])
        gateway = found[0]["IPAM"]["Config"][0].get("Gateway") or str(subnet[1])
        return NodeNetwork(name, str(subnet), gateway)

    async def create_node(self, spec: NodeSpec) -> NodeSeen:
        """Make it, or return the one that is there; see `Nodes`."""
        if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", spec.name):
            raise Refused(f"{spec.name!r} is no host name: up to 63 small letters, digits and hyphens")
        name = _node_name(spec.cluster, spec.name)
        document = await self._inspect(name)
        seen = None if document is None else node_seen(document)
        if seen is not None and not _is_whole(seen):
            await self.remove(seen.ref, force=True)
            seen = None
        if seen is None:
            await self._check_address(spec)
            body = self._body(spec, await self._privileges_of(spec))
            seen = await self._make_named(name, body, node_seen)
        if seen.started_at is None and spec.files:
            await self.put_files(seen.ref, spec.files)
        return seen

    async def start_node(self, ref: str) -> None:
        """Start; already running is fine.

        Raises Unavailable when Docker forgot its process, as one does that ends while it starts or stops it, and can
        never start it again: then it is removed, so that whoever looks next makes it anew with its volumes.
        """
        async with self.calls.session.slots:
            try:
                await self.calls.call("POST", f"{container_path(ref)}/start")
                return
            except EngineError as error:
                if not shapes.is_broken(error):
                    raise
                reason = error.title
        await self.remove_node(ref, keep_volumes=True)
        raise Unavailable(f"the node cannot be started again, and is made anew: {reason}")

    async def stop_node(self, ref: str, timeout: int) -> None:
        """Ask, and after `timeout` seconds kill; already stopped is fine."""
        seconds = timeout + self.calls.patience
        await self.calls.call("POST", f"{container_path(ref)}/stop", {"t": timeout}, seconds=seconds)

    async def remove_node(self, ref: str, *, keep_volumes: bool = False) -> None:
        """Remove it, running or not; absent is fine."""
        document = await self._inspect_node(ref)
        if document is None:
            return
        await self.remove(ref, force=True)
        if not keep_volumes:
            mounts = [mount["Name"] for mount in document["Mounts"] if mount["Type"] == "volume"]
            await asyncio.gather(*(self._drop("volumes", volume) for volume in mounts))

    async def drop_strays(self, cluster: UUID) -> None:
        """Remove the volumes of nodes that are gone; see `Nodes`."""
        volumes = await self._node_volumes(cluster)
        there = {node.name for node in await self.nodes(cluster)}
        strays = [document["Name"] for document in volumes if document["Labels"].get(LABEL_NODE) not in there]
        await asyncio.gather(*(self._drop("volumes", name) for name in strays))

    async def nodes(self, cluster: UUID) -> list[NodeSeen]:
        """All nodes of one cluster, by name."""
        documents = await asyncio.gather(*(self._inspect_node(ref) for ref in await self._node_refs(cluster)))
        found = [node_seen(document) for document in documents if document is not None]
        return sorted((seen for seen in found if seen is not None and _is_whole(seen)), key=lambda seen: seen.name)

    async def put_files(self, ref: str, files: Mapping[str, bytes]) -> None:
        """Write files into a node, running or not, for root alone to read."""
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as tar:
            for path, content in files.items():
                entry = tarfile.TarInfo(posixpath.normpath(path).lstrip("/"))
                entry.size, entry.mode = len(content), 0o600
                tar.addfile(entry, io.BytesIO(content))
        kind = {"Content-Type": "application/x-tar"}
        target = f"{container_path(ref)}/archive"
        async with self.calls.reply("PUT", target, {"path": "/"}, body=packed.getvalue(), headers=kind) as response:
            await response.read()

    async def run_in_node(
        self, ref: str, command: Sequence[str], *, stdin: AsyncIterator[bytes] | None = None, timeout: float = 30.0
    ) -> ExecResult:
        """Run a command to its end, fed with `stdin`; see `Nodes`."""
        if stdin is None:
            return await self.execute(ref, command, timeout)
        return await self.execute_fed(ref, command, stdin, timeout)

    async def node_log(self, ref: str, lines: int = 20) -> str:
        """The last lines that the node's own process wrote; empty when the node is absent."""
        try:
            parts = [part async for part in self.logs(ref, LogOptions(tail=lines))]
        except Gone:
            return ""
        return b"".join(parts).decode(errors="replace").strip()

    async def remove_cluster(self, cluster: UUID) -> bool:
        """Remove nodes, volumes and network of a cluster; whether nothing of it is left."""
        await asyncio.gather(*(self.remove(ref, force=True) for ref in await self._node_refs(cluster)))
        volumes, networks = await asyncio.gather(self._node_volumes(cluster), self._node_networks(cluster))
        left = await asyncio.gather(
            *(self._drop("volumes", document["Name"]) for document in volumes),
            *(self._drop("networks", document["Id"]) for document in networks),
        )
        await self.clear_fence()
        return all(left) and not await self._node_refs(cluster)

    async def clusters(self) -> set[UUID]:
        """Every cluster of which the engine holds anything, of this installation."""
        containers, volumes, networks = await asyncio.gather(
            self._node_containers(), self._node_volumes(), self._node_networks()
        )
        found = (shapes.uuid_of(one["Labels"][LABEL_CLUSTER]) for one in [*containers, *volumes, *networks])
        return {uuid for uuid in found if uuid is not None}

    # How it works

    def _body(self, spec: NodeSpec, privileges: Mapping[str, Any]) -> dict[str, Any]:
        network = _network_name(spec.cluster)
        common = self._node_labels(spec.cluster, spec.project_id)
        address = self._settings.clusters.publish_address or self._settings.publish_address
        log_size = f"{self._settings.log_max_mib * 512}k"
        return {
            "Image": spec.image,
            "Hostname": spec.name,
            "Cmd": list(spec.command) or None,
            "Env": [f"{name}={value}" for name, value in spec.environment.items()],
            "Labels": {
                **common,
                LABEL_NODE: spec.name,
                LABEL_GROUP: str(spec.group),
                **{f"{LABEL_DRIVER}{key}": value for key, value in spec.labels.items()},
            },
            "ExposedPorts": {f"{port}/tcp": {} for port in spec.publish},
            "HostConfig": {
                "NetworkMode": network,
                "Init": True,  # what ends in a node's containers becomes a child of the node's first process
                "CgroupnsMode": "private",
                "RestartPolicy": {"Name": "unless-stopped", "MaximumRetryCount": 0},
                "LogConfig": {"Type": "json-file", "Config": {"max-size": log_size, "max-file": "2"}},
                "Mounts": [
                    _mount(spec, path, self._node_labels(spec.cluster, spec.project_id)) for path in spec.volumes
                ],
                "PortBindings": {
                    f"{port}/tcp": [{"HostIp": address, "HostPort": str(host)}] for port, host in spec.publish.items()
                },
                **shapes.limits(spec.cpu, spec.memory),
                **privileges,
            },
            "NetworkingConfig": {"EndpointsConfig": {network: {"IPAMConfig": {"IPv4Address": spec.address}}}},
        }

    def _node_labels(self, cluster: UUID, project_id: str) -> dict[str, str]:
        labels = {LABEL_CLUSTER: str(cluster), LABEL_PROJECT: project_id}
        return labels if self.installation is None else labels | {shapes.LABEL_INSTALLATION: self.installation}

    def _filter(self, cluster: UUID | None = None) -> str:
        """What Docker is to list: all of one cluster, or of every cluster of this installation."""
        if cluster is not None:
            return json.dumps({"label": [f"{LABEL_CLUSTER}={cluster}"]})
        mine = [] if self.installation is None else [f"{shapes.LABEL_INSTALLATION}={self.installation}"]
        return json.dumps({"label": [LABEL_CLUSTER, *mine]})

    async def _check_address(self, spec: NodeSpec) -> None:
        """Docker itself would say so only at the start. Raises Taken."""
        for other in await self.nodes(spec.cluster):
            if other.address == spec.address and other.name != spec.name:
                raise Taken(f"node {spec.name}: address {spec.address} is already in use by node {other.name}")

    async def _privileges_of(self, spec: NodeSpec) -> Mapping[str, Any]:
        """How nodes are privileged here. Whether the host allows `privileged` is tried once, with any node's image."""
        if runtime := self._settings.clusters.runtime:
            return {"Runtime": runtime, "CapAdd": ["ALL"]}
        async with self.calls.session.networks.setdefault("privileged", asyncio.Lock()):
            if self._privileges is None:
                self._privileges = await self._try_privileged(spec)
        return self._privileges

    async def _try_privileged(self, spec: NodeSpec) -> Mapping[str, Any]:
        """By a container that is no node. It belongs to the cluster, so that it goes whoever is killed meanwhile."""
        labels = self._node_labels(spec.cluster, spec.project_id) | {LABEL_TRIAL: ""}
        mine = json.dumps({"label": [f"{LABEL_CLUSTER}={spec.cluster}", LABEL_TRIAL]})
        for left in await self.calls.call("GET", "containers/json", {"all": True, "filters": mine}):
            await self.remove(left["Id"], force=True)
        host = {"NetworkMode": "none", "AutoRemove": True, **PRIVILEGED}
        body = {"Image": spec.image, "Entrypoint": ["/bin/true"], "HostConfig": host, "Labels": labels}
        while True:
            trial = (await self.calls.call("POST", "containers/create", body=body))["Id"]
            try:
                await self.calls.call("POST", f"{container_path(trial)}/start")
            except EngineError as error:
                # Another replica, which tries it as well, takes it for one that was left behind.
                if isinstance(error, Gone) or shapes.is_broken(error):
                    continue
                if not isinstance(error, Refused):
                    raise
                log.warning("privileged containers do not start, nodes get capabilities", reason=error.title)
                return CAPABLE
            finally:
                await self.remove(trial, force=True)
            return PRIVILEGED

    async def _inspect_node(self, ref: str) -> dict[str, Any] | None:
        try:
            document: dict[str, Any] = await self.calls.call("GET", f"{container_path(ref)}/json")
        except Gone:
            return None
        return document

    async def _node_refs(self, cluster: UUID) -> list[str]:
        return [document["Id"] for document in await self._node_containers(cluster)]

    async def _node_containers(self, cluster: UUID | None = None) -> list[dict[str, Any]]:
        """What bears the labels and a node's name: labels alone may come from the image of a tenant's container."""
        wish = {"all": True, "filters": self._filter(cluster)}
        listed = await self.calls.call("GET", "containers/json", wish)
        return [document for document in listed if _is_named_as_node(document)]

    async def _node_volumes(self, cluster: UUID | None = None) -> list[dict[str, Any]]:
        listed = await self.calls.call("GET", "volumes", {"filters": self._filter(cluster)})
        return list(listed["Volumes"] or ())

    async def _node_networks(self, cluster: UUID | None = None) -> list[dict[str, Any]]:
        listed = await self.calls.call("GET", "networks", {"filters": self._filter(cluster)})
        return sorted(listed, key=lambda document: str(document["Id"]))

    async def _drop(self, kind: str, ident: str) -> bool:
        """Remove a volume or a network; absent is fine, False while it is in use."""
        try:
            await self.calls.call("DELETE", f"{kind}/{ident}")
        except Gone:
            return True
        except EngineError as error:
            if isinstance(error, Taken) or "active endpoints" in error.title:
                return False
            raise
        return True


def node_seen(document: Mapping[str, Any]) -> NodeSeen | None:
    """What an inspect document says; None when it is no node of ours."""
    config, state = document["Config"], document["State"]
    labels: dict[str, str] = config.get("Labels") or {}
    cluster, group = shapes.uuid_of(labels.get(LABEL_CLUSTER)), shapes.uuid_of(labels.get(LABEL_GROUP))
    if cluster is None or group is None or not labels.get(LABEL_NODE):
        return None
    place = (document["NetworkSettings"].get("Networks") or {}).get(_network_name(cluster)) or {}
    return NodeSeen(
        ref=document["Id"],
        cluster=cluster,
        project_id=labels.get(LABEL_PROJECT, ""),
        name=labels[LABEL_NODE],
        group=group,
        state=shapes.state_of(state),
        image=config["Image"],
        address=(place.get("IPAMConfig") or {}).get("IPv4Address") or "",
        labels={key.removeprefix(LABEL_DRIVER): value for key, value in labels.items() if key.startswith(LABEL_DRIVER)},
        exit_code=state["ExitCode"],
        oom_killed=state["OOMKilled"],
        error=state.get("Error") or "",
        started_at=shapes.moment(state["StartedAt"]),
    )


def _is_whole(node: NodeSeen) -> bool:
    """Whether all of it was made: a daemon that dies within a create writes the container first, then its address."""
    return node.address != ""


def _network_name(cluster: UUID) -> str:
    return f"caisson-cluster-{cluster}"


def _node_name(cluster: UUID, name: str) -> str:
    return f"caisson-{cluster}-{name}"


def _is_named_as_node(document: Mapping[str, Any]) -> bool:
    cluster = shapes.uuid_of(document["Labels"][LABEL_CLUSTER])
    return cluster is not None and any(name.startswith(f"/{_node_name(cluster, '')}") for name in document["Names"])


def _mount(spec: NodeSpec, path: str, labels: Mapping[str, str]) -> dict[str, Any]:
    return {
        "Type": "volume",
        "Source": f"{_node_name(spec.cluster, spec.name)}-{path.strip('/').replace('/', '-')}",
        "Target": path,
        "VolumeOptions": {"Labels": {**labels, LABEL_NODE: spec.name}},
    }
