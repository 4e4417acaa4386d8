"""StatisticsPort on PostgreSQL: ``term_counts`` and ``calibrations``."""

from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from app.core.stores.postgres.database import Database
from app.core.stores.postgres.tenant_guard import only_bot
from app.schemas.operation_rows import BotSize, BotStatistics, Calibration, SampleAge, TermCounts
from app.schemas.queries import SQL

SAMPLED_PAGES = 400
"""Pages that a sample is drawn from: of a table with few chunks in a page, some of the wanted number are missing."""


class StatisticsStore:
    def __init__(self, db: Database) -> None:
        self._db = db

    async def get(self, bot_id: UUID) -> BotStatistics | None:
        rows = only_bot(await self._db.fetch(SQL["get_statistics"], bot_id), bot_id)
        if not rows:
            return None
        row = rows[0]
        return BotStatistics(
            row["statistics_version"],
            row["analyzer_version"],
            row["title_in_lexical"],
            None if row["terms"] is None else TermCounts(row["sampled"], row["terms"]),
            None if row["words_only"] is None else Calibration(tuple(row["with_similarity"]), tuple(row["words_only"])),
        )

    async def size(self, bot_id: UUID, limit: int) -> BotSize:
        row = await self._db.fetchrow(SQL["size_of_bot"], bot_id, limit)
        assert row is not None
        return BotSize(**row)

    async def sample(self, bot_id: UUID, limit: int, pages: int) -> Sequence[tuple[str, str]]:
        if pages:
            percent = min(100.0, 100 * SAMPLED_PAGES / pages)
            rows = await self._db.fetch(SQL["sampled_chunks"], bot_id, limit, percent)
        else:
            rows = await self._db.fetch(SQL["first_chunks"], bot_id, limit)
        return [(row["title"], row["text"]) for row in only_bot(rows, bot_id)]

    async def store(
        self,
        bot_id: UUID,
        version: UUID | None,
        analyzer_version: int,
        title_in_lexical: bool,
        counts: TermCounts,
        size: BotSize,
    ) -> bool:
        words = (analyzer_version, title_in_lexical, counts.sampled, counts.terms)
        row = await self._db.fetchrow(SQL["store_frequencies"], bot_id, version, *words, size.chunks, size.pages)
        return row is not None

    async def claim_check(self, bot_id: UUID, interval: timedelta) -> SampleAge | None:
        row = await self._db.fetchrow(SQL["claim_frequency_check"], bot_id, interval)
        if row is None:
            return None
        size = BotSize(row["chunks"], row["pages"])
        return SampleAge(row["statistics_version"], row["analyzer_version"], row["title_in_lexical"], size, row["age"])

    async def calibrate(self, model: str, dimension: int, analyzer_version: int, calibration: Calibration) -> int:
        key = (model, dimension, analyzer_version)
        async with self._db.transaction() as conn:
            values = (list(calibration.with_similarity), list(calibration.words_only))
            await conn.execute(SQL["store_calibration"], *key, *values)
            return len(await conn.fetch(SQL["renew_statistics_versions"], *key))
