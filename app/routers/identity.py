"""The embedded identity's HTTP side: the part of Keystone v3 that `openstack`, keystoneauth and the SDK use.

It is an application of its own, so that its errors look like Keystone's and its routes stay out of our OpenAPI
document. It checks tokens by itself: whoever mounts it must let requests without a token through.
"""

from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import Forbidden, GatewayError, Invalid, NotFound, Unauthorized
from app.identity import EmbeddedIdentity, Ref, Token, catalogue
from app.passwords import FAILURE_SECONDS
from app.routers import identity_accounts
from app.routers.identity_accounts import project_view
from app.routers.identity_requests import (
    READ,
    AuthRequest,
    BaseUrl,
    Caller,
    Identity,
    base_url_of,
    body,
    many,
    self_or_admin,
)
from app.settings import Settings

router = APIRouter()


def identity_api(identity: EmbeddedIdentity, settings: Settings) -> FastAPI:
    """The application to mount at ``/identity``."""
    routes = [*router.routes, *identity_accounts.router.routes]
    api = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False, routes=routes)
    api.state.identity, api.state.settings = identity, settings
    api.add_exception_handler(GatewayError, _refusal)
    api.add_exception_handler(HTTPException, _refusal)
    api.add_exception_handler(Exception, _refusal)
    api.add_middleware(_Varying)
    api.add_middleware(_WithoutNul)
    return api


class _Varying:
    """ASGI: every answer depends on who asks, and says so to caches."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_varying(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"vary", b"X-Auth-Token")]
            await send(message)

        await self._app(scope, receive, send_varying)


class _WithoutNul:
    """ASGI: PostgreSQL takes no NUL, not even to look for it. Another control character finds as little."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope["path"] = scope["path"].replace("\0", "\1")
            scope["query_string"] = scope["query_string"].replace(b"%00", b"%01").replace(b"\0", b"\1")
        await self._app(scope, receive, send)


# Versions


@router.api_route("/", methods=READ)
async def versions(base_url: BaseUrl) -> Response:
    return JSONResponse({"versions": {"values": [_version(base_url)]}}, HTTPStatus.MULTIPLE_CHOICES)


@router.api_route("/v3", methods=READ)
@router.api_route("/v3/", methods=READ)
async def version(base_url: BaseUrl) -> Response:
    return JSONResponse({"version": _version(base_url)})


def _version(base_url: str) -> dict[str, Any]:
    return {
        "id": "v3.14",
        "status": "stable",
        "updated": "2020-04-07T00:00:00Z",
        "links": [{"rel": "self", "href": f"{base_url}/identity/v3/"}],
        "media-types": [{"base": "application/json", "type": "application/vnd.openstack.identity-v3+json"}],
    }


# Tokens


@router.post("/v3/auth/tokens")
async def issue_token(
    request: Request, identity: Identity, asked: Annotated[AuthRequest, body(AuthRequest)]
) -> Response:
    auth, methods = asked.auth, asked.auth.identity
    if methods.methods == ["password"] and methods.password:
        user = methods.password.user
        token, described = await identity.log_in(user.ref(), user.password, auth.wanted())
    elif methods.methods == ["token"] and methods.token:
        token, described = await identity.log_in_again(methods.token.id, auth.wanted())
    elif methods.methods == ["application_credential"] and (credential := methods.application_credential):
        if auth.scope is not None:
            raise Unauthorized("Application credentials cannot request a scope.")
        ref = Ref(id=credential.id) if credential.id is not None else Ref(name=credential.name)
        owner = credential.user.ref() if credential.user else Ref()
        token, described = await identity.log_in_with_credential(ref, owner, credential.secret)
    else:
        raise Invalid("auth.identity: one of the methods password, token and application_credential, and its object.")
    return _token_answer(request, token, described, HTTPStatus.CREATED)


@router.api_route("/v3/auth/tokens", methods=READ)
async def show_token(request: Request, identity: Identity, caller: Caller) -> Response:
    text = request.headers.get("X-Subject-Token", "")
    return _token_answer(request, text, await _subject(identity, caller, text), HTTPStatus.OK)


@router.delete("/v3/auth/tokens")
async def revoke_token(request: Request, identity: Identity, caller: Caller) -> Response:
    await identity.revoke(await _subject(identity, caller, request.headers.get("X-Subject-Token", "")))
    return Response(status_code=HTTPStatus.NO_CONTENT)


@router.api_route("/v3/auth/catalog", methods=READ)
async def show_catalogue(base_url: BaseUrl, caller: Caller) -> Response:
    if caller.project is None:
        raise Forbidden("An unscoped token has no catalogue.")
    return JSONResponse({"catalog": catalogue(base_url), "links": {"self": f"{base_url}/identity/v3/auth/catalog"}})


@router.api_route("/v3/auth/projects", methods=READ)
async def own_projects(identity: Identity, base_url: BaseUrl, caller: Caller) -> Response:
    return many(base_url, "projects", map(project_view, await identity.projects_of(caller.user.id)), "auth/projects")


async def _subject(identity: EmbeddedIdentity, caller: Token, text: str) -> Token:
    try:
        subject = await identity.read(text)
    except Unauthorized:
        # What is not a token of anybody's is told to anybody, as Keystone does.
        raise NotFound("This is not a valid token.") from None
    self_or_admin(caller, subject.user.id)
    return subject


def _token_answer(request: Request, text: str, token: Token, status: HTTPStatus) -> Response:
    shown = token.body()
    if token.project is not None and "nocatalog" not in request.query_params:
        shown["catalog"] = catalogue(base_url_of(request))
    return JSONResponse({"token": shown}, status, {"X-Subject-Token": text})


async def _refusal(request: Request, error: Exception) -> Response:
    """Any error in Keystone's shape."""
    headers: dict[str, str] = {}
    if isinstance(error, GatewayError):
        status, message = error.status, error.title
    elif isinstance(error, HTTPException):
        status, message = error.status_code, "There is nothing here that this identity serves."
        headers |= error.headers or {}
    else:
        status, message = 500, "An unexpected error prevented the server from fulfilling your request."
    if status == 401:
        headers["WWW-Authenticate"] = f'Keystone uri="{base_url_of(request)}/identity/v3"'
    if status in (429, 503):
        headers["Retry-After"] = str(FAILURE_SECONDS if status == 429 else 5)
    answer = {"error": {"code": status, "message": message, "title": HTTPStatus(status).phrase}}
    return JSONResponse(answer, status, headers)
