"""JSON patches: every sequence of operations is applied to a copy as a plain dictionary would be, or refused."""

import contextlib
import copy
from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from app.errors import Invalid
from app.json_patch import INTERNAL, Operation, Rules, patched

RULES = Rules(
    frozenset({"name", "labels", "taints", "count", "size"}),
    kept=frozenset({"name"}),
    lists=frozenset({"taints"}),
    numbers=frozenset({"count"}),
)
VALUES: dict[str, Any] = {"name": "n", "labels": {"a": "1"}, "taints": [], "count": 1, "size": None}
PATHS = [*(f"/{name}" for name in (*RULES.attributes, *INTERNAL, "other")), "/labels/a", "/labels/b", "/labels/a/b"]
OPERATIONS = st.tuples(
    st.sampled_from(["add", "replace", "remove"]),
    st.sampled_from(PATHS),
    st.one_of(st.none(), st.text(max_size=5), st.integers(), st.booleans(), st.just("{'x': 'y'}"), st.just("[1]")),
)


@given(st.lists(OPERATIONS, max_size=6))
def test_what_was_there_stays_as_it_was(operations: list[Operation]) -> None:
    before = copy.deepcopy(VALUES)
    with contextlib.suppress(Invalid):
        after = patched(VALUES, operations, RULES)
        assert after.keys() == VALUES.keys()
        assert isinstance(after["labels"], dict)
        assert isinstance(after["taints"], list)
        assert after["name"] is not None
    assert before == VALUES


@given(st.lists(OPERATIONS, max_size=6))
def test_operations_count_one_after_the_other(operations: list[Operation]) -> None:
    def one_by_one() -> dict[str, Any]:
        found: dict[str, Any] = VALUES
        for operation in operations:
            found = patched(found, [operation], RULES)
        return found

    assert said(one_by_one) == said(lambda: patched(VALUES, operations, RULES))


def said(apply: Callable[[], Any]) -> Any:
    """What came of it, or the refusal."""
    try:
        return apply()
    except Invalid as error:
        return error.title


@given(st.dictionaries(st.text(max_size=3), st.text(max_size=3)))
def test_a_map_comes_as_its_text(labels: dict[str, str]) -> None:
    assert patched(VALUES, [("replace", "/labels", repr(labels))], RULES)["labels"] == labels


@given(st.text())
def test_any_text_is_a_map_or_refused(text: str) -> None:
    with contextlib.suppress(Invalid):
        assert isinstance(patched(VALUES, [("replace", "/labels", text)], RULES)["labels"], dict)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(st.lists(st.tuples(st.text(max_size=8), st.sampled_from(PATHS) | st.text(max_size=12), ANYTHING), max_size=4))
def test_any_operation_is_applied_or_refused(operations: list[Operation]) -> None:
    with contextlib.suppress(Invalid):
        assert patched(VALUES, operations, RULES).keys() == VALUES.keys()


def test_json_will_do_for_a_map_and_a_list() -> None:
    wanted: list[Operation] = [("replace", "/labels", '{"a": true}'), ("replace", "/taints", '[{"k": null}]')]
    found = patched(VALUES, wanted, RULES)
    assert (found["labels"], found["taints"]) == ({"a": True}, [{"k": None}])
    assert patched(found, [("remove", "/taints", None), ("remove", "/labels", None)], RULES)["taints"] == []
