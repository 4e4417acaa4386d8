"""What RebuildPort promises, and BotPort of collections that were lost: in plain memory and in PostgreSQL alike."""

from uuid import uuid4

from app.core.write.write import Write
from app.schemas.operation_rows import Check, GenerationBlock
from app.schemas.rows import Bot, ExpectedBot, Progress
from tests.contract.records import HOUR, NO_TIME, PAST, Record, document

TOKEN, OTHER = uuid4(), uuid4()
MODEL = ("hash", 64)


async def filled(record: Record) -> tuple[Bot, Write]:
    bot = await record.bot()
    write = Write(bot, document("a", "b"))
    await record.written(write)
    return bot, write


async def now(record: Record, bot: Bot) -> Bot:
    found = await record.bots.get(bot.bot_id, None)
    assert found is not None
    return found


async def test_a_bot_says_how_far_its_rebuild_is(record: Record) -> None:
    bot, _ = await filled(record)
    assert (await now(record, bot)).rebuild is None
    assert not await record.rebuilds.begin_in_place(bot.bot_id, "another collection")
    assert await record.rebuilds.begin_in_place(bot.bot_id, bot.milvus_collection)
    assert (await now(record, bot)).rebuild == Progress(0, 2)
    assert (await record.bots.get_many([bot.bot_id], None))[bot.bot_id].rebuild == Progress(0, 2)
    assert [found.rebuild for found in await record.bots.list(None)] == [Progress(0, 2)]
    assert await record.rebuilds.all() == {bot.bot_id: Progress(0, 2)}
    (state,) = await record.verify.bots()
    assert state.is_rebuilding

    work = await record.rebuilds.claim(TOKEN, HOUR)
    assert work is not None
    assert (work.bot_id, work.in_place, work.chunks_total, work.attempts) == (bot.bot_id, True, 2, 1)
    assert await record.rebuilds.renew(bot.bot_id, TOKEN, HOUR, 1)
    assert (await now(record, bot)).rebuild == Progress(1, 2)
    await record.writes.finish([], OTHER, {bot.bot_id: 70})
    assert await record.rebuilds.finish(bot.bot_id, bot.milvus_collection, TOKEN, 77)
    whole = await now(record, bot)
    assert (whole.rebuild, whole.timestamps) == (None, (77, None, 0))
    assert not (await record.verify.bots())[0].is_rebuilding


async def test_what_a_search_assumed_does_not_hold_any_more(record: Record) -> None:
    """Its confirmation looks, so that a row which is remembered hides no loss."""
    bot, write = await filled(record)
    expected = ExpectedBot(bot.created_at, bot.milvus_collection, None, None, None, None, bot.milvus_timestamp)
    assert await record.documents.current_chunks(bot.bot_id, write.chunk_ids, set(), None, expected)
    await record.rebuilds.begin_in_place(bot.bot_id, bot.milvus_collection)
    assert await record.documents.current_chunks(bot.bot_id, write.chunk_ids, set(), None, expected) == {}
    assert len(await record.documents.current_chunks(bot.bot_id, write.chunk_ids, set(), None)) == 2


async def test_one_process_at_a_time_works_on_it(record: Record) -> None:
    bot, _ = await filled(record)
    another, _ = await filled(record)
    await record.rebuilds.begin_in_place(bot.bot_id, bot.milvus_collection)
    assert await record.rebuilds.claim(TOKEN, HOUR, bot_id=another.bot_id) is None
    assert await record.rebuilds.claim(TOKEN, HOUR, without=[bot.bot_id]) is None
    assert await record.rebuilds.claim(TOKEN, HOUR)
    assert await record.rebuilds.claim(OTHER, HOUR) is None
    assert not await record.rebuilds.renew(bot.bot_id, OTHER, HOUR, 2)
    assert not await record.rebuilds.finish(bot.bot_id, bot.milvus_collection, OTHER, 0)
    await record.rebuilds.release(bot.bot_id, OTHER)
    assert await record.rebuilds.claim(OTHER, HOUR) is None
    assert await record.rebuilds.renew(bot.bot_id, TOKEN, PAST, 2)
    assert not await record.rebuilds.finish(bot.bot_id, "another collection", TOKEN, 0)
    taken = await record.rebuilds.claim(OTHER, HOUR)
    assert taken is not None
    assert taken.attempts == 2
    assert not await record.rebuilds.finish(bot.bot_id, bot.milvus_collection, TOKEN, 0)
    await record.rebuilds.release(bot.bot_id, OTHER)
    assert await record.rebuilds.claim(TOKEN, HOUR)


async def test_a_lost_collection_is_replaced_once(record: Record) -> None:
    bot, write = await filled(record)
    replacements = [await record.bots.begin_replacement(bot.bot_id, TOKEN, HOUR) for _ in range(3)]
    names = [one.collection_name for one in replacements]
    assert len({*names, bot.milvus_collection}) == 4
    assert not await record.bots.replace_collection(bot, replacements[0], *MODEL, OTHER)
    under_way = Write(bot, document("c"))
    await record.transactions.begin([under_way], TOKEN, HOUR)

    assert await record.bots.replace_collection(bot, replacements[0], *MODEL, TOKEN)
    assert not await record.bots.replace_collection(bot, replacements[1], *MODEL, TOKEN)
    moved = await now(record, bot)
    assert (moved.milvus_collection, moved.collection_name) == (names[0], bot.collection_name)
    assert moved.rebuild == Progress(0, 2)
    work = await record.rebuilds.claim(TOKEN, HOUR)
    assert work is not None
    assert not work.in_place
    assert max(write.generation, under_way.generation) < work.before_generation
    # What is under way is begun again, for the new collection.
    await record.transactions.finish([under_way], TOKEN)
    assert under_way.moved
    # The lost one is dropped should it appear again, and so is what nobody has taken.
    collections = {name for name, _ in await record.bots.collections(bot.bot_id, 64)}
    assert collections == {names[0], names[1], names[2], bot.milvus_collection}


async def test_collection_of_a_bot_without_chunks_is_replaced_without_a_rebuild(record: Record) -> None:
    bot = await record.bot()
    replacement = await record.bots.begin_replacement(bot.bot_id, TOKEN, HOUR)
    assert await record.bots.replace_collection(bot, replacement, "other", 3, TOKEN)
    moved = await now(record, bot)
    assert (moved.milvus_collection, moved.rebuild) == (replacement.collection_name, None)
    assert (moved.embedding_model, moved.dimension) == MODEL


async def test_later_creation_gives_a_bot_its_first_collection(record: Record) -> None:
    """The earlier one, which is slow, then has to drop its own; a third one changes nothing."""
    bot_id, name = uuid4(), f"c_{uuid4().hex}"
    first = await record.bots.insert(bot_id, "bot", name, "chatty", OTHER, HOUR)
    second = await record.bots.begin_creation(bot_id, TOKEN, HOUR)
    assert first is not None
    assert second is not None
    assert not await record.bots.creation_in_flight(bot_id, before=first)
    assert await record.bots.creation_in_flight(bot_id, before=second)
    bot = await record.bots.get(bot_id, None)
    assert bot is not None
    replacements = [await record.bots.begin_replacement(bot_id, TOKEN, HOUR) for _ in range(2)]
    assert await record.bots.replace_collection(bot, replacements[0], *MODEL, TOKEN)
    assert not await record.bots.replace_collection(bot, replacements[1], *MODEL, TOKEN)
    moved = await now(record, bot)
    assert (moved.milvus_collection, moved.rebuild) == (replacements[0].collection_name, None)
    assert (moved.embedding_model, moved.dimension) == MODEL
    assert (name, 64) in await record.bots.collections(bot_id, 64)  # A deletion drops what the first one creates.
    assert not await record.bots.finish_creation(first, bot_id, name, *MODEL, OTHER)
    assert await record.bots.creation_in_flight(bot_id, before=second)
    await record.bots.end_saga(first, OTHER)
    assert not await record.bots.creation_in_flight(bot_id, before=second)


async def test_what_is_deleted_meanwhile_is_collected_late(record: Record) -> None:
    """A copy of it may be on its way into the collection."""
    bot, write = await filled(record)
    await record.rebuilds.begin_in_place(bot.bot_id, bot.milvus_collection)
    assert write.doc_id is not None
    await record.patient_documents.delete(bot.bot_id, [write.doc_id])
    assert await record.garbage_due() == {write.generation: False}


async def test_a_bot_with_a_write_under_way_has_something_to_lose(record: Record) -> None:
    cases = ((False, False, None), (True, False, Progress(0, 0)), (True, True, Progress(0, 1)))
    for under_way, done, expected in cases:
        bot = await record.bot()
        write = Write(bot, document("a"))
        if under_way:
            await record.transactions.begin([write], TOKEN, HOUR)
        if done:
            await record.transactions.finish([write], TOKEN)
        replacement = await record.bots.begin_replacement(bot.bot_id, TOKEN, HOUR)
        assert await record.bots.replace_collection(bot, replacement, *MODEL, TOKEN)
        assert (await now(record, bot)).rebuild == expected


async def test_each_bot_is_counted_by_one_process_at_a_time(record: Record) -> None:
    bots = {(await filled(record))[0].bot_id for _ in range(2)}
    checks = [await record.rebuilds.claim_check(HOUR, NO_TIME) for _ in range(2)]
    assert {check.bot_id for check in checks if check} == bots
    assert checks[0] is not None
    await record.rebuilds.extend_check(checks[0])  # The other one has waited longer then.
    assert await record.rebuilds.claim_check(NO_TIME, NO_TIME) == checks[1]
    assert await record.rebuilds.claim_check(HOUR, NO_TIME) is None
    again = await record.rebuilds.claim_check(NO_TIME, NO_TIME)
    assert again
    assert again.bot_id in bots


async def test_counts_are_doubted_after_a_jump_until_they_are_trusted(record: Record) -> None:
    bot, _ = await filled(record)
    claimed = [await record.rebuilds.claim_check(HOUR, HOUR)]
    newest = (await record.generations.state()).last
    for first in (newest + 10, newest + 30):
        await record.generations.use(GenerationBlock(uuid4(), first, first + 9))
        claimed += [await record.rebuilds.claim_check(HOUR, HOUR), await record.rebuilds.claim_check(NO_TIME, NO_TIME)]
    assert [check and (check.lost_below, check.settled) for check in claimed] == [
        (0, True),
        (newest + 10, False),
        (newest + 10, True),
        (newest + 30, False),
        (newest + 30, True),
    ]
    before, now = claimed[2], claimed[4]
    assert before is not None
    assert now is not None
    await record.rebuilds.trust_counts(before)  # Of the first jump: no effect.
    assert await record.rebuilds.claim_check(NO_TIME, NO_TIME) == now
    await record.rebuilds.trust_counts(now)
    assert await record.rebuilds.claim_check(NO_TIME, NO_TIME) == Check(bot.bot_id, 0, True)


async def test_a_move_to_another_model_ends_a_rebuild(record: Record) -> None:
    bot, _ = await filled(record)
    await record.rebuilds.begin_in_place(bot.bot_id, bot.milvus_collection)
    move = await record.migrations.begin(bot.bot_id, "another", 32)
    assert move is not None
    async with record.migrations.cut_over(bot.bot_id, move) as switch:
        await switch.keys_from(0)
        await switch.complete(0, HOUR)
    assert (await now(record, bot)).rebuild is None


async def test_a_bot_that_goes_takes_its_rebuild_along(record: Record) -> None:
    bot, _ = await filled(record)
    await record.rebuilds.begin_in_place(bot.bot_id, bot.milvus_collection)
    await record.rebuilds.claim_check(HOUR, NO_TIME)
    await record.bots.begin_deletion(bot.bot_id, None, TOKEN, HOUR)
    assert await record.bots.finish_deletion(bot.bot_id)
    assert await record.rebuilds.all() == {}
