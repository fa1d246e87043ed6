"""A container as a service of a swarm with one replica, and back: pure functions, no calls.

The service stands for the container; each start makes a task, whose container stays on its node after it has ended,
with its log and its exit code. A service that is stopped but would be restarted by the swarm is parked: a constraint
that no node meets ends its task and keeps what there was of it, where scaling down to nothing would remove it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from app.backends.docker import shapes
from app.backends.engine import Address, ContainerSpec, EngineInfo, ImageSeen, Restart, Seen, State
from app.errors import Refused

Document = Mapping[str, Any]

LABEL_IMAGE = "caisson.image"
LABEL_PORTS = "caisson.ports"
PARKED = f"node.labels.{shapes.LABEL_PREFIX}never == true"
GRACE = 10  # seconds that the swarm gives a task which it ends by itself
RESTART_DELAY = 1  # seconds

OVER = ("complete", "failed", "shutdown", "rejected", "orphaned", "remove")
_CONDITIONS = {"no": "none", "always": "any", "unless-stopped": "any", "on-failure": "on-failure"}


@dataclass(frozen=True, slots=True)
class Node:
    """One node of the swarm. cpus in cores, memory in MiB; `fit` when it is up and takes tasks."""

    id: str
    name: str
    address: str
    up: bool
    fit: bool
    cpus: float
    memory: int
    architecture: str


def node(document: Document) -> Node:
    """A node as the manager lists it."""
    status, described = document["Status"], document.get("Description") or {}
    resources = described.get("Resources") or {}
    leader = (document.get("ManagerStatus") or {}).get("Addr", "").rpartition(":")[0]
    up = status["State"] == "ready"
    return Node(
        id=document["ID"],
        name=described.get("Hostname") or document["ID"],
        # A manager may have been seen from itself; what it told the others is its address.
        address=leader or status.get("Addr", ""),
        up=up,
        fit=up and document["Spec"].get("Availability") == "active",
        cpus=resources.get("NanoCPUs", 0) / shapes.NANOSECONDS,
        memory=resources.get("MemoryBytes", 0) // shapes.MIB,
        architecture=(described.get("Platform") or {}).get("Architecture", ""),
    )


def engine_info(name: str, document: Document, api_version: str, nodes: Sequence[Node]) -> EngineInfo:
    """The cluster as one host: what its nodes that are up have together; `document` is a manager's `info`."""
    up = [one for one in nodes if one.up]
    info = shapes.engine_info(document, api_version, 0)
    return replace(
        info,
        hostname=name.replace(":", "-"),
        cpus=int(sum(one.cpus for one in up)),
        memory=sum(one.memory for one in up),
        runtimes=(),
        labels={"caisson.cluster.nodes": str(len(up))},
    )


def service_body(
    uuid: UUID, spec: ContainerSpec, image: ImageSeen, installation: str | None, log_max_mib: int
) -> dict[str, Any]:
    """The body of a service that makes no task yet.

    Raises Refused for a label that would pass as ours, and for what no service can be asked for.
    """
    _check(spec)
    ours = {shapes.LABEL_UUID: str(uuid), shapes.LABEL_PROJECT: spec.project_id}
    if installation is not None:
        ours[shapes.LABEL_INSTALLATION] = installation
    ports = sorted({*(port.number for port in spec.ports), *image.ports})
    return {
        "Name": shapes.container_name(uuid),
        "Labels": {**ours, LABEL_IMAGE: spec.image, LABEL_PORTS: ",".join(map(str, ports))},
        "TaskTemplate": {
            "ContainerSpec": _container(spec, image, ours),
            "Resources": {"Limits": _limits(spec)},
            "RestartPolicy": _restart(spec.restart),
            "Placement": {"Constraints": []},
            "ForceUpdate": 0,
            "LogDriver": {
                "Name": "json-file",
                "Options": {"max-size": f"{log_max_mib * 512}k", "max-file": "2"},
            },
        },
        "Mode": {"Replicated": {"Replicas": 0}},
        "UpdateConfig": {"Parallelism": 0, "Order": "stop-first", "FailureAction": "continue"},
        "EndpointSpec": {
            # The swarm's own balancing needs what not every kernel has, and there is but one task to reach.
            "Mode": "dnsrr",
            "Ports": [
                {
                    "Protocol": port.protocol,
                    "TargetPort": port.number,
                    "PublishedPort": port.host_port,
                    "PublishMode": "host",
                }
                for port in spec.ports
                if port.host_port
            ],
        },
    }


def _check(spec: ContainerSpec) -> None:
    shapes.check_labels(spec.labels)
    if fields := spec.only_on_hosts():
        raise Refused(f"{fields[0]}: a service of a swarm cannot have it")


def _container(spec: ContainerSpec, image: ImageSeen, ours: Mapping[str, str]) -> dict[str, Any]:
    body: dict[str, Any] = {
        # By its id, so that no node asks a registry for it; `spread` has brought it to all of them.
        "Image": image.ref,
        "Labels": {**spec.labels, **ours},
        "Env": [f"{name}={value}" for name, value in spec.environment.items()],
        # As Docker does: an entrypoint of one's own goes without the image's command.
        "Command": list(spec.entrypoint or image.entrypoint),
        "Args": list(spec.command or (() if spec.entrypoint else image.command)),
        "TTY": spec.tty,
        "OpenStdin": spec.interactive,
        "StopGracePeriod": GRACE * shapes.NANOSECONDS,
        "CapabilityDrop": ["ALL"],
        "CapabilityAdd": [f"CAP_{name}" for name in shapes.CAPABILITIES],
    }
    if spec.workdir:
        body["Dir"] = spec.workdir
    if spec.hostname:
        body["Hostname"] = spec.hostname
    if check := spec.healthcheck:
        body["HealthCheck"] = shapes.healthcheck(check)
    return body


def _limits(spec: ContainerSpec) -> dict[str, int]:
    limits = {"Pids": spec.pids_limit}
    if spec.cpu:
        limits["NanoCPUs"] = int(spec.cpu * shapes.NANOSECONDS)
    if spec.memory:
        limits["MemoryBytes"] = spec.memory * shapes.MIB
    return limits


def _restart(policy: Restart) -> dict[str, Any]:
    return {
        "Condition": _CONDITIONS[policy.name],
        "Delay": RESTART_DELAY * shapes.NANOSECONDS,
        "MaxAttempts": policy.retries,
    }


def started(service: Document) -> dict[str, Any]:
    """The service's spec with a new task wanted."""
    return _scaled(service, 1, [], 1)


def parked(service: Document) -> dict[str, Any]:
    """The service's spec with no task wanted, and the last one kept."""
    return _scaled(service, 1, [PARKED], 0)


def _scaled(service: Document, replicas: int, constraints: list[str], force: int) -> dict[str, Any]:
    spec = service["Spec"]
    task = spec["TaskTemplate"]
    return {
        **spec,
        "Mode": {"Replicated": {"Replicas": replicas}},
        "TaskTemplate": {
            **task,
            "Placement": {"Constraints": constraints},
            "ForceUpdate": task.get("ForceUpdate", 0) + force,
        },
    }


def is_parked(service: Document) -> bool:
    """Whether the service is stopped by a constraint."""
    return PARKED in ((service["Spec"]["TaskTemplate"].get("Placement") or {}).get("Constraints") or ())


def restarts(service: Document) -> bool:
    """Whether the swarm makes a new task when one ends."""
    return bool(service["Spec"]["TaskTemplate"]["RestartPolicy"]["Condition"] != "none")


def is_wanted(service: Document) -> bool:
    """Whether the swarm is to run a task of it."""
    return service["Spec"]["Mode"]["Replicated"].get("Replicas", 0) > 0 and not is_parked(service)


@dataclass(frozen=True, slots=True)
class Task:
    """One task: `state` in swarm's words, `container` the id on its node once it has one."""

    id: str
    state: str
    node: str
    container: str
    exit_code: int
    error: str
    at: datetime
    made: str

    @property
    def over(self) -> bool:
        """Whether it has ended, or never will begin."""
        return self.state in OVER


def tasks(documents: Sequence[Document]) -> list[Task]:
    """A service's tasks, oldest first; without those that only stand for a parked service."""
    found = [_task(document) for document in documents if document.get("NodeID") or not _is_parking(document)]
    return sorted(found, key=lambda one: one.made)


def _is_parking(document: Document) -> bool:
    placement = document["Spec"].get("Placement") or {}
    return PARKED in (placement.get("Constraints") or ())


def _task(document: Document) -> Task:
    status = document["Status"]
    container = status.get("ContainerStatus") or {}
    return Task(
        id=document["ID"],
        state=status["State"],
        node=document.get("NodeID", ""),
        container=container.get("ContainerID", ""),
        exit_code=container.get("ExitCode", 0),
        error=status.get("Err", ""),
        at=datetime.fromisoformat(status["Timestamp"]).astimezone(UTC),
        made=document["CreatedAt"],
    )


def ref_of(document: Document) -> tuple[UUID, str] | None:
    """Whose service it is: uuid and project; None when it does not bear our labels."""
    labels = document["Spec"].get("Labels") or {}
    uuid = shapes.uuid_of(labels.get(shapes.LABEL_UUID))
    return None if uuid is None or shapes.LABEL_PROJECT not in labels else (uuid, labels[shapes.LABEL_PROJECT])


def newest(found: Sequence[Task]) -> Task | None:
    """The task that was made last."""
    return found[-1] if found else None


def tells(inspected: Document) -> bool:
    """Whether this container tells what became of its service: it was started, or that failed."""
    state = inspected["State"]
    return bool(state["ExitCode"] or not state["StartedAt"].startswith("0001-"))


@dataclass(frozen=True, slots=True)
class Inside:
    """The last container of a service that `tells`: `inspected` is None when it is gone, or its node is down."""

    task: Task
    node: Node | None
    inspected: Document | None


def seen(service: Document, found: Sequence[Task], inside: Inside | None) -> Seen | None:
    """What the swarm shows of a container whose tasks are `found`; None for a service that is not ours."""
    if (ours := ref_of(service)) is None:
        return None
    base, last = _base(service, *ours), newest(found)
    if inside is not None:
        base = _over(base, inside) if inside.inspected is None else _with(base, inside.inspected)
    if last is None:
        return base
    if base.state is State.RUNNING and inside is not None and inside.task.id == last.id:
        where = inside.node
        addresses = [Address("cluster", where.address)] if where and _published(service) else []
        return replace(base, addresses=addresses)
    if last.over or not is_wanted(service):
        return replace(base, error=base.error or _words(last))
    if base.started_at is None:
        return replace(base, state=State.CREATED, error=base.error or last.error)
    return replace(base, state=State.RESTARTING, error=last.error)


def _base(service: Document, uuid: UUID, project_id: str) -> Seen:
    spec = service["Spec"]
    container, labels = spec["TaskTemplate"]["ContainerSpec"], spec["Labels"]
    return Seen(
        ref=service["ID"],
        uuid=uuid,
        project_id=project_id,
        state=State.CREATED,
        image=labels.get(LABEL_IMAGE, ""),
        command=tuple(container.get("Args") or ()),
        entrypoint=tuple(container.get("Command") or ()),
        hostname=container.get("Hostname") or None,
        ports=tuple(int(port) for port in labels.get(LABEL_PORTS, "").split(",") if port),
    )


def _with(base: Seen, inspected: Document) -> Seen:
    told = shapes.seen(inspected)
    if told is None:
        return base
    return replace(
        base,
        state=told.state,
        exit_code=told.exit_code,
        oom_killed=told.oom_killed,
        error=told.error,
        started_at=told.started_at,
        finished_at=told.finished_at,
        hostname=base.hostname or told.hostname,
        health=told.health,
    )


def _over(base: Seen, inside: Inside) -> Seen:
    """A container that nobody shows any more."""
    task, where = inside.task, inside.node
    error = task.error
    if where is None or not where.up:
        error = f"node {where.name if where else task.node} of the cluster is down"
    return replace(
        base,
        state=State.EXITED,
        exit_code=task.exit_code,
        error=error,
        started_at=task.at,
        finished_at=task.at,
    )


def _words(task: Task) -> str:
    # What an exit code says already is not said again.
    return "" if task.error.startswith("task: non-zero exit") else task.error


def _published(service: Document) -> bool:
    return bool((service["Spec"].get("EndpointSpec") or {}).get("Ports"))
