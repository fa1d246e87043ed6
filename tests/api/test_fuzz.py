"""A short run of ``scripts/fuzz``, the same each time."""

from tests.fuzz import ENGINES, Fuzz, served


def test_any_request_is_answered_as_described() -> None:
    with served() as (url, token):
        fuzz = Fuzz(url, token, 1, ENGINES)
        fuzz.ask_each(3)
        fuzz.follow_links(12)
    assert fuzz.findings == {}
    assert fuzz.answers.total() >= 550
    assert {200, 201, 202, 204, 400, 404} <= fuzz.answers.keys()
