"""Single values of requests: whatever is sent is read as the contract says or refused, and nothing else happens."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from app.routers.fields import FALSE, TRUE, Cores, Count, Flag, FlagX, Name, Whole

VALUES: Any = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.text(alphabet="0123456789.-+eE_ ٣", max_size=22),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=2), st.integers(), max_size=2),
)
REFUSED = object()


def read(kind: Any, value: Any) -> Any:
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError:
        return REFUSED


@given(value=VALUES)
def test_a_whole_number_is_one_that_is_not_negative_or_its_digits(value: Any) -> None:
    if isinstance(value, str):
        expected = int(value) if value.isascii() and value.isdigit() and len(value) <= 18 else REFUSED
    else:
        expected = value if type(value) is int and value >= 0 else REFUSED
    assert read(Whole, value) == expected
    small = isinstance(expected, int) and expected < 2**31
    assert read(Count, value) == (expected if small else REFUSED)


@given(value=VALUES)
def test_cores_are_a_finite_number_that_is_not_negative_or_its_decimals(value: Any) -> None:
    found = read(Cores, value)
    if isinstance(value, str):
        whole, _, fraction = value.partition(".")
        digits = whole + fraction
        plain = digits.isascii() and digits.isdigit() and len(digits) <= 18
        assert found == (float(value) if plain else REFUSED)
    elif isinstance(value, bool) or not isinstance(value, int | float):
        assert found is REFUSED
    else:
        assert found == (float(value) if 0 <= value < float("inf") else REFUSED)


@given(value=VALUES | st.sampled_from([*TRUE, *FALSE]))
def test_a_flag_is_true_or_false_or_one_of_their_names(value: Any) -> None:
    names = {True: TRUE, False: FALSE}
    truth = value if isinstance(value, bool) else {name: flag for flag in names for name in names[flag]}.get(
        value if isinstance(value, str) else "", REFUSED
    )  # fmt: skip
    assert read(FlagX, value) is truth
    strict = isinstance(value, bool) or value in ("True", "true", "False", "false")
    assert read(Flag, value) is (truth if strict else REFUSED)


@given(value=VALUES | st.from_regex(r"[a-zA-Z0-9_.\-]{1,300}", fullmatch=True))
def test_a_name_is_plain_ascii_and_stays_as_it_is(value: Any) -> None:
    found = read(Name, value)
    plain = isinstance(value, str) and value.isascii() and 2 <= len(value) <= 255
    taken = plain and value[0].isalnum() and all(letter.isalnum() or letter in "_.-" for letter in value)
    assert found == (value if taken else REFUSED)


@pytest.mark.parametrize("text", ["ab\n", "a b", "-a", "", "a", "a" * 256, "é" * 3])
def test_names_that_are_none(text: str) -> None:
    assert read(Name, text) is REFUSED
