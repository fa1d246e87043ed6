"""An image of Debian made from its packages, without any registry; the wheels that a build needs without an index."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from scripts.newcomer import packages
from scripts.newcomer.engine import client
from scripts.newcomer.image import import_tar, is_there
from scripts.newcomer.packages import locked
from tests.stack.session import ROOT, StackError, cache_directory

SUITE = "bookworm"
NAME = "caisson-test/debian:python"


def ensure(url: str) -> str:
    """Makes the image in the engine at `url` unless it is there; the packages are fetched once. Returns its name."""
    with client(url, timeout=300) as http:
        if not is_there(http, NAME):
            import_tar(
                http, NAME, _root_file_system().read_bytes(), ["ENV PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin"]
            )
    return NAME


def wheelhouse() -> Path:
    """A folder with the wheel of every package in the lock, as pip fetches them on this machine."""
    folder = cache_directory("wheelhouse")
    with locked(folder.with_suffix(".lock")):
        done = folder / "requirements.lock"
        wanted = ROOT / "requirements.lock"
        if not done.exists() or done.read_bytes() != wanted.read_bytes():
            shutil.rmtree(folder)
            folder.mkdir()
            _run(
                sys.executable, "-m", "pip", "download", "--quiet", "--only-binary", ":all:", "--require-hashes",
                "--requirement", str(wanted), "--dest", str(folder),
            )  # fmt: skip
            shutil.copy(wanted, done)
    return folder


def _root_file_system() -> Path:
    tar = cache_directory("debian") / f"{SUITE}-python.tar"
    with locked(tar.with_suffix(".lock")):
        if not tar.exists():
            if packages.path_of("debootstrap") is None:
                packages.install(["debootstrap"])
            with tempfile.TemporaryDirectory(prefix="caisson-debian-") as name:
                root = Path(name) / "root"
                include = "--include=python3,python3-venv,ca-certificates"
                _run("debootstrap", "--variant=minbase", include, SUITE, str(root), *_mirror())
                for folder in ("var/cache/apt/archives", "var/lib/apt/lists"):
                    shutil.rmtree(root / folder)
                draft = tar.with_suffix(".draft")
                _run("tar", "--directory", str(root), "--create", "--file", str(draft), ".")
                draft.rename(tar)
    return tar


def _mirror() -> list[str]:
    """Where this system has its own packages from; nothing, for Debian's usual address, if that cannot be told."""
    asked = ["apt-get", "indextargets", "--format", "$(RELEASE) $(SITE)"]
    listed = subprocess.run(asked, capture_output=True, text=True, check=False).stdout
    found = [line.split(" ", 1)[1] for line in listed.splitlines() if line.startswith(f"{SUITE} ")]
    return found[:1]


def _run(*command: str) -> None:
    done = subprocess.run(command, env=os.environ | {"LC_ALL": "C"}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise StackError(f"{' '.join(command)} failed: {done.stdout[-2000:]}{done.stderr[-2000:]}")
