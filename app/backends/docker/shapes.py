"""Caisson's words in Docker's and back: pure functions, no calls.

Everything here takes and returns plain values, so that what a container is allowed to do can be read in one place.
"""

import hashlib
import json
import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import IPv4Network, IPv6Network
from typing import Any
from uuid import UUID

from app.backends.engine import (
    Address,
    ContainerSpec,
    EngineEvent,
    EngineInfo,
    GroupSpec,
    HealthCheck,
    ImageFound,
    ImageSeen,
    Port,
    Seen,
    State,
    Stats,
    VolumeMount,
)
from app.errors import EngineBug, EngineError, Gone, Refused, RegistryDown, Taken, Unavailable

Document = Mapping[str, Any]

LABEL_PREFIX = "caisson."
LABEL_UUID = "caisson.uuid"
LABEL_PROJECT = "caisson.project"
LABEL_INSTALLATION = "caisson.installation"
LABEL_GROUP = "caisson.group"
LABEL_VOLUME = "caisson.volume"
LABEL_SEALED = "caisson.sealed"
LABEL_NETWORK = "caisson.network"
TELLING = (LABEL_INSTALLATION, LABEL_GROUP, LABEL_SEALED)
"""Labels that tell something about a container by being there; one that is not told so bears them empty, because it
would inherit what its image says."""

OLDEST_API, NEWEST_API = (1, 40), (1, 51)

MIB = 1024 * 1024
NANOSECONDS = 1_000_000_000

# Docker's own defaults without MKNOD, which makes device files. NET_RAW stays, because most ping commands ask for a raw
# socket and nothing else; what it forges gets no further than the project's own network.
CAPABILITIES = (
    *("AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "NET_BIND_SERVICE", "NET_RAW"),
    *("SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT"),
)

_STATES = {state.value: state for state in State} | {
    # Podman's additional words.
    "configured": State.CREATED,
    "initialized": State.CREATED,
    "stopping": State.RUNNING,
    "stopped": State.EXITED,
}


def container_name(uuid: UUID) -> str:
    """The name in the engine of the container `uuid`: the same in every replica, so that a second create conflicts."""
    return f"caisson-{uuid}"


def network_name(project_id: str) -> str:
    """The name in the engine of a project's network; ids that are long or no plain word are hashed."""
    if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", project_id):
        return f"caisson-{project_id}"
    return f"caisson-{hashlib.sha256(project_id.encode()).hexdigest()[:32]}"


def volume_name(uuid: UUID) -> str:
    """The name in the engine of the volume `uuid`."""
    return f"caisson-{uuid}"


def volume_labels(uuid: UUID, project_id: str) -> dict[str, str]:
    """What a volume bears."""
    return {LABEL_VOLUME: str(uuid), LABEL_PROJECT: project_id}


def check_labels(labels: Mapping[str, str]) -> None:
    """Raises Refused for labels by which Caisson knows its own."""
    for key in labels:
        if key.startswith(LABEL_PREFIX):
            raise Refused(f"label {key!r}: labels that start with {LABEL_PREFIX!r} belong to Caisson")


def create_body(
    uuid: UUID, spec: ContainerSpec, log_max_mib: int, publish_address: str, sandbox: str | None = None
) -> dict[str, Any]:
    """The body of Docker's create call; a group's member joins `sandbox`, a ref.

    Raises Refused for a label that would pass as ours.
    """
    check_labels(spec.labels)
    body: dict[str, Any] = {
        "Image": spec.image,
        "Labels": {
            **dict.fromkeys(TELLING, ""),
            **spec.labels,
            LABEL_UUID: str(uuid),
            LABEL_PROJECT: spec.project_id,
        },
        "Env": [f"{name}={value}" for name, value in spec.environment.items()],
        "Tty": spec.tty,
        "OpenStdin": spec.interactive,
        "ExposedPorts": {_port_key(port): {} for port in spec.ports},
        "HostConfig": _host_config(spec, log_max_mib, publish_address),
    }
    if spec.command:
        body["Cmd"] = list(spec.command)
    if spec.entrypoint:
        body["Entrypoint"] = list(spec.entrypoint)
    if spec.workdir:
        body["WorkingDir"] = spec.workdir
    if spec.hostname:
        body["Hostname"] = spec.hostname
    if spec.sealed:
        body["Labels"][LABEL_SEALED] = "1"
    if sandbox is not None:
        body["Labels"][LABEL_GROUP] = str(spec.group)
        body["HostConfig"] |= {"NetworkMode": f"container:{sandbox}", "IpcMode": f"container:{sandbox}"}
        body = without_network(body)
    if spec.healthcheck:
        body["Healthcheck"] = healthcheck(spec.healthcheck)
    return body


def healthcheck(check: HealthCheck) -> dict[str, Any]:
    """Docker's words for a health check."""
    return {
        "Test": ["CMD-SHELL", check.command],
        "Interval": (check.interval or 0) * NANOSECONDS,
        "Timeout": (check.timeout or 0) * NANOSECONDS,
        "Retries": check.retries or 0,
    }


def _host_config(spec: ContainerSpec, log_max_mib: int, publish_address: str) -> dict[str, Any]:
    config: dict[str, Any] = {
        "NetworkMode": spec.network or "none",
        "IpcMode": "private",
        "PidsLimit": spec.pids_limit,
        "RestartPolicy": {"Name": spec.restart.name, "MaximumRetryCount": spec.restart.retries},
        # Two files of half the size: when one is full the newer half of the log survives.
        "LogConfig": {"Type": "json-file", "Config": {"max-size": f"{log_max_mib * 512}k", "max-file": "2"}},
        **limits(spec.cpu, spec.memory),
    }
    if spec.privileged:
        config["Privileged"] = True
    else:
        config |= {"CapDrop": ["ALL"], "CapAdd": CAPABILITIES, "SecurityOpt": ["no-new-privileges"]}
    if spec.disk:
        config["StorageOpt"] = {"size": f"{spec.disk}G"}
    if spec.mounts:
        config["Mounts"] = [_mount(mount, spec.project_id) for mount in spec.mounts]
    if spec.cores:
        config["CpusetCpus"] = ",".join(map(str, spec.cores))
    if spec.runtime:
        config["Runtime"] = spec.runtime
    published = {
        _port_key(port): [{"HostIp": publish_address, "HostPort": str(port.host_port)}]
        for port in spec.ports
        if port.host_port
    }
    if published:
        config["PortBindings"] = published
    return config


def without_network(body: Document) -> dict[str, Any]:
    """A create body as Docker takes it for a container that joins another's network: name and ports are the other's."""
    host = {key: value for key, value in body["HostConfig"].items() if key != "PortBindings"}
    return {key: value for key, value in body.items() if key not in ("Hostname", "ExposedPorts")} | {"HostConfig": host}


def sandbox_body(uuid: UUID, spec: GroupSpec, image: str, publish_address: str) -> dict[str, Any]:
    """The body of Docker's create call for a group's sandbox, which may do nothing but wait."""
    body = create_body(
        uuid,
        ContainerSpec(spec.project_id, image, hostname=spec.hostname, network=spec.network, ports=spec.ports),
        1,
        publish_address,
    )
    body["HostConfig"] |= {
        "IpcMode": "shareable",
        "CapAdd": [],
        "ReadonlyRootfs": True,
        "PidsLimit": 32,  # one would do, but the engine's own starter needs its threads in there first
        # With the engine's host it comes back; what it held is made anew then.
        "RestartPolicy": {"Name": "unless-stopped", "MaximumRetryCount": 0},
    }
    return body


def _mount(mount: VolumeMount, project_id: str) -> dict[str, Any]:
    """Docker's words for a container's volume. One that is absent would be made by the daemon: with these labels."""
    return {
        "Type": "volume",
        "Source": volume_name(mount.volume),
        "Target": mount.path,
        "ReadOnly": mount.read_only,
        "VolumeOptions": {"Labels": volume_labels(mount.volume, project_id)},
    }


def _port_key(port: Port) -> str:
    return f"{port.number}/{port.protocol}"


def limits(cpu: float, memory: int) -> dict[str, int]:
    """Docker's fields for `cpu` cores and `memory` MiB; 0 leaves a field out, which is no limit at creation."""
    fields: dict[str, int] = {}
    if cpu:
        fields |= {"NanoCpus": int(cpu * NANOSECONDS), "CpuShares": int(1024 * cpu)}
    if memory:
        # The same number twice: memory and swap together may not pass it, so there is no swap.
        fields |= {"Memory": memory * MIB, "MemorySwap": memory * MIB}
    return fields


def state_of(state: Document) -> State:
    """The state in an inspect document's part of that name."""
    if state["Status"] == "created" and moment(state["FinishedAt"]):
        # Its daemon died between the start and noting it, came back to a running container that it had never started,
        # and calls it created again when it ends.
        return State.EXITED
    return _STATES.get(state["Status"], State.RUNNING if state.get("Running") else State.EXITED)


def seen(document: Document) -> Seen | None:
    """What an inspect document says; None when it does not bear our labels."""
    config, state = document["Config"], document["State"]
    labels = config.get("Labels") or {}
    uuid = uuid_of(labels.get(LABEL_UUID))
    if uuid is None or LABEL_PROJECT not in labels:
        return None
    return Seen(
        ref=document["Id"],
        uuid=uuid,
        project_id=labels[LABEL_PROJECT],
        state=state_of(state),
        image=config["Image"],
        exit_code=state["ExitCode"],
        oom_killed=state["OOMKilled"],
        error=state.get("Error") or "",
        started_at=moment(state["StartedAt"]),
        finished_at=moment(state["FinishedAt"]),
        command=_words(config.get("Cmd")),
        entrypoint=_words(config.get("Entrypoint")),
        hostname=config.get("Hostname") or None,
        runtime=document["HostConfig"].get("Runtime") or None,
        ports=_numbers(config.get("ExposedPorts")),
        addresses=tuple(_addresses(document["NetworkSettings"].get("Networks") or {})),
        health=_health(state.get("Health")),
        group=uuid_of(labels.get(LABEL_GROUP)),
        joined=_joined(document["HostConfig"].get("NetworkMode") or ""),
    )


def _joined(network: str) -> str | None:
    return network.removeprefix("container:") if network.startswith("container:") else None


def uuid_of(text: object) -> UUID | None:
    try:
        return UUID(str(text))
    except ValueError:
        return None


def moment(text: str) -> datetime | None:
    # Go's zero time means: never.
    return None if text.startswith("0001-") else datetime.fromisoformat(text).astimezone(UTC)


def _words(value: str | Sequence[str] | None) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value or ())


def _numbers(exposed: Mapping[str, Any] | None) -> tuple[int, ...]:
    return tuple(sorted({int(key.partition("/")[0]) for key in exposed or {}}))


def _addresses(networks: Mapping[str, Any]) -> Iterable[Address]:
    for name, endpoint in sorted(networks.items()):
        if endpoint.get("IPAddress"):
            yield Address(name, endpoint["IPAddress"], 4)
        if endpoint.get("GlobalIPv6Address"):
            yield Address(name, endpoint["GlobalIPv6Address"], 6)


def _health(health: Mapping[str, Any] | None) -> str | None:
    status = (health or {}).get("Status")
    return status if status in ("healthy", "unhealthy", "starting") else None


def api_version(document: Document) -> str:
    """The version of the API to speak, as in ``v1.41``: the newest that both sides know.

    Raises Refused when the daemon is too old. One that has dropped all that we know gets its own oldest.
    """
    oldest, newest = (_pair(document.get(key) or "0.0") for key in ("MinAPIVersion", "ApiVersion"))
    if newest < OLDEST_API:
        raise Refused(f"the engine speaks version {document.get('ApiVersion')} of Docker's API; 1.40 is needed")
    major, minor = max(oldest, min(newest, NEWEST_API))
    return f"v{major}.{minor}"


def _pair(version: str) -> tuple[int, int]:
    major, _, minor = version.partition(".")
    return int(major), int(minor)


def engine_info(document: Document, api_version: str, disk: int) -> EngineInfo:
    """Docker's `info` as facts of the host. `disk` in GiB comes from elsewhere: Docker does not tell."""
    labels = (label.partition("=") for label in document.get("Labels") or ())
    return EngineInfo(
        hostname=document["Name"],
        version=document["ServerVersion"],
        api_version=api_version,
        cpus=document["NCPU"],
        memory=document["MemTotal"] // MIB,
        architecture=document.get("Architecture", ""),
        os_type=document.get("OSType", ""),
        os=document.get("OperatingSystem", ""),
        kernel_version=document.get("KernelVersion", ""),
        disk=disk,
        runtimes=tuple(sorted(document.get("Runtimes") or ())),
        labels={key: value for key, _, value in labels},
    )


def limits_disk(document: Document, mountinfo: str) -> bool:
    """Whether the storage driver can limit a container's disk.

    btrfs and zfs can. overlay2 can on xfs with project quotas, which `info` does not tell: that is read from
    `mountinfo`, the text of /proc/self/mountinfo on the engine's host ("" when that is another host).
    """
    driver = document.get("Driver")
    if driver in ("btrfs", "zfs"):
        return True
    if driver != "overlay2" or ["Backing Filesystem", "xfs"] not in (document.get("DriverStatus") or []):
        return False
    root, longest, quota = document.get("DockerRootDir", ""), "", False
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        point = before.split()[4]
        if f"{root}/".startswith(f"{point.rstrip('/')}/") and len(point) >= len(longest):
            longest, quota = point, bool({"pquota", "prjquota"} & set(after.split()[-1].split(",")))
    return quota


def image_seen(document: Document) -> ImageSeen:
    """What an image's inspect document says."""
    config = document.get("Config") or {}
    return ImageSeen(
        ref=document["Id"],
        size=document["Size"],
        command=_words(config.get("Cmd")),
        entrypoint=_words(config.get("Entrypoint")),
        ports=_numbers(config.get("ExposedPorts")),
    )


def image_found(document: Document) -> ImageFound:
    """One result of a search."""
    return ImageFound(
        name=document["name"],
        description=document.get("description") or "",
        official=bool(document.get("is_official")),
        automated=bool(document.get("is_automated")),
        stars=document.get("star_count") or 0,
    )


def stats(document: Document) -> Stats:
    """One measurement as `docker stats` shows it. Raises Taken when the container did not run."""
    memory = document.get("memory_stats") or {}
    if "usage" not in memory:
        raise Taken(f"Container {document.get('id', '')} is not running")
    details = memory.get("stats") or {}
    # File pages that the kernel would give back at once do not count; cgroup v1 and v2 have different names.
    inactive = details.get("total_inactive_file", details.get("inactive_file", 0))
    blocks = (document.get("blkio_stats") or {}).get("io_service_bytes_recursive") or []
    networks = (document.get("networks") or {}).values()
    return Stats(
        cpu_percent=_cpu_percent(document["cpu_stats"], document["precpu_stats"]),
        memory_used=max(memory["usage"] - inactive, 0),
        memory_limit=memory.get("limit", 0),
        block_read=sum(block["value"] for block in blocks if block["op"].lower() == "read"),
        block_write=sum(block["value"] for block in blocks if block["op"].lower() == "write"),
        net_rx=sum(network["rx_bytes"] for network in networks),
        net_tx=sum(network["tx_bytes"] for network in networks),
    )


def _cpu_percent(now: Document, before: Document) -> float:
    used = now["cpu_usage"]["total_usage"] - before["cpu_usage"]["total_usage"]
    passed = now.get("system_cpu_usage", 0) - before.get("system_cpu_usage", 0)
    cores = now.get("online_cpus") or len(now["cpu_usage"].get("percpu_usage") or ()) or 1
    return used / passed * cores * 100.0 if used > 0 and passed > 0 else 0.0


def event(document: Document) -> EngineEvent | None:
    """An event of one of our containers; None for what changes nothing about it, such as a command run inside."""
    action = str(document.get("Action") or document.get("status") or "")
    if action.startswith(("exec_", "top", "attach", "detach", "resize", "archive-path", "extract-to-dir", "export")):
        return None
    attributes = (document.get("Actor") or {}).get("Attributes") or {}
    uuid = uuid_of(attributes.get(LABEL_UUID))
    return None if uuid is None else EngineEvent(uuid, action)


_LENGTH = struct.Struct(">I").unpack_from


class Frames:
    """Takes Docker's framing off a stream: 8 bytes of head, the last four of them the length of what follows."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, chunk: bytes) -> list[bytes]:
        """The contents that `chunk` completes."""
        # A log has a frame for each line: this loop is what reading one costs.
        data = self._rest + chunk if self._rest else chunk
        contents, at, size = [], 0, len(data)
        while at + 8 <= size:
            end = at + 8 + _LENGTH(data, at + 4)[0]
            if end > size:
                break
            contents.append(data[at + 8 : end])
            at = end
        self._rest = data[at:]
        return contents


class Lines:
    """Cuts a stream into lines of JSON, of any length: an event carries all labels of its container."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, chunk: bytes) -> list[Any]:
        """The documents that `chunk` completes."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        return [json.loads(line) for line in lines if line.strip()]


@dataclass(frozen=True, slots=True)
class ImageName:
    """An image's name in parts: `name` as written without tag and digest, `version` is the digest or the tag."""

    domain: str
    name: str
    version: str


_ALNUM = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_DOMAIN = rf"(?:{_ALNUM}(?:\.{_ALNUM})*|\[[0-9a-fA-F:]+\])(?::[0-9]+)?"
_PART = r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*"
_REFERENCE = re.compile(
    rf"(?P<name>(?:(?P<domain>{_DOMAIN})/)?{_PART}(?:/{_PART})*)"
    r"(?::(?P<tag>\w[\w.-]{0,127}))?(?:@(?P<digest>[a-z0-9+._-]+:[0-9a-f]{32,128}))?",
    re.ASCII,
)
_HUB = "docker.io"


def image_name(image: str) -> ImageName:
    """Take an image's name apart by Docker's grammar. Raises Refused when it is none.

    Names become part of a path of the engine's API: what this function passes cannot reach another path.
    """
    match = _REFERENCE.fullmatch(image) if len(image) <= 512 else None
    if match is None:
        raise Refused(f"invalid reference format: {image[:512]!r} is no image name")
    domain = match["domain"] or ""
    if not (re.search(r"[.:A-Z]", domain) or domain == "localhost"):
        domain = _HUB
    return ImageName(domain, match["name"], match["digest"] or match["tag"] or "latest")


def is_domain(domain: str, login_domain: str) -> bool:
    """Whether credentials for `login_domain` belong to the registry `domain`."""
    hub = {_HUB, f"index.{_HUB}", f"registry-1.{_HUB}", f"registry.{_HUB}"}
    login_domain = login_domain.removeprefix("https://").removeprefix("http://").partition("/")[0].lower()
    return domain.lower() == login_domain or {domain.lower(), login_domain} <= hub


def free_subnet(pool: str, prefix: int, taken: Iterable[IPv4Network], first: int) -> str | None:
    """A subnet of `pool` with this prefix length that overlaps nothing taken; None when there is none.

    The search starts at the `first`-th one and wraps around: projects that come at the same time start apart.
    """
    whole, taken = IPv4Network(pool), tuple(taken)
    size = 2 ** (32 - prefix)
    count = max(whole.num_addresses // size, 0)
    for number in range(count):
        at = int(whole.network_address) + (first + number) % count * size
        subnet = IPv4Network((at, prefix))
        if not any(subnet.overlaps(other) for other in taken):
            return str(subnet)
    return None


def routes(table: str) -> list[IPv4Network]:
    """The networks in the text of /proc/net/route, without the default route."""
    networks = []
    for line in table.splitlines()[1:]:
        fields = line.split()
        address, mask = (int.from_bytes(bytes.fromhex(fields[at]), "little") for at in (1, 7))
        if mask:
            networks.append(IPv4Network((address & mask, mask.bit_count())))
    return networks


def routes6(table: str) -> list[IPv6Network]:
    """The networks in the text of /proc/net/ipv6_route, without the default route."""
    fields = [line.split()[:2] for line in table.splitlines()]
    return [IPv6Network((bytes.fromhex(address), int(length, 16))) for address, length in fields if length != "00"]


_LOST_TRACK = r"^task \w+: already exists|^id already in use|failed to start shim: mkdir .*: file exists"
_HALF_REMOVED = r"marked for removal"

# What Docker answers with 500 (or inside a pull's stream) is told apart by its sentence alone. The first match wins.
# Blanks matter: names of images, which people choose and sentences repeat, have none.
_SENTENCES: Sequence[tuple[type[EngineError], str]] = (
    # The engine has lost its own runtime, or is on its way down.
    (
        Unavailable,
        r"dial unix |transport is closing|connection is closing|shutting down|ttrpc: closed|context canceled",
    ),
    # Before the busy device, which a removal meets when the daemon forgot a mount; it has tried for seconds by then.
    (EngineBug, rf"{_LOST_TRACK}|failed to remove root filesystem"),
    (EngineBug, r"no space left|too many open files|cannot allocate memory|resource temporarily unavailable"),
    (Taken, r"port is already allocated|already in use|pool overlaps|overlapping IPv4|no available .*address"),
    (Taken, r" is not running| is not paused| is paused|has active endpoints|device or resource busy"),
    # Podman's words for the same.
    (Taken, r"container state improper|already exists$"),
    (Refused, r"unauthorized: |denied: |access denied|authentication required|no basic auth"),
    # A registry that cannot be reached is no reason to ask again for ever: its name may simply be wrong.
    (RegistryDown, r"no such host|connection refused|no route to host| is unreachable|awaiting headers"),
    (RegistryDown, r"i/o timeout|handshake timeout|timeout exceeded|x509: |tls: |server gave HTTP|server misbehaving"),
    (RegistryDown, r"connection reset|unexpected EOF|unexpected HTTP status|toomanyrequests: |no healthy upstream"),
    (Refused, r"no matching manifest|unsupported manifest|verification failed|invalid (registry|repository|character)"),
    (Gone, r"manifest unknown|manifest for .* not found|name unknown|does not exist|no such image|no such container"),
    (Gone, r"unable to find network"),
    (Refused, r"OCI runtime \w+ failed|failed to create shim|cannot mkdir|storage-opt|unknown runtime"),
    (Refused, r"extraction point is not a directory|cannot overwrite |rootfs is marked read-only"),
    (Refused, r"^ps: |PID field|error running ps|cannot assign requested address"),
    (Refused, r"runc create failed|invalid signal|invalid reference format|invalid argument$"),
)


def failure(status: int, sentence: str) -> EngineError:
    """The error for an answer of the engine: HTTP `status`, or 0 for an error inside a stream, and its sentence."""
    sentence = sentence.strip() or f"the engine answered {status} without a word"
    by_sentence = next((kind for kind, text in _SENTENCES if re.search(text, sentence, re.IGNORECASE)), None)
    if status == 404:
        # A registry that wants a login answers "not found, or denied".
        return by_sentence(sentence) if by_sentence and issubclass(by_sentence, Refused) else Gone(sentence)
    if status == 403:
        return Taken(sentence) if by_sentence is Taken else Refused(sentence)
    if status == 409:
        return Taken(sentence)
    if 400 <= status < 500 or status == 501:
        return Refused(sentence)
    if status == 503:
        return Unavailable(sentence)
    return (by_sentence or EngineBug)(sentence)


def is_broken(error: EngineError) -> bool:
    """Whether Docker cannot start a container because it forgot its process, or removed only half of it."""
    return re.search(f"{_LOST_TRACK}|{_HALF_REMOVED}", error.title) is not None
