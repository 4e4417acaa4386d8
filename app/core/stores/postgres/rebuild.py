"""RebuildPort on PostgreSQL: ``index_rebuilds`` and ``index_checks``."""

from collections.abc import Collection
from datetime import timedelta
from uuid import UUID

from app.core.stores.postgres.database import Database
from app.schemas.operation_rows import Check, Rebuild
from app.schemas.queries import SQL
from app.schemas.rows import Progress


class RebuildStore:
    def __init__(self, db: Database) -> None:
        self._db = db

    async def begin_in_place(self, bot_id: UUID, collection: str) -> bool:
        async with self._db.transaction() as conn:
            row = await conn.fetchrow(SQL["lock_bot_exclusively"], bot_id)
            if row is None or row["milvus_collection"] != collection:
                return False
            await conn.execute(SQL["begin_rebuild"], bot_id, True)
        return True

    async def all(self) -> dict[UUID, Progress]:
        rows = await self._db.fetch(SQL["rebuilds"])
        return {row["bot_id"]: Progress(row["chunks_done"], row["chunks_total"]) for row in rows}

    async def claim(
        self, token: UUID, lease: timedelta, without: Collection[UUID] = (), bot_id: UUID | None = None
    ) -> Rebuild | None:
        row = await self._db.fetchrow(SQL["claim_rebuild"], token, lease, list(without), bot_id)
        return Rebuild(**row) if row else None

    async def renew(self, bot_id: UUID, token: UUID, lease: timedelta, done: int) -> bool:
        return bool(await self._db.fetch(SQL["renew_rebuild"], bot_id, token, lease, done))

    async def release(self, bot_id: UUID, token: UUID) -> None:
        await self._db.execute(SQL["release_rebuild"], bot_id, token)

    async def finish(self, bot_id: UUID, collection: str, token: UUID, timestamp: int) -> bool:
        async with self._db.transaction() as conn:
            row = await conn.fetchrow(SQL["lock_bot_exclusively"], bot_id)
            if row is None or row["milvus_collection"] != collection:
                return False
            if not await conn.fetch(SQL["end_rebuild"], bot_id, token):
                return False
            await conn.execute(SQL["raise_milvus_timestamp"], bot_id, timestamp)
        return True

    async def claim_check(self, interval: timedelta, settling: timedelta) -> Check | None:
        row = await self._db.fetchrow(SQL["claim_index_check"], interval, settling)
        return Check(**row) if row else None

    async def extend_check(self, check: Check) -> None:
        await self._db.execute(SQL["extend_index_check"], check.bot_id)

    async def trust_counts(self, check: Check) -> None:
        await self._db.execute(SQL["trust_counts"], check.bot_id, check.lost_below)
