"""One process on one SQLite database: a lock file says so."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager

from app.errors import Invalid
from app.settings import Settings


@contextmanager
def only_process(settings: Settings) -> Iterator[None]:
    """Hold the data directory's lock. Raises Invalid when another process has it; replicas need PostgreSQL."""
    if not settings.database.startswith("sqlite"):
        yield
        return
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    with (settings.data_dir / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Invalid(
                f"another Caisson uses {settings.data_dir}; several replicas need PostgreSQL (CAISSON_DATABASE_URL)"
            ) from None
        yield
