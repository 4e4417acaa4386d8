"""Filters as callers write them; ``app.schemas.filter_tree`` says what each means.

``{"type": "and", "filters": [{"type": "eq", "key": "metadata.language", "value": "ko"},
{"type": "gte", "key": "created_at", "value": "2025-01-01T00:00:00Z"}]}``
"""

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)
from typing_extensions import TypeAliasType  # As in Python 3.12.

from app.models.filter_types import check_type
from app.models.filter_values import (
    MAX_CONDITIONS,
    MAX_DEPTH,
    MAX_LIST,
    MAX_PATH,
    check_json,
    fit,
    kind_of,
    parse_key,
    text_of,
    time_of,
)
from app.schemas import filter_tree as tree
from app.schemas.filters import COLUMNS

MAX_ICONTAINS = 256

Key = Annotated[
    Any,
    PlainValidator(parse_key),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": rf"^(?:{'|'.join(COLUMNS)}|metadata(?:\.[^.]+){{1,{MAX_PATH}}})$"},
                {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": MAX_PATH + 1},
            ],
            "description": f"metadata.<name>[.<name>...], or one of {', '.join(COLUMNS)}; as a list of names where one "
            'of them has dots: ["metadata", "a.b"]',
            "examples": ["metadata.language"],
        }
    ),
]
Value = Annotated[Any, AfterValidator(check_json)]
As = Annotated[
    Literal["time"] | None,
    Field(
        alias="as",
        description='"time": the value and the strings in metadata are times in ISO 8601; a string that is none never '
        "matches.",
    ),
]


class _Node(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)


class _Condition(_Node):
    type: tree.Op
    key: Key

    def to_core(self) -> tree.Filter:
        value: Any = self.value  # type: ignore[attr-defined] # Each has one, after what it depends on.
        return tree.Condition(self.type, self.key, value)


def _typed(value: Any, info: ValidationInfo) -> Any:
    """As the key's kind, or as a time where that is asked for."""
    key = info.data.get("key")
    if info.data.get("as_type") is None:
        return fit(value, key)
    if kind_of(key) not in (None, "time"):
        raise ValueError('"as": "time" is for times in metadata; this key has a type of its own')
    return time_of(value)


class Equality(_Condition):
    """The key holds (``ne``: does not hold) this very value."""

    type: Literal["eq", "ne"]
    as_type: As = None
    value: Value

    _fitting = field_validator("value")(_typed)


class Comparison(_Condition):
    """Numbers against numbers, strings against strings by code point, times against times."""

    type: Literal["gt", "gte", "lt", "lte"]
    as_type: As = None
    value: Annotated[Value, WithJsonSchema({"type": ["number", "string"], "title": "Value"})]

    @field_validator("value")
    @classmethod
    def _ordered(cls, value: Any, info: ValidationInfo) -> Any:
        if kind_of(info.data.get("key")) == "tags":
            raise ValueError("tags have no order: use contains, contains_any, contains_all, eq or in")
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise ValueError("only numbers and strings have an order: use eq or in")
        return _typed(value, info)


class Membership(_Condition):
    """The key holds (``nin``: holds none of) one of these values."""

    type: Literal["in", "nin"]
    value: Annotated[list[Value], Field(max_length=MAX_LIST)]

    @field_validator("value")
    @classmethod
    def _fitting(cls, value: list[Any], info: ValidationInfo) -> list[Any]:
        key = info.data.get("key")
        if kind_of(key) == "tags" and any(isinstance(item, str) for item in value):
            raise ValueError("this key takes lists of strings, each all of its tags: use contains_any for one of many")
        return [fit(item, key) for item in value]


class Containment(_Condition):
    """The key's array has this element, or the key's string has this one inside (``not_contains``: has not)."""

    type: Literal["contains", "not_contains"]
    value: Value

    @field_validator("value")
    @classmethod
    def _contained(cls, value: Any, info: ValidationInfo) -> Any:
        kind = kind_of(info.data.get("key"))
        if kind in ("time", "integer"):
            raise ValueError("this key contains nothing: use eq or a comparison")
        if kind is not None and isinstance(value, list):
            raise ValueError("this key takes a string: use contains_any or contains_all for several")
        return value if kind is None else text_of(value)


class ContainmentOfSeveral(_Condition):
    """``contains`` at least one of these (``contains_any``), or each of them (``contains_all``)."""

    type: Literal["contains_any", "contains_all"]
    value: Annotated[list[Value], Field(min_length=1, max_length=MAX_LIST)]

    @field_validator("value")
    @classmethod
    def _contained(cls, value: list[Any], info: ValidationInfo) -> list[Any]:
        kind = kind_of(info.data.get("key"))
        if kind in ("time", "integer"):
            raise ValueError("this key contains nothing: use in or a comparison")
        if kind is not None and not all(isinstance(item, str) for item in value):
            raise ValueError("this key takes a list of strings")
        return value


class Text(_Condition):
    """The key's string begins or ends so, or has this one inside whatever its letters' case (``icontains``)."""

    type: Literal["starts_with", "ends_with", "icontains"]
    value: Annotated[Value, WithJsonSchema({"type": "string", "title": "Value"})]

    @field_validator("value")
    @classmethod
    def _textual(cls, value: Any, info: ValidationInfo) -> str:
        kind = kind_of(info.data.get("key"))
        if kind == "tags":
            raise ValueError("tags are a list: use contains for one of them")
        if kind is not None and kind != "text":
            raise ValueError("this key is no text: use eq or a comparison, such as gte and lt in an and")
        if not isinstance(value, str):
            raise ValueError("this takes a string: use eq for other values, contains for elements of an array")
        if info.data.get("type") == "icontains" and len(value) > MAX_ICONTAINS:
            raise ValueError(f"icontains takes at most {MAX_ICONTAINS} characters: use contains")
        return value


class Existence(_Condition):
    """``exists``: the key is there. ``is_empty``: it is missing, or holds null, "", [] or {}. With false, not so."""

    type: Literal["exists", "is_empty"]
    value: bool = True


class Group(_Node):
    """All of these (``and``), or at least one (``or``)."""

    type: Literal["and", "or"]
    filters: Annotated[list["Filter"], Field(min_length=1, max_length=MAX_CONDITIONS)]

    def to_core(self) -> tree.Filter:
        filters = tuple(filter.to_core() for filter in self.filters)
        return tree.And(filters) if self.type == "and" else tree.Or(filters)


class Negation(_Node):
    """Exactly the documents that the inner filter leaves out."""

    type: Literal["not"]
    filter: "Filter"

    def to_core(self) -> tree.Filter:
        return tree.Not(self.filter.to_core())


Filter = TypeAliasType(
    "Filter",
    Annotated[
        Equality | Comparison | Membership | Containment | ContainmentOfSeveral | Text | Existence | Group | Negation,
        Field(discriminator="type"),
    ],
)
"""A type with a name, so that the OpenAPI document has it once."""


def _bound(value: Any) -> Any:
    """Refuses a filter that is too deep or too large before anything recursive looks at it."""
    conditions, level = 0, [("filter", value)]
    for _ in range(MAX_DEPTH):
        below: list[tuple[str, Any]] = []
        for place, node in level:
            check_type(place, node)
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


BoundedFilter = Annotated[Filter, BeforeValidator(_bound)]
"""The type of a request's ``filter`` field."""
