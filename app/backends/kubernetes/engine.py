"""Containers on a cluster of Kubernetes: a pod for each, and a config map that keeps the wish while there is none.

Images come through the engine that carries the nodes, which knows registries and their logins, and are imported into
every node. What a stop ends is gone with its pod: how it ended and the end of its log are kept in the config map.
"""

import asyncio
import json
import secrets
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from app.backends.chunks import closing
from app.backends.docker import shapes
from app.backends.docker.streams import OUTPUT_LIMIT
from app.backends.engine import (
    SILENT_MOST,
    Ability,
    ContainerSpec,
    EngineEvent,
    EngineInfo,
    ExecResult,
    ImageSeen,
    LogOptions,
    RegistryLogin,
    Seen,
    State,
    Stream,
)
from app.backends.kubernetes import pods
from app.backends.kubernetes.api import MERGE, Api
from app.backends.kubernetes.exec import PodStream, opened
from app.backends.nodes import ImageHost, NodeSeen
from app.errors import EngineError, Gone, Refused, Taken, Unavailable

ABILITIES = frozenset({Ability.EXEC, Ability.ATTACH, Ability.WATCH})
PODS = f"/api/v1/namespaces/{pods.NAMESPACE}/pods"
MAPS = f"/api/v1/namespaces/{pods.NAMESPACE}/configmaps"
SETTLE = 60.0  # seconds that a pod may take to run, or to end
HOPELESS = 5.0  # seconds after which no node is found suitable
IMPORT_SECONDS = 600.0
KNOWN_FOR = 10.0  # seconds that is believed where the API is, as long as it answers, and that a node holds an image
KEPT_LINES, KEPT_BYTES = 1000, 256 * 1024
"""How much of a pod's log outlives it."""


class KubernetesEngine:
    """One cluster. `connect` gives its API, `nodes` where images have to be."""

    def __init__(
        self,
        name: str,
        connect: Callable[[], Awaitable[Api]],
        nodes: Callable[[], Awaitable[Sequence[NodeSeen]]],
        host: ImageHost,
    ) -> None:
        self.name = name
        self.installation: str | None = None
        self.abilities = ABILITIES
        self._connect = connect
        self._nodes = nodes
        self._host = host
        self._known: Api | None = None
        self._known_until = 0.0
        self._holds: dict[tuple[str, str], float] = {}
        self._open: dict[str, PodStream] = {}
        self._over: deque[str] = deque(maxlen=1000)
        self._attached: dict[str, set[PodStream]] = {}
        self._has_namespace = False
        self._queues: set[asyncio.Queue[EngineEvent | None]] = set()

    async def ping(self) -> EngineInfo:
        """What its nodes have together. Raises Unavailable when the API does not answer."""
        api = await self._api()
        version, nodes = await asyncio.gather(api.version(), api.nodes())
        info = next(iter(nodes.values()))["status"]["nodeInfo"] if nodes else {}
        capacity = [node["status"].get("capacity", {}) for node in nodes.values()]
        return EngineInfo(
            hostname=self.name.replace(":", "-"),
            version=version,
            api_version="v1",
            cpus=sum(int(one.get("cpu", 0)) for one in capacity),
            memory=sum(int(str(one.get("memory", "0")).removesuffix("Ki")) for one in capacity) // 1024,
            architecture=info.get("architecture", ""),
            os_type=info.get("operatingSystem", ""),
            os=info.get("osImage", ""),
            kernel_version=info.get("kernelVersion", ""),
            labels={"caisson.cluster.nodes": str(len(nodes))},
        )

    async def close(self) -> None:
        """Hang up; the API's connections are the driver's."""
        for queue in self._queues:
            queue.put_nowait(None)
        for stream in [*self._open.values(), *(one for some in self._attached.values() for one in some)]:
            await stream.close()

    # Containers

    async def find(self, uuid: UUID) -> Seen | None:
        """Our container, by the name of its config map."""
        api = await self._api()
        try:
            kept = await api.call("GET", f"{MAPS}/{pods.name(uuid)}")
        except Gone:
            return None
        return pods.seen(kept, await _pod(api, uuid))

    async def find_all(self) -> list[Seen]:
        """Every container that bears our label, in no order."""
        api = await self._api()
        selector = shapes.LABEL_UUID
        if self.installation is not None:
            selector += f",{shapes.LABEL_INSTALLATION}={self.installation}"
        kept, found = await asyncio.gather(
            *(api.call("GET", path, query={"labelSelector": selector}) for path in (MAPS, PODS))
        )
        by_name = {one["metadata"]["name"]: one for one in found["items"]}
        shown = (pods.seen(one, by_name.get(one["metadata"]["name"])) for one in kept["items"])
        return [seen for seen in shown if seen is not None]

    async def create(self, uuid: UUID, spec: ContainerSpec) -> Seen:
        """Keep the wish, or return the one that is there; a pod is made by `start`.

        Raises Gone when nobody has the image, Refused for what no pod can be, in the words of the cluster.
        """
        if (there := await self.find(uuid)) is not None:
            return there
        image = await self.image(spec.image)
        if image is None:
            raise Gone(f"No such image: {spec.image}")
        api = await self._api()
        await self._check_size(api, spec)
        kept = pods.config_map(uuid, spec, image, self.installation)
        await self._ensure_namespace(api)
        await api.call("POST", PODS, json.loads(kept["data"]["pod"]), query={"dryRun": "All"})
        await self._spread(spec.image)
        with suppress(Taken):
            await api.call("POST", MAPS, kept)
        made = await self.find(uuid)
        if made is None:
            raise Taken(f"the name {pods.name(uuid)} is in use by a config map that is not Caisson's")
        return made

    async def start(self, ref: str) -> None:
        """Make the pod, and return when it runs or has ended; running already is fine.

        Refused: the command or its image is at fault. Taken: no node can take it now.
        """
        api, kept, found = await self._look(ref)
        seen = pods.seen(kept, found)
        if seen is not None and seen.state in (State.RUNNING, State.RESTARTING):
            return
        uuid = _uuid(ref)
        if found is not None and (pods.is_over(found) or found["metadata"].get("deletionTimestamp")):
            await self._drop(api, uuid)
        wish = json.loads(kept["data"]["pod"])
        await self._spread(wish["spec"]["containers"][0]["image"])
        await self._note(api, uuid, {pods.WANTED: "yes", pods.ENDED: None, pods.ERROR: None})
        with suppress(Taken):  # somebody else has made it
            await api.call("POST", PODS, wish)
        await self._until_started(api, uuid)

    async def stop(self, ref: str, timeout: int) -> None:
        """Ask, and after `timeout` seconds kill; stopped already is fine. The pod goes, and what it was is kept."""
        api, kept, found = await self._look(ref)
        uuid = _uuid(ref)
        if found is None or (pods.is_over(found) and pods.status_of(found).get("state", {}).get("terminated")):
            return
        await self._note(api, uuid, {pods.WANTED: "no"})
        log = b""
        with suppress(EngineError):
            log = await self._tail(api, uuid)
        last = await self._end(api, uuid, timeout)
        never = pods.seen(kept, last)
        if never is not None and never.state is State.CREATED:
            return
        await self._note(api, uuid, {pods.ENDED: json.dumps(pods.ended(last or found, log))})

    async def restart(self, ref: str, timeout: int) -> None:
        """Stop and start again, also when it is stopped."""
        await self.stop(ref, timeout)
        await self.start(ref)

    async def remove(self, ref: str, force: bool) -> None:
        """Remove pod and config map; absent is fine. Without `force`, Taken when it runs."""
        try:
            api, kept, found = await self._look(ref)
        except Gone:
            return
        seen = pods.seen(kept, found)
        if not force and seen is not None and seen.state is State.RUNNING:
            raise Taken(f"container {seen.uuid} is running: stop it before it is removed")
        await self._end(api, _uuid(ref), 0)
        with suppress(Gone, Taken):
            meta = {"preconditions": {"uid": kept["metadata"]["uid"]}}
            await api.call("DELETE", f"{MAPS}/{pods.name(_uuid(ref))}", meta)

    # Events

    async def watch(self) -> AsyncIterator[EngineEvent]:
        """Events of our pods until the engine is closed; one with `lost` first and after each new connection."""
        queue: asyncio.Queue[EngineEvent | None] = asyncio.Queue()
        self._queues.add(queue)
        following = asyncio.create_task(self._follow(queue))
        try:
            while (event := await queue.get()) is not None:
                yield event
        finally:
            self._queues.discard(queue)
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)

    async def _follow(self, queue: asyncio.Queue[EngineEvent | None]) -> None:
        pause = 0.1
        while True:
            try:
                api = await self._api()
                since = await api.call("GET", PODS, query={"labelSelector": shapes.LABEL_UUID, "limit": "1"})
                query = {"labelSelector": shapes.LABEL_UUID, "watch": "true"}
                query["resourceVersion"] = since["metadata"]["resourceVersion"]
                pause = 0.1
                queue.put_nowait(EngineEvent(None, "connected", lost=True))
                told: dict[UUID, str] = {}
                async with closing(api.lines(PODS, query)) as lines:
                    async for line in lines:
                        uuid, what = pods.happened(json.loads(line))
                        if uuid is not None and told.get(uuid) != what:
                            told[uuid] = what
                            queue.put_nowait(EngineEvent(uuid, what))
            except EngineError:
                # The API is down; whoever pings it says so.
                pause = min(pause * 2, SILENT_MOST)
            await asyncio.sleep(pause)

    # Inside a container

    async def logs(self, ref: str, options: LogOptions) -> AsyncIterator[bytes]:
        """The log as raw bytes: of the pod, or what was kept of the last one.

        Raises Refused unless both output and errors are asked for: they are not told apart.
        """
        api, kept, found = await self._look(ref)
        if not (options.stdout and options.stderr):
            raise Refused("the log of a pod does not tell output and errors apart: ask for both")
        if found is None:
            lines = pods.kept_log(kept).splitlines(keepends=True)
            yield b"".join(lines if options.tail is None else lines[len(lines) - options.tail :])
            return
        if pods.status_of(found).get("state", {}).get("waiting") and not pods.status_of(found).get("lastState"):
            return
        query = {"container": pods.BOX, "timestamps": str(options.timestamps).lower()}
        query["follow"] = str(options.follow).lower()
        if options.tail is not None:
            query["tailLines"] = str(options.tail)
        if options.since is not None:
            query["sinceTime"] = f"{datetime.fromtimestamp(options.since, UTC):%Y-%m-%dT%H:%M:%SZ}"
        async with closing(api.stream(f"{PODS}/{pods.name(_uuid(ref))}/log", query, follow=options.follow)) as parts:
            async for part in parts:
                if rest := pods.without_farewell(found, part):
                    yield rest

    async def execute(self, ref: str, command: Sequence[str], timeout: float) -> ExecResult:
        """Run a command to its end; see `Execs`. One that is given up hears the end of its output."""
        path = await self._running(ref, command)
        output = bytearray()
        try:
            async with asyncio.timeout(timeout), self._exec(path, command, interactive=False) as stream:
                while chunk := await stream.read():
                    output += chunk
                    if len(output) > OUTPUT_LIMIT:
                        raise Refused(f"the command printed more than {OUTPUT_LIMIT} bytes")
        except TimeoutError as error:
            raise Taken(f"the command did not end within {timeout:g} seconds") from error
        return ExecResult(bytes(output) + stream.complaint.encode(), stream.exit_code)

    async def prepare_exec(self, ref: str, command: Sequence[str], interactive: bool) -> str:
        """A command that `open_exec` starts, in whatever replica. Returns its id."""
        await self._running(ref, command)
        exec_id = secrets.token_hex(32)
        noted = json.dumps({"command": list(command), "interactive": interactive})
        await self._note(await self._api(), _uuid(ref), {f"{pods.EXEC}{exec_id[:32]}": noted})
        return exec_id

    @asynccontextmanager
    async def open_exec(self, ref: str, exec_id: str) -> AsyncIterator[Stream]:
        """Start a prepared command and talk to it until the block ends."""
        api, kept, _ = await self._look(ref)
        if exec_id in self._open:
            raise Taken(f"exec {exec_id} was started before")
        noted = (kept["metadata"].get("annotations") or {}).get(f"{pods.EXEC}{exec_id[:32]}")
        if noted is None:
            raise Gone(f"No such exec instance: {exec_id[:64]}")
        wish = json.loads(noted)
        path = await self._running(ref, wish["command"])
        # Once only: whoever takes the note away starts it.
        version = {"metadata": {"resourceVersion": kept["metadata"]["resourceVersion"]}}
        await self._note(api, _uuid(ref), {f"{pods.EXEC}{exec_id[:32]}": None}, version)
        async with self._exec(path, wish["command"], interactive=wish["interactive"]) as stream:
            self._open[exec_id] = stream
            try:
                yield stream
            finally:
                del self._open[exec_id]
                self._over.append(exec_id)

    async def resize_exec(self, ref: str, exec_id: str, height: int, width: int) -> None:
        """Resize its terminal. Raises Gone when there is no such exec, Taken when it is not open in this replica."""
        _, kept, _ = await self._look(ref)
        if (stream := self._open.get(exec_id)) is not None and stream.outcome is None:
            await stream.resize(height, width)
        elif (
            stream is None
            and exec_id not in self._over
            and f"{pods.EXEC}{exec_id[:32]}" not in (kept["metadata"].get("annotations") or {})
        ):
            raise Gone(f"No such exec instance: {exec_id[:64]}")
        else:
            raise Taken(f"exec {exec_id} has not started, or has ended")

    async def hang_up(self, ref: str, exec_id: str) -> None:
        """Close its terminal; ended is fine."""
        if (stream := self._open.get(exec_id)) is not None:
            await stream.close()

    @asynccontextmanager
    async def attach(self, ref: str) -> AsyncIterator[Stream]:
        """Talk to the container's own process until the block ends; what it wrote before is not repeated."""
        path = await self._running(ref, ["attach"])
        api, _, found = await self._look(ref)
        box = (found or {"spec": {"containers": [{}]}})["spec"]["containers"][0]
        stdin, tty = bool(box.get("stdin")), bool(box.get("tty"))
        query = [("container", pods.BOX), ("stdout", "true"), ("stdin", str(stdin).lower()), ("tty", str(tty).lower())]
        if not tty:
            query.append(("stderr", "true"))
        async with opened(api.server, api.tls, f"{path}/attach", query) as stream:
            self._attached.setdefault(ref, set()).add(stream)
            try:
                yield stream
            finally:
                self._attached[ref].discard(stream)

    async def resize(self, ref: str, height: int, width: int) -> None:
        """Resize the container's terminal, for those who are attached here. Raises Taken when it does not run."""
        await self._running(ref, ["resize"])
        for stream in self._attached.get(ref, ()):
            await stream.resize(height, width)

    # Images

    async def image(self, image: str) -> ImageSeen | None:
        """The image, when the engine that carries the nodes holds it, or every node."""
        shapes.image_name(image)
        if (held := await self._host.image(image)) is not None:
            return held
        if await self._lacking(image):
            return None
        return ImageSeen(_full(image), 0)

    async def pull(self, image: str, login: RegistryLogin | None) -> None:
        """Fetch the image through the engine that carries the nodes, which keeps what it had before only."""
        before = await self._host.image(image)
        await self._host.pull(image, login)
        await self._import(image, await self._nodes())
        if before is None:
            with suppress(EngineError):
                await self._host.remove_image(image)

    async def remove_image(self, image: str) -> None:
        """Remove the image from every node; absent is fine. Taken when a container uses it."""
        name = _full(image)
        for seen in await self.find_all():
            if _full(seen.image) == name:
                raise Taken(f"image {image} is used by container {seen.uuid}")
        self._holds.clear()
        for node in await self._nodes():
            await self._host.run_in_node(node.ref, ["ctr", "-n", "k8s.io", "images", "rm", name])

    async def _spread(self, image: str) -> None:
        """Bring an image to the nodes that lack it, if the engine that carries them has it."""
        lacking = await self._lacking(image)
        if lacking and await self._host.image(image) is not None:
            await self._import(image, lacking)

    async def _lacking(self, image: str) -> Sequence[NodeSeen]:
        name, now = _full(image), time.monotonic()
        nodes = [node for node in await self._nodes() if self._holds.get((node.ref, name), 0.0) < now]
        command = ["ctr", "-n", "k8s.io", "images", "ls", "-q", f"name=={name}"]
        said = await asyncio.gather(*(self._host.run_in_node(node.ref, command) for node in nodes))
        lacking = [node for node, one in zip(nodes, said, strict=True) if name not in one.output.decode().split()]
        self._holds = {held: until for held, until in self._holds.items() if until > now}
        self._holds |= {(node.ref, name): now + KNOWN_FOR for node in nodes if node not in lacking}
        return lacking

    async def _import(self, image: str, nodes: Sequence[NodeSeen]) -> None:
        async def one(node: NodeSeen) -> None:
            command = ["ctr", "-n", "k8s.io", "images", "import", "-"]
            async with closing(self._host.save(image)) as chunks:
                done = await self._host.run_in_node(node.ref, command, stdin=chunks, timeout=IMPORT_SECONDS)
            if done.exit_code:
                raise Refused(f"node {node.name} did not take the image: {done.output.decode(errors='replace')[-500:]}")

        await asyncio.gather(*(one(node) for node in nodes))

    # How it works

    async def _api(self) -> Api:
        """The cluster's API. Raises Unavailable when nothing of it is there."""
        known = self._known
        if known is None or not known.answers or time.monotonic() > self._known_until:
            self._known = known = await self._connect()
            self._known_until = time.monotonic() + KNOWN_FOR
        return known

    async def _look(self, ref: str) -> tuple[Api, Mapping[str, Any], Mapping[str, Any] | None]:
        """A config map and its pod. Raises Gone."""
        uuid, api = _uuid(ref), await self._api()
        kept, found = await asyncio.gather(api.call("GET", f"{MAPS}/{pods.name(uuid)}"), _pod(api, uuid))
        if pods.ref_of(kept) != ref:
            raise Gone(f"No such container: {ref}")
        return api, kept, found

    async def _running(self, ref: str, command: Sequence[str]) -> str:
        """The path of a pod that runs. Raises Gone; Refused for no command; Taken when it does not run."""
        _, kept, found = await self._look(ref)
        if not command:
            raise Refused("No exec command specified")
        seen = pods.seen(kept, found)
        if seen is None or seen.state is not State.RUNNING:
            raise Taken(f"container {_uuid(ref)} is not running")
        return f"{PODS}/{pods.name(_uuid(ref))}"

    @asynccontextmanager
    async def _exec(self, path: str, command: Sequence[str], *, interactive: bool) -> AsyncIterator[PodStream]:
        api = await self._api()
        query = [("container", pods.BOX), *(("command", word) for word in command), ("stdout", "true")]
        query += [("stdin", "true"), ("tty", "true")] if interactive else [("stderr", "true")]
        async with opened(api.server, api.tls, f"{path}/exec", query) as stream:
            yield stream

    async def _check_size(self, api: Api, spec: ContainerSpec) -> None:
        capacity = [node["status"].get("capacity", {}) for node in (await api.nodes()).values()]
        cpus = max((int(one.get("cpu", 0)) for one in capacity), default=0)
        if spec.cpu > cpus:
            raise Refused(f"cpu: {spec.cpu:g} cores are more than any node of the cluster has, at most {cpus}")
        if 0 < spec.memory < 4:
            raise Refused(f"memory: {spec.memory} MiB are too few for any container; 4 at least")

    async def _ensure_namespace(self, api: Api) -> None:
        """Our namespace, with the account that every pod there has: the cluster makes that a moment later."""
        if self._has_namespace:
            return
        with suppress(Taken):
            body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": pods.NAMESPACE}}
            await api.call("POST", "/api/v1/namespaces", body)
        deadline = time.monotonic() + SETTLE
        while not self._has_namespace:
            try:
                await api.call("GET", f"/api/v1/namespaces/{pods.NAMESPACE}/serviceaccounts/default")
                self._has_namespace = True
            except Gone as error:
                if time.monotonic() > deadline:
                    raise Unavailable(error.title) from error
                await asyncio.sleep(0.1)

    async def _note(
        self, api: Api, uuid: UUID, notes: Mapping[str, str | None], more: Mapping[str, Any] | None = None
    ) -> None:
        meta = {**((more or {}).get("metadata") or {}), "annotations": dict(notes)}
        await api.call("PATCH", f"{MAPS}/{pods.name(uuid)}", {"metadata": meta}, kind=MERGE)

    async def _until_started(self, api: Api, uuid: UUID) -> None:
        began, pause = time.monotonic(), 0.05
        while True:
            found = await _pod(api, uuid)
            if found is None:
                raise Taken("its pod was deleted while it was being started")
            if words := pods.never_began(found) or pods.trouble(found):
                await self._note(api, uuid, {pods.WANTED: "no", pods.ERROR: words})
                await self._drop(api, uuid)
                kind = Gone if "not found" in words and "image" in words.lower() else Refused
                raise kind(words)
            state = pods.status_of(found).get("state") or {}
            if pods.is_over(found) or "running" in state or "terminated" in state:
                return
            waited = time.monotonic() - began
            if waited > HOPELESS and (words := pods.unscheduled(found)):
                await self._note(api, uuid, {pods.WANTED: "no", pods.ERROR: words})
                await self._drop(api, uuid)
                raise Taken(words)
            if waited > SETTLE:
                raise Unavailable(f"its pod is {found['status'].get('phase', 'Pending')} since {waited:.0f} seconds")
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, 0.2)

    async def _end(self, api: Api, uuid: UUID, timeout: int) -> Mapping[str, Any] | None:
        """End a pod within `timeout` seconds, and remove it: what it said last; None when there is none.

        Its node says that it has ended, and only seconds later that it may go: that is not waited for.
        """
        found = await _pod(api, uuid)
        if found is None or pods.is_over(found):
            return await self._drop(api, uuid)
        before, last = pods.status_of(found).get("state", {}).get("terminated"), found
        async with self._leaving(api, found, max(timeout, 1)) as events:
            if timeout == 0:
                await self._kill(found)
            async for what, seen in events:
                over = pods.status_of(seen).get("state", {}).get("terminated")
                last = seen if over else last
                if what == "DELETED":
                    return last
                if over and over != before and seen["metadata"].get("deletionTimestamp"):
                    await self._drop(api, uuid)
                    return last
        raise Unavailable("its pod is still there")

    async def _drop(self, api: Api, uuid: UUID) -> Mapping[str, Any] | None:
        """Delete a pod that does not run, at once: what it said last."""
        if (last := await _pod(api, uuid)) is None:
            return None
        async with self._leaving(api, last, 0) as events:
            async for what, seen in events:
                last = seen if pods.status_of(seen).get("state", {}).get("terminated") else last
                if what == "DELETED":
                    return last
        raise Unavailable("its pod is still there")

    @asynccontextmanager
    async def _leaving(
        self, api: Api, found: Mapping[str, Any], grace: int
    ) -> AsyncIterator[AsyncIterator[tuple[str, Mapping[str, Any]]]]:
        """Ask for a pod to be deleted, and follow what becomes of it."""
        meta = found["metadata"]
        query = {"fieldSelector": f"metadata.name={meta['name']}", "watch": "true"}
        query |= {"resourceVersion": meta["resourceVersion"], "timeoutSeconds": str(grace + int(SETTLE))}
        # Not one that has its name by now.
        body = {"gracePeriodSeconds": grace, "preconditions": {"uid": meta["uid"]}}
        with suppress(Gone, Taken):
            await api.call("DELETE", f"{PODS}/{meta['name']}", body)

        async def events() -> AsyncGenerator[tuple[str, Mapping[str, Any]], None]:
            async for line in lines:
                event = json.loads(line)
                if event["object"].get("metadata", {}).get("uid") == meta["uid"]:
                    yield event["type"], event["object"]

        async with closing(api.lines(PODS, query)) as lines, aclosing(events()) as told:
            yield told

    async def _kill(self, found: Mapping[str, Any]) -> None:
        """Kubernetes itself would give it two seconds. Where that does not work it gets them."""
        box = pods.status_of(found).get("containerID", "").partition("://")[2]
        command = ["ctr", "-n", "k8s.io", "tasks", "kill", "--signal", "SIGKILL", box]
        for node in await self._nodes():
            if box and node.name == found["spec"].get("nodeName"):
                with suppress(EngineError):
                    await self._host.run_in_node(node.ref, command)

    async def _tail(self, api: Api, uuid: UUID) -> bytes:
        query = {"container": pods.BOX, "tailLines": str(KEPT_LINES), "limitBytes": str(KEPT_BYTES)}
        return b"".join([part async for part in api.stream(f"{PODS}/{pods.name(uuid)}/log", query)])


async def _pod(api: Api, uuid: UUID) -> Mapping[str, Any] | None:
    try:
        return await api.call("GET", f"{PODS}/{pods.name(uuid)}")
    except Gone:
        return None


def _uuid(ref: str) -> UUID:
    if (uuid := pods.uuid_in(ref)) is None:
        raise Gone(f"No such container: {ref}")
    return uuid


def _full(image: str) -> str:
    """An image's name as nodes write it."""
    name = shapes.image_name(image)
    path = name.name.removeprefix(f"{name.domain}/")
    if name.domain == "docker.io" and "/" not in path:
        path = f"library/{path}"
    return f"{name.domain}/{path}{'@' if ':' in name.version else ':'}{name.version}"
