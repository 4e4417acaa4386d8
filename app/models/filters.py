"""Filters as callers write them; ``app.core.filters`` says what each means.

``{"type": "and", "filters": [{"type": "eq", "key": "metadata.language", "value": "ko"},
{"type": "gte", "key": "created_at", "value": "2025-01-01T00:00:00Z"}]}``
"""

import math
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)

from app.schemas import filter_tree as tree
from app.schemas.filters import COLUMNS, Kind
from app.utils.unicode import CollidingKeys, nfc, nfc_json

MAX_DEPTH = 8
MAX_CONDITIONS = 100
MAX_PATH = 8
MAX_LIST = 1000
MAX_STRING = 4096
INT64 = range(-(2**63), 2**63)

METADATA_PREFIX = "metadata."
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")  # PostgreSQL's text holds neither.


def check_string(value: str) -> str:
    if len(nfc(value)) > MAX_STRING:
        raise ValueError(f"a string of more than {MAX_STRING} characters")
    if _UNSTORABLE.search(value):
        raise ValueError("a string with a NUL character or a lone surrogate")
    return value


def check_json(value: Any) -> Any:
    """The value in NFC, if PostgreSQL can hold it: at most 8 levels deep, with at most 1,000 values in all."""
    seen, level = 0, [value]
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for item in level:
            match item:
                case None | bool():
                    pass
                case str():
                    check_string(item)
                case int() if item not in INT64:
                    raise ValueError("an integer beyond 64 bits")
                case float() if not math.isfinite(item):
                    raise ValueError("a number that is not finite")
                case int() | float():
                    pass
                case list():
                    below.extend(item)
                case dict():
                    below.extend(item)
                    below.extend(item.values())
                case _:
                    raise ValueError(f"{type(item).__name__} is not a JSON type")
        seen += len(level)
        if seen + len(below) > MAX_LIST + 1:
            raise ValueError(f"more than {MAX_LIST} values in one")
        if not below:
            return _normalized(value)
        level = below
    raise ValueError(f"nested deeper than {MAX_DEPTH} levels")


def _normalized(value: Any) -> Any:
    try:
        return nfc_json(value)
    except CollidingKeys as exc:
        raise ValueError(f"an object with the key {exc.key!r} twice: the two are the same letters in Unicode") from None


def parse_key(key: str) -> tree.Column | tree.MetadataPath:
    """``title`` or ``metadata.a.b``. Raises ValueError."""
    if key in COLUMNS:
        return tree.Column(key)
    shown = repr(check_string(key)[:100])
    if not key.startswith(METADATA_PREFIX):
        raise ValueError(f"unknown key {shown}: use metadata.<name> or one of {', '.join(COLUMNS)}")
    segments = tuple(key.removeprefix(METADATA_PREFIX).split("."))
    if not all(segments):
        raise ValueError(f"empty name in the path {shown}")
    if len(segments) > MAX_PATH:
        raise ValueError(f"more than {MAX_PATH} names in the path {shown}")
    return tree.MetadataPath(segments)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("this key takes a string")
    return value


def _integer(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError("this key takes an integer")
    return value


def _tags(value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(tag, str) for tag in value):
        raise ValueError("this key takes a list of strings")
    return value


def _time(value: Any) -> datetime:
    """ISO 8601; without a zone it is UTC."""
    try:
        parsed = datetime.fromisoformat(value)
        return parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed.astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        raise ValueError("this key takes a time in ISO 8601, such as 2025-01-31T09:00:00+09:00") from None


_BY_KIND: dict[Kind, Callable[[Any], Any]] = {"text": _text, "tags": _tags, "time": _time, "integer": _integer}


def _kind(info: ValidationInfo) -> Kind | None:
    """What kind of column the condition's key is; None for metadata, or if the key itself was refused."""
    key = info.data.get("key")
    return COLUMNS[key].kind if key in COLUMNS else None


def _fit(value: Any, info: ValidationInfo) -> Any:
    kind = _kind(info)
    return value if kind is None else _BY_KIND[kind](value)


def _check_key(key: str) -> str:
    key = nfc(key)
    parse_key(key)
    return key


Key = Annotated[
    str,
    AfterValidator(_check_key),
    Field(
        description=f"metadata.<name>[.<name>...], or one of {', '.join(COLUMNS)}",
        examples=["metadata.language"],
        json_schema_extra={"pattern": rf"^(?:{'|'.join(COLUMNS)}|metadata(?:\.[^.]+){{1,{MAX_PATH}}})$"},
    ),
]
Value = Annotated[Any, AfterValidator(check_json)]


class _Node(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)


class _Condition(_Node):
    type: tree.Op
    key: Key
    value: Any

    def to_core(self) -> tree.Filter:
        return tree.Condition(self.type, parse_key(self.key), self.value)


class Equality(_Condition):
    """The key holds (``ne``: does not hold) this very value."""

    type: Literal["eq", "ne"]
    value: Value

    _fitting = field_validator("value")(_fit)


class Comparison(_Condition):
    """Numbers against numbers, strings against strings by code point, times against times."""

    type: Literal["gt", "gte", "lt", "lte"]
    value: Annotated[Value, WithJsonSchema({"type": ["number", "string"], "title": "Value"})]

    @field_validator("value")
    @classmethod
    def _ordered(cls, value: Any, info: ValidationInfo) -> Any:
        if _kind(info) == "tags":
            raise ValueError("tags have no order: use contains, eq or in")
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise ValueError("only numbers and strings have an order")
        return _fit(value, info)


class Membership(_Condition):
    """The key holds (``nin``: holds none of) one of these values."""

    type: Literal["in", "nin"]
    value: Annotated[list[Value], Field(max_length=MAX_LIST)]

    @field_validator("value")
    @classmethod
    def _fitting(cls, value: list[Any], info: ValidationInfo) -> list[Any]:
        return [_fit(item, info) for item in value]


class Containment(_Condition):
    """The key's array has this element, or the key's string has this one inside."""

    type: Literal["contains"]
    value: Value

    @field_validator("value")
    @classmethod
    def _contained(cls, value: Any, info: ValidationInfo) -> Any:
        kind = _kind(info)
        if kind in ("time", "integer"):
            raise ValueError("this key contains nothing: use eq or a comparison")
        return value if kind is None else _text(value)


class Existence(_Condition):
    """The key is there (``false``: is not)."""

    type: Literal["exists"]
    value: bool = True


class Group(_Node):
    """All of these (``and``), or at least one (``or``)."""

    type: Literal["and", "or"]
    filters: Annotated[list["_Filter"], Field(min_length=1, max_length=MAX_CONDITIONS)]

    def to_core(self) -> tree.Filter:
        filters = tuple(filter.to_core() for filter in self.filters)
        return tree.And(filters) if self.type == "and" else tree.Or(filters)


class Negation(_Node):
    """Exactly the documents that the inner filter leaves out."""

    type: Literal["not"]
    filter: "_Filter"

    def to_core(self) -> tree.Filter:
        return tree.Not(self.filter.to_core())


_Filter = Annotated[
    Equality | Comparison | Membership | Containment | Existence | Group | Negation, Field(discriminator="type")
]


def _bound(value: Any) -> Any:
    """Refuses a filter that is too deep or too large before anything recursive looks at it."""
    conditions, level = 0, [("filter", value)]
    for _ in range(MAX_DEPTH):
        below: list[tuple[str, Any]] = []
        for place, node in level:
            inner = _inner(node)
            below.extend((f"{place}.{name}", item) for name, item in inner)
            conditions += not inner
        if conditions + len(below) > MAX_CONDITIONS:
            raise ValueError(f"more than {MAX_CONDITIONS} conditions")
        if not below:
            return value
        level = below
    raise ValueError(f"nested deeper than {MAX_DEPTH} levels at {level[0][0]}")


def _inner(node: Any) -> list[tuple[str, Any]]:
    match node:
        case {"filters": list(filters)}:
            return [(f"filters.{number}", item) for number, item in enumerate(filters[: MAX_CONDITIONS + 1])]
        case {"filter": filter}:
            return [("filter", filter)]
    return []


Filter = Annotated[_Filter, BeforeValidator(_bound)]
"""The type of a request's ``filter`` field."""
