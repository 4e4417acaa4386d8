"""Older servers may still write: their statements make the last writer unknown (those before migration 0020), or the
vectors of all writes unshared (those before 0028)."""

import asyncio
from uuid import UUID, uuid4

import numpy as np
import pytest

from app.core.ports import SharedVectors
from app.core.stores.postgres.database import Database
from app.core.write.write import Write
from app.schemas.operation_rows import GenerationBlock
from app.schemas.rows import Bot, WriteTimestamps
from tests.contract.records import HOUR, PAST, Record, document

ME = uuid4()
T1_BEFORE_0028 = (
    "INSERT INTO sagas (generation, operation, bot_id, doc_id, chunk_span, collection_name, lease_token, lease_until, "
    "names_writer) VALUES (100000, 'write', $1, 100000, 1, 'c', gen_random_uuid(), now() + interval '1 hour', true)"
)
RAISE_BEFORE_0028 = (
    "UPDATE bot_registry "
    "SET foreign_timestamp = CASE WHEN last_writer = $3::uuid THEN foreign_timestamp ELSE milvus_timestamp END, "
    "last_writer = $3, milvus_timestamp = greatest(milvus_timestamp, $2) "
    "WHERE bot_id = $1 AND (milvus_timestamp < $2 OR last_writer IS DISTINCT FROM $3)"
)
OLD_T1 = (
    "INSERT INTO sagas (generation, operation, bot_id, doc_id, chunk_span, collection_name, lease_token, lease_until) "
    "VALUES (100000, 'write', $1, 100000, 1, 'c', gen_random_uuid(), now() + interval '1 hour')"
)
OLD_RAISE = (
    "UPDATE bot_registry SET milvus_timestamp = $2 "
    "WHERE bot_id = $1 AND milvus_timestamp < $2 AND set_config('synchronous_commit', 'off', true) IS NOT NULL"
)


@pytest.fixture
def record(db: Database) -> Record:
    return Record.in_postgres(db)


@pytest.fixture
async def bot(record: Record) -> Bot:
    """Its last writer is known."""
    await record.generations.use(GenerationBlock(uuid4(), 1, 1 << 13))
    bot = await record.bot()
    await record.writes.finish([], ME, {bot.bot_id: 100})
    assert await timestamps(record, bot.bot_id) == (100, ME, 0)
    return bot


async def timestamps(record: Record, bot_id: UUID) -> WriteTimestamps:
    found = await record.bots.get(bot_id, None)
    assert found is not None
    return found.timestamps


@pytest.mark.parametrize("timestamp", [90, 110], ids=["older", "newer"])
async def test_a_write_of_an_older_server(db: Database, record: Record, bot: Bot, timestamp: int) -> None:
    """Its T2 waits for its raise, which is on another connection: the trigger must not make it a deadlock."""
    await db.execute(OLD_T1, bot.bot_id)
    async with db.transaction() as conn:
        await conn.execute("SELECT FROM bot_registry WHERE bot_id = $1 FOR KEY SHARE", bot.bot_id)
        await conn.execute("DELETE FROM sagas WHERE generation = 100000")
        async with asyncio.timeout(5):
            await db.execute(OLD_RAISE, bot.bot_id, timestamp)
        assert (await timestamps(record, bot.bot_id)).last_writer == ME  # Nothing is visible yet.
    newest = max(100, timestamp)
    assert await timestamps(record, bot.bot_id) == (newest, None, 0)
    await record.writes.finish([], ME, {bot.bot_id: 120})
    assert await timestamps(record, bot.bot_id) == (120, ME, newest)


async def test_a_raise_of_this_process_between_those_of_an_older_server(db: Database, record: Record, bot: Bot) -> None:
    await db.execute(OLD_T1, bot.bot_id)
    await db.execute(OLD_RAISE, bot.bot_id, 110)
    await record.writes.finish([], ME, {bot.bot_id: 120})
    assert await timestamps(record, bot.bot_id) == (120, ME, 0)
    await db.execute("DELETE FROM sagas WHERE generation = 100000")
    assert await timestamps(record, bot.bot_id) == (120, None, 0)


async def test_another_collection_makes_the_writer_unknown(db: Database, record: Record, bot: Bot) -> None:
    await db.execute("UPDATE bot_registry SET milvus_collection = 'another' WHERE bot_id = $1", bot.bot_id)
    assert await timestamps(record, bot.bot_id) == (100, None, 0)


async def test_the_end_of_a_rebuild_makes_the_writer_unknown(db: Database, record: Record, bot: Bot) -> None:
    await record.rebuilds.begin_in_place(bot.bot_id, bot.milvus_collection)
    await db.execute("DELETE FROM index_rebuilds WHERE bot_id = $1", bot.bot_id)
    assert await timestamps(record, bot.bot_id) == (100, None, 0)


async def test_a_write_of_this_version_does_not(record: Record, bot: Bot) -> None:
    write = Write(bot, document("a"))
    await record.transactions.begin([write], ME, HOUR)
    await record.transactions.finish([write], ME, timestamps={bot.bot_id: 110})
    assert write.error is None
    assert await timestamps(record, bot.bot_id) == (110, ME, 0)


async def unshared(record: Record, bot: Bot) -> int:
    return (await record.documents.recent_writes(bot.bot_id, bot.milvus_collection, 1_000, 10)).unshared


@pytest.mark.parametrize("timestamp", [90, 110], ids=["older", "newer"])
async def test_a_write_of_the_version_before_is_not_shared(
    db: Database, record: Record, bot: Bot, timestamp: int
) -> None:
    keys = np.array([1])
    shared = SharedVectors(bot.milvus_collection, keys, keys, np.ones((1, 2), np.float32))
    for newest in (120, 130):
        await record.writes.finish([], ME, {bot.bot_id: newest}, shared=shared)
        before = await unshared(record, bot)
        await db.execute(T1_BEFORE_0028, bot.bot_id)
        async with db.transaction() as conn:
            await conn.execute("SELECT FROM bot_registry WHERE bot_id = $1 FOR KEY SHARE", bot.bot_id)
            await conn.execute("DELETE FROM sagas WHERE generation = 100000")
            async with asyncio.timeout(5):
                await db.execute(RAISE_BEFORE_0028, bot.bot_id, timestamp, ME)
            assert await unshared(record, bot) == before  # Nothing is visible yet.
        assert await unshared(record, bot) == newest


async def test_the_end_of_a_rebuild_makes_all_writes_unshared(record: Record, bot: Bot) -> None:
    keys = np.array([1])
    shared = SharedVectors(bot.milvus_collection, keys, keys, np.ones((1, 2), np.float32))
    await record.writes.finish([], ME, {bot.bot_id: 120}, shared=shared)
    await record.rebuilds.begin_in_place(bot.bot_id, bot.milvus_collection)
    assert await record.rebuilds.claim(ME, HOUR)
    assert await unshared(record, bot) == 100
    assert await record.rebuilds.finish(bot.bot_id, bot.milvus_collection, ME, 125)
    assert await unshared(record, bot) == 125


async def test_a_bot_that_an_older_server_deleted_leaves_no_recent_vectors(
    db: Database, record: Record, bot: Bot
) -> None:
    keys = np.array([1])
    shared = SharedVectors(bot.milvus_collection, keys, keys, np.ones((1, 2), np.float32))
    await record.writes.finish([], ME, {bot.bot_id: 120}, shared=shared)
    await db.execute("DELETE FROM bot_registry WHERE bot_id = $1", bot.bot_id)
    await record.writes.sweep_recent_vectors(HOUR)
    assert len(await db.fetch("SELECT FROM recent_vectors")) == 1
    await record.writes.sweep_recent_vectors(PAST)
    assert await db.fetch("SELECT FROM recent_vectors") == []
