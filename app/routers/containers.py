"""Zun's /v1/containers and their actions (zun-api, sections 3 to 5)."""

import re
import shlex
from dataclasses import replace
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Depends, Query, Request, Response
from fastapi.openapi.models import Example
from fastapi.responses import JSONResponse
from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from app import archives, containers, cores, glance, hosts, images, volumes
from app.answers import Answer
from app.backends.engine import Ability
from app.cluster_zones import is_zone, zone_name
from app.containers import CreateArgs, check_ability
from app.errors import Invalid, Unsupported
from app.gateway import Gateway
from app.models import Cluster, Container, Status
from app.policy import Reading, Tx, allow, truth
from app.routers.container_view import answer, view
from app.routers.fields import HOST, Cores, Count, Flag, FlagX, Ident, Name, Text, Whole
from app.routers.network_wishes import settle
from app.routers.requests import asked, base, cloud_image, gateway, json_only, page, paging
from app.versions import ApiModel, Since, refuse_before, version
from app.volumes import Wished

router = APIRouter(prefix="/v1/containers", tags=["containers"])

FILTERS = ("name", "image", "project_id", "user_id", "memory", "host", "task_state", "status", "auto_remove")


class RestartPolicy(ApiModel):
    """When the engine starts the container again by itself."""

    Name: Literal["no", "always", "on-failure", "unless-stopped"]
    MaximumRetryCount: Count | None = None


class Mount(ApiModel):
    """A volume or an injected file."""

    type: Literal["volume", "bind"] | None = None
    source: Annotated[str | None, Field(strict=True, min_length=1)] = None
    destination: Text
    size: Whole | None = None

    @model_validator(mode="after")
    def _source_or_size(self) -> "Mount":
        if (self.source is None) == (self.size is None):
            raise PydanticCustomError("mount", "needs destination and either source or size")
        if self.type == "bind" and self.source is None:
            raise PydanticCustomError("mount", "of type bind needs source, the file's content in base64")
        return self

    @property
    def wished(self) -> Wished:
        """As ``app.volumes`` takes it. Raises Invalid."""
        if self.type == "bind":
            return Wished(self.destination, content=archives.decoded(self.source or "", "source"))
        return Wished(self.destination, self.source, self.size)


class Net(ApiModel):
    """A network or a port to attach to."""

    network: Ident | None = None
    port: Ident | None = None
    v4_fixed_ip: Annotated[Ident | None, Field(alias="v4-fixed-ip")] = None
    v6_fixed_ip: Annotated[Ident | None, Field(alias="v6-fixed-ip")] = None

    @model_validator(mode="after")
    def _one(self) -> "Net":
        if (self.network is None) == (self.port is None):
            raise PydanticCustomError("net", "needs exactly one of network and port")
        return self


def _none_if_empty(value: Any) -> Any:
    return None if value == {} else value


class HealthCheckBody(ApiModel):
    """A command that tells whether the container is well; times in seconds."""

    cmd: Text
    interval: Annotated[Whole, Field(le=86400)] | None = None
    retries: Count | None = None
    timeout: Annotated[Whole, Field(le=86400)] | None = None


def _split_command(body: dict[str, Any]) -> dict[str, Any]:
    """Below 1.20 the command was one string, split by the shell's rules."""
    command = body.get("command")
    if command is None:
        return body
    if not isinstance(command, str):
        raise PydanticCustomError(
            "string_type", "Invalid input for field 'command': must be a string below version 1.20"
        )
    try:
        return body | {"command": shlex.split(command)}
    except ValueError as error:
        raise PydanticCustomError("command", "command: {reason}", {"reason": str(error)}) from None


class ContainerCreate(ApiModel):
    """What POST /v1/containers takes (zun-api, section 3.3)."""

    lifts = ((20, _split_command),)

    image: Annotated[str, Field(strict=True, min_length=2, max_length=255, pattern=r"[a-zA-Z0-9][a-zA-Z0-9_.-]")]
    name: Name | None = None
    command: Annotated[list[Any] | None, Field(max_length=4096, examples=[["ping", "-c", "4", "127.0.0.1"]])] = None
    entrypoint: Annotated[list[Text] | None, Since(40, unknown=True)] = None
    cpu: Cores | None = None
    cpu_policy: Literal["dedicated", "shared"] = "shared"
    memory: Whole | None = None
    disk: Whole | None = None
    workdir: Text | None = None
    environment: dict[Annotated[str, Field(min_length=1, pattern="^[^=]+$")], Text] | None = None
    labels: dict[Annotated[str, Field(min_length=1)], Any] | None = None
    interactive: Flag = False
    tty: Flag | None = None
    image_pull_policy: Literal["never", "always", "ifnotpresent", "Never", "Always", "IfNotPresent", ""] | None = None
    image_driver: Literal["docker", "glance", "None"] | None = None
    restart_policy: RestartPolicy | None = None
    auto_remove: Annotated[bool | None, Field(strict=True), Since(3)] = None
    auto_heal: Flag = False
    runtime: Annotated[Text | None, Since(5)] = None
    hostname: Annotated[str | None, Field(min_length=1, max_length=63, pattern=HOST), Since(9)] = None
    privileged: Annotated[Flag | None, Since(21)] = None
    healthcheck: Annotated[HealthCheckBody | None, BeforeValidator(_none_if_empty), Since(22)] = None
    security_groups: list[Ident] | None = None
    exposed_ports: Annotated[dict[str, dict[str, Any]] | None, Since(24)] = None
    nets: list[Net] | None = None
    mounts: Annotated[list[Mount] | None, Since(11)] = None
    hints: dict[str, Any] | None = None
    availability_zone: Ident | None = None
    registry: Annotated[Name | None, Since(31)] = None
    host: Annotated[str | None, Field(min_length=1, max_length=255, pattern=HOST), Since(39, unknown=True)] = None

    @model_validator(mode="after")
    def _no_nulls(self) -> "ContainerCreate":
        for field in ("hostname", "registry", "host", "privileged", "tty"):
            if field in self.model_fields_set and getattr(self, field) is None:
                raise PydanticCustomError("null", "{field}: null is not allowed", {"field": field})
        return self


class RunQuery(ApiModel):
    """Query of POST /v1/containers."""

    run: Annotated[FlagX, Field(description="Start it as soon as it is made.")] = False


class DeleteQuery(ApiModel):
    """How to delete."""

    force: Annotated[FlagX, Field(description="Since 1.7: whatever its status; for administrators.")] = False
    stop: Annotated[FlagX, Field(description="Since 1.12: stop it first when it runs.")] = False
    all_projects: str = ""

    @model_validator(mode="after")
    def _of_version_too(self) -> "DeleteQuery":
        """Clients of any version say ``False``: only asking for it is too new."""
        for name, asked_for, since in (("force", self.force, 7), ("stop", self.stop, 12)):
            if asked_for:
                refuse_before(name, since)
        return self


EXAMPLES: dict[str, Example] = {
    "a ping": {
        "summary": "Four pings, with run=true",
        "value": {"name": "pingtest", "image": "busybox:1", "command": ["ping", "-c", "4", "127.0.0.1"]},
    },
    "a server": {
        "summary": "A server with limits, that is started again when it fails",
        "value": {
            "name": "web",
            "image": "busybox:1",
            "command": ["httpd", "-f", "-p", "8080"],
            "cpu": 0.5,
            "memory": 64,
            "environment": {"MODE": "demo"},
            "labels": {"tier": "front"},
            "exposed_ports": {"8080/tcp": {}},
            "restart_policy": {"Name": "on-failure", "MaximumRetryCount": 3},
        },
    },
}
_PORT = re.compile(r"([0-9]{1,5})(?:/(tcp|udp|sctp))?")


@router.get(
    "", summary="List containers", operation_id="list_containers", openapi_extra=paging((*FILTERS, "all_projects"))
)
async def list_containers(
    request: Request,
    tx: Annotated[Tx, Depends(allow("container:get_all", all_projects="container:get_all_all_projects"))],
) -> Response:
    """The project's containers, oldest first.

    Filters: name, image, project_id, user_id, memory, host, task_state, status, auto_remove. Paging: limit, marker,
    sort_key, sort_dir. `all_projects` is for administrators.
    """
    listed = page(request, Container, containers.COLUMNS, FILTERS)
    where = [containers.STANDALONE, *(_filter(request, tx, name) for name in FILTERS if name in request.query_params)]
    hidden = tx.policy.hidden(tx.caller)

    async def render(session: Reading) -> Answer:
        rows = await listed.rows(session, where, "container-not-found")
        shown = [view(box, hidden, None) for box in rows]
        return answer({"containers": shown, "next": listed.next("containers", rows)}, rows)

    key = ("containers", base(request), request.url.query, hidden)
    return Response(await tx.remembered(key, render, (Container,)), media_type="application/json")


@router.post(
    "",
    status_code=202,
    summary="Create a container",
    operation_id="create_container",
    dependencies=[Depends(json_only)],
)
async def create_container(
    request: Request,
    query: Annotated[RunQuery, Query()],
    body: Annotated[ContainerCreate, Body(openapi_examples=EXAMPLES)],
    tx: Annotated[Tx, Depends(allow("container:create"))],
) -> Response:
    """Accepts the wish and answers at once; the container's status and status_reason tell what became of it."""
    parts = gateway(request)
    tx.check()
    backend, box, cluster = await _placed(parts, tx, body)
    engine = parts.engines.reach(backend)
    _fill(parts, tx, body, box)
    if body.privileged:
        check_ability(engine, Ability.PRIVILEGED, "run privileged containers", "leave `privileged` out")
    if body.restart_policy is not None and body.restart_policy.MaximumRetryCount:
        check_ability(engine, Ability.RETRIES, "count how often it restarts one", "leave MaximumRetryCount out")
    if body.image_driver == "glance":
        if body.registry is not None:
            raise Invalid("registry: an image of the image service is pulled from no registry")
        glance.use(box, await cloud_image(request, backend, body.image))
    mounts = [mount.wished for mount in body.mounts or ()]
    nets = [net.model_dump(by_alias=True, exclude_none=True) for net in body.nets or ()]
    if cluster is None:
        await settle(request, tx, box, nets, body.security_groups or ())
    else:
        _refuse_networks(body)
    async with tx.writing() as session:
        if cluster is not None:
            await parts.zones.hold(session, cluster)
        await volumes.mount(session, box, mounts, engine, parts.settings, parts.vault)
        if box.cpu_policy == "dedicated":
            await cores.pin(session, box, engine, parts.engines.info(backend))
        if body.registry is not None:
            await images.use_registry(session, box, body.registry)
        policy = (body.image_pull_policy or parts.settings.default_pull_policy).lower()
        args = CreateArgs(run=query.run, pull=policy)
        await containers.accept(session, asked(request, tx), box, engine, parts.settings, args)
    parts.wake()
    shown = view(box, tx.policy.hidden(tx.caller), base(request), fresh=True)
    return JSONResponse(shown, 202, {"location": shown["links"][0]["href"]})


@router.get("/{ident}", summary="Show a container", operation_id="show_container")
async def show_container(
    request: Request,
    ident: str,
    tx: Annotated[
        Tx,
        Depends(
            allow(
                "container:get_one",
                all_projects="container:get_one_all_projects",
                any_project="container:get_one_all_projects",
            )
        ),
    ],
) -> Response:
    """One container, by uuid or name."""
    hidden, own, url = tx.policy.hidden(tx.caller), tx.caller.project_id, base(request)

    async def render(session: Reading) -> Answer:
        box = await containers.find(session, ident, own_project=own)
        return answer(view(box, hidden, url), [box])

    return Response(await tx.remembered(("container", url, ident, own, hidden), render), media_type="application/json")


@router.delete("/{ident}", status_code=204, summary="Delete a container", operation_id="delete_container")
async def delete_container(
    request: Request,
    ident: str,
    query: Annotated[DeleteQuery, Query()],
    tx: Annotated[
        Tx,
        Depends(
            allow(
                "container:delete",
                all_projects="container:delete_all_projects",
                any_project="container:get_one_all_projects",
            )
        ),
    ],
) -> Response:
    """Deletes in the background; the container is gone when GET answers 404."""
    async with tx.writing() as session:
        box = await containers.find(session, ident, own_project=tx.caller.project_id, lock=True)
        force = query.force and not query.stop
        if force:
            tx.require("container:delete_force")
        if query.stop and box.status == Status.RUNNING:
            tx.require("container:stop")
        settings = gateway(request).settings
        await containers.delete(session, asked(request, tx), box, settings, force=force, stop=query.stop)
    gateway(request).wake()
    return Response(status_code=204)


def _filter(request: Request, tx: Tx, name: str) -> Any:
    value: Any = request.query_params[name]
    if name == "host":
        tx.require("container:get_one:host")
    if name == "auto_remove":
        value = truth(name, value)
    if name == "memory":
        if not value.isascii() or not value.isdigit() or len(value) > 9:
            raise Invalid(f"memory: '{value[:64]}' is not a number of MiB")
        value = int(value)
    return containers.COLUMNS[name] == value


async def _placed(parts: Gateway, tx: Tx, body: ContainerCreate) -> tuple[str, Container, Cluster | None]:
    """Choose the engine, and begin the row; with the cluster when its zone is asked for.

    Where no host will do it is an Error row, as with Zun, not a refusal.
    """
    if body.host is not None:
        tx.require("container:create:requested_destination")
    cluster: Cluster | None = None
    if body.availability_zone is not None and is_zone(body.availability_zone):
        if body.host is not None:
            raise Invalid("host: a container in a cluster goes to whatever node the cluster chooses")
        async with tx.reading() as session:
            cluster = await parts.zones.find(session, body.availability_zone)
    wish = hosts.Wish(
        body.availability_zone,
        body.host,
        body.runtime,
        parts.settings.default_cpu if body.cpu is None else body.cpu,
        parts.settings.default_memory if body.memory is None else body.memory,
        (Ability.DISK_QUOTA,) if body.disk else (),
        backend=None if cluster is None else await parts.zones.serve(cluster),
    )
    if cluster is not None:
        wish = replace(wish, zone=zone_name(cluster))
    async with tx.reading() as session:
        place = await hosts.place(session, parts.engines, parts.settings, wish)
    box = Container(
        project_id=tx.caller.project_id,
        user_id=tx.caller.user_id,
        name=body.name or "",
        image=body.image,
        backend=place.backend,
        host=place.host,
        created_at=0.0,
    )
    if place.reason is not None:
        box.status, box.status_reason = Status.ERROR, place.reason
    return place.backend, box, cluster


def _refuse_networks(body: ContainerCreate) -> None:
    """A cluster has a network of its own: what asks for the project's is refused. Raises Unsupported."""
    for field, asked_for in (("nets", body.nets), ("security_groups", body.security_groups)):
        if asked_for:
            raise Unsupported(f"{field}: a container in a cluster is on the cluster's network only: leave it out")
    if body.runtime is not None:
        raise Unsupported("runtime: a cluster runs containers in its own way: leave it out")


def _fill(parts: Gateway, tx: Tx, body: ContainerCreate, box: Container) -> None:
    """Everything else that a body says, checked against the rules that need more than the body."""
    settings = parts.settings
    box.command = None if body.command is None else [_word(word) for word in body.command]
    box.entrypoint = body.entrypoint
    box.cpu = within("cpu", body.cpu, settings.minimum_cpu, settings.maximum_cpu, settings.default_cpu, "cores")
    box.memory = int(
        within("memory", body.memory, settings.minimum_memory, settings.maximum_memory, settings.default_memory, "MiB")
    )
    box.disk = int(within("disk", body.disk, settings.minimum_disk, settings.maximum_disk, 0, "GiB"))
    box.cpu_policy = body.cpu_policy
    box.workdir, box.environment = body.workdir, body.environment
    box.labels = {key: _label(key, value) for key, value in (body.labels or {}).items()} or None
    box.interactive, box.tty = body.interactive, _tty(body)
    box.hostname, box.auto_heal, box.auto_remove = body.hostname, body.auto_heal, bool(body.auto_remove)
    box.hints = body.hints or None
    box.image_pull_policy = body.image_pull_policy or None
    box.restart_policy = _restart(body)
    if (check := body.healthcheck) is not None:
        given = {"interval": check.interval, "retries": check.retries, "timeout": check.timeout, "test": check.cmd}
        box.healthcheck = {name: value for name, value in given.items() if value is not None}
    box.exposed_ports = _ports(tx, body) or None
    _privileges(parts, tx, body, box)
    if body.exposed_ports and body.security_groups and version.get() >= 20:
        raise Invalid("exposed_ports and security_groups cannot be given together")


def _privileges(parts: Gateway, tx: Tx, body: ContainerCreate, box: Container) -> None:
    if body.privileged is not None:
        tx.require("container:create:privileged")
        box.privileged = body.privileged
    if body.image_pull_policy:
        tx.require("container:create:image_pull_policy")
    if body.runtime is not None:
        tx.require("container:create:runtime")
        info = parts.engines.info(box.backend)
        if info is not None and body.runtime not in info.runtimes:
            raise Invalid(f"runtime: {body.runtime!r} is none of the host's runtimes: {', '.join(info.runtimes)}")
        box.runtime = body.runtime


def within(field: str, value: float | None, least: float, most: float, default: float, unit: str) -> float:
    """`value`, or `default` when there is none. Raises Invalid naming the field and its limits."""
    if value is None:
        return default
    if not least <= value <= most:
        raise Invalid(
            f"Invalid input for field '{field}'. Value: '{value}'. It must be from {least} to {most} {unit}.",
            code="schema-validation-error",
        )
    return value


def _word(word: Any) -> str:
    if isinstance(word, bool) or not isinstance(word, str | int | float):
        raise Invalid("Invalid input for field 'command'. Its items must be strings.", code="schema-validation-error")
    return str(word)


def _label(key: str, value: Any) -> str:
    if value is None or isinstance(value, dict | list):
        raise Invalid(f"Invalid input for field 'labels'. '{key}' must be a string.", code="schema-validation-error")
    if key.startswith("caisson."):
        raise Invalid(f"labels: '{key}': names that begin with caisson. are reserved")
    return str(value)


def _tty(body: ContainerCreate) -> bool:
    """Zun tied tty to interactive from 1.20 to 1.35 (zun-api, section 1.4)."""
    if 20 <= version.get() < 36 and "interactive" in body.model_fields_set:
        return body.interactive
    return bool(body.tty)


def _restart(body: ContainerCreate) -> dict[str, str] | None:
    policy = body.restart_policy
    if policy is None:
        return None
    count = policy.MaximumRetryCount or 0
    if policy.Name in ("always", "unless-stopped") and count:
        raise Invalid(f"maximum retry count not valid with restart policy of {policy.Name}")
    if policy.Name != "no" and body.auto_remove:
        raise Invalid(f"auto_remove cannot go with restart policy {policy.Name}: the container would never be removed")
    return {"Name": policy.Name, "MaximumRetryCount": "0" if policy.Name == "no" else str(count)}


def _ports(tx: Tx, body: ContainerCreate) -> list[dict[str, Any]]:
    """`exposed_ports`: ``{"80/tcp": {}}``; with ``{"host_port": 8080}`` the port is published on the host."""
    ports = []
    for key, value in (body.exposed_ports or {}).items():
        match = _PORT.fullmatch(key)
        if match is None or not 1 <= int(match[1]) <= 65535:
            raise Invalid(f"value {key[:64]} is invalid as publish port.")
        host_port = value.get("host_port", 0)
        if set(value) - {"host_port"} or isinstance(host_port, bool) or not isinstance(host_port, int):
            raise Invalid(f"exposed_ports: '{key}' takes nothing but host_port, a number")
        if host_port:
            tx.require("container:create:host_port")
            if not 1 <= host_port <= 65535:
                raise Invalid(f"exposed_ports: host_port of '{key}' must be from 1 to 65535")
        ports.append({"number": int(match[1]), "protocol": match[2] or "tcp", "host_port": host_port})
    return ports
