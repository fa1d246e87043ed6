"""Zun's /v1/capsules (zun-api, section 7)."""

from collections.abc import Collection, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Request, Response
from fastapi.openapi.models import Example
from fastapi.responses import JSONResponse

from app import capsules, hosts
from app.answers import Answer
from app.backends.engine import Ability
from app.cluster_zones import is_zone
from app.errors import Unsupported
from app.models import Capsule, Container, Status
from app.pages import Page
from app.policy import Reading, Tx, allow
from app.routers.capsule_template import CapsuleCreate, Template, Wish
from app.routers.container_view import answer
from app.routers.container_view import view as container_view
from app.routers.network_wishes import settle
from app.routers.requests import asked, base, gateway, json_only, links, paging, plain_time
from app.versions import version

router = APIRouter(prefix="/v1/capsules", tags=["capsules"])

PAGING = ("limit", "marker", "sort_key", "sort_dir", "all_projects")
EXAMPLES: dict[str, Example] = {
    "a server and its neighbour": {
        "summary": "Two containers that talk over 127.0.0.1, and one that runs before them",
        "value": {
            "template": {
                "kind": "capsule",
                "capsuleVersion": "beta",
                "metadata": {"name": "demo", "labels": {"app": "web"}},
                "spec": {
                    "restartPolicy": "Always",
                    "initContainers": [{"image": "busybox:1", "command": ["true"]}],
                    "containers": [
                        {
                            "image": "busybox:1",
                            "command": ["httpd", "-f", "-p", "8080"],
                            "ports": [{"containerPort": 8080, "protocol": "TCP"}],
                            "resources": {"requests": {"cpu": 0.5, "memory": 64}},
                        },
                        {"image": "busybox:1", "command": ["sleep", "1000"]},
                    ],
                },
            }
        },
    }
}


@router.get("", summary="List capsules", operation_id="list_capsules", openapi_extra=paging(("all_projects",)))
async def list_capsules(
    request: Request,
    tx: Annotated[Tx, Depends(allow("capsule:get_all", all_projects="capsule:get_all_all_projects", refuses=False))],
) -> Response:
    """The project's capsules with their containers, oldest first.

    Paging: limit, marker, sort_key, sort_dir. `all_projects` is for administrators.
    """
    query = {name: value for name, value in request.query_params.items() if name in PAGING}
    listed = Page(query, f"{base(request)}/v1", gateway(request).settings.page_limit, Capsule, capsules.COLUMNS, ())
    hidden, url = _hidden(tx), base(request)

    async def render(session: Reading) -> Answer:
        rows = await listed.rows(session, (), "capsule-not-found")
        boxes = await capsules.members(session, [row.uuid for row in rows])
        shown = [view(row, [box for box in boxes if box.capsule_id == row.uuid], hidden, url) for row in rows]
        return answer({"capsules": shown, "next": listed.next("capsules", rows)}, boxes)

    key = ("capsules", url, request.url.query, hidden, version.get() < 32)
    return Response(await tx.remembered(key, render), media_type="application/json")


@router.post(
    "", status_code=202, summary="Create a capsule", operation_id="create_capsule", dependencies=[Depends(json_only)]
)
async def create_capsule(
    request: Request,
    body: Annotated[CapsuleCreate, Body(openapi_examples=EXAMPLES)],
    tx: Annotated[Tx, Depends(allow("capsule:create"))],
) -> Response:
    """Accepts the template and answers at once; the capsule's status and status_reason tell what became of it.

    The template is an object, or a string of JSON. Init containers run one after the other to their end, then the
    others are started; all share one network, and reach each other at 127.0.0.1.
    """
    parts = gateway(request)
    tx.check()
    wish = await _wish(request, tx, body.template)
    pulls = {box.uuid: wish.pulls.get(box.uuid, parts.settings.default_pull_policy) for box in wish.boxes}
    engine = parts.engines.reach(wish.capsule.backend)
    place = capsules.stand_in(wish.capsule, wish.boxes)
    await settle(request, tx, place, (), ())
    wish.capsule.nets, wish.capsule.security_groups = place.nets, place.security_groups
    async with tx.writing() as session:
        await capsules.accept(
            session, asked(request, tx), wish.capsule, wish.boxes, engine, parts.settings, pulls, wish.shared
        )
    parts.wake()
    shown = view(wish.capsule, wish.boxes, _hidden(tx), base(request), fresh=True)
    return JSONResponse(shown, 202, {"location": shown["links"][0]["href"]})


@router.get("/{ident}", summary="Show a capsule", operation_id="show_capsule")
async def show_capsule(
    request: Request,
    ident: str,
    tx: Annotated[Tx, Depends(allow("capsule:get", any_project="capsule:get_one_all_projects"))],
) -> Response:
    """One capsule with its containers, by uuid or name."""
    hidden, own, url = _hidden(tx), tx.caller.project_id, base(request)

    async def render(session: Reading) -> Answer:
        row = await capsules.find(session, ident, own_project=own)
        boxes = await capsules.members(session, [row.uuid])
        return answer(view(row, boxes, hidden, url), boxes)

    key = ("capsule", url, ident, own, hidden, version.get() < 32)
    return Response(await tx.remembered(key, render), media_type="application/json")


@router.delete("/{ident}", status_code=204, summary="Delete a capsule", operation_id="delete_capsule")
async def delete_capsule(
    request: Request,
    ident: str,
    tx: Annotated[
        Tx,
        Depends(
            allow(
                "capsule:delete",
                all_projects="capsule:delete_all_projects",
                any_project="capsule:get_one_all_projects",
            )
        ),
    ],
) -> Response:
    """Deletes a capsule in any status, in the background; it is gone when GET answers 404."""
    async with tx.writing() as session:
        row = await capsules.find(session, ident, own_project=tx.caller.project_id, lock=True)
        await capsules.delete(session, asked(request, tx), row, gateway(request).settings)
    gateway(request).wake()
    return Response(status_code=204)


def view(
    row: Capsule, boxes: Sequence[Container], hidden: Collection[str], base_url: str, *, fresh: bool = False
) -> dict[str, Any]:
    """The API's capsule in the shape of the request's version. A `fresh` one has no addresses yet: null, as in Zun."""
    restart = row.restart_policy or {}
    shown: dict[str, Any] = {
        "uuid": row.uuid,
        "links": links(base_url, "capsules", row.uuid),
        "user_id": row.user_id,
        "project_id": row.project_id,
        "name": row.name,
        "labels": row.labels or {},
        "annotations": row.annotations,
        "status": row.status,
        "status_reason": row.status_reason,
        "restart_policy": restart,
        "cpu": row.cpu,
        "memory": str(row.memory or 0),
        "addresses": row.addresses or (None if fresh else {}),
        "containers": [_member(box, hidden) for box in boxes if not box.init],
        "init_containers": [_member(box, hidden) for box in boxes if box.init],
        "created_at": plain_time(row.created_at),
        "updated_at": plain_time(row.updated_at),
    }
    if "capsule" not in hidden:
        shown["host"] = row.host
    if version.get() < 32:
        shown["meta_name"], shown["meta_labels"] = shown.pop("name"), shown.pop("labels")
        shown |= {"restart_policy": restart.get("Name"), "volumes_info": {}, "capsule_version": ""}
        shown |= {"containers_uuids": [], "init_containers_uuids": []}
    return shown


def _member(box: Container, hidden: Collection[str]) -> dict[str, Any]:
    return container_view(box, [field for field in hidden if field != "capsule"], None) | {"image_driver": None}


def _hidden(tx: Tx) -> frozenset[str]:
    """The fields of members that the caller does not get to see, and ``capsule`` for the capsule's host."""
    return tx.policy.hidden(tx.caller) | (
        frozenset() if tx.policy.permits("capsule:get:host", tx.caller) else frozenset({"capsule"})
    )


async def _wish(request: Request, tx: Tx, template: Template) -> Wish:
    """The rows of a template, checked against policy. Raises Invalid, Forbidden, Unsupported."""
    parts = gateway(request)
    settings = parts.settings
    if is_zone(template.availabilityZone):
        raise Unsupported("availabilityZone: capsules are not run in clusters; make pods with the cluster's own API")
    async with tx.reading() as session:
        wanted = hosts.Wish(template.availabilityZone, needs=(Ability.GROUP,))
        place = await hosts.place(session, parts.engines, settings, wanted)
    owner = {
        "project_id": tx.caller.project_id, "user_id": tx.caller.user_id, "backend": place.backend, "host": place.host,
    }  # fmt: skip
    wish = Wish(template, owner, settings)
    if any(policy != settings.default_pull_policy for policy in wish.pulls.values()):
        tx.require("container:create:image_pull_policy")
    if wish.publishes:
        tx.require("container:create:host_port")
    if place.reason is not None:
        for row in (wish.capsule, *wish.boxes):
            row.status, row.status_reason = Status.ERROR, place.reason
    return wish
