"""How refused requests are answered: every exception becomes the envelope of the API that was asked."""

import re
from reprlib import Repr
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import iter_route_contexts
from starlette.exceptions import HTTPException

from app.apis import ZUN, api_of
from app.errors import Busy, GatewayError, Invalid
from app.gate import internal_error, render

_BRIEF = Repr()
_BRIEF.maxlevel, _BRIEF.maxstring, _BRIEF.maxother = 3, 255, 255
SECRET = ("password", "csr", "source")
"""Fields of which no answer repeats the value: a private key may have got where its request belongs."""
_ACTION_PATH = re.compile(r"^/v1/containers/[^/]+/")


def install(api: FastAPI) -> None:
    """Register the handlers."""
    api.add_exception_handler(GatewayError, _refused)
    api.add_exception_handler(RequestValidationError, _invalid)
    api.add_exception_handler(HTTPException, _routing)
    api.add_exception_handler(Exception, _defect)


async def _refused(request: Request, error: Any) -> Response:
    return render(request.scope, error, {"retry-after": "5"} if isinstance(error, Busy) else None)


async def _invalid(request: Request, error: Any) -> Response:
    words = sentence if api_of(request.scope["path"]) is ZUN else magnum_sentence
    return render(request.scope, Invalid(words(error.errors()), code="schema-validation-error"))


async def _routing(request: Request, error: Any) -> Response:
    """Unknown paths and methods. Below a container Zun says 404 for a wrong method too (recorded answers)."""
    status, headers = error.status_code, dict(error.headers or {})
    if status == 405 and _ACTION_PATH.match(request.scope["path"]):
        status, headers = 404, {}
    elif status == 405:
        headers = {"allow": _allowed(request)}
    title = {400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed"}.get(status, "Error")
    detail = "" if status in (404, 405) else str(error.detail)
    refusal = GatewayError(title, code="schema-validation-error" if status == 400 else "", detail=detail)
    refusal.status = status
    return render(request.scope, refusal, headers)


async def _defect(request: Request, error: Exception) -> Response:
    """What nobody foresaw. `app.gate.Gate` writes it to the log."""
    return internal_error(request.scope)


def _allowed(request: Request) -> str:
    """The methods of all routes with this path; routing names only those of the first."""
    routes = iter_route_contexts(request.app.routes)
    found = {method for r in routes if r.methods and r.path_regex.match(request.scope["path"]) for method in r.methods}
    return ", ".join(sorted(found))


def sentence(errors: list[dict[str, Any]]) -> str:
    """The first of pydantic's findings, in Zun's words: the field, the value, what it must be."""
    found = errors[0]
    where = [str(part) for part in found["loc"]]
    if where[:1] in (["body"], ["query"]) or (where[:1] == ["path"] and where[1:]):  # where it was, not what
        where = where[1:]
    if where[-1:] == ["[key]"]:  # a key of a map: its value is the key, its name the map's
        where = where[:-2]
    field = where[-1] if where else "body"
    match found["type"]:
        case "missing":
            return f"'{field}' is a required property"
        case "extra_forbidden":
            name = found.get("ctx", {}).get("name", field)
            return f"Additional properties are not allowed ('{name}' was unexpected)"
        case "json_invalid":
            return f"The body is not valid JSON: {found.get('ctx', {}).get('error', found['msg'])}"
    return f"Invalid input for field '{field}'. Value: '{_shown(field, found.get('input'))}'. {found['msg']}"


def magnum_sentence(errors: list[dict[str, Any]]) -> str:
    """The first of pydantic's findings, in Magnum's words (magnum-api, section 2.3)."""
    found = errors[0]
    where = [str(part) for part in found["loc"]]
    where = where[1:] if where[:1] == ["body"] else where
    if where[-1:] == ["[key]"]:  # a key of a map: its value is the key, its name the map's
        where = where[:-2]
    field = where[-1] if where else "body"
    match found["type"]:
        case "missing" if not where:
            return 'Missing argument: "body"'
        case "missing":
            return f"Invalid input for field/attribute {field}. Value: 'None'. Mandatory field missing."
        case "extra_forbidden":
            return f"Unknown attribute for argument {where[0] if len(where) > 1 else 'body'}: {field}"
        case "json_invalid":
            return "Request is not in valid JSON format"
    return f"Invalid input for field/attribute {field}. Value: '{_shown(field, found.get('input'))}'. {found['msg']}"


def _shown(field: str, value: Any) -> str:
    """The start of a value, however large or deeply nested it is; of what may be a secret nothing."""
    text = value if isinstance(value, str) else _BRIEF.repr(value)
    if field in SECRET or any(word in text for word in ("password", "PRIVATE KEY")):
        return "***"
    return text if len(text) <= 255 else text[:255] + "…"
