"""How a container looks in answers (zun-api, sections 4.1 and 4.4)."""

import json
import time
from collections.abc import Collection, Sequence
from typing import Any

from app.answers import Answer
from app.models import Container, Status
from app.routers.requests import links, plain_time


def view(box: Container, hidden: Collection[str], base_url: str | None, *, fresh: bool = False) -> dict[str, Any]:
    """The API's container. Without `base_url` it has no links, as in lists.

    A `fresh` one shows null where nothing was asked for; afterwards the same fields are ``{}`` and ``[]``.
    """
    empty_map: Any = None if fresh else {}
    empty_list: Any = None if fresh else []
    shown = {
        "uuid": box.uuid,
        "links": None,
        "user_id": box.user_id,
        "project_id": box.project_id,
        "name": box.name,
        "image": box.image,
        "image_driver": box.image_driver,
        "image_pull_policy": box.image_pull_policy,
        "command": box.command or empty_list,
        "entrypoint": box.entrypoint or empty_list,
        "status": box.status,
        "status_reason": box.status_reason,
        "status_detail": status_detail(box, time.time()),
        "task_state": box.task_state,
        "cpu": box.cpu,
        "cpu_policy": box.cpu_policy,
        "memory": None if box.memory is None else str(box.memory),
        "disk": box.disk,
        "environment": box.environment or empty_map,
        "labels": box.labels or empty_map,
        "workdir": box.workdir,
        "hostname": box.hostname,
        "ports": box.ports or empty_list,
        "addresses": box.addresses or empty_map,
        "security_groups": box.security_groups or empty_list,
        "restart_policy": box.restart_policy or empty_map,
        "healthcheck": box.healthcheck or empty_map,
        "interactive": box.interactive,
        "tty": box.tty,
        "auto_remove": box.auto_remove,
        "auto_heal": box.auto_heal,
        "privileged": box.privileged,
        "runtime": box.runtime,
        "host": box.host,
        "registry_id": box.registry_id,
        "created_at": plain_time(box.created_at),
        "updated_at": plain_time(box.updated_at),
    }
    if base_url is None:
        del shown["links"]
    else:
        shown["links"] = links(base_url, "containers", box.uuid)
    for field in hidden:
        del shown[field]
    return shown


def answer(body: dict[str, Any], boxes: Sequence[Container]) -> Answer:
    """A body that shows `boxes`, good until one of their ages counts up."""
    now = time.time()
    waits = [_next_age(now - since) for box in boxes if (since := _counted_from(box)) is not None]
    return Answer(json.dumps(body, separators=(",", ":")).encode(), now + min(waits, default=3600.0))


def status_detail(box: Container, now: float) -> str | None:
    """A sentence about the status, with an age in the largest unit only."""
    match box.status:
        case Status.CREATED:
            return "Created"
        case Status.RUNNING if box.started_at is not None:
            health = f" ({box.health})" if box.health else ""
            return _with_age(f"Up {{}}{health}", now - box.started_at)
        case Status.PAUSED if box.started_at is not None:
            return _with_age("Up {} (paused)", now - box.started_at)
        case Status.STOPPED if box.finished_at is not None:
            return _with_age(f"Exited({box.exit_code}) {{}} ago ", now - box.finished_at)
        case Status.RESTARTING | Status.DEAD:
            return box.status
    return None


def _counted_from(box: Container) -> float | None:
    if box.status in (Status.RUNNING, Status.PAUSED):
        return box.started_at
    return box.finished_at if box.status == Status.STOPPED else None


def _next_age(seconds: float) -> float:
    """Seconds until an age looks different."""
    unit = next((length for length in (86400, 3600, 60, 1) if seconds >= length), 1)
    return unit - seconds % unit


def _with_age(text: str, seconds: float) -> str | None:
    for unit, length in (("days", 86400), ("hours", 3600), ("mins", 60), ("seconds", 1)):
        if seconds >= length:
            return text.format(f"{int(seconds // length)} {unit}")
    return None
