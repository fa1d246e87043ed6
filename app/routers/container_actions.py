"""What can be done to one container: Zun's actions (zun-api, sections 3.1 to 3.9)."""

from collections.abc import Awaitable
from signal import Signals
from typing import Annotated, Any, TypeVar, cast

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import Field

from app import actions, containers, observe
from app.actions import StepArgs
from app.backends.engine import ContainerEngine, Measures, Stats
from app.containers import KillArgs, TimeoutArgs, check_ability, check_own, check_state
from app.errors import Conflict, Gone, Invalid, NotFound
from app.models import Action, ActionState, Container
from app.policy import Tx, allow
from app.routers.fields import Whole
from app.routers.requests import asked, either, gateway, iso_time, parameters
from app.versions import ApiModel

router = APIRouter(prefix="/v1/containers/{ident}", tags=["container actions"])
Answer = TypeVar("Answer")

SIGNALS = {
    spelling: signal.name
    for signal in Signals
    for name in (signal.name, signal.name.removeprefix("SIG"))
    for spelling in (name, name.lower(), str(signal.value))
}
"""The spellings of each signal: SIGTERM, TERM, sigterm, term and 15."""
EVENTS = {
    "add_security_group": "add_security_group",
    "remove_security_group": "remove_security_group",
    "network_attach": "do_network_attach",
    "network_detach": "do_network_detach",
    "resize_container": "do_container_update",
}
"""Zun's names of events that are not made of the verb's alone."""
MIB = 1024 * 1024


class Timeout(ApiModel):
    """Seconds until a stop becomes a kill."""

    timeout: Annotated[Whole, Field(le=86400)] = containers.STOP_GRACE


class Kill(ApiModel):
    """Which signal; None and its name mean SIGKILL."""

    signal: str | None = None

    @property
    def checked(self) -> str:
        """The signal as engines take it. Raises Invalid."""
        if self.signal in (None, "None"):
            return "SIGKILL"
        if (name := SIGNALS.get(self.signal)) is not None:
            return name
        raise Invalid(
            f"Invalid input for field 'signal'. Value: '{self.signal[:64]}'. It is a signal's name or number, "
            "such as SIGTERM, TERM or 15",
            code="schema-validation-error",
        )


class TopQuery(ApiModel):
    """Arguments for ps; None and its name mean none."""

    ps_args: Annotated[str | None, Field(max_length=256)] = None


def acting(verb: str) -> Any:
    """The dependency of every action: the rule of the verb; administrators reach every project's containers."""
    return Depends(allow(f"container:{verb}", any_project="container:get_one_all_projects"))


@router.post("/start", status_code=202, summary="Start", operation_id="start_container")
async def start(request: Request, ident: str, tx: Annotated[Tx, acting("start")]) -> Response:
    """From Created, Stopped or Error."""
    return await submit(request, ident, tx, "start", None)


@router.post("/stop", status_code=202, summary="Stop", operation_id="stop_container", openapi_extra=parameters(Timeout))
async def stop(
    request: Request, ident: str, how: Annotated[Timeout, Depends(either(Timeout))], tx: Annotated[Tx, acting("stop")]
) -> Response:
    """Asks the container to end, and kills it after `timeout` seconds."""
    return await submit(request, ident, tx, "stop", TimeoutArgs(timeout=how.timeout))


@router.post(
    "/reboot", status_code=202, summary="Restart", operation_id="reboot_container", openapi_extra=parameters(Timeout)
)
async def reboot(
    request: Request, ident: str, how: Annotated[Timeout, Depends(either(Timeout))], tx: Annotated[Tx, acting("reboot")]
) -> Response:
    """Stops and starts it."""
    return await submit(request, ident, tx, "reboot", TimeoutArgs(timeout=how.timeout))


@router.post("/pause", status_code=202, summary="Pause", operation_id="pause_container")
async def pause(request: Request, ident: str, tx: Annotated[Tx, acting("pause")]) -> Response:
    """Freezes all its processes."""
    return await submit(request, ident, tx, "pause", None)


@router.post("/unpause", status_code=202, summary="Unpause", operation_id="unpause_container")
async def unpause(request: Request, ident: str, tx: Annotated[Tx, acting("unpause")]) -> Response:
    """Lets its processes go on."""
    return await submit(request, ident, tx, "unpause", None)


@router.post("/kill", status_code=202, summary="Kill", operation_id="kill_container", openapi_extra=parameters(Kill))
async def kill(
    request: Request, ident: str, how: Annotated[Kill, Depends(either(Kill))], tx: Annotated[Tx, acting("kill")]
) -> Response:
    """Sends a signal, SIGKILL when none is named."""
    return await submit(request, ident, tx, "kill", KillArgs(signal=how.checked))


@router.get("/top", summary="Processes", operation_id="container_top")
async def top(
    request: Request, ident: str, query: Annotated[TopQuery, Query()], tx: Annotated[Tx, acting("top")]
) -> Response:
    """The processes of the container, as ps shows them."""
    box, engine = await reach(request, ident, tx, "top")
    ps_args = None if query.ps_args in (None, "", "None") else query.ps_args
    table = await asking(request, box, engine, _measures(engine).top(ref_of(box), ps_args))
    return JSONResponse({"Titles": list(table.titles), "Processes": [list(row) for row in table.processes]})


@router.get("/stats", summary="Statistics", operation_id="container_stats")
async def stats(request: Request, ident: str, tx: Annotated[Tx, acting("stats")]) -> Response:
    """One measurement of what the container uses."""
    box, engine = await reach(request, ident, tx, "stats")
    return JSONResponse(_stats(box, await asking(request, box, engine, _measures(engine).stats(ref_of(box)))))


@router.get("/container_actions", summary="List actions", operation_id="list_container_actions")
async def list_actions(request: Request, ident: str, tx: Annotated[Tx, acting("actions")]) -> Response:
    """What was asked of the container, newest first."""
    async with tx.reading() as session:
        box = await containers.find(session, ident, own_project=tx.caller.project_id)
        rows = await actions.history(session, box.uuid)
    return JSONResponse({"containerActions": [_action(row) for row in rows]})


@router.get("/container_actions/{request_id}", summary="Show an action", operation_id="show_container_action")
async def show_action(request: Request, ident: str, request_id: str, tx: Annotated[Tx, acting("actions")]) -> Response:
    """The action that the request with this id caused, with its events."""
    async with tx.reading() as session:
        box = await containers.find(session, ident, own_project=tx.caller.project_id)
        rows = await actions.history(session, box.uuid, request_id)
    if not rows:
        raise NotFound(f"Action with request_id {request_id[:64]} could not be found.", code="resource-not-found")
    tells = tx.policy.permits("container:action:events", tx.caller)
    first = rows[-1]
    return JSONResponse(_action(first) | {"events": _events(first, tells)})


async def submit(request: Request, ident: str, tx: Tx, verb: str, args: StepArgs | None) -> Response:
    """Accept an action: 202 and null; the outcome shows in the container."""
    parts = gateway(request)
    async with tx.writing() as session:
        box = await containers.find(session, ident, own_project=tx.caller.project_id, lock=True)
        check_needs(parts.engines.reach(box.backend), verb)
        await containers.act(session, asked(request, tx), box, verb, parts.settings, args)
    parts.wake()
    return JSONResponse(None, 202)


async def reach(request: Request, ident: str, tx: Tx, verb: str) -> tuple[Container, ContainerEngine]:
    """The container and its engine, for a call in the request. Raises WrongState, Unsupported, Invalid."""
    async with tx.reading() as session:
        box = await containers.find(session, ident, own_project=tx.caller.project_id)
    check_own(box, verb)
    check_state(box, verb)
    engine = gateway(request).engines.reach(box.backend)
    check_needs(engine, verb)
    if box.engine_ref is None:
        raise Invalid(f"Container {box.uuid} has not been made by its engine: {box.status_reason or box.status}")
    return box, engine


async def asking(request: Request, box: Container, engine: ContainerEngine, call: Awaitable[Answer]) -> Answer:
    """Await an engine's answer. A container that is gone is noted at once, and 409 (zun-api, section 4.2)."""
    try:
        return await call
    except Gone as error:
        parts = gateway(request)
        await observe.refresh(engine, parts.database, parts.settings, containers.uuid_of(box))
        raise Conflict(error.title) from None


def check_needs(engine: ContainerEngine, verb: str) -> None:
    """Raises Unsupported when the engine lacks what `verb` needs."""
    if verb in containers.NEEDS:
        ability, instead = containers.NEEDS[verb]
        check_ability(engine, ability, f"{verb} containers", instead)


def _measures(engine: ContainerEngine) -> Measures:
    """The engine as `check_needs` found it to be; declared abilities and protocols agree (conformance suite)."""
    return cast(Measures, engine)


def ref_of(box: Container) -> str:
    """The engine's own id of what `reach` found."""
    return box.engine_ref or ""


def _stats(box: Container, seen: Stats) -> dict[str, Any]:
    limit = seen.memory_limit / MIB
    used = seen.memory_used / MIB
    return {
        "CONTAINER": box.name,
        "CPU %": seen.cpu_percent,
        "MEM USAGE(MiB)": used,
        "MEM LIMIT(MiB)": limit,
        "MEM %": 100.0 * used / limit if limit else 0.0,
        "BLOCK I/O(B)": f"{seen.block_read}/{seen.block_write}",
        "NET I/O(B)": f"{seen.net_rx}/{seen.net_tx}",
    }


def _action(row: Action) -> dict[str, Any]:
    return {
        "action": row.verb,
        "container_uuid": row.resource_id,
        "request_id": row.request_id,
        "user_id": row.user_id,
        "project_id": row.project_id,
        "start_time": iso_time(row.created_at),
        "finish_time": iso_time(row.finished_at),
        "message": row.message,
    }


def _events(row: Action, tells: bool) -> list[dict[str, Any]]:
    """What was done for an action, newest first; one that makes a container and starts it has two events."""
    if row.started_at is None:
        return []
    results = {ActionState.DONE: "Success", ActionState.FAILED: "Error", ActionState.CANCELLED: "Error"}
    result = results.get(ActionState(row.state))
    reason = row.message if tells and result == "Error" else None
    made_at = (row.memo or {}).get("made_at") if row.verb == "create" else None
    if made_at is None:
        return [_event(row.verb, row.started_at, row.finished_at, result, reason)]
    return [
        _event("start", made_at, row.finished_at, result, reason),
        _event("create", row.started_at, made_at, "Success", None),
    ]


def _event(verb: str, began: float, ended: float | None, result: str | None, reason: str | None) -> dict[str, Any]:
    return {
        "event": f"compute__{EVENTS.get(verb, f'do_container_{verb}')}",
        "start_time": iso_time(began),
        "finish_time": iso_time(ended),
        "result": result,
        "traceback": reason,
    }
