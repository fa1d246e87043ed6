"""Known holes of what containers run on: which versions closed them. Only what matters to whoever runs strangers'
containers, and only what is certain; the list does not replace a distribution's security tracker.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

_VERSION = re.compile(r"v?(\d+)\.(\d+)(?:\.(\d+))?(?:[-~.]?rc[-.]?(\d+))?")


@dataclass(frozen=True, slots=True)
class Advisory:
    """A hole. `fixed` has the first good version of each branch; `builds` are those of distributions that took the fix
    into an older version."""

    cve: str
    component: str
    fixed: tuple[str, ...]
    what: str
    builds: tuple[str, ...] = ()


ADVISORIES = (
    Advisory("CVE-2019-5736", "runc", ("1.0.0",), "a container overwrites the host's runc"),
    Advisory("CVE-2021-30465", "runc", ("1.0.0",), "a mount is swapped for a link while the container starts"),
    Advisory(
        "CVE-2024-21626", "runc", ("1.1.12",), "a container reaches the host's files through a leaked descriptor",
        ("1.1.5+ds1-1+deb12u1",),
    ),
    Advisory("CVE-2025-31133", "runc", ("1.2.8", "1.3.3", "1.4.0-rc.3"), "masked paths are swapped, /proc written"),
    Advisory("CVE-2025-52565", "runc", ("1.2.8", "1.3.3", "1.4.0-rc.3"), "the mount of /dev/console is swapped"),
    Advisory("CVE-2025-52881", "runc", ("1.2.8", "1.3.3", "1.4.0-rc.3"), "runc writes to other files of /proc"),
    Advisory("CVE-2020-15257", "containerd", ("1.3.9", "1.4.3"), "containers in the host's network reach its socket"),
    Advisory("CVE-2021-41103", "containerd", ("1.4.11", "1.5.7"), "users of the host read and run containers' files"),
    Advisory("CVE-2019-14271", "Engine", ("19.03.1",), "copying files out runs the container's libraries on the host"),
    Advisory("CVE-2021-41091", "Engine", ("20.10.9",), "users of the host read and run containers' files"),
    Advisory("CVE-2021-41089", "Engine", ("20.10.9",), "copying files in changes permissions of the host's files"),
    Advisory("CVE-2022-36109", "Engine", ("20.10.18",), "supplementary groups are not set as they should be"),
)  # fmt: skip


def open_holes(components: Mapping[str, str]) -> Iterator[tuple[Advisory, str]]:
    """The holes that components of these versions have, and the version; a version that is none is passed over."""
    for advisory in ADVISORIES:
        version = components.get(advisory.component)
        if version is not None and _is_open(advisory, version):
            yield advisory, version


def _is_open(advisory: Advisory, version: str) -> bool:
    have = _parsed(version)
    if have is None or version in advisory.builds:
        return False
    fixes = sorted(fix for fix in map(_parsed, advisory.fixed) if fix is not None)
    branch = next((fix for fix in fixes if fix[:2] == have[:2]), fixes[-1])
    return have < branch


def _parsed(version: str) -> tuple[int, int, int, float] | None:
    """Numbers to compare by; a candidate for a release comes before it."""
    found = _VERSION.match(version)
    if found is None:
        return None
    major, minor, patch, candidate = found.groups()
    return int(major), int(minor), int(patch or 0), int(candidate) if candidate else float("inf")
