"""tempest and its plugins from PyPI, in a virtual environment that is kept in the cache (from ``tempest.lock``)."""

from pathlib import Path

from tests.stack import venvs

LOCK = Path(__file__).with_name("tempest.lock")


def programs() -> Path:
    """The folder of tempest's programs.

    Raises:
        StackError: it could not be installed.
    """
    return venvs.programs("tempest", LOCK)


if __name__ == "__main__":
    programs()
