"""/v1/volumes: volumes of a project, which containers mount by name. Zun has Cinder for that."""

from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Request, Response
from fastapi.responses import JSONResponse

from app import volumes
from app.models import Volume
from app.policy import Tx, allow
from app.routers.fields import Name, Whole
from app.routers.requests import asked, base, gateway, json_only, links, page, paging, plain_time
from app.versions import ApiModel

router = APIRouter(prefix="/v1/volumes", tags=["volumes"])

ANY_PROJECT = "container:get_one_all_projects"


class VolumeCreate(ApiModel):
    """A volume to make; `size` in GiB, where the engine can limit it."""

    name: Name
    size: Whole | None = None


@router.get("", summary="List volumes", operation_id="list_volumes", openapi_extra=paging(()))
async def list_volumes(request: Request, tx: Annotated[Tx, Depends(allow("volume:get_all"))]) -> Response:
    """The project's volumes, those that belong to a container included."""
    listed = page(request, Volume, volumes.COLUMNS, ())
    async with tx.reading() as session:
        rows = await listed.rows(session, (), "volume-not-found")
    shown = [_volume(row, base(request)) for row in rows]
    return JSONResponse({"volumes": shown, "next": listed.next("volumes", rows)})


@router.post(
    "", status_code=201, summary="Create a volume", operation_id="create_volume", dependencies=[Depends(json_only)]
)
async def create_volume(
    request: Request,
    body: Annotated[VolumeCreate, Body(examples=[{"name": "data"}])],
    tx: Annotated[Tx, Depends(allow("volume:create"))],
) -> Response:
    """Stores a volume that containers can mount as ``{"source": name, "destination": path}``."""
    parts = gateway(request)
    backend = next(iter(parts.engines))
    volume = Volume(
        project_id=tx.caller.project_id,
        user_id=tx.caller.user_id,
        name=body.name,
        size=body.size,
        backend=backend,
        created_at=0.0,
    )
    async with tx.writing() as session:
        await volumes.accept(session, volume, parts.engines[backend], parts.settings)
    shown = _volume(volume, base(request))
    return JSONResponse(shown, 201, {"location": shown["links"][0]["href"]})


@router.get("/{ident}", summary="Show a volume", operation_id="show_volume")
async def show_volume(
    request: Request, ident: str, tx: Annotated[Tx, Depends(allow("volume:get_one", any_project=ANY_PROJECT))]
) -> Response:
    """One volume, by uuid or name."""
    async with tx.reading() as session:
        row = await volumes.find(session, ident, own_project=tx.caller.project_id)
    return JSONResponse(_volume(row, base(request)))


@router.delete("/{ident}", status_code=204, summary="Delete a volume", operation_id="delete_volume")
async def delete_volume(
    request: Request, ident: str, tx: Annotated[Tx, Depends(allow("volume:delete", any_project=ANY_PROJECT))]
) -> Response:
    """Deletes it with all that it holds; 409 while a container mounts it."""
    async with tx.writing() as session:
        row = await volumes.find(session, ident, own_project=tx.caller.project_id, lock=True)
        await volumes.remove(session, asked(request, tx), row)
    gateway(request).wake()
    return Response(status_code=204)


def _volume(row: Volume, url: str) -> dict[str, Any]:
    return {
        "uuid": row.uuid,
        "links": links(url, "volumes", row.uuid),
        "name": row.name,
        "size": row.size,
        "project_id": row.project_id,
        "user_id": row.user_id,
        "container_uuid": row.container_id,
        "created_at": plain_time(row.created_at),
        "updated_at": plain_time(row.updated_at),
    }
