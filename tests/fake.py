"""An engine in memory that behaves as real ones do: the only stand-in, kept honest by ``tests/conformance``.

Its containers do not run anything. Of a command it knows ``true``, ``false``, ``echo`` and ``sh -c "echo a; exit 3"``,
which end at once, and ``sleep``, ``cat``, ``ping``, ``httpd`` and other ``sh``, which run until somebody ends them.
Beside the verbs there are methods for tests: to prepare images, to end or remove a container behind everybody's back,
to fail and delay verbs.
"""

import asyncio
import copy
import re
import secrets
import signal as signals
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from ipaddress import ip_address
from uuid import UUID

from app.backends.engine import (
    Ability,
    Address,
    ContainerSpec,
    EngineEvent,
    EngineInfo,
    ImageFound,
    ImageSeen,
    LogOptions,
    RegistryLogin,
    Seen,
    State,
    Stats,
    Top,
)
from app.backends.nodes import NodeNetwork
from app.errors import EngineError, Gone, Refused, RegistryDown, Taken, Unavailable
from tests.fake_changes import FakeChanges, Files, basic_files, check_limits
from tests.fake_groups import FakeGroups
from tests.fake_images import FakeImages
from tests.fake_nodes import FakeNode, FakeNodes
from tests.fake_streams import PROGRAMS, FakeStreams, Process, not_found, play
from tests.fake_volumes import FakeVolumes, Volume
from tests.fake_wires import FakeWires

CPUS = 2
MEMORY = 16 * 1024  # MiB
MIB = 1024 * 1024
LIVING = (State.RUNNING, State.PAUSED)
WORD = r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*"
REFERENCE = re.compile(rf"(?:[A-Za-z0-9][A-Za-z0-9.-]*(?::\d+)?/)?{WORD}(?:/{WORD})*(?::[\w.-]+)?(?:@\w+:[0-9a-f]+)?")


@dataclass(slots=True)
class Line:
    """Something that a container wrote."""

    at: datetime
    stderr: bool
    data: bytes


@dataclass(slots=True)
class Box:
    """One container. `seen` is what the engine shows of it, without its addresses while it does not run."""

    spec: ContainerSpec
    seen: Seen
    log: list[Line] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    files: Files = field(default_factory=dict)
    process: Process | None = None  # once somebody talks to it

    @property
    def command(self) -> Sequence[str]:
        return [*self.seen.entrypoint, *self.seen.command]


class FakeEngine(FakeWires, FakeChanges, FakeGroups, FakeStreams, FakeImages, FakeNodes, FakeVolumes):
    """A container engine in memory, with every ability.

    Attributes:
        calls: how often each verb was called, failures included.
        pull_seconds: how long a pull takes.
    """

    def __init__(self, name: str = "fake", abilities: frozenset[Ability] | None = None) -> None:
        FakeWires.__init__(self)
        self.name = name
        self.installation: str | None = None
        self.abilities = frozenset(Ability) if abilities is None else abilities
        self.calls: Counter[str] = Counter()
        self.pull_seconds = 0.0
        self._boxes: dict[UUID, Box] = {}
        self._owners: dict[UUID, str | None] = {}
        self._images: dict[str, ImageSeen] = {}
        self._committed: dict[str, Files] = {}
        self._volumes: dict[UUID, Volume] = {}
        self._nodes: dict[tuple[UUID, str], FakeNode] = {}
        self._node_volumes: dict[tuple[UUID, str, str], dict[str, bytes]] = {}
        self._node_networks: dict[UUID, NodeNetwork] = {}
        self._registry: dict[str, tuple[ImageSeen, RegistryLogin | None]] = {}
        self._networks: dict[str, str] = {}
        self.execs: dict[str, tuple[str, Process]] = {}
        self._failures: defaultdict[str, list[tuple[EngineError, bool]]] = defaultdict(list)
        self._delays: dict[str, tuple[float, bool]] = {}
        self._watchers: set[asyncio.Queue[EngineEvent]] = set()
        self._up = asyncio.Event()
        self._up.set()
        self._closed = False

    def _full_name(self, image: str) -> str:
        return _full(image)

    # What tests do to it

    def fail_next(self, verb: str, error: EngineError, *, after: bool = False) -> None:
        """The next call of `verb` raises `error`; with `after` only when its work is done. Several calls queue up."""
        self._failures[verb].append((error, after))

    def forgive(self) -> None:
        """No call fails any more that `fail_next` asked for."""
        self._failures.clear()

    def delay(self, verb: str, seconds: float, *, after: bool = False) -> None:
        """Every call of `verb` takes so much longer from now on, before its work or after it; 0 ends that."""
        self._delays[verb] = (seconds, after)

    def add_image(self, image: str, command: Sequence[str] = ("sh",), entrypoint: Sequence[str] = ()) -> None:
        """The engine holds `image` from now on."""
        self._images[_full(image)] = _image(command, entrypoint)

    def publish(self, image: str, login: RegistryLogin | None = None, command: Sequence[str] = ("sh",)) -> None:
        """`image` can be pulled from now on, if `login` is given only with these credentials."""
        self._registry[_full(image)] = (_image(command, ()), login)

    def write(self, uuid: UUID, data: bytes, *, stderr: bool = False) -> None:
        """The container prints something."""
        box = self._boxes[uuid]
        box.log.append(Line(datetime.now(UTC), stderr, data))
        box.changed.set()

    def exit(self, uuid: UUID, code: int = 0, *, oom_killed: bool = False) -> None:
        """The container's process ends by itself; its restart policy decides what follows."""
        box = self._boxes[uuid]
        self._end(box, code, oom_killed=oom_killed)
        if _comes_back(box.spec, code):
            self._run(box)

    def vanish(self, uuid: UUID) -> None:
        """Somebody removes the container without asking Caisson."""
        self._drop(self._boxes[uuid])

    def twin(self) -> "FakeEngine":
        """The same engine as another replica sees it: with a connection of its own."""
        other = copy.copy(self)
        other._closed = False
        return other

    def go_down(self) -> None:
        """The engine stops answering; every verb raises Unavailable. Its containers run on."""
        self._up.clear()
        for watcher in self._watchers:
            watcher.put_nowait(EngineEvent(None, "", lost=True))

    def come_up(self) -> None:
        """The engine answers again."""
        self._up.set()

    def spec(self, uuid: UUID) -> ContainerSpec:
        """What the container was made from, limits as updated since."""
        return self._boxes[uuid].spec

    @property
    def networks(self) -> Mapping[str, str]:
        """Project networks by project id."""
        return dict(self._networks)

    # Host

    async def ping(self) -> EngineInfo:
        async with self._verb("ping"):
            return EngineInfo(
                hostname=f"{self.name}-host".replace(":", "-"),
                version="1.0",
                api_version="1.0",
                cpus=CPUS,
                memory=MEMORY,
                architecture="x86_64",
                os_type="linux",
                os="Memory",
                kernel_version="0",
                disk=100,
                runtimes=("runc",),
            )

    async def close(self) -> None:
        self._closed = True
        for watcher in self._watchers:
            watcher.put_nowait(EngineEvent(None, "", lost=True))

    # Containers

    async def find(self, uuid: UUID) -> Seen | None:
        async with self._verb("find"):
            box = self._boxes.get(uuid)
            return None if box is None else self._shown(box)

    async def find_all(self) -> list[Seen]:
        async with self._verb("find_all"):
            return [
                self._shown(box) for uuid, box in self._boxes.items() if self.installation in (None, self._owners[uuid])
            ]

    async def create(self, uuid: UUID, spec: ContainerSpec) -> Seen:
        async with self._verb("create"):
            for key in spec.labels:
                if key.startswith("caisson."):
                    raise Refused(f"label {key!r} belongs to Caisson")
            if spec.disk and Ability.DISK_QUOTA not in self.abilities:
                raise Refused("the disk cannot be limited")
            check_limits(spec.cpu, spec.memory)
            if uuid not in self._boxes:
                image = self._images.get(_full(spec.image))
                if image is None:
                    raise Gone(f"No such image: {spec.image}")
                if spec.group is not None:
                    self._sandbox(spec.group)
                for place in spec.places[:1]:
                    self.check_place(place)
                self._boxes[uuid] = self._make(uuid, spec, image)
                self._owners[uuid] = self.installation
                self._tell(uuid, "create")
            return self._shown(self._boxes[uuid])

    async def start(self, ref: str) -> None:
        async with self._verb("start"):
            box = self._box(ref)
            if box.seen.state is State.PAUSED:
                raise Taken("cannot start a paused container, try unpause instead")
            if box.seen.state is not State.RUNNING:
                self._run(box)

    async def stop(self, ref: str, timeout: int) -> None:
        async with self._verb("stop"):
            box = self._box(ref)
            if box.seen.state in LIVING:
                self._end(box, 137)
            elif box.seen.state is State.RESTARTING:
                box.seen = replace(box.seen, state=State.EXITED)

    async def restart(self, ref: str, timeout: int) -> None:
        async with self._verb("restart"):
            box = self._box(ref)
            if box.seen.state in LIVING:
                self._end(box, 137)
            self._run(box)

    async def remove(self, ref: str, force: bool) -> None:
        async with self._verb("remove"):
            try:
                box = self._box(ref)
            except Gone:
                return
            if box.seen.state in LIVING:
                if not force:
                    raise Taken(f"You cannot remove a running container {ref}")
                self._end(box, 137)
            self._drop(box)

    async def pause(self, ref: str) -> None:
        async with self._verb("pause"):
            self._turn(ref, State.PAUSED, "pause")

    async def unpause(self, ref: str) -> None:
        async with self._verb("unpause"):
            self._turn(ref, State.RUNNING, "unpause")

    async def kill(self, ref: str, signal: str) -> None:
        async with self._verb("kill"):
            if signal not in signals.Signals.__members__ and f"SIG{signal}" not in signals.Signals.__members__:
                raise Refused(f"Invalid signal: {signal}")
            box = self._living(ref)
            # A first process ignores every signal it did not ask for, but for this one.
            if signal in ("SIGKILL", "KILL"):
                self._end(box, 137)

    # Inside a container

    async def logs(self, ref: str, options: LogOptions) -> AsyncIterator[bytes]:
        async with self._verb("logs"):
            box = self._box(ref)
            if not (options.stdout or options.stderr):
                raise Refused("Bad parameters: you must choose at least one stream")
        at = 0
        if options.tail is not None:
            at = max(len(box.log) - options.tail, 0)
        while True:
            for line in box.log[at:]:
                recent = options.since is None or line.at.timestamp() >= options.since
                if recent and (options.stderr if line.stderr else options.stdout):
                    stamp = f"{line.at.isoformat()} ".encode() if options.timestamps else b""
                    yield stamp + line.data
            at = len(box.log)
            if not options.follow or box.seen.state not in LIVING:
                return
            box.changed.clear()
            await box.changed.wait()

    async def stats(self, ref: str) -> Stats:
        async with self._verb("stats"):
            box = self._living(ref)
            limit = (box.spec.memory or MEMORY) * MIB
            return Stats(0.5, MIB, limit, block_read=0, block_write=0, net_rx=0, net_tx=0)

    async def top(self, ref: str, ps_args: str | None) -> Top:
        async with self._verb("top"):
            box = self._living(ref)
            if ps_args and ps_args.startswith("--"):
                raise Refused("ps: error: unknown gnu long option")
            return Top(("UID", "PID", "CMD"), (("root", "1", " ".join(box.command)),))

    # Images

    async def image(self, image: str) -> ImageSeen | None:
        async with self._verb("image"):
            return self._images.get(_full(image))

    async def pull(self, image: str, login: RegistryLogin | None) -> None:
        async with self._verb("pull"):
            name = _full(image)
            domain = name.partition("/")[0]
            if login is not None and login.domain != domain:
                raise Refused(f"credentials for {login.domain} are not for {domain}")
            await asyncio.sleep(self.pull_seconds)
            if domain.startswith("127.0.0.1:") and domain not in {known.partition("/")[0] for known in self._registry}:
                raise RegistryDown(f'Get "http://{domain}/v2/": dial tcp {domain}: connect: connection refused')
            if name not in self._registry:
                raise Gone(f"manifest for {image} not found: manifest unknown: manifest unknown")
            content, wanted = self._registry[name]
            if wanted is not None and login != wanted:
                raise Refused(f"Head {name}: no basic auth credentials")
            self._images[name] = content

    async def remove_image(self, image: str) -> None:
        async with self._verb("remove_image"):
            name = _full(image)
            if any(_full(box.spec.image) == name for box in self._boxes.values()):
                raise Taken(f'conflict: unable to remove repository reference "{image}": a container uses it')
            self._images.pop(name, None)

    async def search(self, term: str) -> list[ImageFound]:
        async with self._verb("search"):
            names = [name.rpartition(":")[0] for name in self._registry if term.lower() in name]
            return [ImageFound(name, "", official=False, automated=False, stars=0) for name in dict.fromkeys(names)]

    # Networks

    async def ensure_network(self, project_id: str) -> str:
        async with self._verb("ensure_network"):
            return self._networks.setdefault(project_id, f"fake-{project_id}")

    async def remove_network(self, project_id: str) -> None:
        async with self._verb("remove_network"):
            name = self._networks.get(project_id)
            if all(box.spec.network != name for box in self._boxes.values()):
                self._networks.pop(project_id, None)

    async def join_network(self, ref: str, project_id: str) -> None:
        async with self._verb("join_network"):
            name = self._networks.setdefault(project_id, f"fake-{project_id}")
            box = self._box(ref)
            box.spec = replace(box.spec, network=name)

    async def leave_network(self, ref: str, project_id: str) -> None:
        async with self._verb("leave_network"):
            box = self._box(ref)
            if box.spec.network == self._networks.get(project_id):
                box.spec = replace(box.spec, network=None)

    # Events

    async def watch(self) -> AsyncIterator[EngineEvent]:
        while not self._closed:
            await self._up.wait()
            queue: asyncio.Queue[EngineEvent] = asyncio.Queue()
            self._watchers.add(queue)
            try:
                yield EngineEvent(None, "connected", lost=True)
                while not (event := await queue.get()).lost:
                    yield event
            finally:
                self._watchers.discard(queue)

    # How it works

    @asynccontextmanager
    async def _verb(self, verb: str) -> AsyncIterator[None]:
        """Around every verb: counting, being down, failures and delays that a test asked for."""
        self.calls[verb] += 1
        seconds, late = self._delays.get(verb, (0.0, False))
        error, afterwards = self._failures[verb].pop(0) if self._failures[verb] else (None, False)
        await asyncio.sleep(0 if late else seconds)
        if self._closed or not self._up.is_set():
            raise Unavailable(f"Cannot connect to the engine {self.name}")
        if error is not None and not afterwards:
            raise error
        yield
        await asyncio.sleep(seconds if late else 0)
        if error is not None and afterwards:
            raise error

    def _box(self, ref: str) -> Box:
        for box in self._boxes.values():
            if box.seen.ref == ref:
                return box
        raise Gone(f"No such container: {ref}")

    def _living(self, ref: str) -> Box:
        box = self._box(ref)
        if box.seen.state not in LIVING:
            raise Taken(f"Container {ref} is not running")
        return box

    def _make(self, uuid: UUID, spec: ContainerSpec, image: ImageSeen) -> Box:
        ref = secrets.token_hex(32)
        seen = Seen(
            ref=ref,
            uuid=uuid,
            project_id=spec.project_id,
            state=State.CREATED,
            image=spec.image,
            command=tuple(spec.command) or (() if spec.entrypoint else image.command),
            entrypoint=tuple(spec.entrypoint) or image.entrypoint,
            hostname=spec.hostname or ref[:12],
            runtime=spec.runtime or "runc",
            ports=tuple(sorted({port.number for port in spec.ports})),
            health="starting" if spec.healthcheck else None,
            group=spec.group,
        )
        if spec.group is not None:
            seen = self._join(seen, spec.group)
        files = dict(self._committed.get(_full(spec.image)) or basic_files())
        return Box(spec, seen, files=files | self._mounted(spec))

    def _run(self, box: Box) -> None:
        program, network = box.command[0], box.spec.network
        if program not in PROGRAMS:
            reason = not_found(program)
            box.seen = replace(box.seen, error=reason, exit_code=127)
            raise Refused(reason)
        if network is not None and network not in self._networks.values():
            raise Gone(f"network {network} not found")
        if box.seen.joined is not None:
            self._check_joined(box.seen.joined)
        for port in box.spec.ports:
            if port.host_port and port.host_port in self._published(box):
                raise Taken(f"Bind for 127.0.0.1:{port.host_port} failed: port is already allocated")
        output, code = play(box.command)
        waits_for_input = program in ("sh", "/bin/sh", "cat") and len(box.command) == 1
        if waits_for_input and not (box.spec.interactive or box.spec.tty):
            code = 0
        tries = box.spec.restart.retries
        while True:
            now = datetime.now(UTC)
            box.seen = replace(box.seen, state=State.RUNNING, started_at=now, exit_code=0, oom_killed=False, error="")
            self._tell(box.seen.uuid, "start")
            if output:
                self.write(box.seen.uuid, output)
            if code is None:
                return
            self._end(box, code)
            if not _comes_back(box.spec, code):
                return
            if tries == 0:
                # Real engines wait longer and longer between the attempts; this one waits for ever.
                if box.spec.restart.retries == 0:
                    box.seen = replace(box.seen, state=State.RESTARTING)
                return
            tries -= 1

    def _published(self, but: Box) -> Iterator[int]:
        for box in self._boxes.values():
            if box is not but and box.seen.state in LIVING:
                yield from (port.host_port for port in box.spec.ports)

    def _end(self, box: Box, code: int, *, oom_killed: bool = False) -> None:
        now = datetime.now(UTC)
        box.seen = replace(box.seen, state=State.EXITED, exit_code=code, oom_killed=oom_killed, finished_at=now)
        box.process = None
        box.changed.set()
        self.end_execs(box.seen.ref)
        self._tell(box.seen.uuid, "die")

    def _drop(self, box: Box) -> None:
        del self._boxes[box.seen.uuid]
        self._unmount(box.spec, box.files)
        box.seen = replace(box.seen, state=State.DEAD)
        box.changed.set()
        self._tell(box.seen.uuid, "destroy")

    def _turn(self, ref: str, state: State, what: str) -> None:
        box = self._living(ref)
        if box.seen.state is not state:
            box.seen = replace(box.seen, state=state)
            self._tell(box.seen.uuid, what)

    def _shown(self, box: Box) -> Seen:
        if box.seen.state not in LIVING:
            return box.seen
        addresses = [
            Address(name, address, ip_address(address).version)
            for name, place in self.places(box).items()
            for address in place.addresses
        ]
        if box.spec.network is not None:
            number = list(self._boxes).index(box.seen.uuid) + 2
            addresses.append(Address(box.spec.network, f"10.0.{number >> 8}.{number & 255}"))
        return replace(box.seen, addresses=addresses)

    def _tell(self, uuid: UUID, what: str) -> None:
        for watcher in self._watchers:
            watcher.put_nowait(EngineEvent(uuid, what))


def _full(image: str) -> str:
    """The name with registry and tag, as engines complete it. Raises Refused when it is none."""
    if len(image) > 255 or not REFERENCE.fullmatch(image):
        raise Refused(f"invalid reference format: {image!r}")
    first = image.partition("/")[0]
    if "/" not in image or not ({".", ":"} & set(first) or first == "localhost"):
        image = f"docker.io/{image}" if "/" in image else f"docker.io/library/{image}"
    last = image.rpartition("/")[2]
    return image if {":", "@"} & set(last) else f"{image}:latest"


def _image(command: Sequence[str], entrypoint: Sequence[str]) -> ImageSeen:
    return ImageSeen(f"sha256:{secrets.token_hex(32)}", MIB, tuple(command), tuple(entrypoint))


def _comes_back(spec: ContainerSpec, code: int) -> bool:
    policy = spec.restart.name
    return policy in ("always", "unless-stopped") or (policy == "on-failure" and code != 0)
