"""Programs that tests need and Caisson does not, in virtual environments, and their data: made once and kept."""

import hashlib
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable
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


def prepared(name: str, recipe: str, prepare: Callable[[Path], None]) -> Path:
    """A cached data directory that `prepare` fills once; it follows the text of its recipe.

    Raises:
        StackError: of `prepare`; then nothing is kept.
    """
    data = cache_directory(name) / f"data-{digest(recipe)}"
    with locked(data.with_suffix(".lock")):
        if not data.exists():
            draft = Path(tempfile.mkdtemp(prefix="draft-", dir=data.parent))
            try:
                prepare(draft)
                draft.rename(data)
            finally:
                shutil.rmtree(draft, ignore_errors=True)
    return data


def digest(text: str) -> str:
    """What names something that depends on this text and on Python's version."""
    return hashlib.sha256(f"{sys.version_info[:2]} {text}".encode()).hexdigest()[:16]
