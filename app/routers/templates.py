"""Magnum's /v1/clustertemplates (magnum-api, section 4.3)."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Literal
from uuid import UUID

from fastapi import APIRouter, Body, Depends, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BeforeValidator, Field, ValidationError, WithJsonSchema
from pydantic_core import PydanticCustomError

from app import actions, templates
from app.apis import MAGNUM, Api
from app.errors import Forbidden, Invalid, WrongContentType
from app.lookup import uuid_of
from app.models import ClusterTemplate
from app.policy import Tx, allow
from app.routers.requests import base, gateway, links, page, paging
from app.versions import ApiModel

router = APIRouter(prefix=f"{MAGNUM.collection}/clustertemplates", tags=["cluster templates"])

PUBLISH = "clustertemplate:publish"
_TRUE, _FALSE = ("true", "t", "yes", "y", "on", "1"), ("false", "f", "no", "n", "off", "0")
_LISTING = frozenset({"limit", "marker", "sort_key", "sort_dir"})


def _flag(value: Any) -> Any:
    word = str(value).lower() if isinstance(value, str | int) else ""
    if word in _TRUE or word in _FALSE:
        return word in _TRUE
    raise PydanticCustomError(
        "flag", "Value must be a boolean, or one of: {words}", {"words": ", ".join(_TRUE + _FALSE)}
    )


def _number(value: Any) -> Any:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 18:
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise PydanticCustomError("number", "Value must be an integer")
    return value


def _label(value: Any) -> Any:
    if not isinstance(value, str | int | float):
        raise PydanticCustomError("label", "The value of a label must be text, a number, true or false")
    return str(value)


def _plain(value: Any) -> Any:
    if value is not None and not isinstance(value, str | int):
        raise PydanticCustomError("plain", "Value must be text or an integer; a map is sent as its text")
    return value


Flag = Annotated[bool, BeforeValidator(_flag), WithJsonSchema({"type": "boolean"})]
Words = Annotated[str, Field(strict=True, min_length=1, max_length=255)]
Size = Annotated[int, BeforeValidator(_number), Field(ge=1, le=2**31 - 1), WithJsonSchema({"type": "integer"})]
Port = Annotated[int, BeforeValidator(_number), Field(ge=1024, le=65535), WithJsonSchema({"type": "integer"})]
Labels = dict[
    Annotated[str, Field(min_length=1, max_length=255)],
    Annotated[str, BeforeValidator(_label), Field(max_length=16384), WithJsonSchema({"type": "string"})],
]


class TemplateFields(ApiModel):
    """What a template says. Null is as good as nothing."""

    api: ClassVar[Api] = MAGNUM

    image_id: Words
    coe: Literal["kubernetes", "swarm", "swarm-mode"]
    name: Words | None = None
    driver: Words | None = None
    flavor_id: Words | None = None
    master_flavor_id: Words | None = None
    keypair_id: Words | None = None
    external_network_id: Words | None = None
    fixed_network: Words | None = None
    fixed_subnet: Words | None = None
    dns_nameserver: Words | None = None
    network_driver: Words | None = None
    volume_driver: Words | None = None
    apiserver_port: Port | None = None
    docker_volume_size: Size | None = None
    docker_storage_driver: Words | None = None
    cluster_distro: Words | None = None
    http_proxy: Words | None = None
    https_proxy: Words | None = None
    no_proxy: Words | None = None
    insecure_registry: Words | None = None
    labels: Labels | None = None
    tags: Annotated[str | None, Field(strict=True, max_length=255)] = None
    server_type: Literal["vm", "bm"] | None = None
    registry_enabled: Flag | None = None
    tls_disabled: Flag | None = None
    public: Flag | None = None
    hidden: Flag | None = None
    master_lb_enabled: Flag | None = None
    floating_ip_enabled: Flag | None = None


class TemplateCreate(TemplateFields):
    """POST body."""

    uuid: UUID | None = None


class Operation(ApiModel):
    """One operation of a JSON patch. A map is sent as its text."""

    api: ClassVar[Api] = MAGNUM

    op: Literal["add", "replace", "remove"]
    path: Annotated[str, Field(strict=True, max_length=512, pattern=r"^(/[\w-]+)+$")]
    value: Annotated[Any, BeforeValidator(_plain), WithJsonSchema({"type": ["string", "integer", "boolean"]})] = None


EXAMPLE = {
    "name": "small-swarm", "coe": "swarm-mode", "image_id": "swarm-node", "flavor_id": "small",
    "external_network_id": "public", "labels": {"swarm_strategy": "spread"},
}  # fmt: skip
PATCH = [{"op": "replace", "path": "/name", "value": "swarm"}, {"op": "add", "path": "/labels/tier", "value": "lab"}]


def magnum_json(request: Request) -> None:
    """A dependency: a body must be JSON; else 415 (magnum-api, section 3.3)."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":  # the gate has put this in the place of its synonyms
        raise WrongContentType(f"Unknown mimetype: {kind[:64] or 'none'}")


@router.get("", summary="List cluster templates", operation_id="list_cluster_templates", openapi_extra=paging(()))
async def list_templates(
    request: Request,
    tx: Annotated[Tx, Depends(allow("clustertemplate:get_all", any_project="clustertemplate:get_all_all_projects"))],
) -> Response:
    """The project's own, and public ones of others that are not hidden."""
    return await _list(request, tx, "clustertemplates")


@router.get(
    "/detail",
    summary="List cluster templates",
    operation_id="list_detailed_cluster_templates",
    openapi_extra=paging(()),
)
async def list_detailed_templates(
    request: Request,
    tx: Annotated[Tx, Depends(allow("clustertemplate:detail", any_project="clustertemplate:detail_all_projects"))],
) -> Response:
    """As the plain list: templates have no short form."""
    return await _list(request, tx, "clustertemplates/detail")


async def _list(request: Request, tx: Tx, collection: str) -> Response:
    query = request.query_params
    if unknown := sorted(query.keys() - _LISTING):
        raise Invalid(f'Unknown argument: "{", ".join(unknown)[:255]}"')
    if (marker := query.get("marker")) is not None and uuid_of(marker) is None:
        raise Invalid(f"Expected a uuid as marker but received {marker[:64]}.")
    listed = page(request, ClusterTemplate, templates.COLUMNS, ())
    async with tx.reading() as session:
        rows = await listed.rows(session, (), "clustertemplate-not-found")
    body: dict[str, Any] = {"clustertemplates": [_shown(row, base(request)) for row in rows]}
    if (following := listed.next(collection, rows)) is not None:
        body["next"] = following
    return JSONResponse(body)


@router.post(
    "",
    status_code=201,
    summary="Create a cluster template",
    operation_id="create_cluster_template",
    dependencies=[Depends(magnum_json)],
)
async def create_template(
    request: Request,
    body: Annotated[TemplateCreate, Body(examples=[EXAMPLE])],
    tx: Annotated[Tx, Depends(allow("clustertemplate:create"))],
) -> Response:
    """Stores a template. Images, flavors and networks must be known here."""
    known = gateway(request).settings.clusters
    values = templates.complete(body.model_dump(), known)
    tx.check()
    templates.check_names(values, known)
    templates.check_publish(values, tx.policy.permits(PUBLISH, tx.caller))
    template = ClusterTemplate(
        project_id=tx.caller.project_id,
        user_id=tx.caller.user_id,
        created_at=0.0,
        **values,
    )
    if body.uuid is not None:
        template.uuid = str(body.uuid)
    async with tx.writing() as session:
        await templates.create(session, template)
    shown = _shown(template, base(request))
    return JSONResponse(shown, 201, {"location": shown["links"][0]["href"]})


@router.get("/{ident}", summary="Show a cluster template", operation_id="show_cluster_template")
async def show_template(
    request: Request,
    ident: str,
    tx: Annotated[Tx, Depends(allow("clustertemplate:get", any_project="clustertemplate:get_one_all_projects"))],
) -> Response:
    """One template, by uuid or name."""
    _no_arguments(request)
    async with tx.reading() as session:
        template = await templates.find(session, ident)
    return JSONResponse(_shown(template, base(request)))


@router.patch(
    "/{ident}",
    summary="Change a cluster template",
    operation_id="update_cluster_template",
    dependencies=[Depends(magnum_json)],
)
async def update_template(
    request: Request,
    ident: str,
    body: Annotated[list[Operation], Body(examples=[PATCH])],
    tx: Annotated[Tx, Depends(allow("clustertemplate:update", any_project="clustertemplate:update_all_projects"))],
) -> Response:
    """Applies a JSON patch: all of it, or nothing."""
    _no_arguments(request)
    known = gateway(request).settings.clusters
    async with tx.writing() as session:
        template = await templates.find(session, ident, lock=True)
        _own(tx, template, "clustertemplate:update")
        wanted = templates.patched(template, [(step.op, step.path, step.value) for step in body])
        if wanted["driver"] == template.driver:
            wanted["driver"] = None  # found anew, should the COE have changed
        values = templates.complete(_validated(wanted), known)
        templates.check_names(values, known)
        changes = {name: value for name, value in values.items() if value != getattr(template, name)}
        if changes.keys() & {"public", "hidden"}:
            permitted = tx.policy.permits(PUBLISH, tx.caller)
            templates.check_publish({"public": True}, permitted)  # whichever way it changes
        templates.check_use(template, changes, await templates.used(session, template))
        for name, value in changes.items():
            setattr(template, name, value)
        if changes:
            template.updated_at = await actions.clock(session)
    return JSONResponse(_shown(template, base(request)))


@router.delete("/{ident}", status_code=204, summary="Delete a cluster template", operation_id="delete_cluster_template")
async def delete_template(
    request: Request,
    ident: str,
    tx: Annotated[Tx, Depends(allow("clustertemplate:delete", any_project="clustertemplate:delete_all_projects"))],
) -> Response:
    """Deletes it at once."""
    _no_arguments(request)
    async with tx.writing() as session:
        template = await templates.find(session, ident, lock=True)
        _own(tx, template, "clustertemplate:delete")
        await templates.remove(session, template)
    return Response(status_code=204)


def _own(tx: Tx, template: ClusterTemplate, rule: str) -> None:
    """Public templates of others can be read, and no more. Raises Forbidden."""
    if not tx.sees(template.project_id):
        raise Forbidden(f"Policy doesn't allow {rule} to be performed.")


def _no_arguments(request: Request) -> None:
    if request.query_params:
        raise Invalid(f'Unknown argument: "{", ".join(sorted(request.query_params))[:255]}"')


def _validated(values: Mapping[str, Any]) -> dict[str, Any]:
    """Fields after a patch, by the rules of a new template."""
    try:
        return TemplateFields.model_validate(values).model_dump()
    except ValidationError as error:
        raise RequestValidationError(error.errors(include_url=False)) from None


def _shown(row: ClusterTemplate, base_url: str) -> dict[str, Any]:
    return {
        "uuid": row.uuid,
        **{name: getattr(row, name) for name in templates.FIELDS},
        "links": links(base_url, "clustertemplates", row.uuid),
        "project_id": row.project_id,
        "user_id": row.user_id,
        "created_at": _time(row.created_at),
        "updated_at": _time(row.updated_at),
    }


def _time(epoch: float | None) -> str | None:
    """With the offset, which Go's clients need, and whole seconds."""
    return None if epoch is None else datetime.fromtimestamp(int(epoch), UTC).isoformat()
