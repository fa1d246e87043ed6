"""Zun's /v1/networks, for administrators (zun-api, section 3.11)."""

from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Request, Response
from fastapi.responses import JSONResponse
from pydantic import Field

from app import admin_networks
from app.models import Network
from app.neutron import connect
from app.policy import Tx, allow
from app.routers.network_wishes import callers_neutron
from app.routers.requests import gateway, json_only
from app.versions import ApiModel, require

router = APIRouter(prefix="/v1/networks", tags=["networks"])


class NetworkCreate(ApiModel):
    """The network that an engine is to know."""

    neutron_net_id: Annotated[str, Field(strict=True, min_length=2, max_length=255)]
    name: Annotated[str | None, Field(strict=True, min_length=2, max_length=255)] = None


EXAMPLE = {"name": "lab", "neutron_net_id": "24d0a6a1-3b5f-5a63-8d0e-6d0a2a8e3c11"}


@router.post("", summary="Create a network", operation_id="create_network", dependencies=[Depends(json_only)])
async def create_network(
    request: Request,
    body: Annotated[NetworkCreate, Body(examples=[EXAMPLE])],
    tx: Annotated[Tx, Depends(allow("network:create"))],
) -> Response:
    """Makes the engine's network for one of Neutron's, before the first container comes; without Neutron for any id."""
    tx.check()
    row = Network(
        project_id=tx.caller.project_id,
        user_id=tx.caller.user_id,
        name=body.name,
        neutron_net_id=body.neutron_net_id,
        backend="",
        created_at=0.0,
    )
    async with tx.reading() as session:
        await admin_networks.check_new(session, row)
    parts = gateway(request)
    await admin_networks.make(parts.engines, parts.settings, await callers_neutron(request), row)
    async with tx.writing() as session:
        await admin_networks.store(session, row)
    return JSONResponse(_network(row))


@router.delete(
    "/{neutron_net_id}",
    status_code=204,
    summary="Delete a network",
    operation_id="delete_network",
    dependencies=[Depends(require(27))],
)
async def delete_network(
    request: Request,
    neutron_net_id: str,
    tx: Annotated[Tx, Depends(allow("network:delete", any_project="network:delete"))],
) -> Response:
    """Removes the engine's network; one that is in use stays until its last container goes."""
    async with tx.reading() as session:
        row = await admin_networks.find(session, neutron_net_id)
    parts = gateway(request)
    await admin_networks.unmake(parts.engines, await connect(parts.catalogue), row)
    async with tx.writing() as session:
        await admin_networks.forget(session, neutron_net_id)
    return Response(status_code=204)


def _network(row: Network) -> dict[str, Any]:
    return {
        "uuid": row.uuid,
        "name": row.name,
        "project_id": row.project_id,
        "user_id": row.user_id,
        "network_id": row.network_id,
        "neutron_net_id": row.neutron_net_id,
    }
