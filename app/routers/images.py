"""Zun's /v1/images and /v1/registries (zun-api, sections 3.10 and 3.15)."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Depends, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import Field

from app import actions, glance, images
from app.backends.engine import Ability, Searches
from app.containers import check_ability
from app.errors import Invalid
from app.models import Image, Registry
from app.policy import Tx, allow
from app.routers.fields import Flag, Name, Text
from app.routers.requests import asked, base, caller_token, gateway, json_only, links, page, paging
from app.versions import ApiModel

router = APIRouter(prefix="/v1/images", tags=["images"])
registries = APIRouter(prefix="/v1/registries", tags=["registries"])


class ImagePull(ApiModel):
    """An image to pull to a host."""

    repo: Annotated[str, Field(strict=True, min_length=2, max_length=255, examples=["127.0.0.1:5000/busybox:1"])]
    host: Annotated[str, Field(strict=True, min_length=2, max_length=255)]
    tag: Annotated[str | None, Field(max_length=128)] = None
    image_id: Text | None = None
    size: Annotated[str | None, Field(pattern=r"^[0-9]+[bBkKmMgG]?$", coerce_numbers_to_str=True)] = None
    image_pull_policy: Text | None = None


class SearchQuery(ApiModel):
    """How to search."""

    image_driver: Literal["docker", "glance", "None", ""] | None = None
    exact_match: Flag = False


class RegistryFields(ApiModel):
    """A registry to know."""

    domain: Annotated[str, Field(strict=True, min_length=1, max_length=255, examples=["registry.example:5000"])]
    name: Name | None = None
    username: Annotated[str | None, Field(strict=True, min_length=1, max_length=255)] = None
    password: Annotated[str | None, Field(strict=True, min_length=1, max_length=4096)] = None


class RegistryCreate(ApiModel):
    """POST body."""

    registry: RegistryFields


REGISTRY = {
    "registry": {"name": "lab", "domain": "registry.example:5000", "username": "puller", "password": "a secret"}
}


class RegistryChanges(ApiModel):
    """Fields to change."""

    domain: Annotated[str | None, Field(strict=True, min_length=1, max_length=255)] = None
    name: Name | None = None
    username: Annotated[str | None, Field(strict=True, min_length=1, max_length=255)] = None
    password: Annotated[str | None, Field(strict=True, min_length=1, max_length=4096)] = None


class RegistryUpdate(ApiModel):
    """PATCH body."""

    registry: RegistryChanges


@router.get("", summary="List images", operation_id="list_images", openapi_extra=paging(()))
async def list_images(request: Request, tx: Annotated[Tx, Depends(allow("image:get_all"))]) -> Response:
    """Images that were pulled to a host through this API."""
    listed = page(request, Image, images.IMAGE_COLUMNS, request.query_params.keys())
    async with tx.reading() as session:
        rows = await listed.rows(session, (), "image-not-found")
    shown = [_image(row, base(request)) for row in rows]
    return JSONResponse({"images": shown, "next": listed.next("images", rows)})


@router.post("", status_code=202, summary="Pull an image", operation_id="pull_image", dependencies=[Depends(json_only)])
async def pull_image(
    request: Request,
    body: Annotated[ImagePull, Body(examples=[{"repo": "127.0.0.1:5000/busybox:1", "host": "cloud"}])],
    tx: Annotated[Tx, Depends(allow("image:pull"))],
) -> Response:
    """Pulls in the background; `size` and `image_id` are set when it is there."""
    parts = gateway(request)
    tx.check()
    reference = images.parse(body.repo, "repo")
    backend = parts.engines.on_host(body.host)
    if backend is None:
        raise Invalid(f"host: {body.host[:64]} is not a known host")
    image = Image(
        project_id=tx.caller.project_id,
        user_id=tx.caller.user_id,
        repo=reference.repo,
        tag=reference.tag or body.tag or "latest",
        host=body.host,
        backend=backend,
        created_at=0.0,
    )
    images.parse(f"{image.repo}:{image.tag}", "tag")
    async with tx.writing() as session:
        await images.accept_pull(session, asked(request, tx), image, parts.settings)
    parts.wake()
    shown = _image(image, base(request))
    return JSONResponse(shown, 202, {"location": shown["links"][0]["href"]})


@router.get("/{name:path}/search", summary="Search images", operation_id="search_images")
async def search_images(
    request: Request,
    name: str,
    query: Annotated[SearchQuery, Query()],
    tx: Annotated[Tx, Depends(allow("image:search"))],
) -> Response:
    """Asks the engine's registry, or with image_driver glance the image service, as the caller."""
    tx.check()
    if query.image_driver == "glance":
        service = await glance.connect(gateway(request).catalogue, "image_driver")
        return JSONResponse(await service.search(name, caller_token(request), exact=query.exact_match))
    engine = next(iter(gateway(request).engines.values()))
    check_ability(engine, Ability.SEARCH, "search images", "ask the registry itself")
    found = await engine.search(name) if isinstance(engine, Searches) else []
    return JSONResponse(
        [
            {
                "name": image.name,
                "description": image.description,
                "is_automated": image.automated,
                "metadata": {"is_official": image.official, "star_count": image.stars},
            }
            for image in found
            if not query.exact_match or image.name == name
        ]
    )


ONE_IMAGE = "container:get_one_all_projects"  # who passes this reaches single images of every project (section 5.1)


@router.get("/{uuid}", summary="Show an image", operation_id="show_image")
async def show_image(
    request: Request, uuid: str, tx: Annotated[Tx, Depends(allow("image:get_one", any_project=ONE_IMAGE))]
) -> Response:
    """One image."""
    async with tx.reading() as session:
        row = await images.find_image(session, uuid)
    return JSONResponse(_image(row, base(request)))


@router.delete("/{uuid}", summary="Delete an image", operation_id="delete_image")
async def delete_image(
    request: Request, uuid: str, tx: Annotated[Tx, Depends(allow("image:delete", any_project=ONE_IMAGE))]
) -> Response:
    """Removes it from its host in the background."""
    async with tx.writing() as session:
        image = await images.find_image(session, uuid, lock=True)
        await images.accept_removal(session, asked(request, tx), image, gateway(request).settings)
    gateway(request).wake()
    return JSONResponse(None)


@registries.get(
    "",
    summary="List registries",
    operation_id="list_registries",
    openapi_extra=paging((*images.REGISTRY_FILTERS, "all_projects")),
)
async def list_registries(
    request: Request,
    tx: Annotated[Tx, Depends(allow("registry:get_all", all_projects="registry:get_all_all_projects"))],
) -> Response:
    """The project's registries; passwords are never shown."""
    listed = page(request, Registry, images.REGISTRY_COLUMNS, images.REGISTRY_FILTERS)
    given = request.query_params
    where = [images.REGISTRY_COLUMNS[name] == given[name] for name in images.REGISTRY_FILTERS if name in given]
    async with tx.reading() as session:
        rows = await listed.rows(session, where, "registry-not-found")
    return JSONResponse({"registries": [_registry(row, None) for row in rows], "next": listed.next("registries", rows)})


@registries.post(
    "", status_code=201, summary="Create a registry", operation_id="create_registry", dependencies=[Depends(json_only)]
)
async def create_registry(
    request: Request,
    body: Annotated[RegistryCreate, Body(examples=[REGISTRY])],
    tx: Annotated[Tx, Depends(allow("registry:create"))],
) -> Response:
    """Stores a registry and its credentials; the password is encrypted."""
    given = body.registry
    tx.check()
    images.check_passwords((given.username, given.password))
    registry = Registry(
        project_id=tx.caller.project_id,
        user_id=tx.caller.user_id,
        name=given.name or given.domain,
        domain=given.domain,
        username=given.username,
        password=gateway(request).vault.seal(given.password) if given.password else None,
        created_at=0.0,
    )
    async with tx.writing() as session:
        registry.created_at = await actions.clock(session)
        session.add(registry)
    shown = _registry(registry, base(request))
    return JSONResponse({"registry": shown}, 201, {"location": shown["links"][0]["href"]})


@registries.get("/{ident}", summary="Show a registry", operation_id="show_registry")
async def show_registry(
    request: Request,
    ident: str,
    tx: Annotated[Tx, Depends(allow("registry:get_one", any_project="registry:get_all_all_projects"))],
) -> Response:
    """One registry, by uuid or name."""
    async with tx.reading() as session:
        registry = await images.find_registry(session, ident, own_project=tx.caller.project_id)
    return JSONResponse({"registry": _registry(registry, base(request))})


@registries.patch("/{ident}", summary="Change a registry", operation_id="update_registry")
async def update_registry(
    request: Request,
    ident: str,
    body: Annotated[RegistryUpdate, Body(examples=[{"registry": {"password": "a new one"}}])],
    tx: Annotated[Tx, Depends(allow("registry:update"))],
) -> Response:
    """Changes what is named and leaves the rest."""
    given = body.registry
    tx.check()
    images.check_passwords((given.username, given.password))
    async with tx.writing() as session:
        registry = await images.find_registry(session, ident)
        for name in ("domain", "name", "username"):
            if (value := getattr(given, name)) is not None:
                setattr(registry, name, value)
        if given.password is not None:
            registry.password = gateway(request).vault.seal(given.password)
        registry.updated_at = await actions.clock(session)
    return JSONResponse({"registry": _registry(registry, base(request))})


@registries.delete("/{ident}", status_code=204, summary="Delete a registry", operation_id="delete_registry")
async def delete_registry(
    ident: str, tx: Annotated[Tx, Depends(allow("registry:delete", any_project="registry:get_all_all_projects"))]
) -> Response:
    """Refused with 409 while a container refers to it."""
    async with tx.writing() as session:
        registry = await images.find_registry(session, ident, own_project=tx.caller.project_id)
        await images.remove_registry(session, registry)
    return Response(status_code=204)


def _image(row: Image, base_url: str) -> dict[str, Any]:
    return {
        "uuid": row.uuid,
        "links": links(base_url, "images", row.uuid),
        "image_id": row.image_id,
        "repo": row.repo,
        "tag": row.tag,
        "size": None if row.size is None else str(row.size),
        "project_id": row.project_id,
        "host": row.host,
        "status": row.status,
        "status_reason": row.status_reason,
    }


def _registry(row: Registry, base_url: str | None) -> dict[str, Any]:
    shown = {
        "uuid": row.uuid,
        "user_id": row.user_id,
        "project_id": row.project_id,
        "name": row.name,
        "domain": row.domain,
        "username": row.username,
        "password": "***",
    }
    return shown if base_url is None else shown | {"links": links(base_url, "registries", row.uuid)}
