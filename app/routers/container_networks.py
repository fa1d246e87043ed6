"""The networks that a container is on (zun-api, sections 3.8 and 3.9)."""

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import Field

from app import actions, containers
from app.errors import Invalid
from app.networks import Attached, Keeper, NetArgs
from app.neutron_keeper import NeutronKeeper
from app.policy import Tx, allow
from app.routers.container_actions import acting
from app.routers.fields import Ident
from app.routers.network_wishes import permit_external
from app.routers.requests import asked, either, gateway, parameters
from app.versions import ApiModel, require, version

router = APIRouter(prefix="/v1/containers/{ident}", tags=["container networks"])

ONE = "container:get_one_all_projects"


class Attach(ApiModel):
    """Where to; the project's default network when neither is named."""

    network: Annotated[Ident | None, Field(description="Name or uuid.")] = None
    port: Annotated[Ident | None, Field(description="Name or uuid, instead of the network.")] = None
    fixed_ip: Annotated[Ident | None, Field(description="The address wanted there.")] = None


class Detach(ApiModel):
    """From where: exactly one of the two."""

    network: Ident | None = None
    port: Ident | None = None


def keeper_for(request: Request, tx: Tx) -> Keeper:
    """Who keeps the books of networks, for this request."""
    parts, token = gateway(request), request.headers["x-auth-token"]
    return NeutronKeeper(parts.catalogue, parts.settings, token, lambda: permit_external(tx))


@router.get(
    "/network_list",
    summary="List networks",
    operation_id="list_container_networks",
    dependencies=[Depends(require(13))],
)
async def network_list(
    request: Request, ident: str, tx: Annotated[Tx, Depends(allow("container:get_one", any_project=ONE))]
) -> Response:
    """Where the container is; since 1.18 one entry for each place, before that one for each address."""
    async with tx.reading() as session:
        box = await containers.find(session, ident, own_project=tx.caller.project_id)
    return JSONResponse({"networks": _entries(keeper_for(request, tx).attached(box))})


@router.post(
    "/network_attach",
    summary="Attach a network",
    operation_id="attach_container_network",
    openapi_extra=parameters(Attach),
    dependencies=[Depends(require(8))],
)
async def network_attach(
    request: Request,
    ident: str,
    how: Annotated[Attach, Depends(either(Attach))],
    tx: Annotated[Tx, acting("network_attach")],
) -> Response:
    """Puts the container on a network in the background."""
    if how.network is not None and how.port is not None:
        raise Invalid("network_attach takes either network or port, not both", code="schema-validation-error")
    async with tx.reading() as session:
        box = await containers.find(session, ident, own_project=tx.caller.project_id)
    keeper, engine = keeper_for(request, tx), gateway(request).engines.reach(box.backend)
    net = await keeper.to_attach(engine, box, how.network, how.port, how.fixed_ip)
    await _accept(request, tx, keeper, box.uuid, net, attach=True)
    return JSONResponse(None)


@router.post(
    "/network_detach",
    status_code=202,
    summary="Detach a network",
    operation_id="detach_container_network",
    dependencies=[Depends(require(6))],
)
async def network_detach(
    request: Request, ident: str, query: Annotated[Detach, Query()], tx: Annotated[Tx, acting("network_detach")]
) -> Response:
    """Takes the container off a network in the background."""
    if (query.network is None) == (query.port is None):
        raise Invalid("network_detach takes exactly one of network and port", code="schema-validation-error")
    async with tx.reading() as session:
        box = await containers.find(session, ident, own_project=tx.caller.project_id)
    keeper, engine = keeper_for(request, tx), gateway(request).engines.reach(box.backend)
    net = await keeper.to_detach(engine, box, query.network, query.port)
    await _accept(request, tx, keeper, box.uuid, net, attach=False)
    return JSONResponse(None, 202)


async def _accept(request: Request, tx: Tx, keeper: Keeper, uuid: str, net: dict[str, Any], *, attach: bool) -> None:
    parts = gateway(request)
    async with tx.writing() as session:
        box = await containers.find(session, uuid, lock=True)
        keeper.check(box, net, attach=attach)
        now = await actions.clock(session)
        verb = "network_attach" if attach else "network_detach"
        deadline = now + parts.settings.action_deadline
        args = NetArgs(net=net)
        actions.submit(
            session, asked(request, tx), "container", box, verb, box.backend, now, args=args, deadline=deadline
        )
    parts.wake()


def _entries(places: Sequence[Attached]) -> list[dict[str, Any]]:
    shown = [
        (
            place,
            [{"subnet_id": a["subnet_id"], "version": a["version"], "ip_address": a["addr"]} for a in place.addresses],
        )
        for place in places
    ]
    if version.get() >= 18:
        return [{"net_id": place.network, "port_id": place.port, "fixed_ips": fixed} for place, fixed in shown]
    return [{"net_id": place.network, "port_id": place.port, **one} for place, fixed in shown for one in fixed]
