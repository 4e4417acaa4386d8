"""SyncPort on PostgreSQL: ``sync_sessions`` and ``sync_missing``."""

from collections.abc import Collection
from datetime import timedelta
from uuid import UUID

import asyncpg

from app.core.stores.postgres.connection import Connection
from app.core.stores.postgres.database import Database
from app.core.stores.postgres.documents import delete_documents
from app.core.stores.postgres.tenant_guard import TenantMismatch, only_bot
from app.schemas.queries import SQL
from app.schemas.rows import MissingDeleted


class SyncStore:
    """``late_write_window``: how long after the end of its call a write to Milvus may still take effect."""

    def __init__(self, db: Database, late_write_window: timedelta) -> None:
        self._db = db
        self._late_write_window = late_write_window

    async def begin(self, bot_id: UUID, session_id: UUID, lease: timedelta) -> bool:
        async with self._db.transaction() as conn:
            if not await conn.fetch(SQL["lock_bot_for_use"], [bot_id]):
                return False
            if not await conn.fetch(SQL["begin_sync"], bot_id, session_id, lease):
                return False
            await conn.execute(SQL["forget_missing"], bot_id)
            await conn.execute(SQL["expect_documents"], bot_id)
        return True

    async def found(
        self, bot_id: UUID, session_id: UUID, external_ids: Collection[str], lease: timedelta, *, incomplete: bool
    ) -> bool | None:
        async with self._db.transaction() as conn:
            if not await self._renew(conn, bot_id, session_id, lease, incomplete):
                return None
            await conn.execute(SQL["found_in_sync"], bot_id, list(external_ids))
        return True

    async def count_missing(self, bot_id: UUID, session_id: UUID, lease: timedelta) -> int | None:
        async with self._db.transaction() as conn:
            if not await self._renew(conn, bot_id, session_id, lease):
                return None
            row = await conn.fetchrow(SQL["count_missing"], bot_id)
        return int(row["documents"]) if row else 0

    async def is_incomplete(self, bot_id: UUID, session_id: UUID, lease: timedelta) -> bool | None:
        async with self._db.transaction() as conn:
            row = await self._renew(conn, bot_id, session_id, lease)
        return bool(row["incomplete"]) if row else None

    async def delete_missing(
        self, bot_id: UUID, session_id: UUID, limit: int, lease: timedelta
    ) -> MissingDeleted | None:
        try:
            async with self._db.transaction() as conn:
                # The bot first, as in a deletion of the bot, which also deletes the session.
                if not await conn.fetch(SQL["lock_bot_for_use"], [bot_id]):
                    return None
                if not await self._renew(conn, bot_id, session_id, lease):
                    return None
                rows = only_bot(await conn.fetch(SQL["missing_documents"], bot_id, limit), bot_id)
                missing = [row["doc_id"] for row in rows]
                deleted = await delete_documents(conn, bot_id, missing, None, self._late_write_window)
                await conn.execute(SQL["end_missing"], bot_id, missing)
        except TenantMismatch:
            return None
        return MissingDeleted(deleted, len(missing) == limit)

    async def end(self, bot_id: UUID, session_id: UUID) -> bool:
        return bool(await self._db.fetch(SQL["end_sync"], bot_id, session_id))

    @staticmethod
    async def _renew(
        conn: Connection, bot_id: UUID, session_id: UUID, lease: timedelta, incomplete: bool = False
    ) -> asyncpg.Record | None:
        """Renews the lease, and locks the session until the commit; None when there is no such session."""
        rows = only_bot(await conn.fetch(SQL["renew_sync"], bot_id, session_id, lease, incomplete), bot_id)
        return rows[0] if rows else None
