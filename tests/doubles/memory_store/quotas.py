"""QuotaPort in plain memory. Nothing is counted before it is asked for, so that no counter can be wrong."""

from collections.abc import Sequence
from uuid import UUID

from app.schemas.quotas import NO_QUOTA, Allowance, BotUsage, Quota, QuotaShortfall
from app.schemas.rows import WriteRow
from tests.doubles.memory_store.tables import Tables


class MemoryQuotaStore:
    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    async def set(self, account: str, quota: Quota) -> None:
        self._tables.quotas.pop(account, None)
        if quota != NO_QUOTA:
            self._tables.quotas[account] = quota

    async def get(self, account: str) -> Quota:
        return self._tables.quotas.get(account, NO_QUOTA)

    async def accounts(self) -> Sequence[str]:
        active = {bot.account_name for bot in self._tables.bots.values() if bot.state == "active"}
        return sorted(active | set(self._tables.quotas))

    async def usage(self, account: str) -> Sequence[BotUsage]:
        bots = sorted(bot_id for bot_id in self._tables.bots if self._tables.active(bot_id, account))
        return [self._usage(bot_id, account in self._tables.quotas) for bot_id in bots]

    def _usage(self, bot_id: UUID, is_counted: bool) -> BotUsage:
        documents = self._tables.partition(bot_id).documents.values()
        chunks = sum(document.chunk_count for document in documents)
        return BotUsage(bot_id, len(documents), chunks) if is_counted else BotUsage(bot_id, None, None)

    async def count(self, bot_id: UUID) -> None:
        pass


class Meter:
    """As that of the store on PostgreSQL, for writes whose bots exist."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._allowance = Allowance(tables.quotas, {account: tables.usage(account) for account in tables.quotas})

    def refusal(self, write: WriteRow) -> QuotaShortfall | None:
        return self._allowance.shortfall(self._tables.bots[write.bot_id].account_name, *self._growth(write))

    def count(self, write: WriteRow) -> None:
        self._allowance.count(self._tables.bots[write.bot_id].account_name, *self._growth(write))

    def _growth(self, write: WriteRow) -> tuple[int, int]:
        chunks = len(write.document.chunks)
        if write.previous_generation is None:
            return 1, chunks
        old = self._tables.partition(write.bot_id).documents.get(write.doc_id or 0)
        return 0, chunks - (old.chunk_count if old else 0)
