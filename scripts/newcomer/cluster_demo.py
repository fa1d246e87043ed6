"""A cluster before the user's eyes: a swarm of two nodes, used through its own certificates with Docker's client."""

import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Mapping

from scripts.newcomer import image, packages
from scripts.newcomer.client import openstack, openstack_said, run, tell
from scripts.newcomer.cloud import Cloud
from scripts.newcomer.gateway import Gateway
from scripts.newcomer.packages import SetupError

NAME = "demo-swarm"
IMAGE, FLAVOR = "swarm-node", "small"
"""What the gateway knows the nodes' image and size by."""
PATIENCE = 180.0
"""Seconds that creation and deletion each get."""


def settings(node_image: str) -> dict[str, str]:
    """The gateway's settings that let it make swarms of this image."""
    images = {IMAGE: {"os_distro": "debian", "image": node_image}}
    return {
        "CAISSON_CLUSTERS__IMAGES": json.dumps(images),
        "CAISSON_CLUSTERS__FLAVORS": json.dumps({FLAVOR: {"cpus": 1, "memory": 512}}),
        "CAISSON_CLUSTERS__PRELOAD": json.dumps([image.NAME]),
    }


def show(gateway: Gateway, login: Cloud) -> None:
    """Template, cluster, nodes, a service on all of them, deletion; prints each command before it runs it.

    Raises:
        SetupError: a command failed, or the cluster did not become what it should.
    """
    taken = gateway.cluster_names()
    name = next(name for name in (NAME, *(f"{NAME}-{number}" for number in range(2, 1000))) if name not in taken)
    try:
        openstack(
            login, "coe", "cluster", "template", "create", "--coe", "swarm-mode", "--image", IMAGE,
            "--external-network", "public", "--flavor", FLAVOR, "--master-flavor", FLAVOR,
            "--labels", f"preload_images={image.NAME}", name,
        )  # fmt: skip
        openstack(login, "coe", "cluster", "create", "--cluster-template", name, "--node-count", "1", name)
        _follow(gateway, name)
        _use(login, name)
        openstack(login, "coe", "cluster", "delete", name)
        _until_gone(gateway, name)
        openstack(login, "coe", "cluster", "template", "delete", name)
    except BaseException:
        gateway.delete_cluster(name)
        raise


def _use(login: Cloud, name: str) -> None:
    """The cluster as its user sees it; without Docker's own client there is nothing to see it with."""
    with tempfile.TemporaryDirectory(prefix="caisson-") as folder:
        said = openstack_said(login, "coe", "cluster", "config", name, "--dir", folder, "--output-certs", "--force")
        if packages.path_of("docker") is None:
            print("\nWith a `docker` command on this machine, these variables make it speak to the cluster.")
            return
        variables = os.environ | dict(re.findall(r"^export (DOCKER_\w+)=(.*)$", said, re.MULTILINE))
        _docker(variables, "node", "ls")
        _docker(
            variables, "service", "create", "--quiet", "--name", "beat", "--replicas", "2", "--no-resolve-image",
            image.NAME, "sleep", "3600",
        )  # fmt: skip
        _docker(variables, "service", "ps", "--format", "table {{.Name}}\t{{.Node}}\t{{.CurrentState}}", "beat")


def _docker(variables: Mapping[str, str], *words: str) -> None:
    command = ["docker", *words]
    tell(command)
    run(command, variables)


def _follow(gateway: Gateway, name: str) -> None:
    """One line that says how far the cluster is, until it is complete."""
    print(flush=True)
    line = Line()
    deadline = time.monotonic() + PATIENCE
    while True:
        seen = gateway.cluster(name)
        if seen is None:
            raise SetupError(f"cluster {name} is gone")
        line.show(f"{name}: {seen['status']} {seen['status_reason'] or ''}")
        if seen["status"] == "CREATE_COMPLETE":
            line.end()
            return
        if seen["status"].endswith("_FAILED") or time.monotonic() > deadline:
            line.end()
            raise SetupError(f"cluster {name} is {seen['status']}: {seen['status_reason']}")
        time.sleep(0.1)


def _until_gone(gateway: Gateway, name: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while (seen := gateway.cluster(name)) is not None:
        if seen["status"] == "DELETE_FAILED" or time.monotonic() > deadline:
            raise SetupError(f"cluster {name} is {seen['status']}: {seen['status_reason']}")
        time.sleep(0.1)


class Line:
    """A line that is written over while it changes on a terminal, and one below the other elsewhere."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._shown = ""
        self._live = sys.stdout.isatty()

    def show(self, text: str) -> None:
        """Show `text` with the seconds since the line began."""
        if text == self._shown and not self._live:
            return
        self._shown = text
        words = f"{time.monotonic() - self._began:5.1f} s  {text.strip()}"
        if self._live:
            columns = os.get_terminal_size().columns
            print(f"\r\x1b[K{words[: columns - 1]}", end="", flush=True)
        else:
            print(words, flush=True)

    def end(self) -> None:
        """Leave what is shown."""
        if self._live:
            print(flush=True)
