"""Files in and out of a container, as tar archives (zun-api, section 3.9)."""

import asyncio
import base64
import json
from typing import Annotated, Any, TypeVar, cast

from fastapi import APIRouter, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import Field, ValidationError

from app import archives, containers
from app.backends.engine import ContainerEngine, Copies
from app.errors import Gone, Invalid, TooLarge
from app.models import Container
from app.policy import Tx
from app.routers.container_actions import acting, asking, reach, ref_of
from app.routers.requests import gateway
from app.versions import ApiModel, version

router = APIRouter(prefix="/v1/containers/{ident}", tags=["container actions"])

BASE64_SINCE = 25
Found = TypeVar("Found")


class ArchiveQuery(ApiModel):
    """Which file or folder."""

    path: Annotated[str, Field(strict=True, min_length=1, max_length=4096)]


class Upload(ArchiveQuery):
    """An archive, and the folder to unpack it in."""

    data: Annotated[str, Field(strict=True)]


UPLOAD: dict[str, Any] = {
    "parameters": [{"name": "path", "in": "query", "required": True, "schema": {"type": "string"}}],
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"type": "object", "properties": {"data": {"type": "string", "format": "byte"}}},
                "examples": {
                    "a file": {
                        "summary": "greeting.txt, in an uncompressed tar in base64",
                        "value": {"data": base64.b64encode(archives.one_file("greeting.txt", b"hello\n")).decode()},
                    }
                },
            }
        },
    },
}


@router.get("/get_archive", summary="Copy out", operation_id="get_archive")
async def get_archive(
    request: Request, ident: str, query: Annotated[ArchiveQuery, Query()], tx: Annotated[Tx, acting("get_archive")]
) -> Response:
    """A tar of a file or folder, in base64 (until 1.24 as text), and what the path is."""
    box, engine = await reach(request, ident, tx, "get_archive")
    copies, ref, limit = cast(Copies, engine), ref_of(box), gateway(request).settings.max_archive_bytes

    async def read() -> Response:
        stat = await copies.stat(ref, query.path)
        archive = bytearray()
        async for chunk in copies.get_archive(ref, query.path):
            archive += chunk
            if len(archive) > limit:
                raise TooLarge(f"path: {query.path} makes an archive of more than {limit} bytes")
        shown = {
            "name": stat.name,
            "size": stat.size,
            "mode": stat.mode,
            "mtime": stat.mtime,
            "linkTarget": stat.link_target,
        }
        text = await asyncio.to_thread(_as_text, archive)
        return JSONResponse({"data": text, "stat": shown})

    return await asking(request, box, engine, _of_path(box, engine, read()))


@router.post("/put_archive", summary="Copy in", operation_id="put_archive", openapi_extra=UPLOAD)
async def put_archive(request: Request, ident: str, tx: Annotated[Tx, acting("put_archive")]) -> Response:
    """Unpacks a tar in the folder `path`. It holds plain files, folders and links; it is checked and packed anew."""
    box, engine = await reach(request, ident, tx, "put_archive")
    limit = gateway(request).settings.max_archive_bytes
    given: dict[str, Any] = {name: value for name, value in request.query_params.items() if name != "all_projects"}
    path, archive = await asyncio.to_thread(_read, await request.body(), given, version.get() >= BASE64_SINCE, limit)
    call = cast(Copies, engine).put_archive(ref_of(box), path, archive)
    await asking(request, box, engine, _of_path(box, engine, call))
    return JSONResponse(None)


async def _of_path(box: Container, engine: ContainerEngine, call: Any) -> Any:
    """Await the call. When it is the path that is gone, not the container: 400."""
    try:
        return await call
    except Gone as error:
        if await engine.find(containers.uuid_of(box)) is None:
            raise
        raise Invalid(error.title) from None


def _read(body: bytes, given: dict[str, Any], encoded: bool, limit: int) -> tuple[str, bytes]:
    """The path and the archive to unpack there. Raises Invalid, RequestValidationError, TooLarge."""
    try:
        document = json.loads(body) if body else {}
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise Invalid("The body must be a JSON object with `data`.", code="schema-validation-error")
    if twice := sorted(given.keys() & document.keys()):
        raise Invalid(f"{', '.join(twice)}: given in the query string and in the body", code="schema-validation-error")
    try:
        upload = Upload.model_validate(given | document)
    except ValidationError as error:
        raise RequestValidationError(error.errors(include_url=False)) from None
    if "\0" in upload.path:
        raise Invalid("path: the character NUL is no part of a path", code="schema-validation-error")
    raw = archives.decoded(upload.data, "data") if encoded else upload.data.encode(errors="surrogatepass")
    if len(raw) > limit:
        raise TooLarge(f"data: the archive is larger than the limit of {limit} bytes")
    return upload.path, archives.repacked(raw)


def _as_text(archive: bytearray) -> str:
    """As the request's version wants it. Raises Invalid for bytes that are no text, before there was base64."""
    if version.get() >= BASE64_SINCE:
        return base64.b64encode(archive).decode()
    try:
        return archive.decode()
    except UnicodeDecodeError:
        raise Invalid(f"The archive holds bytes that are no text: ask in version 1.{BASE64_SINCE} or later") from None
