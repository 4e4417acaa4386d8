"""StreamPort on PostgreSQL, and the parts of T1 and T2 that are about ``stream_parts`` and ``stream_results``."""

from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

import asyncpg

from app.core.stores.postgres.connection import Connection
from app.core.stores.postgres.database import Database
from app.core.stores.postgres.tenant_guard import only_bot
from app.schemas.queries import SQL
from app.schemas.stream_rows import LineResults, LinesKey, PartName, PartState, ResultPlace, StoredResults, StreamTotals
from app.utils.errors import BotNotFound, PartInProgress


async def claim(conn: Connection, key: LinesKey) -> None:
    """T1's part. The bot is locked already: a deletion of the bot, which deletes its parts, locks it first as well.

    The part stays locked until T1 ends. Raises PartInProgress.
    """
    row = await conn.fetchrow(SQL["claim_part"], *key.name)
    assert row is not None
    if row["lines"] != key.after:
        raise PartInProgress
    if row["generation"] is not None and await conn.fetchval(SQL["saga_in_flight"], row["generation"]):
        raise PartInProgress


async def assign(conn: Connection, key: LinesKey, generation: int) -> None:
    """From the commit on the lines are in flight for as long as this saga is."""
    await conn.execute(SQL["assign_part"], *key.name, generation)


async def lock(conn: Connection, key: LinesKey) -> bool:
    """T2's part: locks the part; False when another request has taken it over."""
    return await conn.fetchval(SQL["lock_part"], *key.name, key.after, key.generation) is not None


async def store_results(conn: Connection, key: LinesKey, done: LineResults) -> None:
    values = (key.last_line, key.sha256, done.stored, done.failed, done.results)
    await conn.execute(SQL["store_lines"], *key.name, *values)


class StreamStore:
    """``keep``: how long a stream is stored after its last call."""

    def __init__(self, db: Database, keep: timedelta) -> None:
        self._db = db
        self._keep = keep

    async def part(self, name: PartName) -> PartState | None:
        rows = only_bot(await self._db.fetch(SQL["stream_part"], *name), name.bot_id)
        return _state(rows[0]) if rows else None

    async def advance(self, key: LinesKey, results: LineResults) -> None:
        async with self._db.transaction() as conn:
            if not await conn.fetch(SQL["lock_bot_for_use"], [key.name.bot_id]):
                raise BotNotFound
            await claim(conn, key)
            await store_results(conn, key, results)

    async def totals(self, bot_id: UUID, stream_key: str) -> StreamTotals:
        row = await self._db.fetchrow(SQL["stream_totals"], bot_id, stream_key)
        assert row is not None
        return StreamTotals(row["parts"], row["lines"], row["stored"], row["failed"])

    async def parts(self, bot_id: UUID, stream_key: str, after: int, limit: int) -> Sequence[PartState]:
        rows = await self._db.fetch(SQL["stream_parts"], bot_id, stream_key, after, limit)
        return [_state(row) for row in only_bot(rows, bot_id)]

    async def results(
        self, bot_id: UUID, stream_key: str, after: ResultPlace, limit: int, *, failed: bool
    ) -> Sequence[StoredResults]:
        rows = await self._db.fetch(SQL["stream_results"], bot_id, stream_key, *after, failed, limit)
        return [
            StoredResults(ResultPlace(row["part"], row["last_line"]), row["results"]) for row in only_bot(rows, bot_id)
        ]

    async def sweep(self) -> None:
        await self._db.execute(SQL["sweep_streams"], self._keep)


def _state(row: asyncpg.Record) -> PartState:
    return PartState(
        row["part"],
        row["lines"],
        row["sha256"],
        row["stored"],
        row["failed"],
        row["in_flight"],
        row["updated_at"],
    )
