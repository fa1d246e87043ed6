"""Programs of the system: found, or installed by apt-get where that is possible."""

import contextlib
import fcntl
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path


class SetupError(Exception):
    """Something that Caisson needs is missing and cannot be had here; the text is one sentence for the user."""


def path_of(program: str) -> Path | None:
    """Where a program is, also those for administrators; None if it is not installed."""
    found = shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    return Path(found) if found else None


def may_install() -> bool:
    """Whether this user can install packages here."""
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


def install(packages: Sequence[str]) -> None:
    """Installs Debian packages, in one run of apt-get. No package: nothing happens.

    Raises:
        SetupError: this user may not, this system has no apt-get, or apt-get failed.
    """
    if not packages:
        return
    wanted = " ".join(packages)
    if not may_install():
        raise SetupError(
            f"missing on this system, please install: {wanted} (on Debian, as root: apt-get install {wanted})"
        )
    with locked(Path(f"{tempfile.gettempdir()}/caisson-apt.lock")):
        log = Path(f"{tempfile.gettempdir()}/caisson-apt.log")
        # A service that a package starts or fails to start is of no use: whoever needs one starts it.
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
        for command in (
            ["apt-get", "-q", "update"],
            ["apt-get", "-q", "-y", "-o", "DPkg::Lock::Timeout=300", "install", "--no-install-recommends", *packages],
        ):
            with log.open("a") as output:
                done = subprocess.run(command, env=environment, stdout=output, stderr=subprocess.STDOUT, check=False)
            if done.returncode:
                raise SetupError(f"{' '.join(command)} failed:\n{tail(log)}")


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds an exclusive lock on a file (made if absent) among all processes of the machine."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def tail(log: Path, lines: int = 15) -> str:
    """The last lines of a log file, without colours; an empty text when there is no such file."""
    if not log.exists():
        return ""
    return "\n".join(re.sub(r"\x1b\[[0-9;]*m", "", log.read_text(errors="replace")).splitlines()[-lines:])
