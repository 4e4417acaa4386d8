"""A filter as core understands it: a tree of conditions on a document.

A filter is true or false of a document, never unknown:

- ``eq``: the key holds exactly this JSON value. Types count: 1 equals 1.0, but neither "1" nor true. null equals an
  explicit null only, and a missing key equals nothing. ``ne`` is exactly not ``eq``, so a missing key passes it.
- ``gt gte lt lte`` compare numbers with numbers, strings with strings by code point, and times with times. They are
  false for any other type and for a missing key.
- ``in``: ``eq`` any value of a list. ``nin`` is exactly not ``in``.
- ``contains``: the key holds an array with an element that equals the value, or both are strings and the key's contains
  the value (case-sensitive). ``tags`` contain a tag. ``not_contains`` is exactly not ``contains``.
  ``contains_any`` and ``contains_all``: ``contains`` any, or each, value of a list.
- ``icontains starts_with ends_with`` are for strings only. ``icontains`` compares letters by Unicode case folding.
- ``is_empty``: the key is missing or holds null, "", [] or {}. An empty column is empty too.
- ``exists``: the key is present. A null in metadata is present, an empty column is not. With false: it is absent.

A time as value for a metadata path compares the times that strings name in ISO 8601. A string that names no time, and
any other value, is neither equal to it, nor before it, nor after it.

A path goes through nested objects only. Inside arrays only ``contains`` looks.

All text is compared in NFC. The filter's own text is in NFC already. ``Normalized`` marks a filter on rows whose text
may not be.
"""

from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

Op = Literal[
    "eq",
    "ne",
    "gt",
    "gte",
    "lt",
    "lte",
    "in",
    "nin",
    "contains",
    "not_contains",
    "contains_any",
    "contains_all",
    "icontains",
    "starts_with",
    "ends_with",
    "exists",
    "is_empty",
]
OPERATORS: Final[tuple[Op, ...]] = get_args(Op)
CHUNK_KEYS: Final = frozenset({"page_number"})
"""Columns of chunks. All others are columns of documents."""


@dataclass(frozen=True, slots=True)
class Column:
    """A name in ``app.schemas.filters.COLUMNS``: a column of the document or, if in CHUNK_KEYS, of the chunk."""

    name: str


@dataclass(frozen=True, slots=True)
class MetadataPath:
    """Names of nested keys, from the metadata object inwards."""

    segments: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Condition:
    """One test of one key.

    ``value`` of a metadata path: JSON or an aware datetime. Of a column: str, int, list of tags or aware datetime. Of
    an operator that takes a list: a list of these. ``app.models.filters`` has validated it.
    """

    op: Op
    key: Column | MetadataPath
    value: Any


@dataclass(frozen=True, slots=True)
class And:
    filters: tuple["Filter", ...]


@dataclass(frozen=True, slots=True)
class Or:
    filters: tuple["Filter", ...]


@dataclass(frozen=True, slots=True)
class Not:
    filter: "Filter"


@dataclass(frozen=True, slots=True)
class Normalized:
    """The filter on rows that may have been stored before text was put into NFC: their text is normalized first."""

    filter: "Filter"


Filter = Condition | And | Or | Not | Normalized


def references_chunks(filter: Filter) -> bool:
    """Whether the filter tests a column of chunks, so that it may pass one chunk of a document and not another."""
    match filter:
        case And(filters) | Or(filters):
            return any(map(references_chunks, filters))
        case Not(inner) | Normalized(inner):
            return references_chunks(inner)
        case Condition(_, Column(name)):
            return name in CHUNK_KEYS
    return False
