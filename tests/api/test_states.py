"""Which verb is accepted in which status, and where it leads."""

import base64
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.archives import one_file
from app.models import Status
from app.networks import security_group_id
from tests.api.caisson import Caisson, error_of

pytestmark = pytest.mark.asyncio(loop_scope="session")

ALLOWED = {  # zun-api, section 3.1, written down a second time
    "start": "Created Stopped Error",
    "stop": "Running",
    "reboot": "Created Running Stopped Error",
    "pause": "Running",
    "unpause": "Paused",
    "kill": "Running",
    "rebuild": "Created Running Stopped Error",
    "logs": "Created Error Paused Running Stopped Unknown",
    "execute": "Running",
    "top": "Running",
    "stats": "Running",
    "get_archive": "Created Paused Running Stopped",
    "put_archive": "Created Paused Running Stopped",
}
READS = {"logs": "GET", "top": "GET", "stats": "GET", "execute": "POST", "get_archive": "GET", "put_archive": "POST"}
QUERIES = {"execute": "?command=true", "get_archive": "?path=/tmp", "put_archive": "?path=/tmp"}
SETTLED = "Created Running Stopped Paused"
FURTHER: dict[str, tuple[str, str, Any, str, str]] = {  # how it is asked for, from where ("" is anywhere), version
    "update": ("PATCH", "", {"memory": 99}, SETTLED, "1.40"),
    "resize_container": ("POST", "/resize_container", {"memory": 99}, SETTLED, "1.40"),
    "commit": ("POST", "/commit?repository=mine", None, "Running Stopped Paused", "1.40"),
    "add_security_group": ("POST", "/add_security_group?name=default", None, SETTLED, "1.14"),
    "remove_security_group": ("POST", "/remove_security_group?name=default", None, SETTLED, "1.14"),
    "attach": ("GET", "/attach", None, "Running", "1.40"),
    "resize": ("POST", "/resize?h=1&w=1", None, "Running", "1.40"),
    "rename": ("POST", "/rename?name=other", None, "", "1.13"),
    "network_list": ("GET", "/network_list", None, "", "1.40"),
    "network_attach": ("POST", "/network_attach", None, "", "1.40"),
    "network_detach": ("POST", "/network_detach?network=project", None, "", "1.40"),
    "actions": ("GET", "/container_actions", None, "", "1.40"),
}
DELETABLE = "Created Error Stopped Deleted Dead"
DELETE = {
    "": DELETABLE,
    "?stop=True": f"Running {DELETABLE}",
    "?force=True": f"{DELETABLE} Creating Running Unknown Restarting Rebuilding Deleting Paused",
}


@pytest.mark.parametrize("verb", sorted(ALLOWED.keys() - READS.keys()))
async def test_actions(caisson: Caisson, verb: str) -> None:
    for status in Status:
        box = await caisson.put(status=status, engine_ref="r" * 64)
        answer = await caisson.call("POST", f"/v1/containers/{box.uuid}/{verb}")
        found = await caisson.actions(box.uuid)
        if status in ALLOWED[verb].split():
            assert answer.status_code == 202
            assert answer.text == "null"
            assert [action.verb for action in found] == [verb]
            continue
        error = error_of(answer, 409, "invalid-state-exception")
        assert error["title"] == f"Cannot {verb} container {box.uuid} in {status} state"
        assert found == []
        assert (await caisson.show(box.uuid))["status"] == status


@pytest.mark.parametrize("verb", READS)
async def test_reads(caisson: Caisson, verb: str) -> None:
    """The rows have no container in the engine, so that what is accepted ends in the engine's "no such container"."""
    for status in Status:
        box = await caisson.put(status=status, engine_ref="r" * 64)
        path = f"/v1/containers/{box.uuid}/{verb}{QUERIES.get(verb, '')}"
        body = {"data": base64.b64encode(one_file("a", b"")).decode()} if verb == "put_archive" else None
        answer = await caisson.call(READS[verb], path, body)
        if status in ALLOWED[verb].split():
            assert "No such container" in error_of(answer, 409, "conflict")["title"]
        else:
            error = error_of(answer, 409, "invalid-state-exception")
            assert error["title"] == f"Cannot {verb} container {box.uuid} in {status} state"
        assert await caisson.actions(box.uuid) == []


@pytest.mark.parametrize("verb", FURTHER)
async def test_further_verbs(caisson: Caisson, verb: str) -> None:
    """As above; what is accepted meets the row that no engine has, or does not look there."""
    method, path, body, allowed, version = FURTHER[verb]
    group = security_group_id(await caisson.project("alpha"))
    row: dict[str, Any] = {"network_attach": {"nets": []}, "remove_security_group": {"security_groups": [group]}}
    for status in Status:
        box = await caisson.put(status=status, engine_ref="r" * 64, interactive=True, tty=True, **row.get(verb, {}))
        answer = await caisson.call(method, f"/v1/containers/{box.uuid}{path}", body, version=f"container {version}")
        if status in (allowed or " ".join(Status)).split():
            assert "invalid-state" not in answer.text
            assert answer.status_code < 300 or "No such container" in error_of(answer, 409, "conflict")["title"]
            continue
        error = error_of(answer, 409, "invalid-state-exception")
        assert error["title"] == f"Cannot {verb} container {box.uuid} in {status} state"
        assert await caisson.actions(box.uuid) == []
        assert (await caisson.show(box.uuid))["status"] == status


@pytest.mark.parametrize("flags", DELETE)
async def test_delete(caisson: Caisson, flags: str) -> None:
    for status in Status:
        box = await caisson.put(status=status, engine_ref="r" * 64)
        answer = await caisson.call("DELETE", f"/v1/containers/{box.uuid}{flags}", who="admin")
        if status in DELETE[flags].split():
            assert answer.status_code == 204
            assert answer.content == b""
            await caisson.until_gone(box.uuid)
            continue
        error = error_of(answer, 409, "invalid-state-exception")
        assert error["title"] == f"Cannot delete container {box.uuid} in {status} state"
        assert await caisson.actions(box.uuid) == []


async def test_a_container_that_its_engine_never_made_answers_reads_with_400(caisson: Caisson) -> None:
    box = await caisson.put(status=Status.ERROR, status_reason="no such image")
    error = error_of(await caisson.call("GET", f"/v1/containers/{box.uuid}/logs"), 400, "invalid-value")
    assert "no such image" in error["title"]


LEADS_TO: dict[tuple[str, str], str | None] = {
    ("Created", "start"): "Running",
    ("Created", "reboot"): "Running",
    ("Created", "delete"): None,
    ("Running", "stop"): "Stopped",
    ("Running", "stop?timeout=1"): "Stopped",
    ("Running", "reboot"): "Running",
    ("Running", "pause"): "Paused",
    ("Running", "kill"): "Stopped",
    ("Running", "kill?signal=HUP"): "Running",
    ("Created", "rebuild"): "Created",
    ("Running", "rebuild"): "Running",
    ("Stopped", "rebuild"): "Created",
    ("Paused", "unpause"): "Running",
    ("Stopped", "start"): "Running",
    ("Stopped", "reboot"): "Running",
    ("Stopped", "delete"): None,
}
VERBS = sorted({verb for _, verb in LEADS_TO})


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(run=st.booleans(), verbs=st.lists(st.sampled_from(VERBS), max_size=8))
async def test_any_sequence_of_verbs_follows_the_table(caisson: Caisson, run: bool, verbs: list[str]) -> None:
    shown: dict[str, Any] = await caisson.made(run=run)
    status: str | None = shown["status"]
    for verb in verbs:
        assert status is not None
        if verb == "delete":
            answer = await caisson.call("DELETE", f"/v1/containers/{shown['uuid']}")
        else:
            answer = await caisson.call("POST", f"/v1/containers/{shown['uuid']}/{verb}")
        if (status, verb) not in LEADS_TO:
            error_of(answer, 409, "invalid-state-exception")
            assert (await caisson.show(shown["uuid"]))["status"] == status
            continue
        assert answer.status_code < 300
        status = LEADS_TO[status, verb]
        if status is None:
            await caisson.until_gone(shown["uuid"])
            return
        await caisson.until(shown["uuid"], status)


async def test_verbs_asked_for_quickly_are_carried_out_in_order(caisson: Caisson) -> None:
    """Each waits for the one before; what is accepted depends on the status that is known when it is asked for."""
    uuid = (await caisson.made(run=True))["uuid"]
    caisson.engine.delay("pause", 0.2)
    try:
        for verb, status in (("pause", 202), ("kill", 202), ("reboot", 202), ("unpause", 409)):
            assert (await caisson.call("POST", f"/v1/containers/{uuid}/{verb}")).status_code == status
    finally:
        caisson.engine.delay("pause", 0)
    shown = await caisson.until(uuid, "Running")
    assert shown["task_state"] is None
    found = await caisson.actions(uuid)
    assert [(action.verb, action.state) for action in found] == [
        ("create", "done"), ("pause", "done"), ("kill", "done"), ("reboot", "done"),
    ]  # fmt: skip
    ended = [action.finished_at or 0.0 for action in found]
    assert ended == sorted(ended)
    assert all((later.started_at or 0.0) >= (earlier.finished_at or 0.0) for earlier, later in pairwise(found))


@pytest.mark.parametrize(
    ("verb", "engine_verb", "task_state"),
    [
        ("start", "start", "container_starting"),
        ("stop", "stop", "container_stopping"),
        ("reboot", "restart", "container_rebooting"),
        ("pause", "pause", "container_pausing"),
        ("unpause", "unpause", "container_unpausing"),
        ("kill", "kill", "container_killing"),
        ("rebuild", "create", "container_rebuilding"),
        ("delete?force=1", "remove", "container_deleting"),
    ],
)
async def test_the_task_state_tells_what_is_under_way(
    caisson: Caisson, verb: str, engine_verb: str, task_state: str
) -> None:
    uuid = (await caisson.made(run=verb != "start"))["uuid"]
    if verb == "unpause":
        await caisson.ok("POST", f"/v1/containers/{uuid}/pause")
        await caisson.until(uuid, "Paused")
    caisson.engine.delay(engine_verb, 0.4)
    try:
        seen = set()
        if verb.startswith("delete"):
            await caisson.ok("DELETE", f"/v1/containers/{uuid}?force=1", who="admin")
        else:
            await caisson.ok("POST", f"/v1/containers/{uuid}/{verb}")
        while await caisson.unfinished(uuid):
            answer = await caisson.call("GET", f"/v1/containers/{uuid}")
            if answer.status_code == 200:
                seen.add(answer.json()["task_state"])
    finally:
        caisson.engine.delay(engine_verb, 0)
    assert task_state in seen
    assert seen <= {task_state, None}
