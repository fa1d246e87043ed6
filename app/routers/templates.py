"""Magnum's /v1/clustertemplates (magnum-api, section 4.3)."""

from typing import Annotated, Any, ClassVar, Literal
from uuid import UUID

from fastapi import APIRouter, Body, Depends, Request, Response
from fastapi.responses import JSONResponse
from pydantic import Field

from app import templates
from app.apis import MAGNUM, Api
from app.errors import Forbidden
from app.models import ClusterTemplate
from app.policy import Tx, allow
from app.routers.magnum_fields import (
    Flag,
    Given,
    Labels,
    Operation,
    Port,
    Size,
    Words,
    arguments,
    cloud,
    listing,
    magnum_json,
    operations,
    time,
    validated,
)
from app.routers.requests import base, links, paging
from app.versions import ApiModel

router = APIRouter(prefix=f"{MAGNUM.collection}/clustertemplates", tags=["cluster templates"])

PUBLISH = "clustertemplate:publish"


class TemplateFields(ApiModel):
    """What a template says. Null is as good as nothing."""

    api: ClassVar[Api] = MAGNUM

    image_id: Words
    coe: Literal["kubernetes", "swarm", "swarm-mode"]
    name: Words | None = None
    driver: Words | None = None
    flavor_id: Words | None = None
    master_flavor_id: Words | None = None
    keypair_id: Given = None
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


EXAMPLE = {
    "name": "small-swarm", "coe": "swarm-mode", "image_id": "swarm-node", "flavor_id": "small",
    "external_network_id": "public", "labels": {"swarm_strategy": "spread"},
}  # fmt: skip
PATCH = [{"op": "replace", "path": "/name", "value": "swarm"}, {"op": "add", "path": "/labels/tier", "value": "lab"}]


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
    listed = listing(request, ClusterTemplate, templates.COLUMNS)
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
    values = await templates.complete(body.model_dump(), cloud(request))
    tx.check()
    await templates.check_names(values, cloud(request))
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
    made = _shown(template, base(request))
    return JSONResponse(made, 201, {"location": made["links"][0]["href"]})


@router.get("/{ident}", summary="Show a cluster template", operation_id="show_cluster_template")
async def show_template(
    request: Request,
    ident: str,
    tx: Annotated[Tx, Depends(allow("clustertemplate:get", any_project="clustertemplate:get_one_all_projects"))],
) -> Response:
    """One template, by uuid or name."""
    arguments(request)
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
    arguments(request)
    async with tx.reading() as session:
        template = await templates.find(session, ident)
    _own(tx, template, "clustertemplate:update")
    wanted = templates.patched(template, operations(body))
    if wanted["driver"] == template.driver:
        wanted["driver"] = None  # found anew, should the COE have changed
    values = await templates.complete(validated(TemplateFields, wanted).model_dump(), cloud(request))
    await templates.check_names(values, cloud(request))
    changes = {name: value for name, value in values.items() if value != getattr(template, name)}
    if changes.keys() & {"public", "hidden"}:
        permitted = tx.policy.permits(PUBLISH, tx.caller)
        templates.check_publish({"public": True}, permitted)  # whichever way it changes
    async with tx.writing() as session:
        template = await templates.change(session, template, changes)
    return JSONResponse(_shown(template, base(request)))


@router.delete("/{ident}", status_code=204, summary="Delete a cluster template", operation_id="delete_cluster_template")
async def delete_template(
    request: Request,
    ident: str,
    tx: Annotated[Tx, Depends(allow("clustertemplate:delete", any_project="clustertemplate:delete_all_projects"))],
) -> Response:
    """Deletes it at once."""
    arguments(request)
    async with tx.writing() as session:
        template = await templates.find(session, ident, lock=True)
        _own(tx, template, "clustertemplate:delete")
        await templates.remove(session, template)
    return Response(status_code=204)


def _own(tx: Tx, template: ClusterTemplate, rule: str) -> None:
    """Public templates of others can be read, and no more. Raises Forbidden."""
    if not tx.sees(template.project_id):
        raise Forbidden(f"Policy doesn't allow {rule} to be performed.")


def _shown(row: ClusterTemplate, base_url: str) -> dict[str, Any]:
    return {
        "uuid": row.uuid,
        **{name: getattr(row, name) for name in templates.FIELDS},
        "links": links(base_url, "clustertemplates", row.uuid),
        "project_id": row.project_id,
        "user_id": row.user_id,
        "created_at": time(row.created_at),
        "updated_at": time(row.updated_at),
    }
