"""What each lane is known to do: a list beside each suite names every test that does not pass, and why.

The rest passes.
"""

import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.tempest.suite import Result, Suite


def known(suite: Suite) -> dict[str, Any]:
    """A suite's list: by lane, outcome and reason, the names of tests."""
    return tomllib.loads(Path(__file__).with_name(f"{suite.name}.toml").read_text())


def exceptions(suite: Suite, lane: str) -> dict[str, tuple[str, str]]:
    """The tests of a lane that do not pass: failed or skipped, and the reason for readers."""
    return {
        name: (outcome, reason)
        for outcome in ("failed", "skipped")
        for reason, names in known(suite).get(lane, {}).get(outcome, {}).items()
        for name in names
    }


def differences(suite: Suite, lane: str, results: Iterable[Result]) -> list[str]:
    """Where a run was not what the list says: a test that got better counts as well, the list is for readers."""
    claims = exceptions(suite, lane)
    seen = {result.name: result for result in results}
    found = [
        f"lane {lane}: {name} {result.outcome} ({result.reason}), and is claimed to have {claimed}"
        for name, result in seen.items()
        if result.outcome != (claimed := claims.get(name, ("passed", ""))[0])
    ]
    return found + [f"lane {lane}: {name} was not run" for name in claims.keys() - seen.keys()]
