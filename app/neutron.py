"""Neutron over HTTP: the few calls that Caisson makes, as a caller or as its own user.

A caller's own token decides what that caller sees: whatever a request names is looked up with it. Ports are made, bound
and deleted by Caisson's own user, in the caller's project.
"""

import asyncio
import ssl
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import httpx
import structlog

from app.catalogue import Catalogue
from app.errors import Busy, Conflict, Forbidden, Invalid, NotFound, QuotaExceeded

log = structlog.get_logger("caisson.neutron")

Thing = dict[str, Any]
"""A network, subnet, port or security group, as Neutron's JSON has it."""

PATIENCE = 30.0
"""Seconds for one call."""

DEVICE_OWNER = "compute:kuryr"
"""By which Zun's clients know the ports of containers."""

_AT_A_TIME = 50  # values of one filter in one call: addresses of requests have a limit


class Neutron:
    """The network service of the catalogue. Every call raises Busy when it cannot answer.

    `token` is the caller's; without one, calls are made as Caisson's own user.
    """

    def __init__(self, url: str, catalogue: Catalogue, token: str | None = None) -> None:
        self._url = url if url.endswith("/v2.0") else f"{url}/v2.0"
        self._catalogue = catalogue
        self._token = token

    def own(self) -> "Neutron":
        """The same service, as Caisson's own user."""
        return Neutron(self._url, self._catalogue)

    async def find(self, kind: str, **filters: str | Sequence[str]) -> list[Thing]:
        """The networks, subnets, ports, security_groups (`kind`) that match every filter, all pages of them."""
        many = next((name for name, value in filters.items() if not isinstance(value, str)), None)
        if many is None:
            return await self._page(kind, filters)
        values = list(filters[many])
        found: list[Thing] = []
        for start in range(0, len(values), _AT_A_TIME):
            found += await self._page(kind, {**filters, many: values[start : start + _AT_A_TIME]})
        return found

    async def show(self, kind: str, ident: str) -> Thing | None:
        """The one with this id; None when there is none or it is not visible."""
        found = await self.find(kind, id=ident)
        return found[0] if found else None

    async def create(self, kind: str, **fields: Any) -> Thing:
        """Make one. Raises Conflict, Invalid, QuotaExceeded, Forbidden with Neutron's words."""
        key = _singular(kind)
        made: Thing = (await self._call("POST", f"/{_path(kind)}", {key: fields}))[key]
        return made

    async def update(self, kind: str, ident: str, *, revision: int | None = None, **fields: Any) -> Thing:
        """Change one; with `revision` only if nobody has since, otherwise Conflict. Raises NotFound and as `create`."""
        key = _singular(kind)
        match = {} if revision is None else {"If-Match": f"revision_number={revision}"}
        changed: Thing = (await self._call("PUT", f"/{_path(kind)}/{ident}", {key: fields}, headers=match))[key]
        return changed

    async def delete(self, kind: str, ident: str) -> None:
        """Remove one; absent is fine. Raises Conflict when it is in use."""
        try:
            await self._call("DELETE", f"/{_path(kind)}/{ident}")
        except NotFound:
            return

    async def _page(self, kind: str, filters: Mapping[str, str | Sequence[str]]) -> list[Thing]:
        answer = await self._call("GET", f"/{_path(kind)}", query=filters)
        found: list[Thing] = answer[kind]
        return found

    async def _call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        request = {"json": body, "params": query}
        token = self._token or await self._catalogue.own_token()
        answer = await self._send(method, path, {**(headers or {}), "X-Auth-Token": token}, request)
        if answer.status_code == 401 and self._token is None:
            token = await self._catalogue.own_token(stale=token)
            answer = await self._send(method, path, {**(headers or {}), "X-Auth-Token": token}, request)
        if answer.is_success:
            return answer.json() if answer.content else None
        raise _error(answer)

    async def _send(
        self, method: str, path: str, headers: Mapping[str, str], request: dict[str, Any]
    ) -> httpx.Response:
        try:
            async with asyncio.timeout(PATIENCE), httpx.AsyncClient(timeout=PATIENCE, verify=_trust()) as http:
                return await http.request(method, f"{self._url}{path}", headers=headers, **request)
        except (httpx.HTTPError, TimeoutError) as error:
            log.error("neutron cannot be reached", url=self._url, error=repr(error))
            raise Busy("The network service (Neutron) cannot be reached.") from None


async def connect(catalogue: Catalogue | None, token: str | None = None) -> Neutron | None:
    """The network service, None when the catalogue lists none (or there is no catalogue). Raises Busy."""
    url = None if catalogue is None else await catalogue.endpoint("network")
    return None if catalogue is None or url is None else Neutron(url, catalogue, token)


@cache
def _trust() -> ssl.SSLContext:
    # Once: reading the system's certificates takes longer than a call.
    return ssl.create_default_context()


def _singular(kind: str) -> str:
    return kind.removesuffix("s")


def _path(kind: str) -> str:
    return kind.replace("_", "-")


def _error(answer: httpx.Response) -> Exception:
    try:
        words = answer.json()["NeutronError"]["message"]
    except (ValueError, LookupError, TypeError):
        words = f"Neutron answered {answer.status_code}."
    words = " ".join(str(words).split())
    if "Quota exceeded" in words:
        return QuotaExceeded(words)
    kinds = {400: Invalid, 403: Forbidden, 404: NotFound, 409: Conflict, 412: Conflict}
    if (kind := kinds.get(answer.status_code)) is not None:
        return kind(words)
    log.error("neutron is in trouble", status=answer.status_code, answer=answer.text[:300])
    return Busy(f"The network service (Neutron) cannot answer right now: {words}")
