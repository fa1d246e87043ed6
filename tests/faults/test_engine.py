"""Engines that die, hang, and change behind our back."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.faults.conftest import Place
from tests.faults.gateway import LEASE, Gateway, until
from tests.stack import images
from tests.stack.docker import PrivateDocker
from tests.stack.session import Stack

pytestmark = pytest.mark.asyncio(loop_scope="module")

BUSY = 24  # creates in flight when the engine is killed


async def _docker(place: Place, method: str, path: str, **query: str) -> None:
    """Something that somebody else does with the engine."""
    answer = await place.truth.docker.request(method, f"/containers/{path}", params=query)
    assert answer.status_code < 300, answer.text


async def _engine_ref(place: Place, uuid: str) -> str:
    rows = await place.truth.rows("SELECT engine_ref FROM container WHERE uuid = :uuid", uuid=uuid)
    return str(rows[0]["engine_ref"])


async def test_changes_behind_our_back_are_shown(lasting_place: Place, gateway: Gateway) -> None:
    """By the engine's events: the recurring comparison comes too late for this test."""
    cases: dict[str, tuple[dict[str, Any], tuple[str, str, dict[str, str]], str | None]] = {
        "killed": ({}, ("POST", "kill", {}), "Stopped"),
        "stopped": ({}, ("POST", "stop", {"t": "1"}), "Stopped"),
        "paused": ({}, ("POST", "pause", {}), "Paused"),
        "removed": ({}, ("DELETE", "", {"force": "1"}), "Error"),
        "auto_remove, killed": ({"auto_remove": True}, ("POST", "kill", {}), None),
        "auto_remove, removed": ({"auto_remove": True}, ("DELETE", "", {"force": "1"}), None),
        "auto_heal, removed": ({"auto_heal": True}, ("DELETE", "", {"force": "1"}), "Running"),
    }
    uuids = dict(
        zip(
            cases,
            await asyncio.gather(
                *(gateway.create(lasting_place.image, run=True, **body) for body, _, _ in cases.values())
            ),
            strict=True,
        )
    )
    for uuid in uuids.values():
        await gateway.reaches(uuid, "Running")
    before = {case: await _engine_ref(lasting_place, uuid) for case, uuid in uuids.items()}

    async def meddle(case: str) -> float:
        _, (method, verb, query), status = cases[case]
        await _docker(lasting_place, method, f"{before[case]}/{verb}".rstrip("/"), **query)
        began = time.monotonic()
        if case.startswith("auto_heal"):

            async def healed() -> bool:
                return await _engine_ref(lasting_place, uuids[case]) not in (before[case], "None")

            await until(healed, "the container to be made anew")
        await gateway.reaches(uuids[case], status)
        return time.monotonic() - began

    took = await asyncio.gather(*(meddle(case) for case in cases))
    print({case: f"{1000 * seconds:.0f} ms" for case, seconds in zip(cases, took, strict=True)})
    gone = await gateway.show(uuids["removed"])
    assert gone is not None
    assert gone["status_reason"].startswith("No such container")
    assert gone["addresses"] == {}
    await _docker(lasting_place, "POST", f"{before['killed']}/start")
    await gateway.reaches(uuids["killed"], "Running")
    await lasting_place.truth.agree(gateway)


async def test_containers_that_end_while_an_action_is_stored(lasting_place: Place, gateway: Gateway) -> None:
    """Their death is told before the outcome of their start is written: it must not be forgotten."""
    short = [await gateway.create(lasting_place.image, run=True, command=["true"]) for _ in range(10)]
    for uuid in short:
        await gateway.reaches(uuid, "Stopped")
    kept = await asyncio.gather(
        *(gateway.create(lasting_place.image, run=True, command=["true"], auto_remove=True) for _ in range(5))
    )
    for uuid in kept:
        await gateway.reaches(uuid, None)
    await lasting_place.truth.agree(gateway)


async def test_a_silent_engine(lasting_place: Place, gateway: Gateway) -> None:
    """It accepts connections and answers nothing. Reads and what needs no engine go on; leases are kept meanwhile."""
    running = await gateway.create(lasting_place.image, run=True)
    await gateway.reaches(running, "Running")
    answer = await gateway.request("POST", "/v1/registries", json={"registry": {"domain": "registry.test"}})
    assert answer.status_code == 201, answer.text
    registry = answer.json()["registry"]["uuid"]
    silence = await gateway.proxy.add(".", "before", "hold", every=True)
    waiting = await asyncio.gather(*(gateway.create(lasting_place.image) for _ in range(20)))
    await gateway.act(running, "stop", timeout="0")
    began = time.monotonic()

    async def beyond_leases() -> bool:
        assert (await gateway.request("GET", "/v1/containers")).status_code == 200
        assert (await gateway.request("GET", f"/v1/containers/{running}")).json()["status"] == "Running"
        return time.monotonic() - began > 2 * LEASE

    await until(beyond_leases, "all leases to have been renewed")
    assert (await gateway.request("DELETE", f"/v1/registries/{registry}")).status_code == 204
    held = await lasting_place.truth.actions(state="running")
    assert {action["attempts"] for action in held} == {1}
    assert all(action["taken"] for action in held)
    await gateway.proxy.release(silence)
    for uuid in waiting:
        await gateway.reaches(uuid, "Created")
    await gateway.reaches(running, "Stopped")
    await lasting_place.truth.agree(gateway)


async def test_the_last_two_deleted_together_leave_no_network(lasting_place: Place, gateway: Gateway) -> None:
    for row in await lasting_place.truth.rows("SELECT uuid FROM container"):
        await gateway.delete(row["uuid"], force="true")
    uuids = await asyncio.gather(*(gateway.create(lasting_place.image) for _ in range(2)))
    for uuid in uuids:
        await gateway.reaches(uuid, "Created")
    assert len(await lasting_place.truth.engine_networks(gateway.project_id)) == 1
    held = [
        await gateway.proxy.add(f"^DELETE /containers/{await _engine_ref(lasting_place, uuid)}", "after", "hold")
        for uuid in uuids
    ]
    for uuid in uuids:
        await gateway.delete(uuid)
    await gateway.proxy.fired(*held)
    await gateway.proxy.release(*held)
    await lasting_place.truth.agree(gateway)
    assert await lasting_place.truth.engine_networks(gateway.project_id) == []


@pytest.mark.parametrize("when", ["before", "after"])
async def test_connections_cut_in_every_call(lasting_place: Place, gateway: Gateway, when: str) -> None:
    """Each call that changes something is cut once. What can be looked up is finished, what cannot is told."""
    uuids = await asyncio.gather(*(gateway.create(lasting_place.image, run=True) for _ in range(5)))
    for uuid in uuids:
        await gateway.reaches(uuid, "Running")
    for line in ("create", r"\w+/start", r"\w+/stop", r"\w+/pause", r"\w+/kill", r"\w+/restart"):
        await gateway.proxy.add(f"^POST /containers/{line}", when, "cut")
    await gateway.proxy.add("^DELETE /containers/", when, "cut")
    made = await gateway.create(lasting_place.image, run=True)
    await gateway.act(uuids[0], "stop", timeout="0")
    await gateway.act(uuids[1], "pause")
    await gateway.act(uuids[2], "kill")
    await gateway.act(uuids[3], "reboot", timeout="0")
    await gateway.delete(uuids[4], force="true")
    await gateway.reaches(made, "Running")
    await gateway.reaches(uuids[0], "Stopped")
    await gateway.reaches(uuids[1], "Paused")
    await gateway.reaches(uuids[4], None)
    actions = await lasting_place.truth.agree(gateway)
    mine = [action for action in actions if action["resource_id"] in uuids]
    once = {action["verb"]: action for action in mine if action["state"] == "failed"}
    expected = {"kill", "reboot"} if when == "before" else set()
    assert once.keys() == expected
    assert all("is not repeated" in action["message"] for action in once.values())


@pytest_asyncio.fixture(loop_scope="module")
async def private_place(stack: Stack, database_url: str, private_docker: PrivateDocker) -> AsyncIterator[Place]:
    """A place with an engine that may be killed."""
    made = Place(stack, database_url, private_docker.url, images.BUSYBOX)
    yield made
    await made.close()


async def test_an_engine_killed_and_started_again_under_load(
    private_place: Place, private_docker: PrivateDocker
) -> None:
    gateway = await private_place.gateway(OBSERVE_SECONDS=600)
    settled = await asyncio.gather(*(gateway.create(private_place.image, run=True) for _ in range(3)))
    for uuid in settled:
        await gateway.reaches(uuid, "Running")
    reading = asyncio.create_task(_read_until_cancelled(gateway))
    fourth = await gateway.proxy.add(r"^POST /containers/\w+/start", "after", "delay", nth=4)
    load = await asyncio.gather(*(gateway.create(private_place.image, run=True) for _ in range(BUSY)))
    await gateway.proxy.fired(fourth)
    private_docker.kill()
    down = await asyncio.gather(*(gateway.create(private_place.image) for _ in range(3)))
    await gateway.act(settled[0], "stop", timeout="0")
    await gateway.delete(settled[1], force="true")
    await asyncio.to_thread(private_docker.start)
    actions = await private_place.truth.agree(gateway)
    reading.cancel()
    read = await reading
    # What had been started died with the daemon; what came later runs.
    ended = [await gateway.show(uuid) for uuid in (*settled, *load, *down)]
    tally = Counter(None if box is None else box["status"] for box in ended)
    retried = sum(action["attempts"] > 1 for action in actions)
    print(f"{dict(tally)}, {retried} of {len(actions)} actions tried again, {read} reads answered meanwhile")
    assert tally["Stopped"] >= 2
    assert tally[None] == 1
    assert retried
    alive = next(box for box in ended if box is not None and box["status"] == "Running")
    await _docker(private_place, "POST", f"{await _engine_ref(private_place, alive['uuid'])}/kill")
    await gateway.reaches(alive["uuid"], "Stopped")  # the event stream is there again


async def _read_until_cancelled(gateway: Gateway) -> int:
    read = 0
    try:
        while True:
            answer = await gateway.request("GET", "/v1/containers")
            assert answer.status_code == 200, answer.text
            read += 1
            await asyncio.sleep(0.02)
    except asyncio.CancelledError:
        return read
