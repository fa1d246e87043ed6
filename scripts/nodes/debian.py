"""Debian's packages and sources, fetched into a folder by an apt of its own: the system's apt is left as it is."""

import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from scripts.newcomer.packages import SetupError, path_of

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
DEFAULT_MIRROR = "http://deb.debian.org/debian"


class Archive:
    """One suite of Debian (bookworm, trixie, sid), from the mirror that this system uses.

    `folder` keeps lists and downloads between calls. No call installs anything, or needs to be root.
    """

    def __init__(self, suite: str, folder: Path) -> None:
        if path_of("apt-get") is None or not KEYRING.exists():
            raise SetupError("Debian's packages are fetched by apt-get, which this system lacks, or Debian's keyring")
        self._folder = folder.resolve()
        for name in ("etc/preferences.d", "lists/partial", "archives/partial", "debs"):
            (self._folder / name).mkdir(parents=True, exist_ok=True)
        sources = "".join(f"{kind} [signed-by={KEYRING}] {_mirror()} {suite} main\n" for kind in ("deb", "deb-src"))
        (self._folder / "etc/sources.list").write_text(sources)
        # As if nothing were installed here: what packages depend on is fetched as well.
        (self._folder / "status").touch()

    def update(self) -> None:
        """Fetch the lists of packages. Raises SetupError with the words of apt-get."""
        self._apt("update")

    def unpack(self, packages: Sequence[str], tree: Path) -> None:
        """Put the files of packages, and of all that they depend on, below `tree`. Their scripts are not run.

        Raises SetupError with the words of apt-get or dpkg-deb.
        """
        self._apt("install", "--download-only", "--no-install-recommends", "-y", *packages)
        # The tree's own layout first, so that no package makes a folder where a link belongs.
        for name in ("bin", "sbin", "lib", "lib64"):
            (tree / "usr" / name).mkdir(parents=True, exist_ok=True)
            if not (tree / name).is_symlink():
                (tree / name).symlink_to(f"usr/{name}")
        for package in sorted((self._folder / "archives").glob("*.deb")):
            # Not --extract: it would put a folder in the place of the links made above.
            with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE) as files:
                run(["tar", "-C", str(tree), "--keep-directory-symlink", "-xf", "-"], stdin=files.stdout)

    def source(self, package: str) -> Path:
        """The unpacked source of a package, with Debian's patches. Raises SetupError with the words of apt-get."""
        folder = self._folder / "source"
        folder.mkdir(exist_ok=True)
        if not list(folder.glob("*/debian/changelog")):
            self._apt("source", package, folder=folder)
        return next(folder.glob("*/debian/changelog")).parents[1]

    def _apt(self, *arguments: str, folder: Path | None = None) -> None:
        options = {
            "Dir::Etc::SourceList": self._folder / "etc/sources.list",
            "Dir::Etc::SourceParts": "/dev/null",
            "Dir::Etc::PreferencesParts": self._folder / "etc/preferences.d",
            "Dir::State::Lists": self._folder / "lists",
            "Dir::State::Status": self._folder / "status",
            "Dir::State::Extended_States": self._folder / "extended_states",
            "Dir::Cache::Archives": self._folder / "archives",
            "Dir::Cache::PkgCache": "",
            "Dir::Cache::SrcPkgCache": "",
            "Debug::NoLocking": "true",
            # Downloads by an unprivileged user would need a folder which that user may enter.
            "APT::Sandbox::User": "root",
        }
        flags = [text for name, value in options.items() for text in ("-o", f"{name}={value}")]
        run(["apt-get", "-q", *flags, *arguments], cwd=folder)


def run(command: Sequence[str], *, cwd: Path | None = None, stdin: IO[bytes] | None = None, **environment: str) -> str:
    """What a program prints. Raises SetupError with its last words when it fails."""
    done = subprocess.run(
        command,
        cwd=cwd,
        stdin=stdin,
        env={**os.environ, "LC_ALL": "C", **environment},
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        words = "\n".join((done.stdout + done.stderr).splitlines()[-15:])
        raise SetupError(f"{' '.join(command[:2])} failed ({done.returncode}):\n{words}")
    return done.stdout


def _mirror() -> str:
    """Where this system gets Debian from."""
    line = re.compile(r"^(?:URIs:\s*|deb\s+(?:\[.*?\]\s+)?)(\S+)", re.MULTILINE)
    places = [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]
    for place in places:
        if place.is_file() and place.suffix in (".list", ".sources"):
            for found in line.finditer(place.read_text()):
                if found[1].rstrip("/").endswith("/debian"):
                    return found[1]
    return DEFAULT_MIRROR
