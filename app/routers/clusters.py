"""Magnum's /v1/clusters (magnum-api, sections 4.1 and 5.1)."""

import math
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from fastapi import APIRouter, Body, Depends, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BeforeValidator, Field

from app import cluster_changes, cluster_creation, cluster_quotas, clusters, labels, nodegroups, templates
from app.answers import Answer
from app.apis import MAGNUM, Api
from app.backends.driver import MASTER
from app.clusters import Place
from app.errors import Forbidden, Invalid, NotFound
from app.models import Cluster, ClusterTemplate, NodeGroup
from app.policy import Reading, Tx, allow
from app.routers.magnum_fields import (
    Count,
    Flag,
    Given,
    Labels,
    Nodes,
    Operation,
    Size,
    Words,
    arguments,
    cloud,
    flag,
    given,
    listing,
    magnum_json,
    operations,
    time,
    validated,
)
from app.routers.requests import asked, base, gateway, links, paging
from app.routers.templates import PUBLISH
from app.versions import ApiModel, require, version

router = APIRouter(prefix=f"{MAGNUM.collection}/clusters", tags=["clusters"])

NAME = r"^[a-zA-Z][a-zA-Z0-9_.-]*$"
Name = Annotated[str, Field(strict=True, min_length=1, max_length=242, pattern=NAME)]
Masters = Annotated[Nodes, Field(ge=1)]
ZERO = "Resizing a nodegroup to zero is not supported in the provided microversion."


class ClusterCreate(ApiModel):
    """POST body. Null is as good as nothing, but for create_timeout."""

    api: ClassVar[Api] = MAGNUM

    cluster_template_id: Words
    name: Annotated[Name | None, BeforeValidator(given)] = None
    keypair: Given = None
    node_count: Annotated[Nodes | None, Field(description="1 if absent; 0 since 1.10")] = None
    master_count: Annotated[Masters | None, Field(description="Odd; 1 if absent")] = None
    docker_volume_size: Size | None = None
    labels: Labels | None = None
    merge_labels: Annotated[Flag | None, Field(description="Keep the template's labels beside these")] = None
    master_flavor_id: Words | None = None
    flavor_id: Words | None = None
    create_timeout: Annotated[Count | None, Field(description="Minutes")] = None
    discovery_url: Annotated[str | None, Field(strict=True, max_length=255)] = None
    fixed_network: Words | None = None
    fixed_subnet: Words | None = None
    floating_ip_enabled: Flag | None = None
    master_lb_enabled: Flag | None = None


class ClusterChanges(ApiModel):
    """What a patch may set."""

    api: ClassVar[Api] = MAGNUM

    name: Name = ""
    labels: Labels = Field(default_factory=dict)
    node_count: Nodes = 1
    health_status: Literal["HEALTHY", "UNHEALTHY", "UNKNOWN"] | None = None
    health_status_reason: Labels = Field(default_factory=dict)


class Resize(ApiModel):
    """How many nodes a node group is to have."""

    api: ClassVar[Api] = MAGNUM

    node_count: Nodes
    nodes_to_remove: Annotated[list[Words] | None, Field(max_length=1000)] = None
    nodegroup: Annotated[Words | None, Field(description="The default workers if absent")] = None


class Upgrade(ApiModel):
    """What a cluster is to be made from."""

    api: ClassVar[Api] = MAGNUM

    cluster_template: Words
    max_batch_size: Annotated[Size | None, Field(description="Nodes that are replaced at a time; 1 if absent")] = None
    nodegroup: Annotated[Words | None, Field(description="Both default node groups if absent")] = None


CREATE = {"name": "blue", "cluster_template_id": "small-swarm", "node_count": 2, "labels": {"tier": "lab"},
          "merge_labels": True, "create_timeout": 30}  # fmt: skip
PATCH = [{"op": "replace", "path": "/node_count", "value": 3}, {"op": "add", "path": "/labels/tier", "value": "lab"}]


@router.get("", summary="List clusters", operation_id="list_clusters", openapi_extra=paging(()))
async def list_clusters(
    request: Request,
    tx: Annotated[Tx, Depends(allow("cluster:get_all", any_project="cluster:get_all_all_projects"))],
) -> Response:
    """The project's clusters, in short; for administrators those of all projects."""
    listed = listing(request, Cluster, clusters.COLUMNS)

    async def render(session: Reading) -> Answer:
        rows = await listed.rows(session, (), "cluster-not-found")
        groups = await clusters.groups_of(session, rows)
        body: dict[str, Any] = {"clusters": [_short(row, groups[row.uuid], base(request)) for row in rows]}
        if (following := listed.next("clusters", rows)) is not None:
            body["next"] = following
        return Answer(bytes(JSONResponse(body).body), math.inf)

    key = ("clusters", base(request), request.url.query, version.get())
    return Response(await tx.remembered(key, render, (Cluster, NodeGroup)), media_type="application/json")


@router.get("/detail", summary="List clusters", operation_id="list_detailed_clusters", openapi_extra=paging(()))
async def list_detailed_clusters(
    request: Request,
    tx: Annotated[Tx, Depends(allow("cluster:detail", any_project="cluster:detail_all_projects"))],
) -> Response:
    """As the plain list, with all that is to be said of each."""
    listed = listing(request, Cluster, clusters.COLUMNS)
    async with tx.reading() as session:
        rows = await listed.rows(session, (), "cluster-not-found")
        groups = await clusters.groups_of(session, rows)
        made_from = await clusters.templates_of(session, rows)
    shown = [_full(row, groups[row.uuid], made_from.get(row.cluster_template_id), base(request)) for row in rows]
    body: dict[str, Any] = {"clusters": shown}
    if (following := listed.next("clusters/detail", rows)) is not None:
        body["next"] = following
    return JSONResponse(body)


@router.post(
    "",
    status_code=202,
    summary="Create a cluster",
    operation_id="create_cluster",
    dependencies=[Depends(magnum_json)],
)
async def create_cluster(
    request: Request,
    body: Annotated[ClusterCreate, Body(examples=[CREATE])],
    tx: Annotated[Tx, Depends(allow("cluster:create"))],
) -> Response:
    """Accepts a cluster; its status and status_reason tell what becomes of it."""
    arguments(request)
    parts, values = gateway(request), _complete(request, body)
    async with tx.reading() as session:
        template = await _template(session, body.cluster_template_id)
        cluster_creation.check_type(template, values, place(request))
        if values["node_count"] == 0 and version.get() < 10:
            raise Invalid(ZERO)
        await cluster_quotas.check(session, tx.caller.project_id, parts.settings.clusters)
    if template.hidden and not tx.policy.permits(PUBLISH, tx.caller):
        raise Forbidden("Not authorized.")
    owner = {"project_id": tx.caller.project_id, "user_id": tx.caller.user_id}
    plan = await cluster_creation.plan(template, values, owner, cloud(request))
    async with tx.writing() as session:
        await cluster_creation.accept(session, asked(request, tx), plan, place(request), parts.vault)
    parts.wake()
    return JSONResponse({"uuid": plan.cluster.uuid}, 202)


@router.get("/{ident}", summary="Show a cluster", operation_id="show_cluster")
async def show_cluster(
    request: Request,
    ident: str,
    tx: Annotated[Tx, Depends(allow("cluster:get", any_project="cluster:get_one_all_projects"))],
) -> Response:
    """One cluster, by uuid or name; one that failed says of each node group why (`faults`)."""
    arguments(request)
    async with tx.reading() as session:
        row, groups = await clusters.find_whole(session, ident)
        made_from = await clusters.templates_of(session, [row])
    shown = _full(row, groups, made_from.get(row.cluster_template_id), base(request))
    if row.status.endswith("_FAILED"):
        failed = (group for group in groups if group.status.endswith("_FAILED"))
        shown["faults"] = {group.name: group.status_reason or "" for group in failed}
    return JSONResponse(shown)


@router.patch(
    "/{ident}",
    status_code=202,
    summary="Change a cluster",
    operation_id="update_cluster",
    dependencies=[Depends(magnum_json)],
    openapi_extra={
        "parameters": [
            {
                "name": "rollback",
                "in": "query",
                "required": False,
                "schema": {"type": "boolean"},
                "description": "Since 1.3; a change that fails is taken back whatever it says",
            }
        ]
    },
)
async def update_cluster(
    request: Request,
    ident: str,
    body: Annotated[list[Operation], Body(examples=[PATCH])],
    tx: Annotated[Tx, Depends(allow("cluster:update", any_project="cluster:update_all_projects"))],
) -> Response:
    """Applies a JSON patch to node_count, which is that of the default workers, name, labels and health."""
    query = arguments(request, ("rollback",) if version.get() >= 3 else ())
    flag("rollback", query.get("rollback", "false"))
    tx.require("cluster:update_health_status")
    parts = gateway(request)
    async with tx.writing() as session:
        row, groups = await clusters.find_whole(session, ident, lock=True)
        wanted = cluster_changes.patched(row, groups, operations(body))
        changes = validated(ClusterChanges, wanted).model_dump(exclude_unset=True)
        if changes.get("node_count") == 0 and version.get() < 10:
            raise Invalid(ZERO)
        await cluster_changes.update(session, asked(request, tx), row, groups, changes, place(request))
    parts.wake()
    return JSONResponse({"uuid": row.uuid}, 202)


@router.delete("/{ident}", status_code=204, summary="Delete a cluster", operation_id="delete_cluster")
async def delete_cluster(
    request: Request,
    ident: str,
    tx: Annotated[Tx, Depends(allow("cluster:delete", any_project="cluster:delete_all_projects"))],
) -> Response:
    """Deletes a cluster in any status, in the background; it is gone when GET answers 404."""
    arguments(request)
    parts = gateway(request)
    async with tx.writing() as session:
        row, groups = await clusters.find_whole(session, ident, lock=True)
        await clusters.delete(session, asked(request, tx), row, groups, parts.settings)
    parts.wake()
    return Response(status_code=204)


@router.post(
    "/{ident}/actions/resize",
    status_code=202,
    summary="Resize a cluster",
    operation_id="resize_cluster",
    dependencies=[Depends(require(7)), Depends(magnum_json)],
)
async def resize_cluster(
    request: Request,
    ident: str,
    body: Annotated[Resize, Body(examples=[{"node_count": 3, "nodegroup": "default-worker"}])],
    tx: Annotated[Tx, Depends(allow("cluster:resize"))],
) -> Response:
    """Gives a node group another count of nodes; `nodes_to_remove` go first, by name, id or address."""
    arguments(request)
    parts = gateway(request)
    async with tx.writing() as session:
        row = await clusters.find(session, ident, lock=True)
        group = await nodegroups.find(session, row, body.nodegroup or "default-worker")
        if body.node_count == 0 and version.get() < 10:
            raise Invalid(ZERO)
        await cluster_changes.resize(
            session, asked(request, tx), row, group, body.node_count, body.nodes_to_remove or (), place(request)
        )
    parts.wake()
    return JSONResponse({"uuid": row.uuid}, 202)


@router.post(
    "/{ident}/actions/upgrade",
    status_code=202,
    summary="Upgrade a cluster",
    operation_id="upgrade_cluster",
    dependencies=[Depends(require(7)), Depends(magnum_json)],
)
async def upgrade_cluster(
    request: Request,
    ident: str,
    body: Annotated[Upgrade, Body(examples=[{"cluster_template": "small-swarm-2", "max_batch_size": 1}])],
    tx: Annotated[Tx, Depends(allow("cluster:upgrade", any_project="cluster:upgrade_all_projects"))],
) -> Response:
    """Replaces the nodes of both default node groups, or of another one, by those of a template. Since 1.8."""
    arguments(request)
    if version.get() < 8:
        raise Invalid("Cluster upgrade is not supported in the provided microversion.")
    parts = gateway(request)
    async with tx.reading() as session:
        await clusters.find(session, ident)
        template = await templates.find(session, body.cluster_template)
    image = await cloud(request).image(template.image_id)
    async with tx.writing() as session:
        row, groups = await clusters.find_whole(session, ident, lock=True)
        group = await nodegroups.find(session, row, body.nodegroup or "default-worker")
        await cluster_changes.upgrade(
            session, asked(request, tx), row, groups, group, template, image, body.max_batch_size or 1, place(request)
        )
    parts.wake()
    return JSONResponse({"uuid": row.uuid}, 202)


def place(request: Request) -> Place:
    """The parts that decide what clusters can be."""
    parts = gateway(request)
    return Place(parts.engines, parts.drivers, parts.settings)


def _complete(request: Request, body: ClusterCreate) -> dict[str, Any]:
    values = body.model_dump()
    for name in ("node_count", "master_count"):
        values[name] = 1 if values[name] is None else values[name]
    if "create_timeout" not in body.model_fields_set:
        values["create_timeout"] = gateway(request).settings.clusters.create_timeout
    return values


async def _template(session: Reading, ident: str) -> ClusterTemplate:
    """What a new cluster is to be made from. Unknown, it was bad input until 1.9, and is absent since."""
    try:
        return await templates.find(session, ident)
    except NotFound as error:
        if version.get() >= 10:
            raise
        raise Invalid(error.title) from None


def _short(row: Cluster, groups: Sequence[NodeGroup], base_url: str) -> dict[str, Any]:
    masters = [group for group in groups if group.role == MASTER]
    nodes = [group for group in groups if group.role != MASTER]
    return {
        **{name: getattr(row, name) for name in clusters.SHORT},
        "stack_id" if version.get() < 13 else "cluster_id": row.stack_id,
        "node_count": sum(group.node_count for group in nodes),
        "master_count": sum(group.node_count for group in masters),
        "merge_labels": False,
        "links": links(base_url, "clusters", row.uuid),
    }


def _full(row: Cluster, groups: Sequence[NodeGroup], template: ClusterTemplate | None, base_url: str) -> dict[str, Any]:
    found = labels.difference(row.labels, template.labels if template is not None else row.labels)
    addresses = {
        kind: [address for group in groups if (group.role == MASTER) == masters for address in group.node_addresses]
        for kind, masters in (("node_addresses", False), ("master_addresses", True))
    }
    return {
        **_short(row, groups, base_url),
        **{name: getattr(row, name) for name in clusters.FULL},
        **addresses,
        "health_status_reason": row.health_status_reason or {},
        "labels_overridden": found.overridden,
        "labels_added": found.added,
        "labels_skipped": found.skipped,
        "created_at": time(row.created_at),
        "updated_at": time(row.updated_at),
    }
