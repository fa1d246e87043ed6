"""What the drives of the client's subcommands share: who asks, and which there are."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any
from uuid import uuid4

from tests.e2e.served import Gateway
from tests.e2e.shell import Said, Shell
from tests.stack.images import BUSYBOX
from tests.stack.registry import Registry

COMMANDS = sorted(point.name.replace("_", " ") for point in entry_points(group="openstack.container.v1"))
DOCUMENT = Path(__file__).parents[2] / "docs" / "compatibility.md"
SLEEPER = ("sh", "-c", "trap 'exit 0' TERM; echo hello; while :; do sleep 0.1; done")

NOTES = {
    "appcontainer add floating ip": "Neutron's own; without Neutron the client finds no network service",
    "appcontainer remove floating ip": "Neutron's own; without Neutron the client finds no network service",
    "appcontainer add security group": "the client sends it in a form that versions before 1.15 take",
    "appcontainer remove security group": "the client sends it in a form that versions before 1.15 take",
    "appcontainer top": "answered; the client fails to print it on Python 3, whatever it is told",
    "appcontainer network list": "answered; the client fails to print a network with a current osc-lib",
    "appcontainer image search": "an engine's search asks Docker Hub, or a registry of the old kind",
}
"""What there is to say of a subcommand."""


@dataclass
class Place:
    """A gateway, and two users' shells: a member and an administrator."""

    gateway: Gateway
    member: Shell
    admin: Shell
    folder: Path
    registry: Registry

    def ask(self, *words: str, admin: bool = False) -> str:
        """What a command prints; it has to succeed."""
        said = self.said(*words, admin=admin)
        assert said.code == 0, f"{words}: {said}"
        return said.out

    def data(self, *words: str, admin: bool = False) -> Any:
        """As `ask`, as data."""
        return json.loads(self.ask(*words, "-f", "json", admin=admin))

    def said(self, *words: str, admin: bool = False) -> Said:
        return (self.admin if admin else self.member).run(*words)

    def run(self, *options: str, status: str = "Running", command: tuple[str, ...] = SLEEPER) -> str:
        """A container of the member's in this status; returns its name."""
        name = f"box-{uuid4().hex[:8]}"
        verb = "create" if status == "Created" else "run"
        self.ask("appcontainer", verb, "--name", name, *options, BUSYBOX, *command)
        self.gateway.become(name, status)
        return name

    def host(self) -> str:
        """The name of the host."""
        return str(self.data("appcontainer", "show", self.run(status="Created"), admin=True)["host"])

    def nets(self, name: str) -> list[Any]:
        """The networks of a container."""
        return list(self.gateway.zun().containers.network_list(name))

    def project(self) -> str:
        """The member's project."""
        return str(self.gateway.keystone.describe(self.gateway.keystone.token("alpha-member"))["project"]["id"])


DRIVES: dict[str, Callable[[Place], None]] = {}


def drives(command: str) -> Callable[[Callable[[Place], None]], Callable[[Place], None]]:
    """Registers what drives a subcommand."""

    def register(drive: Callable[[Place], None]) -> Callable[[Place], None]:
        assert command in COMMANDS
        DRIVES[command] = drive
        return drive

    return register
