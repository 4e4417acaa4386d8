"""What the record promises of vectors that processes share: in memory and in PostgreSQL."""

from uuid import uuid4

import numpy as np
import pytest

from app.core.ports import SharedVectors
from app.core.write.write import Write
from app.schemas.rows import Bot
from app.utils.errors import CollectionMoved
from tests.contract.records import HOUR, NO_TIME, PAST, Record, document

TOKEN = uuid4()


def vectors_of(collection: str, *keys: int) -> SharedVectors:
    chunk_ids = np.array(keys, np.int64)
    return SharedVectors(collection, chunk_ids, chunk_ids + 1, np.array([[key, 0.5] for key in keys], np.float32))


async def recent(record: Record, bot: Bot, age: int = 1_000, limit: int = 10) -> tuple[int, list[tuple[int, int]]]:
    """``unshared``, and timestamp and key of each vector."""
    found = await record.documents.recent_writes(bot.bot_id, bot.milvus_collection, age, limit)
    assert found.timestamps == await record.documents.write_timestamps(bot.bot_id, bot.milvus_collection)
    assert found.vectors is not None
    for one in found.vectors:
        assert (one.doc_id, one.vector.tolist()) == (one.chunk_id + 1, [one.chunk_id, 0.5])
    return found.unshared, [(one.timestamp, one.chunk_id) for one in found.vectors]


async def test_vectors_of_small_writes_are_shared(record: Record) -> None:
    bot, other = await record.bot(), await record.bot()
    name = bot.milvus_collection
    one, two = uuid4(), uuid4()
    assert await recent(record, bot) == (0, [])
    await record.writes.finish([], one, {bot.bot_id: 10}, shared=vectors_of(name, 1, 2))
    await record.writes.finish([], two, {bot.bot_id: 30}, shared=vectors_of(name, 3))
    # An older timestamp, of each writer.
    await record.writes.finish([], two, {bot.bot_id: 20}, shared=vectors_of(name, 4))
    await record.writes.finish([], one, {bot.bot_id: 25}, shared=vectors_of(name, 5))
    unshared, found = await recent(record, bot)
    assert (unshared, found[:3], set(found[3:])) == (0, [(30, 3), (25, 5), (20, 4)], {(10, 1), (10, 2)})
    assert await recent(record, bot, age=10) == (0, [(30, 3), (25, 5)])
    assert await recent(record, bot, limit=1) == (0, [(30, 3)])
    assert await recent(record, other) == (0, [])
    # A write that is not shared, alone and beside one of another bot.
    await record.writes.finish([], one, {bot.bot_id: 24})
    assert await recent(record, bot) == (24, [(30, 3), (25, 5)])
    await record.writes.finish([], one, {bot.bot_id: 28, other.bot_id: 28})
    assert await recent(record, bot) == (28, [(30, 3)])
    with pytest.raises(CollectionMoved):
        await record.documents.recent_writes(bot.bot_id, other.milvus_collection, 10, 10)
    assert await record.documents.recent_writes(uuid4(), "any", 10, 10) == ((0, None, 0), 0, ())


async def test_vectors_of_another_collection_are_not_shared(record: Record) -> None:
    bot = await record.bot()
    await record.writes.finish([], TOKEN, {bot.bot_id: 10}, shared=vectors_of("another", 1))
    assert await recent(record, bot) == (10, [])


async def test_swept_vectors_count_as_not_shared(record: Record) -> None:
    bot, other = await record.bot(), await record.bot()
    for number, one in enumerate((bot, other)):
        await record.writes.finish([], TOKEN, {one.bot_id: 10}, shared=vectors_of(one.milvus_collection, number))
    await record.writes.finish([], TOKEN, {bot.bot_id: 9}, shared=vectors_of(bot.milvus_collection, 3))
    await record.writes.sweep_recent_vectors(HOUR)
    assert await recent(record, bot) == (0, [(10, 0), (9, 3)])
    await record.writes.sweep_recent_vectors(PAST)
    assert await recent(record, bot) == await recent(record, other) == (10, [])
    await record.writes.finish([], TOKEN, {bot.bot_id: 12}, shared=vectors_of(bot.milvus_collection, 4))
    assert await recent(record, bot) == (10, [(12, 4)])


async def test_a_deleted_bot_leaves_no_recent_vectors(record: Record) -> None:
    bot = await record.bot()
    shared = vectors_of(bot.milvus_collection, 1)
    await record.writes.finish([], TOKEN, {bot.bot_id: 10}, shared=shared)
    saga = await record.bots.begin_deletion(bot.bot_id, None, TOKEN, HOUR)
    assert saga is not None
    await record.writes.finish([], TOKEN, {bot.bot_id: 11}, shared=shared)
    assert await record.bots.finish_deletion(bot.bot_id)
    creation = await record.bots.insert(bot.bot_id, "again", bot.collection_name, "chatty", TOKEN, HOUR)
    assert creation is not None
    await record.bots.finish_creation(creation, bot.bot_id, bot.collection_name, "hash", 64, TOKEN)
    assert await recent(record, bot) == (0, [])


async def test_another_model_makes_all_writes_unshared(record: Record) -> None:
    bot = await record.bot()
    await record.written(Write(bot, document("a")))
    await record.writes.finish([], TOKEN, {bot.bot_id: 10}, shared=vectors_of(bot.milvus_collection, 1))
    migration = await record.migrations.begin(bot.bot_id, "other", 64)
    assert migration is not None
    async with record.migrations.cut_over(bot.bot_id, migration) as cutover:
        await cutover.keys_from(0)
        await cutover.complete(8, NO_TIME)
    moved = await record.bots.get(bot.bot_id, None)
    assert moved is not None
    assert moved.milvus_collection != bot.milvus_collection
    assert await recent(record, moved) == (10, [])
    # A write that has yet to be restarted for the new collection.
    await record.writes.finish([], TOKEN, {bot.bot_id: 12}, shared=vectors_of(bot.milvus_collection, 2))
    assert await recent(record, moved) == (12, [])
