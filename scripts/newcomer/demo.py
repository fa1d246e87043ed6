"""The main job before the user's eyes, done by OpenStack's own client: run, list, logs, delete."""

import time
from collections.abc import Callable
from typing import Any

from scripts.newcomer import image
from scripts.newcomer.client import openstack
from scripts.newcomer.cloud import Cloud
from scripts.newcomer.gateway import Gateway
from scripts.newcomer.packages import SetupError

NAME = "pingtest"
JOB = ("ping", "-c", "4", "127.0.0.1")
PATIENCE = 60.0
"""Seconds that each of the container's changes gets."""


def show(gateway: Gateway, login: Cloud) -> None:
    """Prints each command before it runs it.

    Raises:
        SetupError: a command failed, or the container did not do what it should.
    """
    name = _free_name(gateway.names())
    columns = ["--column", "uuid", "--column", "name", "--column", "status"]
    try:
        openstack(login, "appcontainer", "run", "--name", name, *columns, image.NAME, *JOB)
        _wait(gateway, name, lambda seen: seen is not None and seen["status"] != "Creating")
        openstack(login, "appcontainer", "list")
        _wait(gateway, name, lambda seen: seen is not None and seen["status"] in ("Stopped", "Error", "Deleted"))
        openstack(login, "appcontainer", "logs", name)
        openstack(login, "appcontainer", "delete", name)
        _wait(gateway, name, lambda seen: seen is None)
    except BaseException:
        gateway.delete(name)
        raise


def _free_name(taken: set[str]) -> str:
    """A container of this name may be the user's own, or left over; it is left alone."""
    number = 2
    name = NAME
    while name in taken:
        name = f"{NAME}-{number}"
        number += 1
    return name


def _wait(gateway: Gateway, name: str, reached: Callable[[dict[str, Any] | None], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not reached(seen := gateway.container(name)):
        if time.monotonic() > deadline:
            status = seen["status"] if seen else "gone"
            raise SetupError(f"container {name} is {status} after {PATIENCE:.0f} seconds")
        time.sleep(0.1)
    if seen is not None and seen["status"] == "Error":
        raise SetupError(f"container {name} is in Error: {seen['status_reason']}")
