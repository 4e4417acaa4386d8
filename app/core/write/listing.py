"""Lists a bot's documents by filter and in an order, and counts the values of their metadata."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload
from uuid import UUID

from app.core.bots.bots import Bots
from app.core.ports import ListingPort
from app.schemas.filter_tree import Filter, Normalized
from app.schemas.listing import FacetKey, Facets, Order, Place
from app.schemas.rows import Bot, Document


@dataclass(frozen=True, slots=True)
class DocumentPage:
    """``next``: the place after which the next page begins; None on the last page. ``total``: None unless requested."""

    documents: Sequence[Document]
    next: Place | None
    total: int | None


class Listing:
    """All methods raise BotNotFound. ``where`` None passes every document."""

    def __init__(self, bots: Bots, store: ListingPort) -> None:
        self._bots = bots
        self._store = store

    async def page(
        self,
        bot_id: UUID,
        account: str | None,
        where: Filter | None,
        order: Order,
        after: Place | None,
        limit: int,
        *,
        with_total: bool = False,
    ) -> DocumentPage:
        """At most ``limit`` of the documents that pass the filter, after a place in the order; ``total`` counts all."""
        bot = await self._bots.get(bot_id, account)
        where = as_stored(where, bot)
        found = await self._store.query(bot_id, where, order, after, limit + 1, in_nfc=bot.unicode_normalized)
        total = await self._store.count(bot_id, where) if with_total else None
        page = found[:limit]
        return DocumentPage([one.document for one in page], page[-1].place if len(found) > limit else None, total)

    async def facets(
        self, bot_id: UUID, account: str | None, where: Filter | None, key: FacetKey, limit: int
    ) -> Facets:
        """The most frequent values of ``key`` in the documents that pass the filter."""
        bot = await self._bots.get(bot_id, account)
        return await self._store.facets(bot_id, as_stored(where, bot), key, limit, in_nfc=bot.unicode_normalized)


@overload
def as_stored(where: Filter, bot: Bot) -> Filter: ...
@overload
def as_stored(where: Filter | None, bot: Bot) -> Filter | None: ...
def as_stored(where: Filter | None, bot: Bot) -> Filter | None:
    """The filter for the rows of this bot, which normalizes their text if they may not be in NFC."""
    return where if where is None or bot.unicode_normalized else Normalized(where)
