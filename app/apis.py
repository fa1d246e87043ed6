"""The two APIs on one port, Zun's and Magnum's: which one a path belongs to, and how each tells an error.

Both accept their paths with and without ``/v1``. Canonical paths are ``/v1/…`` for Zun and ``/container-infra/v1/…``
for Magnum, so that routing never meets the same path twice; `app.gate` writes them.
"""

import re
from dataclasses import dataclass
from typing import Any

from app.errors import GatewayError, UnknownVersion, envelope


@dataclass(frozen=True, slots=True)
class Api:
    """One API: its range of minor versions, the service types that mean it, and how it names itself in headers."""

    title: str
    root: str
    prefix: str
    maximum: int
    services: tuple[str, ...]
    word: str

    @property
    def collection(self) -> str:
        """What each canonical path of a resource begins with."""
        return f"{self.root}/v1"


MINIMUM = 1
ZUN = Api("Zun", "", "container", 40, ("container", "application-container"), "container")
MAGNUM = Api(
    "Magnum",
    "/container-infra",
    "container-infra",
    14,
    ("container-infra", "container-infrastructure", "container-infrastructure-management"),
    "container-infrastructure-management",
)

MAGNUMS_OWN = frozenset(
    {
        "clusters", "clustertemplates", "certificates", "credentials", "mservices", "stats", "federations", "bays",
        "baymodels",
    }
)  # fmt: skip
"""First segments of a path that only Magnum has; the last two it had once."""
SHARED = frozenset({"quotas"})
"""First segments that both have; so have they ``/`` and ``/v1``."""

_SENTENCE = re.compile(r"\.(?=\s|$)")


def api_of(path: str) -> Api:
    """Whose a canonical path is."""
    return MAGNUM if path == MAGNUM.root or path.startswith(MAGNUM.root + "/") else ZUN


def choose(parts: list[str], header: str | None) -> Api:
    """Whose an unprefixed path is: `parts` are its segments after ``v1``, `header` the version header.

    A segment that only one API has decides. What both have goes by the service type in the header, and without one by
    the shape: ``quotas/PROJECT/Cluster`` names a resource, which is Magnum's way. All else is Zun's.
    """
    if parts and parts[0] in MAGNUMS_OWN:
        return MAGNUM
    for word in (header or "").split(",") if not parts or parts[0] in SHARED else ():
        service = word.split()[:1]
        for api in (ZUN, MAGNUM):
            if service and service[0] in api.services:
                return api
    return MAGNUM if len(parts) == 3 and parts[0] in SHARED and parts[2] == "Cluster" else ZUN


def problem(path: str, error: GatewayError, request_id: str) -> dict[str, Any]:
    """The body of an error answer to a canonical path, in the envelope of the API that the path belongs to."""
    if api_of(path) is ZUN:
        return envelope(error.status, error.code, error.title, error.detail, request_id, **error.more)
    if isinstance(error, UnknownVersion) and error.more:  # a version out of range (magnum-api, section 1.5)
        help_link = {"rel": "help", "href": "http://docs.openstack.org/api-guide/compute/microversions.html"}
        refused = {"code": f"magnum.{error.code}", "title": error.title, "description": error.detail}
        return {"errors": [refused | error.more | {"links": [help_link]}]}
    code, title, detail = "", error.title, error.detail
    if error.code or error.status >= 500:
        code = "client" if error.status < 500 else "server"
        detail = detail or title
        title = _SENTENCE.split(detail, maxsplit=1)[0]
    return {
        "errors": [
            {
                "request_id": request_id,
                "code": code,
                "status": error.status,
                "title": title,
                "detail": detail,
                "links": [],
            }
        ]
    }
