"""A short run of ``scripts/fuzz``, the same each time."""

from tests.fuzz import Fuzz, served


def test_any_request_is_answered_as_described() -> None:
    with served() as (url, tokens):
        fuzz = Fuzz(url, tokens, 1)
        fuzz.ask_each(2)
        fuzz.follow_links(12)
    assert fuzz.findings == {}
    assert fuzz.answers.total() >= 450
    assert len(fuzz.reached) >= 60
    assert {200, 201, 202, 204, 400, 403, 404, 406} <= fuzz.answers.keys()
