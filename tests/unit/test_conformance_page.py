"""docs/compatibility.md names every test of Zun's own suite that does not pass here, with the reason."""

import tomllib
from pathlib import Path

from tests.tempest import expected

PAGE = Path(__file__).resolve().parents[2] / "docs" / "compatibility.md"


def test_the_page_has_what_the_runs_are_compared_with() -> None:
    rows = [
        f"| {version} | {name} | {outcome} | {reason} |"
        for version in tomllib.loads(expected.FILE.read_text())
        for name, (outcome, reason) in expected.exceptions(version).items()
    ]
    table = "\n".join(rows)
    assert table in PAGE.read_text(), f"docs/compatibility.md should hold:\n{table}"
