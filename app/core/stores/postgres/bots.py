"""BotPort on PostgreSQL: ``bot_registry``, and the sagas of whole bots."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID, uuid4

import asyncpg

from app.core.stores.postgres import quotas
from app.core.stores.postgres.connection import Connection, LockNotGranted
from app.core.stores.postgres.database import Database
from app.core.stores.postgres.tenant_guard import (
    TenantMismatch,
    check_only_account,
    check_only_bot,
    only_account,
    only_bot,
)
from app.schemas.queries import SQL
from app.schemas.rows import CREATE_BOT, DELETE_BOT, Bot, BotChanges, BotCounts, BotSaga, Mode, Progress
from app.utils.errors import CollectionNameTaken

# While this waits for a lock on the parent tables, every reader waits behind it: so it gives up soon and tries again.
PARTITION_LOCK_TIMEOUT = "SET LOCAL lock_timeout = '100ms'"


class BotStore:
    """``late_write_window``: how long after the end of its call a write to Milvus may still take effect."""

    def __init__(self, db: Database, late_write_window: timedelta) -> None:
        self._db = db
        self._late_write_window = late_write_window

    async def get(self, bot_id: UUID, account: str | None) -> Bot | None:
        rows = only_account(await self._db.fetch(SQL["get_bot"], bot_id, account), account)
        return next((_bot(row, tuple(row["in_flight_generations"])) for row in only_bot(rows, bot_id)), None)

    async def get_many(self, bot_ids: Sequence[UUID], account: str | None) -> dict[UUID, Bot]:
        rows = only_account(await self._db.fetch(SQL["get_bots"], bot_ids, account), account)
        return {row["bot_id"]: _bot(row) for row in rows}

    async def list(
        self, account: str | None, after: tuple[datetime, UUID] | None = None, limit: int | None = None
    ) -> Sequence[Bot]:
        rows = await self._db.fetch(SQL["list_bots"], account, *(after or (None, None)), limit)
        return [_bot(row) for row in only_account(rows, account)]

    async def count(self, account: str | None) -> int:
        rows = await self._db.fetch(SQL["count_bots"], account)
        return sum(row["bots"] for row in only_account(rows, account))

    async def find(self, collection_name: str, account: str | None) -> UUID | None:
        rows = only_account(await self._db.fetch(SQL["find_bot"], collection_name, account), account)
        return rows[0]["bot_id"] if rows else None

    async def update(self, bot_id: UUID, account: str | None, changes: BotChanges) -> bool:
        try:
            async with self._db.transaction() as conn:
                rows = await conn.fetch(SQL["update_bot"], bot_id, account, changes)
                check_only_bot(rows, bot_id)
                check_only_account(rows, account)
        except TenantMismatch:
            return False
        return bool(rows)

    async def counts(self, bot_id: UUID) -> BotCounts:
        row = await self._db.fetchrow(SQL["bot_counts"], bot_id)
        assert row is not None
        return BotCounts(**row)

    async def insert(
        self,
        bot_id: UUID,
        bot_name: str,
        collection_name: str,
        account: str,
        token: UUID,
        lease: timedelta,
        *,
        analyzer_version: int = 1,
        title_in_lexical: bool = False,
        default_mode: Mode | None = None,
        default_dense_weight: float | None = None,
        default_min_confidence: float | None = None,
        pinned: bool = False,
    ) -> int | None:
        words = (analyzer_version, title_in_lexical)
        defaults = (default_mode, default_dense_weight, default_min_confidence, pinned)
        row = (bot_id, bot_name, collection_name, account, *words, *defaults)
        async with self._db.transaction() as conn:
            if await conn.fetchval(SQL["insert_bot"], *row) is not None:
                if await quotas.check_bot(conn, account):
                    await conn.execute(SQL["count_usage"], bot_id)
                    await conn.execute(SQL["set_counted"], bot_id, True)
                return await self._begin(conn, CREATE_BOT, bot_id, token, lease)
            if await conn.fetchrow(SQL["bot_state"], bot_id) is None:
                raise CollectionNameTaken(f"Another bot has the collection_name {collection_name!r}.")
            return None

    async def begin_creation(self, bot_id: UUID, token: UUID, lease: timedelta) -> int | None:
        async with self._db.transaction() as conn:
            # Exclusively, so that a creation that began later has a greater generation.
            if not await conn.fetch(SQL["lock_bot_exclusively"], bot_id):
                return None
            return await self._begin(conn, CREATE_BOT, bot_id, token, lease)

    async def finish_creation(
        self, saga: int, bot_id: UUID, collection: str, model: str, dimension: int, token: UUID
    ) -> bool:
        async with self._db.transaction() as conn:
            row = await conn.fetchrow(SQL["lock_bot_exclusively"], bot_id)
            if row is not None and row["milvus_collection"] != collection:
                return False
            await conn.execute(SQL["set_bot_model"], bot_id, model, dimension)
            await conn.execute(SQL["end_sagas"], [saga], token)
        return True

    async def end_saga(self, saga: int, token: UUID) -> None:
        await self._db.execute(SQL["end_sagas"], [saga], token)

    async def begin_deletion(self, bot_id: UUID, account: str | None, token: UUID, lease: timedelta) -> int | None:
        async with self._db.transaction() as conn:
            rows = only_account(await conn.fetch(SQL["lock_bot_for_deletion"], bot_id, account), account)
            if not only_bot(rows, bot_id):
                return None
            await conn.execute(SQL["mark_bot_deleting"], bot_id)
            return await self._begin(conn, DELETE_BOT, bot_id, token, lease)

    async def state(self, bot_id: UUID) -> tuple[str, str, int | None] | None:
        row = await self._db.fetchrow(SQL["bot_state"], bot_id)
        return (row["state"], row["milvus_collection"], row["dimension"]) if row else None

    async def collections(self, bot_id: UUID, dimension: int) -> Sequence[tuple[str, int | None]]:
        rows = await self._db.fetch(SQL["collections_of_bot"], bot_id, dimension)
        return [(row["collection_name"], row["dimension"]) for row in rows]

    async def creation_in_flight(self, bot_id: UUID, before: int | None = None) -> bool:
        row = await self._db.fetchrow(SQL["creation_in_flight"], bot_id, before)
        return bool(row and row[0])

    async def finish_deletion(self, bot_id: UUID) -> bool:
        async with self._db.transaction() as conn:
            try:
                # A savepoint, so that the transaction can end as usual.
                async with conn.transaction():
                    await conn.execute(PARTITION_LOCK_TIMEOUT)
                    row = await conn.fetchrow(SQL["bot_state"], bot_id)
                    if row is not None and row["state"] == "active":
                        return True
                    await conn.execute(SQL["enqueue_bot_gc"], bot_id, self._late_write_window)
                    await conn.execute(SQL["drop_partitions"], bot_id)
                    await conn.execute(SQL["delete_bot_row"], bot_id)
            except LockNotGranted:
                return False
        return True

    async def begin_replacement(self, bot_id: UUID, token: UUID, lease: timedelta) -> BotSaga:
        row = await self._db.fetchrow(SQL["begin_replacement"], bot_id, token, lease)
        assert row is not None
        return BotSaga(**row)

    async def replace_collection(self, bot: Bot, replacement: BotSaga, model: str, dimension: int, token: UUID) -> bool:
        former, bot_id = (bot.milvus_collection, bot.embedding_model), bot.bot_id
        async with self._db.transaction() as conn:
            row = await conn.fetchrow(SQL["lock_bot_exclusively"], bot_id)
            if row is None or (row["milvus_collection"], row["embedding_model"]) != former:
                return False
            if not await conn.fetch(SQL["end_sagas"], [replacement.generation], token):
                return False
            await conn.execute(SQL["set_bot_model"], bot_id, model, dimension)
            await conn.execute(SQL["replace_collection"], bot_id, replacement.collection_name)
            if await conn.fetchval(SQL["has_chunks"], bot_id):
                await conn.execute(SQL["begin_rebuild"], bot_id, False)
            if bot.embedding_model is not None:
                await conn.fetchval(SQL["drop_collection_later"], bot_id, former[0], uuid4(), self._late_write_window)
        return True

    async def claim_expired(self, token: UUID, lease: timedelta) -> BotSaga | None:
        row = await self._db.fetchrow(SQL["claim_expired_bot_saga"], token, lease)
        return BotSaga(**row) if row else None

    @staticmethod
    async def _begin(conn: Connection, operation: str, bot_id: UUID, token: UUID, lease: timedelta) -> int:
        generation: int = await conn.fetchval(SQL["begin_bot_saga"], operation, bot_id, token, lease)
        return generation


def _bot(row: asyncpg.Record, in_flight_generations: tuple[int, ...] = ()) -> Bot:
    columns = dict(row)
    done, total = columns.pop("chunks_done"), columns.pop("chunks_total")
    rebuild = None if total is None else Progress(done, total)
    return Bot(**{**columns, "in_flight_generations": in_flight_generations, "rebuild": rebuild})
