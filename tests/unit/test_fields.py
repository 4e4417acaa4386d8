"""The validators that keep out what a store cannot hold."""

import math
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticCustomError

from app.models.fields import (
    INT64_MAX,
    METADATA_BYTES,
    METADATA_DEPTH,
    CollectionName,
    DocId,
    JsonInt,
    Title,
    not_blank,
    storable,
    storable_json,
)


def nested(depth: int, kind: type = list) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value] if kind is list else {"k": value}
    return value


@pytest.mark.parametrize("text", ["", "a", "가", "\U0001f600", "\x01\x1f\x7f", "\ufeff\uffff", "é"])
def test_text_that_can_be_stored(text: str) -> None:
    assert storable(text) == text


@pytest.mark.parametrize("text", ["\x00", "가\x00", "\ud800", "a\udfff", "\udc00\ud800"])
def test_text_that_cannot_be_stored(text: str) -> None:
    with pytest.raises(PydanticCustomError):
        storable(text)


@pytest.mark.parametrize("text", ["", " ", "\t\r\n", "\u3000\xa0\u2003"])
def test_blank(text: str) -> None:
    with pytest.raises(PydanticCustomError):
        not_blank(text)


@pytest.mark.parametrize(
    "value",
    [
        {}, {"": ""}, {"a": [None, True, False, 0, -0.0, 1.5, 5e-324, 1e308, INT64_MAX, -INT64_MAX - 1]},
        {"가": {"나": ["다"]}}, {"k": "x" * (METADATA_BYTES - 10)}, nested(METADATA_DEPTH, dict),
    ],
)  # fmt: skip
def test_json_that_can_be_stored(value: Any) -> None:
    assert storable_json(value) is value


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ({"a": math.nan}, "not_a_number"),
        ({"a": [math.inf]}, "not_a_number"),
        ({"a": {"b": -math.inf}}, "not_a_number"),
        ({"a": INT64_MAX + 1}, "number_too_large"),
        ({"a": -INT64_MAX - 2}, "number_too_large"),
        ({"a": 10**5000}, "number_too_large"),
        ({"a": "\x00"}, "nul_character"),
        ({"\x00": 1}, "nul_character"),
        ({"a": {"\ud800": 1}}, "lone_surrogate"),
        ([["\ud800"]], "lone_surrogate"),
        (nested(METADATA_DEPTH + 1), "too_deep"),
        (nested(METADATA_DEPTH + 1, dict), "too_deep"),
        (nested(100_000), "too_deep"),
        ({"a": "x" * METADATA_BYTES}, "too_large"),
        ({"x" * METADATA_BYTES: 1}, "too_large"),
        ({"a": [0] * METADATA_BYTES}, "too_large"),
    ],
    ids=range(16),
)
def test_json_that_cannot_be_stored(value: Any, kind: str) -> None:
    with pytest.raises(PydanticCustomError) as caught:
        storable_json(value)
    assert caught.value.type == kind


class Sample(BaseModel):
    number: JsonInt = 0
    doc_id: DocId = 1
    title: Title = "t"
    collection: CollectionName = "c"


@pytest.mark.parametrize(
    "values",
    [
        {"number": True}, {"number": 1.5}, {"number": "1"}, {"doc_id": 0}, {"doc_id": INT64_MAX + 1}, {"doc_id": True},
        {"title": "x" * 513}, {"title": ""}, {"title": " "}, {"title": 1}, {"collection": "1a"}, {"collection": "a-b"},
        {"collection": "a\n"}, {"collection": ""}, {"collection": "a" * 256}, {"collection": "é"},
    ],
    ids=lambda values: ascii(values)[:30],
)  # fmt: skip
def test_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Sample(**values)


@pytest.mark.parametrize(
    "values",
    [
        {"number": 1.0},
        {"title": "x" * 512},
        {"doc_id": INT64_MAX},
        {"collection": "_" + "a" * 254},
        {"title": "\U0001f600" * 512},
    ],
    ids=lambda values: ascii(values)[:30],
)
def test_taken(values: dict[str, Any]) -> None:
    assert Sample(**values).model_dump() == Sample().model_dump() | values
