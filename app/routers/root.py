"""Version documents and health: what anybody may ask without a token (zun-api, sections 0 and 1)."""

from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from app.routers.requests import base
from app.versions import MAXIMUM, MINIMUM

router = APIRouter(tags=["versions"])

RESOURCES = (
    "services", "containers", "images", "networks", "hosts", "availability_zones", "capsules", "quotas",
    "quota_classes", "registries",
)  # fmt: skip


@router.get("/", summary="Versions", operation_id="list_versions")
async def versions(request: Request) -> Response:
    """The versions that this endpoint speaks."""
    version = {
        "id": "v1",
        "links": [{"href": f"{base(request)}/v1/", "rel": "self"}],
        "status": "CURRENT",
        "max_version": f"1.{MAXIMUM}",
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
    href = base(request)
    document: dict[str, Any] = {
        "id": "v1",
        "media_types": [{"base": "application/json", "type": "application/vnd.openstack.zun.v1+json"}],
        "links": [
            {"href": f"{href}/v1/", "rel": "self"},
            {
                "href": "https://docs.openstack.org/developer/zun/dev/api-spec-v1.html",
                "rel": "describedby",
                "type": "text/html",
            },
        ],
    }
    for name in RESOURCES:
        document[name] = [
            {"href": f"{href}/v1/{name}/", "rel": "self"},
            {"href": f"{href}/{name}/", "rel": "bookmark"},
        ]
    return JSONResponse(document)


@router.get("/healthcheck", summary="Health", operation_id="healthcheck")
async def healthcheck() -> Response:
    """That the process serves; it asks neither the database nor an engine."""
    return JSONResponse({"detailed": False, "reasons": ["OK"]})
