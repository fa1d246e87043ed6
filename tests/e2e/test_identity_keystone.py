"""The real Keystone, with Fernet and with JWS tokens, as the source of who is calling."""

import asyncio
import base64
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import httpx
import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

from app.auth import Authenticator, Caller
from app.errors import Busy, Unauthorized
from app.keystone import Keystone as Source
from app.settings import KeystoneSettings
from tests.stack.keystone import SERVICE_PASSWORD, Keystone
from tests.stack.session import Stack, free_port


def settings(keystone: Keystone, **changes: Any) -> KeystoneSettings:
    """Those of an operator who made a user for Caisson."""
    ours: dict[str, Any] = {
        "url": keystone.url,
        "username": "caisson",
        "password": SecretStr(SERVICE_PASSWORD),
        "timeout": 30.0,
    }
    return KeystoneSettings(**(ours | changes))


@asynccontextmanager
async def asking(keystone: Keystone, **changes: Any) -> AsyncIterator[Authenticator]:
    authenticator = Authenticator(Source(settings(keystone, **changes)), 60)
    try:
        yield authenticator
    finally:
        await authenticator.close()


@pytest.fixture(params=["fernet", "jws", "jws with keys"])
async def place(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Keystone, Authenticator]]:
    """A Keystone and who asks it: Fernet tokens, JWS tokens, and JWS tokens whose signature is checked here first."""
    provider: Literal["keystone", "keystone_jws"] = "keystone" if request.param == "fernet" else "keystone_jws"
    keystone: Keystone = request.getfixturevalue(provider)
    keys = {"jws_public_keys": [keystone.jws_public_key]} if request.param == "jws with keys" else {}
    async with asking(keystone, **keys) as authenticator:
        yield keystone, authenticator


Place = tuple[Keystone, Authenticator]


@pytest.mark.parametrize(
    ("user", "roles"),
    [
        ("alpha-admin", {"admin", "manager", "member", "reader"}),
        ("alpha-manager", {"manager", "member", "reader"}),
        ("alpha-member", {"member", "reader"}),
        ("alpha-reader", {"reader"}),
    ],
)
async def test_a_token_becomes_its_caller(place: Place, user: str, roles: set[str]) -> None:
    keystone, authenticator = place
    token = keystone.token(user)
    said = keystone.describe(token)
    caller = await authenticator.caller(token)
    assert caller == Caller(
        user_id=said["user"]["id"],
        user_name=user,
        project_id=said["project"]["id"],
        project_name="alpha",
        user_domain_id="default",
        project_domain_id="default",
        roles=frozenset(roles),
        token_expires=caller.token_expires,
    )
    assert caller.token_expires > 0


async def test_an_application_credential_has_the_roles_it_was_given(place: Place) -> None:
    keystone, authenticator = place
    name = f"reads-{os.urandom(4).hex()}"
    credential, secret = keystone.application_credential("alpha-member", name=name, roles=["reader"])
    token = keystone.token_of_credential(credential, secret)
    caller = await authenticator.caller(token)
    assert (caller.user_name, caller.project_name, caller.roles) == ("alpha-member", "alpha", frozenset({"reader"}))
    path = f"/users/{caller.user_id}/application_credentials/{credential}"
    keystone.request("DELETE", path, token=keystone.token("alpha-member"))
    authenticator.forget(token)
    with pytest.raises(Unauthorized):
        await authenticator.caller(token)


async def test_a_credential_with_access_rules_is_refused(place: Place) -> None:
    """We do not enforce such rules, and say so to Keystone by not claiming to: it vouches for no such token."""
    keystone, authenticator = place
    mine = keystone.token("alpha-member")
    user = keystone.describe(mine)["user"]["id"]
    rule = {"path": "/v1/containers", "method": "GET", "service": "container"}
    body = {"application_credential": {"name": f"ruled-{os.urandom(4).hex()}", "access_rules": [rule]}}
    made = keystone.request("POST", f"/users/{user}/application_credentials", body, token=mine).json()
    credential = made["application_credential"]
    with pytest.raises(Unauthorized):
        await authenticator.caller(keystone.token_of_credential(credential["id"], credential["secret"]))


async def test_tokens_without_a_project_are_refused(place: Place) -> None:
    keystone, authenticator = place
    for token in (keystone.unscoped_token(), keystone.system_token(), domain_token(keystone)):
        with pytest.raises(Unauthorized, match="project scope"):
            await authenticator.caller(token)


def domain_token(keystone: Keystone) -> str:
    """A token of the administrator for the default domain."""
    token = keystone.token("admin", "admin")
    user = keystone.describe(token)["user"]["id"]
    roles = keystone.request("GET", "/roles?name=admin", token=token).json()["roles"]
    keystone.request("PUT", f"/domains/default/users/{user}/roles/{roles[0]['id']}", token=token)
    identity = {"methods": ["token"], "token": {"id": token}}
    body = {"auth": {"identity": identity, "scope": {"domain": {"id": "default"}}}}
    return (
        httpx.post(f"{keystone.url}/auth/tokens", json=body, timeout=30).raise_for_status().headers["X-Subject-Token"]
    )


async def test_a_revoked_token_is_refused(place: Place) -> None:
    keystone, authenticator = place
    token = keystone.token()
    await authenticator.caller(token)
    keystone.revoke(token)
    authenticator.forget(token)
    with pytest.raises(Unauthorized):
        await authenticator.caller(token)


def b64(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def tampered(token: str) -> str:
    middle = len(token) // 2
    return f"{token[:middle]}{'A' if token[middle] != 'A' else 'B'}{token[middle + 1 :]}"


def unsigned(token: str) -> str:
    claims = token.split(".")[1] if "." in token else b64({"sub": "admin", "exp": 9_999_999_999})
    return f"{b64({'alg': 'none', 'typ': 'JWT'})}.{claims}."


FORGERIES: list[Callable[[str], str]] = [tampered, unsigned, lambda token: token[:-1], lambda _: "garbage"]


@pytest.mark.parametrize("forge", FORGERIES, ids=["tampered", "unsigned", "cut short", "garbage"])
async def test_a_forged_token_is_refused(place: Place, forge: Callable[[str], str]) -> None:
    keystone, authenticator = place
    token = keystone.token()
    with pytest.raises(Unauthorized):
        await authenticator.caller(forge(token))
    assert (await authenticator.caller(token)).user_name == "alpha-member"


async def test_a_token_of_another_keystone_is_refused(keystone: Keystone, keystone_jws: Keystone) -> None:
    for here, there in ((keystone, keystone_jws), (keystone_jws, keystone)):
        async with asking(here) as authenticator:
            with pytest.raises(Unauthorized):
                await authenticator.caller(there.token())


@pytest.mark.parametrize("provider", ["fernet", "jws"])
async def test_an_expired_token_is_refused(private_keystone: Callable[..., Keystone], provider: str) -> None:
    keystone = private_keystone(provider=provider, expiration=3)
    token = keystone.token()
    async with asking(keystone) as authenticator:
        await authenticator.caller(token)
        # Made after our own token, which therefore ends no later than this one.
        later = keystone.token()
        await asyncio.sleep((await authenticator.caller(later)).token_expires - time.time())
        with pytest.raises(Unauthorized, match="expired"):
            await authenticator.caller(later)
        authenticator.forget()
        # Keystone says so too, to a Caisson that had to log in anew.
        for ended in (token, later):
            with pytest.raises(Unauthorized):
                await authenticator.caller(ended)
        assert (await authenticator.caller(keystone.token())).user_name == "alpha-member"


# Our own login


async def test_caisson_logs_in_by_application_credential(keystone: Keystone) -> None:
    name = f"own-{os.urandom(4).hex()}"
    credential, secret = keystone.application_credential("caisson", "service", name=name)
    ours = {
        "username": None,
        "password": None,
        "application_credential_id": credential,
        "application_credential_secret": SecretStr(secret),
    }
    async with asking(keystone, **ours) as authenticator:
        assert (await authenticator.caller(keystone.token())).user_name == "alpha-member"


@pytest.mark.parametrize(
    ("ours", "event"),
    [
        ({"password": SecretStr("wrong")}, "keystone does not let us log in"),
        ({"username": "nobody"}, "keystone does not let us log in"),
        ({"project_name": "absent"}, "keystone does not let us log in"),
        # It may log in, but not look at the tokens of others.
        (
            {"username": "beta-member", "password": SecretStr("pw"), "project_name": "beta"},
            "keystone does not validate tokens for us",
        ),
    ],
    ids=["password", "user", "project", "role"],
)
async def test_our_own_trouble_is_503_and_in_the_log(keystone: Keystone, ours: dict[str, Any], event: str) -> None:
    token = keystone.token()
    async with asking(keystone, **ours) as authenticator:
        with capture_logs() as logs, pytest.raises(Busy):
            await authenticator.caller(token)
    assert [entry["event"] for entry in logs if entry["log_level"] == "error"] == [event]
    assert token not in str(logs)


async def test_a_login_that_stops_working_and_works_again(private_keystone: Callable[..., Keystone]) -> None:
    keystone = private_keystone()
    admin = keystone.token("admin", "admin")
    ours = keystone.request("GET", "/users?name=caisson", token=admin).json()["users"][0]["id"]
    async with asking(keystone) as authenticator:
        await authenticator.caller(keystone.token())
        # Disabling revokes the token that we hold.
        keystone.request("PATCH", f"/users/{ours}", {"user": {"enabled": False}}, token=admin)
        other = keystone.token("alpha-reader")
        with pytest.raises(Busy):
            await authenticator.caller(other)
        keystone.request("PATCH", f"/users/{ours}", {"user": {"enabled": True}}, token=admin)
        assert (await once_it_can(authenticator, other)).user_name == "alpha-reader"


async def once_it_can(authenticator: Authenticator, token: str) -> Caller:
    """The caller as soon as the identity service is no longer busy."""
    async with asyncio.timeout(30):
        while True:
            try:
                return await authenticator.caller(token)
            except Busy:
                await asyncio.sleep(0.1)


# Keystone away


async def test_a_stopped_keystone_is_503_for_new_tokens_and_nothing_for_known_ones(
    stack: Stack, private_keystone: Callable[..., Keystone]
) -> None:
    keystone = private_keystone()
    known, new = keystone.token(), keystone.token("alpha-reader")
    async with asking(keystone) as authenticator:
        await authenticator.caller(known)
        stack.stop(keystone.service)
        with pytest.raises(Busy):
            await authenticator.caller(new)
        assert (await authenticator.caller(known)).user_name == "alpha-member"


async def test_a_frozen_keystone_is_503_and_forgiven_when_it_wakes(private_keystone: Callable[..., Keystone]) -> None:
    keystone = private_keystone()
    token = keystone.token()
    async with asking(keystone, timeout=1.0) as authenticator:
        os.killpg(keystone.service.pid, signal.SIGSTOP)
        try:
            with pytest.raises(Busy):
                await authenticator.caller(token)
        finally:
            os.killpg(keystone.service.pid, signal.SIGCONT)
        assert (await once_it_can(authenticator, token)).user_name == "alpha-member"


async def test_many_tokens_at_once(keystone: Keystone) -> None:
    tokens = [keystone.token(f"{project}-{role}") for project in ("alpha", "beta") for role in ("member", "reader")]
    async with asking(keystone) as authenticator:
        callers = await asyncio.gather(*(authenticator.caller(token) for token in tokens * 10))
    names = ["alpha-member", "alpha-reader", "beta-member", "beta-reader"]
    assert [caller.user_name for caller in callers] == names * 10


def test_a_served_gateway_asks_keystone(stack: Stack, private_keystone: Callable[..., Keystone]) -> None:
    keystone = private_keystone()
    known, new = keystone.token(), keystone.token("alpha-reader")
    folder, port = stack.folder("asks-keystone"), free_port()
    url = f"http://127.0.0.1:{port}/v1/containers"
    gateway = stack.spawn(
        folder.name,
        [str(Path(sys.executable).with_name("caisson")), "serve"],
        log=folder / "log",
        ready=lambda: answers(f"http://127.0.0.1:{port}/healthcheck"),
        environment={
            "CAISSON_PORT": str(port),
            "CAISSON_DATA_DIR": str(folder / "data"),
            "CAISSON_BACKENDS__LOCAL__URL": f"unix://{folder}/no-engine.sock",
            "CAISSON_KEYSTONE__URL": keystone.url,
            "CAISSON_KEYSTONE__USERNAME": "caisson",
            "CAISSON_KEYSTONE__PASSWORD": SERVICE_PASSWORD,
        },
    )
    try:
        assert httpx.get(url, headers={"X-Auth-Token": known}).status_code == 200
        claims = {"X-Auth-Token": known, "X-Roles": "admin", "X-Is-Admin-Project": "True", "X-User-Name": "admin"}
        assert httpx.get(url, params={"all_projects": "true"}, headers=claims).status_code == 403
        refused = httpx.get(url, headers=claims | {"X-Auth-Token": "bad"})
        assert refused.status_code == 401
        assert refused.headers["WWW-Authenticate"] == f'Keystone uri="{keystone.url.removesuffix("/v3")}"'
        assert refused.headers["X-Openstack-Request-Id"].startswith("req-")
        assert httpx.get(f"http://127.0.0.1:{port}/identity/v3").status_code == 404
        stack.stop(keystone.service)
        assert httpx.get(url, headers={"X-Auth-Token": known}).status_code == 200
        down = httpx.get(url, headers={"X-Auth-Token": new}, timeout=30)
        assert (down.status_code, down.headers["Retry-After"]) == (503, "5")
        error = down.json()["errors"][0]
        assert error["code"] == "container.service-unavailable"
        assert error["request_id"] == down.headers["X-Openstack-Request-Id"]
        for secret in (known, new, SERVICE_PASSWORD):
            assert secret not in (folder / "log").read_text()
    finally:
        stack.stop(gateway)


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).status_code == 200
    except httpx.TransportError:
        return False


async def test_the_catalogue_names_the_services_of_one_region(keystone: Keystone) -> None:
    one = keystone.region("http://127.0.0.1:3/v1", image="http://127.0.0.1:4/")
    other = keystone.region("http://127.0.0.1:5/v1")
    for region, address in ((one, "http://127.0.0.1:4"), (other, None)):
        source = Source(settings(keystone, region=region))
        try:
            assert await source.endpoint("image") == address
            assert await source.endpoint("identity") == keystone.url
            first = await source.own_token()
            assert await source.own_token(stale="another") == first
            assert await source.own_token(stale=first) != first
        finally:
            await source.close()
