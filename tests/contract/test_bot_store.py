"""What BotPort and GarbagePort promise, held against plain memory and PostgreSQL alike."""

from dataclasses import replace
from uuid import UUID, uuid4

import pytest

from app.core.bots.recent_vectors import Snapshot
from app.core.write.write import Write
from app.schemas.rows import CREATE_BOT, DELETE_BOT
from app.utils.errors import CollectionNameTaken
from tests.contract.records import HOUR, NO_TIME, PAST, Record, document

TOKEN = uuid4()


async def test_registered_bot(record: Record) -> None:
    bot_id = uuid4()
    saga = await record.bots.insert(bot_id, "name", "collection_a", "account", TOKEN, HOUR)
    assert saga is not None
    bot = await record.bots.get(bot_id, "account")
    assert bot is not None
    assert (bot.bot_name, bot.collection_name, bot.account_name) == ("name", "collection_a", "account")
    assert (bot.embedding_model, bot.dimension, bot.milvus_timestamp) == (None, None, 0)
    assert bot.partition_name == f"documents_{bot_id.hex}"
    assert await record.bots.creation_in_flight(bot_id)

    assert await record.bots.finish_creation(saga, bot_id, "collection_a", "hash", 64, TOKEN)
    assert await record.bots.finish_creation(saga, bot_id, "collection_a", "other", 3, TOKEN)  # The first one counts.
    bot = await record.bots.get(bot_id, None)
    assert bot is not None
    assert (bot.embedding_model, bot.dimension) == ("hash", 64)
    assert not await record.bots.creation_in_flight(bot_id)
    assert await record.bots.state(bot_id) == ("active", "collection_a", 64)


async def test_registered_twice_is_registered_once(record: Record) -> None:
    bot = await record.bot()
    assert await record.bots.insert(bot.bot_id, "x", "other_name", "y", TOKEN, HOUR) is None
    with pytest.raises(CollectionNameTaken):
        await record.bots.insert(uuid4(), "x", bot.collection_name, "y", TOKEN, HOUR)
    assert [found.bot_id for found in await record.bots.list(None)] == [bot.bot_id]


async def test_a_bot_is_renamed(record: Record) -> None:
    bot = await record.bot("me")
    assert await record.bots.update(bot.bot_id, "me", {"bot_name": "새 이름"})
    renamed = await record.bots.get(bot.bot_id, None)
    assert renamed == replace(bot, bot_name="새 이름")
    assert not await record.bots.update(bot.bot_id, "you", {"bot_name": "x"})
    assert not await record.bots.update(uuid4(), None, {"bot_name": "x"})
    assert await record.bots.update(bot.bot_id, None, {})
    await record.bots.begin_deletion(bot.bot_id, None, TOKEN, HOUR)
    assert not await record.bots.update(bot.bot_id, "me", {"bot_name": "x"})


async def test_bots_in_pages(record: Record) -> None:
    bots = [await record.bot("me") for _ in range(5)]
    other = await record.bot("you")
    ordered = sorted(bots, key=lambda bot: (bot.created_at, bot.bot_id))
    after, found = None, []
    while page := await record.bots.list("me", after, 2):
        assert len(page) <= 2
        found += page
        after = (page[-1].created_at, page[-1].bot_id)
    assert [bot.bot_id for bot in found] == [bot.bot_id for bot in ordered]
    assert [await record.bots.count(account) for account in ("me", "you", "nobody", None)] == [5, 1, 0, 6]
    await record.bots.begin_deletion(other.bot_id, None, TOKEN, HOUR)
    assert await record.bots.count(None) == 5


async def test_a_bot_is_found_by_its_collection_name(record: Record) -> None:
    mine, yours = await record.bot("me"), await record.bot("you")
    assert await record.bots.find(mine.collection_name, "me") == mine.bot_id
    assert await record.bots.find(mine.collection_name, None) == mine.bot_id
    assert await record.bots.find(yours.collection_name, "me") is None
    assert await record.bots.find("unknown", None) is None
    await record.bots.begin_deletion(mine.bot_id, None, TOKEN, HOUR)
    assert await record.bots.find(mine.collection_name, "me") is None


async def test_accounts_are_apart(record: Record) -> None:
    mine, yours = await record.bot("me"), await record.bot("you")
    assert await record.bots.get(yours.bot_id, "me") is None
    assert set(await record.bots.get_many([mine.bot_id, yours.bot_id, uuid4()], "me")) == {mine.bot_id}
    assert [bot.bot_id for bot in await record.bots.list("you")] == [yours.bot_id]
    assert [bot.bot_id for bot in await record.bots.list(None)] == [mine.bot_id, yours.bot_id]
    assert await record.bots.begin_deletion(yours.bot_id, "me", TOKEN, HOUR) is None
    assert await record.bots.get(yours.bot_id, "you") is not None


async def test_marked_bot_is_unknown_until_nothing_is_left(record: Record) -> None:
    bot = await record.bot()
    write = Write(bot, document("a"))
    await record.written(write)
    await record.documents.delete(bot.bot_id, [write.generation])
    assert await record.bots.begin_deletion(bot.bot_id, None, TOKEN, HOUR) is not None
    assert await record.bots.begin_deletion(bot.bot_id, None, TOKEN, HOUR) is None
    assert await record.bots.get(bot.bot_id, None) is None
    assert await record.bots.begin_creation(bot.bot_id, TOKEN, HOUR) is None
    assert await record.bots.insert(bot.bot_id, "x", "new_name", "y", TOKEN, HOUR) is None
    assert await record.bots.state(bot.bot_id) == ("deleting", bot.collection_name, 64)
    assert await record.garbage_due() == {write.generation: True}  # Collected while its bot goes, and after.

    assert await record.bots.finish_deletion(bot.bot_id)
    assert await record.bots.finish_deletion(bot.bot_id)  # Again, as recovery may.
    assert await record.bots.state(bot.bot_id) is None
    assert (await record.bots.counts(bot.bot_id)).sagas == 0
    assert await record.verify.orphaned_partitions() == []
    assert await record.bots.insert(bot.bot_id, "x", bot.collection_name, "y", TOKEN, HOUR) is not None


async def test_a_bot_knows_its_unfinished_documents(record: Record) -> None:
    bot, other = await record.bot(), await record.bot()
    new, replaced, elsewhere = Write(bot, document("a")), Write(bot, document("b")), Write(other, document("c"))
    await record.written(replaced)
    await record.transactions.begin([new, elsewhere, Write(bot, document("d"), replaced.doc_id)], TOKEN, HOUR)
    found = await record.bots.get(bot.bot_id, None)
    assert found is not None
    assert list(found.in_flight_generations) == [new.generation]


async def test_expired_bot_sagas_are_claimed_once_oldest_first(record: Record) -> None:
    first, second, alive = uuid4(), await record.bot(), uuid4()
    creation = await record.bots.insert(first, "a", "c_a", "x", uuid4(), PAST)
    deletion = await record.bots.begin_deletion(second.bot_id, None, uuid4(), PAST)
    await record.bots.insert(alive, "b", "c_b", "x", uuid4(), HOUR)
    write = Write(await record.bot(), document("a"))
    await record.transactions.begin([write], uuid4(), PAST)
    claimed = [await record.bots.claim_expired(TOKEN, HOUR) for _ in range(3)]
    assert [saga and (saga.generation, saga.operation, saga.bot_id) for saga in claimed] == [
        (creation, CREATE_BOT, first),
        (deletion, DELETE_BOT, second.bot_id),
        None,
    ]
    assert creation is not None
    await record.bots.end_saga(creation, uuid4())  # Not the holder's token.
    assert await record.bots.creation_in_flight(first)
    await record.bots.end_saga(creation, TOKEN)
    assert not await record.bots.creation_in_flight(first)


async def test_a_saga_that_failed_again_lets_the_others_go_first(record: Record) -> None:
    """One that waits for another saga would keep it from being claimed otherwise."""
    bots = [uuid4(), uuid4()]
    for number, bot_id in enumerate(bots):
        await record.bots.insert(bot_id, "a", f"c_{number}", "x", uuid4(), 2 * PAST)
    claimed = [await record.bots.claim_expired(TOKEN, PAST) for _ in range(2)]
    assert [saga.bot_id for saga in claimed if saga] == bots


async def test_of_sagas_that_expired_together_a_creation_is_claimed_before_what_waits_for_it(record: Record) -> None:
    bot, token = await record.bot(), uuid4()
    drop = await record.bots.begin_replacement(bot.bot_id, token, HOUR)
    creation = await record.bots.begin_creation(bot.bot_id, token, HOUR)
    assert creation is not None
    await record.writes.renew([drop.generation, creation], token, PAST)  # As a process does for all its sagas.
    claimed = [await record.bots.claim_expired(TOKEN, HOUR) for _ in range(2)]
    assert [saga and saga.generation for saga in claimed] == [creation, drop.generation]


async def test_sagas_count_as_forgotten_after_their_grace(record: Record) -> None:
    bot = await record.bot()
    old, fresh = Write(bot, document("a")), Write(bot, document("b"))
    await record.transactions.begin([old], TOKEN, PAST)
    await record.transactions.begin([fresh], TOKEN, NO_TIME)
    assert list(await record.verify.abandoned_sagas()) == [old.generation]


async def test_claimed_garbage_belongs_to_one_until_its_hold_ends(record: Record) -> None:
    bot = await record.bot()
    write = Write(bot, document("a", "b"))
    await record.written(write)
    await record.documents.delete(bot.bot_id, [write.generation])
    assert [row.generation for row in await record.garbage.claim(NO_TIME)] == [write.generation]
    (row,) = await record.garbage.claim(HOUR)
    assert (row.generation, row.chunk_span, row.collection_name, row.window_passed) == (
        write.generation,
        2,
        bot.collection_name,
        True,
    )
    assert await record.garbage.claim(HOUR) == []
    await record.garbage.complete([row])
    assert (await record.bots.counts(bot.bot_id)).vector_gc == 0


async def test_garbage_put_off_is_not_due(record: Record) -> None:
    bot = await record.bot()
    write = Write(bot, document("a"))
    await record.written(write)
    await record.documents.delete(bot.bot_id, [write.generation])
    (row,) = await record.garbage.claim(NO_TIME)
    await record.garbage.reschedule([row])
    assert await record.garbage.claim(NO_TIME) == []
    assert (await record.bots.counts(bot.bot_id)).vector_gc == 1


async def test_claims_are_64_at_most(record: Record) -> None:
    bot = await record.bot()
    writes = [Write(bot, document("a")) for _ in range(70)]
    await record.transactions.begin(writes, TOKEN, PAST)
    await record.writes.compensate_expired()
    assert [len(await record.garbage.claim(HOUR)) for _ in range(3)] == [64, 6, 0]


async def test_verify_names_what_is_unknown(record: Record) -> None:
    bot = await record.bot()
    current, begun, deleted = (Write(bot, document(text)) for text in "abc")
    await record.written(current, deleted)
    await record.transactions.begin([begun], TOKEN, HOUR)
    await record.documents.delete(bot.bot_id, [deleted.generation])
    keys = [*current.chunk_ids, *begun.chunk_ids, *deleted.chunk_ids, 77]
    assert await record.verify.unknown_keys(bot.bot_id, bot.milvus_collection, keys) == {77}
    expected = dict.fromkeys(current.chunk_ids, current.doc_id)
    assert await record.verify.current_keys(bot.bot_id, [current.generation, begun.generation]) == expected
    assert [page async for page in record.verify.document_pages(bot.bot_id)] == [[current.generation]]
    assert list(await record.verify.wrong_chunk_counts(bot.bot_id)) == []
    assert list(await record.verify.stray_chunks(bot.bot_id)) == []
    assert [(state.bot_id, state.state, state.has_partitions) for state in await record.verify.bots()] == [
        (bot.bot_id, "active", True)
    ]
    another = await record.bot()
    assert [state.bot_id for state in await record.verify.bots()] == sorted([bot.bot_id, another.bot_id])
    assert [state.bot_id for state in await record.verify.bots(bot.bot_id)] == [bot.bot_id]
    assert await record.verify.bots(uuid4()) == []


async def test_a_bot_that_is_active_is_not_ended(record: Record) -> None:
    """As after a restore: it was deleted when its deletion began, and is there again when that ends."""
    bot = await record.bot()
    write = Write(bot, document("a"))
    await record.written(write)
    assert await record.bots.finish_deletion(bot.bot_id)
    assert await record.texts(bot.bot_id, write.doc_id) == ["a"]


async def test_how_words_are_made_is_in_the_bots_row(record: Record) -> None:
    earlier, newer = uuid4(), uuid4()
    await record.bots.insert(earlier, "name", "collection_a", "account", TOKEN, HOUR)
    await record.bots.insert(
        newer, "name", "collection_b", "account", TOKEN, HOUR, analyzer_version=7, title_in_lexical=True
    )
    found = await record.bots.get_many([earlier, newer], None)
    assert {bot: (row.analyzer_version, row.title_in_lexical) for bot, row in found.items()} == {
        earlier: (1, False),
        newer: (7, True),
    }


async def test_search_defaults_of_a_bot(record: Record) -> None:
    plain, chosen = uuid4(), uuid4()
    await record.bots.insert(plain, "name", "collection_a", "account", TOKEN, HOUR)
    await record.bots.insert(
        chosen, "name", "collection_b", "account", TOKEN, HOUR, default_mode="hybrid", default_dense_weight=0.7
    )

    async def defaults(bot_id: UUID) -> tuple[str | None, float | None]:
        bot = await record.bots.get(bot_id, None)
        assert bot is not None
        return bot.default_mode, bot.default_dense_weight

    assert (await defaults(plain), await defaults(chosen)) == ((None, None), ("hybrid", 0.7))
    assert await record.bots.update(plain, None, {"default_mode": "dense"})
    assert await record.bots.update(chosen, None, {"default_mode": None, "default_dense_weight": 1 / 3})
    assert (await defaults(plain), await defaults(chosen)) == (("dense", None), (None, 1 / 3))
    assert await record.bots.update(chosen, None, {"bot_name": "new"})
    assert await defaults(chosen) == (None, 1 / 3)


async def test_a_bot_with_other_defaults_is_not_the_expected_one(record: Record) -> None:
    bot = await record.bot()
    write = Write(bot, document("a"))
    await record.written(write)
    keys = list(write.chunk_ids)
    for changes in (
        {"default_mode": "dense"},
        {"default_dense_weight": 0.5},
        {"default_mode": None},
        {"default_min_confidence": 0.5},
    ):
        before = await record.bots.get(bot.bot_id, None)
        assert before is not None
        expected = Snapshot(before.milvus_timestamp).expected(before)
        assert (await record.documents.current_chunks(bot.bot_id, keys, keys, None, expected)).keys() == set(keys)
        await record.bots.update(bot.bot_id, None, changes)
        assert await record.documents.current_chunks(bot.bot_id, keys, keys, None, expected) == {}
