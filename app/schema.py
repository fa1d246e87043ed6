"""Which schema a database has, compared with the one that this program needs, and how it gets there (alembic)."""

from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any

from sqlalchemy import inspect
from sqlalchemy.engine import Connection

import app
from app.errors import Invalid

NEWEST = "0002"
"""The revision of the models. Known here, since alembic, which also knows, takes a fifth of a start to load."""


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
    found = _current(connection)
    if found is None:
        return Schema(None, NEWEST, Standing.EMPTY)
    if found == NEWEST:
        return Schema(found, NEWEST, Standing.CURRENT)
    return Schema(found, NEWEST, Standing.OLD if found in known_revisions() else Standing.NEWER)


def upgrade(connection: Connection, target: str = NEWEST) -> None:
    """Bring it to a revision. Raises Invalid, and changes nothing, when the database is a newer program's."""
    found = look(connection)
    if found.standing is Standing.NEWER:
        raise Invalid(found.problem() or "")
    if found.found == target:
        return
    from alembic import command

    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, target)


def _current(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    revision: str | None = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
    return revision


@cache
def known_revisions() -> tuple[str, ...]:
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
