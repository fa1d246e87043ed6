"""Capsules in tests of the API: their templates, and waiting for them."""

from typing import Any

from app.models import Capsule
from tests.api.caisson import BUSY, Caisson, eventually

STAYS = {"image": BUSY, "command": ["sleep", "1000"]}
"""A container that runs until somebody ends it."""


def template(
    *containers: dict[str, Any], name: str = "pod", restart: str | None = None, init: Any = None, **spec: Any
) -> dict[str, Any]:
    """The body of a request: a capsule of these containers, or of one that stays."""
    inside: dict[str, Any] = {"containers": list(containers) or [STAYS]} | spec
    if restart is not None:
        inside["restartPolicy"] = restart
    if init is not None:
        inside["initContainers"] = init
    return {"template": {"kind": "capsule", "capsuleVersion": "beta", "metadata": {"name": name}, "spec": inside}}


async def made(caisson: Caisson, *containers: dict[str, Any], status: str = "Running", **more: Any) -> dict[str, Any]:
    """A capsule of this template, once it has that status."""
    capsule = await caisson.ok("POST", "/v1/capsules", template(*containers, **more))
    return await until(caisson, capsule["uuid"], status)


async def until(caisson: Caisson, uuid: str, status: str) -> dict[str, Any]:
    """Wait until the capsule has this status and nothing is under way."""
    shown: dict[str, Any] = {}

    async def there() -> bool:
        nonlocal shown
        idle = not await caisson.unfinished(uuid)  # asked first, or what is shown may be older than the end
        shown = await caisson.ok("GET", f"/v1/capsules/{uuid}")
        return shown["status"] == status and idle

    await eventually(there, lambda: f"{status}: {shown.get('status')}, {shown.get('status_reason')}")
    return shown


async def until_gone(caisson: Caisson, uuid: str) -> None:
    """Wait until there is no such capsule."""

    async def gone() -> bool:
        return not await caisson.running.rows(Capsule, Capsule.uuid == uuid)

    await eventually(gone, lambda: f"{uuid} is still there")
