"""What each lane is known to do: ``expected.toml`` names every test that does not pass, and why. The rest passes."""

import tomllib
from collections.abc import Iterable
from pathlib import Path

from tests.tempest.lane import Result

LANES = ("1.40", "1.1")
FILE = Path(__file__).with_name("expected.toml")


def exceptions(version: str) -> dict[str, tuple[str, str]]:
    """The tests of a lane that do not pass: failed or skipped, and the reason for readers."""
    lane = tomllib.loads(FILE.read_text()).get(version, {})
    return {
        name: (outcome, reason)
        for outcome in ("failed", "skipped")
        for reason, names in lane.get(outcome, {}).items()
        for name in names
    }


def differences(version: str, results: Iterable[Result]) -> list[str]:
    """Where a run was not what the file says: a test that got better counts as well, the file is for readers."""
    known = exceptions(version)
    seen = {result.name: result for result in results}
    found = [
        f"lane {version}: {name} {result.outcome} ({result.reason}), and is claimed to have {claimed}"
        for name, result in seen.items()
        if result.outcome != (claimed := known.get(name, ("passed", ""))[0])
    ]
    return found + [f"lane {version}: {name} was not run" for name in known.keys() - seen.keys()]
