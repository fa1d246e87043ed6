"""How requests are read beyond what FastAPI does: merged parameters, JSON only, paging, links."""

from collections.abc import Awaitable, Callable, Collection, Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError

from app import glance
from app.actions import Asked
from app.backends.engine import Ability
from app.containers import check_ability
from app.errors import Invalid, WrongContentType
from app.gateway import Gateway
from app.glance import CloudImage
from app.pages import Page
from app.policy import Tx
from app.versions import ApiModel

Model = TypeVar("Model", bound=ApiModel)


def gateway(request: Request) -> Gateway:
    """The running parts."""
    found: Gateway = request.app.state.gateway
    return found


def asked(request: Request, tx: Tx) -> Asked:
    """Who asks, for the action log."""
    return Asked(tx.caller.user_id, request.state.request_id)


def base(request: Request) -> str:
    """Scheme and host of the request, for links; Zun leaves any path prefix out."""
    return f"{request.url.scheme}://{request.url.netloc}"


async def cloud_image(request: Request, backend: str, ident: str) -> CloudImage:
    """An image that the caller sees in the image service. Raises the 4xx or 501 that says why it cannot be run."""
    parts = gateway(request)
    service = await glance.connect(parts.catalogue, "image_driver")
    check_ability(parts.engines.reach(backend), Ability.IMAGE_TAR, "take an image in", "use the driver docker")
    return await service.find(ident, caller_token(request))


def caller_token(request: Request) -> str:
    """The token of the request, to ask other services what its caller may do."""
    return request.headers["x-auth-token"]


def links(base_url: str, collection: str, ident: str) -> list[dict[str, str]]:
    """Zun's pair of links to one resource."""
    return [
        {"href": f"{base_url}/v1/{collection}/{ident}", "rel": "self"},
        {"href": f"{base_url}/{collection}/{ident}", "rel": "bookmark"},
    ]


def json_only(request: Request) -> None:
    """A dependency for POST on collections: any other content type is a 415 (zun-api, section 0)."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise WrongContentType(f"The body must be application/json, not {kind[:64] or 'untyped'}.")


def either(model: type[Model]) -> Callable[[Request], Awaitable[Model]]:
    """A dependency: parameters from the query string or a JSON body, in one set (zun-api, section 0)."""

    async def read(request: Request) -> Model:
        given: dict[str, Any] = {k: v for k, v in request.query_params.items() if k != "all_projects"}
        body = await _object(request)
        if twice := sorted(given.keys() & body.keys()):
            raise Invalid(
                f"{', '.join(twice)}: given in the query string and in the body", code="schema-validation-error"
            )
        try:
            return model.model_validate(given | body)
        except ValidationError as error:
            raise RequestValidationError(error.errors(include_url=False)) from None

    return read


async def _object(request: Request) -> dict[str, Any]:
    """The JSON object in the body; anything else counts as none, as with Zun."""
    try:
        body = await request.json() if await request.body() else {}
    except (ValueError, RecursionError):
        return {}
    return body if isinstance(body, dict) else {}


def parameters(model: type[BaseModel]) -> dict[str, Any]:
    """OpenAPI for `either`: the model's fields as query parameters."""
    schema = model.model_json_schema()
    required = schema.get("required", [])
    return {
        "parameters": [
            {"name": name, "in": "query", "required": name in required, "schema": field}
            for name, field in schema.get("properties", {}).items()
        ]
    }


def paging(filters: Collection[str], mark: str = "uuid") -> dict[str, Any]:
    """OpenAPI for `page`: its query parameters."""
    described = {
        "limit": ("integer", "Most entries in this page"),
        "marker": ("string", f"The {mark} of the last entry of the page before"),
        "sort_key": ("string", "The field to sort by; id, the order of creation, if absent"),
        "sort_dir": ("string", "asc or desc"),
        **{name: ("string", f"Only entries with this {name}") for name in filters},
    }
    return {
        "parameters": [
            {"name": name, "in": "query", "required": False, "schema": {"type": kind}, "description": text}
            for name, (kind, text) in described.items()
        ]
    }


def page(
    request: Request,
    model: Any,
    columns: Mapping[str, Any],
    filters: Collection[str],
    *,
    key: str = "id",
    mark: str = "uuid",
) -> Page:
    """Read paging and filters of a list from the query string; sorted by `key` if it names none. Raises Invalid."""
    most = gateway(request).settings.page_limit
    return Page(request.query_params, f"{base(request)}/v1", most, model, columns, filters, key, mark)


def plain_time(epoch: float | None) -> str | None:
    """Zun's times of containers: naive UTC, a blank in the middle (zun-api, section 0)."""
    return None if epoch is None else str(datetime.fromtimestamp(epoch, UTC).replace(tzinfo=None))


def iso_time(epoch: float | None) -> str | None:
    """Zun's times of actions: ``T`` and always six digits."""
    return None if epoch is None else datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")
