"""The embedded identity's API in process: logins, tokens and what ends them."""

import asyncio
import hashlib
import hmac
import time
from collections.abc import AsyncIterator, Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from jose import jwt
from pydantic import SecretStr
from sqlmodel import select

from app.db import EVERYTHING, Database
from app.errors import Invalid
from app.identity import EmbeddedIdentity, Ref, Wanted, check_binding
from app.models import IdentityKey, IdentityUser
from app.settings import IdentitySettings, KeystoneSettings, Settings
from app.vault import Vault
from tests.api.identity_cloud import DEFAULT, PASSWORD, Cloud, Prepared, b64, claims_of, configured, error_of, serving
from tests.stack.postgres import Postgres
from tests.stack.session import Stack


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return Prepared(tmp_path_factory.mktemp("identity"))


@pytest.fixture
async def cloud(prepared: Prepared, tmp_path: Path) -> AsyncIterator[Cloud]:
    async with prepared.copied(tmp_path) as cloud:
        yield cloud


# The first start


async def test_the_first_start_makes_a_password_and_the_second_none(tmp_path: Path, database_url: str) -> None:
    database = Database(database_url)
    try:
        await database.migrate()
        settings = Settings(data_dir=tmp_path)
        first = EmbeddedIdentity(database, settings, Vault("key"))
        password = await first.prepare()
        assert password is not None
        assert len(password) >= 20
        second = EmbeddedIdentity(database, settings, Vault("key"))
        assert await second.prepare() is None
        async with database.reading(EVERYTHING) as session:
            users = (await session.exec(select(IdentityUser))).all()
            key = (await session.exec(select(IdentityKey))).one()
        assert [user.name for user in users] == ["admin"]
        assert password not in users[0].password_hash
        assert "PRIVATE KEY" not in key.private_pem
        with pytest.raises(Invalid, match="secret key"):
            await EmbeddedIdentity(database, settings, Vault("another key")).prepare()
    finally:
        await database.close()


async def test_replicas_that_start_together_agree_on_one_key_and_one_administrator(
    tmp_path: Path, postgres: Callable[[], str]
) -> None:
    url = postgres()
    databases = [Database(url) for _ in range(3)]
    try:
        await databases[0].migrate()
        settings = Settings(data_dir=tmp_path)
        replicas = [EmbeddedIdentity(database, settings, Vault("key")) for database in databases]
        passwords = [password for password in await asyncio.gather(*(one.prepare() for one in replicas)) if password]
        assert len(passwords) == 1
        token, _ = await replicas[0].log_in(Ref(name="admin"), passwords[0], Wanted())
        for replica in replicas:
            assert (await replica.validate(token))["user"]["name"] == "admin"
    finally:
        for database in databases:
            await database.close()


async def test_a_configured_first_password_is_not_told(cloud: Cloud) -> None:
    assert await cloud.identity.prepare() is None
    assert await cloud.token()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.53", "::1", "[::1]", "localhost"])
def test_loopback_needs_no_permission(host: str) -> None:
    check_binding(Settings(host=host))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "cloud.example", "", "127.0.0.1.example"])  # noqa: S104
def test_other_machines_reach_it_only_by_permission(host: str) -> None:
    with pytest.raises(Invalid, match="ALLOW_REMOTE"):
        check_binding(Settings(host=host))
    check_binding(Settings(host=host, identity=IdentitySettings(allow_remote=True)))
    keystone = KeystoneSettings(url="http://k/v3", username="u", password=SecretStr("p"))
    check_binding(Settings(host=host, keystone=keystone))


# Versions


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_version_documents_need_no_token(cloud: Cloud, method: str) -> None:
    listed = await cloud.call(method, "/identity/")
    one = await cloud.v3(method, "")
    assert (listed.status_code, one.status_code) == (300, 200)
    if method == "GET":
        version = one.json()["version"]
        assert version["links"] == [{"rel": "self", "href": "http://127.0.0.1:9517/identity/v3/"}]
        assert listed.json()["versions"]["values"] == [version]
        assert (await cloud.v3("GET", "/")).json() == one.json()


# Tokens


async def test_a_token_says_what_keystones_says(cloud: Cloud) -> None:
    answer = await cloud.by_password(scope={"project": {"name": "demo", "domain": {"name": "Default"}}})
    assert answer.status_code == 201
    token = answer.json()["token"]
    assert set(token) == {
        "methods", "user", "audit_ids", "expires_at", "issued_at", "project", "is_domain", "roles", "catalog",
    }  # fmt: skip
    domain = {"id": "default", "name": "Default"}
    assert token["user"] | {"id": ""} == {"domain": domain, "id": "", "name": "admin", "password_expires_at": None}
    assert token["project"] | {"id": ""} == {"domain": domain, "id": "", "name": "demo"}
    assert [role["name"] for role in token["roles"]] == ["admin", "manager", "member", "reader"]
    endpoints = {service["type"]: {end["url"] for end in service["endpoints"]} for service in token["catalog"]}
    assert endpoints == {
        "identity": {"http://127.0.0.1:9517/identity/v3"},
        "container": {"http://127.0.0.1:9517/container/v1"},
        "container-infra": {"http://127.0.0.1:9517/container-infra/v1"},
    }
    assert {end["interface"] for end in token["catalog"][0]["endpoints"]} == {"public", "internal", "admin"}
    again = (await cloud.by_password()).json()["token"]
    assert again["catalog"] == token["catalog"]
    assert again["audit_ids"] != token["audit_ids"]


async def test_the_catalogue_names_the_public_url(prepared: Prepared, tmp_path: Path) -> None:
    async with prepared.copied(tmp_path, public_url="https://cloud.example/") as cloud:
        answer = await cloud.v3("GET", "/auth/catalog", prepared.admin)
        assert answer.json()["catalog"][1]["endpoints"][0]["url"] == "https://cloud.example/container/v1"
        refused = await cloud.who("x")
        assert refused.headers["WWW-Authenticate"] == 'Keystone uri="https://cloud.example/identity"'


@pytest.mark.parametrize("scope", ["unscoped", {"unscoped": {}}])
async def test_an_unscoped_token_has_neither_roles_nor_catalogue(cloud: Cloud, scope: Any) -> None:
    answer = await cloud.by_password(scope=scope)
    assert answer.status_code == 201
    assert {"project", "roles", "catalog"}.isdisjoint(answer.json()["token"])
    token = answer.headers["X-Subject-Token"]
    assert (await cloud.v3("GET", "/auth/catalog", token)).status_code == 403
    assert (await cloud.v3("GET", "/users", token)).status_code == 403
    assert [project["name"] for project in (await cloud.v3("GET", "/auth/projects", token)).json()["projects"]] == [
        "demo"
    ]
    refused = await cloud.who(token)
    assert refused.status_code == 401
    assert "project scope" in refused.json()["error"]["message"]


async def test_without_a_scope_the_default_project_counts_if_there_is_a_role_on_it(
    cloud: Cloud, prepared: Prepared
) -> None:
    assert (await cloud.by_token(prepared.alice)).json()["token"]["project"]["name"] == "demo"
    lost = await cloud.made(prepared.admin, "/projects", "project", name="lost")
    change = {"user": {"default_project_id": lost["id"]}}
    await cloud.v3("PATCH", f"/users/{prepared.alice_id}", prepared.admin, change)
    assert "project" not in (await cloud.by_token(prepared.alice)).json()["token"]


async def test_a_token_buys_another_that_lives_no_longer(cloud: Cloud, prepared: Prepared) -> None:
    soon = int(time.time()) + 60
    ends_soon = await signed(cloud, claims_of(prepared.admin) | {"exp": soon})
    first = await cloud.by_token(ends_soon, "unscoped")
    second = await cloud.by_token(first.headers["X-Subject-Token"], {"project": {"name": "demo", "domain": DEFAULT}})
    assert (first.status_code, second.status_code) == (201, 201)
    old, new = first.json()["token"], second.json()["token"]
    for token in (old, new):
        assert datetime.fromisoformat(token["expires_at"]).timestamp() == soon
        assert token["methods"] == ["password", "token"]
    # Its own, and the one of the password login that all go back to.
    assert new["audit_ids"][1:] == old["audit_ids"][1:] == claims_of(prepared.admin)["openstack_audit_ids"]
    assert new["audit_ids"][0] != old["audit_ids"][0]


LOGINS: dict[str, tuple[dict[str, Any], int]] = {
    "wrong password": ({"name": "admin", "domain": DEFAULT, "password": "wrong"}, 401),
    "unknown user": ({"name": "nobody", "domain": DEFAULT, "password": PASSWORD}, 401),
    "unknown id": ({"id": "nobody", "password": PASSWORD}, 401),
    "name as id": ({"id": "admin", "password": PASSWORD}, 401),
    "another domain": ({"name": "admin", "domain": {"id": "other"}, "password": PASSWORD}, 401),
    "domain name as id": ({"name": "admin", "domain": {"id": "Default"}, "password": PASSWORD}, 401),
    "domain in small letters": ({"name": "admin", "domain": {"name": "default"}, "password": PASSWORD}, 201),
    "no domain": ({"name": "admin", "password": PASSWORD}, 400),
    "no name": ({"password": PASSWORD}, 400),
    "no password": ({"name": "admin", "domain": DEFAULT}, 400),
    "nul": ({"name": "ad\0min", "domain": DEFAULT, "password": PASSWORD}, 400),
    "number": ({"name": 5, "domain": DEFAULT, "password": PASSWORD}, 400),
    "long": ({"name": "a" * 256, "domain": DEFAULT, "password": PASSWORD}, 400),
    "huge password": ({"name": "admin", "domain": DEFAULT, "password": "x" * 1025}, 400),
}


@pytest.mark.parametrize("what", LOGINS)
async def test_a_login_by_password(cloud: Cloud, what: str) -> None:
    user, status = LOGINS[what]
    answer = await cloud.log_in({"methods": ["password"], "password": {"user": user}})
    assert answer.status_code == status
    if status != 201:
        error_of(answer)
        assert ("WWW-Authenticate" in answer.headers) == (status == 401)


@pytest.mark.parametrize(
    "scope",
    [
        {"project": {"name": "absent", "domain": DEFAULT}},
        {"project": {"id": "absent"}},
        {"project": {"name": "demo", "domain": {"id": "other"}}},
        {"domain": {"id": "default"}},
        {"system": {"all": True}},
        {"OS-TRUST:trust": {"id": "x"}},
    ],
    ids=str,
)
async def test_a_scope_that_is_not_there_is_401(cloud: Cloud, scope: dict[str, Any]) -> None:
    answer = await cloud.by_password(scope=scope)
    assert answer.status_code == 401
    error_of(answer)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff",
        b'{"auth": 1}',
        b'{"auth": {"identity": {"methods": []}}}',
        b'{"auth": {"identity": {"methods": ["password"]}}}',
        b'{"auth": {"identity": {"methods": ["totp"], "totp": {}}}}',
        b'{"auth": {"identity": {"methods": ["token", "password"], "token": {"id": "x"}}}}',
        b'{"auth": {"identity": {"methods": ["token"], "token": {"id": "x"}}, "scope": {"project": {"name": "demo"}}}}',
        b'{"auth": {"identity": {"methods": ["token"], "token": {"id": "x"}}, "scope": {"unscoped": '
        + b"[" * 100_000
        + b"]" * 100_000
        + b"}}}",
        b'{"auth": {"identity": {"methods": ["token"], "token": {"id": "\\ud800"}}}}',
    ],
    ids=lambda body: repr(body[:60]),
)
async def test_a_malformed_login_is_400(cloud: Cloud, body: bytes) -> None:
    answer = await cloud.v3("POST", "/auth/tokens", content=body)
    assert answer.status_code == 400
    error_of(answer)


async def test_a_body_over_the_limit_is_413(cloud: Cloud) -> None:
    answer = await cloud.v3("POST", "/auth/tokens", content=b" " * (1024 * 1024 + 1))
    assert answer.status_code == 413
    assert "1048576" in error_of(answer)["message"]


async def test_the_gateway_knows_the_caller_by_the_token_alone(cloud: Cloud, prepared: Prepared) -> None:
    answer = await cloud.who(prepared.alice)
    assert answer.json() == {"user": "alice", "project": "demo", "roles": ["member", "reader"]}
    assert (await cloud.who("")).status_code == 401


# Forgery


async def signing_key(cloud: Cloud) -> ec.EllipticCurvePrivateKey:
    """The identity's own, as whoever stole the database and the secret key would have it."""
    async with cloud.database.reading(EVERYTHING) as session:
        row = await session.get(IdentityKey, "es256")
    assert row is not None
    key = load_pem_private_key(Vault("key").open(row.private_pem).encode(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key


async def signed(cloud: Cloud, claims: dict[str, Any]) -> str:
    """A token that the identity itself might have made."""
    key = await signing_key(cloud)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    return str(jwt.encode(claims, private, algorithm="ES256"))


def unsigned(token: str, public: bytes) -> str:
    return f"{b64({'alg': 'none', 'typ': 'JWT'})}.{token.split('.')[1]}."


def none_with_the_old_signature(token: str, public: bytes) -> str:
    _, claims, signature = token.split(".")
    return f"{b64({'alg': 'none'})}.{claims}.{signature}"


def hmac_with_the_public_key(token: str, public: bytes) -> str:
    signing = f"{b64({'alg': 'HS256', 'typ': 'JWT'})}.{token.split('.')[1]}"
    return f"{signing}.{b64(hmac.new(public, signing.encode(), hashlib.sha256).digest())}"


def by_another_key(token: str, public: bytes) -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    return str(jwt.encode(claims_of(token), pem, algorithm="ES256"))


def with_its_own_key_in_the_header(token: str, public: bytes) -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    return str(jwt.encode(claims_of(token), pem, algorithm="ES256", headers={"jwk": {"kty": "EC"}, "kid": "es256"}))


def another_user(token: str, public: bytes) -> str:
    head, _, signature = token.split(".")
    return f"{head}.{b64(claims_of(token) | {'sub': 'somebody'})}.{signature}"


def a_later_expiry(token: str, public: bytes) -> str:
    head, _, signature = token.split(".")
    return f"{head}.{b64(claims_of(token) | {'exp': 9_999_999_999})}.{signature}"


def cut_short(token: str, public: bytes) -> str:
    return token[:-1]


def nested_until_a_parser_breaks(token: str, public: bytes) -> str:
    _, claims, signature = token.split(".")
    return f"{b64(b'[' * 11_000)}.{claims}.{signature}"


FORGERIES = [
    unsigned, none_with_the_old_signature, hmac_with_the_public_key, by_another_key, with_its_own_key_in_the_header,
    another_user, a_later_expiry, cut_short, nested_until_a_parser_breaks,
]  # fmt: skip


@pytest.mark.parametrize("forge", FORGERIES, ids=lambda forge: forge.__name__)
async def test_a_forged_token_opens_nothing(
    cloud: Cloud, prepared: Prepared, forge: Callable[[str, bytes], str]
) -> None:
    admin = prepared.admin
    public = (await signing_key(cloud)).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    forged = forge(admin, public)
    assert (await cloud.who(forged)).status_code == 401
    assert (await cloud.v3("GET", "/users", forged)).status_code == 401
    assert (await cloud.v3("GET", "/auth/tokens", admin, subject=forged)).status_code == 404
    assert (await cloud.by_token(forged)).status_code == 401
    assert (await cloud.who(admin)).status_code == 200


async def test_a_token_ends_on_time(cloud: Cloud, prepared: Prepared) -> None:
    now = int(time.time())
    ended = await signed(cloud, claims_of(prepared.admin) | {"iat": now - 9, "exp": now})
    refused = await cloud.who(ended)
    assert refused.status_code == 401
    assert "expired" in refused.json()["error"]["message"]
    assert (await cloud.v3("GET", "/auth/projects", ended)).status_code == 401
    assert (await cloud.by_token(ended)).status_code == 401
    good = await signed(cloud, claims_of(prepared.admin) | {"exp": now + 600})
    assert (await cloud.who(good)).status_code == 200


async def test_a_token_lives_as_long_as_the_settings_say(cloud: Cloud) -> None:
    token = (await cloud.by_password()).json()["token"]
    lives = datetime.fromisoformat(token["expires_at"]) - datetime.fromisoformat(token["issued_at"])
    assert lives == timedelta(hours=12)


async def test_a_database_that_is_away_is_503_and_not_the_users_fault(
    tmp_path: Path, stack: Stack, private_postgres: Postgres
) -> None:
    url = private_postgres.create("identity").replace("postgresql:", "postgresql+asyncpg:", 1)
    async with serving(configured(tmp_path), url) as cloud:
        known, new = await cloud.token(), await cloud.token()
        assert (await cloud.who(known)).status_code == 200
        stack.stop(private_postgres.service)
        assert (await cloud.who(known)).status_code == 200
        refused = await cloud.who(new)
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "5")
        assert refused.json()["errors"][0]["code"] == "container.service-unavailable"
        for answer in (await cloud.by_password(), await cloud.v3("GET", "/users", new)):
            assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
            error_of(answer)
