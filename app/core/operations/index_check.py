"""Compares collections that may have lost rows with PostgreSQL, and writes lost rows again.

Milvus Lite reports such collections after a full disk or a kill; the index decides which process compares which. Before
that, a collection is searched only if the index knows that no acknowledged row is missing.
"""

import asyncio
import logging
from collections import Counter

from app.core.operations.repair import Repairer
from app.core.ports import UnverifiedCollection, VectorIndex, VerifyPort
from app.utils.errors import AppError, Unavailable

log = logging.getLogger(__name__)


class IndexCheck:
    """``interval``: seconds between rounds. ``claim``: seconds for which a process has a collection to itself."""

    def __init__(
        self, index: VectorIndex, store: VerifyPort, repairer: Repairer, *, interval: float, claim: float
    ) -> None:
        self._index = index
        self._store = store
        self._repairer = repairer
        self._interval = interval
        self._claim = claim

    async def run_forever(self) -> None:
        while True:
            try:
                await self.run_round()
            except Unavailable as exc:
                log.debug("no collection is compared in this round: %s", exc.detail)
            except Exception:
                log.exception("a collection was not compared")
            await asyncio.sleep(self._interval)

    async def run_round(self) -> None:
        """Compares the collections that may have lost rows. Raises VectorIndexUnavailable, DatabaseUnavailable."""
        for collection in await self._index.unverified_collections(self._claim):
            complete = False
            try:
                complete = await self._compare(collection)
            except AppError as exc:
                log.warning("collection %s could not be compared yet: %s", collection.name, exc.detail)
            finally:
                await self._index.finish_verification(collection, complete=complete)

    async def _compare(self, collection: UnverifiedCollection) -> bool:
        """Whether the collection has every current chunk now."""
        bots = await self._store.bots()
        for bot in bots:
            if bot.collection_name == collection.name:
                repaired = Counter([finding.kind async for finding in self._repairer.repair_bot(bot.bot_id)])
                level = logging.WARNING if repaired else logging.INFO
                log.log(level, "compared collection %s with PostgreSQL; repaired: %s", collection.name, dict(repaired))
                return True
        # No bot's collection, or the target of a model migration: compared when it is the bot's.
        return not any(bot.next_model for bot in bots)
