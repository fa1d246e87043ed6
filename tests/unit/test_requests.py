"""How queries and content types are read: whatever comes is taken as it is meant, or refused."""

from contextlib import suppress
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from fastapi import Request
from hypothesis import given
from hypothesis import strategies as st

from app.containers import COLUMNS
from app.errors import Invalid, WrongContentType
from app.gate import plain_type
from app.models import Container
from app.pages import Page
from app.routers.containers import FILTERS
from app.routers.magnum_fields import magnum_json
from app.routers.requests import json_only

NAMES = ("limit", "marker", "sort_key", "sort_dir", "all_projects", *FILTERS)
VALUES = st.text() | st.sampled_from(["0", "-1", "7", "\u0667", "9" * 5000, "asc", "desc", *COLUMNS])
QUERIES = st.dictionaries(st.sampled_from(NAMES), VALUES) | st.dictionaries(st.text(), VALUES)


ROW = Container(id=7, uuid="u", name="n", project_id="p", user_id="u", created_at=1.0, image="i", backend="b")


def page(query: dict[str, str], mark: str) -> Page:
    return Page(query, "http://h/v1", 5, Container, COLUMNS, FILTERS, mark=mark)


@given(QUERIES, st.sampled_from(["uuid", "id"]))
def test_a_next_link_asks_for_the_same(query: dict[str, str], mark: str) -> None:
    with suppress(Invalid):
        asked = page(query, mark)
        assert 1 <= asked.limit <= 5
        rows = [ROW] * asked.limit
        assert asked.next("containers", rows[1:]) is None
        link = urlsplit(asked.next("containers", rows) or "")
        again = dict(parse_qsl(link.query, keep_blank_values=True))
        follow = page(again, mark)
        assert (follow.limit, follow.key, follow.descending) == (asked.limit, asked.key, asked.descending)
        assert follow.marker == {"uuid": "u", "id": "7"}[mark]
        paging = {"limit", "marker", "sort_key", "sort_dir"}
        assert {name: again[name] for name in again.keys() - paging} == {
            name: query[name] for name in query.keys() - paging
        }


JSON = "application/json"
SCRIPTS = ("text/javascript", "application/javascript")
TYPES = st.binary(max_size=40) | st.lists(
    st.sampled_from([JSON, JSON.upper(), *SCRIPTS, ";", "charset=utf-16", " ", ",", "multipart/form-data", "/"])
).map(lambda parts: "".join(parts).encode())


@given(TYPES)
def test_a_body_is_json_by_its_type_or_refused(kind: bytes) -> None:
    words = kind.decode("latin-1").partition(";")[0].strip().lower()
    for check, good in ((json_only, (JSON,)), (magnum_json, (JSON, *SCRIPTS))):
        header = (b"content-type", kind) if check is json_only else plain_type(b"content-type", kind)
        assert _taken(check, header) == (words in good)


def _taken(check: Any, header: tuple[bytes, bytes]) -> bool:
    try:
        check(Request({"type": "http", "headers": [header]}))
    except WrongContentType:
        return False
    return True
