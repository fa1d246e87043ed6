"""docs/compatibility.md names every test of OpenStack's own suites that does not pass here, with the reason."""

from pathlib import Path

import pytest

from tests.tempest import expected
from tests.tempest.__main__ import SUITES
from tests.tempest.suite import Suite

PAGE = Path(__file__).resolve().parents[2] / "docs" / "compatibility.md"


@pytest.mark.parametrize("suite", SUITES.values(), ids=SUITES)
def test_the_page_has_what_the_runs_are_compared_with(suite: Suite) -> None:
    rows = [
        f"| {lane} | {outcome} | {reason} | {', '.join(names)} |"
        for lane, outcomes in expected.known(suite).items()
        for outcome, reasons in outcomes.items()
        for reason, names in reasons.items()
    ]
    table = "\n".join(rows)
    assert table in PAGE.read_text(), f"docs/compatibility.md should hold:\n{table}"
