"""What was asked of a cluster, by whom, and how it ended: its part of the action log, as users are told.

The log outlives the cluster by `history_days`: for as long, what was asked of one that is gone can be read by its uuid.
"""

from dataclasses import dataclass
from typing import Any

from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from app import clusters
from app.clusters import UpdateArgs
from app.errors import NotFound
from app.lookup import uuid_of
from app.models import Action, ActionState, Cluster

SHOWN = ("id", "request_id", "user_id", "project_id", "created_at", "started_at", "finished_at")
COLUMNS = {name: col(getattr(Action, name)) for name in SHOWN}
"""What lists can be sorted by."""


@dataclass(frozen=True, slots=True)
class Traced:
    """A cluster that is there, or was."""

    uuid: str
    cluster: Cluster | None

    @property
    def events(self) -> list[Any]:
        """What holds of its actions."""
        return [Action.resource_kind == "cluster", Action.resource_id == self.uuid]

    def event(self, action: Action) -> dict[str, Any]:
        """One action, with its times as they are stored.

        An update is called by what was asked: update, resize, upgrade, or that of a node group. `details` say what it
        was to become. Between two of its steps an action counts as running; the cluster says what it waits for then.
        """
        args = UpdateArgs.model_validate(action.args or {}) if action.verb == "update" else UpdateArgs()
        begun = action.state == ActionState.QUEUED and action.started_at is not None
        state = ActionState.RUNNING if begun else ActionState(action.state)
        waits_for = self.cluster.status_reason if self.cluster is not None and state == ActionState.RUNNING else None
        return {name: getattr(action, name) for name in SHOWN} | {
            "event": args.asked if action.verb == "update" else action.verb,
            "status": state.value,
            "status_reason": action.message or waits_for,
            "details": args.details,
            "steps": action.attempts,
        }


async def trace(session: AsyncSession, ident: str) -> Traced:
    """By uuid, also of one that was deleted, else by name. Raises NotFound, or Conflict when the name is ambiguous."""
    try:
        cluster = await clusters.find(session, ident)
    except NotFound:
        traced = Traced(uuid_of(ident) or "", None)
        if (await session.exec(select(Action.id).where(*traced.events).limit(1))).first() is None:
            raise
        return traced
    return Traced(cluster.uuid, cluster)
