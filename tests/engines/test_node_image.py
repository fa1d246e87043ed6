"""The image of a swarm's nodes, made of this system's packages."""

import subprocess
from secrets import token_hex

from scripts.newcomer.engine import client
from scripts.nodes import swarm
from tests.stack import images
from tests.stack.debian import program
from tests.stack.session import ROOT


def test_the_same_packages_make_the_same_image(docker_url: str) -> None:
    name = f"caisson-test/{token_hex(4)}:1"
    try:
        assert swarm.build(docker_url, name) == (name, True)
        assert swarm.build(docker_url, name) == (name, False)
        with client(docker_url) as http:
            first = http.get(f"/images/{name}/json").json()
            images.remove(docker_url, name)
            assert swarm.build(docker_url, name) == (name, True)
            assert http.get(f"/images/{name}/json").json()["Id"] == first["Id"]
        assert first["Config"]["Labels"]["org.opencontainers.image.version"] == swarm.version()
    finally:
        images.remove(docker_url, name)


def test_its_programs_have_their_libraries(swarm_image: str) -> None:
    # By their paths, because busybox's shell prefers what it has itself.
    calls = ("dockerd --version", "containerd --version", "runc --version", "iptables --version", "ip -V", "mount -V")
    script = " && ".join(f"/usr/sbin/{call}" for call in calls)
    run = [str(program("docker")), "run", "--rm", "--network", "none", "--entrypoint", "/bin/sh"]
    done = subprocess.run([*run, swarm_image, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert swarm.version() in done.stdout


def test_the_script_makes_it(swarm_image: str) -> None:
    script = str(ROOT / "scripts" / "node-image")
    made = subprocess.run([script, "swarm"], capture_output=True, text=True, check=False)
    assert (made.returncode, made.stdout.splitlines()[-1]) == (0, f"{swarm_image} (was there)")
    assert subprocess.run([script, "--help"], capture_output=True, check=False).returncode == 0
    assert subprocess.run([script, "nonsense"], capture_output=True, check=False).returncode == 2
