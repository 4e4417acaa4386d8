"""RebuildPort in plain memory."""

from collections.abc import Collection
from datetime import datetime, timedelta
from uuid import UUID

from app.schemas.operation_rows import Check, Rebuild
from app.schemas.rows import Progress
from tests.doubles.memory_store.tables import Tables


class MemoryRebuildStore:
    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    async def begin_in_place(self, bot_id: UUID, collection: str) -> bool:
        bot = self._tables.active(bot_id)
        if bot is None or bot.collection != collection:
            return False
        self._tables.begin_rebuild(bot_id, True)
        return True

    async def all(self) -> dict[UUID, Progress]:
        return {bot_id: Progress(row.chunks_done, row.chunks_total) for bot_id, row in self._tables.rebuilds.items()}

    async def claim(
        self, token: UUID, lease: timedelta, without: Collection[UUID] = (), bot_id: UUID | None = None
    ) -> Rebuild | None:
        now = self._tables.now()
        for row in self._tables.rebuilds.values():
            if row.bot_id in without or bot_id not in (None, row.bot_id):
                continue
            if row.lease_until is None or row.lease_until < now:
                row.lease_token, row.lease_until = token, now + lease
                row.attempts, row.chunks_done = row.attempts + 1, 0
                return Rebuild(row.bot_id, row.before_generation, row.in_place, row.chunks_total, row.attempts)
        return None

    async def renew(self, bot_id: UUID, token: UUID, lease: timedelta, done: int) -> bool:
        row = self._tables.rebuilds.get(bot_id)
        if row is None or row.lease_token != token:
            return False
        row.lease_until, row.chunks_done = self._tables.now() + lease, done
        return True

    async def release(self, bot_id: UUID, token: UUID) -> None:
        row = self._tables.rebuilds.get(bot_id)
        if row and row.lease_token == token:
            row.lease_token = row.lease_until = None

    async def finish(self, bot_id: UUID, collection: str, token: UUID, timestamp: int) -> bool:
        bot, row = self._tables.active(bot_id), self._tables.rebuilds.get(bot_id)
        if bot is None or bot.collection != collection or row is None or row.lease_token != token:
            return False
        del self._tables.rebuilds[bot_id]
        bot.milvus_timestamp = max(bot.milvus_timestamp, timestamp)
        bot.forget_writers()
        return True

    async def claim_check(self, interval: timedelta, settling: timedelta) -> Check | None:
        now, never = self._tables.now(), datetime.min.replace(tzinfo=self._tables.now().tzinfo)
        due = [
            (self._tables.checks.get(bot.bot_id, never), bot.bot_id)
            for bot in self._tables.bots.values()
            if bot.state == "active" and bot.embedding_model and bot.bot_id not in self._tables.rebuilds
        ]
        checked_at, bot_id = min(due, default=(now, None))
        if bot_id is None or (checked_at != never and checked_at >= now - interval):
            return None
        self._tables.checks[bot_id] = now
        lost_below, jumped_at = self._tables.doubts.get(bot_id, (0, never))
        return Check(bot_id, lost_below, jumped_at <= now - settling)

    async def extend_check(self, check: Check) -> None:
        if check.bot_id in self._tables.checks:
            self._tables.checks[check.bot_id] = self._tables.now()

    async def trust_counts(self, check: Check) -> None:
        if check.bot_id in self._tables.doubts and self._tables.doubts[check.bot_id][0] == check.lost_below:
            del self._tables.doubts[check.bot_id]
