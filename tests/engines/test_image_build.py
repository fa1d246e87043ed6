"""The Dockerfile, on a Debian base made from packages, and the main job done through the process in the image."""

import os
import re
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.newcomer.engine import client
from tests.e2e import readme
from tests.e2e.served import PROGRAM, answers, run
from tests.engines import debian_image
from tests.stack import debian
from tests.stack.session import ROOT, free_port, wait_until

# A name with whatever leftovers belong to it: containers, image and volume are removed by it.
NAME = f"caisson-test-{secrets.token_hex(4)}"
SIZE_LIMIT = 220 * 1024 * 1024
"""Bytes that the image may add to its base."""

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def image(docker_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The image as the README builds it, but on our base and with the wheels in the place of an index."""
    debian.program("docker")
    base = debian_image.ensure(docker_url)
    context = _context(tmp_path_factory.mktemp("context"))
    shutil.copytree(debian_image.wheelhouse(), context / "wheelhouse")
    build, _ = readme.script("In an image", {"docker build": f"docker build --build-arg BASE={base}"}).split("\n", 1)
    said = _shell(build.replace("-t caisson", f"-t {NAME}"), docker_url, cwd=context)
    yield NAME
    with client(docker_url) as http:
        # The stage that only builds would stay behind as a nameless image of half a gigabyte, and so would our base.
        for name in (NAME, *reversed(re.findall(r"^ ---> ([0-9a-f]{12})$", said, flags=re.MULTILINE))):
            http.delete(f"/images/{name}")


@pytest.fixture(scope="module")
def inspected(docker_url: str, image: str) -> dict[str, Any]:
    """What the engine says of the image."""
    with client(docker_url) as http:
        found: dict[str, Any] = http.get(f"/images/{image}/json").json()
    return found


def test_it_is_small(docker_url: str, inspected: dict[str, Any]) -> None:
    with client(docker_url) as http:
        base = http.get(f"/images/{debian_image.NAME}/json").json()["Size"]
    assert 0 < inspected["Size"] - base < SIZE_LIMIT


def test_it_is_not_root_and_has_a_health_check(inspected: dict[str, Any]) -> None:
    config = inspected["Config"]
    assert config["User"] == "caisson"
    assert config["Healthcheck"]["Test"][:2] == ["CMD", "python"]
    assert "/healthcheck" in config["Healthcheck"]["Test"][3]
    assert (config["Entrypoint"], config["Cmd"]) == (["caisson"], ["serve"])
    assert list(config["Volumes"]) == ["/var/lib/caisson"]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("id -u", "9517"),
        ("caisson --version", "caisson 0.1.0"),
        ("ls /opt/caisson/bin | grep -Ec '^(pip|openstack)'; true", "0"),
        ("ls /src /wheels /tools 2>&1 | grep -vc 'No such file'; true", "0"),
        ("python -c 'import importlib.util as u; print(u.find_spec(\"openstackclient\"))'", "None"),
    ],
)
def test_what_is_inside(docker_url: str, image: str, command: str, said: str) -> None:
    shell = ["docker", "run", "--rm", "--entrypoint", "sh", image, "-c", command]
    assert run(shell, {"DOCKER_HOST": docker_url}).strip() == said


def test_the_main_job_in_it(docker_url: str, busybox_image: str, image: str, tmp_path: Path) -> None:
    """By the README's own command line, with the engine's socket mounted."""
    port = free_port()
    socket = docker_url.removeprefix("unix://")
    instead = {
        "--name caisson": f"--name {NAME}",
        "-v caisson:": f"-v {NAME}:",
        "127.0.0.1:9517": f"127.0.0.1:{port}",
        "-v /var/run/docker.sock": f"-v {socket}",
        "%g /var/run/docker.sock": f"%g {socket}",
        " caisson\n": f" {NAME}\n",
    }
    _, serve = readme.script("In an image", {}).split("\n", 1)
    for words, others in instead.items():
        assert words in serve
        serve = serve.replace(words, others)
    serve, _, log = serve.rstrip().rpartition("\n")
    with client(docker_url) as http:
        try:
            _shell(serve, docker_url)
            wait_until(lambda: answers(f"http://127.0.0.1:{port}"), "the gateway in the image")
            found = re.search(r"user admin, project demo, password (\S+)", _shell(log, docker_url))
            assert found is not None
            openstack = _Client(tmp_path, port, found[1])

            ping = ["ping", "-c", "4", "127.0.0.1"]
            made = openstack("run", "--name", "pingtest", "-f", "value", "-c", "uuid", busybox_image, *ping).strip()
            status = ["-f", "value", "-c", "status"]
            wait_until(lambda: openstack("show", made, *status).strip() == "Stopped", "pingtest to end")
            assert openstack("list", *status) == "Stopped\n"
            assert "4 packets received" in openstack("logs", "pingtest")
            openstack("delete", "pingtest")
            wait_until(lambda: openstack("list", *status) == "", "pingtest to be gone")

            def state() -> Any:
                return http.get(f"/containers/{NAME}/json").json()["State"]

            wait_until(lambda: state()["Health"]["Status"] == "healthy", "the health check to say so")
            http.post(f"/containers/{NAME}/stop", params={"t": "30"}).raise_for_status()
            assert state()["ExitCode"] == 0
        finally:
            http.delete(f"/containers/{NAME}", params={"force": "true", "v": "true"})
            http.delete(f"/volumes/{NAME}")


class _Client:
    """The ``openstack`` command, logged in at the gateway in the image."""

    def __init__(self, folder: Path, port: int, password: str) -> None:
        names = {"username": "admin", "project_name": "demo", "password": password}
        domains = {"user_domain_name": "Default", "project_domain_name": "Default"}
        auth = {"auth_url": f"http://127.0.0.1:{port}/identity/v3"} | names | domains
        self._file = folder / "clouds.yaml"
        self._file.write_text(yaml.safe_dump({"clouds": {"c": {"auth": auth, "region_name": "RegionOne"}}}))

    def __call__(self, *words: str) -> str:
        command = [str(PROGRAM), "--os-cloud", "c", "appcontainer", *words]
        return run(command, {"OS_CLIENT_CONFIG_FILE": str(self._file)})


def _context(folder: Path) -> Path:
    """What git would give somebody who builds: no virtual environment, no caches."""
    listed = run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], {}, cwd=ROOT)
    for name in listed.split("\0"):
        if name and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


def _shell(script: str, docker_url: str, cwd: Path | None = None) -> str:
    done = subprocess.run(
        ["bash", "-ec", script],
        env=os.environ | {"DOCKER_HOST": docker_url},
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout
