"""Magnum's /v1/clusters/{ident}/nodegroups (magnum-api, sections 4.2 and 5.3)."""

from typing import Annotated, Any, ClassVar

from fastapi import APIRouter, Body, Depends, Request, Response
from fastapi.responses import JSONResponse
from pydantic import Field

from app import clusters, labels, nodegroups
from app.apis import MAGNUM, Api
from app.models import Cluster, NodeGroup
from app.policy import Tx, allow
from app.routers.clusters import place
from app.routers.magnum_fields import (
    Flag,
    Labels,
    Nodes,
    Operation,
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
from app.routers.requests import asked, base, gateway, links, paging
from app.versions import ApiModel, require

router = APIRouter(
    prefix=f"{MAGNUM.collection}/clusters/{{ident}}/nodegroups",
    tags=["node groups"],
    dependencies=[Depends(require(9))],
)

Key = Annotated[str, Field(strict=True, min_length=1, max_length=255)]
NodeLabels = dict[Key, Annotated[str, Field(strict=True, max_length=255)]]
Taints = Annotated[list[dict[Key, Annotated[str, Field(strict=True, max_length=255)]]], Field(max_length=100)]
_NOT_YET = ("id", "status", "status_reason", "stack_id", "version", "node_addresses", "created_at", "updated_at")
"""What the answer to a POST does not tell."""


class NodeGroupChanges(ApiModel):
    """What a patch may set."""

    api: ClassVar[Api] = MAGNUM

    min_node_count: Nodes | None = None
    max_node_count: Nodes | None = None
    node_labels: NodeLabels | None = None
    node_taints: Taints | None = None


class NodeGroupCreate(NodeGroupChanges):
    """POST body. Null is as good as nothing."""

    name: Words
    role: Words | None = None
    node_count: Nodes | None = None
    flavor_id: Words | None = None
    image_id: Words | None = None
    docker_volume_size: Size | None = None
    labels: Labels | None = None
    merge_labels: Flag | None = None


CREATE = {"name": "big", "node_count": 1, "flavor_id": "large", "max_node_count": 3, "node_labels": {"tier": "web"}}
PATCH = [{"op": "replace", "path": "/max_node_count", "value": 5}]


@router.get("", summary="List node groups", operation_id="list_nodegroups", openapi_extra=paging(("role",)))
async def list_nodegroups(
    request: Request,
    ident: str,
    tx: Annotated[Tx, Depends(allow("nodegroup:get_all", any_project="nodegroup:get_all_all_projects"))],
) -> Response:
    """The node groups of one cluster."""
    listed = listing(request, NodeGroup, nodegroups.COLUMNS, ("role",))
    async with tx.reading() as session:
        cluster = await clusters.find(session, ident)
        rows = await listed.rows(
            session, nodegroups.within(cluster, request.query_params.get("role")), "nodegroup-not-found"
        )
    shown = [{name: getattr(row, name) for name in nodegroups.SHORT} | {"merge_labels": False} for row in rows]
    body: dict[str, Any] = {"nodegroups": shown}
    if (following := listed.next(f"clusters/{cluster.uuid}/nodegroups", rows)) is not None:
        body["next"] = following
    return JSONResponse(body)


@router.post(
    "",
    status_code=202,
    summary="Create a node group",
    operation_id="create_nodegroup",
    dependencies=[Depends(magnum_json)],
)
async def create_nodegroup(
    request: Request,
    ident: str,
    body: Annotated[NodeGroupCreate, Body(examples=[CREATE])],
    tx: Annotated[Tx, Depends(allow("nodegroup:create"))],
) -> Response:
    """Adds nodes that are alike among themselves to a cluster."""
    arguments(request)
    parts, values = gateway(request), _complete(body)
    async with tx.reading() as session:
        cluster, groups = await clusters.find_whole(session, ident)
        nodegroups.check_new(cluster, groups, values)
    size = await cloud(request).flavor(values["flavor_id"] or cluster.flavor_id)
    image = await cloud(request).image(values["image_id"] or nodegroups.default(groups).image_id or "")
    async with tx.writing() as session:
        cluster, groups = await clusters.find_whole(session, cluster.uuid, lock=True)
        group = await nodegroups.create(
            session, asked(request, tx), cluster, groups, values, image, size, place(request)
        )
    parts.wake()
    shown = _full(group, cluster, base(request))
    return JSONResponse({name: value for name, value in shown.items() if name not in _NOT_YET}, 202)


@router.get("/{nodegroup}", summary="Show a node group", operation_id="show_nodegroup")
async def show_nodegroup(
    request: Request,
    ident: str,
    nodegroup: str,
    tx: Annotated[Tx, Depends(allow("nodegroup:get", any_project="nodegroup:get_one_all_projects"))],
) -> Response:
    """One node group, by number, uuid or name."""
    arguments(request)
    async with tx.reading() as session:
        cluster = await clusters.find(session, ident)
        group = await nodegroups.find(session, cluster, nodegroup)
    return JSONResponse(_full(group, cluster, base(request)))


@router.patch(
    "/{nodegroup}",
    status_code=202,
    summary="Change a node group",
    operation_id="update_nodegroup",
    dependencies=[Depends(magnum_json)],
)
async def update_nodegroup(
    request: Request,
    ident: str,
    nodegroup: str,
    body: Annotated[list[Operation], Body(examples=[PATCH])],
    tx: Annotated[Tx, Depends(allow("nodegroup:update"))],
) -> Response:
    """Applies a JSON patch to min_node_count, max_node_count, node_labels and node_taints."""
    arguments(request)
    parts = gateway(request)
    async with tx.writing() as session:
        cluster, groups = await clusters.find_whole(session, ident, lock=True)
        group = await nodegroups.find(session, cluster, nodegroup)
        wanted = nodegroups.patched(group, operations(body))
        values = validated(NodeGroupChanges, wanted).model_dump()
        await nodegroups.change(session, asked(request, tx), cluster, groups, group, values, place(request))
    parts.wake()
    return JSONResponse(_full(group, cluster, base(request)), 202)


@router.delete("/{nodegroup}", status_code=204, summary="Delete a node group", operation_id="delete_nodegroup")
async def delete_nodegroup(
    request: Request, ident: str, nodegroup: str, tx: Annotated[Tx, Depends(allow("nodegroup:delete"))]
) -> Response:
    """Removes a node group with its nodes, in the background; it is gone when GET answers 404."""
    arguments(request)
    parts = gateway(request)
    async with tx.writing() as session:
        cluster = await clusters.find(session, ident, lock=True)
        group = await nodegroups.find(session, cluster, nodegroup)
        await nodegroups.remove(session, asked(request, tx), cluster, group, place(request))
    parts.wake()
    return Response(status_code=204)


def _complete(body: NodeGroupCreate) -> dict[str, Any]:
    values = body.model_dump()
    given = {"role": nodegroups.WORKER, "node_count": 1, "min_node_count": 0, "node_labels": {}, "node_taints": []}
    values |= {name: default for name, default in given.items() if values[name] is None}
    values["max_node_count"] = values["max_node_count"] or None
    return values


def _full(row: NodeGroup, cluster: Cluster, base_url: str) -> dict[str, Any]:
    found = labels.difference(row.labels, cluster.labels)
    return {
        **{name: getattr(row, name) for name in (*nodegroups.SHORT, *nodegroups.FULL)},
        "merge_labels": False,
        "labels_overridden": found.overridden,
        "labels_added": found.added,
        "labels_skipped": found.skipped,
        "links": links(base_url, f"clusters/{cluster.uuid}/nodegroups", row.uuid),
        "created_at": time(row.created_at),
        "updated_at": time(row.updated_at),
    }
