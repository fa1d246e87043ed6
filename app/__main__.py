"""The command line: ``caisson serve | migrate | check | backup | secrets … | drivers list | policy sample``.

`app.commands` does what is said here.
"""

import argparse
import gc
import sys
from collections.abc import Sequence
from pathlib import Path

from app import __version__


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code; what is wrong is one line on standard error."""
    options = _parser().parse_args(arguments)
    # What is loaded stays. To look for garbage in it while it grows takes a sixth of the time.
    gc.disable()
    from app import commands

    gc.freeze()
    gc.enable()
    return commands.run(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("caisson", description="OpenStack's container services in one process.")
    parser.add_argument("--version", action="version", version=f"caisson {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("serve", help="serve the API")
    serve.add_argument("--host", help="address to listen on (CAISSON_HOST)")
    serve.add_argument("--port", type=int, help="port to listen on (CAISSON_PORT)")
    serve.add_argument("--data-dir", help="where database and keys are kept (CAISSON_DATA_DIR)")
    commands.add_parser("migrate", help="bring the database to the newest schema")
    commands.add_parser("check", help="say whether settings, keys, database, identity and engines are fit to serve")
    backup = commands.add_parser("backup", help="copy an SQLite database and its key, while it is in use")
    backup.add_argument("folder", type=Path, help="a new folder, which can serve as a data directory")
    _secrets_parser(commands.add_parser("secrets", help="keys that encrypt secrets at rest"))
    drivers = commands.add_parser("drivers", help="show which kinds of clusters can be made")
    drivers.add_argument("what", choices=["list"])
    drivers.add_argument("-d", "--details", action="store_true", help="show server type, operating system and COE")
    drivers.add_argument("-f", "--format", choices=["table", "json"], default="table")
    commands.add_parser("policy", help="print a policy.yaml with every rule").add_argument("what", choices=["sample"])
    return parser


def _secrets_parser(parser: argparse.ArgumentParser) -> None:
    """Keys come in files and go out on standard output: whoever lists processes sees command lines."""
    verbs = parser.add_subparsers(dest="what", required=True)
    verbs.add_parser("new-key", help="print a new key for CAISSON_SECRET_KEY")
    rotate = verbs.add_parser("rotate", help="encrypt every secret anew under the newest key")
    rotate.add_argument("--key-file", type=Path, help="take the new key from this file; it is made when absent")


if __name__ == "__main__":
    sys.exit(main())
