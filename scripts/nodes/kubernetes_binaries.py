"""Kubernetes' own server programs: built from Debian's source, of an official release, or from a folder."""

import hashlib
import os
import platform
import shutil
import tarfile
import tempfile
from pathlib import Path

import httpx

from scripts.newcomer import packages
from scripts.newcomer.packages import SetupError
from scripts.nodes.debian import Archive, run
from scripts.nodes.rootfs import ARCHITECTURES

PROGRAMS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl")
DEBIAN_VERSION = "v1.20.2"
DEBIAN_SUITE = "bookworm"
RELEASES = "https://dl.k8s.io"
REFLECT = "github.com/modern-go/reflect2"
"""A library of which the source holds a version that does not know today's Go: a map that is written sorted, as for
``?pretty=true``, ends the API server. Debian's own package of it does (modern-go/reflect2 1.0.2)."""
TOOLS = {"go": "golang-go", "dpkg-source": "dpkg-dev", "make": "make", "rsync": "rsync"}
"""What a build needs, and the package that brings it."""


def cache_folder() -> Path:
    """What is slow to make and kept between runs: ``$CAISSON_CACHE/kubernetes``, by default below ~/.cache/caisson."""
    top = os.environ.get("CAISSON_CACHE") or str(Path.home() / ".cache" / "caisson")
    folder = Path(top) / "kubernetes"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def from_debian() -> Path:
    """The folder of the programs that Debian 12's source package gives; about eight minutes when they are not there.

    Debian ships of Kubernetes only kubectl, but the sources of all of it.

    Raises SetupError: a tool is missing and cannot be installed, or the build failed.
    """
    cache = cache_folder()
    made = cache / f"debian-{DEBIAN_VERSION}-2"  # counts what is changed about the build
    with packages.locked(cache / f"{made.name}.lock"):
        if not made.exists():
            packages.install([package for tool, package in TOOLS.items() if packages.path_of(tool) is None])
            for draft in cache.glob("build-*"):  # of a build that was killed
                shutil.rmtree(draft)
            with tempfile.TemporaryDirectory(prefix="build-", dir=cache) as folder:
                _build(Path(folder)).rename(made)
    return made


def from_release(version: str) -> Path:
    """The folder of the programs of an official release such as ``v1.34.1``, which is downloaded when it is not there.

    Raises SetupError: the download failed, or its content is not what the release's checksum says.
    """
    cache = cache_folder()
    made = cache / f"release-{version}"
    with packages.locked(cache / f"{made.name}.lock"):
        if not made.exists():
            with tempfile.TemporaryDirectory(prefix="release-", dir=cache) as folder:
                archive = Path(folder) / "server.tar.gz"
                _download(f"{RELEASES}/{version}/kubernetes-server-linux-{_architecture()}.tar.gz", archive)
                with tarfile.open(archive) as tar:
                    tar.extractall(folder, filter="data")
                (Path(folder) / "kubernetes/server/bin").rename(made)
    return made


def _download(url: str, file: Path) -> None:
    try:
        expected = httpx.get(f"{url}.sha512", follow_redirects=True).raise_for_status().text.split()[0]
        seen = hashlib.sha512()
        with httpx.stream("GET", url, follow_redirects=True) as answer, file.open("wb") as output:
            for piece in answer.raise_for_status().iter_bytes():
                seen.update(piece)
                output.write(piece)
    except httpx.HTTPError as error:
        raise SetupError(f"{url}: {error}") from error
    if seen.hexdigest() != expected:
        raise SetupError(f"{url}: its SHA-512 is {seen.hexdigest()}, and should be {expected}")


def _architecture() -> str:
    machine = platform.machine()
    return ARCHITECTURES.get(machine, machine)


def _build(folder: Path) -> Path:
    archive = Archive(DEBIAN_SUITE, folder / "apt")
    archive.update()
    source = archive.source("kubernetes")
    archive.unpack(["golang-github-modern-go-reflect2-dev"], folder / "libraries")
    shutil.rmtree(source / "vendor" / REFLECT)
    shutil.copytree(folder / "libraries/usr/share/gocode/src" / REFLECT, source / "vendor" / REFLECT)
    # The release predates Go's modules being everywhere: its build wants to lie below a GOPATH.
    workspace = folder / "go"
    (workspace / "src/k8s.io").mkdir(parents=True)
    (workspace / "src/k8s.io/kubernetes").symlink_to(source)
    home = folder / "home"
    home.mkdir()
    what = " ".join(f"cmd/{name}" for name in PROGRAMS)
    run(["make", f"WHAT={what}"], cwd=source, GOPATH=str(workspace), HOME=str(home), GOCACHE=str(home), CGO_ENABLED="0")
    built = folder / "bin"
    built.mkdir()
    for name in PROGRAMS:
        shutil.copy(source / f"_output/local/bin/linux/{_architecture()}" / name, built / name)
        run(["strip", str(built / name)])
    return built
