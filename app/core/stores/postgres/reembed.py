"""A bot's move to another embedding model, as the record has it."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from uuid import UUID, uuid4

import asyncpg

from app.core.stores.postgres.connection import Connection
from app.core.stores.postgres.database import Database
from app.schemas.queries import SQL
from app.schemas.rows import DROP_COLLECTION, BotSaga, ModelMigration, SourceChunk
from app.utils.errors import BotNotFound, CollectionMoved, ReembedInProgress

NOT_FOUND = "There is no bot with this chat_bot_id."
SWITCH_LOCK_TIMEOUT = "SET LOCAL lock_timeout = '2s'"


class ReembedStore:
    """All methods raise DatabaseUnavailable, and BotNotFound where the bot is gone or going.

    ``settle`` is how long after its call's end a write to Milvus may still land.
    """

    def __init__(self, db: Database, settle: timedelta) -> None:
        self._db = db
        self._settle = settle

    async def take_lease(self, bot_id: UUID, token: UUID, length: timedelta) -> datetime | None:
        if await self._db.fetchrow(SQL["take_reembed_lease"], bot_id, token, length):
            return None
        row = await self._db.fetchrow(SQL["get_reembed_lease"], bot_id)
        return row["lease_until"] if row else await self.take_lease(bot_id, token, length)

    async def renew_lease(self, bot_id: UUID, token: UUID, length: timedelta) -> bool:
        return await self._db.fetchrow(SQL["renew_reembed_lease"], bot_id, token, length) is not None

    async def release_lease(self, bot_id: UUID, token: UUID) -> None:
        await self._db.execute(SQL["release_reembed_lease"], bot_id, token)

    async def begin(self, bot_id: UUID, model: str, dimension: int) -> ModelMigration | None:
        async with self._db.transaction() as conn:
            row = await self._lock(conn, bot_id)
            if row["next_collection"] is not None:
                if (row["next_model"], row["next_dimension"]) != (model, dimension):
                    raise ReembedInProgress(
                        f"A move of bot {bot_id} to {row['next_model']} is half-done: end it with --to that model, "
                        "or give it up with --abort."
                    )
                return ModelMigration(row["next_collection"], model, dimension)
            if (row["embedding_model"], row["dimension"]) in ((model, dimension), (None, None)):
                return None
            return ModelMigration(await conn.fetchval(SQL["begin_move"], bot_id, model, dimension), model, dimension)

    async def move(self, bot_id: UUID) -> ModelMigration | None:
        row = await self._db.fetchrow(SQL["get_move"], bot_id)
        return ModelMigration(**row) if row else None

    async def low_watermark(self, bot_id: UUID) -> int:
        async with self._db.transaction() as conn:
            await self._lock(conn, bot_id)
            generation: int = await conn.fetchval(SQL["first_open_generation"], bot_id)
            return generation

    async def page(self, bot_id: UUID, after: int, limit: int) -> Sequence[SourceChunk]:
        return [SourceChunk(**row) for row in await self._db.fetch(SQL["page_of_current_chunks"], bot_id, after, limit)]

    async def keys(self, bot_id: UUID, first: int) -> Sequence[int]:
        return [row["chunk_id"] for row in await self._db.fetch(SQL["current_chunks_from"], bot_id, first)]

    async def chunks(self, bot_id: UUID, keys: Sequence[int]) -> Sequence[SourceChunk]:
        return [SourceChunk(**row) for row in await self._db.fetch(SQL["chunks_by_key"], bot_id, keys)]

    async def enqueue_vector_gc(self, bot_id: UUID, collection: str, spans: Mapping[int, int]) -> None:
        generations = sorted(spans)
        names = [collection] * len(generations)
        widths = [spans[generation] for generation in generations]
        await self._db.execute(SQL["enqueue_vector_gc"], bot_id, generations, widths, self._settle, names)

    @asynccontextmanager
    async def switching(self, bot_id: UUID, move: ModelMigration) -> AsyncIterator["SwitchTransaction"]:
        async with self._db.transaction() as conn:
            await conn.execute(SWITCH_LOCK_TIMEOUT)
            row = await self._lock(conn, bot_id)
            if row["next_collection"] != move.collection_name:
                raise CollectionMoved(f"The move of bot {bot_id} was ended by somebody else.")
            yield SwitchTransaction(conn, bot_id, row["milvus_collection"])

    async def forget(self, bot_id: UUID, token: UUID, lease: timedelta) -> BotSaga | None:
        async with self._db.transaction() as conn:
            name = (await self._lock(conn, bot_id))["next_collection"]
            if name is None:
                return None
            await conn.execute(SQL["forget_move"], bot_id)
            saga = await conn.fetchval(SQL["drop_collection_later"], bot_id, name, token, lease)
            return BotSaga(saga, DROP_COLLECTION, bot_id, name)

    @staticmethod
    async def _lock(conn: Connection, bot_id: UUID) -> asyncpg.Record:
        row = await conn.fetchrow(SQL["lock_bot_for_move"], bot_id)
        if row is None:
            raise BotNotFound(NOT_FOUND)
        return row


class SwitchTransaction:
    """Keeps to Switch, on a connection that holds the bot's row."""

    def __init__(self, conn: Connection, bot_id: UUID, old_collection: str) -> None:
        self._conn = conn
        self._bot_id = bot_id
        self._old_collection = old_collection

    async def keys(self, first: int) -> Sequence[int]:
        return [row["chunk_id"] for row in await self._conn.fetch(SQL["current_chunks_from"], self._bot_id, first)]

    async def chunks(self, keys: Sequence[int]) -> Sequence[SourceChunk]:
        return [SourceChunk(**row) for row in await self._conn.fetch(SQL["chunks_by_key"], self._bot_id, keys)]

    async def complete(self, timestamp: int, grace: timedelta) -> None:
        await self._conn.execute(SQL["switch_collection"], self._bot_id, timestamp)
        await self._conn.execute(SQL["end_rebuild"], self._bot_id, None)  # The new collection lacks nothing.
        # Nobody holds this token: recovery takes the saga when its lease has passed.
        await self._conn.execute(SQL["drop_collection_later"], self._bot_id, self._old_collection, uuid4(), grace)
