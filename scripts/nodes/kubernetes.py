"""The image of Kubernetes nodes: the project's own programs, and what they need of Debian."""

import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from scripts.newcomer.image import root_file_system, static_busybox
from scripts.newcomer.packages import SetupError, locked
from scripts.nodes import rootfs
from scripts.nodes.debian import Archive
from scripts.nodes.kubernetes_binaries import PROGRAMS, cache_folder
from scripts.nodes.rootfs import RootFileSystem

NAME = "caisson/node-kubernetes"
PAUSE = "caisson.local/pause:1"
"""What keeps a pod's namespaces: Debian's static busybox, asleep."""

HERE = Path(__file__).resolve().parent

PACKAGES = (
    "bash", "busybox-static", "conntrack", "containerd", "containernetworking-plugins", "etcd-server", "ethtool",
    "haproxy", "ipset", "iproute2", "iptables", "kmod", "mount", "runc", "socat", "util-linux",
)  # fmt: skip

PLUGINS = ("bridge", "host-local", "loopback", "portmap")

SUITES = ((26, "bookworm"), (1000, "sid"))
"""Where packages come from for a minor version below the number: kubelet from 1.26 on speaks to containerd as version 2
does, which Debian 12 has not; before 1.24 as only version 1 does."""

UNUSED = re.compile(
    r"^(boot|home|media|mnt|opt|srv|usr/(games|include|local|src)|usr/share/(doc|info|lintian|locale|man|perl.*|zsh)"
    r"|usr/lib/(cni|systemd)|usr/lib/[^/]*/(gconv|perl.*|security)|usr/(bin|sbin)/(perl|containerd-(shim|stress|shim-runc-v1)$)"
    r"|etc/(apt|cron|dpkg|init\.d|pam|perl|skel|systemd|containerd)|var/(cache|lib/dpkg|log))"
)

CONTAINERD = f"""\
version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  # A host may not let anybody lower these scores, nor load profiles of AppArmor.
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "/etc/containerd/certs.d"
"""


def build(url: str, programs: Path, *, tag: str | None = None, suite: str | None = None, images: Sequence[Path] = (),
          label: str | None = None) -> tuple[str, bool]:  # fmt: skip
    """Make the image in the engine at `url` of a folder of Kubernetes' programs; its name, and False if it was there.

    `suite` is Debian's, by default what fits the version. `images` are archives, as ``docker save`` writes them, that
    each node has from its start. `label` stands for the version, so that the same programs make another image.

    Raises SetupError: a program is missing, a package cannot be fetched, or the engine refused.
    """
    version = version_of(programs)
    image = tag or f"{NAME}:{label or version}"
    chosen = suite or next(name for below, name in SUITES if int(version.split(".")[1]) < below)
    root = RootFileSystem()
    tree = debian(chosen)
    root.tree(tree, UNUSED)
    _applets(root)
    root.authorities()
    for plugin in PLUGINS:
        root.file(f"/opt/cni/bin/{plugin}", tree / "usr/lib/cni" / plugin, 0o755)
    for name in PROGRAMS:
        root.file(f"/usr/bin/{name}", programs / name, 0o755)
    for folder in (
        "/etc/cni/net.d",
        "/lib/modules",
        "/var/lib/containerd",
        "/var/lib/etcd",
        "/var/lib/kubelet",
        "/var/log",
    ):
        root.folder(folder)
    root.file("/etc/containerd/config.toml", CONTAINERD.encode())
    root.file("/usr/sbin/node-mounts", HERE / "node-mounts", 0o755)
    root.file("/usr/sbin/node-init", HERE / "kubernetes-init", 0o755)
    root.file("/usr/share/caisson/images/pause.tar", _pause())
    for number, archive in enumerate(images):
        root.file(f"/usr/share/caisson/images/{number}.tar", archive)
    return image, rootfs.load(url, image, root, ["/usr/sbin/node-init"], label or version, {})


def version_of(programs: Path) -> str:
    """What kubelet calls itself, as ``v1.20.2``. Raises SetupError: a program is missing or does not run."""
    for name in PROGRAMS:
        if not (programs / name).is_file():
            raise SetupError(f"{programs} lacks {name}; it must hold {', '.join(PROGRAMS)}")
    said = subprocess.run([programs / "kubelet", "--version"], capture_output=True, text=True, check=False)
    if found := re.search(r"v\d+\.\d+\.\d+\S*", said.stdout):
        return found[0]
    raise SetupError(f"{programs / 'kubelet'} --version names no version: {(said.stdout + said.stderr).strip()}")


def debian(suite: str) -> Path:
    """The files of :data:`PACKAGES`, unpacked; kept in the cache. Raises SetupError."""
    folder = cache_folder() / f"debian-{suite}-{rootfs.digest(' '.join(PACKAGES))}"
    with locked(folder.with_name(f"{folder.name}.lock")):
        if not folder.exists():
            with tempfile.TemporaryDirectory(prefix="packages-", dir=folder.parent) as name:
                archive = Archive(suite, Path(name) / "apt")
                archive.update()
                archive.unpack(PACKAGES, Path(name) / "tree")
                (Path(name) / "tree").rename(folder)
    return folder


def _applets(root: RootFileSystem) -> None:
    """busybox under the names of those programs that no package brought; iptables under the names of its modes."""
    root.busybox(replace=False)
    for family in ("iptables", "ip6tables"):
        for verb in ("", "-save", "-restore"):
            root.link(f"/usr/sbin/{family}{verb}", "xtables-nft-multi")


def _pause() -> bytes:
    layer = root_file_system(static_busybox(), {})
    return rootfs.image_archive(PAUSE, layer, ["/bin/sleep", "2147483647"])
