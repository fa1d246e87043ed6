"""What pydantic finds, in Zun's words."""

from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, ValidationError

from app.refusals import magnum_sentence, sentence
from app.routers.fields import Cores, Flag, FlagX, Name, Whole
from app.versions import ApiModel


class Inner(ApiModel):
    """One field."""

    number: Whole = 0


class Model(ApiModel):
    """Fields of each kind."""

    image: str
    name: Name | None = None
    memory: Whole = 0
    cpu: Cores = 0.0
    flag: Flag = False
    flagx: FlagX = False
    choice: Literal["a", "b"] = "a"
    inner: Inner = Inner()
    many: Annotated[list[Inner] | None, Field(max_length=2)] = None
    mapped: dict[Annotated[str, Field(min_length=1)], str] | None = None
    password: Annotated[str, Field(max_length=3)] = ""


def told(**fields: Any) -> str:
    try:
        Model.model_validate({"image": "x"} | fields)
    except ValidationError as error:
        errors: list[Any] = error.errors()
        return sentence([{**found, "loc": ("body", *found["loc"])} for found in errors])
    raise AssertionError("accepted")


@pytest.mark.parametrize(
    ("fields", "start", "words"),
    [
        ({"bogus": 1}, "Additional properties are not allowed ('bogus' was unexpected)", []),
        ({"inner": {"bogus": 1}}, "Additional properties are not allowed ('bogus' was unexpected)", []),
        ({"image": 5}, "Invalid input for field 'image'. Value: '5'.", ["string"]),
        ({"image": None}, "Invalid input for field 'image'. Value: 'None'.", []),
        ({"name": "a"}, "Invalid input for field 'name'. Value: 'a'.", ["2"]),
        ({"name": "bad name"}, "Invalid input for field 'name'. Value: 'bad name'.", ["pattern"]),
        ({"memory": "1m"}, "Invalid input for field 'memory'. Value: '1m'.", ["digits"]),
        ({"memory": -1}, "Invalid input for field 'memory'. Value: '-1'.", ["0"]),
        ({"memory": True}, "Invalid input for field 'memory'. Value: 'True'.", ["whole number"]),
        ({"cpu": "x"}, "Invalid input for field 'cpu'. Value: 'x'.", ["cores"]),
        ({"cpu": float("nan")}, "Invalid input for field 'cpu'. Value: 'nan'.", []),
        ({"flag": "maybe"}, "Invalid input for field 'flag'. Value: 'maybe'.", ["True, true, False, false"]),
        ({"flagx": 1}, "Invalid input for field 'flagx'. Value: '1'.", ["yes", "off"]),
        ({"choice": "c"}, "Invalid input for field 'choice'. Value: 'c'.", ["'a'", "'b'"]),
        ({"inner": {"number": "x"}}, "Invalid input for field 'number'. Value: 'x'.", []),
        ({"many": [{}, {"number": "x"}]}, "Invalid input for field 'number'. Value: 'x'.", []),
        ({"many": [{}, {}, {}]}, "Invalid input for field 'many'.", ["2"]),
        ({"many": [5]}, "Invalid input for field '0'. Value: '5'.", []),
        ({"mapped": {"": "x"}}, "Invalid input for field 'mapped'. Value: ''.", ["1"]),
        ({"mapped": {"k": 5}}, "Invalid input for field 'k'. Value: '5'.", []),
    ],
)
def test_sentences(fields: dict[str, Any], start: str, words: list[str]) -> None:
    text = told(**fields)
    assert text.startswith(start)
    assert [word for word in words if word not in text] == []


def test_what_is_missing_is_named() -> None:
    with pytest.raises(ValidationError) as caught:
        Model.model_validate({})
    errors: list[Any] = caught.value.errors()
    assert sentence(errors) == "'image' is a required property"


def test_long_and_deep_values_are_cut() -> None:
    deep: Any = []
    for _ in range(900):
        deep = [deep]
    for value in ("x" * 10_000, {"k": ["x" * 1000] * 1000}, deep, 10**4000, list(range(100_000))):
        assert len(told(choice=value)) < 600


def test_passwords_are_not_shown() -> None:
    for fields in ({"password": "secret"}, {"inner": [{"password": "secret"}]}, {"image": {"password": "secret"}}):
        assert "secret" not in told(**fields)


@pytest.mark.parametrize(
    ("errors", "said"),
    [
        ({"type": "missing", "loc": ("body", "image_id")}, "image_id. Value: 'None'. Mandatory field missing."),
        ({"type": "missing", "loc": ("body",)}, 'Missing argument: "body"'),
        ({"type": "extra_forbidden", "loc": ("body", "bogus")}, "Unknown attribute for argument body: bogus"),
        ({"type": "json_invalid", "loc": ("body", 3)}, "Request is not in valid JSON format"),
        (
            {"type": "x", "loc": ("body", "coe"), "input": "nope", "msg": "It is none."},
            "Invalid input for field/attribute coe. Value: 'nope'. It is none.",
        ),
        ({"type": "x", "loc": ("body", "a"), "input": "y" * 999, "msg": "long"}, "y" * 255 + "…'. long"),
    ],
)
def test_magnums_words(errors: dict[str, Any], said: str) -> None:
    assert said in magnum_sentence([errors])
