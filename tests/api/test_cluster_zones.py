"""A finished cluster is an availability zone of its project: containers go there, and are lost with it."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio
from sqlmodel import col, select

from app import cluster_keys, hosts
from app.db import EVERYTHING
from app.models import Cluster, ClusterStatus, ClusterTemplate, Host, NodeGroup
from tests.api.caisson import Caisson, error_of, eventually
from tests.fake import FakeEngine

pytestmark = pytest.mark.asyncio(loop_scope="session")


@dataclass
class Grounds:
    """Clusters of the two projects, stored as what a finished creation leaves."""

    caisson: Caisson
    made: list[str] = field(default_factory=list)

    async def cluster(
        self, name: str = "demo", *, project: str = "alpha", status: str = "CREATE_COMPLETE", driver: str = "swarm"
    ) -> str:
        owned: dict[str, Any] = {
            "project_id": await self.caisson.project(project), "user_id": "u", "created_at": 1.0,
        }  # fmt: skip
        running = self.caisson.running
        async with running.gateway.database.transaction(EVERYTHING) as session:
            template = ClusterTemplate(
                **owned, name="t", coe="swarm", driver=driver, image_id="node-1", cluster_distro="debian"
            )
            cluster = Cluster(
                **owned, name=name, cluster_template_id=template.uuid, coe="swarm", driver=driver, backend="local",
                status=status,
            )  # fmt: skip
            group = NodeGroup(
                **owned, cluster_id=cluster.uuid, name="default-master", role="master", node_count=1, image_id="node-1",
                node_image="1", node_memory=512, status=status,
            )  # fmt: skip
            session.add_all([template, cluster, group])
            cluster_keys.make(session, cluster, running.gateway.vault)
        self.made.append(cluster.uuid)
        return cluster.uuid

    async def clear(self) -> None:
        """Take every cluster away again: other tests see what is left of hosts."""
        async with self.caisson.running.gateway.database.transaction(EVERYTHING) as session:
            for row in await session.exec(select(Cluster).where(col(Cluster.uuid).in_(self.made))):
                await session.delete(row)
        await self.caisson.running.gateway.zones.follow()

    async def becomes(self, uuid: str, status: ClusterStatus | None) -> None:
        """The cluster gets another status, or its row goes."""
        running = self.caisson.running
        async with running.gateway.database.transaction(EVERYTHING) as session:
            row = (await session.exec(select(Cluster).where(Cluster.uuid == uuid).with_for_update())).one()
            if status is not None:
                row.status = status
            else:
                await session.delete(row)
        await running.gateway.zones.follow()

    def engine(self, uuid: str) -> FakeEngine:
        return self.caisson.running.driver("swarm").engines[UUID(uuid)]

    async def rows(self, uuid: str) -> list[Host]:
        """The hosts that stand for a cluster."""
        return await self.caisson.running.rows(Host, Host.backend == f"cluster:{uuid}")


@pytest_asyncio.fixture(loop_scope="session")
async def grounds(caisson: Caisson) -> AsyncIterator[Grounds]:
    made = Grounds(caisson)
    yield made
    await made.clear()


@pytest_asyncio.fixture(loop_scope="session")
async def demo(grounds: Grounds) -> str:
    return await grounds.cluster()


def zones_of(answer: dict[str, Any]) -> list[str]:
    return [zone["availability_zone"] for zone in answer["availability_zones"]]


async def test_its_containers_live_on_its_engine(caisson: Caisson, grounds: Grounds, demo: str) -> None:
    made = await caisson.made(run=True, availability_zone="cluster:demo")
    uuid = UUID(made["uuid"])
    assert await grounds.engine(demo).find(uuid) is not None
    assert await caisson.engine.find(uuid) is None
    await caisson.ok("POST", f"/v1/containers/{uuid}/stop")
    await caisson.until(made["uuid"], "Stopped")
    await caisson.ok("POST", f"/v1/containers/{uuid}/start")
    await caisson.until(made["uuid"], "Running")
    done = await caisson.ok("POST", f"/v1/containers/{uuid}/execute?command=echo+hi&run=true&interactive=false")
    assert done["exit_code"] == 0
    # An event of the cluster's engine reaches the row.
    await grounds.engine(demo).stop((await grounds.engine(demo).find(uuid)).ref, 0)  # type: ignore[union-attr]
    await caisson.until(made["uuid"], "Stopped")
    await caisson.ok("DELETE", f"/v1/containers/{uuid}")
    await caisson.until_gone(made["uuid"])
    assert await grounds.engine(demo).find(uuid) is None


async def test_the_zone_is_its_own_projects_alone(caisson: Caisson, grounds: Grounds, demo: str) -> None:
    assert "cluster:demo" in zones_of(await caisson.ok("GET", "/v1/availability_zones"))
    assert "cluster:demo" not in zones_of(await caisson.ok("GET", "/v1/availability_zones", who="foreign"))
    for zone in ("cluster:demo", f"cluster:{demo}"):
        body = {"image": "busybox", "availability_zone": zone}
        refused = await caisson.call("POST", "/v1/containers", body, who="foreign")
        assert "cluster:" in error_of(refused, 404, "resource-not-found")["title"]
    # Nor does an administrator put anything there by the name of its host.
    await caisson.made(availability_zone="cluster:demo")
    await _report(caisson, demo)
    (host,) = await grounds.rows(demo)
    body = {"image": "busybox", "host": host.hostname}
    error_of(await caisson.call("POST", "/v1/containers", body, who="admin"), 404, "requested-host-not-found")


@pytest.mark.parametrize(
    "status", ["CREATE_IN_PROGRESS", "CREATE_FAILED", "UPDATE_IN_PROGRESS", "UPDATE_FAILED", "DELETE_IN_PROGRESS"]
)
async def test_a_cluster_that_is_not_complete_takes_nothing(caisson: Caisson, grounds: Grounds, status: str) -> None:
    await grounds.cluster("later", status=status)
    assert "cluster:later" not in zones_of(await caisson.ok("GET", "/v1/availability_zones"))
    refused = await caisson.call("POST", "/v1/containers", {"image": "busybox", "availability_zone": "cluster:later"})
    assert status in error_of(refused, 409, "conflict")["title"]


async def test_an_ambiguous_name(caisson: Caisson, grounds: Grounds) -> None:
    first, _ = [await grounds.cluster("twice") for _ in range(2)]
    refused = await caisson.call("POST", "/v1/containers", {"image": "busybox", "availability_zone": "cluster:twice"})
    assert "uuid" in error_of(refused, 409, "conflict")["title"]
    made = await caisson.made(availability_zone=f"cluster:{first}")
    assert await grounds.engine(first).find(UUID(made["uuid"])) is not None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("nets", [{"network": "private"}]),
        ("security_groups", ["default"]),
        ("runtime", "runc"),
        ("disk", 1),
        ("restart_policy", {"Name": "on-failure", "MaximumRetryCount": 3}),
        ("mounts", [{"type": "bind", "source": "aGk=", "destination": "/etc/motd"}]),
        ("mounts", [{"size": 1, "destination": "/data"}]),
    ],
)
async def test_what_a_cluster_cannot_do(caisson: Caisson, demo: str, field: str, value: Any) -> None:
    body = {"image": "busybox", "availability_zone": "cluster:demo", field: value}
    who = "admin" if field == "runtime" else "member"
    if who == "admin":
        await _own_by_admin(caisson, demo)
    error_of(await caisson.call("POST", "/v1/containers", body, who=who), 501, "unsupported")
    await caisson.nothing_stored()


async def test_its_nodes_are_no_hosts(caisson: Caisson, demo: str) -> None:
    await _own_by_admin(caisson, demo)
    body = {"image": "busybox", "availability_zone": f"cluster:{demo}", "host": "h"}
    error_of(await caisson.call("POST", "/v1/containers", body, who="admin"), 400, "invalid-value")


async def test_verbs_that_its_engine_lacks(caisson: Caisson, demo: str) -> None:
    uuid = (await caisson.made(run=True, availability_zone="cluster:demo"))["uuid"]
    for verb in ("pause", "commit?repository=r"):
        error_of(await caisson.call("POST", f"/v1/containers/{uuid}/{verb}"), 501, "unsupported")


async def test_it_counts_as_any_container(caisson: Caisson, demo: str) -> None:
    await caisson.made(availability_zone="cluster:demo")
    project = await caisson.project("alpha")
    used = await caisson.ok("GET", f"/v1/quotas/{project}?usages=true", who="admin")
    assert used["containers"]["in_use"] == 1


async def test_hosts_show_it_to_administrators(caisson: Caisson, grounds: Grounds, demo: str) -> None:
    await caisson.made(availability_zone="cluster:demo")
    await _report(caisson, demo)
    (host,) = await grounds.rows(demo)
    shown = await caisson.ok("GET", "/v1/services", who="admin")
    (mine,) = [service for service in shown["services"] if service["host"] == host.hostname]
    assert (mine["state"], mine["availability_zone"]) == ("up", "cluster:demo")
    # A cluster that an administrator closes takes nothing new.
    service = {"binary": "zun-compute", "host": host.hostname, "disabled_reason": "moving"}
    await caisson.ok("PUT", "/v1/services/disable", service, who="admin")
    refused = await caisson.until((await caisson.create(availability_zone="cluster:demo"))["uuid"], "Error")
    assert "moving" in refused["status_reason"]


async def test_with_the_cluster_its_containers_are_lost(caisson: Caisson, grounds: Grounds, demo: str) -> None:
    made = [await caisson.made(run=True, availability_zone="cluster:demo") for _ in range(2)]
    going = made.pop()["uuid"]
    stuck = (await caisson.create(availability_zone="cluster:demo", image="no/such:1"))["uuid"]
    await caisson.until(stuck, "Error")
    await _report(caisson, demo)
    await grounds.becomes(demo, ClusterStatus.DELETE_IN_PROGRESS)
    for uuid in (made[0]["uuid"], going):
        shown = await caisson.until(uuid, "Error")
        assert shown["status_reason"] == "its cluster was deleted"
    assert not await grounds.rows(demo)
    # Nothing that is asked of it hangs, or is stuck.
    error_of(await caisson.call("GET", f"/v1/containers/{going}/logs"), 400, "invalid-value")
    await caisson.ok("POST", f"/v1/containers/{going}/start")
    await caisson.until(going, "Error")
    await grounds.becomes(demo, None)
    for uuid in (going, made[0]["uuid"], stuck):
        await caisson.ok("DELETE", f"/v1/containers/{uuid}")
        await caisson.until_gone(uuid)
    await caisson.running.gateway.zones.follow()
    assert f"cluster:{demo}" not in caisson.running.gateway.engines


async def test_what_is_under_way_ends_with_the_cluster(caisson: Caisson, grounds: Grounds, demo: str) -> None:
    first = await caisson.made(availability_zone="cluster:demo")
    engine = grounds.engine(demo)
    engine.delay("create", 3600)
    engine.delay("remove", 3600)
    creating = (await caisson.create(availability_zone="cluster:demo"))["uuid"]
    await caisson.ok("DELETE", f"/v1/containers/{first['uuid']}")

    async def busy() -> bool:
        return engine.calls["create"] > 1 and engine.calls["remove"] > 0

    await eventually(busy, lambda: str(engine.calls))
    engine.delay("create", 0)
    engine.delay("remove", 0)
    await grounds.becomes(demo, ClusterStatus.DELETE_IN_PROGRESS)
    caisson.running.gateway.wake()
    shown = await caisson.until(creating, "Error")
    assert shown["status_reason"] == "its cluster was deleted"


async def test_new_keys_are_used(caisson: Caisson, grounds: Grounds, demo: str) -> None:
    await caisson.made(availability_zone="cluster:demo")
    before = caisson.running.gateway.engines[f"cluster:{demo}"]
    async with caisson.running.gateway.database.transaction(EVERYTHING) as session:
        row = (await session.exec(select(Cluster).where(Cluster.uuid == demo).with_for_update())).one()
        await cluster_keys.rotate(session, row, caisson.running.gateway.vault)
        row.status = ClusterStatus.UPDATE_IN_PROGRESS
    await caisson.running.gateway.zones.follow()
    after = caisson.running.gateway.engines[f"cluster:{demo}"]
    assert after is not before
    await caisson.running.gateway.zones.follow()
    assert caisson.running.gateway.engines[f"cluster:{demo}"] is after


async def _report(caisson: Caisson, cluster: str) -> None:
    gateway = caisson.running.gateway
    await gateway.engines.ping()
    await hosts.report(gateway.database, gateway.engines, gateway.settings, f"cluster:{cluster}")


async def _own_by_admin(caisson: Caisson, cluster: str) -> None:
    """Give a cluster to the administrator's own project."""
    answer = await caisson.running.client.get(
        "/identity/v3/auth/tokens",
        headers={"X-Auth-Token": caisson.running.logins["admin"], "X-Subject-Token": caisson.running.logins["admin"]},
    )
    project = answer.json()["token"]["project"]["id"]
    async with caisson.running.gateway.database.transaction(EVERYTHING) as session:
        row = (await session.exec(select(Cluster).where(Cluster.uuid == cluster).with_for_update())).one()
        row.project_id = project
