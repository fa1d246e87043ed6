"""Labels that come down: from a template to its clusters, from a cluster to its node groups (magnum-api, 5.1)."""

from collections.abc import Mapping
from dataclasses import dataclass

Labels = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Difference:
    """How labels differ from those above: `overridden` and `skipped` hold the values above, `added` the own ones."""

    overridden: dict[str, str]
    added: dict[str, str]
    skipped: dict[str, str]


def merged(given: Labels | None, above: Labels, *, merge: bool) -> dict[str, str]:
    """The labels of something new. Those above hold when none are given; given ones go over them, or replace them."""
    if not given:
        return dict(above)
    return {**above, **given} if merge else dict(given)


def difference(own: Labels, above: Labels) -> Difference:
    """What a user sees of the two."""
    return Difference(
        overridden={key: value for key, value in above.items() if key in own and own[key] != value},
        added={key: value for key, value in own.items() if key not in above},
        skipped={key: value for key, value in above.items() if key not in own},
    )
