"""Quotas: what a project may have, counted in the transaction that takes it (zun-api, sections 3.16 and 8).

A limit comes from the project's own override, else from the class ``default``, else from the settings; -1 is no limit.
Usage is never stored: it is the sum over the project's rows, taken while no other transaction of the project can add to
it. So what is accepted never exceeds a limit, whatever comes at once and however many replicas there are.
"""

import math
from collections.abc import Mapping
from typing import Any

from sqlalchemy import delete, func
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from app.db import take_turn
from app.errors import QuotaExceeded
from app.models import UNFINISHED, Action, Container, Quota, QuotaClass
from app.settings import Settings

RESOURCES = ("containers", "memory", "disk", "cpu")
"""In Zun's order: a count, MiB, GiB and cores."""

DEFAULT_CLASS = "default"
UNLIMITED = -1

Usage = dict[str, float]


async def consume(
    session: AsyncSession,
    project_id: str,
    settings: Settings,
    *,
    containers: int = 0,
    cpu: float | None = 0.0,
    memory: int | None = 0,
    disk: int | None = 0,
) -> None:
    """Take so much more for the project, or raise QuotaExceeded naming every resource that has not enough left.

    Call it in the transaction that stores what is taken, after locking rows that are there and **before** adding new
    rows or changing limits: what is in the session counts as taken already. cpu in cores, memory in MiB, disk in GiB;
    None and what is not positive need no permission. Nothing is given back: a row that goes, or shrinks, no longer
    counts. Until the commit, others of the same project wait here.
    """
    wanted = {"containers": containers, "memory": memory or 0, "disk": disk or 0, "cpu": cpu or 0.0}
    wanted = {resource: amount for resource, amount in wanted.items() if amount > 0}
    known = await limits(session, project_id, settings) if wanted else {}
    if all(known[resource] == UNLIMITED for resource in wanted):
        return
    await take_turn(session, f"quota {project_id}")
    used = await usage(session, project_id)
    over = [
        f"{resource} (limit {known[resource]}, in use {used[resource]:g}, requested {amount:g})"
        for resource, amount in wanted.items()
        if not _fits(used[resource] + amount, known[resource])
    ]
    if over:
        raise QuotaExceeded(f"Quota exceeded for resources: {', '.join(over)}")


async def limits(session: AsyncSession, project_id: str, settings: Settings) -> dict[str, int]:
    """What the project may have, by resource."""
    own = await session.exec(select(Quota).where(Quota.project_id == project_id))
    overrides = {row.resource: row.hard_limit for row in own}
    return {**await class_limits(session, DEFAULT_CLASS, settings), **overrides}


async def class_limits(session: AsyncSession, class_name: str, settings: Settings) -> dict[str, int]:
    """The limits of a class; what it does not name, and a class that nobody made, has those of the settings."""
    rows = await session.exec(select(QuotaClass).where(QuotaClass.class_name == class_name))
    return {**settings.quota.model_dump(), **{row.resource: row.hard_limit for row in rows}}


async def usage(session: AsyncSession, project_id: str) -> Usage:
    """What the project has, by resource: its containers and members of capsules, and growth that is under way."""
    # First what grows: when an update ends between the two statements it counts twice, never not at all.
    growth = await _growth(session, project_id)
    query = select(
        func.count(col(Container.id)),
        func.sum(col(Container.memory)),
        func.sum(col(Container.disk)),
        func.sum(col(Container.cpu)),
    ).where(Container.project_id == project_id)
    count, memory, disk, cpu = (await session.exec(query)).one()
    return {
        "containers": count,
        "memory": int(memory or 0) + int(growth["memory"]),
        "disk": int(disk or 0),
        "cpu": round(float(cpu or 0) + growth["cpu"], 3),
    }


async def override(session: AsyncSession, project_id: str, wanted: Mapping[str, int]) -> None:
    """Set some limits of a project; others stay."""
    await take_turn(session, "quotas")
    for resource, limit in wanted.items():
        await session.merge(Quota(project_id=project_id, resource=resource, hard_limit=limit))


async def override_class(session: AsyncSession, class_name: str, wanted: Mapping[str, int]) -> None:
    """Set some limits of a class; others stay."""
    await take_turn(session, "quotas")
    for resource, limit in wanted.items():
        await session.merge(QuotaClass(class_name=class_name, resource=resource, hard_limit=limit))


async def forget(session: AsyncSession, project_id: str) -> None:
    """Remove the project's overrides."""
    await session.exec(delete(Quota).where(col(Quota.project_id) == project_id))


def growth_of(box: Container, cpu: float | None, memory: int | None) -> dict[str, Any]:
    """What new limits take beyond those that a container has, as arguments of `consume`; None stays as it is."""
    return {
        "cpu": max((cpu or 0.0) - (box.cpu or 0.0), 0.0),
        "memory": max((memory or 0) - (box.memory or 0), 0),
    }


async def _growth(session: AsyncSession, project_id: str) -> Usage:
    """What accepted changes of limits will add: their rows show it only when the engine has done it."""
    changes = select(Container, Action.args).where(
        col(Action.resource_id) == Container.uuid,
        col(Action.verb).in_(("update", "resize_container")),
        col(Action.state).in_(UNFINISHED),
        Container.project_id == project_id,
    )
    most: dict[str, dict[str, Any]] = {}
    for box, args in await session.exec(changes):
        added = growth_of(box, (args or {}).get("cpu"), (args or {}).get("memory"))
        known = most.setdefault(box.uuid, added)
        most[box.uuid] = {name: max(known[name], value) for name, value in added.items()}
    return {name: sum(added[name] for added in most.values()) for name in ("cpu", "memory")}


def _fits(amount: float, limit: int) -> bool:
    return limit == UNLIMITED or amount <= limit or math.isclose(amount, limit, rel_tol=1e-6)
