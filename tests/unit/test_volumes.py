"""Where something may be mounted."""

import posixpath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import Invalid
from app.volumes import KERNEL, destination


@given(st.one_of(st.text(max_size=40), st.text(st.sampled_from("/.apro csyd"), max_size=20).map("/".__add__)))
def test_a_destination_is_a_plain_path_of_the_containers_own(path: str) -> None:
    try:
        plain = destination(path)
    except Invalid as refused:
        assert refused.title.startswith("mounts: ")  # noqa: PT017
        return
    assert plain == posixpath.normpath(plain) == destination(plain)
    assert plain.startswith("/")
    assert not plain.startswith("//")
    assert plain != "/"
    assert ".." not in plain.split("/")
    assert plain.isprintable()
    assert not any(plain == top or plain.startswith(f"{top}/") for top in KERNEL)


@pytest.mark.parametrize(
    ("given_path", "plain"), [("/data", "/data"), ("/data/", "/data"), ("/a//b/./c", "/a/b/c"), ("/procs", "/procs")]
)
def test_spellings(given_path: str, plain: str) -> None:
    assert destination(given_path) == plain
