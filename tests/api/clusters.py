"""What tests of clusters share: templates, clusters and their node groups by the API, on the driver in memory."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

import httpx
from sqlmodel import col, select

from app.db import EVERYTHING
from app.models import Action, Cluster, ClusterKey, NodeGroup
from tests.api.caisson import Caisson, eventually
from tests.fake_driver import FakeDriver

ROOT = "/container-infra/v1"
LATEST = "container-infra latest"


@dataclass(frozen=True)
class Clusters:
    """Clusters of a test's projects."""

    caisson: Caisson

    @property
    def driver(self) -> FakeDriver:
        return self.caisson.running.driver()

    async def ask(self, method: str, path: str, body: Any = None, **more: Any) -> httpx.Response:
        """One request below Magnum's root, in the newest version unless it is said otherwise."""
        return await self.caisson.call(method, f"{ROOT}/{path}", body, **({"version": LATEST} | more))

    async def ok(self, method: str, path: str, body: Any = None, **more: Any) -> Any:
        """As `ask`, for what must succeed. Returns the decoded body."""
        answer = await self.ask(method, path, body, **more)
        assert answer.status_code < 300, f"{answer.status_code} {answer.text}"
        return answer.json() if answer.content else None

    async def template(self, who: str = "member", **fields: Any) -> str:
        """Make a template. Returns its uuid."""
        body = {"image_id": "busybox", "coe": "kubernetes"} | fields
        return str((await self.ok("POST", "clustertemplates", body, who=who))["uuid"])

    async def create(self, template: str | None = None, **fields: Any) -> str:
        """Ask for a cluster. Returns its uuid."""
        template = template or await self.template()
        made = await self.ok("POST", "clusters", {"name": "blue", "cluster_template_id": template} | fields)
        assert made.keys() == {"uuid"}
        return str(made["uuid"])

    async def made(self, template: str | None = None, **fields: Any) -> str:
        """As `create`, once it is there."""
        uuid = await self.create(template, **fields)
        await self.until(uuid, "CREATE_COMPLETE")
        return uuid

    async def show(self, uuid: str, **more: Any) -> dict[str, Any]:
        shown: dict[str, Any] = await self.ok("GET", f"clusters/{uuid}", **more)
        return shown

    async def until(self, uuid: str, status: str) -> dict[str, Any]:
        """Wait until the cluster has this status and nothing is under way."""
        shown: dict[str, Any] = {}

        async def there() -> bool:
            nonlocal shown
            idle = not await self.caisson.unfinished(uuid)
            shown = await self.show(uuid, who="admin")
            return idle and shown["status"] == status

        await eventually(there, lambda: f"{status}: {shown.get('status')}, {shown.get('status_reason')}")
        return shown

    async def gone(self, path: str, who: str = "member") -> None:
        """Wait until GET answers 404."""

        async def absent() -> bool:
            return (await self.ask("GET", path, who=who)).status_code == 404

        await eventually(absent, lambda: f"{path} is still there")

    async def forget(self) -> None:
        """Drop all that there is of clusters of these projects, as if it had never been."""
        projects = self.caisson.projects
        async with self.caisson.running.gateway.database.transaction(EVERYTHING) as session:
            # Locked in the order in which the worker locks them.
            clusters = select(Cluster).where(col(Cluster.project_id).in_(projects)).with_for_update()
            rows: list[Any] = list(await session.exec(clusters))
            uuids = [row.uuid for row in rows]
            rows += list(await session.exec(select(NodeGroup).where(col(NodeGroup.cluster_id).in_(uuids))))
            rows += list(await session.exec(select(ClusterKey).where(col(ClusterKey.cluster_id).in_(uuids))))
            open_actions = select(Action).where(col(Action.resource_id).in_(uuids), col(Action.finished_at).is_(None))
            open_actions = open_actions.order_by(col(Action.id)).with_for_update()
            for row in (*await session.exec(open_actions), *rows):
                await session.delete(row)
        for uuid in uuids:
            if self.driver.nodes(UUID(uuid)):
                self.driver.vanish(UUID(uuid))
        if uuids:  # they are no longer places for containers
            await self.caisson.running.forget_zones()

    async def patch(self, uuid: str, *operations: tuple[str, Any], **more: Any) -> httpx.Response:
        """Ask for replacements (path, value); a value of None removes."""
        body = [
            {"op": "remove", "path": path} if value is None else {"op": "replace", "path": path, "value": value}
            for path, value in operations
        ]
        return await self.ask("PATCH", f"clusters/{uuid}", body, **more)

    async def groups(self, uuid: str) -> dict[str, dict[str, Any]]:
        """The node groups of a cluster, in short, by name."""
        listed = await self.ok("GET", f"clusters/{uuid}/nodegroups", who="admin")
        return {group["name"]: group for group in listed["nodegroups"]}
