"""Compares collections that may have lost rows with PostgreSQL, and writes again what they lost.

Milvus Lite names them after a full disk or a kill; the index decides which process gets which. Until then such a
collection is searched only where the index knows that it shows everything.
"""

import asyncio
import logging
from collections import Counter

from app.core.operations.repair import Repairer
from app.core.ports import Suspect, VectorIndex, VerifyPort
from app.utils.errors import AppError, Unavailable

log = logging.getLogger(__name__)


class IndexCheck:
    """``interval``: seconds between rounds. ``claim``: seconds that a collection is left to the process that got it."""

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
                log.debug("no collection is compared now: %s", exc.detail)
            except Exception:
                log.exception("a collection was not compared")
            await asyncio.sleep(self._interval)

    async def run_round(self) -> None:
        """Compares all that is suspect now. Raises VectorIndexUnavailable, DatabaseUnavailable."""
        for suspect in await self._index.suspects(self._claim):
            complete = False
            try:
                complete = await self._compare(suspect)
            except AppError as exc:
                log.warning("collection %s stays to be compared: %s", suspect.collection, exc.detail)
            finally:
                await self._index.trust(suspect, complete=complete)

    async def _compare(self, suspect: Suspect) -> bool:
        """Whether every current chunk is in the collection now."""
        bots = await self._store.bots()
        for bot in bots:
            if bot.collection_name == suspect.collection:
                mended = Counter([finding.kind async for finding in self._repairer.repair_bot(bot.bot_id)])
                level = logging.WARNING if mended else logging.INFO
                log.log(level, "compared collection %s with PostgreSQL; mended: %s", suspect.collection, dict(mended))
                return True
        # Nobody's, or one that a bot is being moved to: compared when it is the bot's.
        return not any(bot.next_model for bot in bots)
