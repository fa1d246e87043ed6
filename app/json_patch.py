"""JSON patches as Magnum takes them: three operations; maps and lists come as their text (magnum-api, 4.1.5)."""

import ast
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.errors import Invalid

INTERNAL = frozenset({"created_at", "id", "links", "updated_at", "uuid", "project_id", "user_id"})
"""What nobody changes, of whatever resource."""

Operation = tuple[str, str, Any]
"""The operation's name, its path and its value."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What a patch may touch of one kind of resource.

    `maps` and `lists` name attributes of these types; single keys of `keyed` maps have paths of their own. `kept` ones
    cannot be removed. For `numbers` a string is refused, as Magnum does.
    """

    attributes: frozenset[str]
    internal: frozenset[str] = INTERNAL
    kept: frozenset[str] = frozenset()
    maps: frozenset[str] = frozenset({"labels"})
    keyed: frozenset[str] = frozenset({"labels"})
    lists: frozenset[str] = frozenset()
    numbers: frozenset[str] = frozenset()


def patched(values: Mapping[str, Any], operations: Sequence[Operation], rules: Rules) -> dict[str, Any]:
    """All attributes after the operations, not yet validated. Raises Invalid: all operations count, or none."""
    found = {name: dict(value) if name in rules.maps else value for name, value in values.items()}
    for op, path, value in operations:
        name, *below = path.strip("/").split("/")
        _check(op, path, name, below, value, rules)
        if below:
            _patch_key(found[name], op, path, below[0], value)
        elif op == "remove":
            found[name] = _nothing(name, rules)
        elif op == "add" and found[name] not in (None, {}, []):
            raise Invalid(f"The attribute {path} has existed, please use 'replace' operation instead.")
        else:
            found[name] = _read(name, path, value, rules)
    return found


def _check(op: str, path: str, name: str, below: Sequence[str], value: Any, rules: Rules) -> None:
    if name in rules.internal:
        raise Invalid(f"'{path}' is an internal attribute and can not be updated")
    if op == "remove" and name in rules.kept and not below:
        raise Invalid(f"'{path}' is a mandatory attribute and can not be removed")
    if op != "remove" and value is None:
        raise Invalid("'add' and 'replace' operations needs value")
    if name not in rules.attributes or (below and (name not in rules.keyed or len(below) > 1)):
        if op == "add" and not below:
            raise Invalid(f"Adding a new attribute ({path}) to the root of the resource is not allowed")
        raise _cannot_apply(op, path, f"there is no attribute {path}")


def _nothing(name: str, rules: Rules) -> Any:
    return {} if name in rules.maps else [] if name in rules.lists else None


def _patch_key(values: dict[str, Any], op: str, path: str, key: str, value: Any) -> None:
    if op != "add" and key not in values:
        raise _cannot_apply(op, path, f"there is no label {key}")
    if op == "remove":
        del values[key]
    else:
        values[key] = value


def _read(name: str, path: str, value: Any, rules: Rules) -> Any:
    if name in rules.maps:
        return _literal(path, value, dict, "a map, as \"{'key': 'value'}\"")
    if name in rules.lists:
        return _literal(path, value, list, "a list, as \"[{'key': 'value'}]\"")
    if name in rules.numbers and isinstance(value, str):
        raise Invalid(f"Invalid input for field/attribute {name}. Value: '{value[:64]}'. It must be an integer.")
    return value


def _literal(path: str, value: Any, kind: type, words: str) -> Any:
    """A map or list that is sent as the text of one: Python's, or JSON."""
    for read in (ast.literal_eval, json.loads):
        try:
            found = read(value) if isinstance(value, str) else None
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        if isinstance(found, kind):
            return found
    raise Invalid(f"Invalid input for field/attribute {path}. It must be the text of {words}.")


def _cannot_apply(op: str, path: str, reason: str) -> Invalid:
    return Invalid(f"Couldn't apply patch '{op} {path}'. Reason: {reason}")
