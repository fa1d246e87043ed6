"""Users, projects, roles and application credentials of the embedded identity, and the lists that never change."""

import secrets
from datetime import UTC, datetime
from http import HTTPStatus
from itertools import pairwise
from typing import Annotated, Any
from uuid import uuid4

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse

from app.auth import ROLE_CHAIN
from app.errors import Forbidden, Invalid, NotFound
from app.identity import DOMAIN, REGION, ROLE_IDS, ROLE_NAMES, EmbeddedIdentity, Token, catalogue, iso_time
from app.models import IdentityCredential, IdentityGrant, IdentityProject, IdentityUser
from app.routers.identity_requests import (
    READ,
    BaseUrl,
    Caller,
    CredentialRequest,
    Identity,
    PasswordRequest,
    ProjectRequest,
    RoleRef,
    UserRequest,
    admin_caller,
    body,
    changes_of,
    check_domain,
    filters,
    flag,
    in_domain,
    links,
    many,
    matching,
    needed,
    one,
    self_or_admin,
    token_caller,
)

router = APIRouter()


# Users


@router.api_route("/v3/users", methods=READ, dependencies=[Depends(admin_caller)])
async def list_users(request: Request, identity: Identity, base_url: BaseUrl) -> Response:
    found = await identity.find_all(IdentityUser, **filters(request)) if in_domain(request) else []
    return many(base_url, "users", map(_user, found))


@router.post("/v3/users", dependencies=[Depends(admin_caller)])
async def create_user(
    identity: Identity, base_url: BaseUrl, asked: Annotated[UserRequest, body(UserRequest)]
) -> Response:
    wanted = asked.user
    check_domain(wanted.domain_id)
    user = IdentityUser(
        id=uuid4().hex,
        name=needed(wanted.name, "user.name"),
        password_hash="",
        enabled=wanted.enabled,
        default_project_id=wanted.default_project_id,
    )
    return one(base_url, "user", _user(await identity.add_user(user, wanted.password)), HTTPStatus.CREATED)


@router.api_route("/v3/users/{user_id}", methods=READ)
async def show_user(identity: Identity, base_url: BaseUrl, caller: Caller, user_id: str) -> Response:
    self_or_admin(caller, user_id)
    return one(base_url, "user", _user(await identity.find(IdentityUser, user_id)))


@router.patch("/v3/users/{user_id}", dependencies=[Depends(admin_caller)])
async def update_user(
    identity: Identity, base_url: BaseUrl, user_id: str, asked: Annotated[UserRequest, body(UserRequest)]
) -> Response:
    changes = changes_of(asked.user, "user", not_null=("name", "password"))
    return one(base_url, "user", _user(await identity.change(IdentityUser, user_id, changes)))


@router.delete("/v3/users/{user_id}", dependencies=[Depends(admin_caller)])
async def delete_user(identity: Identity, user_id: str) -> Response:
    await identity.remove(IdentityUser, user_id)
    return Response(status_code=HTTPStatus.NO_CONTENT)


@router.post("/v3/users/{user_id}/password")
async def change_password(
    identity: Identity, user_id: str, asked: Annotated[PasswordRequest, body(PasswordRequest)]
) -> Response:
    """Needs no token: the old password is proof enough."""
    await identity.change_own_password(user_id, asked.user.original_password, asked.user.password)
    return Response(status_code=HTTPStatus.NO_CONTENT)


@router.api_route("/v3/users/{user_id}/projects", methods=READ)
async def list_projects_of_user(identity: Identity, base_url: BaseUrl, caller: Caller, user_id: str) -> Response:
    self_or_admin(caller, user_id)
    await identity.find(IdentityUser, user_id)
    return many(
        base_url, "projects", map(project_view, await identity.projects_of(user_id)), f"users/{user_id}/projects"
    )


def _user(user: IdentityUser) -> dict[str, Any]:
    view = {
        "id": user.id,
        "name": user.name,
        "domain_id": DOMAIN["id"],
        "enabled": user.enabled,
        "password_expires_at": None,
        "options": {},
    }
    return view | ({"default_project_id": user.default_project_id} if user.default_project_id else {})


# Projects


@router.api_route("/v3/projects", methods=READ, dependencies=[Depends(admin_caller)])
async def list_projects(request: Request, identity: Identity, base_url: BaseUrl) -> Response:
    domains = request.query_params.get("is_domain", "false").lower() == "true"
    found = await identity.find_all(IdentityProject, **filters(request)) if in_domain(request) and not domains else []
    return many(base_url, "projects", map(project_view, found))


@router.post("/v3/projects", dependencies=[Depends(admin_caller)])
async def create_project(
    identity: Identity, base_url: BaseUrl, asked: Annotated[ProjectRequest, body(ProjectRequest)]
) -> Response:
    wanted = asked.project
    check_domain(wanted.domain_id)
    if wanted.is_domain or wanted.parent_id not in (None, DOMAIN["id"]):
        raise Invalid("project: there is one domain, and projects have no children.")
    project = IdentityProject(
        id=uuid4().hex,
        name=needed(wanted.name, "project.name"),
        description=wanted.description or "",
        enabled=wanted.enabled,
    )
    return one(base_url, "project", project_view(await identity.add(project)), HTTPStatus.CREATED)


@router.api_route("/v3/projects/{project_id}", methods=READ)
async def show_project(identity: Identity, base_url: BaseUrl, caller: Caller, project_id: str) -> Response:
    if not caller.is_admin and not await identity.grants(user_id=caller.user.id, project_id=project_id):
        raise Forbidden("You are not authorized to perform the requested action: you have no role on this project.")
    return one(base_url, "project", project_view(await identity.find(IdentityProject, project_id)))


@router.patch("/v3/projects/{project_id}", dependencies=[Depends(admin_caller)])
async def update_project(
    identity: Identity, base_url: BaseUrl, project_id: str, asked: Annotated[ProjectRequest, body(ProjectRequest)]
) -> Response:
    changes = changes_of(asked.project, "project", not_null=("name",))
    if changes.get("description", "") is None:
        changes["description"] = ""
    return one(base_url, "project", project_view(await identity.change(IdentityProject, project_id, changes)))


@router.delete("/v3/projects/{project_id}", dependencies=[Depends(admin_caller)])
async def delete_project(identity: Identity, project_id: str) -> Response:
    await identity.remove(IdentityProject, project_id)
    return Response(status_code=HTTPStatus.NO_CONTENT)


def project_view(project: IdentityProject) -> dict[str, Any]:
    """A project as Keystone shows it."""
    return {
        "id": project.id,
        "name": project.name,
        "description": project.description,
        "enabled": project.enabled,
        "domain_id": DOMAIN["id"],
        "parent_id": DOMAIN["id"],
        "is_domain": False,
        "options": {},
        "tags": [],
    }


# Roles and who has them


@router.api_route("/v3/roles", methods=READ, dependencies=[Depends(token_caller)])
async def list_roles(request: Request, base_url: BaseUrl) -> Response:
    name = request.query_params.get("name")
    return many(base_url, "roles", [_role(role) for role in ROLE_CHAIN if name in (None, role)])


@router.post("/v3/roles", dependencies=[Depends(admin_caller)])
@router.patch("/v3/roles/{role_id}", dependencies=[Depends(admin_caller)])
@router.delete("/v3/roles/{role_id}", dependencies=[Depends(admin_caller)])
async def change_roles() -> Response:
    raise Forbidden(f"The roles of this identity are fixed: {', '.join(ROLE_CHAIN)}.")


@router.api_route("/v3/roles/{role_id}", methods=READ, dependencies=[Depends(token_caller)])
async def show_role(base_url: BaseUrl, role_id: str) -> Response:
    return one(base_url, "role", _role(_role_name(role_id)))


@router.api_route("/v3/role_inferences", methods=READ, dependencies=[Depends(token_caller)])
async def list_implied_roles(base_url: BaseUrl) -> Response:
    inferences = [{"prior_role": _role(prior), "implies": [_role(implied)]} for prior, implied in pairwise(ROLE_CHAIN)]
    return JSONResponse({"role_inferences": inferences, "links": links(base_url, "role_inferences")})


@router.api_route("/v3/role_assignments", methods=READ)
async def list_assignments(request: Request, identity: Identity, base_url: BaseUrl, caller: Caller) -> Response:
    query = request.query_params
    user_id, project_id, role_id = query.get("user.id"), query.get("scope.project.id"), query.get("role.id")
    self_or_admin(caller, user_id or "")
    found = await identity.grants(user_id=user_id, project_id=project_id)
    given = [(grant, grant.role) for grant in found]
    if flag(request, "effective"):
        below = {role: ROLE_CHAIN[ROLE_CHAIN.index(role) :] for role in ROLE_CHAIN}
        given = [(grant, role) for grant in found for role in below[grant.role]]
    named = flag(request, "include_names")
    users = {user.id: user.name for user in await identity.find_all(IdentityUser)} if named else {}
    projects = {project.id: project.name for project in await identity.find_all(IdentityProject)} if named else {}

    def about(row_id: str, names: dict[str, str]) -> dict[str, Any]:
        return {"id": row_id} | ({"name": names.get(row_id, ""), "domain": DOMAIN} if named else {})

    assignments = [
        {
            "role": {"id": ROLE_IDS[role]} | ({"name": role} if named else {}),
            "user": about(grant.user_id, users),
            "scope": {"project": about(grant.project_id, projects)},
            "links": {"assignment": f"{base_url}/identity/v3/{_grant_path(grant)}"},
        }
        for grant, role in given
        if role_id in (None, ROLE_IDS[role])
    ]
    return JSONResponse({"role_assignments": assignments, "links": links(base_url, "role_assignments")})


GRANT = "/v3/projects/{project_id}/users/{user_id}/roles"


@router.api_route(GRANT, methods=READ, dependencies=[Depends(admin_caller)])
async def list_grants(identity: Identity, base_url: BaseUrl, project_id: str, user_id: str) -> Response:
    await identity.find(IdentityProject, project_id)
    await identity.find(IdentityUser, user_id)
    found = await identity.grants(user_id=user_id, project_id=project_id)
    return many(base_url, "roles", [_role(grant.role) for grant in found], GRANT.removeprefix("/v3/"))


@router.put(GRANT + "/{role_id}", dependencies=[Depends(admin_caller)])
async def grant_role(identity: Identity, project_id: str, user_id: str, role_id: str) -> Response:
    await identity.grant(user_id, project_id, _role_name(role_id))
    return Response(status_code=HTTPStatus.NO_CONTENT)


@router.api_route(GRANT + "/{role_id}", methods=READ, dependencies=[Depends(admin_caller)])
async def check_grant(identity: Identity, project_id: str, user_id: str, role_id: str) -> Response:
    if not await identity.grants(user_id=user_id, project_id=project_id, role=_role_name(role_id)):
        raise NotFound("The user does not have this role on the project.")
    return Response(status_code=HTTPStatus.NO_CONTENT)


@router.delete(GRANT + "/{role_id}", dependencies=[Depends(admin_caller)])
async def withdraw_role(identity: Identity, project_id: str, user_id: str, role_id: str) -> Response:
    await identity.withdraw(user_id, project_id, _role_name(role_id))
    return Response(status_code=HTTPStatus.NO_CONTENT)


def _role(name: str) -> dict[str, Any]:
    return {"id": ROLE_IDS[name], "name": name, "domain_id": None, "description": None, "options": {"immutable": True}}


def _role_name(role_id: str) -> str:
    if role_id not in ROLE_NAMES:
        raise NotFound(f"Could not find role: {role_id}.")
    return ROLE_NAMES[role_id]


def _grant_path(grant: IdentityGrant) -> str:
    return f"projects/{grant.project_id}/users/{grant.user_id}/roles/{ROLE_IDS[grant.role]}"


# Application credentials

CREDENTIALS = "/v3/users/{user_id}/application_credentials"


@router.api_route(CREDENTIALS, methods=READ)
async def list_credentials(
    request: Request, identity: Identity, base_url: BaseUrl, caller: Caller, user_id: str
) -> Response:
    self_or_admin(caller, user_id)
    found = await identity.find_all(IdentityCredential, user_id=user_id, name=request.query_params.get("name"))
    path = f"users/{user_id}/application_credentials"
    return many(base_url, "application_credentials", map(_credential, found), path)


@router.post(CREDENTIALS)
async def create_credential(
    identity: Identity,
    base_url: BaseUrl,
    caller: Caller,
    user_id: str,
    asked: Annotated[CredentialRequest, body(CredentialRequest)],
) -> Response:
    wanted = asked.application_credential
    if caller.user.id != user_id or caller.restricted:
        raise Forbidden("Only the user may do this, and not by a restricted application credential.")
    if caller.project is None:
        raise Invalid("An application credential is bound to a project: use a token that has one.")
    if wanted.access_rules:
        raise Invalid("application_credential.access_rules: this identity has no access rules; leave them out.")
    secret = wanted.secret or secrets.token_urlsafe(64)
    credential = IdentityCredential(
        id=uuid4().hex,
        user_id=user_id,
        project_id=caller.project.id,
        name=wanted.name,
        description=wanted.description or "",
        secret_hash="",
        roles=_chosen_roles(wanted.roles, caller),
        unrestricted=wanted.unrestricted,
        expires_at=_expiry(wanted.expires_at),
    )
    shown = _credential(await identity.add_credential(credential, secret)) | {"secret": secret}
    return one(base_url, "application_credential", shown, HTTPStatus.CREATED)


@router.api_route(CREDENTIALS + "/{credential_id}", methods=READ)
async def show_credential(
    identity: Identity, base_url: BaseUrl, caller: Caller, user_id: str, credential_id: str
) -> Response:
    self_or_admin(caller, user_id)
    credential = await _own_credential(identity, user_id, credential_id)
    return one(base_url, "application_credential", _credential(credential))


@router.delete(CREDENTIALS + "/{credential_id}")
async def delete_credential(identity: Identity, caller: Caller, user_id: str, credential_id: str) -> Response:
    self_or_admin(caller, user_id)
    if caller.restricted:
        raise Forbidden("A restricted application credential may not delete application credentials.")
    await _own_credential(identity, user_id, credential_id)
    await identity.remove(IdentityCredential, credential_id)
    return Response(status_code=HTTPStatus.NO_CONTENT)


async def _own_credential(identity: EmbeddedIdentity, user_id: str, credential_id: str) -> IdentityCredential:
    credential = await identity.find(IdentityCredential, credential_id)
    if credential.user_id != user_id:
        raise NotFound(f"Could not find application credential: {credential_id}.")
    return credential


def _chosen_roles(wanted: list[RoleRef] | None, caller: Token) -> list[str]:
    names = list(caller.roles)
    if wanted is not None:
        names = [role.name or ROLE_NAMES.get(role.id or "", "") for role in wanted]
    if not names or not caller.roles.issuperset(names):
        raise Invalid(f"application_credential.roles: choose from your own: {', '.join(sorted(caller.roles))}.")
    return sorted(set(names))


def _expiry(wanted: datetime | None) -> float | None:
    if wanted is None:
        return None
    try:
        expires = wanted.replace(tzinfo=wanted.tzinfo or UTC).astimezone(
            UTC
        )  # without a zone it is UTC, as in Keystone
    except OverflowError:
        raise Invalid("application_credential.expires_at is no time of this calendar.") from None
    if expires <= datetime.now(UTC):
        raise Invalid("application_credential.expires_at lies in the past.")
    return expires.timestamp()


def _credential(credential: IdentityCredential) -> dict[str, Any]:
    return {
        "id": credential.id,
        "name": credential.name,
        "description": credential.description,
        "user_id": credential.user_id,
        "project_id": credential.project_id,
        "system": None,
        "roles": [_role(name) for name in credential.roles or []],
        "expires_at": iso_time(credential.expires_at).rstrip("Z") if credential.expires_at else None,
        "unrestricted": credential.unrestricted,
    }


# What never changes: the domain and the catalogue


@router.api_route("/v3/domains", methods=READ, dependencies=[Depends(token_caller)])
async def list_domains(request: Request, base_url: BaseUrl) -> Response:
    name = request.query_params.get("name", DOMAIN["name"])
    return many(base_url, "domains", [_domain()] if name.lower() == DOMAIN["name"].lower() else [])


@router.api_route("/v3/domains/{domain_id}", methods=READ, dependencies=[Depends(token_caller)])
async def show_domain(base_url: BaseUrl, domain_id: str) -> Response:
    check_domain(domain_id)
    return one(base_url, "domain", _domain())


@router.api_route("/v3/regions", methods=READ, dependencies=[Depends(token_caller)])
async def list_regions(base_url: BaseUrl) -> Response:
    return many(base_url, "regions", [_region()])


@router.api_route("/v3/services", methods=READ, dependencies=[Depends(token_caller)])
async def list_services(request: Request, base_url: BaseUrl) -> Response:
    return many(base_url, "services", matching(request, _services(base_url), ("name", "type")))


@router.api_route("/v3/endpoints", methods=READ, dependencies=[Depends(token_caller)])
async def list_endpoints(request: Request, base_url: BaseUrl) -> Response:
    columns = ("service_id", "interface", "region_id")
    return many(base_url, "endpoints", matching(request, _endpoints(base_url), columns))


@router.api_route("/v3/{kind}/{row_id}", methods=READ, dependencies=[Depends(token_caller)])
async def show_fixed(base_url: BaseUrl, kind: str, row_id: str) -> Response:
    """One region, service or endpoint."""
    lists = {"regions": [_region()], "services": _services(base_url), "endpoints": _endpoints(base_url)}
    for row in lists.get(kind, []):
        if row["id"] == row_id:
            return one(base_url, kind[:-1], row)
    raise NotFound(f"Could not find {kind}: {row_id}.")


def _domain() -> dict[str, Any]:
    return DOMAIN | {"description": "The only domain", "enabled": True, "options": {}, "tags": []}


def _region() -> dict[str, Any]:
    return {"id": REGION, "description": "", "parent_region_id": None}


def _services(base_url: str) -> list[dict[str, Any]]:
    kept = ("id", "name", "type")
    return [{key: service[key] for key in kept} | {"enabled": True} for service in catalogue(base_url)]


def _endpoints(base_url: str) -> list[dict[str, Any]]:
    return [
        endpoint | {"service_id": service["id"], "enabled": True}
        for service in catalogue(base_url)
        for endpoint in service["endpoints"]
    ]
