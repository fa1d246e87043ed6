"""How many clusters a project may have (magnum-api, section 4.6): counted in the transaction that takes one more."""

from sqlalchemy import func
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from app import actions
from app.db import take_turn
from app.errors import Conflict, NotFound, QuotaExceeded
from app.models import Cluster, ClusterQuota
from app.settings import ClusterSettings

RESOURCE = "Cluster"
COLUMNS = {
    name: col(getattr(ClusterQuota, name))
    for name in ("id", "project_id", "resource", "hard_limit", "created_at", "updated_at")
}


async def consume(session: AsyncSession, project_id: str, known: ClusterSettings) -> None:
    """Take one cluster more, in the transaction that stores it. Others of the project wait here until it ends.

    Raises QuotaExceeded. Clusters count whatever their status.
    """
    await take_turn(session, f"clusters {project_id}")
    await check(session, project_id, known)


async def check(session: AsyncSession, project_id: str, known: ClusterSettings) -> None:
    """Raises QuotaExceeded when the project has as many clusters as it may."""
    row = await limit(session, project_id)
    most = known.quota if row is None else row.hard_limit
    used = (await session.exec(select(func.count(col(Cluster.id))).where(Cluster.project_id == project_id))).one()
    if used >= most:
        raise QuotaExceeded(
            f"Resource limit exceeded: You have reached the maximum clusters per project, {most}. "
            "You may delete a cluster to make room for a new one."
        )


async def limit(session: AsyncSession, project_id: str, resource: str = RESOURCE) -> ClusterQuota | None:
    """What an administrator set for the project, None when nothing was."""
    query = select(ClusterQuota).where(ClusterQuota.project_id == project_id, ClusterQuota.resource == resource)
    return (await session.exec(query)).first()


async def create(session: AsyncSession, project_id: str, hard_limit: int) -> ClusterQuota:
    """Set a limit. Raises Conflict when there is one."""
    await take_turn(session, f"clusters {project_id}")
    if await limit(session, project_id) is not None:
        raise Conflict(f"Quota already exists for project {project_id[:64]} and resource {RESOURCE}.")
    row = ClusterQuota(project_id=project_id, hard_limit=hard_limit, created_at=await actions.clock(session))
    session.add(row)
    await session.flush()
    return row


async def change(session: AsyncSession, project_id: str, resource: str, hard_limit: int) -> ClusterQuota:
    """Change a limit. Raises NotFound."""
    row = await _find(session, project_id, resource)
    row.hard_limit, row.updated_at = hard_limit, await actions.clock(session)
    return row


async def remove(session: AsyncSession, project_id: str, resource: str) -> None:
    """The setting's limit holds again. Raises NotFound."""
    await session.delete(await _find(session, project_id, resource))


async def _find(session: AsyncSession, project_id: str, resource: str) -> ClusterQuota:
    if (row := await limit(session, project_id, resource)) is None:
        raise NotFound(f"Quota could not be found: project_id {project_id[:64]} resource {resource[:64]}.")
    return row
