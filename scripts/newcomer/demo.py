"""The main job before the user's eyes, done by OpenStack's own client: run, list, logs, delete."""

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scripts.newcomer import cloud, image
from scripts.newcomer.cloud import Cloud
from scripts.newcomer.gateway import Gateway
from scripts.newcomer.packages import SetupError

NAME = "pingtest"
JOB = ("ping", "-c", "4", "127.0.0.1")
PATIENCE = 60.0
"""Seconds that each of the container's changes gets."""

PROGRAM = Path(sys.executable).with_name("openstack")


def show(gateway: Gateway, login: Cloud) -> None:
    """Prints each command before it runs it.

    Raises:
        SetupError: a command failed, or the container did not do what it should.
    """
    name = _free_name(gateway.names())
    columns = ["--column", "uuid", "--column", "name", "--column", "status"]
    try:
        _openstack(login, "run", "--name", name, *columns, image.NAME, *JOB)
        _wait(gateway, name, lambda seen: seen is not None and seen["status"] != "Creating")
        _openstack(login, "list")
        _wait(gateway, name, lambda seen: seen is not None and seen["status"] in ("Stopped", "Error", "Deleted"))
        _openstack(login, "logs", name)
        _openstack(login, "delete", name)
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


def _openstack(login: Cloud, *words: str) -> None:
    command = ["openstack", "--os-cloud", cloud.NAME, "appcontainer", *words]
    print(f"\n$ {shlex.join(command)}", flush=True)
    # Variables of another cloud would be mixed into this login.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("OS_")}
    environment |= {"OS_CLIENT_CONFIG_FILE": str(login.file.absolute()), "CLIFF_FIT_WIDTH": "1"}
    environment["NO_PROXY"] = environment["no_proxy"] = "127.0.0.1,localhost"
    with subprocess.Popen([str(PROGRAM), *command[1:]], env=environment, process_group=0) as process:
        try:
            code = process.wait()
        except BaseException:
            process.kill()
            raise
    if code:
        raise SetupError(f"the command ended with exit code {code}")


def _wait(gateway: Gateway, name: str, reached: Callable[[dict[str, Any] | None], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not reached(seen := gateway.container(name)):
        if time.monotonic() > deadline:
            status = seen["status"] if seen else "gone"
            raise SetupError(f"container {name} is {status} after {PATIENCE:.0f} seconds")
        time.sleep(0.1)
    if seen is not None and seen["status"] == "Error":
        raise SetupError(f"container {name} is in Error: {seen['status_reason']}")
