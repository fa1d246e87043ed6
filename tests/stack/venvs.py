"""Virtual environments of programs that tests need and Caisson does not: made from a lock, kept in the cache."""

import hashlib
import subprocess
import sys
import venv
from pathlib import Path

from scripts.newcomer.packages import locked
from tests.stack.session import StackError, cache_directory


def programs(name: str, lock: Path) -> Path:
    """The folder of the programs that a lock installs, in a cached virtual environment that follows the lock.

    Raises:
        StackError: pip failed; the text says why.
    """
    home = cache_directory(name) / f"venv-{digest(lock.read_text())}"
    with locked(home.with_suffix(".lock")):
        if not (home / "complete").exists():
            venv.create(home, clear=True, with_pip=True)
            command = [str(home / "bin" / "python"), "-m", "pip", "install", "-qq", "--require-hashes", "-r", str(lock)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise StackError(f"{name} could not be installed: {done.stderr}")
            (home / "complete").touch()
    return home / "bin"


def digest(text: str) -> str:
    """What names something that depends on this text and on Python's version."""
    return hashlib.sha256(f"{sys.version_info[:2]} {text}".encode()).hexdigest()[:16]
