"""What can be asked of one container: logs, exec, top, stats, and the record of what was asked of it."""

import re
from typing import Any
from uuid import UUID

import pytest

from app.errors import EngineBug, Gone, Refused, Taken, Unavailable
from tests.api.caisson import Caisson, error_of, eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

ISO = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}")


async def running_box(caisson: Caisson, **fields: Any) -> str:
    uuid: str = (await caisson.made(run=True, **fields))["uuid"]
    return uuid


# Logs


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("", "out 1\nerr\nout 2\n"),
        ("stdout=True&stderr=True&timestamps=False&tail=all&since=None", "out 1\nerr\nout 2\n"),
        ("stdout=0", "err\n"),
        ("stderr=no", "out 1\nout 2\n"),
        ("tail=1", "out 2\n"),
        ("tail=0", ""),
        ("tail=2&stderr=off", "out 2\n"),
        ("tail=some", "out 1\nerr\nout 2\n"),
        ("tail=-3", "out 1\nerr\nout 2\n"),
        ("tail=" + "9" * 100, "out 1\nerr\nout 2\n"),
        ("since=1", "out 1\nerr\nout 2\n"),
        ("since=99999999999", ""),
        ("since=2001-01-01 00:00:00,1", "out 1\nerr\nout 2\n"),
        ("since=2999-12-31 23:59:59,999", ""),
    ],
)
async def test_logs(caisson: Caisson, query: str, text: str) -> None:
    uuid = await running_box(caisson)
    for line, stderr in ((b"out 1\n", False), (b"err\n", True), (b"out 2\n", False)):
        caisson.engine.write(UUID(uuid), line, stderr=stderr)
    assert await caisson.ok("GET", f"/v1/containers/{uuid}/logs?{query}") == text


async def test_logs_with_timestamps_and_bytes_that_are_no_text(caisson: Caisson) -> None:
    uuid = await running_box(caisson)
    caisson.engine.write(UUID(uuid), b"\xff\xfe caf\xc3\xa9 \x00\n")
    assert await caisson.ok("GET", f"/v1/containers/{uuid}/logs") == "\ufffd\ufffd café \x00\n"
    text = await caisson.ok("GET", f"/v1/containers/{uuid}/logs?timestamps=yes")
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", text)


async def test_logs_of_characters_in_pieces(caisson: Caisson) -> None:
    uuid = (await caisson.made(run=True))["uuid"]
    for byte in 'é"世\n'.encode() + b"\xe4":
        caisson.engine.write(UUID(uuid), bytes([byte]))
    answer = await caisson.call("GET", f"/v1/containers/{uuid}/logs")
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == 'é"世\n\ufffd'


async def test_logs_that_cannot_be_read(caisson: Caisson) -> None:
    uuid = (await caisson.made(run=True))["uuid"]
    for refusal, status in ((Unavailable("away"), 503), (Refused("no log driver"), 400), (Gone("no such thing"), 409)):
        caisson.engine.fail_next("logs", refusal)
        assert (await caisson.call("GET", f"/v1/containers/{uuid}/logs")).status_code == status
    assert await caisson.ok("GET", f"/v1/containers/{uuid}/logs") == ""


async def test_logs_are_left_when_a_container_has_ended(caisson: Caisson) -> None:
    uuid = (await caisson.create(run=True, command=["echo", "bye"]))["uuid"]
    await caisson.until(uuid, "Stopped")
    assert await caisson.ok("GET", f"/v1/containers/{uuid}/logs") == "bye\n"


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("stdout=maybe", "stdout"), ("stderr=2", "stderr"), ("timestamps=", "timestamps"), ("bogus=1", "bogus"),
        ("since=yesterday", "since"), ("since=-1", "since"), ("since=2001-02-30 00:00:00,1", "since"),
        ("since=2001-01-01T00:00:00", "since"), ("tail=" + "x" * 300, "tail"), ("since=" + "9" * 30, "since"),
    ],
)  # fmt: skip
async def test_bad_queries_for_logs(standing: Caisson, query: str, field: str) -> None:
    answer = await standing.call("GET", f"/v1/containers/whatever/logs?{query}")
    assert field in error_of(answer, 400, "schema-validation-error")["title"]


# Exec


async def test_execute_by_query_and_by_body(caisson: Caisson) -> None:
    uuid = await running_box(caisson)
    expected = {"output": "hi\n", "exit_code": 0, "exec_id": None, "proxy_url": None}
    path = f"/v1/containers/{uuid}/execute"
    assert await caisson.ok("POST", f"{path}?command=echo+hi&run=True&interactive=False") == expected
    assert await caisson.ok("POST", path, {"command": "echo hi", "run": True, "interactive": False}) == expected
    assert await caisson.ok("POST", f"{path}?run=True", {"command": '"echo" "hi"'}) == expected
    assert (await caisson.ok("POST", path, {"command": "false"}))["exit_code"] == 1
    absent = await caisson.ok("POST", f"{path}?command=nosuch")
    assert absent["exit_code"] == 126
    assert "nosuch" in absent["output"]


@pytest.mark.parametrize(
    ("query", "body", "word"),
    [
        ("", None, "command"),
        ("command=", None, "command"),
        ("", {"command": ""}, "command"),
        ("", {"command": "   "}, "command"),
        ("", {"command": "'open"}, "command"),
        ("", {"command": ["ls"]}, "command"),
        ("", {"command": 1}, "command"),
        ("", {"command": None}, "command"),
        ("", {"command": "c" * 70000}, "command"),
        ("", {"command": "ls", "run": "maybe"}, "run"),
        ("", {"command": "ls", "interactive": 1}, "interactive"),
        ("", {"command": "ls", "bogus": 1}, "bogus"),
        ("command=ls", {"command": "ls"}, "command"),
    ],
)
async def test_bad_commands(standing: Caisson, query: str, body: Any, word: str) -> None:
    answer = await standing.call("POST", f"/v1/containers/whatever/execute?{query}", body)
    assert word in error_of(answer, 400, "schema-validation-error")["title"]


@pytest.mark.parametrize("body", [b"{not json", b"[]", b"null", b"1", b'"text"'])
async def test_a_body_that_is_no_object_counts_as_none(standing: Caisson, body: bytes) -> None:
    answer = await standing.call("POST", "/v1/containers/whatever/execute", raw=body)
    assert "'command' is a required property" in error_of(answer, 400, "schema-validation-error")["title"]


async def test_a_command_that_does_not_end_is_409(caisson: Caisson) -> None:
    uuid = await running_box(caisson)
    caisson.engine.fail_next("execute", Taken("the command did not end within 15 seconds"))
    answer = await caisson.call("POST", f"/v1/containers/{uuid}/execute?command=cat")
    assert "15 seconds" in error_of(answer, 409, "conflict")["title"]


# Top and stats


async def test_top(caisson: Caisson) -> None:
    uuid = await running_box(caisson)
    expected = {"Titles": ["UID", "PID", "CMD"], "Processes": [["root", "1", "sleep 1000"]]}
    for query in ("", "?ps_args=None", "?ps_args=", "?ps_args=aux"):
        assert await caisson.ok("GET", f"/v1/containers/{uuid}/top{query}") == expected
    answer = await caisson.call("GET", f"/v1/containers/{uuid}/top?ps_args=--nonsense")
    assert "ps: error" in error_of(answer, 400, "engine-refused")["title"]
    for query, field in (("bogus=1", "bogus"), ("ps_args=" + "x" * 300, "ps_args")):
        answer = await caisson.call("GET", f"/v1/containers/{uuid}/top?{query}")
        assert field in error_of(answer, 400, "schema-validation-error")["title"]


async def test_stats(caisson: Caisson) -> None:
    uuid = await running_box(caisson, name="measured", memory=128)
    found = await caisson.ok("GET", f"/v1/containers/{uuid}/stats")
    assert found == {
        "CONTAINER": "measured",
        "CPU %": 0.5,
        "MEM USAGE(MiB)": 1.0,
        "MEM LIMIT(MiB)": 128.0,
        "MEM %": 100 / 128,
        "BLOCK I/O(B)": "0/0",
        "NET I/O(B)": "0/0",
    }


# Arguments of actions


@pytest.mark.parametrize("signal", ["SIGTERM", "TERM", "sigterm", "term", "15", "None", "RTMIN", "SIGRTMAX", "9"])
async def test_signals(caisson: Caisson, signal: str) -> None:
    uuid = await running_box(caisson)
    for query, body in ((f"?signal={signal}", None), ("", {"signal": signal})):
        assert (await caisson.call("POST", f"/v1/containers/{uuid}/kill{query}", body)).status_code == 202
        if signal in ("None", "9"):
            break
    killed = signal in ("None", "9")
    await caisson.until(uuid, "Stopped" if killed else "Running")
    sent = {(action.args or {})["signal"] for action in await caisson.actions(uuid) if action.verb == "kill"}
    assert sent == {
        "None": {"SIGKILL"}, "9": {"SIGKILL"}, "RTMIN": {"SIGRTMIN"}, "SIGRTMAX": {"SIGRTMAX"},
    }.get(signal, {"SIGTERM"})  # fmt: skip


@pytest.mark.parametrize(
    ("action", "query", "body"),
    [
        ("kill", "signal=FOO", None), ("kill", "signal=", None), ("kill", "signal=0", None),
        ("kill", "signal=99", None),
        ("kill", "signal=015", None), ("kill", "signal=SIG15", None), ("kill", "signal=Term", None),
        ("kill", "", {"signal": 9}), ("kill", "", {"signal": ["TERM"]}), ("kill", "", {"signal": {}}),
        ("kill", "bogus=1", None),
        ("stop", "timeout=abc", None), ("stop", "timeout=-1", None), ("stop", "timeout=1.5", None),
        ("stop", "timeout=", None), ("stop", "timeout=%D9%A1", None), ("stop", "timeout=86401", None),
        ("stop", "timeout=" + "9" * 100, None), ("stop", "", {"timeout": True}), ("stop", "", {"timeout": None}),
        ("stop", "", {"timeout": [1]}), ("stop", "", {"timeout": 10**30}), ("stop", "bogus=1", None),
        ("reboot", "timeout=abc", None), ("reboot", "", {"bogus": 1}),
    ],
)  # fmt: skip
async def test_bad_arguments(standing: Caisson, action: str, query: str, body: Any) -> None:
    answer = await standing.call("POST", f"/v1/containers/whatever/{action}?{query}", body)
    error = error_of(answer, 400, "schema-validation-error")
    field = "bogus" if "bogus" in f"{query}{body}" else {"kill": "signal"}.get(action, "timeout")
    assert field in error["title"]


async def test_timeouts_may_be_numbers_or_digits(caisson: Caisson) -> None:
    uuid = await running_box(caisson)
    for action, query, body, seconds in (
        ("reboot", "?timeout=1", None, 1),
        ("reboot", "", {"timeout": 2}, 2),
        ("reboot", "", {"timeout": "3"}, 3),
        ("reboot", "", None, 10),
        ("stop", "?timeout=0", None, 0),
    ):
        await caisson.ok("POST", f"/v1/containers/{uuid}/{action}{query}", body)
        await caisson.until(uuid, "Stopped" if action == "stop" else "Running")
        assert (await caisson.actions(uuid))[-1].args == {"timeout": seconds}


@pytest.mark.parametrize("query", ["force=maybe", "stop=2", "all_projects=maybe", "bogus=1"])
async def test_bad_flags_of_delete(standing: Caisson, query: str) -> None:
    answer = await standing.call("DELETE", f"/v1/containers/whatever?{query}")
    assert query.partition("=")[0] in answer.json()["errors"][0]["title"]
    assert answer.status_code == 400


# Engines that fail while the caller waits


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (Taken("it is paused"), 409, "conflict"),
        (Refused("no such option"), 400, "engine-refused"),
        (Unavailable("connection refused"), 503, "engine-unavailable"),
        (EngineBug("runtime failed"), 502, "engine-error"),
    ],
)
@pytest.mark.parametrize(("method", "read"), [("GET", "logs"), ("GET", "top"), ("GET", "stats"), ("POST", "execute")])
async def test_the_engines_words_reach_who_waits(
    standing: Caisson, method: str, read: str, error: Exception, status: int, code: str
) -> None:
    box = await standing.put(status="Running", engine_ref="r" * 64)
    standing.engine.fail_next(read, error)  # type: ignore[arg-type]  # one of the errors above
    query = "?command=true" if read == "execute" else ""
    answer = await standing.call(method, f"/v1/containers/{box.uuid}/{read}{query}")
    assert error_of(answer, status, code)["title"] == str(error)


async def test_a_container_found_missing_is_shown_so_at_once(caisson: Caisson) -> None:
    box = await caisson.put(status="Running", engine_ref="r" * 64)
    error_of(await caisson.call("GET", f"/v1/containers/{box.uuid}/top"), 409, "conflict")
    shown = await caisson.show(box.uuid)
    assert shown["status"] == "Error"
    assert "No such container" in shown["status_reason"]


# The record


async def test_container_actions(caisson: Caisson) -> None:
    made = await caisson.call("POST", "/v1/containers?run=1", {"image": "busybox", "command": ["sleep", "9"]})
    uuid = made.json()["uuid"]
    await caisson.until(uuid, "Running")
    stopped = await caisson.call("POST", f"/v1/containers/{uuid}/stop")
    await caisson.until(uuid, "Stopped")
    path = f"/v1/containers/{uuid}/container_actions"
    listed = (await caisson.ok("GET", path))["containerActions"]
    assert [action["action"] for action in listed] == ["stop", "create"]
    for action, answer in zip(listed, (stopped, made), strict=True):
        assert set(action) == {
            "action", "container_uuid", "finish_time", "message", "project_id", "request_id", "start_time", "user_id",
        }  # fmt: skip
        assert action["request_id"] == answer.headers["x-openstack-request-id"]
        assert action["container_uuid"] == uuid
        assert action["project_id"] == await caisson.project("alpha")
        assert action["user_id"] == caisson.running.logins["id of member"]
        assert ISO.fullmatch(action["start_time"])
        assert ISO.fullmatch(action["finish_time"])
        assert action["message"] is None
    one = await caisson.ok("GET", f"{path}/{listed[1]['request_id']}", who="reader")
    events = one.pop("events")
    assert one == listed[1]
    assert [event["event"] for event in events] == ["compute__do_container_start", "compute__do_container_create"]
    for event in events:
        assert set(event) == {"event", "finish_time", "result", "start_time", "traceback"}
        assert (event["result"], event["traceback"]) == ("Success", None)
        assert ISO.fullmatch(event["start_time"])
    assert events[1]["finish_time"] == events[0]["start_time"]
    assert events[0]["finish_time"] == one["finish_time"]


async def test_a_container_that_is_made_and_cannot_start(caisson: Caisson) -> None:
    uuid = (await caisson.create(run=True, command=["levitate"]))["uuid"]
    await caisson.until(uuid, "Error")
    path = f"/v1/containers/{uuid}/container_actions"
    (action,) = (await caisson.ok("GET", path))["containerActions"]
    start, create = (await caisson.ok("GET", f"{path}/{action['request_id']}", who="admin"))["events"]
    assert (create["result"], create["traceback"]) == ("Success", None)
    assert start["result"] == "Error"
    assert "levitate" in start["traceback"]


@pytest.mark.parametrize(
    ("verb", "event"),
    [
        ("network_detach?network=project", "compute__do_network_detach"),
        ("resize_container", "compute__do_container_update"),
        ("kill", "compute__do_container_kill"),
    ],
)
async def test_names_of_events(caisson: Caisson, verb: str, event: str) -> None:
    uuid = await running_box(caisson)
    body = {"memory": 64} if verb == "resize_container" else None
    answer = await caisson.call("POST", f"/v1/containers/{uuid}/{verb}", body)

    async def ended() -> bool:
        return not await caisson.unfinished(uuid)

    await eventually(ended, lambda: "it is under way")
    path = f"/v1/containers/{uuid}/container_actions/{answer.headers['x-openstack-request-id']}"
    assert [found["event"] for found in (await caisson.ok("GET", path))["events"]] == [event]


async def test_an_action_of_another_container_or_of_nobody(caisson: Caisson) -> None:
    one, other = await caisson.made(), await caisson.made()
    request = (await caisson.actions(one["uuid"]))[0].request_id
    for ident in (request, "req-none", "x" * 300):
        answer = await caisson.call("GET", f"/v1/containers/{other['uuid']}/container_actions/{ident}")
        error_of(answer, 404, "resource-not-found")


async def test_a_failed_action_says_why_and_administrators_see_more(caisson: Caisson) -> None:
    uuid = (await caisson.create(run=True, image="absent:1"))["uuid"]
    shown = await caisson.until(uuid, "Error")
    assert "manifest unknown" in shown["status_reason"]
    (action,) = (await caisson.ok("GET", f"/v1/containers/{uuid}/container_actions"))["containerActions"]
    assert "manifest unknown" in action["message"]
    path = f"/v1/containers/{uuid}/container_actions/{action['request_id']}"
    (event,) = (await caisson.ok("GET", path))["events"]
    assert (event["result"], event["traceback"]) == ("Error", None)
    (event,) = (await caisson.ok("GET", path, who="admin"))["events"]
    assert "manifest unknown" in event["traceback"]


async def test_stop_and_delete_are_one_request(caisson: Caisson) -> None:
    uuid = await running_box(caisson)
    caisson.engine.delay("remove", 0.5)
    try:
        answer = await caisson.call("DELETE", f"/v1/containers/{uuid}?stop=True")
        assert answer.status_code == 204
        path = f"/v1/containers/{uuid}/container_actions"
        listed = (await caisson.ok("GET", path))["containerActions"]
        assert [action["action"] for action in listed] == ["delete", "stop", "create"]
        request_id = answer.headers["x-openstack-request-id"]
        assert {action["request_id"] for action in listed[:2]} == {request_id}
        assert (await caisson.ok("GET", f"{path}/{request_id}"))["action"] == "stop"
    finally:
        caisson.engine.delay("remove", 0)
    await caisson.until_gone(uuid)
    error_of(await caisson.call("GET", path), 404, "container-not-found")


@pytest.mark.parametrize("request_id", ["nope", "req-00000000-0000-4000-8000-000000000000", "x" * 3000])
async def test_unknown_request_ids(caisson: Caisson, request_id: str) -> None:
    box = await caisson.put()
    answer = await caisson.call("GET", f"/v1/containers/{box.uuid}/container_actions/{request_id}")
    error_of(answer, 404, "resource-not-found")
