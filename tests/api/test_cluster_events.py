"""The history of a cluster: what was asked, by whom, with which request, and how it ended."""

from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from app import actions
from app.backends.driver import ClusterFailed
from app.db import EVERYTHING
from tests.api import caisson as place
from tests.api.caisson import Caisson
from tests.api.clusters import Clusters
from tests.api.test_magnum_versions import magnum_error

pytestmark = pytest.mark.asyncio(loop_scope="session")

FIELDS = {
    "id", "event", "status", "status_reason", "details", "steps", "request_id", "user_id", "project_id", "created_at",
    "started_at", "finished_at",
}  # fmt: skip


async def events(clusters: Clusters, ident: str, query: str = "", **more: Any) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = (await clusters.ok("GET", f"clusters/{ident}/events{query}", **more))["events"]
    return listed


async def test_a_whole_life(clusters: Clusters) -> None:
    asked = []

    async def ask(method: str, path: str, body: Any = None) -> Any:
        answer = await clusters.ask(method, path, body)
        assert answer.status_code < 300, answer.text
        asked.append(answer.headers["x-openstack-request-id"])
        return answer.json() if answer.content else {}

    template, newer = await clusters.template(), await clusters.template(image_id="other-node")
    uuid = (await ask("POST", "clusters", {"name": "blue", "cluster_template_id": template}))["uuid"]
    await clusters.until(uuid, "CREATE_COMPLETE")
    for method, path, body in (
        ("PATCH", f"clusters/{uuid}", [{"op": "replace", "path": "/node_count", "value": 2}]),
        ("POST", f"clusters/{uuid}/actions/resize", {"node_count": 3}),
        ("POST", f"clusters/{uuid}/actions/upgrade", {"cluster_template": newer}),
        ("POST", f"clusters/{uuid}/nodegroups", {"name": "more", "node_count": 1}),
        ("PATCH", f"clusters/{uuid}/nodegroups/more", [{"op": "replace", "path": "/max_node_count", "value": 5}]),
        ("DELETE", f"clusters/{uuid}/nodegroups/more", None),
        ("PATCH", f"certificates/{uuid}", None),
    ):
        await ask(method, path, body)
        await clusters.until(uuid, "UPDATE_COMPLETE")
    by_name = await events(clusters, "blue")
    await ask("DELETE", f"clusters/{uuid}")
    await clusters.gone(f"clusters/{uuid}")

    told = await events(clusters, uuid)
    assert by_name == told[:-1], "and when it is gone it still has one, by its uuid"
    assert all(event.keys() == FIELDS for event in told)
    assert [event["event"] for event in told] == [
        "create", "update", "resize", "upgrade", "create_nodegroup", "update_nodegroup", "delete_nodegroup",
        "rotate_ca", "delete",
    ]  # fmt: skip
    assert [event["request_id"] for event in told] == asked
    member = clusters.caisson.running.logins["id of member"]
    assert {(event["user_id"], event["project_id"]) for event in told} == {
        (member, await clusters.caisson.project("alpha"))
    }
    assert {(event["status"], event["status_reason"]) for event in told} == {("done", None)}
    assert all(event["steps"] >= 1 for event in told)
    assert all(event["created_at"] <= event["started_at"] <= event["finished_at"] for event in told)
    assert told[1]["details"] == {"node_count": 2}
    assert told[2]["details"] == {"nodegroup": "default-worker", "node_count": 3, "nodes_to_remove": []}
    assert told[3]["details"] == {"nodegroup": "default-worker", "cluster_template": newer, "max_batch_size": 1}
    assert (told[4]["details"]["nodegroup"], told[5]["details"]["max_node_count"]) == ("more", 5)
    magnum_error(await clusters.ask("GET", "clusters/blue/events"), 404)


async def test_failures_and_what_is_under_way(clusters: Clusters) -> None:
    uuid = await clusters.made()
    group = (await clusters.groups(uuid))["default-worker"]
    clusters.driver.fail_next("converge", ClusterFailed("no room", {UUID(group["uuid"]): "no room"}))
    await clusters.ok("POST", f"clusters/{uuid}/actions/resize", {"node_count": 2})
    await clusters.until(uuid, "UPDATE_FAILED")
    failed = (await events(clusters, uuid))[-1]
    assert (failed["event"], failed["status"], failed["status_reason"]) == ("resize", "failed", "no room")
    clusters.driver.freeze()
    try:
        for count in (2, 3):
            await clusters.ok("POST", f"clusters/{uuid}/actions/resize", {"node_count": count})
        waits = (await events(clusters, uuid))[-1]
        assert (waits["status"], waits["started_at"], waits["finished_at"]) == ("queued", None, None)
        assert (await clusters.ask("DELETE", f"clusters/{uuid}")).status_code == 204
        cut_off = (await events(clusters, uuid))[-2]
        assert (cut_off["status"], cut_off["status_reason"]) == ("cancelled", "cancelled by a later delete")
    finally:
        clusters.driver.thaw()


async def test_whose_and_which(clusters: Clusters) -> None:
    uuid, box = await clusters.made(), await clusters.caisson.made()
    path = f"clusters/{uuid}/events"
    assert (await clusters.ask("GET", path, who="reader")).status_code == 200
    assert len(await events(clusters, uuid, who="admin")) == 1
    foreign = magnum_error(await clusters.ask("GET", path, who="foreign"), 404)
    absent, nowhere = magnum_error(await clusters.ask("GET", path.replace(uuid, other := str(uuid4()))), 404), uuid4()
    assert foreign["title"].replace(uuid, "") == absent["title"].replace(other, "")
    magnum_error(await clusters.ask("GET", f"clusters/{box['uuid']}/events"), 404)
    assert (await clusters.ask("DELETE", f"clusters/{uuid}")).status_code == 204
    await clusters.gone(f"clusters/{uuid}")
    assert len(await events(clusters, uuid)) == 2
    magnum_error(await clusters.ask("GET", path, who="foreign"), 404)
    for query in ("?limit=0", "?sort_key=args", "?marker=x", "?verb=create", f"?marker={nowhere}"):
        magnum_error(await clusters.ask("GET", f"{path}{query}"), 400)
    magnum_error(await clusters.ask("GET", f"{path}?marker=1"), 404)


async def test_pages(clusters: Clusters) -> None:
    uuid = await clusters.made()
    for count in (2, 1):
        await clusters.ok("POST", f"clusters/{uuid}/actions/resize", {"node_count": count})
        await clusters.until(uuid, "UPDATE_COMPLETE")
    everything = await events(clusters, uuid)
    newest_first = await events(clusters, uuid, "?sort_dir=desc")
    assert newest_first == everything[::-1]
    found, query = [], "?limit=1&sort_key=created_at"
    while query:
        page = await clusters.ok("GET", f"clusters/{uuid}/events{query}")
        found += page["events"]
        _, _, query = page.get("next", "").partition("/events")
    assert found == everything


async def test_the_oldest_are_forgotten(clusters: Clusters) -> None:
    uuid = await clusters.made()
    for count in (2, 1, 2):
        await clusters.ok("POST", f"clusters/{uuid}/actions/resize", {"node_count": count})
        await clusters.until(uuid, "UPDATE_COMPLETE")
    everything = await events(clusters, uuid)
    async with clusters.caisson.running.gateway.database.transaction(EVERYTHING) as session:
        await actions.forget_beyond(session, 4)
    assert await events(clusters, uuid) == everything
    async with clusters.caisson.running.gateway.database.transaction(EVERYTHING) as session:
        await actions.forget_beyond(session, 2)
    assert await events(clusters, uuid) == everything[-2:]


async def test_a_restart_forgets_nothing(tmp_path: Path) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path}/caisson.db"
    async with place.running(url, tmp_path) as running:
        before = Clusters(Caisson(running))
        uuid = await before.made()
        told = await events(before, uuid, who="admin")
    async with place.running(url, tmp_path, ()) as running:
        assert await events(Clusters(Caisson(running)), uuid, who="admin") == told
