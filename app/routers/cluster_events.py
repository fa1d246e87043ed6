"""/v1/clusters/{ident}/events: the history of a cluster. Magnum has none (docs/compatibility.md)."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse

from app import cluster_events
from app.apis import MAGNUM
from app.models import Action
from app.policy import Tx, allow
from app.routers.magnum_fields import listing, time
from app.routers.requests import paging

router = APIRouter(prefix=f"{MAGNUM.collection}/clusters/{{ident}}/events", tags=["clusters"])
TIMES = ("created_at", "started_at", "finished_at")


@router.get("", summary="List events", operation_id="list_cluster_events", openapi_extra=paging((), mark="id"))
async def list_events(
    request: Request,
    ident: str,
    tx: Annotated[Tx, Depends(allow("cluster:get", any_project="cluster:get_one_all_projects"))],
) -> Response:
    """What was asked of a cluster, by whom, and how it ended, in the order in which it was asked."""
    listed = listing(request, Action, cluster_events.COLUMNS, mark="id")
    async with tx.reading() as session:
        traced = await cluster_events.trace(session, ident)
        rows = await listed.rows(session, traced.events, "event-not-found")
    events = [traced.event(row) for row in rows]
    shown = [event | {name: time(event[name]) for name in TIMES} for event in events]
    body: dict[str, Any] = {"events": shown}
    if (following := listed.next(f"clusters/{traced.uuid}/events", rows)) is not None:
        body["next"] = following
    return JSONResponse(body)
