"""Containers on a swarm: the cluster's managers are asked for services, the nodes for what runs inside.

Everything goes over the TLS APIs of the nodes, with a certificate of the cluster's own authority. An image comes from a
registry through one node, or from the engine that carries the nodes, and is copied to every node before a task may need
it; so a task never waits for a registry, and credentials stay where the image is pulled.
"""

import asyncio
import json
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from app.backends.chunks import closing
from app.backends.docker import shapes
from app.backends.engine import (
    Ability,
    ContainerSpec,
    EngineEvent,
    EngineInfo,
    ExecResult,
    ImageSeen,
    LogOptions,
    PathStat,
    RegistryLogin,
    Seen,
    State,
    Stats,
    Stream,
    Top,
)
from app.backends.nodes import ImageHost
from app.backends.swarm import shapes as swarm
from app.backends.swarm.nodes import Endpoint, NodeEngine, NodeImages
from app.backends.swarm.shapes import Inside, Node, Task
from app.errors import EngineBug, EngineError, Gone, Refused, Taken, Unavailable
from app.settings import Settings

ABILITIES = frozenset(
    {
        Ability.KILL,
        Ability.EXEC,
        Ability.ATTACH,
        Ability.MEASURE,
        Ability.COPY,
        Ability.IMAGE_TAR,
        Ability.RETRIES,
        Ability.WATCH,
        Ability.LOG_STREAMS,
    }
)
SETTLE = 60.0  # seconds that a task may take to run, or to end
HOPELESS = 5.0  # seconds after which no node is found suitable
CONNECT = 5.0  # seconds that nodes get to send their events
KNOWN_FOR = 30.0  # seconds that the nodes' addresses are remembered


@dataclass(frozen=True, slots=True)
class Found:
    """A service as it was looked at, with its tasks and the last container that tells something."""

    service: Mapping[str, Any]
    tasks: Sequence[Task]
    inside: Inside | None = None

    @property
    def seen(self) -> Seen:
        """As engines show it. Raises Gone for a service that is not ours."""
        seen = swarm.seen(self.service, self.tasks, self.inside)
        if seen is None:
            raise Gone(f"service {self.service['ID']} is not Caisson's")
        return seen


class SwarmEngine:
    """One swarm, whose nodes `host` carries. `endpoints` tells where they are now."""

    def __init__(
        self, name: str, endpoints: Callable[[], Awaitable[Sequence[Endpoint]]], host: ImageHost, settings: Settings
    ) -> None:
        self.name = name
        self.installation: str | None = None
        self.abilities = ABILITIES
        self._endpoints = endpoints
        self._host = host
        self._settings = settings
        self._engines: dict[Endpoint, NodeEngine] = {}
        self._known: dict[str, Endpoint] = {}
        self._known_until = 0.0
        self._images = NodeImages(host)
        self._queues: set[asyncio.Queue[EngineEvent | None]] = set()
        self._closed = False

    async def ping(self) -> EngineInfo:
        """What its nodes have together. Raises Unavailable when no manager answers."""
        document, nodes = await asyncio.gather(self._ask("GET", "info"), self._nodes())
        return swarm.engine_info(self.name, document, "1.41", nodes)

    async def close(self) -> None:
        """Free all connections. The engine is not used again."""
        self._closed = True
        for queue in self._queues:
            queue.put_nowait(None)
        for engine in self._engines.values():
            await engine.close()

    # Containers

    async def find(self, uuid: UUID) -> Seen | None:
        """Our container, by its service's name; a service of that name without our labels is not ours."""
        try:
            found = await self._look(shapes.container_name(uuid))
        except Gone:
            return None
        ours = swarm.ref_of(found.service)
        return found.seen if ours is not None and ours[0] == uuid else None

    async def find_all(self) -> list[Seen]:
        """Every container that bears our label, in no order."""
        labels = [shapes.LABEL_UUID]
        if self.installation is not None:
            labels.append(f"{shapes.LABEL_INSTALLATION}={self.installation}")
        services, listed, nodes = await asyncio.gather(
            self._ask("GET", "services", {"filters": json.dumps({"label": labels})}),
            self._ask("GET", "tasks"),
            self._nodes(),
        )
        tasks: defaultdict[str, list[Mapping[str, Any]]] = defaultdict(list)
        for document in listed:
            tasks[document["ServiceID"]].append(document)
        few = asyncio.Semaphore(8)

        async def look(service: Mapping[str, Any]) -> Seen | None:
            async with few:
                found = await self._with_inside(service, swarm.tasks(tasks[service["ID"]]), nodes)
            return swarm.seen(found.service, found.tasks, found.inside)

        return [seen for seen in await asyncio.gather(*map(look, services)) if seen is not None]

    async def create(self, uuid: UUID, spec: ContainerSpec) -> Seen:
        """Make the service, or return the one that is there; it makes no task before `start`.

        Raises Gone when nobody has the image, Refused for what a service cannot have.
        """
        if (there := await self.find(uuid)) is not None:
            return there
        shapes.image_name(spec.image)
        image = await self.image(spec.image)
        if image is None:
            raise Gone(f"No such image: {spec.image}")
        nodes = await self._fit_nodes()
        if spec.cpu > (most := max(node.cpus for node in nodes)):
            raise Refused(f"cpu: {spec.cpu:g} cores are more than any node of the cluster has, at most {most:g}")
        if spec.memory > (largest := max(node.memory for node in nodes)):
            raise Refused(f"memory: {spec.memory} MiB are more than any node of the cluster has, at most {largest}")
        body = swarm.service_body(uuid, spec, image, self.installation, self._settings.log_max_mib)
        await self._images.spread([self._engine(node.address) for node in nodes], spec.image, image.ref)
        with suppress(Taken):  # another replica was quicker, or the name is somebody else's
            await self._ask("POST", "services/create", body=body)
        made = await self.find(uuid)
        if made is None:
            raise Taken(f"the name {shapes.container_name(uuid)} is in use by a service that is not Caisson's")
        return made

    async def start(self, ref: str) -> None:
        """Start, and return when it runs or has ended; running already is fine.

        Refused: the command is at fault. Taken: no node can take it now, because of its ports for example.
        """
        found = await self._look(ref)
        if found.seen.state is State.RUNNING:
            return
        before = {task.id for task in found.tasks}
        last = swarm.newest(found.tasks)
        if swarm.is_wanted(found.service) and last is not None and not last.over and last.state != "running":
            before.discard(last.id)  # somebody has started it, and it is on its way
        else:
            # There may be new nodes since.
            body = found.service["Spec"]
            name, image = body["Labels"].get(swarm.LABEL_IMAGE, ""), body["TaskTemplate"]["ContainerSpec"]["Image"]
            await self._images.spread(await self._fit_engines(), name, image)
            await self._change(ref, swarm.started)
        await self._until_started(ref, before)

    async def stop(self, ref: str, timeout: int) -> None:
        """Ask, and after `timeout` seconds kill; stopped already is fine.

        What the swarm would start again is parked first; then it gets no more than 10 seconds.
        """
        found = await self._look(ref)
        last = swarm.newest(found.tasks)
        waiting = last is not None and not last.over and last.state != "running"
        if swarm.is_wanted(found.service) and (swarm.restarts(found.service) or waiting):
            await self._change(ref, swarm.parked)
        if (box := self._box(found)) is not None:
            with suppress(Gone):  # the swarm was quicker
                await box[0].stop(box[1], timeout)
        await self._until_over(ref, timeout)

    async def restart(self, ref: str, timeout: int) -> None:
        """Stop and start again, also when it is stopped."""
        await self.stop(ref, timeout)
        await self.start(ref)

    async def remove(self, ref: str, force: bool) -> None:
        """Remove with its anonymous volumes; absent is fine. Without `force`, Taken when it runs."""
        try:
            found = await self._look(ref)
        except Gone:
            return
        seen = found.seen
        if not force and seen.state is State.RUNNING:
            raise Taken(f"container {seen.uuid} is running: stop it before it is removed")
        with suppress(Gone):
            await self._ask("DELETE", f"services/{ref}")
        nodes = {node.id: node.address for node in await self._nodes() if node.up}
        left = [(nodes[task.node], task.container) for task in found.tasks if task.container and task.node in nodes]
        await asyncio.gather(*(self._remove_box(address, container) for address, container in left))

    async def _remove_box(self, address: str, container: str) -> None:
        """The swarm would do it too, by and by; who still runs would get ten seconds."""
        with suppress(Taken, Unavailable):
            await self._engine(address).remove(container, force=True)

    async def kill(self, ref: str, signal: str) -> None:
        """Send `signal`, such as SIGKILL. Raises Taken when it does not run; a restart policy may bring it back."""
        engine, container = await self._inside(ref)
        await engine.kill(container, signal)

    # Events

    async def watch(self) -> AsyncIterator[EngineEvent]:
        """Events of our containers on all nodes until the engine is closed; one with `lost` first.

        A node that joins later, or is connected anew, is told by `lost` as well.
        """
        queue: asyncio.Queue[EngineEvent | None] = asyncio.Queue()
        self._queues.add(queue)
        followers: dict[Endpoint, asyncio.Task[None]] = {}
        connecting = -1
        try:
            while not self._closed:
                with suppress(EngineError):
                    there = await self._where()
                    for gone in followers.keys() - set(there):
                        followers.pop(gone).cancel()
                    for endpoint in there:
                        if endpoint not in followers or followers[endpoint].done():
                            followers[endpoint] = asyncio.create_task(self._follow(endpoint, queue))
                connecting = len(followers) if connecting < 0 else connecting
                try:
                    event = await asyncio.wait_for(queue.get(), CONNECT if connecting > 0 else KNOWN_FOR)
                except TimeoutError:
                    if connecting > 0:  # not all of them answer
                        connecting = 0
                        yield EngineEvent(None, "connected", lost=True)
                    continue
                if event is None:
                    break
                # Of the nodes that there are at first the last to be connected tells it for all.
                if event.lost and connecting > 0:
                    connecting -= 1
                if connecting == 0:
                    yield event
        finally:
            self._queues.discard(queue)
            for task in followers.values():
                task.cancel()
            await asyncio.gather(*followers.values(), return_exceptions=True)

    async def _follow(self, endpoint: Endpoint, queue: asyncio.Queue[EngineEvent | None]) -> None:
        async for event in self._engine(endpoint.address).watch():
            queue.put_nowait(event)

    # Inside a container: its node's engine knows

    async def logs(self, ref: str, options: LogOptions) -> AsyncIterator[bytes]:
        """The log as raw bytes: of the tasks that are left of earlier starts, then of the last, which is followed."""
        found = await self._look(ref)
        nodes = {node.id: node for node in await self._nodes()}
        written = [(nodes[task.node], task.container) for task in found.tasks if task.container and task.node in nodes]
        written = [(node, container) for node, container in written if node.up]
        if options.tail is not None:
            written = written[-1:]
        for number, (node, container) in enumerate(written):
            last = number == len(written) - 1
            wish = options if last or not options.follow else _unfollowed(options)
            with suppress(Gone):
                async with closing(self._engine(node.address).logs(container, wish)) as parts:
                    async for part in parts:
                        yield part

    async def execute(self, ref: str, command: Sequence[str], timeout: float) -> ExecResult:
        """Run a command to its end; see `Execs`."""
        engine, container = await self._inside(ref)
        return await engine.execute(container, command, timeout)

    async def prepare_exec(self, ref: str, command: Sequence[str], interactive: bool) -> str:
        """A command that `open_exec` starts. Returns its id."""
        engine, container = await self._inside(ref)
        return await engine.prepare_exec(container, command, interactive)

    @asynccontextmanager
    async def open_exec(self, ref: str, exec_id: str) -> AsyncIterator[Stream]:
        """Start a prepared command and talk to it until the block ends."""
        engine, container = await self._inside(ref)
        async with engine.open_exec(container, exec_id) as stream:
            yield stream

    async def resize_exec(self, ref: str, exec_id: str, height: int, width: int) -> None:
        """Resize its terminal; see `Execs`."""
        engine, container = await self._inside(ref)
        await engine.resize_exec(container, exec_id, height, width)

    async def hang_up(self, ref: str, exec_id: str) -> None:
        """Tell it and its children that their terminal is gone; ended is fine."""
        with suppress(Gone, Taken):
            engine, container = await self._inside(ref)
            await engine.hang_up(container, exec_id)

    @asynccontextmanager
    async def attach(self, ref: str) -> AsyncIterator[Stream]:
        """Talk to the container's own process until the block ends."""
        engine, container = await self._inside(ref)
        async with engine.attach(container) as stream:
            yield stream

    async def resize(self, ref: str, height: int, width: int) -> None:
        """Resize the container's terminal. Raises Taken when it does not run."""
        engine, container = await self._inside(ref)
        await engine.resize(container, height, width)

    async def stats(self, ref: str) -> Stats:
        """One measurement over a second. Raises Taken when the container does not run."""
        engine, container = await self._inside(ref)
        return await engine.stats(container)

    async def top(self, ref: str, ps_args: str | None) -> Top:
        """The container's processes. Taken when it does not run, Refused for bad `ps_args`."""
        engine, container = await self._inside(ref)
        return await engine.top(container, ps_args)

    async def stat(self, ref: str, path: str) -> PathStat:
        """What is at `path`. Raises Gone when nothing is, Taken before the first start."""
        engine, container = await self._inside(ref)
        return await engine.stat(container, path)

    async def get_archive(self, ref: str, path: str) -> AsyncIterator[bytes]:
        """A tar of what is at `path`. Raises Gone when nothing is, Taken before the first start."""
        engine, container = await self._inside(ref)
        async with closing(engine.get_archive(container, path)) as parts:
            async for part in parts:
                yield part

    async def put_archive(self, ref: str, path: str, tar: bytes) -> None:
        """Unpack a plain tar in the directory `path`; see `Copies`. Raises Taken before the first start."""
        engine, container = await self._inside(ref)
        await engine.put_archive(container, path, tar)

    # Images

    async def image(self, image: str) -> ImageSeen | None:
        """The image, when a node holds it, or the engine that carries the nodes."""
        shapes.image_name(image)
        return await self._images.find(await self._fit_engines(), image)

    async def pull(self, image: str, login: RegistryLogin | None) -> None:
        """Fetch the image; returns when every node has it.

        Where a node reaches no registry, or not this one, the engine that carries the nodes is asked to.
        """
        shapes.image_name(image)
        await self._images.pull(await self._fit_engines(), image, login)

    async def remove_image(self, image: str) -> None:
        """Remove the image from every node; absent is fine. Taken when a container uses it."""
        shapes.image_name(image)
        await asyncio.gather(*(engine.remove_image(image) for engine in await self._fit_engines()))

    async def load(self, image: str, chunks: AsyncIterator[bytes]) -> None:
        """Take in the one image that `chunks` hold, under the name `image`; every node gets it."""
        await self._images.load(await self._fit_engines(), image, chunks)

    async def save(self, image: str) -> AsyncIterator[bytes]:
        """The image as a tar. Raises Gone when nobody has it."""
        async with closing(self._images.save(await self._fit_engines(), image)) as parts:
            async for part in parts:
                yield part

    # How it works

    async def _look(self, ref: str) -> Found:
        """A service by id or name. Raises Gone."""
        if not (ref.isascii() and ref.replace("-", "").isalnum()):
            raise Gone(f"No such service: {ref}")
        service = await self._ask("GET", f"services/{ref}")
        wish = {"filters": json.dumps({"service": [service["ID"]]})}
        listed, nodes = await asyncio.gather(self._ask("GET", "tasks", wish), self._nodes())
        return await self._with_inside(service, swarm.tasks(listed), nodes)

    async def _with_inside(self, service: Mapping[str, Any], tasks: Sequence[Task], nodes: Sequence[Node]) -> Found:
        by_id = {node.id: node for node in nodes}
        best: Inside | None = None
        for task in reversed(tasks):
            if not task.container:
                continue
            node, inspected = by_id.get(task.node), None
            if node is not None and node.up:
                with suppress(Gone):
                    path = f"containers/{task.container}/json"
                    inspected = await self._engine(node.address).calls.call("GET", path)
            inside = Inside(task, node, inspected)
            if inspected is None or swarm.tells(inspected):
                return Found(service, tasks, inside)
            best = best or inside
        return Found(service, tasks, best)

    def _box(self, found: Found) -> tuple[NodeEngine, str] | None:
        """The engine of its node, and what that calls it."""
        inside = found.inside
        if inside is None or inside.node is None or inside.inspected is None:
            return None
        return self._engine(inside.node.address), inside.inspected["Id"]

    async def _inside(self, ref: str) -> tuple[NodeEngine, str]:
        """The same of a container that must have been started. Raises Gone, or Taken."""
        found = await self._look(ref)
        if (box := self._box(found)) is None:
            raise Taken(f"container {found.seen.uuid} has not been started, or its node is down")
        return box

    async def _change(self, ref: str, change: Callable[[Mapping[str, Any]], dict[str, Any]]) -> None:
        """Change a service, whoever else changes it."""
        while True:
            service = await self._ask("GET", f"services/{ref}")
            try:
                version = {"version": service["Version"]["Index"]}
                await self._ask("POST", f"services/{service['ID']}/update", version, body=change(service))
            except EngineBug as error:
                if "out of sequence" not in error.title:
                    raise
            else:
                return

    async def _until_started(self, ref: str, before: set[str]) -> None:
        """Wait for a task that is not one of `before` to run or end. Raises Refused, Taken or Unavailable."""
        began, pause = time.monotonic(), 0.02
        while True:
            found = await self._look(ref)
            task = next((task for task in reversed(found.tasks) if task.id not in before), None)
            # With a health check the swarm calls it running only when that is content.
            inside = found.inside is not None and task is not None and found.inside.task.id == task.id
            if task is not None and (task.state == "running" or task.over or (inside and _runs(found))):
                return _check(task, found)
            waited = time.monotonic() - began
            if task is not None and task.state == "pending" and task.error and waited > HOPELESS:
                await self._change(ref, swarm.parked)
                raise Taken(task.error)
            if waited > SETTLE:
                raise Unavailable(f"its task is {task.state if task else 'not made'} since {waited:.0f} seconds")
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, 0.5)

    async def _until_over(self, ref: str, timeout: int) -> None:
        """Wait until no task runs, also by the manager's account."""
        deadline, pause = time.monotonic() + timeout + SETTLE, 0.02
        while True:
            found = await self._look(ref)
            live = [
                task for task in found.tasks if not task.over and (task.container or not swarm.is_parked(found.service))
            ]
            node = found.inside.node if found.inside else None
            if not live or (node is not None and not node.up):
                return
            if time.monotonic() > deadline:
                raise Unavailable(f"its task is {live[-1].state} still")
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, 0.5)

    async def _nodes(self) -> list[Node]:
        return [swarm.node(document) for document in await self._ask("GET", "nodes")]

    async def _fit_nodes(self) -> list[Node]:
        nodes = [node for node in await self._nodes() if node.fit]
        if not nodes:
            raise Unavailable("no node of the cluster is ready")
        return nodes

    async def _fit_engines(self) -> list[NodeEngine]:
        return [self._engine(node.address) for node in await self._fit_nodes()]

    async def _ask(
        self, method: str, path: str, query: Mapping[str, Any] | None = None, *, body: Mapping[str, Any] | None = None
    ) -> Any:
        """A call of the first manager that answers. Raises Unavailable when none does."""
        problem = Unavailable("the cluster has no manager")
        for endpoint in [one for one in await self._where() if one.manager]:
            try:
                return await self._engine(endpoint.address).calls.call(method, path, query, body=body)
            except Unavailable as error:
                problem = error
        self._known_until = 0.0
        raise problem

    async def _where(self) -> Sequence[Endpoint]:
        if time.monotonic() > self._known_until:
            self._known = {endpoint.address: endpoint for endpoint in await self._endpoints()}
            self._known_until = time.monotonic() + KNOWN_FOR
        return list(self._known.values())

    def _engine(self, address: str) -> NodeEngine:
        """The engine of a node that was seen at this address. Raises Unavailable when it is not known."""
        if self._closed:
            raise Unavailable(f"engine {self.name} is closed")
        if (endpoint := self._known.get(address)) is None:
            self._known_until = 0.0
            raise Unavailable(f"the node at {address} is not known yet")
        if endpoint not in self._engines:
            self._engines[endpoint] = NodeEngine(endpoint, self._host, self._settings)
        return self._engines[endpoint]


def _runs(found: Found) -> bool:
    return found.seen.state is State.RUNNING


def _check(task: Task, found: Found) -> None:
    """Raises what kept a task from being started."""
    if task.over and found.seen.started_at is None:
        raise shapes.failure(0, found.seen.error or task.error)


def _unfollowed(options: LogOptions) -> LogOptions:
    return LogOptions(options.stdout, options.stderr, options.timestamps, options.tail, options.since, False)
