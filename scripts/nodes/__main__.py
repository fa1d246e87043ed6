"""``scripts/node-image``: see its ``--help``."""

import argparse
import sys
import time
from pathlib import Path

from scripts.newcomer import engine
from scripts.newcomer.packages import SetupError
from scripts.nodes import kubernetes, kubernetes_binaries, swarm


def main() -> int:
    """Returns the exit code; 1 when something is missing, which is then the last line printed."""
    parser = argparse.ArgumentParser("scripts/node-image", add_help=False)
    kinds = parser.add_subparsers(dest="kind", required=True)
    kinds.add_parser("swarm", add_help=False).add_argument("--tag")
    of_kubernetes = kinds.add_parser("kubernetes", add_help=False)
    of_kubernetes.add_argument("--tag")
    of_kubernetes.add_argument("--suite")
    of_kubernetes.add_argument("--images", type=Path, nargs="+", default=[])
    origin = of_kubernetes.add_mutually_exclusive_group(required=True)
    origin.add_argument("--debian", action="store_true")
    origin.add_argument("--release")
    origin.add_argument("--binaries", type=Path)
    options = parser.parse_args()
    began = time.monotonic()
    try:
        image, made = _build(options)
    except SetupError as error:
        print(f"scripts/node-image: {error}", file=sys.stderr)
        return 1
    print(f"{image} ({f'made in {time.monotonic() - began:.1f} seconds' if made else 'was there'})")
    return 0


def _build(options: argparse.Namespace) -> tuple[str, bool]:
    url = engine.find()
    if url is None:
        raise SetupError("no container engine found: no DOCKER_HOST, and no socket of Docker or Podman")
    if options.kind == "swarm":
        return swarm.build(url, options.tag)
    if options.debian:
        programs = kubernetes_binaries.from_debian()
    elif options.release:
        programs = kubernetes_binaries.from_release(options.release)
    else:
        programs = options.binaries
    return kubernetes.build(url, programs, tag=options.tag, suite=options.suite, images=options.images)


if __name__ == "__main__":
    sys.exit(main())
