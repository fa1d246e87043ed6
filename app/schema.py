"""Which schema a database has, compared with the one that this program needs, and how it gets there (alembic)."""

from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any

from sqlalchemy.engine import Connection

import app
from app.errors import Invalid


class Standing(StrEnum):
    """How a database's schema compares with the program's."""

    EMPTY = "empty"
    OLD = "old"
    CURRENT = "current"
    NEWER = "newer"


@dataclass(frozen=True, slots=True)
class Schema:
    """`found` is the database's revision, None when it has no tables; `needed` the program's."""

    found: str | None
    needed: str
    standing: Standing

    def problem(self) -> str | None:
        """A sentence that says what to do; None when the program fits."""
        match self.standing:
            case Standing.EMPTY:
                return "the database is empty: run caisson migrate"
            case Standing.OLD:
                return f"the database has schema {self.found}, this Caisson needs {self.needed}: run caisson migrate"
            case Standing.NEWER:
                return (
                    f"the database has schema {self.found}, made by a newer Caisson; this one knows schemas up to "
                    f"{self.needed}: install the newer version again, or restore the backup from before the upgrade"
                )
        return None


def look(connection: Connection) -> Schema:
    """The schema behind a connection."""
    from alembic.runtime.migration import MigrationContext

    known = _revisions()
    found = MigrationContext.configure(connection).get_current_revision()
    if found is None:
        return Schema(None, known[0], Standing.EMPTY)
    if found == known[0]:
        return Schema(found, found, Standing.CURRENT)
    return Schema(found, known[0], Standing.OLD if found in known else Standing.NEWER)


def upgrade(connection: Connection, target: str = "head") -> None:
    """Bring it to a revision. Raises Invalid, and changes nothing, when the database is a newer program's."""
    from alembic import command

    found = look(connection)
    if found.standing is Standing.NEWER:
        raise Invalid(found.problem() or "")
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, target)


@cache
def _revisions() -> tuple[str, ...]:
    """Every revision that this program knows, the newest first."""
    from alembic.script import ScriptDirectory

    return tuple(script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions())


def _config() -> Any:
    from alembic.config import Config

    # A wheel carries the migrations inside the package; beside it, in site-packages, lies the library of that name.
    package = Path(app.__file__).parent
    packed = package / "migrations"
    config = Config()
    config.set_main_option("script_location", str(packed if packed.is_dir() else package.parent / "alembic"))
    return config
