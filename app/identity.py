"""The embedded identity: users, projects, roles and tokens in Caisson's own database, in Keystone's terms.

A token is a JWS (ES256) that names its user, its project and an audit id, and nothing else: whether it is good, and
which roles it carries, is looked up each time, so a removed role, user, project or credential counts at once. There is
one domain, and four fixed roles of which each implies those below it.
"""

import base64
import hashlib
import ipaddress
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import NAMESPACE_URL, uuid4, uuid5

import structlog
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from jose import jwk, jwt
from jose.backends.base import Key
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlmodel import col, delete, select
from sqlmodel.ext.asyncio.session import AsyncSession

from app.auth import ROLE_CHAIN, UNKNOWN_TOKEN, TokenSource, expand_roles, verified_claims
from app.db import EVERYTHING, Database
from app.errors import Busy, Conflict, Forbidden, Invalid, NotFound, Unauthorized
from app.models import (
    IdentityCredential,
    IdentityGrant,
    IdentityKey,
    IdentityProject,
    IdentityRevocation,
    IdentityUser,
)
from app.passwords import Passwords, unusable_hash
from app.settings import Settings
from app.vault import Vault

log = structlog.get_logger("caisson.identity")

DOMAIN = {"id": "default", "name": "Default"}
REGION = "RegionOne"
INTERFACES = ("public", "internal", "admin")
SERVICES = (
    # name, type, path below the base URL
    ("identity", "identity", "/identity/v3"),
    ("zun", "container", "/container/v1"),
    ("magnum", "container-infra", "/container-infra/v1"),
)
FIRST_PROJECT, FIRST_USER = "demo", "admin"

Row = TypeVar("Row", IdentityUser, IdentityProject, IdentityCredential)
Named = TypeVar("Named", IdentityUser, IdentityProject)


def check_binding(settings: Settings) -> None:
    """Refuse to show the embedded identity to other machines unless the settings allow it. Raises Invalid."""
    if settings.keystone is not None or settings.identity.allow_remote or _is_loopback(settings.host):
        return
    raise Invalid(
        f"The embedded identity is not served on {settings.host}: configure a Keystone, listen on 127.0.0.1, "
        "or set CAISSON_IDENTITY__ALLOW_REMOTE=true if a network of people you trust shall reach it."
    )


def stable_id(kind: str, name: str) -> str:
    """The same 32 hexadecimal digits for the same thing in every installation."""
    return uuid5(NAMESPACE_URL, f"caisson:{kind}:{name}").hex


ROLE_IDS = {name: stable_id("role", name) for name in ROLE_CHAIN}
ROLE_NAMES = {role_id: name for name, role_id in ROLE_IDS.items()}


@dataclass(frozen=True, slots=True)
class Ref:
    """How a login names a user, a project or a credential: by id or by name. Neither means nobody."""

    id: str | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """The scope a login asks for: a project, explicitly none, or (the default) the user's default project."""

    project: Ref | None = None
    unscoped: bool = False


@dataclass(frozen=True, slots=True)
class Token:
    """A good token and all that is known of it at this moment. Times are epoch seconds."""

    user: IdentityUser
    project: IdentityProject | None
    roles: frozenset[str]
    credential: IdentityCredential | None
    methods: list[str]
    audit_ids: list[str]
    issued: float
    expires: float

    @property
    def is_admin(self) -> bool:
        """Whether it may manage users, projects and roles. Admin of one project is admin of all, as in OpenStack."""
        return "admin" in self.roles

    @property
    def restricted(self) -> bool:
        """Whether it comes from an application credential that may not make or delete others."""
        return self.credential is not None and not self.credential.unrestricted

    def body(self) -> dict[str, Any]:
        """The v3 ``token`` object, without the catalogue."""
        body: dict[str, Any] = {
            "methods": self.methods,
            "user": {"domain": DOMAIN, "id": self.user.id, "name": self.user.name, "password_expires_at": None},
            "audit_ids": self.audit_ids,
            "expires_at": iso_time(self.expires),
            "issued_at": iso_time(self.issued),
        }
        if self.project is not None:
            body["project"] = {"domain": DOMAIN, "id": self.project.id, "name": self.project.name}
            body["is_domain"] = False
            body["roles"] = [{"id": ROLE_IDS[name], "name": name} for name in ROLE_CHAIN if name in self.roles]
        if self.credential is not None:
            body["application_credential"] = {
                "id": self.credential.id,
                "name": self.credential.name,
                "restricted": self.restricted,
            }
        return body


class EmbeddedIdentity(TokenSource):
    """All that the identity API does, and the token source of the gateway it is embedded in."""

    def __init__(self, database: Database, settings: Settings, vault: Vault) -> None:
        self.www_authenticate = f'Keystone uri="{settings.base_url}/identity"'
        self.changed: Callable[[], None] = lambda: None
        """Called after each change, for whoever remembers tokens (`Authenticator.forget`)."""
        self._database = database
        self._settings = settings.identity
        self._vault = vault
        self._passwords = Passwords()
        self._key: Key | None = None

    async def prepare(self) -> str | None:
        """Load the signing key; on the first start make it, the first project and its administrator.

        Returns:
            The generated password of the first administrator, for the caller to show once; None when there are users
            already, or when the settings gave the password.

        Raises:
            Invalid: the key in the database was encrypted with another secret key.
        """
        configured = self._settings.admin_password
        password = configured.get_secret_value() if configured else secrets.token_urlsafe(16)
        async with self._reading() as session:
            empty = (await session.exec(select(IdentityUser).limit(1))).first() is None
        hashed = await self._passwords.hash(password) if empty else ""
        made = False
        try:
            async with self._writing("signing key") as session:
                if await session.get(IdentityKey, "es256") is None:
                    session.add(
                        IdentityKey(id="es256", private_pem=self._vault.seal(_new_key()), created_at=time.time())
                    )
                if empty and (await session.exec(select(IdentityUser).limit(1))).first() is None:
                    project = IdentityProject(id=uuid4().hex, name=FIRST_PROJECT, description="Made on the first start")
                    user = IdentityUser(
                        id=uuid4().hex, name=FIRST_USER, password_hash=hashed, default_project_id=project.id
                    )
                    session.add_all([project, user])
                    session.add(IdentityGrant(user_id=user.id, project_id=project.id, role="admin"))
                    made = True
        except Conflict:
            made = False  # another replica was first; what it made is good for all
        async with self._reading() as session:
            row = (await session.exec(select(IdentityKey).where(IdentityKey.id == "es256"))).one()
        self._key = jwk.construct(self._vault.open(row.private_pem), "ES256")
        return password if made and configured is None else None

    async def check(self) -> None:
        """See `TokenSource`: it is there when the database is."""
        if self._key is None:
            raise Busy("The embedded identity is not ready yet.")

    async def close(self) -> None:
        """Nothing to give back: the database belongs to somebody else."""

    # Tokens

    async def validate(self, token: str) -> dict[str, Any]:
        """See `TokenSource`."""
        return (await self.read(token)).body()

    async def read(self, token: str) -> Token:
        """What a token stands for now.

        Raises:
            Unauthorized: it is forged, expired or revoked; or its user, project, credential or last role is gone.
            Busy: the database cannot answer.
        """
        return await self._read(verified_claims(token, self._signing_key.public_key()))

    async def log_in(self, user: Ref, password: str, wanted: Wanted) -> tuple[str, Token]:
        """A new token by password.

        Raises:
            Unauthorized: wrong user, password or project; which of them is not told, nor by the time it takes.
            TooManyAttempts: this account had too many wrong passwords.
            Busy: too many logins at once.
        """
        async with self._reading() as session:
            found = await _by_ref(session, IdentityUser, user)
        account = found.id if found else f"unknown {user.id or user.name}"
        if not await self._passwords.check(account, password, found.password_hash if found else None) or found is None:
            raise Unauthorized(UNKNOWN_TOKEN)
        return await self._issue(found, wanted, ["password"])

    async def log_in_again(self, token: str, wanted: Wanted) -> tuple[str, Token]:
        """A token with another scope for the holder of a token; it expires when that one does.

        Raises:
            Unauthorized: the token is not good, or its user has no access to the project.
            Forbidden: the token comes from an application credential, which is bound to its project.
        """
        parent = await self.read(token)
        if parent.credential is not None:
            raise Forbidden("A token of an application credential cannot be exchanged for another.")
        methods = [*parent.methods, *({"token"} - set(parent.methods))]
        return await self._issue(parent.user, wanted, methods, parent=parent)

    async def log_in_with_credential(self, credential: Ref, owner: Ref, secret: str) -> tuple[str, Token]:
        """A new token by application credential, named by its id or by its name and owner. Errors as `log_in`."""
        async with self._reading() as session:
            found = await self._credential(session, credential, owner)
            user = await session.get(IdentityUser, found.user_id) if found else None
        account = f"credential {found.id if found else credential.id or credential.name}"
        if not await self._passwords.check(account, secret, found.secret_hash if found else None) or not (
            found and user
        ):
            raise Unauthorized(UNKNOWN_TOKEN)
        return await self._issue(user, Wanted(), ["application_credential"], credential=found)

    async def revoke(self, token: Token) -> None:
        """Make a token bad at once. Tokens that were exchanged for it live on, as in Keystone."""
        revocation = IdentityRevocation(audit_id=token.audit_ids[0], expires_at=token.expires)
        with suppress(Conflict):  # somebody revoked it in the same moment
            async with self._writing("revocation") as session:
                await session.exec(delete(IdentityRevocation).where(col(IdentityRevocation.expires_at) < time.time()))
                await session.merge(revocation)

    async def has_project(self, project_id: str) -> bool:
        """See `TokenSource`."""
        async with self._reading() as session:
            return await _get(session, IdentityProject, project_id) is not None

    # Rows

    async def find(self, kind: type[Row], row_id: str) -> Row:
        """The row with this id. Raises NotFound."""
        async with self._reading() as session:
            return _present(await _get(session, kind, row_id), kind, row_id)

    async def find_all(self, kind: type[Row], **equal: Any) -> list[Row]:
        """The rows whose columns equal the values, by name. A value of None does not restrict."""
        conditions = {column: value for column, value in equal.items() if value is not None}
        if any(isinstance(value, str) and "\0" in value for value in conditions.values()):
            return []  # PostgreSQL takes no such text
        async with self._reading() as session:
            return list(await session.exec(select(kind).filter_by(**conditions).order_by(kind.name)))

    async def add(self, row: IdentityProject) -> IdentityProject:
        """Store a new project. Raises Conflict when the name is taken."""
        async with self._writing("project") as session:
            session.add(row)
        return row

    async def add_user(self, user: IdentityUser, password: str | None) -> IdentityUser:
        """Store a new user; without a password nobody can log in as it. Raises Conflict when the name is taken."""
        user.password_hash = await self._passwords.hash(password) if password else unusable_hash()
        async with self._writing("user") as session:
            session.add(user)
        return user

    async def change(self, kind: type[Named], row_id: str, changes: dict[str, Any]) -> Named:
        """Set columns of a row. A ``password`` among them is stored as its hash, and ends the user's tokens.

        Raises:
            NotFound: no such row.
            Conflict: the new name is taken.
        """
        if (password := changes.pop("password", None)) is not None:
            changes["password_hash"] = await self._passwords.hash(password)
        async with self._writing(_NOUNS[kind]) as session:
            row = _present(await _get(session, kind, row_id), kind, row_id)
            for column, value in changes.items():
                setattr(row, column, value)
            session.add(row)
        return row

    async def change_own_password(self, user_id: str, original: str, password: str) -> None:
        """Replace a password by whoever knows it. Errors as `log_in`."""
        async with self._reading() as session:
            user = await _get(session, IdentityUser, user_id)
        account = user.id if user else f"unknown {user_id}"
        if not await self._passwords.check(account, original, user.password_hash if user else None) or user is None:
            raise Unauthorized(UNKNOWN_TOKEN)
        await self.change(IdentityUser, user_id, {"password": password})

    async def remove(self, kind: type[Row], row_id: str) -> None:
        """Remove a row, and with a user or project its grants and credentials. Raises NotFound."""
        async with self._writing(_NOUNS[kind]) as session:
            row = _present(await _get(session, kind, row_id), kind, row_id)
            await session.delete(row)
            if column := _OWNER_COLUMNS.get(kind):
                for owned in (IdentityGrant, IdentityCredential):
                    await session.exec(delete(owned).where(getattr(owned, column) == row.id))

    async def grants(self, **equal: str | None) -> list[IdentityGrant]:
        """The grants whose columns equal the values. A value of None does not restrict."""
        conditions = {column: value for column, value in equal.items() if value is not None}
        async with self._reading() as session:
            statement = select(IdentityGrant).filter_by(**conditions)
            found = await session.exec(
                statement.order_by(IdentityGrant.project_id, IdentityGrant.user_id, IdentityGrant.role)
            )
            return list(found)

    async def grant(self, user_id: str, project_id: str, role: str) -> None:
        """Give a role; having it already is fine. Raises NotFound when the user or the project does not exist."""
        with suppress(Conflict):  # somebody gave it in the same moment
            async with self._writing("grant") as session:
                _present(await _get(session, IdentityUser, user_id), IdentityUser, user_id)
                _present(await _get(session, IdentityProject, project_id), IdentityProject, project_id)
                await session.merge(IdentityGrant(user_id=user_id, project_id=project_id, role=role))

    async def withdraw(self, user_id: str, project_id: str, role: str) -> None:
        """Take a role away. Raises NotFound when the user does not have it."""
        async with self._writing("grant") as session:
            row = await session.get(IdentityGrant, (user_id, project_id, role))
            if row is None:
                raise NotFound(f"Could not find role assignment with role: {role}, user and project as given.")
            await session.delete(row)

    async def projects_of(self, user_id: str) -> list[IdentityProject]:
        """The enabled projects on which a user has a role."""
        mine = {grant.project_id for grant in await self.grants(user_id=user_id)}
        return [project for project in await self.find_all(IdentityProject, enabled=True) if project.id in mine]

    async def add_credential(self, credential: IdentityCredential, secret: str) -> IdentityCredential:
        """Store a new application credential. Raises Conflict when its user has one of this name."""
        credential.secret_hash = await self._passwords.hash(secret)
        async with self._writing("application credential") as session:
            # The lock on the user makes two requests for the same name wait for each other.
            await session.get(IdentityUser, credential.user_id, with_for_update=True)
            if await self._credential(session, Ref(name=credential.name), Ref(id=credential.user_id)):
                raise _taken("application credential")
            session.add(credential)
        return credential

    # Inside

    @property
    def _signing_key(self) -> Key:
        if self._key is None:
            raise RuntimeError("prepare() comes first")
        return self._key

    @asynccontextmanager
    async def _reading(self) -> AsyncIterator[AsyncSession]:
        with _database_errors("row"):
            async with self._database.reading(EVERYTHING) as session:
                yield session

    @asynccontextmanager
    async def _writing(self, noun: str) -> AsyncIterator[AsyncSession]:
        try:
            with _database_errors(noun):
                async with self._database.transaction(EVERYTHING) as session:
                    yield session
        finally:
            self.changed()  # also when it failed: it may have been committed before it was cancelled

    async def _read(self, claims: dict[str, Any]) -> Token:
        project_id, credential_id = claims.get("openstack_project_id"), claims.get("openstack_app_cred_id")
        async with self._reading() as session:
            revoked = await session.get(IdentityRevocation, claims["openstack_audit_ids"][0])
            user = await session.get(IdentityUser, claims["sub"])
            project = await session.get(IdentityProject, project_id) if project_id else None
            credential = await session.get(IdentityCredential, credential_id) if credential_id else None
            roles = await _roles(session, claims["sub"], project_id) if project_id else frozenset()
        if revoked or user is None or not user.enabled or claims["caisson_password"] != _mark(user):
            raise Unauthorized(UNKNOWN_TOKEN)
        if credential_id:
            if credential is None:
                raise Unauthorized(UNKNOWN_TOKEN)
            roles &= expand_roles(credential.roles or [])
        if project_id and (project is None or not project.enabled or not roles):
            raise Unauthorized(UNKNOWN_TOKEN)
        return Token(
            user=user,
            project=project,
            roles=roles,
            credential=credential,
            methods=claims["openstack_methods"],
            audit_ids=claims["openstack_audit_ids"],
            issued=claims["iat"],
            expires=claims["exp"],
        )

    async def _issue(
        self,
        user: IdentityUser,
        wanted: Wanted,
        methods: list[str],
        *,
        parent: Token | None = None,
        credential: IdentityCredential | None = None,
    ) -> tuple[str, Token]:
        now = int(time.time())
        expires = parent.expires if parent else now + self._settings.token_hours * 3600
        if credential is not None:
            project_id: str | None = credential.project_id
            expires = min(expires, credential.expires_at or expires)
        else:
            async with self._reading() as session:
                project_id = await _project_for(session, user, wanted)
        if expires <= now:
            raise Unauthorized(UNKNOWN_TOKEN)
        claims: dict[str, Any] = {
            "sub": user.id,
            "iat": now,
            "exp": max(int(expires), now + 1),
            "openstack_methods": methods,
            "openstack_audit_ids": [_audit_id(), *(parent.audit_ids[-1:] if parent else [])],
            "caisson_password": _mark(user),
        }
        if project_id:
            claims["openstack_project_id"] = project_id
        if credential is not None:
            claims["openstack_app_cred_id"] = credential.id
        described = await self._read(claims)
        return jwt.encode(claims, self._signing_key, algorithm="ES256"), described

    async def _credential(self, session: AsyncSession, credential: Ref, owner: Ref) -> IdentityCredential | None:
        if credential.id is not None:
            return await session.get(IdentityCredential, credential.id)
        user = await _by_ref(session, IdentityUser, owner)
        if user is None or credential.name is None:
            return None
        statement = select(IdentityCredential).filter_by(user_id=user.id, name=credential.name)
        return (await session.exec(statement)).first()


def iso_time(moment: float) -> str:
    """Epoch seconds as Keystone writes a time."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def catalogue(base_url: str) -> list[dict[str, Any]]:
    """The v3 catalogue: what this process serves, in one region."""
    return [
        {
            "id": stable_id("service", name),
            "name": name,
            "type": kind,
            "endpoints": [
                {
                    "id": stable_id("endpoint", f"{name}:{interface}"),
                    "interface": interface,
                    "region": REGION,
                    "region_id": REGION,
                    "url": base_url + path,
                }
                for interface in INTERFACES
            ],
        }
        for name, kind, path in SERVICES
    ]


_NOUNS: dict[Any, str] = {
    IdentityUser: "user",
    IdentityProject: "project",
    IdentityCredential: "application credential",
}
_OWNER_COLUMNS: dict[Any, str] = {IdentityUser: "user_id", IdentityProject: "project_id"}


async def _get(session: AsyncSession, kind: type[Row], row_id: str) -> Row | None:
    return None if "\0" in row_id else await session.get(kind, row_id)  # PostgreSQL takes no such text


def _present(row: Row | None, kind: type[Row], row_id: str) -> Row:
    if row is None:
        raise NotFound(f"Could not find {_NOUNS[kind]}: {row_id}.")
    return row


async def _by_ref(session: AsyncSession, kind: type[Named], ref: Ref) -> Named | None:
    if ref.id is not None:
        return await session.get(kind, ref.id)
    if ref.name is None:
        return None
    return (await session.exec(select(kind).where(kind.name == ref.name))).first()


async def _roles(session: AsyncSession, user_id: str, project_id: str) -> frozenset[str]:
    statement = select(IdentityGrant.role).filter_by(user_id=user_id, project_id=project_id)
    return expand_roles(await session.exec(statement))


async def _project_for(session: AsyncSession, user: IdentityUser, wanted: Wanted) -> str | None:
    if wanted.unscoped:
        return None
    project = await _by_ref(session, IdentityProject, wanted.project or Ref(id=user.default_project_id))
    if project is not None and project.enabled and await _roles(session, user.id, project.id):
        return project.id
    if wanted.project is not None:
        raise Unauthorized("The user has no access to the requested project.")
    return None


def _mark(user: IdentityUser) -> str:
    """Changes with the password, and tells nothing of it: the hash that it is made from has a random salt."""
    return hashlib.sha256(user.password_hash.encode()).hexdigest()[:16]


def _audit_id() -> str:
    return base64.urlsafe_b64encode(uuid4().bytes).rstrip(b"=").decode()


def _new_key() -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _taken(noun: str) -> Conflict:
    article = "an" if noun[0] in "aeiou" else "a"
    return Conflict(f"There is {article} {noun} of this name already.")


@contextmanager
def _database_errors(noun: str) -> Iterator[None]:
    """Turns what the database says into words of ours: `noun` is what a broken uniqueness is about."""
    try:
        yield
    except IntegrityError:
        raise _taken(noun) from None
    except (SQLAlchemyError, OSError) as error:
        log.error("the database failed under the identity", error=repr(error))
        raise Busy("The identity's database cannot answer right now.") from error
