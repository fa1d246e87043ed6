"""SIGKILL while containers are rebuilt and committed: one container at each point, all at once, and one restart.

A rebuild removes what it makes anew, so every point between must end in the rebuilt container, never in a lost one.
"""

import asyncio
import base64
import io
import tarfile
from typing import Any

import pytest

from tests.faults.conftest import Place
from tests.faults.gateway import Gateway, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

SECRET = b"kept over every rebuild\n"
FILE = {"type": "bind", "source": base64.b64encode(SECRET).decode(), "destination": "/etc/app/config"}
REBUILDS = ("before the removal", "after the removal", "after the making", "before the file", "after the start")
COMMITS = ("before the copy", "after the copy")


async def test_killed_while_it_rebuilds_and_commits(lasting_place: Place, gateway: Gateway) -> None:
    truth, proxy = lasting_place.truth, gateway.proxy
    volume = await gateway.request("POST", "/v1/volumes", json={"name": "data"})
    assert volume.status_code == 201, volume.text
    uuids = {name: await _made(lasting_place, gateway, name) for name in (*REBUILDS, *COMMITS)}
    before = await _refs(lasting_place, gateway)
    old = "|".join(before.values())
    ref = {name: before[uuid] for name, uuid in uuids.items()}
    stops = {
        "before the removal": (f"DELETE /containers/{ref['before the removal']}", "before"),
        "after the removal": (f"DELETE /containers/{ref['after the removal']}", "after"),
        "after the making": (f"POST /containers/create.name=caisson-{uuids['after the making']}", "after"),
        "before the file": (f"PUT /containers/(?!{old})[0-9a-f]+/archive", "before"),
        "after the start": (f"POST /containers/(?!{old})[0-9a-f]+/start", "after"),
        "before the copy": (f"POST /commit.*{ref['before the copy']}", "before"),
        "after the copy": (f"POST /commit.*{ref['after the copy']}", "after"),
    }
    rules = [await proxy.add(f"^{line}", when, "hold") for line, when in stops.values()]
    images = [str(image) for image in await asyncio.gather(*(_ask(gateway, name, uuids[name]) for name in stops))]
    await proxy.fired(*rules)
    await gateway.kill()
    await proxy.release(*rules)
    await gateway.start()
    await truth.agree(gateway)
    for uuid in uuids.values():
        await gateway.reaches(uuid, "Running")
    after = await _refs(lasting_place, gateway)
    for name in REBUILDS:
        assert after[uuids[name]] != before[uuids[name]], name
    for name in COMMITS:
        assert after[uuids[name]] == before[uuids[name]], name
    for name in ("before the file", *COMMITS):
        assert (await _volumes(lasting_place, after[uuids[name]])) == [f"caisson-{volume.json()['uuid']}"]
    assert await _content(gateway, uuids["before the file"]) == SECRET
    rows = await truth.rows("SELECT uuid, status FROM image")
    assert {row["uuid"] for row in rows} == set(images) - {"None"}
    assert {row["status"] for row in rows} == {"Created"}
    assert {action["state"] for action in await truth.actions()} == {"done"}
    for row in rows:
        assert (await gateway.request("DELETE", f"/v1/images/{row['uuid']}")).status_code == 200
    await asyncio.gather(*(gateway.delete(uuid, force="true") for uuid in uuids.values()))
    await truth.agree(gateway)
    assert await truth.rows("SELECT uuid FROM image") == []
    assert await truth.rows("SELECT id FROM injected_file") == []
    assert (await gateway.request("DELETE", "/v1/volumes/data")).status_code == 204

    async def gone() -> bool:
        return (await truth.docker.get(f"/volumes/caisson-{volume.json()['uuid']}")).status_code == 404

    await until(gone, "the volume to leave the engine")


async def _made(place: Place, gateway: Gateway, name: str) -> str:
    more: dict[str, Any] = {}
    if name in ("before the file", *COMMITS):
        more["mounts"] = [{"source": "data", "destination": "/data"}]
    if name == "before the file":
        more["mounts"].append(FILE)
    uuid = await gateway.create(place.image, run=True, name=name.replace(" ", "-"), **more)
    await gateway.reaches(uuid, "Running")
    return uuid


async def _ask(gateway: Gateway, name: str, uuid: str) -> str | None:
    if name in REBUILDS:
        await gateway.act(uuid, "rebuild")
        return None
    answer = await gateway.request("POST", f"/v1/containers/{uuid}/commit", params={"repository": "kept"})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["uuid"])


async def _refs(place: Place, gateway: Gateway) -> dict[str, str]:
    shown = await place.truth.engine_containers(gateway.project_id)
    return {uuid: document["Id"] for uuid, document in shown.items()}


async def _volumes(place: Place, ref: str) -> list[str]:
    document = (await place.truth.docker.get(f"/containers/{ref}/json")).json()
    return [mount["Name"] for mount in document["Mounts"] if mount["Type"] == "volume"]


async def _content(gateway: Gateway, uuid: str) -> bytes:
    newest = {"OpenStack-API-Version": "container 1.40"}
    path = f"/v1/containers/{uuid}/get_archive"
    answer = await gateway.request("GET", path, params={"path": FILE["destination"]}, headers=newest)
    assert answer.status_code == 200, answer.text
    with tarfile.open(fileobj=io.BytesIO(base64.b64decode(answer.json()["data"]))) as tar:
        content = tar.extractfile("config")
        assert content is not None
        return content.read()
