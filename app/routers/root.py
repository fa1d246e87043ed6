"""Version documents and health: what anybody may ask without a token (zun-api and magnum-api, sections 0 and 1)."""

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from app.apis import MAGNUM, MINIMUM, ZUN
from app.health import Check
from app.routers.requests import base, gateway

router = APIRouter(tags=["versions"])
magnum = APIRouter(prefix=MAGNUM.root, tags=["versions"])

RESOURCES = (
    "services", "containers", "images", "networks", "hosts", "availability_zones", "capsules", "quotas",
    "quota_classes", "registries",
)  # fmt: skip

MAGNUM_RESOURCES = (
    "clusters", "clustertemplates", "quotas", "certificates", "mservices", "stats", "federations", "credentials",
)  # fmt: skip


@router.get("/", summary="Versions", operation_id="list_versions")
async def versions(request: Request) -> Response:
    """The versions that this endpoint speaks."""
    version = {
        "id": "v1",
        "links": [{"href": f"{base(request)}/v1/", "rel": "self"}],
        "status": "CURRENT",
        "max_version": f"1.{ZUN.maximum}",
        "min_version": f"1.{MINIMUM}",
    }
    return JSONResponse(
        {
            "name": "OpenStack Zun API",
            "description": "Caisson: OpenStack's container services in one process.",
            "versions": [version],
            "default_version": version,
        }
    )


@router.get("/v1", summary="Version 1", operation_id="show_version")
async def version_one(request: Request) -> Response:
    """The resources of version 1."""
    return JSONResponse(_version_one(base(request), "zun", "https://docs.openstack.org/developer/zun/dev", RESOURCES))


@router.get("/healthcheck", summary="Health", operation_id="healthcheck")
async def healthcheck(request: Request) -> Response:
    """Whether this replica is ready, in the words of OpenStack's services; 503 with the reasons when it is not."""
    checks = await gateway(request).health.checks()
    reasons = [f"{check.name}: {check.problem}" for check in checks if check.required and check.problem is not None]
    return JSONResponse({"detailed": False, "reasons": reasons or ["OK"]}, 503 if reasons else 200)


@router.get("/livez", summary="Whether the process works", operation_id="livez")
async def livez(request: Request) -> Response:
    """503 only where a restart would mend something; nobody else is asked."""
    return _probe(gateway(request).health.alive())


@router.get("/readyz", summary="Whether requests should be sent here", operation_id="readyz")
async def readyz(request: Request) -> Response:
    """Every check, and 503 when one that is required failed. What was found is told again for two seconds."""
    return _probe(await gateway(request).health.checks())


def _probe(checks: Sequence[Check]) -> Response:
    failed = any(check.problem for check in checks if check.required)
    degraded = any(check.problem for check in checks)
    status = "failed" if failed else "degraded" if degraded else "ok"
    return JSONResponse({"status": status, "checks": [check.shown() for check in checks]}, 503 if failed else 200)


@magnum.get("", summary="Versions of Magnum's API", operation_id="list_magnum_versions")
async def magnum_versions(request: Request) -> Response:
    """The versions that this endpoint speaks."""
    version = {
        "id": "v1",
        "links": [{"href": f"{_magnum_base(request)}/v1/", "rel": "self"}],
        "status": "CURRENT",
        "max_version": f"1.{MAGNUM.maximum}",
        "min_version": f"1.{MINIMUM}",
    }
    return JSONResponse(
        {
            "name": "OpenStack Magnum API",
            "description": "Caisson: OpenStack's container services in one process.",
            "versions": [version],
        }
    )


@magnum.get("/v1", summary="Version 1 of Magnum's API", operation_id="show_magnum_version")
async def magnum_version_one(request: Request) -> Response:
    """The resources of version 1."""
    href = _magnum_base(request)
    document = _version_one(href, "magnum", "http://docs.openstack.org/developer/magnum/dev", MAGNUM_RESOURCES)
    document["nodegroups"] = [
        {"href": f"{href}/v1/clusters/{{cluster_id}}/nodegroups", "rel": "self"},
        {"href": f"{href}/clusters/{{cluster_id}}/nodegroups", "rel": "bookmark"},
    ]
    return JSONResponse(document)


def _magnum_base(request: Request) -> str:
    """With the prefix when it was asked with one: clients go on with the address that they find here."""
    return base(request) + str(request.state.prefix)


def _version_one(href: str, service: str, pages: str, resources: Sequence[str]) -> dict[str, Any]:
    """What both APIs say of their version 1: how to speak it, and where its resources are."""
    document: dict[str, Any] = {
        "id": "v1",
        "media_types": [{"base": "application/json", "type": f"application/vnd.openstack.{service}.v1+json"}],
        "links": [
            {"href": f"{href}/v1/", "rel": "self"},
            {"href": f"{pages}/api-spec-v1.html", "rel": "describedby", "type": "text/html"},
        ],
    }
    for name in resources:
        document[name] = [
            {"href": f"{href}/v1/{name}/", "rel": "self"},
            {"href": f"{href}/{name}/", "rel": "bookmark"},
        ]
    return document
