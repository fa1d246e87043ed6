"""A real Keystone v3 as the source of who is calling."""

import asyncio
import ssl
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import structlog
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from app.auth import UNKNOWN_TOKEN, TokenSource, verified_claims
from app.errors import Busy, Invalid, Unauthorized
from app.settings import KeystoneSettings

log = structlog.get_logger("caisson.keystone")

CATALOGUE_SECONDS = 60.0
"""How long the catalogue is believed."""

LOGIN_PAUSE = 2.0
"""Seconds without another attempt after our own login failed: requests that wait must not each try in turn."""


class Keystone(TokenSource):
    """Asks a Keystone v3, with credentials of our own."""

    def __init__(self, settings: KeystoneSettings) -> None:
        """Raises Invalid when a file that the settings name cannot be used."""
        url = settings.url.rstrip("/").removesuffix("/v3")
        shown = (settings.www_authenticate_uri or url).rstrip("/").removesuffix("/v3")
        self.www_authenticate = f'Keystone uri="{shown}"'
        self._settings = settings
        try:
            self._keys = [_public_key(path) for path in settings.jws_public_keys]
            self.trusted = ssl.create_default_context(cafile=settings.ca_file)
        except OSError as error:
            raise Invalid(f"keystone: a file of the settings cannot be used: {error}") from None
        self._client = httpx.AsyncClient(
            base_url=f"{url}/v3",
            verify=self.trusted,
            timeout=settings.timeout,
            headers={"User-Agent": "caisson", "Accept": "application/json"},
        )
        self._own: str | None = None
        self._logging_in = asyncio.Lock()
        self._no_login_before = 0.0
        self._endpoints: dict[str, str] = {}
        self._endpoints_until = 0.0

    async def validate(self, token: str) -> dict[str, Any]:
        """See `TokenSource`. Forged and expired JWS tokens fail here, if we have Keystone's public keys."""
        if self._keys and token.count(".") == 2:
            verified_claims(token, self._keys)
        own = await self.own_token()
        answer = await self._ask(own, token)
        if answer.status_code == 401:
            answer = await self._ask(await self.own_token(stale=own), token)
        # 400 and 431: a token that some proxy or Keystone itself finds malformed. Our own login passed the same way.
        if answer.status_code in (400, 404, 431):
            raise Unauthorized(UNKNOWN_TOKEN)
        if answer.status_code != 200:
            # 401 and 403 speak of us, not of the user: our user lacks a role, or its login stopped working.
            log.error("keystone does not validate tokens for us", status=answer.status_code, answer=answer.text[:300])
            raise Busy("The identity service cannot validate tokens right now.")
        try:
            body = answer.json()["token"]
        except (ValueError, KeyError, TypeError):
            body = None
        if not isinstance(body, dict):
            log.error("keystone gave an answer without a token", url=str(answer.url))
            raise Busy("The identity service gave an unusable answer.")
        return body

    async def has_project(self, project_id: str) -> bool:
        """See `TokenSource`."""
        path = f"/projects/{quote(project_id, safe='')}"
        own = await self.own_token()
        answer = await self._send("GET", path, headers={"X-Auth-Token": own})
        if answer.status_code == 401:
            answer = await self._send("GET", path, headers={"X-Auth-Token": await self.own_token(stale=own)})
        if answer.status_code not in (200, 404):
            log.error("keystone does not show projects to us", status=answer.status_code, answer=answer.text[:300])
            raise Busy("The identity service does not let Caisson look for projects.")
        return answer.status_code == 200

    async def check(self) -> None:
        """See `TokenSource`: it answers, and our own login works."""
        await self.own_token()
        await self._send("GET", "/")

    async def close(self) -> None:
        """Close the connections to Keystone."""
        await self._client.aclose()

    async def _ask(self, own: str, token: str) -> httpx.Response:
        headers = {"X-Auth-Token": own, "X-Subject-Token": token}
        return await self._send("GET", "/auth/tokens", params={"nocatalog": "1"}, headers=headers)

    async def endpoint(self, service_type: str) -> str | None:
        """See `Catalogue`. The interface and region are those of the settings; of several regions the first one's."""
        if time.monotonic() >= self._endpoints_until:
            own = await self.own_token()
            answer = await self._send("GET", "/auth/catalog", headers={"X-Auth-Token": own})
            if answer.status_code == 401:
                own = await self.own_token(stale=own)
                answer = await self._send("GET", "/auth/catalog", headers={"X-Auth-Token": own})
            if answer.status_code != 200:
                log.error("keystone gives no catalogue", status=answer.status_code, answer=answer.text[:300])
                raise Busy("The identity service gives no catalogue right now.")
            self._endpoints = _endpoints(answer.json()["catalog"], self._settings)
            self._endpoints_until = time.monotonic() + CATALOGUE_SECONDS
        return self._endpoints.get(service_type)

    async def own_token(self, stale: str | None = None) -> str:
        """See `Catalogue`."""
        async with self._logging_in:
            if self._own is None or self._own == stale:
                if time.monotonic() < self._no_login_before:
                    raise Busy("The identity service does not let Caisson log in.")
                try:
                    self._own = await self._log_in()
                except Busy:
                    self._no_login_before = time.monotonic() + LOGIN_PAUSE
                    raise
            return self._own

    async def _log_in(self) -> str:
        answer = await self._send("POST", "/auth/tokens", params={"nocatalog": "1"}, json=_login_body(self._settings))
        token: str | None = answer.headers.get("X-Subject-Token")
        if answer.status_code != 201 or not token:
            log.error("keystone does not let us log in", status=answer.status_code, answer=answer.text[:300])
            raise Busy("The identity service does not let Caisson log in.")
        return token

    async def _send(self, method: str, path: str, **request: Any) -> httpx.Response:
        try:
            async with asyncio.timeout(self._settings.timeout):  # httpx counts each read for itself
                answer = await self._client.request(method, path, **request)
        except (httpx.HTTPError, TimeoutError) as error:
            log.error("keystone cannot be reached", error=repr(error))
            raise Busy("The identity service cannot be reached.") from None
        if answer.status_code >= 500 or answer.status_code == 429:
            log.error("keystone is in trouble", status=answer.status_code)
            raise Busy("The identity service cannot answer right now.")
        return answer


def _endpoints(catalogue: list[dict[str, Any]], settings: KeystoneSettings) -> dict[str, str]:
    found: dict[str, str] = {}
    for service in catalogue:
        for endpoint in service["endpoints"]:
            if endpoint["interface"] == settings.interface and settings.region in (None, endpoint["region_id"]):
                found.setdefault(service["type"], endpoint["url"].rstrip("/"))
    return found


def _public_key(path: Path) -> str:
    pem = path.read_bytes()
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise Invalid(f"keystone.jws_public_keys: {path} is not a P-256 public key in PEM")
    return pem.decode()


def _login_body(settings: KeystoneSettings) -> dict[str, Any]:
    if settings.application_credential_id and settings.application_credential_secret:
        secret = settings.application_credential_secret.get_secret_value()
        credential = {"id": settings.application_credential_id, "secret": secret}
        identity = {"methods": ["application_credential"], "application_credential": credential}
        return {"auth": {"identity": identity}}
    assert settings.password  # noqa: S101  (the settings demand one of the two)
    user = {
        "name": settings.username,
        "domain": {"name": settings.user_domain_name},
        "password": settings.password.get_secret_value(),
    }
    project = {"name": settings.project_name, "domain": {"name": settings.project_domain_name}}
    return {"auth": {"identity": {"methods": ["password"], "password": {"user": user}}, "scope": {"project": project}}}
