"""SyncPort in plain memory."""

from collections.abc import Collection
from datetime import timedelta
from uuid import UUID

from app.schemas.rows import MissingDeleted
from tests.doubles.memory_store.documents import MemoryDocumentStore
from tests.doubles.memory_store.tables import SyncRow, Tables


class MemorySyncStore:
    def __init__(self, tables: Tables, late_write_window: timedelta) -> None:
        self._tables = tables
        self._documents = MemoryDocumentStore(tables, late_write_window)

    async def begin(self, bot_id: UUID, session_id: UUID, lease: timedelta) -> bool:
        row, now = self._tables.syncs.get(bot_id), self._tables.now()
        if self._tables.active(bot_id) is None or (row and row.lease_until >= now):
            return False
        documents = self._tables.partition(bot_id).documents.values()
        expected = {one.external_id: one.doc_id for one in documents if one.external_id is not None}
        self._tables.syncs[bot_id] = SyncRow(session_id, now + lease, expected)
        return True

    async def found(
        self, bot_id: UUID, session_id: UUID, external_ids: Collection[str], lease: timedelta, *, incomplete: bool
    ) -> bool | None:
        row = self._renewed(bot_id, session_id, lease)
        if row is None:
            return None
        row.incomplete |= incomplete
        for name in external_ids:
            row.missing.pop(name, None)
        return True

    async def count_missing(self, bot_id: UUID, session_id: UUID, lease: timedelta) -> int | None:
        row = self._renewed(bot_id, session_id, lease)
        return len(row.missing) if row else None

    async def is_incomplete(self, bot_id: UUID, session_id: UUID, lease: timedelta) -> bool | None:
        row = self._renewed(bot_id, session_id, lease)
        return row.incomplete if row else None

    async def delete_missing(
        self, bot_id: UUID, session_id: UUID, limit: int, lease: timedelta
    ) -> MissingDeleted | None:
        row = self._renewed(bot_id, session_id, lease)
        if row is None or self._tables.active(bot_id) is None:
            return None
        part = sorted(row.missing.items(), key=lambda item: item[1])[:limit]
        for name, _ in part:
            del row.missing[name]
        deleted = await self._documents.delete(bot_id, [doc_id for _, doc_id in part])
        return MissingDeleted(deleted, len(part) == limit)

    async def end(self, bot_id: UUID, session_id: UUID) -> bool:
        row = self._tables.syncs.get(bot_id)
        if row is None or row.session_id != session_id:
            return False
        del self._tables.syncs[bot_id]
        return True

    def _renewed(self, bot_id: UUID, session_id: UUID, lease: timedelta) -> SyncRow | None:
        row = self._tables.syncs.get(bot_id)
        if row is None or row.session_id != session_id:
            return None
        row.lease_until = self._tables.now() + lease
        return row
