"""How Magnum's requests are read and its answers written: types of values, patches, lists (magnum-api, section 3)."""

from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, BeforeValidator, Field, ValidationError, WithJsonSchema
from pydantic_core import PydanticCustomError

from app import json_patch
from app.apis import MAGNUM, Api
from app.cloud import Cloud
from app.errors import Invalid, WrongContentType
from app.lookup import uuid_of
from app.pages import Page
from app.routers.requests import caller_token, gateway, page
from app.versions import ApiModel

MOST = 2**31 - 1
MOST_NODES = 10_000
LISTING = frozenset({"limit", "marker", "sort_key", "sort_dir"})
_TRUE, _FALSE = ("true", "t", "yes", "y", "on", "1"), ("false", "f", "no", "n", "off", "0")
Fields = TypeVar("Fields", bound=BaseModel)


def _flag(value: Any) -> Any:
    word = str(value).lower() if isinstance(value, str | int) else ""
    if word in _TRUE or word in _FALSE:
        return word in _TRUE
    raise PydanticCustomError(
        "flag", "Value must be a boolean, or one of: {words}", {"words": ", ".join(_TRUE + _FALSE)}
    )


def _number(value: Any) -> Any:
    if isinstance(value, str) and value.isascii() and value.removeprefix("-").isdigit() and len(value) < 18:
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise PydanticCustomError("number", "Value must be an integer")
    return value


def _label(value: Any) -> Any:
    if not isinstance(value, str | int | float):
        raise PydanticCustomError("label", "The value of a label must be text, a number, true or false")
    return str(value)


def _plain(value: Any) -> Any:
    if value is not None and not isinstance(value, str | int):
        raise PydanticCustomError("plain", "Value must be text or an integer; a map is sent as its text")
    return value


def given(value: Any) -> Any:
    """An empty string is nothing: some clients send it for that."""
    return None if value == "" else value


_INTEGER = WithJsonSchema({"type": "integer"})
Flag = Annotated[bool, BeforeValidator(_flag), WithJsonSchema({"type": "boolean"})]
Words = Annotated[str, Field(strict=True, min_length=1, max_length=255)]
Given = Annotated[Words | None, BeforeValidator(given), WithJsonSchema({"type": "string", "maxLength": 255})]
"""Words, or nothing."""
Size = Annotated[int, BeforeValidator(_number), Field(ge=1, le=MOST), _INTEGER]
Count = Annotated[int, BeforeValidator(_number), Field(ge=0, le=MOST), _INTEGER]
Nodes = Annotated[int, BeforeValidator(_number), Field(ge=0, le=MOST_NODES), _INTEGER]
"""Of one node group."""
Port = Annotated[int, BeforeValidator(_number), Field(ge=1024, le=65535), _INTEGER]
Labels = dict[
    Annotated[str, Field(min_length=1, max_length=255)],
    Annotated[str, BeforeValidator(_label), Field(max_length=16384), WithJsonSchema({"type": "string"})],
]


class Operation(ApiModel):
    """One operation of a JSON patch. A map is sent as its text."""

    api: ClassVar[Api] = MAGNUM

    op: Literal["add", "replace", "remove"]
    path: Annotated[str, Field(strict=True, max_length=512, pattern=r"^(/[\w-]+)+$")]
    value: Annotated[Any, BeforeValidator(_plain), WithJsonSchema({"type": ["string", "integer", "boolean"]})] = None


def operations(body: list[Operation]) -> list[json_patch.Operation]:
    """A patch as the rules take it."""
    return [(step.op, step.path, step.value) for step in body]


def magnum_json(request: Request) -> None:
    """A dependency: a body must be JSON; else 415 (magnum-api, section 3.3)."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":  # the gate has put this in the place of its synonyms
        raise WrongContentType(f"Unknown mimetype: {kind[:64] or 'none'}")


def arguments(request: Request, known: Collection[str] = ()) -> Mapping[str, str]:
    """The query string. Raises Invalid for a name that the call does not know."""
    if unknown := sorted(request.query_params.keys() - set(known)):
        raise Invalid(f'Unknown argument: "{", ".join(unknown)[:255]}"')
    return request.query_params


def flag(name: str, value: str) -> bool:
    """A flag in a query string. Raises Invalid."""
    if value.lower() not in _TRUE + _FALSE:
        raise Invalid(f"Invalid input for field/attribute {name}. Value: '{value[:64]}'. It must be true or false.")
    return value.lower() in _TRUE


def listing(
    request: Request, model: Any, columns: Mapping[str, Any], filters: Collection[str] = (), *, mark: str = "uuid"
) -> Page:
    """Read paging from the query string; a marker is the `mark` of a row. Raises Invalid."""
    query = arguments(request, LISTING | set(filters))
    marker = query.get("marker")
    if mark == "uuid" and marker is not None and uuid_of(marker) is None:
        raise Invalid(f"Expected a uuid as marker but received {marker[:64]}.")
    return page(request, model, columns, filters, mark=mark)


def validated(kind: type[Fields], values: Mapping[str, Any]) -> Fields:
    """Fields after a patch, by the rules of new ones. Raises RequestValidationError."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise RequestValidationError(error.errors(include_url=False)) from None


def cloud(request: Request) -> Cloud:
    """What clusters may be made of, as the caller sees it."""
    parts = gateway(request)
    return Cloud(parts.settings.clusters, parts.catalogue, caller_token(request))


def time(epoch: float | None) -> str | None:
    """With the offset, which Go's clients need, and whole seconds."""
    return None if epoch is None else datetime.fromtimestamp(int(epoch), UTC).isoformat()
