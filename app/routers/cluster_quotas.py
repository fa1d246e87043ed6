"""Magnum's /v1/quotas (magnum-api, section 4.6): clusters of a project. Zun's are `app.routers.quotas`."""

from typing import Annotated, Any, ClassVar, Literal

from fastapi import APIRouter, Body, Depends, Path, Request, Response
from fastapi.responses import JSONResponse
from pydantic import Field

from app import cluster_quotas
from app.apis import MAGNUM, Api
from app.errors import Forbidden, NotFound
from app.models import ClusterQuota
from app.policy import Tx, allow
from app.routers.magnum_fields import Count, Words, flag, listing, magnum_json, time
from app.routers.requests import gateway, paging
from app.versions import ApiModel

router = APIRouter(prefix=f"{MAGNUM.collection}/quotas", tags=["quotas"])

OTHERS = "quota:update"  # who may set quotas may look at those of every project
Project = Annotated[str, Path(max_length=255, description="A project's id.")]
Resource = Annotated[str, Path(max_length=255, description="Cluster, and nothing else.")]


class Limit(ApiModel):
    """How many clusters."""

    api: ClassVar[Api] = MAGNUM

    project_id: Words | None = None
    resource: Literal["Cluster"] | None = None
    hard_limit: Annotated[Count | None, Field(description="1 if absent")] = None

    @property
    def most(self) -> int:
        """The limit that is asked for."""
        return 1 if self.hard_limit is None else self.hard_limit


class LimitOf(Limit):
    """How many clusters, and whose."""

    project_id: Words


EXAMPLE = {"project_id": "28efb79e969e43a5b0b78ec14821c357", "resource": "Cluster", "hard_limit": 5}


@router.get(
    "", summary="List quotas of clusters", operation_id="list_cluster_quotas", openapi_extra=paging(("all_tenants",))
)
async def list_quotas(request: Request, tx: Annotated[Tx, Depends(allow("quota:get_all"))]) -> Response:
    """What administrators have set: of the own project, or with `all_tenants` of all."""
    listed = listing(request, ClusterQuota, cluster_quotas.COLUMNS, ("all_tenants",), mark="id")
    every = flag("all_tenants", request.query_params.get("all_tenants", "false"))
    where = () if every else (ClusterQuota.project_id == tx.caller.project_id,)
    async with tx.reading() as session:
        rows = await listed.rows(session, where, "quota-not-found")
    body: dict[str, Any] = {"quotas": [_shown(row) for row in rows]}
    if (following := listed.next("quotas", rows)) is not None:
        body["next"] = following
    return JSONResponse(body)


@router.post(
    "",
    status_code=201,
    summary="Set a quota of clusters",
    operation_id="create_cluster_quota",
    dependencies=[Depends(magnum_json)],
)
async def create_quota(
    request: Request,
    body: Annotated[LimitOf, Body(examples=[EXAMPLE])],
    tx: Annotated[Tx, Depends(allow("quota:create"))],
) -> Response:
    """Says how many clusters a project may have."""
    tx.check()
    if not await gateway(request).authenticator.source.has_project(body.project_id):
        raise NotFound(f"The project_id {body.project_id} could not be found.")
    async with tx.writing() as session:
        row = await cluster_quotas.create(session, body.project_id, body.most)
    return JSONResponse(_shown(row), 201)


@router.get("/{project}/{resource}", summary="Show a quota of clusters", operation_id="show_cluster_quota")
async def show_quota(
    request: Request,
    project: Project,
    resource: Resource,
    tx: Annotated[Tx, Depends(allow("quota:get", any_project=OTHERS))],
) -> Response:
    """What a project may have: what was set, or the general limit."""
    tx.check()
    if not tx.sees(project):
        raise Forbidden("Not authorized.")
    async with tx.reading() as session:
        row = await cluster_quotas.limit(session, project, resource)
    if row is not None:
        return JSONResponse(_shown(row))
    general = gateway(request).settings.clusters.quota
    return JSONResponse({"project_id": project, "resource": cluster_quotas.RESOURCE, "hard_limit": general})


@router.patch(
    "/{project}/{resource}",
    status_code=202,
    summary="Change a quota of clusters",
    operation_id="update_cluster_quota",
    dependencies=[Depends(magnum_json)],
)
async def update_quota(
    project: Project,
    resource: Resource,
    body: Annotated[Limit, Body(examples=[EXAMPLE])],
    tx: Annotated[Tx, Depends(allow("quota:update"))],
) -> Response:
    """Changes what was set. The project is that of the path."""
    async with tx.writing() as session:
        row = await cluster_quotas.change(session, project, resource, body.most)
    return JSONResponse(_shown(row), 202)


@router.delete(
    "/{project}/{resource}", status_code=204, summary="Reset a quota of clusters", operation_id="delete_cluster_quota"
)
async def delete_quota(
    project: Project, resource: Resource, tx: Annotated[Tx, Depends(allow("quota:delete"))]
) -> Response:
    """The general limit holds again."""
    async with tx.writing() as session:
        await cluster_quotas.remove(session, project, resource)
    return Response(status_code=204)


def _shown(row: ClusterQuota) -> dict[str, Any]:
    return {
        "id": row.id,
        "project_id": row.project_id,
        "resource": row.resource,
        "hard_limit": row.hard_limit,
        "created_at": time(row.created_at),
        "updated_at": time(row.updated_at),
    }
