"""What core expects of the record about coverage and confidence: document frequencies and calibrations."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Protocol
from uuid import UUID

from app.schemas.operation_rows import BotSize, BotStatistics, Calibration, SampleAge, TermCounts


class StatisticsPort(Protocol):
    async def get(self, bot_id: UUID) -> BotStatistics | None:
        """The bot's statistics; None when there is no such bot."""

    async def size(self, bot_id: UUID, limit: int) -> BotSize:
        """The bot's size; chunks are counted up to ``limit``."""

    async def sample(self, bot_id: UUID, limit: int, pages: int) -> Sequence[tuple[str, str]]:
        """(title, text) of at most ``limit`` current chunks.

        With ``pages`` 0 any chunks: for a bot that has no more. Otherwise chunks drawn at random, of a bot whose table
        has that many pages.
        """

    async def store(
        self,
        bot_id: UUID,
        version: UUID | None,
        analyzer_version: int,
        title_in_lexical: bool,
        counts: TermCounts,
        size: BotSize,
    ) -> bool:
        """Stores the counts of a sample, and gives the bot another version.

        False, with nothing stored, unless the bot's statistics still have ``version`` and its words are still made by
        this analyzer, with or without titles.
        """

    async def claim_check(self, bot_id: UUID, interval: timedelta) -> SampleAge | None:
        """The age of the bot's sample; None if it has none, or if a process has called this within ``interval``."""

    async def calibrate(self, model: str, dimension: int, analyzer_version: int, calibration: Calibration) -> int:
        """Stores the calibration, and gives all bots of this model and analyzer another version. Returns how many."""
