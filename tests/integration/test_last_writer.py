"""Servers of the version before migration 0020 may still write: their statements make the last writer unknown."""

import asyncio
from uuid import UUID, uuid4

import pytest

from app.core.stores.postgres.database import Database
from app.core.write.write import Write
from app.schemas.operation_rows import GenerationBlock
from app.schemas.rows import Bot, WriteTimestamps
from tests.contract.records import HOUR, Record, document

ME = uuid4()
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
