"""Filters of requests. ``app.schemas.filter_tree`` defines the meaning of each.

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
    parse_filter_key,
    text_of,
    time_of,
)
from app.schemas import filter_tree as tree
from app.schemas.filters import COLUMNS

MAX_ICONTAINS = 256

FilterKey = Annotated[
    Any,
    PlainValidator(parse_filter_key),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": rf"^(?:{'|'.join(COLUMNS)}|metadata(?:\.[^.]+){{1,{MAX_PATH}}})$"},
                {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": MAX_PATH + 1},
            ],
            "description": f"metadata.<name>[.<name>...], or one of {', '.join(COLUMNS)}. A list of names if one "
            'has dots: ["metadata", "a.b"]',
            "examples": ["metadata.language"],
        }
    ),
]
Value = Annotated[Any, AfterValidator(check_json)]
As = Annotated[
    Literal["time"] | None,
    Field(
        alias="as",
        description='"time": compare the value and the strings in metadata as times in ISO 8601. Other strings never '
        "match.",
    ),
]


class _Node(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)


class _Condition(_Node):
    type: tree.Op
    key: FilterKey

    def to_core(self) -> tree.Filter:
        value: Any = self.value  # type: ignore[attr-defined] # Subclasses define it, last.
        return tree.Condition(self.type, self.key, value)


def _typed(value: Any, info: ValidationInfo) -> Any:
    """Converts the value to the key's type, or to a time if ``as`` says so."""
    key = info.data.get("key")
    if info.data.get("as_type") is None:
        return fit(value, key)
    if kind_of(key) not in (None, "time"):
        raise ValueError('"as": "time" is for times in metadata; this key has a type of its own')
    return time_of(value)


class Equality(_Condition):
    """The key has (``ne``: does not have) exactly this value."""

    type: Literal["eq", "ne"]
    as_type: As = None
    value: Value

    _fitting = field_validator("value")(_typed)


class Comparison(_Condition):
    """Compares numbers with numbers, strings with strings by code point, and times with times."""

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
    """The key has one of these values (``nin``: none of them)."""

    type: Literal["in", "nin"]
    value: Annotated[list[Value], Field(max_length=MAX_LIST)]

    @field_validator("value")
    @classmethod
    def _fitting(cls, value: list[Any], info: ValidationInfo) -> list[Any]:
        key = info.data.get("key")
        if kind_of(key) == "tags" and any(isinstance(item, str) for item in value):
            raise ValueError("this key takes lists of strings, each with all tags: use contains_any for single tags")
        return [fit(item, key) for item in value]


class Containment(_Condition):
    """The key's array has this element, or its string has this substring (``not_contains``: does not have it)."""

    type: Literal["contains", "not_contains"]
    value: Value

    @field_validator("value")
    @classmethod
    def _contained(cls, value: Any, info: ValidationInfo) -> Any:
        kind = kind_of(info.data.get("key"))
        if kind in ("time", "integer"):
            raise ValueError("contains does not work with this key: use eq or a comparison")
        if kind is not None and isinstance(value, list):
            raise ValueError("this key takes a string: use contains_any or contains_all for several")
        return value if kind is None else text_of(value)


class ContainmentOfSeveral(_Condition):
    """``contains`` for at least one of these values (``contains_any``), or for all of them (``contains_all``)."""

    type: Literal["contains_any", "contains_all"]
    value: Annotated[list[Value], Field(min_length=1, max_length=MAX_LIST)]

    @field_validator("value")
    @classmethod
    def _contained(cls, value: list[Any], info: ValidationInfo) -> list[Any]:
        kind = kind_of(info.data.get("key"))
        if kind in ("time", "integer"):
            raise ValueError("contains does not work with this key: use in or a comparison")
        if kind is not None and not all(isinstance(item, str) for item in value):
            raise ValueError("this key takes a list of strings")
        return value


class Text(_Condition):
    """The key's string begins or ends with this string, or contains it in any case (``icontains``)."""

    type: Literal["starts_with", "ends_with", "icontains"]
    value: Annotated[Value, WithJsonSchema({"type": "string", "title": "Value"})]

    @field_validator("value")
    @classmethod
    def _textual(cls, value: Any, info: ValidationInfo) -> str:
        kind = kind_of(info.data.get("key"))
        if kind == "tags":
            raise ValueError("tags are a list: use contains for one of them")
        if kind is not None and kind != "text":
            raise ValueError("this key is not text: use eq or a comparison, for example gte and lt in an and")
        if not isinstance(value, str):
            raise ValueError("this takes a string: use eq for other values, contains for elements of an array")
        if info.data.get("type") == "icontains" and len(value) > MAX_ICONTAINS:
            raise ValueError(f"icontains takes at most {MAX_ICONTAINS} characters: use contains")
        return value


class Existence(_Condition):
    """``exists``: the key exists. ``is_empty``: it is missing or has null, "", [] or {}. ``false`` inverts the test."""

    type: Literal["exists", "is_empty"]
    value: bool = True


class Group(_Node):
    """All of these filters match (``and``), or at least one (``or``)."""

    type: Literal["and", "or"]
    filters: Annotated[list["Filter"], Field(min_length=1, max_length=MAX_CONDITIONS)]

    def to_core(self) -> tree.Filter:
        filters = tuple(filter.to_core() for filter in self.filters)
        return tree.And(filters) if self.type == "and" else tree.Or(filters)


class Negation(_Node):
    """Matches exactly the documents that the inner filter does not match."""

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
"""A named type, so that the OpenAPI document contains it once."""


def _check_size(value: Any) -> Any:
    """Rejects a filter that is too deep or too large, before any recursive function handles it."""
    conditions, level = 0, [("filter", value)]
    for _ in range(MAX_DEPTH):
        below: list[tuple[str, Any]] = []
        for location, node in level:
            check_type(location, node)
            inner = _inner(node)
            below.extend((f"{location}.{name}", item) for name, item in inner)
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


BoundedFilter = Annotated[Filter, BeforeValidator(_check_size)]
"""The type of a request's ``filter`` field."""
