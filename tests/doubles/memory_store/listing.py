"""ListingPort in plain memory."""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict
from typing import Any
from uuid import UUID

import orjson

from app.schemas.filter_tree import Column, Filter
from app.schemas.listing import FACET_CHARS, FacetKey, Facets, FacetValue, ListedDocument, Order, Place
from app.utils.unicode import nfc_json
from tests.doubles.memory_store.documents import Matches, no_filters
from tests.doubles.memory_store.tables import DocumentRow, Tables


class MemoryListingStore:
    def __init__(self, tables: Tables, matches: Matches = no_filters) -> None:
        self._tables = tables
        self._matches = matches

    async def query(
        self,
        bot_id: UUID,
        where: Filter | None,
        order: Order,
        after: Place | None,
        limit: int,
        *,
        in_nfc: bool = True,
    ) -> Sequence[ListedDocument]:
        def place(row: DocumentRow) -> Place:
            value = getattr(row, order.key)
            return Place(value if in_nfc else nfc_json(value), row.doc_id)

        found = [ListedDocument(row.document(), place(row)) for row in self._passing(bot_id, where)]
        present = sorted((one for one in found if one.place.value is not None), key=lambda one: one.place)
        absent = sorted((one for one in found if one.place.value is None), key=lambda one: one.place.doc_id)
        found = [*present[::-1], *absent[::-1]] if order.descending else [*present, *absent]
        if after is not None:
            found = [one for one in found if _follows(one.place, after, order.descending)]
        return found[:limit]

    async def count(self, bot_id: UUID, where: Filter | None) -> int:
        return len(self._passing(bot_id, where))

    async def facets(
        self, bot_id: UUID, where: Filter | None, key: FacetKey, limit: int, *, in_nfc: bool = True
    ) -> Facets:
        counts: Counter[bytes] = Counter()
        for row in self._passing(bot_id, where):
            counts.update(_values(_held(asdict(row) if in_nfc else nfc_json(asdict(row)), key)))
        ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        values = [FacetValue(orjson.loads(value), count) for value, count in ordered[:limit]]
        others = [count for _, count in ordered[limit:]]
        return Facets(values, len(others), sum(others))

    def _passing(self, bot_id: UUID, where: Filter | None) -> Collection[DocumentRow]:
        documents = self._tables.partition(bot_id).documents.values()
        return [row for row in documents if where is None or self._matches(where, asdict(row))]


def _follows(place: Place, after: Place, descending: bool) -> bool:
    if (place.value is None) != (after.value is None):
        return place.value is None
    one, other = (place.doc_id, after.doc_id) if place.value is None else (place, after)
    return one < other if descending else one > other  # type: ignore[operator]


NOTHING: list[Any] = []


def _held(row: dict[str, Any], key: FacetKey) -> Any:
    if isinstance(key, Column):
        return NOTHING if row[key.name] is None else row[key.name]
    found: Any = row["metadata"]
    for segment in key.segments:
        found = found.get(segment, NOTHING) if isinstance(found, dict) else NOTHING
    return found


def _values(held: Any) -> Iterable[bytes]:
    """The values that count, each once, as JSON in which equal numbers are equal."""
    items = held if isinstance(held, list) else [held]
    scalars = [item for item in items if not isinstance(item, dict | list)]
    whole = [int(item) if isinstance(item, float) and item.is_integer() else item for item in scalars]
    return {orjson.dumps(item) for item in whole if not isinstance(item, str) or len(item) <= FACET_CHARS}
