"""Microversions: negotiation at the edge, and fields that not every version has.

Routes and nouns speak only the newest version. History (zun-api, section 1.4), as far as real Zun's code gates it:

    1.3 auto_remove   1.4 hosts   1.5 runtime   1.6 network_detach   1.7 force delete   1.8 network_attach
    1.9 hostname   1.11 mounts   1.12 stop on delete   1.13 network_list   1.14 rename removed
    1.15 security group actions removed   1.18 network_list shape   1.19 resize_container   1.20 command is a list
    1.21 privileged   1.22 healthcheck   1.24 exposed_ports   1.25 archives in base64   1.27 network delete
    1.31 registry   1.32 capsule shape   1.36 tty apart from interactive   1.39 host   1.40 entrypoint

Magnum (magnum-api, section 1.6), as far as its code gates it: 1.3 rollback   1.7 resize   1.8 upgrade   1.9 node groups
1.10 zero nodes   1.12 credentials   1.13 cluster_id. Cluster templates are the same in every version.
"""

import re
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic_core import PydanticCustomError
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.apis import MAGNUM, MINIMUM, ZUN, Api, api_of
from app.errors import FieldTooNew, UnknownVersion

MAXIMUM = ZUN.maximum
HEADER = b"openstack-api-version"

version: ContextVar[int] = ContextVar("version", default=MAXIMUM)
"""The minor version that the request in this task asked for."""

_NUMBER = re.compile(r"([0-9]{1,4})\.([0-9]{1,4})")


def negotiate(header: str | None, api: Api = ZUN) -> int:
    """The minor version of `api` that `header` asks for (zun-api and magnum-api, section 1.3). Raises UnknownVersion.

    Without a header it is the minimum. Of several services in one header, the word for this API counts.
    """
    if header is None:
        return MINIMUM
    words = [part for part in header.split(",") if part.split()[:1] and part.split()[0] in api.services]
    parts = (words[0] if words else header).split()
    if len(parts) == 2 and parts[1].lower() == "latest":
        return api.maximum
    if len(parts) != 2 or parts[0] not in api.services:
        raise UnknownVersion("Not Acceptable", detail="Invalid service type for OpenStack-API-Version header")
    match = _NUMBER.fullmatch(parts[1])
    if match is None:
        raise UnknownVersion("Not Acceptable", detail="Invalid value for OpenStack-API-Version header")
    major, minor = int(match[1]), int(match[2])
    if major != 1 or not MINIMUM <= minor <= api.maximum:
        raise UnknownVersion(
            "Requested microversion is unsupported",
            code="microversion-unsupported",
            detail=f"Version {major}.{minor} is not supported by the API. "
            f"Minimum is 1.{MINIMUM} and maximum is 1.{api.maximum}.",
            min_version=f"1.{MINIMUM}",
            max_version=f"1.{api.maximum}",
        )
    return minor


def headers_for(minor: int, api: Api = ZUN) -> list[tuple[bytes, bytes]]:
    """The four headers that every versioned answer carries."""
    return [
        (HEADER, f"{api.word} 1.{minor}".encode()),
        (b"openstack-api-minimum-version", f"{api.word} 1.{MINIMUM}".encode()),
        (b"openstack-api-maximum-version", f"{api.word} 1.{api.maximum}".encode()),
        (b"vary", b"OpenStack-API-Version"),
    ]


_HEADERS = {
    api.title: {minor: headers_for(minor, api) for minor in range(MINIMUM, api.maximum + 1)} for api in (ZUN, MAGNUM)
}


class VersionMiddleware:
    """ASGI: sets `version`, and puts the version headers on every answer, errors included."""

    def __init__(self, app: ASGIApp, render: Callable[[Scope, UnknownVersion], ASGIApp]) -> None:
        self.app = app
        self.render = render

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or not scope["path"].startswith(("/v1", MAGNUM.collection)):
            await self.app(scope, receive, send)
            return
        api = api_of(scope["path"])
        header = version_header(scope)
        app: ASGIApp
        try:
            minor, app = negotiate(header, api), self.app
            headers = _HEADERS[api.title][minor]
        except UnknownVersion as error:
            minor, app = api.maximum, self.render(scope, error)
            headers = _HEADERS[api.title][minor]
            if api is MAGNUM and error.more:  # Magnum names the version that it does not have
                headers = [(HEADER, f"{api.word} {str(header).split()[1]}".encode()), *headers[1:]]

        async def send_versioned(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *headers]
            await send(message)

        mark = version.set(minor)
        try:
            await app(scope, receive, send_versioned)
        finally:
            version.reset(mark)


def version_header(scope: Scope) -> str | None:
    """What a request says about versions; None when it says nothing."""
    values = [value for name, value in scope["headers"] if name == HEADER]
    return b",".join(values).decode("latin-1") if values else None


@dataclass(frozen=True, slots=True)
class Since:
    """On a field's annotation: the first minor version that has it; `unknown`: below it the name means nothing."""

    minor: int
    unknown: bool = False


class ApiModel(BaseModel):
    """A request body. Unknown fields are refused; fields from a later version are refused when they say anything."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=False)

    api: ClassVar[Api] = ZUN
    """Whose body it is."""

    lifts: ClassVar[tuple[tuple[int, Callable[[dict[str, Any]], dict[str, Any]]], ...]] = ()
    """Shapes of the past: (below which minor, how its body becomes the newest shape)."""

    @model_validator(mode="before")
    @classmethod
    def _of_version(cls, body: Any) -> Any:
        minor = version.get()
        if not isinstance(body, dict) or minor >= cls.api.maximum:
            return body
        for name, field in cls.model_fields.items():
            gates = [mark for mark in field.metadata if isinstance(mark, Since)]
            if gates and minor < gates[0].minor and name in body:
                _refuse(name, gates[0], body[name])
        for below, lift in cls.lifts:
            if minor < below:
                body = lift(dict(body))
        return body


def _refuse(name: str, gate: Since, value: Any) -> None:
    if gate.unknown:
        raise PydanticCustomError(
            "extra_forbidden", "Additional properties are not allowed ('{name}' was unexpected)", {"name": name}
        )
    if value not in (None, [], {}, ""):
        refuse_before(name, gate.minor)


def refuse_before(name: str, since: int) -> None:
    """Raises FieldTooNew when the request's version is older than 1.`since`."""
    minor = version.get()
    if minor < since:
        raise FieldTooNew(
            f"Invalid param {name} because current request version is 1.{minor}. "
            f"{name} is only supported from version 1.{since}"
        )


def require(first: int, last: int = MAXIMUM) -> Callable[[], None]:
    """A dependency: the route exists in versions 1.`first` to 1.`last` only; elsewhere 406."""

    def check() -> None:
        minor = version.get()
        if not first <= minor <= last:
            raise UnknownVersion(
                "Not Acceptable",
                detail=f"Version 1.{minor} was requested but the requested API is not supported for this version.",
            )

    return check
