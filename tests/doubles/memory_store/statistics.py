"""StatisticsPort in plain memory. A page holds ten chunks."""

from collections.abc import Sequence
from datetime import timedelta
from itertools import islice
from uuid import UUID, uuid4

from app.schemas.operation_rows import BotSize, BotStatistics, Calibration, SampleAge, TermCounts
from tests.doubles.memory_store.tables import FrequencyRow, Tables

CHUNKS_PER_PAGE = 10


class MemoryStatisticsStore:
    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    async def get(self, bot_id: UUID) -> BotStatistics | None:
        bot = self._tables.active(bot_id)
        if bot is None:
            return None
        words = (bot.analyzer_version, bot.title_in_lexical)
        row = self._tables.frequencies.get(bot_id)
        counts = row.counts if row and (row.analyzer_version, row.title_in_lexical) == words else None
        calibration = self._tables.calibrations.get((bot.embedding_model, bot.dimension, bot.analyzer_version))
        return BotStatistics(bot.statistics_version, *words, counts, calibration)

    async def size(self, bot_id: UUID, limit: int) -> BotSize:
        chunks = len(self._tables.partition(bot_id).chunks)
        return BotSize(min(chunks, limit), -(-chunks // CHUNKS_PER_PAGE))

    async def sample(self, bot_id: UUID, limit: int, pages: int) -> Sequence[tuple[str, str]]:
        return [(document.title, chunk.text) for document, chunk in islice(self._tables.current(bot_id), limit)]

    async def store(
        self,
        bot_id: UUID,
        version: UUID | None,
        analyzer_version: int,
        title_in_lexical: bool,
        counts: TermCounts,
        size: BotSize,
    ) -> bool:
        bot, words = self._tables.active(bot_id), (analyzer_version, title_in_lexical)
        if bot is None or (bot.statistics_version, bot.analyzer_version, bot.title_in_lexical) != (version, *words):
            return False
        bot.statistics_version = uuid4()
        now = self._tables.now()
        self._tables.frequencies[bot_id] = FrequencyRow(*words, counts, size, now, now)
        return True

    async def claim_check(self, bot_id: UUID, interval: timedelta) -> SampleAge | None:
        bot, row, now = self._tables.active(bot_id), self._tables.frequencies.get(bot_id), self._tables.now()
        if bot is None or row is None or row.checked_at >= now - interval:
            return None
        row.checked_at = now
        words = (bot.analyzer_version, bot.title_in_lexical)
        return SampleAge(bot.statistics_version, *words, row.size, (now - row.sampled_at).total_seconds())

    async def calibrate(self, model: str, dimension: int, analyzer_version: int, calibration: Calibration) -> int:
        key = (model, dimension, analyzer_version)
        self._tables.calibrations[key] = calibration
        bots = [
            bot
            for bot in self._tables.bots.values()
            if (bot.embedding_model, bot.dimension, bot.analyzer_version) == key
        ]
        for bot in bots:
            bot.statistics_version = uuid4()
        return len(bots)
