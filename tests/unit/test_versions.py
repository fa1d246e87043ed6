"""Version headers, and models whose fields not every version has."""

import contextlib
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from app.apis import MAGNUM, MINIMUM, ZUN, Api, choose
from app.errors import FieldTooNew, UnknownVersion
from app.versions import MAXIMUM, ApiModel, Since, headers_for, negotiate, refuse_before, require, version


class Body(ApiModel):
    """A body with history: below 1.20 `words` was one string."""

    lifts = ((20, lambda body: body | {"words": body["words"].split()} if "words" in body else body),)

    plain: str = ""
    later: Annotated[str | None, Since(10), Field(max_length=5)] = None
    unknown: Annotated[str | None, Since(30, unknown=True)] = None
    words: list[str] | None = None


def at(minor: int, body: Any) -> Body:
    mark = version.set(minor)
    try:
        return Body.model_validate(body)
    finally:
        version.reset(mark)


@pytest.mark.parametrize("minor", range(MINIMUM, MAXIMUM + 1))
def test_every_version_is_negotiated_and_told(minor: int) -> None:
    assert negotiate(f"container 1.{minor}") == minor
    assert dict(headers_for(minor)) == {
        b"openstack-api-version": f"container 1.{minor}".encode(),
        b"openstack-api-minimum-version": b"container 1.1",
        b"openstack-api-maximum-version": b"container 1.40",
        b"vary": b"OpenStack-API-Version",
    }


WORDS = st.sampled_from(
    ["container", "container-infra", "container-infrastructure-management", "latest", "1.1", "1.40", "1.9999", "2.0",
     "1.-1", "1.01", "\u0661.\u0661", ",", " ", "\t", "\xa0"]
)  # fmt: skip
HEADERS = st.text() | st.lists(WORDS | st.text(max_size=3)).map("".join) | st.lists(WORDS).map(" ".join)


@given(HEADERS, st.sampled_from([ZUN, MAGNUM]))
def test_any_header_is_a_version_or_not_acceptable(header: str, api: Api) -> None:
    with contextlib.suppress(UnknownVersion):
        assert MINIMUM <= negotiate(header, api) <= api.maximum


@given(HEADERS, st.lists(st.sampled_from(["v1", "quotas", "clusters", "containers", "Cluster", "x"])))
def test_any_header_means_one_of_the_apis(header: str, parts: list[str]) -> None:
    assert choose(parts, header) in (ZUN, MAGNUM)


@given(st.integers(0, 9999), st.integers(0, 9999))
def test_exactly_the_range_is_accepted(major: int, minor: int) -> None:
    inside = major == 1 and MINIMUM <= minor <= MAXIMUM
    try:
        assert negotiate(f"container {major}.{minor}") == minor
        assert inside
    except UnknownVersion:
        assert not inside


@pytest.mark.parametrize("minor", range(MINIMUM, MAXIMUM + 1))
def test_fields_appear_with_their_version(minor: int) -> None:
    if minor < 10:
        with pytest.raises(FieldTooNew, match=rf"later.*1\.{minor}.*1\.10"):
            at(minor, {"later": "x"})
        for nothing in (None, ""):
            assert at(minor, {"later": nothing}).later == nothing
    else:
        assert at(minor, {"later": "x"}).later == "x"
    if minor < 30:
        with pytest.raises(ValidationError, match="unknown"):
            at(minor, {"unknown": None})
    else:
        assert at(minor, {"unknown": "x"}).unknown == "x"
    assert at(minor, {"words": "a b" if minor < 20 else ["a", "b"]}).words == ["a", "b"]
    assert at(minor, {"plain": "x"}).plain == "x"
    with pytest.raises(ValidationError, match="other"):
        at(minor, {"other": "x"})


@pytest.mark.parametrize("body", [None, [], "text", 5])
def test_what_is_no_object_is_refused_at_every_version(body: Any) -> None:
    for minor in (1, 15, 40):
        with pytest.raises(ValidationError):
            at(minor, body)


def test_the_body_that_was_sent_is_not_changed() -> None:
    body = {"words": "a b"}
    at(1, body)
    assert body == {"words": "a b"}


@pytest.mark.parametrize(("first", "last"), [(4, 40), (1, 13), (7, 12)])
def test_routes_exist_in_a_range_of_versions(first: int, last: int) -> None:
    check = require(first, last)
    for minor in range(MINIMUM, MAXIMUM + 1):
        mark = version.set(minor)
        try:
            if first <= minor <= last:
                check()
            else:
                with pytest.raises(UnknownVersion) as caught:
                    check()
                assert f"1.{minor}" in caught.value.detail
        finally:
            version.reset(mark)


def test_an_argument_can_be_refused_by_hand() -> None:
    mark = version.set(6)
    try:
        refuse_before("force", 6)
        with pytest.raises(FieldTooNew, match=r"force.*1\.6.*1\.7"):
            refuse_before("force", 7)
    finally:
        version.reset(mark)
