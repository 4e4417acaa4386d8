"""ModelMigrationPort on PostgreSQL."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from uuid import UUID, uuid4

import asyncpg

from app.core.stores.postgres.connection import Connection
from app.core.stores.postgres.database import Database
from app.schemas.operation_rows import ModelMigration, SourceChunk
from app.schemas.queries import SQL
from app.schemas.rows import DROP_COLLECTION, BotSaga
from app.utils.errors import BotNotFound, CollectionMoved, MigrationInProgress

CUTOVER_LOCK_TIMEOUT = "SET LOCAL lock_timeout = '2s'"


TARGET = ("model", "dimension", "analyzer_version", "title_in_lexical")


def has_titles(analyzer_version: int, title_in_lexical: bool, wanted: bool | None) -> bool:
    """Whether a bot's next collection has titles. ``wanted`` None: as before, or as a new bot if it is of a time before
    there was a choice."""
    return (title_in_lexical or analyzer_version == 1) if wanted is None else wanted


class ModelMigrationStore:
    """``late_write_window``: how long after the end of its call a write to Milvus may still take effect."""

    def __init__(self, db: Database, late_write_window: timedelta) -> None:
        self._db = db
        self._late_write_window = late_write_window

    async def take_lease(self, bot_id: UUID, token: UUID, length: timedelta) -> datetime | None:
        if await self._db.fetchrow(SQL["take_migration_lease"], bot_id, token, length):
            return None
        row = await self._db.fetchrow(SQL["get_migration_lease"], bot_id)
        return row["lease_until"] if row else await self.take_lease(bot_id, token, length)

    async def renew_lease(self, bot_id: UUID, token: UUID, length: timedelta) -> bool:
        return await self._db.fetchrow(SQL["renew_migration_lease"], bot_id, token, length) is not None

    async def release_lease(self, bot_id: UUID, token: UUID) -> None:
        await self._db.execute(SQL["release_migration_lease"], bot_id, token)

    async def begin(
        self,
        bot_id: UUID,
        model: str,
        dimension: int,
        *,
        analyzer_version: int = 1,
        title_in_lexical: bool | None = None,
    ) -> ModelMigration | None:
        async with self._db.transaction() as conn:
            row = await self._lock(conn, bot_id)
            if row["next_collection"] is not None:
                if (row["next_model"], row["next_dimension"]) != (model, dimension):
                    raise MigrationInProgress(
                        f"A migration of bot {bot_id} to {row['next_model']} is unfinished: finish it with --to that "
                        "model, or abort it with --abort."
                    )
                words = (row["next_analyzer_version"], row["next_title_in_lexical"])
                return ModelMigration(row["next_collection"], model, dimension, *words)
            if (row["embedding_model"], row["dimension"]) in ((model, dimension), (None, None)):
                return None
            titles = has_titles(row["analyzer_version"], row["title_in_lexical"], title_in_lexical)
            target = (model, dimension, analyzer_version, titles)
            return ModelMigration(await conn.fetchval(SQL["begin_migration"], bot_id, *target), *target)

    async def begin_reindex(
        self, bot_id: UUID, *, analyzer_version: int, title_in_lexical: bool | None
    ) -> ModelMigration | None:
        async with self._db.transaction() as conn:
            row = await self._lock(conn, bot_id)
            if row["embedding_model"] is None:
                return None
            titles = has_titles(row["analyzer_version"], row["title_in_lexical"], title_in_lexical)
            target = (row["embedding_model"], row["dimension"], analyzer_version, titles)
            name = row["next_collection"]
            if name is None:
                name = await conn.fetchval(SQL["begin_migration"], bot_id, *target)
            elif tuple(row[f"next_{column}"] for column in TARGET) != target:
                raise MigrationInProgress(
                    f"Another migration of bot {bot_id} is unfinished: finish it, or abort it with reembed {bot_id} "
                    "--abort."
                )
            return ModelMigration(name, *target)

    async def migration(self, bot_id: UUID) -> ModelMigration | None:
        row = await self._db.fetchrow(SQL["get_migration"], bot_id)
        return ModelMigration(**row) if row else None

    async def low_watermark(self, bot_id: UUID) -> int:
        async with self._db.transaction() as conn:
            await self._lock(conn, bot_id)
            generation: int = await conn.fetchval(SQL["low_watermark"], bot_id)
            return generation

    async def chunk_page(self, bot_id: UUID, after: int, limit: int) -> Sequence[SourceChunk]:
        return [SourceChunk(**row) for row in await self._db.fetch(SQL["page_of_current_chunks"], bot_id, after, limit)]

    async def keys_from(self, bot_id: UUID, first: int, limit: int | None = None) -> Sequence[int]:
        return [row["chunk_id"] for row in await self._db.fetch(SQL["current_chunks_from"], bot_id, first, limit)]

    async def chunks_of_keys(self, bot_id: UUID, keys: Sequence[int]) -> Sequence[SourceChunk]:
        return [SourceChunk(**row) for row in await self._db.fetch(SQL["chunks_by_key"], bot_id, keys)]

    async def enqueue_vector_gc(self, bot_id: UUID, collection: str, spans: Mapping[int, int]) -> None:
        generations = sorted(spans)
        names = [collection] * len(generations)
        widths = [spans[generation] for generation in generations]
        await self._db.execute(SQL["enqueue_vector_gc"], bot_id, generations, widths, self._late_write_window, names)

    @asynccontextmanager
    async def cut_over(self, bot_id: UUID, migration: ModelMigration) -> AsyncIterator["CutoverTransaction"]:
        async with self._db.transaction() as conn:
            await conn.execute(CUTOVER_LOCK_TIMEOUT)
            row = await self._lock(conn, bot_id)
            if row["next_collection"] != migration.collection_name:
                raise CollectionMoved(f"The migration of bot {bot_id} was ended by another process.")
            yield CutoverTransaction(conn, bot_id, row["milvus_collection"], row["milvus_timestamp"])

    async def abort(self, bot_id: UUID, token: UUID, lease: timedelta) -> BotSaga | None:
        async with self._db.transaction() as conn:
            name = (await self._lock(conn, bot_id))["next_collection"]
            if name is None:
                return None
            await conn.execute(SQL["abort_migration"], bot_id)
            saga = await conn.fetchval(SQL["drop_collection_later"], bot_id, name, token, lease)
            return BotSaga(saga, DROP_COLLECTION, bot_id, name)

    @staticmethod
    async def _lock(conn: Connection, bot_id: UUID) -> asyncpg.Record:
        row = await conn.fetchrow(SQL["lock_bot_exclusively"], bot_id)
        if row is None:
            raise BotNotFound()
        return row


class CutoverTransaction:
    """Cutover on a connection that has locked the bot's row."""

    def __init__(self, conn: Connection, bot_id: UUID, old_collection: str, milvus_timestamp: int) -> None:
        self.milvus_timestamp = milvus_timestamp
        self._conn = conn
        self._bot_id = bot_id
        self._old_collection = old_collection

    async def keys_from(self, first: int) -> Sequence[int]:
        rows = await self._conn.fetch(SQL["current_chunks_from"], self._bot_id, first, None)
        return [row["chunk_id"] for row in rows]

    async def chunks_of_keys(self, keys: Sequence[int]) -> Sequence[SourceChunk]:
        return [SourceChunk(**row) for row in await self._conn.fetch(SQL["chunks_by_key"], self._bot_id, keys)]

    async def complete(self, timestamp: int, grace: timedelta) -> None:
        await self._conn.execute(SQL["cut_over_collection"], self._bot_id, timestamp)
        await self._conn.execute(SQL["end_rebuild"], self._bot_id, None)  # The new collection is complete.
        # No process has this token: recovery takes the saga when its lease has expired.
        await self._conn.execute(SQL["drop_collection_later"], self._bot_id, self._old_collection, uuid4(), grace)
