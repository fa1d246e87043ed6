"""What requests to the embedded identity say, who sends them, and the shape of the answers."""

from datetime import datetime
from http import HTTPStatus
from typing import Annotated, Any, Literal, TypeVar

from fastapi import Depends, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, StrictBool, StringConstraints, ValidationError

from app.auth import UNKNOWN_TOKEN
from app.errors import Forbidden, Invalid, NotFound, TooLarge, Unauthorized
from app.identity import DOMAIN, EmbeddedIdentity, Ref, Token, Wanted
from app.settings import Settings

Text = Annotated[str, StringConstraints(max_length=255, pattern=r"^[^\x00-\x1f\x7f]*$")]
Name = Annotated[str, StringConstraints(min_length=1, max_length=255, pattern=r"^[^\x00-\x1f\x7f]*$")]
Secret = Annotated[str, StringConstraints(min_length=1, max_length=1024)]


class DomainRef(BaseModel):
    """A domain by id or name."""

    id: Name | None = None
    name: Name | None = None

    @property
    def known(self) -> bool:
        """Whether it is the one that there is. Keystone compares names without case."""
        return self.id == DOMAIN["id"] or (self.id is None and (self.name or "").lower() == DOMAIN["name"].lower())


class NamedRef(BaseModel):
    """A user or project by id, or by name and domain."""

    id: Name | None = None
    name: Name | None = None
    domain: DomainRef | None = None

    def ref(self) -> Ref:
        """As app.identity wants it. Raises Invalid when the reference is incomplete."""
        if self.id is not None:
            return Ref(id=self.id)
        if self.name is None or self.domain is None:
            raise Invalid("A user or project is named by its id, or by its name and its domain's id or name.")
        return Ref(name=self.name) if self.domain.known else Ref()


class PasswordUser(NamedRef):
    """A user and the password to prove it."""

    password: Secret


class PasswordMethod(BaseModel):
    """Login by password."""

    user: PasswordUser


class TokenMethod(BaseModel):
    """Exchange of a token for one of another scope."""

    id: str


class CredentialMethod(BaseModel):
    """Login by application credential: by its id, or by its name and its user."""

    id: Name | None = None
    name: Name | None = None
    secret: Secret
    user: NamedRef | None = None


class Methods(BaseModel):
    """How to log in: the name of one method and its object."""

    methods: list[str]
    password: PasswordMethod | None = None
    token: TokenMethod | None = None
    application_credential: CredentialMethod | None = None


class ScopeWanted(BaseModel, extra="allow"):
    """What the token shall be good for. Scopes that do not exist here are kept, to be refused with 401."""

    project: NamedRef | None = None
    unscoped: dict[str, Any] | None = None


class Auth(BaseModel):
    """A login."""

    identity: Methods
    scope: ScopeWanted | Literal["unscoped"] | None = None

    def wanted(self) -> Wanted:
        """The scope that is asked for. Raises Unauthorized for one that does not exist here."""
        if self.scope is None:
            return Wanted()
        if self.scope == "unscoped" or self.scope.unscoped is not None:
            return Wanted(unscoped=True)
        if self.scope.project is None:
            raise Unauthorized("This identity knows tokens for a project and unscoped ones only.")
        return Wanted(project=self.scope.project.ref())


class AuthRequest(BaseModel):
    """The body of POST /v3/auth/tokens."""

    auth: Auth


class UserFields(BaseModel):
    """What can be said of a user. Other attributes, such as email, are ignored and not kept."""

    name: Name | None = None
    password: Secret | None = None
    enabled: StrictBool = True
    default_project_id: Name | None = None
    domain_id: Name | None = None


class UserRequest(BaseModel):
    """The body of POST and PATCH on users."""

    user: UserFields


class PasswordChange(BaseModel):
    """The old password and the new one."""

    original_password: Secret
    password: Secret


class PasswordRequest(BaseModel):
    """The body of POST /v3/users/{id}/password."""

    user: PasswordChange


class ProjectFields(BaseModel):
    """What can be said of a project. Other attributes, such as tags, are ignored and not kept."""

    name: Annotated[Name, StringConstraints(max_length=64)] | None = None
    description: Text | None = None
    enabled: StrictBool = True
    domain_id: Name | None = None
    parent_id: Name | None = None
    is_domain: StrictBool = False


class ProjectRequest(BaseModel):
    """The body of POST and PATCH on projects."""

    project: ProjectFields


class RoleRef(BaseModel):
    """A role by id or name."""

    id: Name | None = None
    name: Name | None = None


class CredentialFields(BaseModel):
    """What can be said of an application credential."""

    name: Name
    secret: Secret | None = None
    description: Text | None = None
    expires_at: datetime | None = None
    roles: list[RoleRef] | None = None
    unrestricted: StrictBool = False
    access_rules: list[Any] | None = None


class CredentialRequest(BaseModel):
    """The body of POST on application credentials."""

    application_credential: CredentialFields


Body = TypeVar("Body", bound=BaseModel)


def body(model: type[Body]) -> Any:
    """A dependency: the request's JSON as this model. Keystone asks for no content type, so neither do we."""

    async def read(request: Request) -> Body:
        limit: int = request.app.state.settings.max_body_bytes
        content = bytearray()
        async for chunk in request.stream():
            content += chunk
            if len(content) > limit:
                raise TooLarge(f"The request body is larger than {limit} bytes.")
        try:
            return model.model_validate_json(bytes(content))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            raise Invalid(f"{'.'.join(str(part) for part in first['loc']) or 'body'}: {first['msg']}") from None

    return Depends(read)


def identity_of(request: Request) -> EmbeddedIdentity:
    """The identity that this application serves."""
    identity: EmbeddedIdentity = request.app.state.identity
    return identity


def base_url_of(request: Request) -> str:
    """Where clients reach the process."""
    settings: Settings = request.app.state.settings
    return settings.base_url


async def token_caller(request: Request) -> Token:
    """Whose token the request bears. Raises Unauthorized unless there is exactly one, and a good one."""
    tokens = request.headers.getlist("X-Auth-Token")
    if len(tokens) != 1:
        raise Unauthorized(UNKNOWN_TOKEN)
    token = await identity_of(request).read(tokens[0])
    request.state.token = token.body()  # for the audit (app.auditing)
    return token


async def admin_caller(caller: Annotated[Token, Depends(token_caller)]) -> Token:
    """As `token_caller`. Raises Forbidden unless it has the role admin."""
    if not caller.is_admin:
        raise Forbidden("You are not authorized to perform the requested action: it needs the role admin.")
    return caller


Identity = Annotated[EmbeddedIdentity, Depends(identity_of)]
BaseUrl = Annotated[str, Depends(base_url_of)]
Caller = Annotated[Token, Depends(token_caller)]
READ = ["GET", "HEAD"]


def self_or_admin(caller: Token, user_id: str) -> None:
    """Raises Forbidden for somebody else's user, unless the caller is an admin."""
    if caller.user.id != user_id and not caller.is_admin:
        raise Forbidden("You are not authorized to perform the requested action: it is another user's.")


def one(base_url: str, noun: str, row: dict[str, Any], status: HTTPStatus = HTTPStatus.OK) -> Response:
    """An answer with one row."""
    return JSONResponse({noun: _linked(base_url, f"{noun}s", row)}, status)


def many(base_url: str, nouns: str, rows: Any, path: str | None = None) -> Response:
    """An answer with a list of rows; `path` is the list's own, below /v3, where it is not simply their noun."""
    shown = [_linked(base_url, nouns, row) for row in rows]
    return JSONResponse({nouns: shown, "links": links(base_url, path or nouns)})


def _linked(base_url: str, nouns: str, row: dict[str, Any]) -> dict[str, Any]:
    path = f"users/{row['user_id']}/{nouns}" if nouns == "application_credentials" else nouns
    return row | {"links": {"self": f"{base_url}/identity/v3/{path}/{row['id']}"}}


def links(base_url: str, path: str) -> dict[str, Any]:
    """The links of a list. There is one page."""
    return {"self": f"{base_url}/identity/v3/{path}", "previous": None, "next": None}


def matching(request: Request, rows: list[dict[str, Any]], columns: tuple[str, ...]) -> list[dict[str, Any]]:
    """The rows whose columns equal what the query says of them."""
    wanted = {column: request.query_params[column] for column in columns if column in request.query_params}
    return [row for row in rows if all(row[column] == value for column, value in wanted.items())]


def filters(request: Request) -> dict[str, Any]:
    """What the query of a list of users or projects asks for."""
    enabled = flag(request, "enabled") if "enabled" in request.query_params else None
    return {"name": request.query_params.get("name"), "enabled": enabled}


def flag(request: Request, name: str) -> bool:
    """A bare ``?name`` is true, as in Keystone."""
    value = request.query_params.get(name)
    return value is not None and value.lower() not in ("0", "false", "no", "off")


def in_domain(request: Request) -> bool:
    """Whether the query leaves the one domain in."""
    return request.query_params.get("domain_id", DOMAIN["id"]) == DOMAIN["id"]


def check_domain(domain_id: str | None) -> None:
    """Raises NotFound for any domain but the one."""
    if domain_id not in (None, DOMAIN["id"]):
        raise NotFound(f"Could not find domain: {domain_id}.")


def needed(value: str | None, field: str) -> str:
    """The value. Raises Invalid, naming the field, when there is none."""
    if value is None:
        raise Invalid(f"{field}: is needed.")
    return value


def changes_of(fields: UserFields | ProjectFields, noun: str, not_null: tuple[str, ...]) -> dict[str, Any]:
    """The columns that a PATCH sets. The domain and the parent may be named, but not changed."""
    check_domain(fields.domain_id)
    changes = fields.model_dump(exclude_unset=True, exclude={"domain_id", "parent_id", "is_domain"})
    for field in not_null:
        if field in changes:
            needed(changes[field], f"{noun}.{field}")
    return changes
