"""The template of a capsule as it is posted, and the rows that it stands for (zun-api, sections 7.1 and 7.2)."""

import json
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from app import capsules, volumes
from app.errors import Invalid
from app.gate import unstorable
from app.models import Capsule, Container
from app.routers.fields import Cores, Flag, Ident, Name, Text, Whole
from app.settings import Settings
from app.versions import ApiModel
from app.volumes import Shared

MOST_CONTAINERS = 100
"""Containers in one capsule: each is a container of the engine's, and all are shown in every answer."""

RESTARTS = {"Always": "always", "OnFailure": "on-failure", "Never": "no"}
INIT_RETRIES = "10"
"""How often an init container is tried again in a capsule that always restarts, as in Zun."""

RestartWord = Literal["Always", "OnFailure", "Never"]


class Requests(ApiModel):
    """What a container gets at most: cores and MiB."""

    cpu: Cores | None = None
    memory: Whole | None = None


class Resources(ApiModel):
    """Limits, by Kubernetes' name for them."""

    requests: Requests | None = None


class PortEntry(ApiModel):
    """A port that the container listens on."""

    name: Annotated[str, Field(strict=True, max_length=255)] | None = None
    containerPort: Annotated[Whole, Field(ge=1, le=65535)]
    hostPort: Annotated[Whole, Field(le=65535)] | None = None
    protocol: Literal["TCP", "UDP"] = "TCP"


class VolumeMount(ApiModel):
    """Where a volume of the capsule is seen."""

    name: Ident
    mountPath: Annotated[str, Field(strict=True, min_length=2, max_length=4096, pattern="^/")]
    readOnly: Flag = False


class ContainerEntry(ApiModel):
    """One container of a capsule."""

    image: Annotated[str, Field(strict=True, min_length=2, max_length=255, pattern=r"[a-zA-Z0-9][a-zA-Z0-9_.-]")]
    name: Name | None = None
    command: Annotated[list[Text], Field(max_length=4096)] | None = None
    args: Annotated[list[Text], Field(max_length=4096)] | None = None
    env: dict[Annotated[str, Field(min_length=1, pattern="^[^=]+$")], Text] | None = None
    workDir: Text | None = None
    imagePullPolicy: Literal["never", "always", "ifnotpresent", "Never", "Always", "IfNotPresent", ""] | None = None
    stdin: Flag = False
    tty: Flag = False
    resources: Resources | None = None
    ports: Annotated[list[PortEntry], Field(max_length=1000)] | None = None
    volumeMounts: Annotated[list[VolumeMount], Field(max_length=100)] | None = None


class Cinder(ApiModel):
    """A volume that is there, or a new one of `size` GiB; `autoRemove` deletes that with the capsule."""

    volumeID: Annotated[str, Field(strict=True, min_length=36, max_length=36)] | None = None
    size: Annotated[Whole, Field(ge=1, le=2**31 - 1)] | None = None
    autoRemove: Flag = False

    @model_validator(mode="after")
    def _one(self) -> "Cinder":
        if (self.volumeID is None) == (self.size is None):
            raise PydanticCustomError("cinder", "needs exactly one of volumeID and size")
        if self.volumeID is not None and self.autoRemove:
            raise PydanticCustomError("cinder", "autoRemove is for new volumes: one of a volumeID stays")
        return self


class EmptyDir(ApiModel):
    """A new volume without a limit, which goes with the capsule: Caisson's own, by Kubernetes' name for it."""


class VolumeEntry(ApiModel):
    """A volume that the capsule's containers share."""

    name: Name
    cinder: Cinder | None = None
    emptyDir: EmptyDir | None = None

    @model_validator(mode="after")
    def _one(self) -> "VolumeEntry":
        if (self.cinder is None) == (self.emptyDir is None):
            raise PydanticCustomError("volume", "needs exactly one of cinder and emptyDir")
        return self

    @property
    def shared(self) -> Shared:
        """As `app.volumes` takes it."""
        if self.cinder is None:
            return Shared(self.name)
        return Shared(self.name, self.cinder.volumeID, self.cinder.size, kept=not self.cinder.autoRemove)


class Spec(ApiModel):
    """What runs in the capsule."""

    restartPolicy: RestartWord | None = None
    containers: Annotated[list[ContainerEntry], Field(min_length=1, max_length=MOST_CONTAINERS)]
    initContainers: Annotated[list[ContainerEntry], Field(max_length=MOST_CONTAINERS)] | None = None
    volumes: Annotated[list[VolumeEntry], Field(max_length=100)] | None = None


class Metadata(ApiModel):
    """What the capsule is called."""

    name: Name | None = None
    labels: dict[Annotated[str, Field(min_length=1)], Any] | None = None
    annotations: dict[Annotated[str, Field(min_length=1)], Any] | None = None


class Template(ApiModel):
    """A capsule's template."""

    kind: Literal["capsule", "Capsule"]
    capsuleVersion: Literal["beta", "Beta"] = "beta"
    metadata: Metadata
    spec: Spec
    restartPolicy: RestartWord | None = None
    availabilityZone: Ident | None = None


def _decoded(value: Any) -> Any:
    """Some clients send the template as a string of JSON."""
    if not isinstance(value, str):
        return value
    try:
        value = json.loads(value)
    except (ValueError, RecursionError) as error:
        raise PydanticCustomError("json", "is not valid JSON: {reason}", {"reason": str(error)[:200]}) from None
    if (where := unstorable(value)) is not None:
        raise PydanticCustomError("text", "text in {where} must be Unicode without the character NUL", {"where": where})
    return value


class CapsuleCreate(ApiModel):
    """What POST /v1/capsules takes."""

    template: Annotated[
        Template, BeforeValidator(_decoded), WithJsonSchema({"anyOf": [{"type": "object"}, {"type": "string"}]})
    ]


class Wish:
    """A template's rows, checked against the rules that need more than its shape. Raises Invalid.

    Attributes:
        capsule: its row; engine, host and owner are as in `owner`.
        boxes: rows of its members, init containers first.
        pulls: image policies that the template names, by the member's uuid.
        publishes: whether a port of the host is asked for.
        shared: its volumes; the members' mounts name them.
    """

    def __init__(self, template: Template, owner: dict[str, Any], settings: Settings) -> None:
        _check_volumes(template.spec)
        self.capsule = _capsule(template, owner)
        self.boxes: list[Container] = []
        self.pulls: dict[str, str] = {}
        taken: set[str] = set()
        for where, init, entry in _entries(template.spec):
            box = _box(self.capsule, entry, where, settings, init=init)
            while box.name in taken and entry.name is None:
                box.name = capsules.member_name(self.capsule.name, None)
            if box.name in taken:
                raise Invalid(f"{where}.name: {entry.name!r} is the name of another container of this capsule")
            taken.add(box.name)
            self.boxes.append(box)
            if entry.imagePullPolicy:
                self.pulls[box.uuid] = entry.imagePullPolicy.lower()
        self.publishes = _check_host_ports(template.spec)
        self.shared = [volume.shared for volume in template.spec.volumes or ()]
        apps, inits = ([box for box in self.boxes if box.init is init] for init in (False, True))
        self.capsule.cpu = max(round(sum(box.cpu or 0.0 for box in apps), 6), *(box.cpu or 0.0 for box in inits), 0.0)
        self.capsule.memory = max(sum(box.memory or 0 for box in apps), *(box.memory or 0 for box in inits), 0)


def _capsule(template: Template, owner: dict[str, Any]) -> Capsule:
    spec, metadata = template.spec, template.metadata
    if spec.restartPolicy and template.restartPolicy and spec.restartPolicy != template.restartPolicy:
        raise Invalid(
            f"restartPolicy: {template.restartPolicy} is not {spec.restartPolicy}, which spec.restartPolicy says"
        )
    restart = RESTARTS[spec.restartPolicy or template.restartPolicy or "Always"]
    name = metadata.name or capsules.generate_name()
    return Capsule(
        **owner,
        name=name,
        hostname=capsules.hostname_of(name),
        labels=_texts("metadata.labels", metadata.labels),
        annotations=_texts("metadata.annotations", metadata.annotations),
        restart_policy={"MaximumRetryCount": "0", "Name": restart},
        created_at=0.0,
    )


def _entries(spec: Spec) -> Iterator[tuple[str, bool, ContainerEntry]]:
    for number, entry in enumerate(spec.initContainers or ()):
        yield f"spec.initContainers[{number}]", True, entry
    for number, entry in enumerate(spec.containers):
        yield f"spec.containers[{number}]", False, entry


def _box(capsule: Capsule, entry: ContainerEntry, where: str, settings: Settings, *, init: bool) -> Container:
    wish = (entry.resources and entry.resources.requests) or Requests()
    _check(f"{where}.resources.requests.cpu", wish.cpu, settings.minimum_cpu, settings.maximum_cpu, "cores")
    _check(f"{where}.resources.requests.memory", wish.memory, settings.minimum_memory, settings.maximum_memory, "MiB")
    restart = dict(capsule.restart_policy or {})
    if init and restart["Name"] == "always":
        restart = {"MaximumRetryCount": INIT_RETRIES, "Name": "on-failure"}
    ports: list[dict[str, Any]] = [
        {"number": port.containerPort, "protocol": port.protocol.lower(), "host_port": port.hostPort or 0}
        for port in entry.ports or ()
    ]
    return Container(
        project_id=capsule.project_id,
        user_id=capsule.user_id,
        capsule_id=capsule.uuid,
        init=init,
        name=capsules.member_name(capsule.name, entry.name),
        image=entry.image,
        image_pull_policy=entry.imagePullPolicy or None,
        command=[*(entry.command or ()), *(entry.args or ())] or None,
        environment=entry.env,
        workdir=entry.workDir,
        interactive=entry.stdin,
        tty=entry.tty,
        cpu=settings.default_cpu if wish.cpu is None else wish.cpu,
        memory=settings.default_memory if wish.memory is None else wish.memory,
        cpu_policy="shared",
        disk=0,
        restart_policy=restart,
        mounts=[_mount(mount) for mount in entry.volumeMounts or ()] or None,
        nets=[],
        ports=sorted({port["number"] for port in ports}) or None,
        exposed_ports=ports or None,
        wanted_running=True,
        backend=capsule.backend,
        host=capsule.host,
        created_at=0.0,
    )


def _mount(mount: VolumeMount) -> dict[str, Any]:
    path = volumes.destination(mount.mountPath)
    return {"type": "volume", "volume": mount.name, "destination": path, "read_only": mount.readOnly}


def _check(field: str, value: float | None, least: float, most: float, unit: str) -> None:
    if value is not None and not least <= value <= most:
        raise Invalid(
            f"Invalid input for field '{field}'. Value: '{value}'. It must be from {least} to {most} {unit}.",
            code="schema-validation-error",
        )


def _texts(field: str, values: dict[str, Any] | None) -> dict[str, str] | None:
    for key, value in (values or {}).items():
        if value is None or isinstance(value, dict | list):
            raise Invalid(
                f"Invalid input for field '{field}'. '{key[:255]}' must be a string.", code="schema-validation-error"
            )
        if key.startswith("caisson."):
            raise Invalid(f"{field}: '{key[:255]}': names that begin with caisson. are reserved")
    return None if values is None else {key: str(value) for key, value in values.items()}


def _check_host_ports(spec: Spec) -> bool:
    taken: set[tuple[int, str]] = set()
    for where, init, entry in _entries(spec):
        for number, port in enumerate(entry.ports or ()):
            if not port.hostPort:
                continue
            if init:
                raise Invalid(f"{where}.ports[{number}].hostPort: an init container cannot publish ports")
            if (port.hostPort, port.protocol) in taken:
                raise Invalid(
                    f"{where}.ports[{number}].hostPort: {port.hostPort}/{port.protocol} is in this template twice"
                )
            taken.add((port.hostPort, port.protocol))
    return bool(taken)


def _check_volumes(spec: Spec) -> None:
    names = [volume.name for volume in spec.volumes or ()]
    for name in names:
        if names.count(name) > 1:
            raise Invalid(f"spec.volumes: {name!r} is the name of two volumes")
    mounted: set[str] = set()
    for where, _, entry in _entries(spec):
        paths: set[str] = set()
        for number, mount in enumerate(entry.volumeMounts or ()):
            field = f"{where}.volumeMounts[{number}]"
            if mount.name not in names:
                raise Invalid(f"{field}.name: there is no volume {mount.name!r} in spec.volumes")
            path = volumes.destination(mount.mountPath, f"{field}.mountPath")
            if path in paths:
                raise Invalid(f"{field}.mountPath: {path} is taken by another volume")
            paths.add(path)
            mounted.add(mount.name)
    if unused := sorted(set(names) - mounted):
        raise Invalid(f"spec.volumes: no container mounts the volume {unused[0]!r}")
