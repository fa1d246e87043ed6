"""Every subcommand of ``openstack appcontainer`` and ``openstack capsule``, each driven once against a real Docker.

The list is the client's own, read from its entry points, so that none can be forgotten; ``docs/compatibility.md`` has
it with what there is to say of each.
"""

import json
import re
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest

from tests.e2e.served import PROGRAM, Gateway
from tests.e2e.shell import Shell
from tests.e2e.subcommands import COMMANDS, DOCUMENT, DRIVES, NOTES, Place, drives
from tests.e2e.terminal import terminal
from tests.stack.images import BUSYBOX
from tests.stack.registry import Registry


@pytest.fixture(scope="module")
def place(gateway: Gateway, registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """One place for all subcommands."""
    folder = tmp_path_factory.mktemp("shells")
    users = ("alpha-member", "alpha-admin")
    shells = [Shell(gateway.keystone.environment(user, region=gateway.region), folder) for user in users]
    yield Place(gateway, shells[0], shells[1], folder, registry)
    for shell in shells:
        shell.close()


@pytest.mark.parametrize("command", COMMANDS)
def test_subcommand(command: str, place: Place) -> None:
    assert command in DRIVES, "a subcommand that nothing drives"
    DRIVES[command](place)


def test_the_document_lists_them() -> None:
    table = "\n".join(f"| {command} | {NOTES.get(command, '')} |".replace("|  |", "| |") for command in COMMANDS)
    assert table in DOCUMENT.read_text(), f"docs/compatibility.md should hold:\n{table}"


# The life of a container


@drives("appcontainer create")
def _(place: Place) -> None:
    name = place.run("--memory", "64", status="Created")
    assert place.data("appcontainer", "show", name)["memory"] == "64"


@drives("appcontainer run")
def _(place: Place) -> None:
    name = place.run(status="Stopped", command=("echo", "ran"))
    assert place.ask("appcontainer", "logs", name) == "ran\n\n"


@drives("appcontainer list")
def _(place: Place) -> None:
    name = place.run(status="Created")
    assert [box["name"] for box in place.data("appcontainer", "list", "--name", name)] == [name]


@drives("appcontainer show")
def _(place: Place) -> None:
    name = place.run(status="Created")
    shown = place.data("appcontainer", "show", name)
    assert (shown["name"], shown["status"], shown["image"]) == (name, "Created", BUSYBOX)


@drives("appcontainer set")
def _(place: Place) -> None:
    name = place.run()
    changed = place.data("appcontainer", "set", "--memory", "96", "--cpu", "0.5", "--name", f"{name}-changed", name)
    assert (changed["memory"], changed["cpu"], changed["name"]) == ("96", 0.5, f"{name}-changed")


@drives("appcontainer delete")
def _(place: Place) -> None:
    name = place.run(status="Created")
    assert "has been accepted" in place.ask("appcontainer", "delete", name)
    place.gateway.become(name, "Gone")


def _verb(place: Place, verb: str, before: str, after: str, *options: str) -> None:
    name = place.run(status=before if before != "Paused" else "Running")
    if before == "Paused":
        place.ask("appcontainer", "pause", name)
        place.gateway.become(name, "Paused")
    assert "has been accepted" in place.ask("appcontainer", verb, *options, name)
    place.gateway.become(name, after)
    if after == "Paused":
        place.ask("appcontainer", "unpause", name)


@drives("appcontainer start")
def _(place: Place) -> None:
    _verb(place, "start", "Created", "Running")


@drives("appcontainer stop")
def _(place: Place) -> None:
    _verb(place, "stop", "Running", "Stopped", "--timeout", "5")


@drives("appcontainer restart")
def _(place: Place) -> None:
    _verb(place, "restart", "Running", "Running", "--timeout", "5")


@drives("appcontainer pause")
def _(place: Place) -> None:
    _verb(place, "pause", "Running", "Paused")


@drives("appcontainer unpause")
def _(place: Place) -> None:
    _verb(place, "unpause", "Paused", "Running")


@drives("appcontainer kill")
def _(place: Place) -> None:
    _verb(place, "kill", "Running", "Stopped", "--signal", "SIGKILL")


@drives("appcontainer rebuild")
def _(place: Place) -> None:
    name = place.run()
    place.ask("appcontainer", "exec", name, "touch", "/lost")
    assert "has been accepted" in place.ask("appcontainer", "rebuild", "--image", BUSYBOX, name)
    place.gateway.until(lambda: "lost" not in place.said("appcontainer", "exec", name, "ls", "/").out)
    place.gateway.become(name, "Running")


@drives("appcontainer commit")
def _(place: Place) -> None:
    name = place.run()
    place.ask("appcontainer", "exec", name, "touch", "/kept")
    image = place.ask("appcontainer", "commit", name, f"{name}:v1").split()[-1].rstrip(".")
    copy = f"{name}-copy"
    place.gateway.until(
        lambda: (
            place.gateway.call("GET", f"/v1/images/{image}", place.gateway.keystone.token("alpha-admin")).json()[
                "status"
            ]
            == "Created"
        )
    )
    place.ask("appcontainer", "run", "--name", copy, f"{name}:v1", "ls", "/kept")
    place.gateway.become(copy, "Stopped")
    assert place.ask("appcontainer", "logs", copy) == "/kept\n\n"


# Inside


@drives("appcontainer logs")
def _(place: Place) -> None:
    name = place.run()
    place.gateway.until(lambda: "hello" in place.ask("appcontainer", "logs", name))


@drives("appcontainer exec")
def _(place: Place) -> None:
    name = place.run()
    assert place.ask("appcontainer", "exec", name, "echo", "inside") == "inside\n\n"


@drives("appcontainer attach")
def _(place: Place) -> None:
    # Not by run: with --interactive that attaches as well.
    name = place.run("--interactive", status="Created", command=("sh",))
    place.ask("appcontainer", "start", name)
    place.gateway.become(name, "Running")
    environment = place.gateway.keystone.environment("alpha-member", region=place.gateway.region)
    with terminal([str(PROGRAM), "appcontainer", "attach", name], environment) as shown:
        shown.press_until("\r", "/ # ")
        shown.type("echo $((20 + 22))\r")
        shown.until("42\r\n")
        shown.type("exit\r")
        assert shown.ended() == 0
    place.gateway.become(name, "Stopped")


@drives("appcontainer cp")
def _(place: Place) -> None:
    name = place.run()
    (place.folder / "sent.txt").write_text("there and back")
    place.ask("appcontainer", "cp", str(place.folder / "sent.txt"), f"{name}:/tmp")
    assert place.ask("appcontainer", "exec", name, "cat", "/tmp/sent.txt") == "there and back\n"
    (place.folder / "back").mkdir()
    place.ask("appcontainer", "cp", f"{name}:/tmp/sent.txt", str(place.folder / "back"))
    assert (place.folder / "back" / "sent.txt").read_text() == "there and back"


@drives("appcontainer stats")
def _(place: Place) -> None:
    name = place.run()
    assert place.data("appcontainer", "stats", name)["CONTAINER"] == name


@drives("appcontainer top")
def _(place: Place) -> None:
    name = place.run()
    said = place.said("appcontainer", "top", name)
    # The client's own mistake: it takes the result of a print for a string.
    assert said.code == 1
    assert "unsupported operand type(s) for %: 'NoneType' and 'str'" in said.err


# Its records


@drives("appcontainer action list")
def _(place: Place) -> None:
    name = place.run(status="Created")
    assert [action["action"] for action in place.data("appcontainer", "action", "list", name)] == ["create"]


@drives("appcontainer action show")
def _(place: Place) -> None:
    name = place.run(status="Created")
    (action,) = place.data("appcontainer", "action", "list", name)
    shown = place.data("appcontainer", "action", "show", name, action["request_id"])
    assert (shown["action"], [event["result"] for event in shown["events"]]) == ("create", ["Success"])


# Networks


@drives("appcontainer network list")
def _(place: Place) -> None:
    name = place.run()
    said = place.said("appcontainer", "network", "list", name)
    # The client's own mistake again; what it was told is in order.
    assert (said.code, said.err) == (1, "Invalid formatter provided.\n")
    (net,) = place.nets(name)
    assert net.fixed_ips


@drives("appcontainer network detach")
def _(place: Place) -> None:
    name = place.run()
    (net,) = place.nets(name)
    assert "has been accepted" in place.ask("appcontainer", "network", "detach", "--network", net.net_id, name)
    place.gateway.until(lambda: place.nets(name) == [])


@drives("appcontainer network attach")
def _(place: Place) -> None:
    name = place.run()
    (net,) = place.nets(name)
    place.ask("appcontainer", "network", "detach", "--network", net.net_id, name)
    place.gateway.until(lambda: place.nets(name) == [])
    assert "has been accepted" in place.ask("appcontainer", "network", "attach", "--network", net.net_id, name)
    place.gateway.until(lambda: len(place.nets(name)) == 1)


@drives("appcontainer add security group")
def _(place: Place) -> None:
    name = place.run()
    said = place.said("--os-container-api-version", "1.14", "appcontainer", "add", "security", "group", name, "default")
    assert re.search("(already|HTTP 40[0-9]|HTTP 501)", said.out + said.err), said


@drives("appcontainer remove security group")
def _(place: Place) -> None:
    name = place.run()
    words = ("appcontainer", "remove", "security", "group", name, "default")
    said = place.said("--os-container-api-version", "1.14", *words)
    assert re.search("(has been accepted|HTTP 40[0-9]|HTTP 501)", said.out + said.err), said


@drives("appcontainer add floating ip")
def _(place: Place) -> None:
    said = place.said("appcontainer", "add", "floating", "ip", place.run(), "192.0.2.7")
    assert said.code == 1
    assert "network" in said.err


@drives("appcontainer remove floating ip")
def _(place: Place) -> None:
    said = place.said("appcontainer", "remove", "floating", "ip", "192.0.2.7")
    assert said.code == 1
    assert "network" in said.err


# Images and registries


def _pulled(place: Place) -> dict[str, Any]:
    name = place.registry.push(place.gateway.engine_url, f"subcommands/{uuid4().hex[:8]}:1")
    made: dict[str, Any] = place.data("appcontainer", "image", "pull", name, place.host(), admin=True)
    place.gateway.until(lambda: _image(place, made["uuid"])["image_id"] is not None)
    return made


def _image(place: Place, uuid: str) -> dict[str, Any]:
    shown: dict[str, Any] = place.data("appcontainer", "image", "show", uuid, admin=True)
    return shown


@drives("appcontainer image pull")
def _(place: Place) -> None:
    made = _pulled(place)
    assert made["tag"] == "1"
    place.ask("appcontainer", "image", "delete", made["uuid"], admin=True)


@drives("appcontainer image list")
def _(place: Place) -> None:
    made = _pulled(place)
    assert made["uuid"] in [image["uuid"] for image in place.data("appcontainer", "image", "list", admin=True)]
    place.ask("appcontainer", "image", "delete", made["uuid"], admin=True)


@drives("appcontainer image show")
def _(place: Place) -> None:
    made = _pulled(place)
    assert int(_image(place, made["uuid"])["size"]) > 1_000_000
    place.ask("appcontainer", "image", "delete", made["uuid"], admin=True)


@drives("appcontainer image delete")
def _(place: Place) -> None:
    made = _pulled(place)
    place.ask("appcontainer", "image", "delete", made["uuid"], admin=True)
    place.gateway.until(lambda: place.said("appcontainer", "image", "show", made["uuid"], admin=True).code != 0)


@drives("appcontainer image search")
def _(place: Place) -> None:
    said = place.said("appcontainer", "image", "search", place.registry.host)
    assert re.search(r"HTTP (4\d\d|50[1-4])", said.err), said


def _registry(place: Place) -> str:
    name = f"registry-{uuid4().hex[:8]}"
    made = place.data("appcontainer", "registry", "create", "--name", name, "--domain", "registry.example")
    assert made["domain"] == "registry.example"
    return name


@drives("appcontainer registry create")
def _(place: Place) -> None:
    place.ask("appcontainer", "registry", "delete", _registry(place))


@drives("appcontainer registry list")
def _(place: Place) -> None:
    name = _registry(place)
    assert name in [entry["name"] for entry in place.data("appcontainer", "registry", "list")]
    place.ask("appcontainer", "registry", "delete", name)


@drives("appcontainer registry show")
def _(place: Place) -> None:
    name = _registry(place)
    assert place.data("appcontainer", "registry", "show", name)["domain"] == "registry.example"
    place.ask("appcontainer", "registry", "delete", name)


@drives("appcontainer registry update")
def _(place: Place) -> None:
    name = _registry(place)
    place.ask("appcontainer", "registry", "update", "--domain", "other.example", name)
    assert place.data("appcontainer", "registry", "show", name)["domain"] == "other.example"
    place.ask("appcontainer", "registry", "delete", name)


@drives("appcontainer registry delete")
def _(place: Place) -> None:
    name = _registry(place)
    place.ask("appcontainer", "registry", "delete", name)
    assert "HTTP 404" in place.said("appcontainer", "registry", "show", name).err


# Hosts and services


@drives("appcontainer host list")
def _(place: Place) -> None:
    (host,) = place.data("appcontainer", "host", "list", admin=True)
    assert host["hostname"] == place.host()


@drives("appcontainer host show")
def _(place: Place) -> None:
    shown = place.data("appcontainer", "host", "show", place.host(), admin=True)
    assert shown["hostname"] == place.host()


@drives("appcontainer service list")
def _(place: Place) -> None:
    (service,) = place.data("appcontainer", "service", "list", admin=True)
    assert _lower(service)["state"] == "up"


def _service(place: Place) -> dict[str, Any]:
    (service,) = place.data("appcontainer", "service", "list", admin=True)
    return _lower(service)


def _lower(row: dict[str, Any]) -> dict[str, Any]:
    return {name.lower(): value for name, value in row.items()}


@drives("appcontainer service disable")
def _(place: Place) -> None:
    host = _service(place)["host"]
    place.ask("appcontainer", "service", "disable", "--reason", "a test", host, "zun-compute", admin=True)
    assert _service(place)["disabled"] in (True, "True")
    place.ask("appcontainer", "service", "enable", host, "zun-compute", admin=True)


@drives("appcontainer service enable")
def _(place: Place) -> None:
    place.ask("appcontainer", "service", "enable", _service(place)["host"], "zun-compute", admin=True)
    assert _service(place)["disabled"] in (False, "False")


@drives("appcontainer service forcedown")
def _(place: Place) -> None:
    host = _service(place)["host"]
    place.ask("appcontainer", "service", "forcedown", host, "zun-compute", admin=True)
    assert _service(place)["state"] == "down"
    place.ask("appcontainer", "service", "forcedown", "--unset", host, "zun-compute", admin=True)
    assert _service(place)["state"] == "up"


@drives("appcontainer service delete")
def _(place: Place) -> None:
    before = _service(place)
    place.ask("appcontainer", "service", "delete", before["host"], "zun-compute", admin=True)
    # A host that lives reports again.
    place.gateway.until(lambda: len(place.data("appcontainer", "service", "list", admin=True)) == 1)


@drives("appcontainer availability zone list")
def _(place: Place) -> None:
    (zone,) = place.data("appcontainer", "availability", "zone", "list")
    assert list(zone.values()) == ["nova"]


# Quotas


@drives("appcontainer quota get")
def _(place: Place) -> None:
    assert place.data("appcontainer", "quota", "get", place.project(), admin=True)["containers"]


@drives("appcontainer quota default")
def _(place: Place) -> None:
    assert place.data("appcontainer", "quota", "default", place.project(), admin=True)["containers"]


@drives("appcontainer quota update")
def _(place: Place) -> None:
    place.ask("appcontainer", "quota", "update", "--containers", "77", place.project(), admin=True)
    assert str(place.data("appcontainer", "quota", "get", place.project(), admin=True)["containers"]) == "77"
    place.ask("appcontainer", "quota", "delete", place.project(), admin=True)


@drives("appcontainer quota delete")
def _(place: Place) -> None:
    place.ask("appcontainer", "quota", "update", "--containers", "78", place.project(), admin=True)
    place.ask("appcontainer", "quota", "delete", place.project(), admin=True)
    assert str(place.data("appcontainer", "quota", "get", place.project(), admin=True)["containers"]) != "78"


@drives("appcontainer quota class get")
def _(place: Place) -> None:
    assert place.data("appcontainer", "quota", "class", "get", "default", admin=True)["containers"]


@drives("appcontainer quota class update")
def _(place: Place) -> None:
    was = str(place.data("appcontainer", "quota", "class", "get", "default", admin=True)["containers"])
    for value in ("79", was):
        place.ask("appcontainer", "quota", "class", "update", "--containers", value, "default", admin=True)
        shown = place.data("appcontainer", "quota", "class", "get", "default", admin=True)
        assert str(shown["containers"]) == value


# Capsules


def _capsule(place: Place) -> str:
    name = f"capsule-{uuid4().hex[:8]}"
    template = {
        "capsuleVersion": "beta",
        "kind": "capsule",
        "metadata": {"name": name},
        "spec": {"containers": [{"image": BUSYBOX, "command": ["sleep", "600"]}]},
    }
    path = place.folder / f"{name}.yaml"
    path.write_text(json.dumps(template))
    place.ask("capsule", "create", "--file", str(path))
    place.gateway.until(lambda: place.data("capsule", "show", name)["status"] == "Running")
    return name


def _remove_capsule(place: Place, name: str) -> None:
    place.ask("capsule", "delete", name)
    place.gateway.until(lambda: place.said("capsule", "show", name).code != 0)


@drives("capsule create")
def _(place: Place) -> None:
    _remove_capsule(place, _capsule(place))


@drives("capsule list")
def _(place: Place) -> None:
    name = _capsule(place)
    assert name in [capsule["name"] for capsule in place.data("capsule", "list")]
    _remove_capsule(place, name)


@drives("capsule show")
def _(place: Place) -> None:
    name = _capsule(place)
    assert place.data("capsule", "show", name)["name"] == name
    _remove_capsule(place, name)


@drives("capsule delete")
def _(place: Place) -> None:
    _remove_capsule(place, _capsule(place))
