"""Nova over HTTP: which flavors and key pairs a caller sees, asked with the caller's own token."""

from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx
import structlog

from app.catalogue import Catalogue
from app.errors import Busy, Forbidden

log = structlog.get_logger("caisson.nova")

PATIENCE = 30.0
"""Seconds for one call."""

MOST_PAGES = 100


@dataclass(frozen=True, slots=True)
class Nova:
    """The compute service of the catalogue, as one caller. Raises Busy when it cannot answer, Forbidden when it will
    not."""

    catalogue: Catalogue
    url: str
    token: str

    async def flavor(self, ident: str) -> dict[str, Any] | None:
        """The flavor with this id or name."""
        marker = ""
        for _ in range(MOST_PAGES):
            answer = await self._ask("/flavors/detail" + (f"?marker={quote(marker)}" if marker else ""))
            page: dict[str, Any] = answer.json()
            for flavor in page["flavors"]:
                if ident in (flavor["id"], flavor["name"]):
                    return dict(flavor)
            if not page.get("flavors_links") or not page["flavors"]:
                break
            marker = page["flavors"][-1]["id"]
        return None

    async def has_keypair(self, name: str) -> bool:
        """Whether the caller has a key pair of this name."""
        return (await self._ask(f"/os-keypairs/{quote(name, safe='')}", absent=True)).status_code != 404

    async def _ask(self, path: str, *, absent: bool = False) -> httpx.Response:
        headers = {"X-Auth-Token": self.token, "User-Agent": "caisson"}
        try:
            async with httpx.AsyncClient(verify=self.catalogue.trusted, timeout=PATIENCE, headers=headers) as http:
                answer = await http.get(f"{self.url}{path}")
        except httpx.HTTPError as error:
            log.error("nova cannot be reached", url=self.url, error=repr(error))
            raise Busy("The compute service (Nova) cannot be reached.") from None
        if answer.is_success or (absent and answer.status_code == 404):
            return answer
        if answer.status_code in (401, 403):
            raise Forbidden("The compute service (Nova) does not allow this.")
        log.error("nova is in trouble", status=answer.status_code, url=str(answer.url))
        raise Busy("The compute service (Nova) cannot answer right now.")


async def connect(catalogue: Catalogue | None, token: str) -> Nova | None:
    """The compute service, None when the catalogue lists none (or there is no catalogue). Raises Busy."""
    url = None if catalogue is None else await catalogue.endpoint("compute")
    return None if catalogue is None or url is None else Nova(catalogue, url, token)
