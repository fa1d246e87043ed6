"""``scripts/node-image``: see its ``--help``."""

import argparse
import sys
import time

from scripts.newcomer import engine
from scripts.newcomer.packages import SetupError
from scripts.nodes import swarm

KINDS = {"swarm": swarm.build}


def main() -> int:
    """Returns the exit code; 1 when something is missing, which is then the last line printed."""
    parser = argparse.ArgumentParser("scripts/node-image", add_help=False)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--tag")
    options = parser.parse_args()
    began = time.monotonic()
    try:
        url = engine.find()
        if url is None:
            raise SetupError("no container engine found: no DOCKER_HOST, and no socket of Docker or Podman")
        image, made = KINDS[options.kind](url, options.tag)
    except SetupError as error:
        print(f"scripts/node-image: {error}", file=sys.stderr)
        return 1
    print(f"{image} ({f'made in {time.monotonic() - began:.1f} seconds' if made else 'was there'})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
