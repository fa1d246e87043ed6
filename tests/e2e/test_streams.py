"""Terminals over websockets: the real command on a real terminal, and a bare client for what that one never does."""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import websocket
from websocket import ABNF, WebSocket, WebSocketBadStatusException

from tests.e2e.served import PROGRAM, Gateway, serve
from tests.e2e.terminal import Terminal, terminal
from tests.stack import docker
from tests.stack.images import BUSYBOX
from tests.stack.keystone import Keystone
from tests.stack.session import Stack, wait_until

SLEEPER = ("sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.1; done")
PROMPT = "/ # "
ENOUGH = 64 * 1024 * 1024


@contextmanager
def appcontainer(gateway: Gateway, *words: str) -> Iterator[Terminal]:
    """``openstack appcontainer WORDS…`` on a terminal of 30 lines and 100 columns."""
    environment = gateway.keystone.environment("alpha-member", region=gateway.region)
    with terminal([str(PROGRAM), "appcontainer", *words], environment) as shown:
        yield shown


def interactive(gateway: Gateway, name: str, *command: str) -> str:
    """A running container with a terminal; its uuid."""
    body = {"name": name, "image": BUSYBOX, "command": list(command), "interactive": True, "tty": True}
    token = gateway.keystone.token("alpha-member")
    made = gateway.call("POST", "/v1/containers?run=true", token, json=body).raise_for_status().json()
    gateway.become(name, "Running")
    return str(made["uuid"])


def attach(gateway: Gateway, ident: str) -> str:
    return str(gateway.call("GET", f"/v1/containers/{ident}/attach", gateway.keystone.token("alpha-member")).json())


def prepare(gateway: Gateway, ident: str, command: str) -> Any:
    query = {"command": command, "interactive": "True", "run": "False"}
    token = gateway.keystone.token("alpha-member")
    return gateway.call("POST", f"/v1/containers/{ident}/execute", token, params=query).raise_for_status().json()


@contextmanager
def opened(url: str, **options: Any) -> Iterator[WebSocket]:
    """A websocket as python-zunclient opens it."""
    parts = urlsplit(url)
    options = {"origin": f"http://{parts.hostname}:{parts.port}"} | options
    socket = websocket.create_connection(url, timeout=60, subprotocols=["binary", "base64"], **options)
    connection = socket.sock
    assert connection is not None
    try:
        yield socket
    finally:
        connection.close()


def refusal(url: str, **options: Any) -> int:
    """The status with which a handshake is refused."""
    with pytest.raises(WebSocketBadStatusException) as refused, opened(url, **options):
        pass
    return int(refused.value.status_code)


def heard(socket: WebSocket, wanted: bytes) -> bytes:
    found = b""
    while wanted not in found:
        opcode, data = socket.recv_data()
        assert opcode == ABNF.OPCODE_BINARY, f"{found!r}, then {opcode} {data!r}"
        data.decode()  # each message by itself, as the client does
        found += data
    return found


def close_code(socket: WebSocket) -> int:
    while True:
        opcode, data = socket.recv_data()
        if opcode == ABNF.OPCODE_CLOSE:
            return int.from_bytes(data[:2])


def resident(pid: int) -> int:
    """Resident memory, bytes."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) * 1024


def test_attach_on_a_terminal(gateway: Gateway) -> None:
    interactive(gateway, "shell", "sh")
    with appcontainer(gateway, "attach", "shell") as shown:
        shown.press_until("\r", PROMPT)
        shown.type("stty size\r")
        shown.until("30 100\r\n")
        shown.resize(41, 133)
        shown.type("echo Grüße; until stty size | grep -q 41; do sleep 0.1; done; stty size\r")
        shown.until("Grüße\r\n")
        shown.until("41 133\r\n")
        shown.type("exit\r")
        assert shown.ended() == 0
    gateway.become("shell", "Stopped")


def test_exec_on_a_terminal(gateway: Gateway) -> None:
    gateway.openstack("run", "--name", "worker", BUSYBOX, *SLEEPER)
    gateway.become("worker", "Running")
    with appcontainer(gateway, "exec", "--interactive", "worker", "sh") as shown:
        shown.until(PROMPT)
        shown.type("stty size\r")
        shown.until("30 100\r\n")
        shown.resize(41, 133)
        shown.type("until stty size | grep -q 41; do sleep 0.1; done; stty size; hostname\r")
        shown.until("41 133\r\n")
        shown.type("exit\r")
        assert shown.ended() == 0
    # A command that ends at once: the size that the client tells then is nobody's any more.
    with appcontainer(gateway, "exec", "--interactive", "worker", "echo", "at once") as shown:
        shown.until("at once\r\n")
        assert shown.ended() == 0


def test_a_window_that_is_closed_takes_its_command_along(gateway: Gateway) -> None:
    gateway.openstack("run", "--name", "left", BUSYBOX, *SLEEPER)
    gateway.become("left", "Running")
    path, token = "/v1/containers/left/top", gateway.keystone.token("alpha-member")
    with appcontainer(gateway, "exec", "--interactive", "left", "sh", "-c", "echo up; sleep 4321") as shown:
        shown.until("up\r\n")
        assert "sleep 4321" in gateway.call("GET", path, token).text
    wait_until(lambda: "sleep 4321" not in gateway.call("GET", path, token).text, "the command's end")


def test_run_interactive(gateway: Gateway) -> None:
    with appcontainer(gateway, "run", "--interactive", "--name", "direct", BUSYBOX, "sh") as shown:
        shown.press_until("\r", PROMPT)
        shown.type("echo $((6 * 7))\r")
        shown.until("42\r\n")
        shown.type("exit\r")
        assert shown.ended() == 0


def test_tickets(gateway: Gateway) -> None:
    one, other = interactive(gateway, "one", "sh"), interactive(gateway, "other", "sh")
    url = attach(gateway, one)
    assert re.match(r"ws://127\.0\.0\.1:\d+/container/websocket\?token=[\w-]{43}&uuid=", url)
    assert refusal(url, origin="http://elsewhere.example") == 403
    with opened(url) as socket:
        assert socket.subprotocol == "binary"
        socket.send_binary(b"echo $((6 * 7))\r")
        heard(socket, b"42\r\n")
        assert refusal(url) == 403
    first, second = attach(gateway, one), attach(gateway, one)
    assert refusal(first) == 403
    assert refusal(second.replace(one, other)) == 403
    assert refusal(second) == 403
    command = prepare(gateway, one, "sh")
    assert refusal(command["proxy_url"].replace(command["exec_id"], "0" * 64)) == 403
    for path in ("/", "/v1/containers", "/healthcheck", "/identity/v3"):
        assert refusal(f"{gateway.url.replace('http', 'ws')}{path}?{urlsplit(url).query}") == 404


def test_a_container_that_dies_while_somebody_is_attached(gateway: Gateway) -> None:
    uuid = interactive(gateway, "dying", "cat")
    command = prepare(gateway, uuid, "cat")
    with opened(attach(gateway, uuid)) as terminal_of, opened(command["proxy_url"]) as beside:
        gateway.openstack("kill", "dying")
        assert close_code(terminal_of) == 1000
        assert close_code(beside) == 1000
    assert refusal(command["proxy_url"]) == 403


def flooding(gateway: Gateway, uuid: str, read: Callable[[WebSocket], None]) -> int:
    """By how much the gateway grows while a command prints without end, in the hands of `read`; bytes."""
    with opened(prepare(gateway, uuid, "yes 'a line of some length, again and again'")["proxy_url"]) as socket:
        heard(socket, b"again\r\n")
        before = resident(gateway.service.pid)
        read(socket)
        return resident(gateway.service.pid) - before


def test_memory_is_flat_however_fast_a_client_reads(gateway: Gateway) -> None:
    gateway.openstack("run", "--name", "flood", BUSYBOX, *SLEEPER)
    uuid = gateway.become("flood", "Running")["uuid"]

    def nothing(socket: WebSocket) -> None:
        until = time.monotonic() + 2
        while time.monotonic() < until:
            assert gateway.call("GET", f"/v1/containers/{uuid}", token).status_code == 200
        # What waited is still there, and goes on.
        heard(socket, b"again\r\n")

    def everything(socket: WebSocket) -> None:
        size = 0
        while size < ENOUGH // 4:
            size += len(socket.recv_data()[1])

    token = gateway.keystone.token("alpha-member")
    assert flooding(gateway, uuid, nothing) < 16 * 1024 * 1024
    assert flooding(gateway, uuid, everything) < 16 * 1024 * 1024


def test_a_log_streams(gateway: Gateway) -> None:
    size = 20_000_000
    line = ", ".join(["zwölf Boxkämpfer jagen Viktor"] * 10)
    job = f"yes '{line}' | head -c {size}; echo; echo the end; exec sleep 1000"
    gateway.openstack("run", "--name", "speaker", BUSYBOX, "sh", "-c", job)
    uuid = gateway.become("speaker", "Running")["uuid"]
    token = gateway.keystone.token("alpha-member")
    path = f"/v1/containers/{uuid}/logs"
    wait_until(lambda: "the end" in gateway.call("GET", f"{path}?tail=1", token).text, "the end of its speech")
    before = resident(gateway.service.pid)
    answer = gateway.call("GET", path, token)
    grown = resident(gateway.service.pid) - before
    assert answer.headers["content-type"] == "application/json"
    text = answer.json()
    assert text.startswith(f"{line}\n{line}\n")
    assert text.endswith("\nthe end\n")
    assert "\ufffd" not in text[: -len(line) - len("\nthe end\n")]
    assert abs(len(text.encode()) - size - len("\nthe end\n")) < 4  # the last character may have been cut
    assert grown < size // 2


def test_shutdown_and_expiry(
    stack: Stack, keystone: Keystone, docker_url: str, busybox_image: str, tmp_path: Path
) -> None:
    """A gateway of its own, whose tickets are worthless when they come, but for one."""
    secrets = []
    with serve(stack, tmp_path, keystone, docker_url, CAISSON_TICKET_SECONDS="0.001") as gateway:
        uuid = interactive(gateway, "brief", "sh")
        url = attach(gateway, uuid)
        secrets.append(parse_qs(urlsplit(url).query)["token"][0])
        assert refusal(url) == 403
    with serve(stack, tmp_path, keystone, docker_url) as gateway:
        url, command = attach(gateway, uuid), prepare(gateway, uuid, "sh")
        secrets += [parse_qs(urlsplit(known).query)["token"][0] for known in (url, command["proxy_url"])]
        with opened(url) as one, opened(command["proxy_url"]) as two:
            for socket in (one, two):
                socket.send_binary(b"echo $((6 * 7))\r")
                heard(socket, b"42\r\n")
            stack.stop(gateway.service)
            assert close_code(one) == 1012
            assert close_code(two) == 1012
    log = (tmp_path / "gateway.log").read_text()
    assert "Traceback" not in log
    assert not [secret for secret in secrets if secret in log]
    with docker.client(docker_url) as http:
        http.delete(f"/containers/caisson-{uuid}", params={"force": "true"}).raise_for_status()
