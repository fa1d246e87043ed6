"""Zun's /v1/hosts, /v1/services and /v1/availability_zones (zun-api, sections 3.12 to 3.14)."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import Field

from app import actions, hosts
from app.hosts import Used
from app.models import Host
from app.policy import Tx, allow
from app.routers.fields import HOST, FlagX
from app.routers.requests import base, either, gateway, iso_time, links, page, paging, parameters
from app.settings import Settings
from app.versions import ApiModel, require

router = APIRouter(prefix="/v1/hosts", tags=["hosts"], dependencies=[Depends(require(4))])
services = APIRouter(prefix="/v1/services", tags=["hosts"])
zones = APIRouter(prefix="/v1/availability_zones", tags=["hosts"])


class Service(ApiModel):
    """Which service: they are called zun-compute."""

    host: Annotated[str, Field(strict=True, min_length=1, max_length=255, pattern=HOST)]
    binary: Annotated[str, Field(strict=True, min_length=1, max_length=255)]


class Disable(Service):
    """Which service, and why."""

    disabled_reason: Annotated[str | None, Field(strict=True, min_length=1, max_length=255)] = None


class ForceDown(Service):
    """Which service, and whether it is to count as down."""

    forced_down: FlagX


@router.get("", summary="List hosts", operation_id="list_hosts", openapi_extra=paging(()))
async def list_hosts(request: Request, tx: Annotated[Tx, Depends(allow("host:get_all"))]) -> Response:
    """The hosts of all engines, with what their containers may take."""
    listed = page(request, Host, hosts.COLUMNS, request.query_params.keys(), key="hostname")
    async with tx.reading() as session:
        rows = await listed.rows(session, (), "compute-node-not-found")
        used = await hosts.used(session)
    shown = [_host(row, used.get(row.backend, Used()), base(request)) for row in rows]
    return JSONResponse({"hosts": shown, "next": listed.next("hosts", rows)})


@router.get("/{ident}", summary="Show a host", operation_id="show_host")
async def show_host(request: Request, ident: str, tx: Annotated[Tx, Depends(allow("host:get"))]) -> Response:
    """One host, by uuid or name."""
    async with tx.reading() as session:
        row = await hosts.find(session, ident)
        used = await hosts.used(session)
    return JSONResponse(_host(row, used.get(row.backend, Used()), base(request)))


@services.get("", summary="List services", operation_id="list_services")
async def list_services(request: Request, tx: Annotated[Tx, Depends(allow("zun-service:get_all"))]) -> Response:
    """Whether each host is up, and enabled."""
    async with tx.reading() as session:
        rows = await hosts.services(session)
        now = await actions.clock(session)
    return JSONResponse({"services": [_service(row, now, gateway(request).settings) for row in rows]})


@services.put("/enable", summary="Enable a service", operation_id="enable_service", openapi_extra=parameters(Service))
async def enable(
    how: Annotated[Service, Depends(either(Service))], tx: Annotated[Tx, Depends(allow("zun-service:enable"))]
) -> Response:
    """The host gets new containers again."""
    async with tx.writing() as session:
        row = await hosts.find_service(session, how.host, how.binary)
        row.disabled, row.disabled_reason, row.updated_at = False, None, await actions.clock(session)
    return _changed(row, "disabled", "disabled_reason")


@services.put(
    "/disable", summary="Disable a service", operation_id="disable_service", openapi_extra=parameters(Disable)
)
async def disable(
    how: Annotated[Disable, Depends(either(Disable))], tx: Annotated[Tx, Depends(allow("zun-service:disable"))]
) -> Response:
    """The host gets no new containers; those that it has stay as they are."""
    async with tx.writing() as session:
        row = await hosts.find_service(session, how.host, how.binary)
        row.disabled, row.disabled_reason, row.updated_at = True, how.disabled_reason, await actions.clock(session)
    return _changed(row, "disabled", "disabled_reason")


@services.put(
    "/force_down",
    summary="Declare a service down",
    operation_id="force_down_service",
    openapi_extra=parameters(ForceDown),
)
async def force_down(
    how: Annotated[ForceDown, Depends(either(ForceDown))],
    tx: Annotated[Tx, Depends(allow("zun-service:force_down"))],
) -> Response:
    """The host counts as down whatever it says, until this is taken back."""
    async with tx.writing() as session:
        row = await hosts.find_service(session, how.host, how.binary)
        row.forced_down, row.updated_at = how.forced_down, await actions.clock(session)
    return _changed(row, "forced_down")


@services.delete("", summary="Delete a service", operation_id="delete_service")
async def delete(
    query: Annotated[Service, Query()], tx: Annotated[Tx, Depends(allow("zun-service:delete"))]
) -> Response:
    """Forgets a host; one whose engine answers is back within seconds."""
    async with tx.writing() as session:
        await session.delete(await hosts.find_service(session, query.host, query.binary))
    return JSONResponse(None)


@zones.get("", summary="List availability zones", operation_id="list_availability_zones")
async def list_zones(request: Request, tx: Annotated[Tx, Depends(allow("availability_zones:get_all"))]) -> Response:
    """The zones that a container can be asked for in."""
    async with tx.reading() as session:
        found = await hosts.zones(session, gateway(request).settings)
        found += await gateway(request).zones.names(session)
    return JSONResponse({"availability_zones": [{"availability_zone": zone} for zone in found], "next": None})


def _host(row: Host, used: Used, base_url: str) -> dict[str, Any]:
    facts = row.facts or {}
    return {
        "uuid": row.uuid,
        "links": links(base_url, "hosts", row.uuid),
        "hostname": row.hostname,
        "mem_total": facts.get("memory", 0),
        "mem_used": used.memory,
        "cpus": facts.get("cpus", 0),
        "cpu_used": used.cpu,
        "total_containers": used.containers,
        "architecture": facts.get("architecture"),
        "os_type": facts.get("os_type"),
        "os": facts.get("os"),
        "kernel_version": facts.get("kernel_version"),
        "labels": facts.get("labels", {}),
        "disk_total": facts.get("disk", 0),
        "disk_used": used.disk,
        "disk_quota_supported": facts.get("disk_quota", False),
        "runtimes": facts.get("runtimes", []),
        "enable_cpu_pinning": False,
    }


def _service(row: Host, now: float, settings: Settings) -> dict[str, Any]:
    return {
        "id": row.id,
        "host": row.hostname,
        "binary": row.binary,
        "state": "up" if hosts.is_up(row, now, settings) else "down",
        "disabled": row.disabled,
        "disabled_reason": row.disabled_reason,
        "forced_down": row.forced_down,
        "last_seen_up": iso_time(row.last_seen_up),
        "report_count": row.report_count,
        "availability_zone": (row.facts or {}).get("zone"),
        "created_at": iso_time(row.created_at),
        "updated_at": iso_time(row.updated_at),
    }


def _changed(row: Host, *fields: str) -> Response:
    shown = {field: getattr(row, field) for field in fields}
    return JSONResponse({"service": {"host": row.hostname, "binary": row.binary, **shown}})
