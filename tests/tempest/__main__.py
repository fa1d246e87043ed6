"""``scripts/conformance``: runs lanes, prints every test's outcome, and compares with what is claimed."""

import argparse
import sys
import time
from collections import Counter

from tests.stack.session import Stack
from tests.tempest import expected, magnum, zun

SUITES = {suite.name: suite for suite in (magnum.SUITE, zun.SUITE)}


def main() -> int:
    """The exit code: 0 when every test did what the suite's list says."""
    parser = argparse.ArgumentParser(prog="scripts/conformance", description=__doc__)
    parser.add_argument("suite", choices=SUITES)
    parser.add_argument("--lane", action="append", help="all by default; for zun the lowest microversion")
    parser.add_argument("--regex", default="", help="only tests whose name matches; nothing is compared then")
    given = parser.parse_args()
    suite = SUITES[given.suite]
    if unknown := set(given.lane or ()) - set(suite.lanes):
        parser.error(f"no lane {unknown.pop()}; there are {', '.join(suite.lanes)}")
    wrong: list[str] = []
    stack = Stack.open()
    try:
        for lane in given.lane or suite.lanes:
            started = time.monotonic()
            results = suite.run(stack, lane, given.regex)
            for result in results:
                print(f"{lane:5} {result.outcome:8} {result.name}  {result.reason}".rstrip())
            counted = Counter(result.outcome for result in results)
            print(
                f"lane {lane}: {counted['passed']} passed, {counted['failed']} failed, {counted['skipped']} skipped "
                f"of {len(results)} in {time.monotonic() - started:.0f} s",
                flush=True,
            )
            if not given.regex:
                wrong += expected.differences(suite, lane, results)
    finally:
        stack.close()
    for line in wrong:
        print(f"scripts/conformance: {line}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
