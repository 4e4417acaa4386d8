"""What core expects of the record about listings: a bot's documents by filter and in an order, and their values."""

from collections.abc import Sequence
from typing import Protocol
from uuid import UUID

from app.schemas.filter_tree import Filter
from app.schemas.listing import FacetKey, Facets, ListedDocument, Order, Place


class ListingPort(Protocol):
    """``where`` None passes every document; it tests no column of chunks. ``in_nfc``: whether the bot's stored text is
    in NFC; if not, it is normalized where it is sorted or counted, and ``where`` is a ``Normalized`` filter."""

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
        """At most ``limit`` documents that pass the filter and come after a place in the order, in this order."""

    async def count(self, bot_id: UUID, where: Filter | None) -> int:
        """The number of documents that pass the filter."""

    async def facets(
        self, bot_id: UUID, where: Filter | None, key: FacetKey, limit: int, *, in_nfc: bool = True
    ) -> Facets:
        """The ``limit`` most frequent values of ``key`` in documents that pass the filter, the most frequent first.

        Of an array each element counts, once for each document. Objects, arrays in arrays and strings of more than
        FACET_CHARS characters are left out.
        """
