"""The image of a swarm's nodes: Docker's engine with what it needs, and no more."""

import re
import subprocess
from pathlib import Path

from scripts.newcomer.packages import SetupError
from scripts.nodes import rootfs
from scripts.nodes.rootfs import RootFileSystem

NAME = "caisson/node-swarm"
HERE = Path(__file__).resolve().parent

PROGRAMS = {
    "dockerd": "docker.io",
    "docker-proxy": "docker.io",
    "docker-init": "docker.io",
    "containerd": "containerd",
    "containerd-shim-runc-v2": "containerd",
    "runc": "runc",
    "xtables-nft-multi": "iptables",
    "xtables-legacy-multi": "iptables",
    "ip": "iproute2",
    "mount": "mount",
    "umount": "mount",
}
"""The Debian package that brings each program."""


def version() -> str:
    """The version of this system's Docker.

    Raises:
        SetupError: it does not say.
    """
    command = [str(rootfs.program("dockerd", PROGRAMS["dockerd"])), "--version"]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    if found := re.search(r"\d+\.\d+\.\d+", said):
        return found[0]
    raise SetupError(f"{' '.join(command)} names no version: {said.strip()}")


def build(url: str, tag: str | None = None, label: str | None = None) -> tuple[str, bool]:
    """Make the image in the engine at `url`; its name, and False when it was there.

    `label` stands for its version instead of Docker's: so the same content makes another image.

    Raises:
        SetupError: something is missing on this system, or the engine refused.
    """
    number = version()
    image = tag or f"{NAME}:{number}"
    root = RootFileSystem()
    root.busybox()
    for name, package in PROGRAMS.items():
        # Not where it lies: the engine looks for some of them on its path, which is the same in every image.
        root.program(rootfs.program(name, package), f"/usr/sbin/{name}")
    _packet_filter(root)
    root.authorities()
    root.folder("/var/lib/docker")
    root.file("/usr/sbin/node-mounts", HERE / "node-mounts", 0o755)
    root.file("/usr/sbin/node-init", HERE / "swarm-init", 0o755)
    made = rootfs.load(url, image, root, ["/usr/sbin/node-init"], label or number, {})
    return image, made


def _packet_filter(root: RootFileSystem) -> None:
    """iptables by its several names, on nftables; and its modules."""
    for family in ("iptables", "ip6tables"):
        for verb in ("", "-save", "-restore"):
            root.link(f"/usr/sbin/{family}{verb}", "xtables-nft-multi")
            root.link(f"/usr/sbin/{family}-legacy{verb}", "xtables-legacy-multi")
    for module in sorted(Path("/usr/lib").glob("*/xtables/*.so")):
        root.program(module)
