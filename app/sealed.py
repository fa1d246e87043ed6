"""Which columns hold secrets, and how these get under a new key. Rules for an operator: docs/operations.md.

Rows are sealed anew a few at a time, each by a compare-and-swap on the sealed text: what a replica changes meanwhile is
never overwritten, a crash leaves every row under a key that is still known, and running it again finishes the work.
"""

from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

from sqlalchemy import inspect, tuple_, update
from sqlalchemy import select as select_columns
from sqlmodel import SQLModel

from app.db import EVERYTHING, Database
from app.errors import Invalid
from app.lock import only_process
from app.models import ClusterKey, IdentityKey, InjectedFile, Registry
from app.settings import Settings
from app.vault import Vault, keep_keys, kept_keys, key_file, new_key, open_vault

SEALED: tuple[tuple[type[SQLModel], str], ...] = (
    (ClusterKey, "private_key"),
    (IdentityKey, "private_pem"),
    (InjectedFile, "content"),
    (Registry, "password"),
)
"""Every column whose text `Vault.seal` made; a test compares it with the models and with what is really stored."""

BATCH = 20  # rows: an injected file may have a megabyte


async def reseal(database: Database, vault: Vault) -> int:
    """Put every secret under the vault's newest key; returns how many were not. The database has the newest schema.

    Raises:
        Invalid: some fit none of the keys; the others are done.
        Busy: the database cannot answer.
    """
    changed, misfits = 0, list[str]()
    for model, name in SEALED:
        column = getattr(model, name)
        async for batch in _batches(model, name, database):
            swaps = []
            for *key, sealed in batch:
                if vault.is_newest(sealed):
                    continue
                try:
                    swaps.append((key, sealed, vault.reseal(sealed)))
                except Invalid:
                    misfits.append(f"{_table(model)}.{name} of {'/'.join(map(str, key))}")
            async with database.transaction(EVERYTHING) as session:
                for key, old, new in swaps:
                    where = [part == value for part, value in zip(_key(model), key, strict=True)]
                    change = update(model).where(*where, column == old).values({name: new})
                    await session.exec(change.execution_options(synchronize_session=False))
            changed += len(swaps)
    if misfits:
        more = f" and {len(misfits) - 5} more" if len(misfits) > 5 else ""
        raise Invalid(f"{len(misfits)} secrets fit none of the keys: {', '.join(misfits[:5])}{more}")
    return changed


async def count(database: Database, vault: Vault) -> Counter[str]:
    """How many secrets are under the ``newest`` key, under ``older`` ones, and under none that is known (``lost``)."""
    found: Counter[str] = Counter()
    for model, name in SEALED:
        async for batch in _batches(model, name, database):
            for *_, sealed in batch:
                if vault.is_newest(sealed):
                    found["newest"] += 1
                    continue
                try:
                    vault.open(sealed)
                    found["older"] += 1
                except Invalid:
                    found["lost"] += 1
    return found


async def rotate(settings: Settings, given: str | None) -> int:
    """Put every secret under a new key; returns how many were sealed anew.

    Keys that are kept in the data directory: the new one, `given` or made here, is written beside the old one first,
    and the old one is dropped last; a rotation that was broken off is finished. No process may serve meanwhile.
    Keys that settings give: everything goes under CAISSON_SECRET_KEY, also while replicas serve.

    Raises:
        Invalid: there is nothing to rotate to, a process serves, or some secrets fit none of the keys.
        Busy: the database cannot answer.
    """
    database = Database(settings.database)
    try:
        await database.require_schema()
        if settings.secret_key is not None:
            if given is not None:
                raise Invalid(
                    "the settings give the key: put the new one into CAISSON_SECRET_KEY and the old one into "
                    "CAISSON_OTHER_SECRET_KEYS, of every replica"
                )
            return await reseal(database, open_vault(settings))
        with only_process(settings):
            open_vault(settings)  # says what is wrong with the keys
            path = key_file(settings)
            keys = kept_keys(path)
            if len(keys) == 1 or given not in (None, keys[0]):
                keys = [given or new_key(), *keys]
                keep_keys(path, keys)
            changed = await reseal(database, Vault(*keys))
            keep_keys(path, keys[:1])
            return changed
    finally:
        await database.close()


async def _batches(model: type[SQLModel], name: str, database: Database) -> AsyncIterator[list[Any]]:
    """Rows of a table that have the secret: the parts of their primary key, and the sealed text."""
    key, column = _key(model), getattr(model, name)
    last: tuple[Any, ...] | None = None
    while True:
        query: Any = select_columns(*key, column).where(column.is_not(None)).order_by(*key).limit(BATCH)
        if last is not None:
            query = query.where(tuple_(*key) > last)
        async with database.reading(EVERYTHING) as session:
            rows = list((await session.exec(query)).all())
        if not rows:
            return
        yield rows
        last = tuple(rows[-1][:-1])


def _key(model: type[SQLModel]) -> list[Any]:
    mapper: Any = inspect(model)
    return [getattr(model, mapper.get_property_by_column(column).key) for column in mapper.primary_key]


def _table(model: type[SQLModel]) -> str:
    return str(model.__tablename__)
