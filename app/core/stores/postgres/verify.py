"""VerifyPort on PostgreSQL."""

from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from uuid import UUID

from app.core.stores.postgres.database import Database
from app.schemas.operation_rows import SourceChunk
from app.schemas.queries import SQL
from app.schemas.rows import BotState

PAGE = 1000


class VerifyStore:
    """``lease_seconds``: how long after a lease's end recovery should have ended its saga."""

    def __init__(self, db: Database, lease_seconds: float) -> None:
        self._db = db
        self._grace = timedelta(seconds=lease_seconds)

    async def bots(self, only: UUID | None = None) -> Sequence[BotState]:
        return [BotState(**row) for row in await self._db.fetch(SQL["all_bots"], only)]

    async def unknown_keys(self, bot_id: UUID, collection: str, keys: Sequence[int]) -> set[int]:
        return {row["chunk_id"] for row in await self._db.fetch(SQL["unknown_keys"], bot_id, keys, collection)}

    async def document_pages(self, bot_id: UUID) -> AsyncIterator[list[int]]:
        after = 0
        while rows := await self._db.fetch(SQL["page_of_documents"], bot_id, after, PAGE):
            yield [row["doc_id"] for row in rows]
            after = rows[-1]["doc_id"]

    async def current_keys(self, bot_id: UUID, doc_ids: Sequence[int]) -> dict[int, int]:
        rows = await self._db.fetch(SQL["current_chunk_ids"], bot_id, doc_ids)
        return {row["chunk_id"]: row["doc_id"] for row in rows}

    async def chunk_page(self, bot_id: UUID, after: int, limit: int) -> Sequence[SourceChunk]:
        return [SourceChunk(**row) for row in await self._db.fetch(SQL["page_of_current_chunks"], bot_id, after, limit)]

    async def sampled_keys(self, bot_id: UUID, count: int) -> Sequence[int]:
        return sorted(row["chunk_id"] for row in await self._db.fetch(SQL["sampled_keys"], bot_id, count))

    async def chunks_of_keys(self, bot_id: UUID, keys: Sequence[int]) -> Sequence[SourceChunk]:
        return [SourceChunk(**row) for row in await self._db.fetch(SQL["chunks_by_key"], bot_id, keys)]

    async def wrong_chunk_counts(self, bot_id: UUID) -> Sequence[int]:
        return [row["doc_id"] for row in await self._db.fetch(SQL["wrong_chunk_counts"], bot_id)]

    async def stray_chunks(self, bot_id: UUID) -> Sequence[int]:
        return [row["chunk_id"] for row in await self._db.fetch(SQL["stray_chunks"], bot_id)]

    async def orphaned_partitions(self) -> Sequence[str]:
        return [row["partition_name"] for row in await self._db.fetch(SQL["orphaned_partitions"])]

    async def foreign_partitions(self) -> Sequence[tuple[str, str, str]]:
        rows = await self._db.fetch(SQL["foreign_partitions"])
        return [(row["partition_name"], row["owner"], row["dropped_by"]) for row in rows]

    async def abandoned_sagas(self) -> Sequence[int]:
        return [row["generation"] for row in await self._db.fetch(SQL["expired_sagas"], self._grace)]

    async def recount_chunks(self, bot_id: UUID, doc_ids: Sequence[int]) -> None:
        async with self._db.transaction() as conn:
            # Not while the bot's documents are counted.
            await conn.execute(SQL["lock_bot_for_use"], [bot_id])
            await conn.execute(SQL["recount_chunks"], bot_id, doc_ids)

    async def drop_stray_chunks(self, bot_id: UUID, chunk_ids: Sequence[int]) -> None:
        await self._db.execute(SQL["drop_stray_chunks"], bot_id, chunk_ids)

    async def make_partitions(self, bot_id: UUID) -> None:
        await self._db.execute(SQL["make_partitions"], bot_id)
