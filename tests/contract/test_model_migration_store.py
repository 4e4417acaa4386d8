"""What ModelMigrationPort promises, and what a migration means for other stores: plain memory and PostgreSQL."""

from dataclasses import replace
from uuid import UUID, uuid4

import pytest

from app.core.write.idempotency import IdempotentRequest
from app.core.write.write import Write
from app.schemas.operation_rows import ModelMigration
from app.schemas.rows import DROP_COLLECTION, Bot
from app.utils.errors import BotNotFound, CollectionMoved, MigrationInProgress, RequestInFlight
from tests.contract.records import HOUR, NO_TIME, PAST, Record, document

TOKEN = uuid4()


async def begun(record: Record, bot: Bot) -> ModelMigration:
    migration = await record.migrations.begin(bot.bot_id, "new", 32)
    assert migration
    return migration


async def cut_over(record: Record, bot: Bot, migration: ModelMigration, timestamp: int = 0) -> Bot:
    async with record.migrations.cut_over(bot.bot_id, migration) as step:
        await step.complete(timestamp, HOUR)
    return await now(record, bot.bot_id)


async def now(record: Record, bot_id: UUID) -> Bot:
    bot = await record.bots.get(bot_id, None)
    assert bot
    return bot


async def due(record: Record) -> dict[tuple[int, str], bool]:
    return {(row.generation, row.collection_name): row.window_passed for row in await record.garbage.claim(NO_TIME)}


async def test_a_migration_begins_once_and_is_resumed(record: Record) -> None:
    bot = await record.bot()
    assert await record.migrations.begin(bot.bot_id, "hash", 64) is None
    assert await record.migrations.migration(bot.bot_id) is None
    migration = await begun(record, bot)
    assert (migration.embedding_model, migration.dimension) == ("new", 32)
    assert migration.collection_name != bot.collection_name
    assert await begun(record, bot) == await record.migrations.migration(bot.bot_id) == migration
    for model, dimension in (("other", 32), ("new", 33), ("hash", 64)):
        with pytest.raises(MigrationInProgress):
            await record.migrations.begin(bot.bot_id, model, dimension)
    nothing_moved = replace(bot, next_title_in_lexical=True)  # Only a PATCH of a title looks at what comes next.
    assert await now(record, bot.bot_id) == nothing_moved
    (state,) = await record.verify.bots()
    assert (state.collection_name, state.next_model) == (bot.collection_name, "new")
    with pytest.raises(BotNotFound):
        await record.migrations.begin(uuid4(), "new", 32)


async def test_one_process_at_a_time(record: Record) -> None:
    bot, other = await record.bot(), await record.bot()
    assert await record.migrations.take_lease(bot.bot_id, TOKEN, HOUR) is None
    assert await record.migrations.take_lease(other.bot_id, TOKEN, HOUR) is None
    until = await record.migrations.take_lease(bot.bot_id, uuid4(), HOUR)
    assert until
    assert await record.migrations.renew_lease(bot.bot_id, TOKEN, 2 * HOUR)
    later = await record.migrations.take_lease(bot.bot_id, uuid4(), HOUR)
    assert later
    assert later > until
    await record.migrations.release_lease(bot.bot_id, uuid4())  # Another token's: no effect.
    assert await record.migrations.take_lease(bot.bot_id, uuid4(), HOUR) == later
    await record.migrations.release_lease(bot.bot_id, TOKEN)
    assert await record.migrations.take_lease(bot.bot_id, uuid4(), HOUR) is None


async def test_an_expired_lease_is_taken_over(record: Record) -> None:
    bot, heir = await record.bot(), uuid4()
    assert await record.migrations.take_lease(bot.bot_id, TOKEN, PAST) is None
    assert await record.migrations.take_lease(bot.bot_id, heir, HOUR) is None
    assert not await record.migrations.renew_lease(bot.bot_id, TOKEN, HOUR)
    await record.migrations.release_lease(bot.bot_id, TOKEN)
    assert await record.migrations.take_lease(bot.bot_id, uuid4(), HOUR)
    assert await record.migrations.renew_lease(bot.bot_id, heir, HOUR)


async def test_a_lease_is_deleted_with_its_bot(record: Record) -> None:
    bot = await record.bot()
    assert await record.migrations.take_lease(bot.bot_id, TOKEN, HOUR) is None
    await record.bots.begin_deletion(bot.bot_id, None, TOKEN, HOUR)
    assert await record.bots.finish_deletion(bot.bot_id)
    assert not await record.migrations.renew_lease(bot.bot_id, TOKEN, HOUR)


async def test_cut_over_changes_collection_and_model_together(record: Record) -> None:
    bot = await record.bot()
    await record.writes.finish([], TOKEN, {bot.bot_id: 5})
    migration = await begun(record, bot)
    moved = await cut_over(record, bot, migration, timestamp=9)
    assert moved.collection_name == bot.collection_name
    assert (moved.milvus_collection, moved.embedding_model, moved.dimension) == (migration.collection_name, "new", 32)
    assert moved.timestamps == (9, None, 0)  # The one who copied is not the one who wrote last.
    assert await record.bots.state(bot.bot_id) == ("active", migration.collection_name, 32)
    assert await record.migrations.migration(bot.bot_id) is None
    with pytest.raises(CollectionMoved):
        await cut_over(record, bot, migration)
    # The old collection is dropped when its grace has passed, or with the bot.
    assert await record.bots.claim_expired(TOKEN, HOUR) is None
    assert await record.bots.collections(bot.bot_id, 1) == [
        (migration.collection_name, 32),
        (bot.collection_name, 32),
        (bot.collection_name, None),
    ]
    again = await cut_over(record, bot, await _next(record, bot), timestamp=3)
    assert again.milvus_timestamp == 9


async def _next(record: Record, bot: Bot) -> ModelMigration:
    migration = await record.migrations.begin(bot.bot_id, "newer", 16)
    assert migration
    return migration


async def test_an_interrupted_cut_over_changes_nothing(record: Record) -> None:
    bot = await record.bot()
    migration = await begun(record, bot)
    with pytest.raises(ZeroDivisionError):
        async with record.migrations.cut_over(bot.bot_id, migration):
            raise ZeroDivisionError
    assert await now(record, bot.bot_id) == replace(bot, next_title_in_lexical=True)
    assert await record.migrations.migration(bot.bot_id) == migration


async def test_the_old_collection_is_dropped_by_the_process_that_claims_its_saga(record: Record) -> None:
    bot = await record.bot()
    migration = await begun(record, bot)
    async with record.migrations.cut_over(bot.bot_id, migration) as step:
        await step.complete(0, -HOUR)
    saga = await record.bots.claim_expired(TOKEN, HOUR)
    assert saga
    assert (saga.operation, saga.bot_id, saga.collection_name) == (DROP_COLLECTION, bot.bot_id, bot.collection_name)
    await record.bots.end_saga(saga.generation, TOKEN)
    left = [(migration.collection_name, 32), (bot.collection_name, 32)]  # A slow creation may make the first one again.
    assert await record.bots.collections(bot.bot_id, 1) == left


async def test_an_aborted_migration_leaves_its_collection_to_be_dropped(record: Record) -> None:
    bot = await record.bot()
    assert await record.migrations.abort(bot.bot_id, TOKEN, HOUR) is None
    migration = await begun(record, bot)
    assert await record.bots.collections(bot.bot_id, 1) == [(bot.collection_name, 64), (migration.collection_name, 32)]
    saga = await record.migrations.abort(bot.bot_id, TOKEN, HOUR)
    assert saga
    assert saga.collection_name == migration.collection_name
    assert await record.bots.collections(bot.bot_id, 1) == [
        (bot.collection_name, 64),
        (migration.collection_name, None),
    ]
    assert await now(record, bot.bot_id) == bot
    assert await begun(record, bot) != migration


async def test_pages_show_current_chunks_in_the_order_of_their_keys(record: Record) -> None:
    bot = await record.bot()
    first, second, unfinished = (Write(bot, document(*texts)) for texts in ("ab", "c", "d"))
    await record.written(first, second)
    await record.transactions.begin([unfinished], TOKEN, HOUR)
    await record.written(Write(bot, document("e"), first.doc_id))
    pages: list[tuple[int, str]] = []
    after = 0
    while page := await record.migrations.chunk_page(bot.bot_id, after, 1):
        (chunk,) = page
        after = chunk.chunk_id
        pages.append((chunk.doc_id, chunk.text))
        assert chunk.chunk_span == 1
    assert pages == [(second.doc_id, "c"), (first.doc_id, "e")]
    keys = await record.migrations.keys_from(bot.bot_id, 0)
    assert [chunk.text for chunk in await record.migrations.chunks_of_keys(bot.bot_id, keys)] == ["c", "e"]
    assert await record.migrations.keys_from(bot.bot_id, keys[1]) == keys[1:]
    assert await record.migrations.keys_from(bot.bot_id, 0, limit=1) == keys[:1]
    assert await record.migrations.chunks_of_keys(bot.bot_id, unfinished.chunk_ids) == []


async def test_low_watermark_is_below_every_generation_that_may_become_current(record: Record) -> None:
    bot, other = await record.bot(), await record.bot()
    open_write, done, foreign = Write(bot, document("a")), Write(bot, document("b")), Write(other, document("c"))
    await record.transactions.begin([foreign, open_write], TOKEN, HOUR)
    await record.written(done)
    assert await record.migrations.low_watermark(bot.bot_id) == open_write.generation
    await record.transactions.finish([open_write], TOKEN)
    first = await record.migrations.low_watermark(bot.bot_id)
    assert first > done.generation
    later = Write(bot, document("d"))
    await record.written(later)
    assert later.generation >= first


async def test_garbage_during_a_migration_is_collected_from_both_collections(record: Record) -> None:
    bot = await record.bot()
    before, deleted, replaced = (Write(bot, document(text)) for text in "abc")
    await record.written(before, deleted, replaced)
    await record.documents.delete(bot.bot_id, [before.doc_id])  # type: ignore[list-item]
    migration = await begun(record, bot)
    await record.patient_documents.delete(bot.bot_id, [deleted.doc_id])  # type: ignore[list-item]
    await record.written(Write(bot, document("d"), replaced.doc_id))
    assert await due(record) == {
        (before.generation, bot.collection_name): True,
        (deleted.generation, bot.collection_name): False,
        (deleted.generation, migration.collection_name): False,
        (replaced.generation, bot.collection_name): True,
        (replaced.generation, migration.collection_name): True,
    }
    unknown = [*deleted.chunk_ids, *before.chunk_ids]
    assert await record.verify.unknown_keys(bot.bot_id, bot.collection_name, unknown) == set()
    assert await record.verify.unknown_keys(bot.bot_id, migration.collection_name, unknown) == set(before.chunk_ids)


async def test_what_was_copied_too_late_is_collected_unless_current(record: Record) -> None:
    bot = await record.bot()
    current, gone = Write(bot, document("a")), Write(bot, document("b", "c"))
    await record.written(current, gone)
    await record.documents.delete(bot.bot_id, [gone.doc_id])  # type: ignore[list-item]
    await record.garbage.complete(await record.garbage.claim(NO_TIME))
    spans = {current.generation: 1, gone.generation: 2}
    await record.migrations.enqueue_vector_gc(bot.bot_id, "copy", spans)
    (row,) = await record.garbage.claim(NO_TIME)
    assert (row.generation, row.chunk_span, row.collection_name) == (gone.generation, 2, "copy")


async def test_write_whose_bot_has_moved_is_restarted(record: Record) -> None:
    bot, other = await record.bot(), await record.bot()
    old = Write(bot, document("old"))
    await record.written(old)
    insert, replacement = Write(bot, document("a", "b")), Write(bot, document("new"), old.doc_id)
    beside = Write(other, document("beside"))
    writes = [insert, replacement, beside]
    await record.transactions.begin(writes, TOKEN, HOUR)
    moved = await cut_over(record, bot, await begun(record, bot))
    await record.transactions.finish(writes, TOKEN)
    assert [(write.moved, write.error) for write in writes] == [(True, None), (True, None), (False, None)]
    assert await record.texts(other.bot_id, beside.doc_id) is None  # T2 has finished none of them.
    doc_id, generations = insert.doc_id, [write.generation for write in writes]

    await record.transactions.restart([insert, replacement], {bot.bot_id: moved}, TOKEN, HOUR)
    assert insert.doc_id == doc_id
    assert (insert.moved, insert.bot, replacement.bot) == (False, moved, moved)
    assert not {insert.generation, replacement.generation} & set(generations)
    expected = {(generation, bot.collection_name): True for generation in generations[:2]}
    assert await due(record) == expected
    await record.transactions.finish(writes, TOKEN)
    assert [write.error for write in writes] == [None] * 3
    assert await record.texts(bot.bot_id, doc_id) == ["a", "b"]
    assert await record.texts(bot.bot_id, old.doc_id) == ["new"]
    assert await record.texts(other.bot_id, beside.doc_id) == ["beside"]
    assert (await record.bots.counts(bot.bot_id)).sagas == 1  # To drop the old collection.
    assert (old.generation, moved.milvus_collection) in await due(record)


async def test_idempotency_key_follows_the_write_that_is_restarted(record: Record) -> None:
    """No other request may take the key before its answer is stored."""
    bot = await record.bot()

    def once() -> IdempotentRequest:
        return IdempotentRequest(
            "key", b"body", lambda outcomes: repr([outcome.doc_id for outcome in outcomes]).encode()
        )

    write, request = Write(bot, document("a")), once()
    request.outcomes = lambda: [write.outcome]
    await record.transactions.begin([write], TOKEN, HOUR, request)
    moved = await cut_over(record, bot, await begun(record, bot))
    await record.transactions.finish([write], TOKEN, request)
    assert (write.moved, request.answer) == (True, None)
    await record.transactions.restart([write], {bot.bot_id: moved}, TOKEN, HOUR, request)
    with pytest.raises(RequestInFlight):
        await record.transactions.begin([Write(moved, document("a"))], uuid4(), HOUR, once())
    await record.transactions.finish([write], TOKEN, request)
    assert request.answer == repr([write.doc_id]).encode()
    again = once()
    await record.transactions.begin([Write(moved, document("a"))], uuid4(), HOUR, again)
    assert again.answer == request.answer


async def test_write_that_recovery_has_undone_is_not_restarted(record: Record) -> None:
    bot = await record.bot()
    write = Write(bot, document("a"))
    await record.transactions.begin([write], TOKEN, -HOUR)
    moved = await cut_over(record, bot, await begun(record, bot))
    await record.writes.compensate_expired()
    await record.transactions.restart([write], {bot.bot_id: moved}, TOKEN, HOUR)
    assert write.error
    assert await record.texts(bot.bot_id, write.doc_id) is None


async def test_a_deleted_bot_ends_its_migration(record: Record) -> None:
    bot = await record.bot()
    migration = await begun(record, bot)
    assert await record.bots.begin_deletion(bot.bot_id, None, TOKEN, HOUR)
    for failing in (
        record.migrations.begin(bot.bot_id, "new", 32),
        record.migrations.low_watermark(bot.bot_id),
        record.migrations.abort(bot.bot_id, TOKEN, HOUR),
        cut_over(record, bot, migration),
    ):
        with pytest.raises(BotNotFound):
            await failing
    assert [name for name, _ in await record.bots.collections(bot.bot_id, 1)] == [
        bot.collection_name,
        migration.collection_name,
    ]
    assert await record.bots.finish_deletion(bot.bot_id)
    assert await record.bots.collections(bot.bot_id, 1) == []


async def test_words_change_with_the_collection(record: Record) -> None:
    bot = await record.bot()
    begun = await record.migrations.begin(bot.bot_id, "new", 32, analyzer_version=7, title_in_lexical=True)
    assert begun
    assert (begun.analyzer_version, begun.title_in_lexical) == (7, True)
    assert await record.migrations.begin(bot.bot_id, "new", 32, analyzer_version=8) == begun
    assert await record.migrations.migration(bot.bot_id) == begun
    before = await now(record, bot.bot_id)
    assert (before.analyzer_version, before.title_in_lexical) == (1, False)
    moved = await cut_over(record, bot, begun)
    assert (moved.analyzer_version, moved.title_in_lexical) == (7, True)
