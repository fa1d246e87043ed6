"""Magnum's /v1/stats, /v1/mservices and /v1/federations (magnum-api, sections 4.7 to 4.9)."""

from typing import Annotated, Any, ClassVar

from fastapi import APIRouter, Body, Depends, Request, Response
from fastapi.responses import JSONResponse

from app import actions, clusters, hosts
from app.apis import MAGNUM, Api
from app.errors import Forbidden, Invalid, NotFound
from app.policy import Tx, allow
from app.routers.magnum_fields import LISTING, Operation, Words, arguments, magnum_json, time
from app.routers.requests import gateway, paging
from app.versions import ApiModel

stats = APIRouter(prefix=f"{MAGNUM.collection}/stats", tags=["cluster reports"])
services = APIRouter(prefix=f"{MAGNUM.collection}/mservices", tags=["cluster reports"])
federations = APIRouter(prefix=f"{MAGNUM.collection}/federations", tags=["cluster reports"])


class Federation(ApiModel):
    """What a federation would be."""

    api: ClassVar[Api] = MAGNUM

    name: Words | None = None
    hostcluster_id: Words | None = None
    member_ids: list[Words] | None = None
    properties: dict[str, Any] | None = None


def _query(**described: str) -> dict[str, Any]:
    return {
        "parameters": [
            {"name": name, "in": "query", "required": False, "schema": {"type": "string"}, "description": text}
            for name, text in described.items()
        ]
    }


@stats.get(
    "",
    summary="Count clusters",
    operation_id="show_cluster_stats",
    openapi_extra=_query(project_id="Whose; of administrators everybody's if absent", type="cluster"),
)
async def show_stats(
    request: Request,
    tx: Annotated[Tx, Depends(allow("stats:get_all", any_project="cluster:get_all_all_projects"))],
) -> Response:
    """How many clusters there are, and how many nodes, masters included."""
    query = arguments(request, ("project_id", "type"))
    project, kind = query.get("project_id"), query.get("type", "cluster")
    if kind.lower() != "cluster":
        raise Invalid(f"Invalid value for 'type': {kind[:64]}. It must be cluster.")
    tx.check()
    if project is not None and not tx.sees(project):
        raise Forbidden("Not authorized.")
    async with tx.reading() as session:
        found, nodes = await clusters.counts(session, project)
    return JSONResponse({"clusters": found, "nodes": nodes})


@services.get("", summary="List Magnum's services", operation_id="list_cluster_services")
async def list_services(request: Request, tx: Annotated[Tx, Depends(allow("magnum-service:get_all"))]) -> Response:
    """One: Caisson itself, which is up while any of its hosts is."""
    arguments(request)
    async with tx.reading() as session:
        rows = await hosts.known(session)
        now = await actions.clock(session)
    if not rows:  # none has reported, or an administrator has removed it
        return JSONResponse({"mservices": []})
    up = any(hosts.is_up(row, now, gateway(request).settings) for row in rows)
    service = {
        "id": 1,
        "host": rows[0].hostname,
        "binary": "magnum-conductor",
        "state": "up" if up else "down",
        "disabled": False,
        "disabled_reason": None,
        "report_count": sum(row.report_count for row in rows),
        "created_at": time(rows[0].created_at),
        "updated_at": time(max(row.last_seen_up or row.created_at for row in rows)),
    }
    return JSONResponse({"mservices": [service]})


@federations.get("", summary="List federations", operation_id="list_federations", openapi_extra=paging(()))
async def list_federations(request: Request, tx: Annotated[Tx, Depends(allow("federation:get_all"))]) -> Response:
    """There are none."""
    return _none(request, tx)


@federations.get(
    "/detail", summary="List federations", operation_id="list_detailed_federations", openapi_extra=paging(())
)
async def list_detailed_federations(
    request: Request, tx: Annotated[Tx, Depends(allow("federation:detail"))]
) -> Response:
    """There are none."""
    return _none(request, tx)


@federations.post(
    "",
    status_code=202,
    summary="Create a federation",
    operation_id="create_federation",
    dependencies=[Depends(magnum_json)],
)
async def create_federation(
    body: Annotated[Federation, Body(examples=[{"name": "all", "hostcluster_id": "blue"}])],
    tx: Annotated[Tx, Depends(allow("federation:create"))],
) -> Response:
    """Refused: no driver makes federations, in Magnum neither."""
    tx.check()
    raise Invalid("Federations are not supported: no driver makes them.")


@federations.get("/{ident}", summary="Show a federation", operation_id="show_federation")
async def show_federation(ident: str, tx: Annotated[Tx, Depends(allow("federation:get"))]) -> Response:
    """There are none."""
    raise _absent(tx, ident)


@federations.patch(
    "/{ident}",
    status_code=202,
    summary="Change a federation",
    operation_id="update_federation",
    dependencies=[Depends(magnum_json)],
)
async def update_federation(
    ident: str,
    body: Annotated[list[Operation], Body(examples=[[{"op": "add", "path": "/member_ids", "value": "blue"}]])],
    tx: Annotated[Tx, Depends(allow("federation:update"))],
) -> Response:
    """There are none."""
    raise _absent(tx, ident)


@federations.delete("/{ident}", status_code=204, summary="Delete a federation", operation_id="delete_federation")
async def delete_federation(ident: str, tx: Annotated[Tx, Depends(allow("federation:delete"))]) -> Response:
    """There are none."""
    raise _absent(tx, ident)


def _none(request: Request, tx: Tx) -> Response:
    arguments(request, LISTING)
    tx.check()
    return JSONResponse({"federations": []})


def _absent(tx: Tx, ident: str) -> NotFound:
    tx.check()
    return NotFound(f"Federation {ident[:255]} could not be found.")
