"""``vector_gc`` in plain memory; keeps to GarbagePort as ``stores.garbage.GarbageStore`` does."""

from collections.abc import Sequence
from datetime import timedelta

from app.core.stores.garbage import BATCH
from app.core.stores.memory_store.tables import Tables
from app.schemas.rows import Garbage


class MemoryGarbageStore:
    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    async def claim(self, hold: timedelta) -> Sequence[Garbage]:
        now = self._tables.now()
        due = [row for row in self._tables.garbage.values() if row.next_attempt_at <= now]
        claimed = sorted(due, key=lambda row: row.next_attempt_at)[:BATCH]
        for row in claimed:
            row.attempts += 1
            row.next_attempt_at = now + hold
        return [Garbage(row.generation, row.chunk_span, row.collection_name, now >= row.not_before) for row in claimed]

    async def end(self, generations: Sequence[int]) -> None:
        for generation in generations:
            self._tables.garbage.pop(generation, None)

    async def put_off(self, generations: Sequence[int]) -> None:
        now = self._tables.now()
        for generation in generations:
            if row := self._tables.garbage.get(generation):
                pause = min(2 ** min(row.attempts, 6), 60)
                row.next_attempt_at = max(row.not_before, now + timedelta(seconds=pause))
