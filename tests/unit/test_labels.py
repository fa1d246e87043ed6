"""Labels that come down, and how they differ from those above: for any labels."""

from hypothesis import given
from hypothesis import strategies as st

from app.labels import difference, merged

LABELS = st.dictionaries(st.sampled_from("abcdef"), st.text(max_size=3), max_size=6)


@given(LABELS, LABELS)
def test_given_labels_go_over_those_above(own: dict[str, str], above: dict[str, str]) -> None:
    found = merged(own, above, merge=True)
    assert found.keys() == own.keys() | above.keys()
    for key, value in found.items():
        assert value == own.get(key, above.get(key))


@given(LABELS, LABELS)
def test_given_labels_replace_those_above(own: dict[str, str], above: dict[str, str]) -> None:
    assert merged(own, above, merge=False) == (own or above)
    assert merged(None, above, merge=False) == above
    assert merged({}, above, merge=True) == above


@given(LABELS, LABELS)
def test_the_difference_tells_the_labels_above_from_the_own_ones(own: dict[str, str], above: dict[str, str]) -> None:
    found = difference(own, above)
    assert not found.added.keys() & above.keys()
    assert not found.skipped.keys() & own.keys()
    same = {key: value for key, value in own.items() if above.get(key) == value}
    assert {**same, **found.overridden, **found.skipped} == above
    assert same.keys() | found.overridden.keys() | found.added.keys() == own.keys()
    assert all(own[key] == value for key, value in found.added.items())
    assert all(own[key] != value for key, value in found.overridden.items())


@given(LABELS, LABELS)
def test_merged_labels_skip_nothing(own: dict[str, str], above: dict[str, str]) -> None:
    found = difference(merged(own, above, merge=True), above)
    assert found.skipped == {}
    assert found.added == {key: value for key, value in own.items() if key not in above}


@given(LABELS)
def test_nothing_given_is_no_difference(above: dict[str, str]) -> None:
    found = difference(merged({}, above, merge=False), above)
    assert (found.overridden, found.added, found.skipped) == ({}, {}, {})
