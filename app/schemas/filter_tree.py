"""A filter as core understands it: a tree of conditions. ``app.core.search.filters`` says what each means."""

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


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the document: a name in ``app.schemas.filters.COLUMNS``."""

    name: str


@dataclass(frozen=True, slots=True)
class MetadataPath:
    """Names of keys from the metadata object inwards."""

    segments: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Condition:
    """One test. ``value`` is JSON; for a column str, int, list of tags or an aware datetime; for ``in`` a list of them.

    An aware datetime for a path in metadata compares the times that its strings name.

    Nothing is checked here: ``app.models.filters`` has done that.
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
    """The filter on rows that may have been stored before names were in NFC: their text counts as if it were."""

    filter: "Filter"


Filter = Condition | And | Or | Not | Normalized
