"""Clusters of a test, made by rows and actions alone, as the API stores them."""

from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from sqlmodel import col, select

from app import actions, cluster_keys
from app.actions import Asked, StepArgs
from app.backends.driver import Keys
from app.clusters import CreateArgs, DeleteArgs, UpdateArgs
from app.db import EVERYTHING
from app.models import Action, Cluster, ClusterKey, ClusterStatus, ClusterTemplate, NodeGroup
from tests.api.caisson import Running, eventually
from tests.fake_driver import FakeDriver

PROJECT = "project-of-clusters"
ASKED = Asked("u", "req-1")
IMAGE: dict[str, Any] = {"image_id": "node-1", "node_image": "1", "node_profile": ""}


@dataclass
class Yard:
    """Clusters on the shared application, made by rows and actions."""

    running: Running
    made: list[str] = field(default_factory=list)

    @property
    def driver(self) -> FakeDriver:
        return self.running.driver()

    async def create(self, *, masters: int = 1, workers: int = 1, seconds: float = 60, name: str = "blue") -> str:
        """Accept a cluster. Returns its uuid."""
        owned: dict[str, Any] = {"project_id": PROJECT, "user_id": "u", "created_at": 1.0}
        async with self.running.gateway.database.transaction(EVERYTHING) as session:
            template = ClusterTemplate(
                **owned, name="t", coe="kubernetes", driver="kubernetes", image_id="node-1", cluster_distro="debian"
            )
            cluster = Cluster(
                **owned, name=name, cluster_template_id=template.uuid, coe="kubernetes", driver="kubernetes",
                backend="local",
            )  # fmt: skip
            session.add_all([template, cluster])
            group: dict[str, Any] = {
                **owned,
                **IMAGE,
                "cluster_id": cluster.uuid,
                "is_default": True,
                "node_memory": 512,
            }
            session.add(NodeGroup(**group, name="default-master", role="master", node_count=masters))
            await session.flush()
            session.add(NodeGroup(**group, name="default-worker", node_count=workers))
            cluster_keys.make(session, cluster, self.running.gateway.vault)
            await self._submit(session, cluster, "create", CreateArgs(), seconds)
        self.running.gateway.wake()
        self.made.append(cluster.uuid)
        return cluster.uuid

    async def ready(self, **wishes: Any) -> str:
        """A cluster that is there."""
        uuid = await self.create(**wishes)
        await self.reaches(uuid, "CREATE_COMPLETE")
        return uuid

    async def act(
        self, uuid: str, verb: str, args: StepArgs, *, seconds: float = 60, change: Any = None, later: bool = False
    ) -> None:
        """Accept a verb, with what `change` does to the cluster and its groups by name in the same transaction."""
        async with self.running.gateway.database.transaction(EVERYTHING) as session:
            row = (await session.exec(select(Cluster).where(Cluster.uuid == uuid).with_for_update())).one()
            groups = (await session.exec(select(NodeGroup).where(NodeGroup.cluster_id == uuid))).all()
            row.status = ClusterStatus.UPDATE_IN_PROGRESS
            if verb == "delete":
                row.status = ClusterStatus.DELETE_IN_PROGRESS
                await actions.cancel_older(session, uuid, await actions.clock(session))
            if change is not None:
                change(row, {group.name: group for group in groups}, session)
            if verb == "rotate_ca":
                await cluster_keys.rotate(session, row, self.running.gateway.vault)
            await self._submit(session, row, verb, args, seconds)
        self.running.gateway.wake()

    async def _submit(self, session: Any, row: Cluster, verb: str, args: StepArgs, seconds: float) -> None:
        now = await actions.clock(session)
        actions.submit(session, ASKED, "cluster", row, verb, "local", now, args=args, deadline=now + seconds)

    async def resize(self, uuid: str, group: str, count: int, *, seconds: float = 60, **more: Any) -> None:
        before = (await self.groups(uuid))[group]
        args = UpdateArgs(groups=[before.uuid], before_counts={before.uuid: before.node_count}, **more)

        def change(row: Cluster, groups: dict[str, NodeGroup], session: Any) -> None:
            groups[group].node_count, groups[group].status = count, ClusterStatus.UPDATE_IN_PROGRESS

        await self.act(uuid, "update", args, change=change, seconds=seconds)

    async def add_group(self, uuid: str, name: str, count: int) -> None:
        """Accept a further node group."""
        group = NodeGroup(
            project_id=PROJECT, user_id="u", created_at=1.0, cluster_id=uuid, name=name, node_count=count, **IMAGE
        )
        args = UpdateArgs(groups=[group.uuid])
        await self.act(uuid, "update", args, change=lambda row, groups, session: session.add(group))

    async def drop_group(self, uuid: str, name: str) -> None:
        args = UpdateArgs(groups=[(await self.groups(uuid))[name].uuid])

        def change(row: Cluster, groups: dict[str, NodeGroup], session: Any) -> None:
            groups[name].status = ClusterStatus.DELETE_IN_PROGRESS

        await self.act(uuid, "update", args, change=change)

    async def delete(self, uuid: str, **more: Any) -> None:
        def change(row: Cluster, groups: dict[str, NodeGroup], session: Any) -> None:
            for group in groups.values():
                group.status = ClusterStatus.DELETE_IN_PROGRESS

        await self.act(uuid, "delete", DeleteArgs(), change=change, **more)

    async def row(self, uuid: str) -> Cluster | None:
        async with self.running.gateway.database.reading(EVERYTHING) as session:
            return (await session.exec(select(Cluster).where(Cluster.uuid == uuid))).one_or_none()

    async def cluster(self, uuid: str) -> Cluster:
        row = await self.row(uuid)
        assert row is not None
        return row

    async def groups(self, uuid: str) -> dict[str, NodeGroup]:
        async with self.running.gateway.database.reading(EVERYTHING) as session:
            found = await session.exec(
                select(NodeGroup).where(NodeGroup.cluster_id == uuid).order_by(col(NodeGroup.id))
            )
            return {group.name: group for group in found}

    async def keys(self, uuid: str) -> Keys:
        async with self.running.gateway.database.reading(EVERYTHING) as session:
            return await cluster_keys.find(session, uuid, self.running.gateway.vault)

    async def log(self, uuid: str) -> list[Action]:
        async with self.running.gateway.database.reading(EVERYTHING) as session:
            found = await session.exec(select(Action).where(Action.resource_id == uuid).order_by(col(Action.id)))
            return list(found)

    async def reaches(self, uuid: str, status: str | None) -> None:
        """Wait for a status that the cluster rests in, or until it is gone."""
        seen: list[str | None] = []

        async def there() -> bool:
            row = await self.row(uuid)
            seen[:] = [row.status if row else None, row.status_reason if row else None]
            return await self._idle(uuid) and seen[0] == status

        await eventually(there, lambda: f"{seen}, not {status}")

    async def says(self, uuid: str, words: str) -> None:
        """Wait until the cluster's reason holds these words."""
        seen: list[Any] = []

        async def there() -> bool:
            seen[:] = [(await self.cluster(uuid)).status_reason]
            return words in (seen[0] or "")

        await eventually(there, lambda: f"{seen}, not {words}")

    def names(self, uuid: str) -> list[str]:
        return [node.name for node in self.driver.nodes(UUID(uuid))]

    async def clean_up(self) -> None:
        """Leave the driver as it was before, and nothing on it."""
        self.driver.reset()
        for uuid in self.made:
            for node in self.driver.nodes(UUID(uuid)):
                node.looks = 0  # what still goes on ends: a deletion that cuts it off takes its time
            await eventually(lambda uuid=uuid: self._idle(uuid), lambda: "still busy")  # type: ignore[misc]
            if await self.row(uuid) is not None:
                await self.delete(uuid)
                await self.reaches(uuid, None)
        await self.running.forget_zones()  # they are no longer places for containers

    async def _idle(self, uuid: str) -> bool:
        return all(action.state not in ("queued", "running") for action in await self.log(uuid))

    async def nothing_left(self, uuid: str) -> None:
        assert self.driver.nodes(UUID(uuid)) == []
        assert await self.row(uuid) is None
        assert await self.groups(uuid) == {}
        async with self.running.gateway.database.reading(EVERYTHING) as session:
            assert (await session.exec(select(ClusterKey).where(ClusterKey.cluster_id == uuid))).all() == []
