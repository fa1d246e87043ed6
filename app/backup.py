"""A copy of an SQLite installation that is in use: the database as of one moment, and the key that belongs to it."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

from app.errors import Invalid
from app.settings import Settings
from app.vault import key_file


def copy(settings: Settings, folder: Path) -> list[Path]:
    """Copy database and kept key into a new folder that only its owner can read, while Caisson serves.

    The folder can be used as a data directory. Raises Invalid when it is there already, when there is nothing to copy,
    or when the database is not a file of Caisson's own.
    """
    if not settings.database.startswith("sqlite"):
        raise Invalid("the database is not SQLite: copy it with pg_dump, and keep CAISSON_SECRET_KEY with the copy")
    source = Path(settings.database.partition("///")[2])
    if not source.is_file():
        raise Invalid(f"there is no database at {source}")
    try:
        folder.mkdir(parents=True, mode=0o700)
    except OSError as error:
        raise Invalid(f"the folder {folder}: {error.strerror}") from None
    made = [folder / "caisson.db"]
    with closing(sqlite3.connect(source, timeout=30)) as live, closing(sqlite3.connect(made[0])) as kept:
        live.backup(kept)  # in one piece, and anew whenever somebody writes meanwhile
        if kept.execute("PRAGMA integrity_check").fetchone() != ("ok",):
            raise Invalid(f"the copy of {source} is damaged, so the database may be: look at it with sqlite3")
    if settings.secret_key is None and key_file(settings).is_file():
        made.append(folder / key_file(settings).name)
        shutil.copy2(key_file(settings), made[-1])
    for path in made:
        path.chmod(0o600)
    return made
