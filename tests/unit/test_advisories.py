"""Which versions have which holes."""

import re

import pytest

from app.advisories import ADVISORIES, open_holes


@pytest.mark.parametrize(
    ("component", "version", "cve", "is_open"),
    [
        ("runc", "1.1.11", "CVE-2024-21626", True),
        ("runc", "1.1.12", "CVE-2024-21626", False),
        ("runc", "1.1.5+ds1", "CVE-2024-21626", True),
        ("runc", "1.1.5+ds1-1+deb12u1", "CVE-2024-21626", False),  # Debian took the fix into its own build
        ("runc", "1.2.7", "CVE-2025-31133", True),
        ("runc", "1.2.8", "CVE-2025-31133", False),
        ("runc", "1.3.2", "CVE-2025-31133", True),
        ("runc", "1.3.3", "CVE-2025-31133", False),
        ("runc", "1.4.0-rc.2", "CVE-2025-31133", True),
        ("runc", "1.4.0-rc.3", "CVE-2025-31133", False),
        ("runc", "1.4.0", "CVE-2025-31133", False),
        ("runc", "1.5.0", "CVE-2025-31133", False),
        ("runc", "1.0.0-rc6", "CVE-2019-5736", True),
        ("containerd", "1.3.8", "CVE-2020-15257", True),
        ("containerd", "1.3.9", "CVE-2020-15257", False),
        ("containerd", "v1.4.2", "CVE-2020-15257", True),
        ("containerd", "1.6.20~ds1-1+deb12u3", "CVE-2020-15257", False),
        ("Engine", "20.10.17", "CVE-2022-36109", True),
        ("Engine", "20.10.24+dfsg1", "CVE-2022-36109", False),
        ("Engine", "28.0.1", "CVE-2022-36109", False),
        ("Engine", "runc", "CVE-2022-36109", False),
    ],
)
def test_versions(component: str, version: str, cve: str, is_open: bool) -> None:
    found = {advisory.cve for advisory, _ in open_holes({component: version, "other": "0.1"})}
    assert (cve in found) is is_open


def test_the_table_is_well_formed() -> None:
    assert len({advisory.cve for advisory in ADVISORIES}) == len(ADVISORIES)
    assert all(re.fullmatch(r"CVE-20\d\d-\d{4,6}", advisory.cve) for advisory in ADVISORIES)
