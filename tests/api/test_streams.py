"""Attaching, commands with a terminal, and the websockets that carry them (zun-api, sections 3.6, 3.9 and 6)."""

import asyncio
import json
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlmodel import select, update

from app.db import EVERYTHING
from app.errors import Gone, Taken, Unavailable
from app.models import Container, Ticket
from app.settings import Settings
from tests.api.caisson import Caisson, error_of, eventually
from tests.api.websocket import Refused, Socket, websocket

pytestmark = pytest.mark.asyncio(loop_scope="session")

ABSENT = "0" * 64


async def terminal(caisson: Caisson, *command: str) -> dict[str, Any]:
    """A running container that one can talk to."""
    return await caisson.made(run=True, command=list(command or ("cat",)), interactive=True, tty=True)


async def prepared(caisson: Caisson, uuid: str, command: str = "sh", interactive: bool = True) -> dict[str, Any]:
    path = f"/v1/containers/{uuid}/execute?run=False&interactive={interactive}&command={command}"
    answer: dict[str, Any] = await caisson.ok("POST", path)
    return answer


async def attached(caisson: Caisson, uuid: str, **more: Any) -> str:
    url: str = await caisson.ok("GET", f"/v1/containers/{uuid}/attach", **more)
    return url


async def refused(caisson: Caisson, url: str, status: int, code: str = "ticket-refused", **more: Any) -> None:
    with pytest.raises(Refused) as told:
        async with websocket(caisson.running.app, url, **more):
            pass
    assert told.value.status == status
    assert json.loads(told.value.body)["errors"][0]["code"] == f"container.{code}"


async def tickets(caisson: Caisson, uuid: str) -> list[Ticket]:
    async with caisson.running.gateway.database.reading(EVERYTHING) as session:
        return list((await session.exec(select(Ticket).where(Ticket.container_id == uuid))).all())


async def test_attaching(caisson: Caisson) -> None:
    box = await terminal(caisson)
    url = await attached(caisson, box["name"])
    parts = urlsplit(url)
    assert (parts.scheme, parts.hostname, parts.port, parts.path) == ("ws", "test", 80, "/container/websocket")
    assert list(parse_qs(parts.query)) == ["token", "uuid"]
    async with websocket(caisson.running.app, url) as socket:
        assert socket.subprotocol == "binary"
        await socket.send(b"hello\r")
        assert (await socket.heard(b"hello\r\nhello\r\n")).count(b"hello") == 2
        await socket.send("text\r")
        await socket.heard(b"text\r\ntext\r\n")
        await socket.send(b"\x04")
        assert await socket.closed() == 1000
    await caisson.until(box["uuid"], "Stopped")


async def test_what_is_stored_of_a_ticket(caisson: Caisson) -> None:
    box = await terminal(caisson)
    secret = parse_qs(urlsplit(await attached(caisson, box["uuid"])).query)["token"][0]
    (ticket,) = await tickets(caisson, box["uuid"])
    assert secret not in ticket.model_dump_json()
    assert (ticket.project_id, ticket.exec_id) == (box["project_id"], None)


async def test_a_ticket_works_once(caisson: Caisson) -> None:
    url = await attached(caisson, (await terminal(caisson))["uuid"])
    async with websocket(caisson.running.app, url):
        await refused(caisson, url, 403)
    await refused(caisson, url, 403)


async def test_a_ticket_works_once_for_many_at_once(caisson: Caisson) -> None:
    url = await attached(caisson, (await terminal(caisson))["uuid"])
    opened: list[bool] = []

    async def try_it() -> None:
        try:
            async with websocket(caisson.running.app, url):
                opened.append(True)
        except Refused:
            opened.append(False)

    await asyncio.gather(*(try_it() for _ in range(8)))
    assert sorted(opened) == [False] * 7 + [True]


async def test_a_new_attach_makes_the_older_one_worthless(caisson: Caisson) -> None:
    box = await terminal(caisson)
    command = await prepared(caisson, box["uuid"])
    first, second = await attached(caisson, box["uuid"]), await attached(caisson, box["uuid"])
    await refused(caisson, first, 403)
    for url in (second, command["proxy_url"]):
        async with websocket(caisson.running.app, url):
            pass


async def test_a_ticket_expires(caisson: Caisson) -> None:
    box = await terminal(caisson)
    url, command = await attached(caisson, box["uuid"]), await prepared(caisson, box["uuid"])
    async with caisson.running.gateway.database.transaction(EVERYTHING) as session:
        past = update(Ticket).where(Ticket.container_id == box["uuid"]).values(expires_at=1.0)
        await session.exec(past)
    for late in (url, command["proxy_url"]):
        await refused(caisson, late, 403)
    # The next one sweeps what is worthless.
    await prepared(caisson, box["uuid"])
    await prepared(caisson, box["uuid"])
    assert len(await tickets(caisson, box["uuid"])) == 2


async def test_a_ticket_is_for_one_container_and_one_command(caisson: Caisson) -> None:
    mine, other = await terminal(caisson), await terminal(caisson)
    for change in (
        lambda url: url.replace(mine["uuid"], other["uuid"]),
        lambda url: f"{url}&exec_id={ABSENT}",
        lambda url: f"{url}&uuid={mine['uuid']}",
        lambda url: url.replace("token=", "token=x"),
        lambda url: url.partition("?")[0],
        lambda url: f"{url}{'x' * 300}",
    ):
        await refused(caisson, change(await attached(caisson, mine["uuid"])), 403)
    command = await prepared(caisson, mine["uuid"])
    await refused(caisson, command["proxy_url"].replace(command["exec_id"], ABSENT), 403)
    command = await prepared(caisson, mine["uuid"])
    await refused(caisson, command["proxy_url"].partition("&exec_id")[0], 403)


QUERIES = st.text(max_size=40) | st.lists(
    st.sampled_from(
        ["token=", "uuid=", "exec_id=", "&", "%00", "%ff", "%ed%a0%80", "+", "a" * 300, str(UUID(int=7)), "é"]
    )
).map("".join)
PATHS = st.sampled_from(["/container/websocket", "/websocket", "/container//websocket/"]) | st.text(max_size=9)


@settings(deadline=None, max_examples=40)
@given(PATHS, QUERIES, st.lists(st.text(max_size=5) | st.just("binary"), max_size=2))
async def test_whatever_brings_no_ticket_is_refused(
    standing: Caisson, path: str, query: str, offered: list[str]
) -> None:
    with pytest.raises(Refused) as told:
        async with websocket(standing.running.app, f"ws://test:80/{quote(path)}?{query}", offered=offered):
            pass
    assert told.value.status in (400, 403, 404)
    assert json.loads(told.value.body)["errors"][0]["status"] == told.value.status


async def test_websockets_have_one_path(caisson: Caisson) -> None:
    url = await attached(caisson, (await terminal(caisson))["uuid"])
    query = url.partition("?")[2]
    for path in ("/", "/v1/containers", "/docs", "/identity/v3", "/healthcheck", "/container/websocket/more"):
        await refused(caisson, f"ws://test:80{path}?{query}", 404, "resource-not-found")
    token = {"X-Auth-Token": await caisson.token("member")}
    await refused(caisson, "ws://test:80/v1/containers", 404, "resource-not-found", headers=token)
    # A proxy may take the prefix off.
    async with websocket(caisson.running.app, f"ws://test:80/websocket?{query}"):
        pass


async def test_a_server_without_answers_to_handshakes(caisson: Caisson) -> None:
    with pytest.raises(Refused) as told:
        async with websocket(caisson.running.app, "ws://test/container/websocket?token=x", extensions=()):
            pass
    assert told.value.body == b""


@pytest.mark.parametrize(
    ("origin", "good"),
    [
        (None, True),
        ("http://test:80", True),
        ("http://TEST:1234", True),
        ("http://elsewhere", False),
        ("http://test.elsewhere", False),
        ("https://test", False),
        ("null", False),
        ("http://[", False),
        ("", False),
    ],
)
async def test_the_origin(caisson: Caisson, origin: str | None, good: bool) -> None:
    url = await attached(caisson, (await terminal(caisson))["uuid"])
    headers = {} if origin is None else {"origin": origin}
    if not good:
        await refused(caisson, url, 403, "origin-refused", headers=headers)
    # A page that is refused does not use the ticket up.
    async with websocket(caisson.running.app, url, headers=headers if good else {}):
        pass


async def test_the_subprotocol(caisson: Caisson) -> None:
    box = await terminal(caisson)
    await refused(caisson, await attached(caisson, box["uuid"]), 400, "invalid-value", offered=["base64"])
    async with websocket(caisson.running.app, await attached(caisson, box["uuid"]), offered=[]) as socket:
        assert socket.subprotocol is None


async def test_who_may_attach(caisson: Caisson) -> None:
    box = await terminal(caisson)
    path = f"/v1/containers/{box['uuid']}"
    for call, rule in (
        ("attach", "GET"),
        ("resize?h=1&w=1", "POST"),
        (f"execute_resize?exec_id={ABSENT}&h=1&w=1", "POST"),
    ):
        error_of(await caisson.call(rule, f"{path}/{call}", who="reader"), 403, "policy-not-authorized")
        error_of(await caisson.call(rule, f"{path}/{call}", who="foreign"), 404, "container-not-found")
    async with websocket(caisson.running.app, await attached(caisson, box["uuid"], who="admin")) as socket:
        await socket.send(b"by admin\r")
        await socket.heard(b"by admin")


async def test_what_cannot_be_attached_to(caisson: Caisson) -> None:
    deaf = await caisson.made(run=True)
    error_of(await caisson.call("GET", f"/v1/containers/{deaf['uuid']}/attach"), 400, "no-interactive-flag")
    still = await caisson.made(interactive=True)
    for call in ("GET attach", "POST resize?h=24&w=80"):
        method, path = call.split()
        error_of(await caisson.call(method, f"/v1/containers/{still['uuid']}/{path}"), 409, "invalid-state-exception")


async def test_a_terminal_has_a_size(caisson: Caisson) -> None:
    box = await terminal(caisson, "sh")
    path = f"/v1/containers/{box['uuid']}/resize"
    async with websocket(caisson.running.app, await attached(caisson, box["uuid"])) as socket:
        assert await caisson.ok("POST", f"{path}?w=120&h=40") is None
        await socket.send(b"stty size\r")
        await socket.heard(b"40 120\r\n")
        assert await caisson.ok("POST", path, {"w": 121, "h": "41"}) is None
        await socket.send(b"stty size\r")
        await socket.heard(b"41 121\r\n")


@pytest.mark.parametrize("size", ["", "w=1", "h=1", "w=0&h=1", "w=1&h=x", "w=-1&h=1", "w=1&h=65536", "w=1&h=1&d=1"])
async def test_sizes_that_are_none(standing: Caisson, size: str) -> None:
    for path in (f"resize?{size}", f"execute_resize?exec_id={ABSENT}&{size}"):
        error_of(await standing.call("POST", f"/v1/containers/x/{path}"), 400, "schema-validation-error")


@pytest.mark.parametrize("exec_id", ["", "x" * 64, "0" * 63, "0" * 65, "A" * 64, "../" * 20])
async def test_exec_ids_that_are_none(standing: Caisson, exec_id: str) -> None:
    path = f"/v1/containers/x/execute_resize?w=1&h=1&exec_id={exec_id}"
    error_of(await standing.call("POST", path), 400, "schema-validation-error")


async def test_a_command_with_a_terminal(caisson: Caisson) -> None:
    box = await caisson.made(run=True)
    command = await prepared(caisson, box["uuid"])
    assert (command["output"], command["exit_code"]) == (None, None)
    query = parse_qs(urlsplit(command["proxy_url"]).query)
    assert (query["uuid"], query["exec_id"]) == ([box["uuid"]], [command["exec_id"]])
    path = f"/v1/containers/{box['uuid']}/execute_resize?exec_id={command['exec_id']}&w=120&h=40"
    error_of(await caisson.call("POST", path), 400, "invalid-value")
    async with websocket(caisson.running.app, command["proxy_url"]) as socket:
        assert await caisson.ok("POST", path) is None
        await socket.send(b"stty size\r")
        await socket.heard(b"40 120\r\n")
        await socket.send(b"exit\r")
        assert await socket.closed() == 1000
    error_of(await caisson.call("POST", path), 400, "invalid-value")
    assert not caisson.engine.execs[command["exec_id"]][1].hung_up


async def test_a_command_that_only_talks(caisson: Caisson) -> None:
    box = await caisson.made(run=True)
    command = await prepared(caisson, box["uuid"], "echo+hello", interactive=False)
    async with websocket(caisson.running.app, command["proxy_url"]) as socket:
        assert await socket.message() == b"hello\n"
        assert await socket.closed() == 1000


async def test_a_command_whose_client_leaves_is_hung_up(caisson: Caisson) -> None:
    box = await caisson.made(run=True)
    command = await prepared(caisson, box["uuid"])
    async with websocket(caisson.running.app, command["proxy_url"]) as socket:
        await socket.send(b"echo hi\r")
        await socket.heard(b"hi")
    assert caisson.engine.execs[command["exec_id"]][1].hung_up


async def test_exec_resize_of_what_is_not_there(caisson: Caisson) -> None:
    running, other, still = await caisson.made(run=True), await caisson.made(run=True), await caisson.made()
    row = await caisson.put(status="Creating")
    command = await prepared(caisson, other["uuid"])
    for uuid in (running["uuid"], still["uuid"], row.uuid):
        for exec_id in (ABSENT, command["exec_id"]):
            path = f"/v1/containers/{uuid}/execute_resize?exec_id={exec_id}&w=120&h=40"
            error_of(await caisson.call("POST", path), 400, "invalid-value")


async def test_a_container_that_ends_while_somebody_is_attached(caisson: Caisson) -> None:
    box = await terminal(caisson)
    command = await prepared(caisson, box["uuid"])
    async with (
        websocket(caisson.running.app, await attached(caisson, box["uuid"])) as one,
        websocket(caisson.running.app, command["proxy_url"]) as two,
    ):
        caisson.engine.exit(UUID(box["uuid"]), 3)
        assert await one.closed() == 1000
        assert await two.closed() == 1000


async def test_a_container_that_is_gone_before_the_websocket(caisson: Caisson) -> None:
    box = await terminal(caisson)
    url, command = await attached(caisson, box["uuid"]), await prepared(caisson, box["uuid"])
    caisson.engine.exit(UUID(box["uuid"]))
    await refused(caisson, url, 409, "conflict")
    await refused(caisson, command["proxy_url"], 409, "conflict")
    await caisson.until(box["uuid"], "Stopped")
    await caisson.ok("DELETE", f"/v1/containers/{box['uuid']}")
    await caisson.until_gone(box["uuid"])
    await refused(caisson, url, 403)


async def test_an_engine_that_fails(caisson: Caisson) -> None:
    box = await terminal(caisson)
    path = f"/v1/containers/{box['uuid']}"
    caisson.engine.fail_next("attach", Unavailable("the engine is away"))
    await refused(caisson, await attached(caisson, box["uuid"]), 503, "engine-unavailable")
    caisson.engine.fail_next("resize", Taken("no terminal"))
    error_of(await caisson.call("POST", f"{path}/resize?h=1&w=1"), 400, "invalid-value")
    caisson.engine.fail_next("resize_exec", Unavailable("the engine is away"))
    error_of(await caisson.call("POST", f"{path}/execute_resize?exec_id={ABSENT}&h=1&w=1"), 503, "engine-unavailable")
    caisson.engine.fail_next("prepare_exec", Gone("no such container"))
    error_of(await caisson.call("POST", f"{path}/execute?command=sh&run=False"), 409, "conflict")


async def test_characters_stay_in_one_piece(caisson: Caisson) -> None:
    box = await terminal(caisson)
    uuid = UUID(box["uuid"])
    async with websocket(caisson.running.app, await attached(caisson, box["uuid"])) as socket:
        text = "aé世😀".encode()
        for byte in text:
            caisson.engine.write(uuid, bytes([byte]))
            await asyncio.sleep(0.005)
        assert [await socket.message() for _ in range(4)] == [b"a", "é".encode(), "世".encode(), "😀".encode()]
        caisson.engine.write(uuid, b"\xff\x80\x80\x80\x80")
        assert await socket.message() == b"\xff\x80\x80\x80\x80"
        # What never becomes a character is said at the end.
        caisson.engine.write(uuid, b"\xe4")
        caisson.engine.exit(uuid)
        assert await socket.message() == b"\xe4"
        assert await socket.closed() == 1000


async def test_a_client_that_does_not_take_anything(caisson: Caisson) -> None:
    """Whatever the target says meanwhile waits with the engine, not here."""
    box = await terminal(caisson)
    command = await prepared(caisson, box["uuid"], "cat")
    process = caisson.engine.execs[command["exec_id"]][1]
    async with websocket(caisson.running.app, command["proxy_url"]) as socket:
        socket.taking.clear()
        for _ in range(100):
            process.say(b"x" * 64 * 1024)
            await asyncio.sleep(0)
        assert socket.waiting == 0
        assert process.unread >= 98 * 64 * 1024
        # It can still type, and leave.
        await socket.send(b"typed\r")

        async def heard() -> bool:
            return b"typed" in bytes(process.output)

        await eventually(heard, lambda: "nothing was typed")


async def test_what_a_command_asks_for(caisson: Caisson) -> None:
    box = await caisson.made(run=True)
    path = f"/v1/containers/{box['uuid']}/execute"
    error_of(await caisson.call("POST", f"{path}?command=sh&interactive=True"), 400, "invalid-value")
    error_of(await caisson.call("POST", f"{path}?command=%22&run=False"), 400, "schema-validation-error")
    error_of(await caisson.call("POST", f"{path}?command=sh&run=False", who="reader"), 403, "policy-not-authorized")


async def test_containers_of_the_old_versions_can_be_attached_to(caisson: Caisson) -> None:
    box = await terminal(caisson)
    url = await attached(caisson, box["uuid"], version=None)
    async with websocket(caisson.running.app, url) as socket:
        assert isinstance(socket, Socket)


@pytest.mark.parametrize(
    ("public", "base"),
    [
        (None, "ws://test:80/container/websocket"),
        ("https://cloud.example", "wss://cloud.example:443/container/websocket"),
        ("https://cloud.example:8443/caisson/", "wss://cloud.example:8443/caisson/container/websocket"),
        ("http://[::1]:9517", "ws://[::1]:9517/container/websocket"),
    ],
)
async def test_the_address_is_the_public_one(
    caisson: Caisson, public: str | None, base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: Settings = caisson.settings
    monkeypatch.setattr(settings, "public_url", public)
    url = await attached(caisson, (await terminal(caisson))["uuid"])
    assert url.partition("?")[0] == base
    origin = "https://cloud.example" if public and public.startswith("https") else "http://test"
    async with websocket(
        caisson.running.app, url.replace("[::1]:9517", "test").replace("/caisson/", "/"), headers={"origin": origin}
    ):
        pass


async def test_further_origins(caisson: Caisson, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caisson.settings, "allowed_origins", ["Horizon.example"])
    url = await attached(caisson, (await terminal(caisson))["uuid"])
    async with websocket(caisson.running.app, url, headers={"origin": "http://horizon.example:8080"}):
        pass


async def test_tickets_of_others_are_not_seen(caisson: Caisson) -> None:
    """The row is the project's: an administrator's ticket belongs to the container's project."""
    box = await terminal(caisson)
    await attached(caisson, box["uuid"], who="admin")
    (row,) = await caisson.running.rows(Container, Container.uuid == box["uuid"])
    (ticket,) = await tickets(caisson, box["uuid"])
    assert ticket.project_id == row.project_id == box["project_id"]
