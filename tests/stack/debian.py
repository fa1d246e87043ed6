"""Programs that come from the system's packages: found, or installed when that is possible."""

import re
from pathlib import Path

from scripts.newcomer import engine, packages
from scripts.newcomer.packages import SetupError

PACKAGES = {
    **engine.PROGRAMS,
    "docker": "docker.io",
    "docker-registry": "docker-registry",
    "busybox": "busybox-static",
    "postgres": "postgresql",
    "wrk": "wrk",
    "nft": "nftables",
    "haproxy": "haproxy",
    "libfaketime.so.1": "libfaketime",
}
"""The Debian package that brings each program."""

# These are not on the path.
ELSEWHERE = {
    "postgres": "/usr/lib/postgresql/*/bin/postgres",
    "libfaketime.so.1": "/usr/lib/*/faketime/libfaketime.so.1",
}


def path_of(program: str) -> Path | None:
    """Where a program is, None if it is not installed. Of several PostgreSQL versions the newest counts."""
    if pattern := ELSEWHERE.get(program):
        return max(Path("/").glob(pattern[1:]), key=_numbers, default=None)
    return packages.path_of(program)


def program(name: str) -> Path:
    """The path of a program, installing its package if it is missing.

    Raises:
        SetupError: it is missing and cannot be installed here; the text says what to install.
    """
    if found := path_of(name):
        return found
    install([name])
    found = path_of(name)
    if found is None:
        raise SetupError(f"package {PACKAGES[name]} is installed, but there is no {name}")
    return found


def install(programs: list[str]) -> None:
    """Installs the packages of the programs that are missing, in one run of apt-get.

    Raises:
        SetupError: this user may not, this system has no apt-get, or apt-get failed.
    """
    packages.install(sorted({PACKAGES[name] for name in programs if path_of(name) is None}))


def _numbers(path: Path) -> list[int]:
    return [int(digits) for digits in re.findall(r"\d+", str(path))]


if __name__ == "__main__":
    install(list(PACKAGES))
