"""Types of single values in requests, with Zun's tolerance for strings (zun-api, conventions and section 3.3)."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

TRUE = ("True", "TRUE", "true", "1", "ON", "On", "on", "YES", "Yes", "yes")
FALSE = ("False", "FALSE", "false", "0", "OFF", "Off", "off", "NO", "No", "no")
NAME = r"^[a-zA-Z0-9][a-zA-Z0-9_.-]+$"
HOST = r"^[a-zA-Z0-9\-._]*$"


def _flag(words_true: tuple[str, ...], words_false: tuple[str, ...]) -> Any:
    def read(value: Any) -> Any:
        if value is True or value is False:
            return value
        if isinstance(value, str) and value in words_true:
            return True
        if isinstance(value, str) and value in words_false:
            return False
        allowed = ", ".join(words_true + words_false)
        raise PydanticCustomError("flag", "must be true or false, or one of: {allowed}", {"allowed": allowed})

    return read


def _whole(value: Any) -> Any:
    if isinstance(value, bool):
        raise PydanticCustomError("whole", "must be a whole number")
    if isinstance(value, str):
        if not value.isascii() or not value.isdigit() or len(value) > 18:
            raise PydanticCustomError("whole", "must be a whole number, in digits only, without a unit")
        return int(value)
    return value


def _cores(value: Any) -> Any:
    if isinstance(value, bool):
        raise PydanticCustomError("cores", "must be a number of cores")
    if isinstance(value, str):
        whole, _, fraction = value.partition(".")
        digits = whole + fraction
        if not digits.isascii() or not digits.isdigit() or len(digits) > 18:
            raise PydanticCustomError("cores", "must be a number of cores such as 0.5")
        return float(value)
    return value


Flag = Annotated[
    bool, BeforeValidator(_flag(("True", "true"), ("False", "false"))), WithJsonSchema({"type": "boolean"})
]
"""JSON true and false, or their names."""

FlagX = Annotated[bool, BeforeValidator(_flag(TRUE, FALSE)), WithJsonSchema({"type": "boolean"})]
"""As `Flag`, with yes, on, 1 and their opposites."""

Whole = Annotated[
    int, BeforeValidator(_whole), Field(strict=True, ge=0), WithJsonSchema({"type": "integer", "minimum": 0})
]
"""A number, or a string of digits."""

Count = Annotated[Whole, Field(le=2**31 - 1)]
"""As `Whole`, of things that an engine counts."""

Cores = Annotated[
    float, BeforeValidator(_cores), Field(ge=0, allow_inf_nan=False), WithJsonSchema({"type": "number", "minimum": 0})
]
"""Cores as a number or a string."""

Text = Annotated[str, Field(strict=True, max_length=64 * 1024)]
Ident = Annotated[str, Field(strict=True, min_length=1, max_length=255)]
Name = Annotated[str, Field(strict=True, min_length=2, max_length=255, pattern=NAME)]
"""A container's or registry's name."""
