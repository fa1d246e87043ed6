"""The Docker engine, over aiodocker. Podman's socket answers most of these calls as well.

Every call ends: unary calls after `patience` seconds, a pull that falls silent after `pull_patience`. What is dear to
the engine (create, start, remove) passes a semaphore, because beyond a few at a time it only gets slower; stop and pull
may wait for minutes and do not pass it.
"""

import asyncio
import base64
import json
import os
import shutil
import ssl
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from uuid import UUID

import structlog

from app.backends.docker import nftables, sandbox, shapes
from app.backends.docker.calls import Calls, container_path, find_url, next_chunk, text_of
from app.backends.docker.changes import DockerChanges
from app.backends.docker.groups import DockerGroups
from app.backends.docker.images import DockerImages
from app.backends.docker.networks import NameTaken
from app.backends.docker.nodes import DockerNodes
from app.backends.docker.streams import DockerStreams
from app.backends.docker.volumes import DockerVolumes
from app.backends.docker.wires import DockerWires, plug_in, replugged
from app.backends.engine import (
    Ability,
    ContainerEngine,
    ContainerSpec,
    EngineEvent,
    EngineInfo,
    ImageFound,
    ImageSeen,
    RegistryLogin,
    Seen,
    State,
    Stats,
    Top,
)
from app.errors import EngineError, Gone, Refused, RegistryDown, Taken, Unavailable
from app.settings import BackendSettings, Settings

log = structlog.get_logger("caisson.engine")

__all__ = ["DockerEngine", "find_url", "make"]

ON_PING = frozenset({Ability.DISK_QUOTA, Ability.GROUP, Ability.VOLUME_SIZE, Ability.FIREWALL})  # the host decides


def make(name: str, backend: BackendSettings, settings: Settings) -> ContainerEngine:
    """The engine called `name`. Nothing is connected before its first call."""
    return DockerEngine(name, backend, settings)


class DockerEngine(DockerChanges, DockerNodes, DockerGroups, DockerWires, DockerStreams, DockerImages, DockerVolumes):
    """A Docker daemon, on this host or on another.

    Attributes:
        calls: its HTTP API; `calls.patience` is the seconds within which a unary call must be answered.
        pull_patience: seconds that a pull may go without a sign of progress.
        watch_patience: seconds without an event after which the stream may be dead, and is opened anew.
        most_pause: seconds between two tries to open it, of a daemon that has been silent for long.
    """

    pull_patience = 120.0
    watch_patience = 300.0
    most_pause = 5.0

    def __init__(
        self, name: str, backend: BackendSettings, settings: Settings, tls: ssl.SSLContext | None = None
    ) -> None:
        self.name = name
        self.installation = None
        # Whether disks can be limited, and packets filtered, is known after the first ping.
        self.abilities = frozenset(Ability) - {Ability.DISK_QUOTA, Ability.VOLUME_SIZE, Ability.FIREWALL}
        self.calls = Calls(name, backend.url, backend.concurrency or 2 * (os.cpu_count() or 1), tls)
        self._settings = settings
        self._may_filter: bool | None = None
        self.tables = nftables.Tables(f"{settings.database} {name}")

    # Host

    async def ping(self) -> EngineInfo:
        """Facts of the host, the engine's abilities refreshed. Raises Unavailable when it does not answer."""
        session = self.calls.session
        async with self.calls.reply("GET", "_ping", versioned=False) as response:
            daemon_api = response.headers.get("Api-Version")
        if daemon_api != session.daemon_api:
            # First call, or the daemon was replaced by another version while we ran.
            session.client.api_version, session.daemon_api = "auto", daemon_api
        document = await self.calls.call("GET", "info")
        disk, table = 0, ""
        if self.calls.is_local:
            table = text_of("/proc/self/mountinfo")
            disk = _gib(document.get("DockerRootDir", ""))
        found = {Ability.GROUP} if document.get("Architecture", "") in sandbox.ARCHITECTURES else set()
        if shapes.limits_disk(document, table):
            found.add(Ability.DISK_QUOTA)
            if document["Driver"] == "overlay2":  # then the quota is the file system's, and volumes lie on it as well
                found.add(Ability.VOLUME_SIZE)
        if self._may_filter is None:
            self._may_filter = self._settings.keystone is not None and self.calls.is_local and await self.tables.works()
        if self._may_filter:
            found.add(Ability.FIREWALL)
        self.abilities = self.abilities - ON_PING | found
        return shapes.engine_info(document, session.client.api_version.removeprefix("v"), disk)

    async def components(self) -> dict[str, str]:
        """The version of the daemon and of each program below it; a distribution's own build says so."""
        found = {}
        for part in (await self.calls.call("GET", "version")).get("Components") or []:
            build = (part.get("Details") or {}).get("GitCommit", "")
            found[part["Name"]] = build if build.startswith(part["Version"]) else part["Version"]
        return found

    async def close(self) -> None:
        """Free the connections of this event loop and end watching. The engine is not used again."""
        await self.calls.close()

    # Containers

    async def create(self, uuid: UUID, spec: ContainerSpec) -> Seen:
        """Make the container, or return the one that is there.

        Raises Gone when the image is absent, Refused when the engine cannot make it so, Taken when somebody else's
        container bears the name.
        """
        if spec.disk and Ability.DISK_QUOTA not in self.abilities:
            raise Refused("disk: the engine's storage driver cannot limit the disk of a container")
        joined = None if spec.group is None else await self._sandbox(spec.group)
        body = shapes.create_body(uuid, spec, self._settings.log_max_mib, self._settings.publish_address, joined)
        return await self._make(uuid, plug_in(body, spec.places))

    async def start(self, ref: str) -> None:
        """Start; running already is fine. Taken: a port is in use or it is paused. Refused: the command is at fault.

        One that never ran may have another ref afterwards: see `_replace`.
        """
        try:
            await self._start(ref)
        except EngineError as error:
            mended = await self._mend(ref, error)
            if mended is None:
                raise
            await self._start(mended)

    async def stop(self, ref: str, timeout: int) -> None:
        """Ask, and after `timeout` seconds kill; stopped already is fine."""
        await self.calls.call(
            "POST", f"{container_path(ref)}/stop", {"t": timeout}, seconds=timeout + self.calls.patience
        )

    async def restart(self, ref: str, timeout: int) -> None:
        """Stop and start again, also when it is stopped."""
        await self.calls.call(
            "POST", f"{container_path(ref)}/restart", {"t": timeout}, seconds=timeout + self.calls.patience
        )

    async def pause(self, ref: str) -> None:
        """Freeze its processes; paused already is fine. Raises Taken when it does not run."""
        await self._turn(ref, "pause", State.PAUSED)

    async def unpause(self, ref: str) -> None:
        """Thaw its processes; running already is fine. Raises Taken when it does not run."""
        await self._turn(ref, "unpause", State.RUNNING)

    async def kill(self, ref: str, signal: str) -> None:
        """Send `signal`, such as SIGKILL. Raises Taken when it does not run, Refused when there is no such signal."""
        await self.calls.call("POST", f"{container_path(ref)}/kill", {"signal": signal})

    async def _start(self, ref: str) -> None:
        async with self.calls.session.slots:
            await self.calls.call("POST", f"{container_path(ref)}/start")

    async def _mend(self, ref: str, error: EngineError) -> str | None:
        """Cure what keeps a container from starting: the ref to start, None when nothing can be done."""
        if shapes.is_broken(error):
            return await self._replace(ref)
        if isinstance(error, Gone) and "network" in error.title:
            return await self._rejoin(ref)
        return None

    async def _replace(self, ref: str) -> str | None:
        """Put a new container in the place of one that never ran.

        A daemon that ends while it starts a container may forget the process, which then is in the way of every start.
        """
        document = await self.calls.call("GET", f"{container_path(ref)}/json")
        seen = shapes.seen(document)
        if seen is None or seen.started_at is not None or document["Config"]["Labels"].get(shapes.LABEL_SEALED):
            return None
        await self.remove(ref, force=True)
        body = {**document["Config"], "HostConfig": document["HostConfig"], **replugged(document)}
        if seen.joined is not None:
            body = shapes.without_network(body)
        name = {"name": shapes.container_name(seen.uuid)}
        made = await self.calls.call("POST", "containers/create", name, body=body)
        return str(made["Id"])

    async def _turn(self, ref: str, verb: str, state: State) -> None:
        try:
            await self.calls.call("POST", f"{container_path(ref)}/{verb}")
        except Taken:
            if (await self._seen(ref)).state is not state:
                raise

    # Inside a container

    async def stats(self, ref: str) -> Stats:
        """One measurement over a second. Raises Taken when the container does not run."""
        return shapes.stats(await self.calls.call("GET", f"{container_path(ref)}/stats", {"stream": False}))

    async def top(self, ref: str, ps_args: str | None) -> Top:
        """The container's processes by the host's ps. Taken when it does not run, Refused for bad `ps_args`."""
        arguments = {"ps_args": ps_args} if ps_args else {}
        document = await self.calls.call("GET", f"{container_path(ref)}/top", arguments)
        processes = tuple(tuple(process) for process in document["Processes"] or ())
        return Top(tuple(document["Titles"]), processes)

    # Images

    async def image(self, image: str) -> ImageSeen | None:
        """The image, when the engine holds it. Raises Refused when `image` is no image name."""
        shapes.image_name(image)
        try:
            return shapes.image_seen(await self.calls.call("GET", f"images/{image}/json"))
        except Gone:
            return None

    async def pull(self, image: str, login: RegistryLogin | None) -> None:
        """Fetch the image; returns when it is there.

        Raises Gone when the registry does not have it, RegistryDown when there is no such registry or it is silent,
        Refused for bad credentials and for those of another registry, Unavailable when the engine itself is silent.
        """
        name = shapes.image_name(image)
        headers: dict[str, str] = {}
        if login is not None:
            if not shapes.is_domain(name.domain, login.domain):
                # The engine would show them to whatever registry the name says.
                raise Refused(f"credentials for {login.domain} are not for {name.domain}, which {image} comes from")
            words = {"username": login.username, "password": login.password, "serveraddress": login.domain}
            headers["X-Registry-Auth"] = base64.urlsafe_b64encode(json.dumps(words).encode()).decode()
        try:
            await self._pull(name, headers)
        except Unavailable as error:
            if not isinstance(error.__cause__, TimeoutError):
                raise
            # The engine itself hangs, or waits for a registry that does.
            async with self.calls.reply("GET", "_ping", versioned=False):
                raise RegistryDown(f"{name.domain} was silent for {self.pull_patience:g} seconds") from error
        if await self.image(image) is None:
            raise Unavailable(f"the pull of {image} ended without an image")

    async def _pull(self, name: shapes.ImageName, headers: Mapping[str, str]) -> None:
        lines, silence = shapes.Lines(), self.pull_patience
        wish = {"fromImage": name.name, "tag": name.version}
        async with self.calls.reply("POST", "images/create", wish, seconds=silence, headers=headers) as response:
            while chunk := await next_chunk(response, silence):
                for line in lines.feed(chunk):
                    # The status was 200 long ago: a failure is just another line.
                    if "error" in line or "errorDetail" in line:
                        detail = line.get("errorDetail") or {}
                        raise shapes.failure(0, detail.get("message") or line.get("error") or "")

    async def remove_image(self, image: str) -> None:
        """Remove the image; absent is fine. Taken when a container uses it."""
        shapes.image_name(image)
        try:
            await self.calls.call("DELETE", f"images/{image}")
        except Gone:
            return

    async def search(self, term: str) -> list[ImageFound]:
        """Ask Docker Hub, or the registry that `term` starts with. Raises Refused when that does not answer."""
        return [
            shapes.image_found(found) for found in await self.calls.call("GET", "images/search", {"term": term}) or ()
        ]

    # Networks

    async def ensure_network(self, project_id: str) -> str:
        """The name of the project's network, made when absent. Raises Taken when the range of addresses is used up."""
        async with self._network_lock(project_id):
            # Docker allows two networks of one name: of those that two replicas made at once, the lowest id stays.
            while len(networks := await self._networks(project_id)) != 1:
                if networks:
                    await self._drop_networks(networks[1:])
                    break
                await self._create_network(project_id)
        await self.fence()
        return shapes.network_name(project_id)

    async def remove_network(self, project_id: str) -> None:
        """Remove the project's network when no container uses it, running or not; in use or absent is fine."""
        async with self._network_lock(project_id):
            await self._drop_networks(await self._networks(project_id))
        await self.clear_fence()

    def _network_lock(self, project_id: str) -> asyncio.Lock:
        return self.calls.session.networks.setdefault(project_id, asyncio.Lock())

    async def _networks(self, project_id: str) -> list[str]:
        label = json.dumps({"label": [f"{shapes.LABEL_PROJECT}={project_id}"], "driver": ["bridge"]})
        return sorted(document["Id"] for document in await self.calls.call("GET", "networks", {"filters": label}))

    async def _create_network(self, project_id: str) -> None:
        labels = {shapes.LABEL_PROJECT: project_id}
        pool, prefix = self._settings.network_pool, self._settings.network_prefix
        name, bridge = shapes.network_name(project_id), nftables.new_bridge(nftables.FENCED)
        try:
            if await self.cut_network(name, labels, pool, prefix, project_id, bridge) is None:
                raise Taken(f"no network of /{prefix} is left in {pool}")
        except NameTaken:
            # By another replica in this moment, or by a network that is not ours.
            if not await self._networks(project_id):
                raise

    async def _drop_networks(self, networks: Sequence[str]) -> None:
        for network in networks:
            # Docker forgets a network that only stopped containers use, and then cannot start them.
            users = json.dumps({"network": [network]})
            if await self.calls.call("GET", "containers/json", {"all": True, "filters": users}):
                continue
            try:
                await self.calls.call("DELETE", f"networks/{network}")
            except (Gone, Taken):
                continue

    async def _rejoin(self, ref: str) -> str | None:
        """Connect a container to its project's network again, which was removed since; None when that is not its."""
        document = await self.calls.call("GET", f"{container_path(ref)}/json")
        seen = shapes.seen(document)
        network = document["HostConfig"]["NetworkMode"]
        if seen is None or network != shapes.network_name(seen.project_id):
            return None
        await self.ensure_network(seen.project_id)
        with suppress(EngineError):
            # It may never have been connected; then the engine complains here, in one of several ways.
            await self.calls.call("POST", f"networks/{network}/disconnect", body={"Container": ref, "Force": True})
        await self.calls.call("POST", f"networks/{network}/connect", body={"Container": ref})
        return ref

    # Events

    async def watch(self) -> AsyncIterator[EngineEvent]:
        """Events of our containers until the engine is closed; one with `lost` first and after each new connection."""
        filters = json.dumps({"type": ["container"], "label": [shapes.LABEL_UUID]})
        pause = 0.1
        while not self.calls.closed:
            try:
                # A second of the past as well, because Docker answers a moment before it listens.
                since = int(time.time()) - 1
                async with self.calls.reply("GET", "events", {"filters": filters, "since": since}) as response:
                    await self.fence()  # whatever became of it while nobody looked
                    pause, lines = 0.1, shapes.Lines()
                    yield EngineEvent(None, "connected", lost=True)
                    while chunk := await next_chunk(response, self.watch_patience):
                        for event in map(shapes.event, lines.feed(chunk)):
                            if event is not None:
                                yield event
            except EngineError:
                # The engine is down; whoever pings it says so.
                pause = min(pause * 2, self.most_pause)
            await asyncio.sleep(pause)


def _gib(path: str) -> int:
    """The size of the file system that holds `path`; 0 when there is no such path here."""
    return shutil.disk_usage(path).total // 1024**3 if path and Path(path).is_dir() else 0
