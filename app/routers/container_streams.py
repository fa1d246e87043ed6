"""Talking to a container: logs, commands inside, attaching (zun-api, sections 3.6, 3.9 and 6)."""

import json
import shlex
from codecs import getincrementaldecoder
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Annotated, cast

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import Field
from starlette.types import Receive, Scope, Send

from app import containers, tickets
from app.backends.engine import Attaches, Execs, LogOptions
from app.errors import Gone, Invalid, Refused, Taken
from app.models import Container
from app.policy import Tx
from app.routers.container_actions import acting, asking, check_needs, reach, ref_of
from app.routers.fields import Flag, FlagX, Whole
from app.routers.requests import base, either, gateway, parameters
from app.streams import address
from app.versions import ApiModel

router = APIRouter(prefix="/v1/containers/{ident}", tags=["container actions"])

Side = Annotated[Whole, Field(ge=1, le=65535)]
"""Lines or columns of a terminal."""


class Logs(ApiModel):
    """Which part of the log."""

    stdout: FlagX = True
    stderr: FlagX = True
    timestamps: FlagX = False
    tail: Annotated[str, Field(max_length=255)] = "all"
    since: Annotated[str | None, Field(pattern=r"^([0-9]{1,12}|None|\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{1,3})$")] = None

    @property
    def options(self) -> LogOptions:
        """As engines take it. Raises Invalid for a date that does not exist."""
        tail = int(self.tail) if self.tail.isascii() and self.tail.isdigit() and len(self.tail) < 10 else None
        return LogOptions(self.stdout, self.stderr, self.timestamps, tail, _since(self.since))


class Execute(ApiModel):
    """A command to run inside."""

    command: Annotated[str, Field(strict=True, min_length=1, max_length=64 * 1024)]
    run: Flag = True
    interactive: Flag = False

    @property
    def words(self) -> list[str]:
        """The command split by the shell's rules; no shell runs it. Raises Invalid."""
        try:
            words = shlex.split(self.command)
        except ValueError as error:
            raise Invalid(f"command: {error}", code="schema-validation-error") from None
        if not words:
            raise Invalid("command: there is no word in it", code="schema-validation-error")
        return words


class Size(ApiModel):
    """A terminal's lines and columns."""

    h: Side
    w: Side


class ExecSize(Size):
    """The same of a command inside."""

    exec_id: Annotated[str, Field(strict=True, pattern=r"^[0-9a-f]{64}$")]


class JsonText(StreamingResponse):
    """One JSON string, made of bytes while they come; what is no UTF-8 in them is replaced.

    Takes only a chunk of memory at a time, however long the string is.
    """

    def __init__(self, first: bytes, rest: AsyncIterator[bytes]) -> None:
        self._rest = rest
        super().__init__(json_text(first, rest), media_type="application/json")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, and let go of the source whatever happens."""
        async with aclosing(cast(AsyncGenerator[bytes, None], self._rest)):
            await super().__call__(scope, receive, send)


@router.get("/logs", summary="Logs", operation_id="container_logs")
async def logs(
    request: Request, ident: str, query: Annotated[Logs, Query()], tx: Annotated[Tx, acting("logs")]
) -> Response:
    """The log as one JSON string; bytes that are no UTF-8 are replaced."""
    options = query.options
    box, engine = await reach(request, ident, tx, "logs")
    chunks = engine.logs(ref_of(box), options)
    # What the engine refuses shows with the first chunk, while there is still a status to choose.
    first = await asking(request, box, engine, anext(chunks, b""))
    return JsonText(first, chunks)


@router.get("/attach", summary="Attach", operation_id="attach_to_container")
async def attach(request: Request, ident: str, tx: Annotated[Tx, acting("attach")]) -> Response:
    """A websocket's URL as a JSON string, for the terminal of the container's own process. It works once, and soon."""
    box, _ = await reach(request, ident, tx, "attach")
    if not box.interactive:
        raise Invalid(f"Container {box.uuid} is not interactive: it takes no input.", code="no-interactive-flag")
    return JSONResponse(await _address(request, tx, box, None))


@router.post("/resize", summary="Resize", operation_id="resize_container_terminal", openapi_extra=parameters(Size))
async def resize(
    request: Request, ident: str, size: Annotated[Size, Depends(either(Size))], tx: Annotated[Tx, acting("resize")]
) -> Response:
    """Tells the container's terminal how large its window is."""
    box, engine = await reach(request, ident, tx, "resize")
    try:
        await asking(request, box, engine, cast(Attaches, engine).resize(ref_of(box), size.h, size.w))
    except (Taken, Refused) as error:
        # Clients overlook this status alone, for a container that ended while they asked.
        raise Invalid(error.title) from None
    return JSONResponse(None)


@router.post("/execute", summary="Execute", operation_id="execute_in_container", openapi_extra=parameters(Execute))
async def execute(
    request: Request,
    ident: str,
    how: Annotated[Execute, Depends(either(Execute))],
    tx: Annotated[Tx, acting("execute")],
) -> Response:
    """Runs a command inside to its end; output and errors come merged.

    With run=false the command waits for a websocket, whose URL is in the answer; an interactive one has a terminal.
    """
    words = how.words
    if how.run and how.interactive:
        raise Invalid("interactive: a command that is run to its end has no terminal; send run=false")
    box, engine = await reach(request, ident, tx, "execute")
    execs = cast(Execs, engine)
    if not how.run:
        exec_id = await asking(request, box, engine, execs.prepare_exec(ref_of(box), words, how.interactive))
        url = await _address(request, tx, box, exec_id)
        return JSONResponse({"output": None, "exit_code": None, "exec_id": exec_id, "proxy_url": url})
    limit = gateway(request).settings.execute_timeout
    result = await asking(request, box, engine, execs.execute(ref_of(box), words, limit))
    output = result.output.decode(errors="replace")
    return JSONResponse({"output": output, "exit_code": result.exit_code, "exec_id": None, "proxy_url": None})


@router.post(
    "/execute_resize", summary="Resize exec", operation_id="resize_exec_terminal", openapi_extra=parameters(ExecSize)
)
async def execute_resize(
    request: Request,
    ident: str,
    size: Annotated[ExecSize, Depends(either(ExecSize))],
    tx: Annotated[Tx, acting("execute_resize")],
) -> Response:
    """Tells a command's terminal how large its window is: 400 when it is unknown, has not started or has ended."""
    async with tx.reading() as session:
        box = await containers.find(session, ident, own_project=tx.caller.project_id)
    engine = gateway(request).engines.reach(box.backend)
    check_needs(engine, "execute_resize")
    try:
        await cast(Execs, engine).resize_exec(ref_of(box), size.exec_id, size.h, size.w)
    except (Gone, Taken, Refused) as error:
        # Clients overlook this status alone.
        raise Invalid(error.title) from None
    return JSONResponse(None)


async def _address(request: Request, tx: Tx, box: Container, exec_id: str | None) -> str:
    settings = gateway(request).settings
    async with tx.writing() as session:
        secret = await tickets.issue(session, box, exec_id, settings.ticket_seconds)
    return address(settings.public_url or base(request), secret, box.uuid, exec_id)


async def json_text(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """One JSON string in pieces, of UTF-8 in other pieces; what is none is replaced as if it had come in one."""
    decoder = getincrementaldecoder("utf-8")("replace")
    yield b'"' + _escaped(decoder.decode(first))
    async for chunk in rest:
        if text := decoder.decode(chunk):
            yield _escaped(text)
    yield _escaped(decoder.decode(b"", final=True)) + b'"'


def _escaped(text: str) -> bytes:
    return json.dumps(text, ensure_ascii=False)[1:-1].encode()


def _since(value: str | None) -> float | None:
    if value in (None, "None"):
        return None
    if value.isdigit():
        return float(value)
    try:
        return datetime.strptime(value, "%Y-%m-%d %H:%M:%S,%f").replace(tzinfo=UTC).timestamp()
    except ValueError as error:
        raise Invalid(f"since: {error}", code="schema-validation-error") from None
