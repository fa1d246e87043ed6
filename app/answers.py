"""Rendered answers, each good until a row of its scope changes.

One process owns an SQLite database, so it sees every change and counts them. Replicas on PostgreSQL do not see each
other's changes: there the database is asked, see `Database.remembered`. What is kept belongs to one scope, and is found
only from that scope; see docs/scoping.md.
"""

import time
from collections import Counter
from collections.abc import Hashable, Iterable
from dataclasses import dataclass

from cachetools import LRUCache

LARGEST = 32 * 1024 * 1024  # bytes of all answers together


@dataclass(frozen=True, slots=True)
class Answer:
    """A body, and the epoch seconds until which nothing in it changes by itself."""

    content: bytes
    good_until: float


class Answers:
    """Each answer is kept with a mark of what the rows were, and found while the mark is the same."""

    def __init__(self) -> None:
        self._kept: LRUCache[Hashable, tuple[Hashable, Answer]] = LRUCache(
            LARGEST, lambda kept: len(kept[1].content) + 200
        )
        self._changes: Counter[str | None] = Counter()

    def changed(self, project_ids: Iterable[str]) -> None:
        """Rows of these projects were written and committed by this process."""
        for project_id in project_ids:
            self._changes[project_id] += 1
            self._changes[None] += 1

    def count(self, project_id: str | None) -> int:
        """How often that project (None: any) changed: a mark where no other process writes."""
        return self._changes[project_id]

    def find(self, project_id: str | None, key: Hashable, mark: Hashable) -> bytes | None:
        """The body kept under `key`, if it is still good."""
        kept = self._kept.get((project_id, key))
        if kept is None or kept[0] != mark or kept[1].good_until <= time.time():
            return None
        return kept[1].content

    def keep(self, project_id: str | None, key: Hashable, mark: Hashable, answer: Answer) -> None:
        """Keep an answer that was made from rows read after `mark` was."""
        if len(answer.content) < LARGEST // 8:
            self._kept[project_id, key] = (mark, answer)
