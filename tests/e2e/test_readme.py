"""The commands in the README do what it says."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.e2e import readme
from tests.e2e.newcomer import PROMPT, Run, finding_by_itself
from tests.e2e.served import answers, run
from tests.stack.keystone import SERVICE_PASSWORD, Keystone
from tests.stack.session import ROOT, free_port, wait_until


def test_there_are_no_commands_that_nobody_runs() -> None:
    assert readme.headings() == [
        "Start",
        "A first session",
        "A cluster",
        "Other people",
        "The same by curl",
        "With Keystone",
        "In an image",  # by tests/engines/test_image_build.py
        "More",
    ]


def test_the_scripts_are_there() -> None:
    for heading in ("Start", "More"):
        (command,) = readme.script(heading, {}).splitlines()
        assert "Usage: " + command in run([*command.split(), "--help"], {}, cwd=ROOT)


@pytest.mark.timeout(600)
def test_a_first_session_and_the_same_by_curl(tmp_path: Path, docker_url: str) -> None:
    port = str(free_port())
    environment = finding_by_itself(tmp_path / "config")
    one = Run(ROOT, tmp_path / "log", "--no-demo", "--port", port, "--data-dir", str(tmp_path / "data"),
              DOCKER_HOST=docker_url, **environment)  # fmt: skip
    try:
        one.wait_for(PROMPT)
        script = "\n".join(
            [
                "set -euo pipefail",
                readme.script("A first session", {}),
                readme.script("A cluster", {"blue-certs": str(tmp_path / "blue-certs")}),
                readme.script("Other people", {}),
                readme.script("The same by curl", {"9517": port}),
            ]
        )
        environment["SHELL"] = "/bin/bash"  # as every terminal has it; `coe cluster config` fails without
        said = run(["bash", "-c", script], environment, cwd=ROOT, seconds=500)
        assert said.count("| Running ") >= 2  # in the list, and when it is shown
        assert "inet 10.221." in said
        assert "MEM USAGE(MiB)" in said
        assert "Delete for container clock success." in said
        assert "CREATE_COMPLETE" in said
        assert said.count(" Ready ") == 2
        assert "Delete for container inside success." in said
        assert "4 packets transmitted, 4 packets received" in said
        # Each line that is one JSON document of curl's.
        documents = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
        assert documents[0]["name"] == "hello"
        page = httpx.get(f"http://127.0.0.1:{port}/docs")
        assert (page.status_code, "https://" in page.text) == (200, False)
        assert httpx.get(f"http://127.0.0.1:{port}/openapi.json").json()["info"]["title"] == "Caisson"
        wait_until(lambda: _containers(tmp_path) == "", "hello to be deleted")
        assert one.press_ctrl_c() == 0
    finally:
        one.end()


def test_with_keystone(tmp_path: Path, keystone: Keystone, docker_url: str) -> None:
    port = free_port()
    data = str(tmp_path / "data")
    instead = {"https://keystone.example/v3": keystone.url, "=secret": f"={SERVICE_PASSWORD}", "/var/lib/caisson": data}
    script = readme.script("With Keystone", instead)
    programs = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    with (tmp_path / "log").open("w") as log:
        served = subprocess.Popen(
            ["bash", "-ec", script],
            env=os.environ | {"PATH": programs, "CAISSON_PORT": str(port), "DOCKER_HOST": docker_url},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        wait_until(lambda: answers(f"http://127.0.0.1:{port}"), "the gateway to answer")
        url = f"http://127.0.0.1:{port}/container/v1/containers"
        answer = httpx.get(url, headers={"X-Auth-Token": keystone.token("alpha-reader")}, timeout=60)
        assert answer.status_code == 200
        assert httpx.get(f"http://127.0.0.1:{port}/identity/v3").status_code == 404
    finally:
        os.killpg(served.pid, signal.SIGTERM)
        served.wait(60)


def _containers(folder: Path) -> str:
    command = [str(Path(sys.executable).with_name("openstack")), "--os-cloud", "caisson", "appcontainer", "list"]
    return run([*command, "-f", "value"], {"OS_CLIENT_CONFIG_FILE": str(folder / "data/clouds.yaml")})
