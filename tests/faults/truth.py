"""What really is: the database and the engine read past the gateway, and whether the two agree."""

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import httpx
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from tests.faults.gateway import PATIENCE, Gateway, until
from tests.stack.session import StackError

SHOWN_AS = {
    "created": ("Created", "Error"),  # Error: its start was refused
    "running": ("Running",),
    "paused": ("Paused",),
    "restarting": ("Restarting",),
    "exited": ("Stopped",),
    "dead": ("Dead",),
}
"""The statuses of a row that fit the engine's word."""

NOTHING: dict[str, list[Any]] = {"running": [], "containers": [], "volumes": [], "networks": []}
"""What the engine has of a cluster that is not there."""

ENDED = ("done", "failed", "cancelled")


class Truth:
    """Reads one database and one engine. Use `closing` it at the end: it takes away what the tests' projects left."""

    def __init__(self, database_url: str, docker_url: str) -> None:
        self.database_url = database_url
        self._database = create_async_engine(database_url, poolclass=NullPool)
        transport = httpx.AsyncHTTPTransport(uds=docker_url.removeprefix("unix://"))
        self.docker = httpx.AsyncClient(transport=transport, base_url="http://engine", timeout=60)

    async def rows(self, statement: str, **values: Any) -> list[dict[str, Any]]:
        """The rows that an SQL statement finds."""
        async with self._database.connect() as connection:
            return [dict(row) for row in (await connection.execute(text(statement), values)).mappings()]

    async def actions(self, **where: Any) -> list[dict[str, Any]]:
        """Actions on what projects have, by id, with `taken`: whether a live lease is on it."""
        now = "extract(epoch from clock_timestamp())"
        if "sqlite" in self.database_url:
            now = "(julianday('now') - 2440587.5) * 86400.0"
        condition = " AND ".join(
            ["resource_kind IN ('container', 'capsule', 'image', 'cluster')", *(f"{name} = :{name}" for name in where)]
        )
        return await self.rows(
            f"SELECT *, coalesce(lease_until > {now}, false) AS taken FROM action WHERE {condition} ORDER BY id",
            **where,
        )

    async def settled(self, seconds: float = PATIENCE) -> list[dict[str, Any]]:
        """Wait until every action has ended, and return them all."""
        try:
            return await until(self._all_ended, "every action to end", seconds)  # type: ignore[no-any-return]
        except StackError as error:
            left = [action for action in await self.actions() if action["state"] not in ENDED]
            raise StackError(f"{error}: {left}") from None

    async def engine_containers(self, project_id: str) -> dict[str, dict[str, Any]]:
        """What the engine has of a project: `inspect` documents by our uuid."""
        filters = json.dumps({"label": [f"caisson.project={project_id}"]})
        listed = await self.docker.get("/containers/json", params={"all": "true", "filters": filters})
        found = {}
        for entry in listed.json():
            answer = await self.docker.get(f"/containers/{entry['Id']}/json")
            if answer.status_code == 200:
                found[str(entry["Labels"]["caisson.uuid"])] = answer.json()
        return found

    async def engine_networks(self, project_id: str) -> list[dict[str, Any]]:
        """The networks that the engine has for a project."""
        filters = json.dumps({"label": [f"caisson.project={project_id}"]})
        networks: list[dict[str, Any]] = (await self.docker.get("/networks", params={"filters": filters})).json()
        return networks

    async def clusters(self, **label: str) -> dict[str, dict[str, list[Any]]]:
        """What the engine has of clusters, by uuid: containers that run, all containers, volumes and networks.

        `label` is ``project`` or ``uuid`` and what it is.
        """
        names = {"project": "caisson.cluster.project", "uuid": "caisson.cluster"}
        filters = json.dumps({"label": [f"{names[name]}={value}" for name, value in label.items()]})
        asked: dict[str, tuple[str, dict[str, str]]] = {
            "running": ("/containers/json", {}),
            "containers": ("/containers/json", {"all": "true"}),
            "volumes": ("/volumes", {}),
            "networks": ("/networks", {}),
        }
        found: dict[str, dict[str, list[Any]]] = {}
        for kind, (path, more) in asked.items():
            body = (await self.docker.get(path, params={"filters": filters, **more})).json()
            for one in (body["Volumes"] or []) if kind == "volumes" else body:
                held = found.setdefault(one["Labels"]["caisson.cluster"], {name: [] for name in asked})
                held[kind].append(one)
        return found

    async def agree(self, *gateways: Gateway, seconds: float = 20.0) -> list[dict[str, Any]]:
        """The invariant: every accepted request has ended, rows and engine show the same, nothing is left over.

        Returns all actions. Raises StackError with what is wrong.
        """
        actions = await self.settled(max(PATIENCE, seconds))
        known = {action["request_id"] for action in actions}
        accepted = [request for gateway in gateways for request in gateway.accepted.items()]
        lost = [request for request in accepted if request[0] not in known]
        assert not lost, f"accepted, and not in the log: {lost}"
        wrong: list[str] = []

        async def none_wrong() -> bool:
            wrong[:] = await self._differences(gateways[0].project_id)
            return not wrong

        try:
            await until(none_wrong, "rows and engine to agree", seconds)
        except StackError as error:
            raise StackError(f"{error}: {wrong}") from None
        for gateway in gateways:
            if gateway.alive:
                answer = await gateway.request("GET", "/v1/containers")
                assert answer.status_code == 200, answer.text
        return actions

    async def _all_ended(self) -> list[dict[str, Any]]:
        actions = await self.actions()
        return actions if all(action["state"] in ENDED for action in actions) else []

    async def _differences(self, project_id: str) -> list[str]:
        rows = {row["uuid"]: row for row in await self.rows("SELECT * FROM container")}
        shown = await self.engine_containers(project_id)
        pods = {row["uuid"]: row for row in await self.rows("SELECT * FROM capsule")}
        wrong = [f"{uuid}: in the engine and without a row" for uuid in shown.keys() - rows.keys() - pods.keys()]
        for uuid, pod in pods.items():
            if pod["task_state"] is not None or (pod["status"] == "Running") != (uuid in shown):
                wrong.append(f"capsule {uuid}: {pod['status']}, {pod['task_state']}, sandbox: {uuid in shown}")
        for uuid, row in rows.items():
            what = f"{row['name']} ({uuid})"
            if row["task_state"] is not None:
                wrong.append(f"{what}: at rest, and task_state is {row['task_state']}")
            if uuid not in shown:
                if row["status"] != "Error":
                    wrong.append(f"{what}: {row['status']}, and the engine has nothing")
                continue
            word = shown[uuid]["State"]["Status"]
            if row["status"] not in SHOWN_AS[word]:
                wrong.append(f"{what}: {row['status']}, and the engine says {word}")
            if row["engine_ref"] != shown[uuid]["Id"]:
                wrong.append(f"{what}: the engine's id is not noted")
        networks = await self.engine_networks(project_id)
        if len(networks) > (1 if rows else 0):
            wrong.append(f"{len(networks)} networks for {len(rows)} containers")
        wrong += await self._cluster_differences(project_id)
        held = await self.rows("SELECT id, verb FROM action WHERE state = 'running' AND lease_until IS NULL")
        return wrong + [f"action {row['id']} ({row['verb']}) runs without a lease" for row in held]

    async def _cluster_differences(self, project_id: str) -> list[str]:
        """Complete ones have just the nodes of their rows, once and healthy; others say why they are not."""
        rows = {row["uuid"]: row for row in await self.rows("SELECT * FROM cluster")}
        shown = await self.clusters(project=project_id)
        wrong = [f"cluster {uuid}: in the engine and without a row" for uuid in shown.keys() - rows.keys()]
        for uuid, row in rows.items():
            if row["status"].endswith("_FAILED") and row["status_reason"]:
                continue
            of_groups = "SELECT coalesce(sum(node_count), 0) AS nodes FROM node_group WHERE cluster_id = :uuid"
            wanted = int((await self.rows(of_groups, uuid=uuid))[0]["nodes"])
            held = shown.get(uuid, NOTHING)
            names = {one["Labels"].get("caisson.node") for one in held["containers"]}
            counts = [len(held["running"]), len(held["containers"]), len(names), len(held["networks"])]
            stray = {one["Labels"]["caisson.node"] for one in held["volumes"]} - names
            if (
                not row["status"].endswith("_COMPLETE")
                or row["health_status"] != "HEALTHY"
                or counts != [wanted, wanted, wanted, 1]
                or stray
            ):
                wrong.append(
                    f"cluster {uuid}: {row['status']} ({row['status_reason']}), {row['health_status']} "
                    f"({row['health_status_reason']}), {wanted} nodes wanted; running, there, by name, networks: "
                    f"{counts}; volumes of nobody: {stray}"
                )
        return wrong

    @asynccontextmanager
    async def no_writes(self) -> AsyncIterator[None]:
        """Lets nobody write actions meanwhile: whoever tries waits, in the middle of a transaction."""
        if "sqlite" in self.database_url:
            connection = sqlite3.connect(
                self.database_url.partition(":///")[2], isolation_level=None, timeout=20, check_same_thread=False
            )
            try:
                await asyncio.to_thread(connection.execute, "BEGIN IMMEDIATE")
                yield
                connection.execute("ROLLBACK")
            finally:
                connection.close()
            return
        async with self._database.connect() as locking:
            await locking.execute(text("LOCK TABLE action IN EXCLUSIVE MODE"))
            yield
            await locking.rollback()

    async def close(self, project_ids: Iterable[str]) -> None:
        """Remove what the projects have in the engine."""
        for project_id in filter(None, project_ids):
            for document in (await self.engine_containers(project_id)).values():
                await self.docker.delete(f"/containers/{document['Id']}", params={"force": "true", "v": "true"})
            for network in await self.engine_networks(project_id):
                await self.docker.delete(f"/networks/{network['Id']}")
        await self.docker.aclose()
        await self._database.dispose()
