"""``scripts/run``: what a new user sees, from a fresh clone, and what it says when something is missing."""

import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.newcomer import cloud, image
from scripts.newcomer.engine import client
from scripts.newcomer.packages import SetupError
from tests.e2e.newcomer import PROMPT, Run, finding_by_itself
from tests.e2e.served import answers, run
from tests.stack.session import ROOT, Stack, free_port, wait_until

Start = Callable[..., Run]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts ``scripts/run`` with its data and its login below the test's folder."""
    made: list[Run] = []

    def begin(*options: str, root: Path = ROOT, **environment: Any) -> Run:
        log = tmp_path / f"run-{len(made)}.log"
        made.append(Run(root, log, *options, **{"XDG_CONFIG_HOME": str(tmp_path / "config")} | environment))
        return made[-1]

    yield begin
    for one in made:
        one.end()


@pytest.mark.timeout(900)
def test_a_fresh_clone(start: Start, tmp_path: Path, docker_url: str) -> None:
    """First start, second start, and a container that lives through both."""
    port, data = free_port(), tmp_path / "data"
    options = ["--port", str(port), "--data-dir", str(data)]
    root = _clone(tmp_path / "clone")
    first = start(*options, root=root, DOCKER_HOST=docker_url)
    seen = first.wait_for(PROMPT, seconds=600)
    assert "Installing" in seen
    assert "$ openstack --os-cloud caisson appcontainer run --name pingtest" in seen
    assert re.search(r"\| pingtest +\| busybox +\| (Running|Stopped) +\| None +\| ", seen), seen
    assert "4 packets transmitted, 4 packets received, 0% packet loss" in seen
    assert "Request to delete container pingtest has been accepted." in seen
    assert re.search(r"demo-swarm: CREATE_IN_PROGRESS .*default-worker-0", seen), seen
    assert re.search(r"demo-swarm: CREATE_COMPLETE", seen), seen
    assert len(re.findall(r"^\w+ (?:\*| ) +\S+ +Ready +Active", seen, re.MULTILINE)) == 2, seen
    assert len(re.findall(r"^beat\.[12] +\S+ +Running ", seen, re.MULTILINE)) == 2, seen
    assert "Request to delete cluster demo-swarm has been accepted." in seen
    assert "failed" not in seen

    login = data / "clouds.yaml"
    assert stat.S_IMODE(login.stat().st_mode) == 0o600
    assert stat.S_IMODE(data.stat().st_mode) == 0o700
    found_by_itself = tmp_path / "config/openstack/clouds.yaml"
    assert found_by_itself.read_text() == login.read_text()
    assert stat.S_IMODE(found_by_itself.stat().st_mode) == 0o600

    def openstack(*words: str) -> str:
        command = [str(root / ".venv/bin/openstack"), "--os-cloud", "caisson", "appcontainer", *words]
        return run(command, finding_by_itself(tmp_path / "config"), cwd=tmp_path)

    # pingtest is gone; this one is to live on.
    assert openstack("list", "-f", "value", "-c", "name").split() == []
    stays = openstack("run", "--name", "stays", "-f", "value", "-c", "uuid", "busybox", "sleep", "600").strip()
    with client(docker_url) as engine:
        try:
            _until_running(lambda: openstack("show", "stays", "-f", "value", "-c", "status"))
            assert first.press_ctrl_c() == 0
            assert not answers(f"http://127.0.0.1:{port}")
            assert "Traceback" not in first.output
            assert engine.get(f"/containers/caisson-{stays}/json").json()["State"]["Running"]

            second = start(*options, root=root, DOCKER_HOST=docker_url)
            seen = second.wait_for(PROMPT)
            assert "Installing" not in seen
            assert "busybox (was there)" in seen
            assert "4 packets received" in seen
            assert openstack("list", "-f", "value", "-c", "uuid", "-c", "status").split() == [stays, "Running"]
            openstack("delete", "--stop", "--wait", "stays")
            assert second.press_ctrl_c() == 0
        finally:
            engine.delete(f"/containers/caisson-{stays}", params={"force": "true"})


def test_ctrl_c_in_the_middle_of_the_main_job(start: Start, tmp_path: Path, docker_url: str) -> None:
    """It ends as cleanly, and takes its container along."""
    port = free_port()
    one = start("--port", str(port), "--data-dir", str(tmp_path / "data"), DOCKER_HOST=docker_url)
    one.wait_for("appcontainer list")
    assert one.press_ctrl_c() == 0
    assert "Traceback" not in one.output
    two = start("--no-demo", "--port", str(port), "--data-dir", str(tmp_path / "data"), DOCKER_HOST=docker_url)
    assert "pingtest" not in two.wait_for(PROMPT).partition("ready")[0]
    environment = {"OS_CLIENT_CONFIG_FILE": str(tmp_path / "data/clouds.yaml")}
    command = [str(Path(sys.executable).with_name("openstack")), "--os-cloud", "caisson", "appcontainer", "list"]
    _until(lambda: run([*command, "-f", "value"], environment) == "")
    assert two.press_ctrl_c() == 0


def test_the_port_is_taken(start: Start, docker_url: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        one = start("--port", str(port), "--data-dir", str(tmp_path / "data"), DOCKER_HOST=docker_url)
        assert one.wait() == 1
    assert one.output == f"scripts/run: port {port} of 127.0.0.1 is taken; name another one with --port\n"


def test_a_second_one_on_the_same_data(start: Start, docker_url: str, tmp_path: Path) -> None:
    data = str(tmp_path / "data")
    first = start("--no-demo", "--port", str(free_port()), "--data-dir", data, DOCKER_HOST=docker_url)
    first.wait_for(PROMPT)
    second = start("--no-demo", "--port", str(free_port()), "--data-dir", data, DOCKER_HOST=docker_url)
    assert second.wait() == 1
    assert f"another Caisson uses {data}" in second.output.splitlines()[-1]
    assert first.press_ctrl_c() == 0


def test_the_engine_is_not_reachable(start: Start, tmp_path: Path) -> None:
    url = f"unix://{tmp_path}/nothing.sock"
    one = start("--port", str(free_port()), "--data-dir", str(tmp_path / "data"), DOCKER_HOST=url)
    assert one.wait() == 1
    assert one.output.splitlines() == [
        f"scripts/run: no container engine answers at DOCKER_HOST={url} (No such file or directory): start it"
    ]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--port", "80x"], "--port needs a number from 1 to 65535, not '80x'"),
        (["--port=70000"], "--port needs a number from 1 to 65535, not '70000'"),
        (["--data-dir"], "--data-dir needs a directory"),
        (["--colour"], "unknown option: --colour"),
    ],
)
def test_a_slip_of_the_hand(start: Start, options: list[str], said: str) -> None:
    one = start(*options)
    assert one.wait() == 2
    assert one.output == f"scripts/run: {said}; see scripts/run --help\n"


def test_help(start: Start) -> None:
    one = start("--help")
    assert one.wait() == 0
    for option in ("--port PORT", "--data-dir DIR", "--no-demo"):
        assert option in one.output


AS_NOBODY = """
import os, sys
from scripts.newcomer import engine
from scripts.newcomer.packages import SetupError
if os.geteuid() == 0:
    os.setresuid(65534, 65534, 65534)
try:
    print({call})
except SetupError as error:
    print(error)
"""


def test_no_permission_on_the_socket() -> None:
    with tempfile.TemporaryDirectory() as name, socket.socket(socket.AF_UNIX) as server:
        Path(name).chmod(0o755)
        path = Path(name) / "engine.sock"
        server.bind(str(path))
        server.listen()
        path.chmod(0)
        said = _as_nobody("engine.find()", DOCKER_HOST=f"unix://{path}")
    assert said.startswith(f"no permission to use the container engine at {path}: run this as root, or join the group ")


def test_no_right_to_start_an_engine() -> None:
    assert "only root can start one: start Docker or Podman, set DOCKER_HOST" in _as_nobody("engine.start()")


def test_no_right_to_install() -> None:
    said = _as_nobody("engine.packages.install(['docker.io'])")
    assert said == "missing on this system, please install: docker.io (on Debian, as root: apt-get install docker.io)"


def test_a_database_without_its_password(tmp_path: Path) -> None:
    (tmp_path / "caisson.db").touch()
    with pytest.raises(SetupError, match=r"holds a database but no clouds\.yaml"):
        cloud.prepare(tmp_path, "http://127.0.0.1:1")


def test_a_login_of_the_users_own_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    own = tmp_path / "config/openstack/clouds.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("clouds: {mine: {}}\n")
    login = cloud.prepare(tmp_path, "http://127.0.0.1:1")
    assert not login.found_by_itself
    assert own.read_text() == "clouds: {mine: {}}\n"
    again = cloud.prepare(tmp_path, "http://127.0.0.1:2")
    assert again.password == login.password
    entry = yaml.safe_load(login.file.read_text())["clouds"]["caisson"]
    assert entry["auth"]["auth_url"] == "http://127.0.0.1:2/identity/v3"


def test_the_image_is_made_once(docker_url: str) -> None:
    with client(docker_url) as http:
        image.ensure(docker_url)
        before = http.get(f"/images/{image.NAME}/json").json()["Id"]
        assert image.ensure(docker_url) == "was there"
        assert http.get(f"/images/{image.NAME}/json").json()["Id"] == before


def test_a_static_busybox_is_told_from_a_dynamic_one() -> None:
    assert not image.is_static(Path(sys.executable).resolve())
    with tempfile.NamedTemporaryFile() as program:
        program.write(image.static_busybox())
        program.flush()
        assert image.is_static(Path(program.name))


@pytest.fixture
def empty_machine(stack: Stack, docker_url: str) -> list[str]:
    """The prefix of a command that runs where no engine is: a network, processes and a /run of its own."""
    folder = stack.folder("empty-machine")
    ready = folder / "ready"
    hide = "for place in /run /var/lib/docker; do mkdir -p $place && mount -t tmpfs tmpfs $place; done"
    space = stack.spawn(
        folder.name,
        [
            "unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "docker-init", "--",
            "sh", "-c", f"set -e; ip link set lo up; {hide}; touch {ready}; exec sleep infinity",
        ],
        log=folder / "log",
        ready=ready.exists,
        # unshare ignores SIGTERM; its end takes every process of the namespaces along.
        stop_signal=signal.SIGKILL,
    )  # fmt: skip
    (child,) = Path(f"/proc/{space.pid}/task/{space.pid}/children").read_text().split()
    return ["nsenter", "--target", child, "--net", "--mount", "--pid", "--"]


@pytest.mark.timeout(400)
def test_an_engine_is_started_where_there_is_none(start: Start, tmp_path: Path, empty_machine: list[str]) -> None:
    """It outlives Ctrl-C, with its containers, and the next start uses it again."""
    options = ["--port", "9517", "--data-dir", str(tmp_path / "data")]
    first = start(*options, prefix=empty_machine, DOCKER_HOST=None)
    seen = first.wait_for(PROMPT)
    assert "(Docker, started now; it keeps running; to stop it: kill $(cat /var/run/docker.pid))" in seen
    assert "busybox (made of Debian's static busybox, because no registry answered)" in seen
    assert "4 packets received" in seen
    assert first.press_ctrl_c() == 0
    second = start(*options, "--no-demo", prefix=empty_machine, DOCKER_HOST=None)
    seen = second.wait_for(PROMPT)
    assert "started now" not in seen
    assert "busybox (was there)" in seen
    assert second.press_ctrl_c() == 0


def _clone(target: Path) -> Path:
    """A fresh clone, with what is changed and not yet committed on top."""
    run(["git", "clone", "--quiet", f"file://{ROOT}", str(target)], {})
    listed = run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], {}, cwd=ROOT)
    for name in listed.split("\0"):
        if name and (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    return target


def _as_nobody(call: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", AS_NOBODY.format(call=call)],
        env=os.environ | environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def _until(reached: Callable[[], bool]) -> None:
    wait_until(reached, "what the gateway was asked for", 60)


def _until_running(status: Callable[[], str]) -> None:
    _until(lambda: status().strip() == "Running")
