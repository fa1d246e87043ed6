"""What every container engine must do, what it may do, and the plain values that cross the boundary.

Rules for engines, checked by ``tests/conformance``:

- every object that an engine makes carries labels with our uuid and project, and a name made from the uuid; `find`
  inspects that name and checks the labels; lists are for `find_all` alone;
- verbs are idempotent: creating what is there returns it, starting what runs, stopping what stopped and removing what
  is absent succeed. Two replicas may overlap in one call after a freeze, and a step may be run twice after a crash;
- engines never touch the database, and no type of an engine's own library leaves its module;
- every failure is one of Gone, Taken, Refused, Unavailable, EngineBug, with the engine's own sentence as title.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Protocol, runtime_checkable
from uuid import UUID

from app.backends.wires import Attachment


class Ability(StrEnum):
    """An optional ability; the API reads the set before it accepts a request."""

    PAUSE = "pause"
    KILL = "kill"
    EXEC = "exec"
    MEASURE = "measure"
    NETWORK = "network"
    WATCH = "watch"
    SEARCH = "search"
    UPDATE = "update"
    DISK_QUOTA = "disk_quota"
    COMMIT = "commit"
    COPY = "copy"
    VOLUMES = "volumes"
    VOLUME_SIZE = "volume_size"
    PIN = "pin"
    GROUP = "group"
    ATTACH = "attach"
    IMAGE_TAR = "image_tar"
    WIRE = "wire"
    FIREWALL = "firewall"
    NODE = "node"  # see app.backends.nodes
    INJECT = "inject"  # with COPY: files go into a container before its first start
    PRIVILEGED = "privileged"
    RETRIES = "retries"  # `Restart.retries`
    LOG_STREAMS = "log_streams"  # output and errors are told apart, and earlier starts are remembered


SILENT_MOST = 60.0
"""Seconds between two tries to reach an engine of a cluster that has been silent for long: nobody may ever mend it."""


class State(StrEnum):
    """The state of an engine's container, in Docker's words."""

    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    RESTARTING = "restarting"
    REMOVING = "removing"
    EXITED = "exited"
    DEAD = "dead"


@dataclass(frozen=True, slots=True)
class Restart:
    """Restart policy: no, always, on-failure, unless-stopped; `retries` only with on-failure."""

    name: str = "no"
    retries: int = 0


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """A shell command run inside the container; times in seconds, None is the engine's default."""

    command: str
    interval: int | None = None
    timeout: int | None = None
    retries: int | None = None


@dataclass(frozen=True, slots=True)
class Port:
    """A port of the container; `host_port` publishes it on the host (0 leaves it unpublished)."""

    number: int
    protocol: str = "tcp"
    host_port: int = 0


@dataclass(frozen=True, slots=True)
class VolumeMount:
    """A volume of `create_volume` at an absolute path."""

    volume: UUID
    path: str
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class VolumeSeen:
    """A volume that an engine holds."""

    uuid: UUID
    project_id: str


@dataclass(frozen=True, slots=True)
class ContainerSpec:
    """A wish for one container. cpu in cores, memory in MiB, disk in GiB; 0 is no limit."""

    project_id: str
    image: str
    command: Sequence[str] = ()
    entrypoint: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    workdir: str | None = None
    hostname: str | None = None
    cpu: float = 0.0
    memory: int = 0
    disk: int = 0
    pids_limit: int = 512
    restart: Restart = Restart()
    healthcheck: HealthCheck | None = None
    ports: Sequence[Port] = ()
    interactive: bool = False
    tty: bool = False
    privileged: bool = False
    runtime: str | None = None
    network: str | None = None  # a name from `ensure_network`; None is no network at all
    mounts: Sequence[VolumeMount] = ()
    cores: Sequence[int] = ()  # the host's cores that it runs on, with ability PIN; none is any
    sealed: bool = False  # files are written into it before it starts: its settings alone do not make it again
    places: Sequence[Attachment] = ()  # instead of `network`; the first is joined at once, see `Wires.join`
    group: UUID | None = None  # joins the namespaces of this group's sandbox, and has no network of its own

    def only_on_hosts(self) -> list[str]:
        """Which of the wishes an engine inside a cluster cannot grant, by their fields."""
        wishes = {
            "privileged": self.privileged,
            "runtime": self.runtime,
            "disk": self.disk,
            "network": self.network or self.places,
            "mounts": self.mounts or self.sealed,
            "cores": self.cores,
            "group": self.group,
        }
        return [field for field, wish in wishes.items() if wish]


@dataclass(frozen=True, slots=True)
class GroupSpec:
    """A wish for a group's sandbox: its network, and the ports that its members publish on the host."""

    project_id: str
    hostname: str | None = None
    network: str | None = None
    ports: Sequence[Port] = ()
    places: Sequence[Attachment] = ()  # as `ContainerSpec.places`


@dataclass(frozen=True, slots=True)
class Address:
    """One address of a container on one engine network."""

    network: str
    address: str
    version: int = 4


@dataclass(frozen=True, slots=True)
class Seen:
    """What an engine shows of one container. `ref` is the engine's own id; times are UTC."""

    ref: str
    uuid: UUID
    project_id: str
    state: State
    image: str = ""
    exit_code: int = 0
    oom_killed: bool = False
    error: str = ""
    started_at: datetime | None = None
    finished_at: datetime | None = None
    command: Sequence[str] = ()
    entrypoint: Sequence[str] = ()
    hostname: str | None = None
    runtime: str | None = None
    ports: Sequence[int] = ()
    addresses: Sequence[Address] = ()
    health: str | None = None  # healthy, unhealthy, starting; None without a health check
    group: UUID | None = None  # the group that it is a member of
    joined: str | None = None  # the ref of the sandbox whose namespaces it shares


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """Facts of an engine's host. memory in MiB, disk in GiB."""

    hostname: str
    version: str
    api_version: str
    cpus: int
    memory: int
    architecture: str = ""
    os_type: str = ""
    os: str = ""
    kernel_version: str = ""
    disk: int = 0
    runtimes: Sequence[str] = ()
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ImageSeen:
    """An image that an engine holds. size in bytes."""

    ref: str
    size: int
    command: Sequence[str] = ()
    entrypoint: Sequence[str] = ()
    ports: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class ImageFound:
    """One result of a search in the engine's registry."""

    name: str
    description: str
    official: bool
    automated: bool
    stars: int


@dataclass(frozen=True, slots=True)
class RegistryLogin:
    """Credentials for one registry; `password` never appears in a repr."""

    domain: str
    username: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class LogOptions:
    """Which part of a log: `tail` lines or None for all, `since` epoch seconds or None."""

    stdout: bool = True
    stderr: bool = True
    timestamps: bool = False
    tail: int | None = None
    since: float | None = None
    follow: bool = False


@dataclass(frozen=True, slots=True)
class ExecResult:
    """A command's merged output and its exit code."""

    output: bytes
    exit_code: int


@dataclass(frozen=True, slots=True)
class PathStat:
    """A file in a container. `mode` as Go's os.FileMode has it, because Zun shows it so; size in bytes."""

    name: str
    size: int
    mode: int
    mtime: str
    link_target: str = ""


@dataclass(frozen=True, slots=True)
class Stats:
    """One measurement. cpu in percent of one core, memory in bytes, io in bytes since start."""

    cpu_percent: float
    memory_used: int
    memory_limit: int
    block_read: int
    block_write: int
    net_rx: int
    net_tx: int


@dataclass(frozen=True, slots=True)
class Top:
    """A process table."""

    titles: Sequence[str]
    processes: Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True)
class EngineEvent:
    """Something happened to one of our containers. `lost` means: events were missed, look at everything."""

    uuid: UUID | None
    what: str
    lost: bool = False


@runtime_checkable
class ContainerEngine(Protocol):
    """Required of every engine. `ref` is the engine's own id, `uuid` ours."""

    name: str
    abilities: frozenset[Ability]
    installation: str | None  # whose containers `create` makes and `find_all` shows; None makes no difference

    async def ping(self) -> EngineInfo:
        """Facts of the host; raises Unavailable when the engine does not answer."""
        ...

    async def find(self, uuid: UUID) -> Seen | None:
        """Our container, recovered by name and labels."""
        ...

    async def find_all(self) -> list[Seen]:
        """Every container that bears our label, and that of `installation`."""
        ...

    async def create(self, uuid: UUID, spec: ContainerSpec) -> Seen:
        """Make it, or return the one that is there. Raises Gone when the image is absent."""
        ...

    async def start(self, ref: str) -> None:
        """Start; already running is fine. Find it afterwards: a damaged one may be replaced, under a new `ref`."""
        ...

    async def stop(self, ref: str, timeout: int) -> None:
        """Ask, and after `timeout` seconds kill; already stopped is fine."""
        ...

    async def restart(self, ref: str, timeout: int) -> None:
        """Stop and start again, also when it is stopped."""
        ...

    async def remove(self, ref: str, force: bool) -> None:
        """Remove with its anonymous volumes; absent is fine. Without `force`, Taken when it runs."""
        ...

    async def image(self, image: str) -> ImageSeen | None:
        """The image, when the engine holds it."""
        ...

    async def pull(self, image: str, login: RegistryLogin | None) -> None:
        """Fetch the image; returns when it is there. Raises Gone, Refused or Unavailable with the engine's words."""
        ...

    async def remove_image(self, image: str) -> None:
        """Remove the image; absent is fine. Taken when a container uses it."""
        ...

    def logs(self, ref: str, options: LogOptions) -> AsyncIterator[bytes]:
        """The log as raw bytes, without the engine's framing."""
        ...

    async def close(self) -> None:
        """Free connections."""
        ...


@runtime_checkable
class Pauses(Protocol):
    """Ability PAUSE."""

    async def pause(self, ref: str) -> None: ...

    async def unpause(self, ref: str) -> None: ...


@runtime_checkable
class Kills(Protocol):
    """Ability KILL."""

    async def kill(self, ref: str, signal: str) -> None:
        """Send `signal`, such as SIGKILL. Raises Taken when it does not run."""
        ...


class Stream(Protocol):
    """Both directions of a process: its output and errors merged, and its input. Neither is read ahead."""

    async def read(self) -> bytes:
        """What comes next, at most some 64 KiB of it; b"" when the process has ended. Raises Unavailable."""
        ...

    async def write(self, data: bytes) -> None:
        """Hand over input. A process that takes none or has ended ignores it; `read` tells the end."""
        ...


@runtime_checkable
class Execs(Protocol):
    """Ability EXEC."""

    async def execute(self, ref: str, command: Sequence[str], timeout: float) -> ExecResult:
        """Run a command to its end. Raises Taken when the container does not run, or after `timeout` seconds."""
        ...

    async def prepare_exec(self, ref: str, command: Sequence[str], interactive: bool) -> str:
        """A command that `open_exec` starts; an interactive one with input and a terminal.

        Returns its id: 64 hexadecimal digits. Raises Taken when the container does not run.
        """
        ...

    def open_exec(self, ref: str, exec_id: str) -> AbstractAsyncContextManager[Stream]:
        """Start a prepared command and talk to it until the block ends; it can be resized within.

        Raises Gone when `ref` has no such exec, Taken when it was started before or the container does not run.
        """
        ...

    async def resize_exec(self, ref: str, exec_id: str, height: int, width: int) -> None:
        """Resize its terminal. Raises Gone when `ref` has no such exec, Taken when it has not started or has ended."""
        ...

    async def hang_up(self, ref: str, exec_id: str) -> None:
        """Tell it that its terminal is gone, where the engine has the means; one that has ended is fine."""
        ...


@runtime_checkable
class Attaches(Protocol):
    """Ability ATTACH: the terminal of a container's own process."""

    def attach(self, ref: str) -> AbstractAsyncContextManager[Stream]:
        """Talk to it until the block ends, and leave it running. What it wrote before is not repeated.

        Raises Taken when the container does not run.
        """
        ...

    async def resize(self, ref: str, height: int, width: int) -> None:
        """Resize the terminal; who has none ignores it. Raises Taken when the container does not run."""
        ...


@runtime_checkable
class Measures(Protocol):
    """Ability MEASURE."""

    async def stats(self, ref: str) -> Stats:
        """One measurement; raises Taken when it does not run."""
        ...

    async def top(self, ref: str, ps_args: str | None) -> Top:
        """The container's processes; raises Taken when it does not run, Refused for bad `ps_args`."""
        ...


@runtime_checkable
class Networks(Protocol):
    """Ability NETWORK: a network of its own for each project; networks do not reach each other."""

    async def ensure_network(self, project_id: str) -> str:
        """The name of the project's network, made when absent."""
        ...

    async def remove_network(self, project_id: str) -> None:
        """Remove it when nothing uses it; in use or absent is fine."""
        ...

    async def join_network(self, ref: str, project_id: str) -> None:
        """Connect a container, running or not, with its project's network, made when absent; again is fine."""
        ...

    async def leave_network(self, ref: str, project_id: str) -> None:
        """Disconnect a container from it; it stays off when it starts again. Not connected is fine."""
        ...


@runtime_checkable
class Watches(Protocol):
    """Ability WATCH: only to look early; observers find everything without it."""

    def watch(self) -> AsyncIterator[EngineEvent]:
        """Events of our containers for ever; an event with `lost` comes first and after each reconnect."""
        ...


@runtime_checkable
class Searches(Protocol):
    """Ability SEARCH."""

    async def search(self, term: str) -> list[ImageFound]:
        """Ask the engine's registry for images."""
        ...


@runtime_checkable
class Updates(Protocol):
    """Ability UPDATE: change limits in place."""

    async def update(self, ref: str, cpu: float, memory: int) -> None:
        """Set both limits (cores, MiB; 0 is no limit)."""
        ...


@runtime_checkable
class Tars(Protocol):
    """Ability IMAGE_TAR: whole images in and out, as tars in the form of ``docker save``."""

    async def load(self, image: str, chunks: AsyncIterator[bytes]) -> None:
        """Take in the one image that `chunks` hold, under the name `image`; names in the tar itself count for nothing.

        Raises Refused when it is no such tar. What `chunks` raises passes through, and nothing is taken in then.
        """
        ...

    def save(self, image: str) -> AsyncIterator[bytes]:
        """The image as such a tar. Raises Gone when the engine does not have it."""
        ...


@runtime_checkable
class Commits(Protocol):
    """Ability COMMIT: a container's file system and settings as an image."""

    async def commit(self, ref: str, image: str) -> ImageSeen:
        """Copy it, frozen meanwhile when it runs, and let the name `image` mean the copy, which bears no label of
        ours. A call that is cut off leaves nothing frozen."""
        ...


@runtime_checkable
class Copies(Protocol):
    """Ability COPY: files in and out of a container, whether it runs or not."""

    async def stat(self, ref: str, path: str) -> PathStat:
        """What is at `path`. Raises Gone when nothing is."""
        ...

    def get_archive(self, ref: str, path: str) -> AsyncIterator[bytes]:
        """A tar of what is at `path`. Raises Gone when nothing is."""
        ...

    async def put_archive(self, ref: str, path: str, tar: bytes) -> None:
        """Unpack a plain tar in the directory `path`. Raises Gone when there is none, Refused when it is no directory.

        The engine trusts what it is given: check it first."""
        ...


@runtime_checkable
class Groups(Protocol):
    """Ability GROUP: containers that share a network and talk over 127.0.0.1, as one created with `group` does.

    A sandbox holds the shared namespaces. It is a container like others to `find`, `start` and `remove`, under the
    group's uuid. A member starts only while the sandbox runs; one that was made for another sandbox never does.
    """

    async def create_group(self, uuid: UUID, spec: GroupSpec) -> Seen:
        """Make the group's sandbox, or return the one that is there; it is not started. Needs no registry."""
        ...


@runtime_checkable
class Volumes(Protocol):
    """Ability VOLUMES: storage that outlives containers. A size is limited only with ability VOLUME_SIZE."""

    async def create_volume(self, uuid: UUID, project_id: str, size: int | None) -> None:
        """Make it, of `size` GiB at most; one that is there stays as it is."""
        ...

    async def remove_volume(self, uuid: UUID) -> None:
        """Remove it; absent is fine. Raises Taken while a container has it, running or not."""
        ...

    async def volumes(self) -> list[VolumeSeen]:
        """Every volume that bears our label."""
        ...
