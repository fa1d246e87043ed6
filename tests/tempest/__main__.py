"""``scripts/conformance``: runs lanes, prints every test's outcome, and compares with what is claimed."""

import argparse
import sys
import time
from collections import Counter

from tests.stack.session import Stack
from tests.tempest import expected, lane


def main() -> int:
    """The exit code: 0 when every test did what ``expected.toml`` says."""
    parser = argparse.ArgumentParser(prog="scripts/conformance", description=__doc__)
    parser.add_argument("suite", choices=["zun"])
    parser.add_argument("--lane", choices=expected.LANES, action="append", help="lowest microversion; both by default")
    parser.add_argument("--regex", default="", help="only tests whose name matches; nothing is compared then")
    given = parser.parse_args()
    wrong: list[str] = []
    stack = Stack.open()
    try:
        for version in given.lane or expected.LANES:
            started = time.monotonic()
            results = lane.run(stack, version, given.regex)
            for result in results:
                print(f"{version:5} {result.outcome:8} {result.name}  {result.reason}".rstrip())
            counted = Counter(result.outcome for result in results)
            print(
                f"lane {version}: {counted['passed']} passed, {counted['failed']} failed, {counted['skipped']} skipped "
                f"of {len(results)} in {time.monotonic() - started:.0f} s",
                flush=True,
            )
            if not given.regex:
                wrong += expected.differences(version, results)
    finally:
        stack.close()
    for line in wrong:
        print(f"scripts/conformance: {line}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
