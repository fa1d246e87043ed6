"""The audit of requests: an ASGI layer that tells `app.audit` of each that changes something, whatever came of it."""

import json
from collections.abc import Mapping
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import audit
from app.apis import MAGNUM, ZUN, api_of
from app.auth import Caller
from app.gate import PROBES

READS = frozenset({"GET", "HEAD", "OPTIONS"})
METHODS = {"POST": "create", "PUT": "update", "PATCH": "update", "DELETE": "delete", "GET": "read", "HEAD": "read"}
NESTED = frozenset({"nodegroups", "application_credentials"})
"""Collections below a resource; what else stands there is a verb."""
MOST_SNIFFED = 64 * 1024  # bytes of an answer in which the id of what was made is looked for


class Audited:
    """ASGI: one event for each request but reads, and for these as well when `reads` is set."""

    def __init__(self, app: ASGIApp, reads: bool) -> None:
        self.app = app
        self._reads = reads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or not self._concerns(scope):
            await self.app(scope, receive, send)
            return
        path = scope["path"]  # what is mounted changes it
        status, body = 0, b""

        async def send_noted(message: Message) -> None:
            nonlocal status, body
            if message["type"] == "http.response.start":
                status = message["status"]
            elif not body and scope["method"] == "POST" and len(message.get("body", b"")) < MOST_SNIFFED:
                body = message.get("body", b"")
            await send(message)

        try:
            await self.app(scope, receive, send_noted)
        finally:
            _tell(scope, path, status or 500, body)

    def _concerns(self, scope: Scope) -> bool:
        if scope["path"].strip("/") in PROBES:
            return False
        return self._reads or scope["method"] not in READS


def _tell(scope: Scope, path: str, status: int, body: bytes) -> None:
    state = scope.get("state", {})
    made = _made(body) if status < 300 else {}
    action, target = describe(scope["method"], path)
    if "id" not in target:
        target["id"] = made.get("uuid") or made.get("id") or "unknown"
    client = scope.get("client")
    host = {"host": {"address": client[0]}} if client else {}
    audit.event(
        action,
        "failure" if status >= 400 else "pending" if status == 202 else "success",
        initiator=_initiator(state, made if action == "authenticate" else {}) | host,
        target=target,
        reason={"reasonType": "HTTP", "reasonCode": str(status)},
        request_id=state.get("request_id", ""),
        requestPath=path,
    )


def describe(method: str, path: str) -> tuple[str, dict[str, str]]:
    """CADF's action and target of a request to a canonical path; the target has no id where the path names none."""
    parts = [part for part in path.split("/") if part]
    if parts[:1] == ["identity"]:
        service, parts = "identity", parts[2:]
        if parts == ["auth", "tokens"] and method == "POST":
            return "authenticate", {"typeURI": "service/identity/tokens"}
    else:
        api = api_of(path)
        service, parts = (MAGNUM.prefix, parts[2:]) if api is MAGNUM else (ZUN.prefix, parts[1:])
    action = METHODS.get(method, "unknown")
    if not parts:
        return action, {"typeURI": f"service/{service}"}
    verb = ""
    if len(parts) > 2 and parts[2] not in NESTED and service != "identity":
        verb, parts = "/".join(parts[2:]), parts[:2]
    if len(parts) % 2:
        return action, {"typeURI": f"service/{service}/{parts[-1]}"}
    if verb and method not in READS:
        action = f"update/{verb}"
    return action, {"typeURI": f"service/{service}/{parts[-2]}", "id": parts[-1]}


def _initiator(state: Mapping[str, Any], made: Mapping[str, Any]) -> dict[str, Any]:
    caller: Caller | None = state.get("caller")
    if caller is not None:
        return {"id": caller.user_id, "name": caller.user_name, "project_id": caller.project_id}
    token = state.get("token", made)  # the embedded identity's own
    found = {"id": (token.get("user") or {}).get("id", "unknown"), "name": (token.get("user") or {}).get("name", "")}
    return found | {"project_id": (token.get("project") or {}).get("id", "")}


def _made(body: bytes) -> dict[str, Any]:
    """The object in an answer that says what was made; empty when there is none."""
    try:
        content = json.loads(body) if body.startswith(b"{") else {}
    except ValueError:
        return {}
    inner = list(content.values())
    return inner[0] if len(inner) == 1 and isinstance(inner[0], dict) else content
