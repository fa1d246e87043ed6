"""What changes a container that is there (zun-api, sections 3.1 and 3.9)."""

from typing import Annotated

from fastapi import APIRouter, Body, Depends, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import Field

from app import changes, containers, glance
from app.backends.engine import Ability
from app.changes import LimitsArgs
from app.errors import GatewayError
from app.gateway import Gateway
from app.models import Container
from app.policy import Tx
from app.routers.container_actions import acting, check_needs
from app.routers.container_view import view
from app.routers.containers import within
from app.routers.fields import Cores, Flag, Ident, Name, Whole
from app.routers.network_wishes import known_groups
from app.routers.requests import asked, base, caller_token, cloud_image, either, gateway, parameters
from app.versions import ApiModel, require

router = APIRouter(prefix="/v1/containers/{ident}", tags=["container actions"])

UPDATE_SECONDS = 30.0  # what PATCH waits for an engine


class Rename(ApiModel):
    """The new name."""

    name: Name


class Changes(ApiModel):
    """What to change; what is absent stays."""

    cpu: Cores | None = None
    memory: Whole | None = None
    name: Name | None = None
    auto_heal: Flag | None = None

    def limits(self, parts: Gateway) -> LimitsArgs:
        """The limits among it. Raises Invalid."""
        settings = parts.settings
        cpu, memory = self.cpu, self.memory
        if cpu is not None:
            cpu = within("cpu", cpu, settings.minimum_cpu, settings.maximum_cpu, 0, "cores")
        if memory is not None:
            memory = int(within("memory", memory, settings.minimum_memory, settings.maximum_memory, 0, "MiB"))
        return LimitsArgs(cpu=cpu, memory=memory)


class Rebuild(ApiModel):
    """From which image; the one that it has if absent."""

    image: Annotated[str | None, Field(strict=True, min_length=2, max_length=255)] = None
    image_driver: Annotated[str | None, Field(strict=True, pattern="^(docker|glance|None)$")] = None


class SecurityGroup(ApiModel):
    """Its name or id."""

    name: Ident


class CommitQuery(ApiModel):
    """What to call the image."""

    repository: Annotated[str, Field(min_length=1, max_length=255)]
    tag: Annotated[str | None, Field(min_length=1, max_length=128)] = None


@router.post(
    "/rename",
    summary="Rename",
    operation_id="rename_container",
    openapi_extra=parameters(Rename),
    dependencies=[Depends(require(1, 13))],
)
async def rename(
    request: Request, ident: str, how: Annotated[Rename, Depends(either(Rename))], tx: Annotated[Tx, acting("rename")]
) -> Response:
    """Until 1.13; later versions change the name with PATCH."""
    async with tx.writing() as session:
        box = await containers.find(session, ident, own_project=tx.caller.project_id, lock=True)
        await changes.rename(session, box, how.name, gateway(request).settings)
    return JSONResponse(_view(request, tx, box))


@router.patch("", summary="Change a container", operation_id="update_container")
async def update(
    request: Request,
    ident: str,
    body: Annotated[Changes, Body(examples=[{"cpu": 0.5, "memory": 64}])],
    tx: Annotated[Tx, acting("update")],
) -> Response:
    """Changes name, auto_heal, and in place the limits of cpu and memory; answers when it is so."""
    parts = gateway(request)
    limits = body.limits(parts)
    async with tx.writing() as session:
        box = await containers.find(session, ident, own_project=tx.caller.project_id, lock=True)
        if limits != LimitsArgs():
            check_needs(parts.engines.reach(box.backend), "update")
        action = await changes.update(
            session, asked(request, tx), box, limits, parts.settings, name=body.name, auto_heal=body.auto_heal
        )
    if action is not None:
        parts.wake()
        await changes.until_done(parts.database, action, UPDATE_SECONDS)
        async with tx.reading() as session:
            box = await containers.find(session, box.uuid)
    return JSONResponse(_view(request, tx, box))


@router.post(
    "/resize_container",
    status_code=202,
    summary="Change limits",
    operation_id="resize_container",
    dependencies=[Depends(require(19))],
)
async def resize_container(
    request: Request,
    ident: str,
    body: Annotated[Changes, Body(examples=[{"cpu": 0.5, "memory": 64}])],
    tx: Annotated[Tx, acting("resize_container")],
) -> Response:
    """As PATCH, in the background: the answer shows the limits as they were."""
    parts = gateway(request)
    limits = body.limits(parts)
    async with tx.writing() as session:
        box = await containers.find(session, ident, own_project=tx.caller.project_id, lock=True)
        check_needs(parts.engines.reach(box.backend), "resize_container")
        await changes.update(
            session, asked(request, tx), box, limits, parts.settings, name=body.name, auto_heal=body.auto_heal,
            verb="resize_container",
        )  # fmt: skip
    parts.wake()
    return JSONResponse(_view(request, tx, box), 202)


@router.post(
    "/rebuild", status_code=202, summary="Rebuild", operation_id="rebuild_container", openapi_extra=parameters(Rebuild)
)
async def rebuild(
    request: Request,
    ident: str,
    how: Annotated[Rebuild, Depends(either(Rebuild))],
    tx: Annotated[Tx, acting("rebuild")],
) -> Response:
    """Makes it anew, from another image if one is named; mounts stay, its own file system is lost."""
    parts = gateway(request)
    image, driver, cloud = how.image, how.image_driver, None
    if image is not None or driver == "glance":
        async with tx.reading() as session:
            box = await containers.find(session, ident, own_project=tx.caller.project_id)
        image, driver = image or box.image, driver or box.image_driver
        if driver == "glance":
            cloud = await cloud_image(request, box.backend, image)
    async with tx.writing() as session:
        box = await containers.find(session, ident, own_project=tx.caller.project_id, lock=True)
        await changes.rebuild(session, asked(request, tx), box, parts.settings, image, cloud)
    parts.wake()
    return JSONResponse(None, 202)


@router.post("/commit", status_code=202, summary="Commit", operation_id="commit_container")
async def commit(
    request: Request, ident: str, query: Annotated[CommitQuery, Query()], tx: Annotated[Tx, acting("commit")]
) -> Response:
    """Copies the container to an image that its project can run by this name, or by the uuid in the answer.

    Where the catalogue lists an image service, the image goes there.
    """
    parts = gateway(request)
    async with tx.reading() as session:
        box = await containers.find(session, ident, own_project=tx.caller.project_id)
    check_needs(parts.engines.reach(box.backend), "commit")
    containers.check_state(box, "commit")
    changes.check_image_name(query.repository, query.tag)
    tx.check()
    service = await glance.available(parts.catalogue)
    record = None
    if service is not None and Ability.IMAGE_TAR in parts.engines.reach(box.backend).abilities:
        record = await service.reserve(query.repository, [query.tag] if query.tag else [], caller_token(request))
    try:
        async with tx.writing() as session:
            box = await containers.find(session, box.uuid, own_project=tx.caller.project_id, lock=True)
            image = await changes.commit(
                session, asked(request, tx), box, parts.settings, query.repository, query.tag, record
            )
    except GatewayError:
        if service is not None and record is not None:
            await service.forget(record)
        raise
    parts.wake()
    return JSONResponse({"uuid": image}, 202)


@router.post(
    "/add_security_group",
    status_code=202,
    summary="Add a security group",
    operation_id="add_security_group",
    openapi_extra=parameters(SecurityGroup),
    dependencies=[Depends(require(1, 14))],
)
async def add_security_group(
    request: Request,
    ident: str,
    how: Annotated[SecurityGroup, Depends(either(SecurityGroup))],
    tx: Annotated[Tx, acting("add_security_group")],
) -> Response:
    """Until 1.14."""
    return await _change_groups(request, ident, tx, "add_security_group", how.name)


@router.post(
    "/remove_security_group",
    status_code=202,
    summary="Remove a security group",
    operation_id="remove_security_group",
    openapi_extra=parameters(SecurityGroup),
    dependencies=[Depends(require(1, 14))],
)
async def remove_security_group(
    request: Request,
    ident: str,
    how: Annotated[SecurityGroup, Depends(either(SecurityGroup))],
    tx: Annotated[Tx, acting("remove_security_group")],
) -> Response:
    """Until 1.14."""
    return await _change_groups(request, ident, tx, "remove_security_group", how.name)


async def _change_groups(request: Request, ident: str, tx: Tx, verb: str, name: str) -> Response:
    parts = gateway(request)
    async with tx.reading() as session:
        box = await containers.find(session, ident, own_project=tx.caller.project_id)
    containers.check_state(box, verb)
    (group,) = await known_groups(request, box, [name])
    async with tx.writing() as session:
        box = await containers.find(session, box.uuid, lock=True)
        await changes.change_groups(session, asked(request, tx), box, verb, group, parts.settings)
    parts.wake()
    return JSONResponse(None, 202)


def _view(request: Request, tx: Tx, box: Container) -> dict[str, object]:
    return view(box, tx.policy.hidden(tx.caller), base(request))
