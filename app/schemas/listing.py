"""Orders of documents, and keys whose values are counted: what a listing may be sorted by and what its SQL is made of.

A document's place in an order is its value in the sorted column and, where values are equal, its doc_id.
"""

from datetime import datetime
from typing import Final, Literal, NamedTuple

from app.schemas.filter_tree import Column, MetadataPath
from app.schemas.rows import Document

SortKey = Literal["doc_id", "created_at", "updated_at", "title", "external_id"]
"""Columns of ``app.schemas.filters.COLUMNS``. A column that can be NULL is sorted in two parts: see ``Place``."""


class Order(NamedTuple):
    """The order of a listing. Text is in the order of its code points."""

    key: SortKey = "doc_id"
    descending: bool = False


class Place(NamedTuple):
    """A document's place in an order: its value in the column (int, str or aware datetime) and its doc_id.

    Documents without a value, None, come last in both directions.
    """

    value: int | str | datetime | None
    doc_id: int


class ListedDocument(NamedTuple):
    document: Document
    place: Place


FacetKey = Column | MetadataPath
"""A column of text, ``tags``, or a path in metadata."""
FACET_CHARS: Final = 512
"""Longer strings are not counted."""


class FacetValue(NamedTuple):
    """A value (a string, number, boolean or None) and the number of documents that have it."""

    value: str | float | bool | None
    documents: int


class Facets(NamedTuple):
    """The most frequent values of a key, the number of its other values, and the sum of their counts."""

    values: list[FacetValue]
    other_values: int
    other_documents: int


AFTER: Final = "({x}, d.doc_id) {operator} ({value}, {doc_id})"
AFTER_DOC_ID: Final = "d.doc_id {operator} {doc_id}"
PRESENT: Final = "{column} IS NOT NULL AND {after}"
ABSENT: Final = "{column} IS NULL AND {after}"
ORDER_BY: Final = "{x}{direction}, d.doc_id{direction}"
ORDER_BY_DOC_ID: Final = "d.doc_id{direction}"

# The groups of ``facets`` are few where many documents have the same value, so that arrays are split after grouping.
FACET_JSON: Final = "{metadata}{steps}"
FACET_OF_TEXT: Final = "SELECT g.held AS value WHERE g.held IS NOT NULL AND length(g.held) <= {longest}"
FACET_OF_JSON: Final = (
    "SELECT DISTINCT e.value FROM jsonb_path_query(g.held, '$[*]') AS e (value)"
    " WHERE jsonb_typeof(e.value) NOT IN ('object', 'array') AND COALESCE(length(e.value #>> '{{}}'), 0) <= {longest}"
)
