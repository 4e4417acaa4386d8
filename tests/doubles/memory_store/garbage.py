"""GarbagePort in plain memory."""

from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta

from app.core.stores.postgres.garbage import BATCH
from app.schemas.operation_rows import VectorGarbage
from tests.doubles.memory_store.tables import Tables

NEVER = datetime.max.replace(tzinfo=UTC)


class MemoryGarbageStore:
    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    async def claim(self, lease: timedelta) -> Sequence[VectorGarbage]:
        now = self._tables.now()
        due = [row for row in self._tables.garbage.values() if row.next_attempt_at <= now]
        claimed = sorted(due, key=lambda row: row.next_attempt_at)[:BATCH]
        for row in claimed:
            row.attempts += 1
            row.next_attempt_at = now + lease
        return [
            VectorGarbage(row.generation, row.chunk_span, row.collection_name, row.not_before, now >= row.not_before)
            for row in claimed
        ]

    async def complete(self, rows: Sequence[VectorGarbage]) -> None:
        for ended in rows:
            row = self._tables.garbage.get((ended.generation, ended.collection_name))
            if row and row.not_before == ended.not_before:
                del self._tables.garbage[row.generation, row.collection_name]

    async def reschedule(self, rows: Sequence[VectorGarbage]) -> None:
        now = self._tables.now()
        for reschedule in rows:
            if row := self._tables.garbage.get((reschedule.generation, reschedule.collection_name)):
                pause = min(2 ** min(row.attempts, 6), 60)
                row.next_attempt_at = max(row.not_before, now + timedelta(seconds=pause))

    async def defer(self, rows: Sequence[VectorGarbage]) -> None:
        for deferred in rows:
            if row := self._tables.garbage.get((deferred.generation, deferred.collection_name)):
                row.next_attempt_at = NEVER

    async def deferred(self) -> set[str]:
        return {row.collection_name for row in self._tables.garbage.values() if row.next_attempt_at == NEVER}

    async def resume(self, collections: Collection[str]) -> None:
        for row in self._tables.garbage.values():
            if row.next_attempt_at == NEVER and row.collection_name in collections:
                row.next_attempt_at = self._tables.now()
