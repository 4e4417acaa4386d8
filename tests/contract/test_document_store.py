"""What DocumentPort promises, held against plain memory and PostgreSQL alike."""

from uuid import UUID, uuid4

import pytest

from app.core.write.idempotency import IdempotentRequest
from app.core.write.write import Write
from app.schemas.filter_tree import Column, Condition, MetadataPath
from app.schemas.rows import Bot, NewChunk, NewDocument
from app.utils.errors import (
    AppError,
    BotNotFound,
    CollectionMoved,
    DocumentChanged,
    DocumentNotFound,
    IdempotencyKeyReused,
    LeaseLost,
    RequestInFlight,
)
from tests.contract.records import HOUR, NO_TIME, PAST, Record, document

TOKEN = uuid4()


def error(write: Write) -> type[AppError] | None:
    return type(write.error) if write.error else None


async def test_begun_write_is_numbered_and_shows_nothing(record: Record) -> None:
    bot = await record.bot()
    writes = [Write(bot, document("a", "b")), Write(bot, document("c"))]
    await record.documents.begin(writes, TOKEN, HOUR)
    assert writes[0].generation < writes[1].generation
    assert [write.doc_id for write in writes] == [write.generation for write in writes]
    assert await record.visible(bot.bot_id, *writes[0].chunk_ids, *writes[1].chunk_ids) == []
    assert await record.documents.get(bot.bot_id, writes[0].generation) is None
    assert await record.documents.list(bot.bot_id, 0, 10) == []
    assert (await record.bots.counts(bot.bot_id)).sagas == 2


async def test_finished_write_is_visible(record: Record) -> None:
    bot = await record.bot()
    chunks = [NewChunk(0, "first", 7), NewChunk(5, "second")]
    write = Write(bot, NewDocument("title", chunks, "path", "pdf", "author", ["x", "y"], {"k": 1}))
    await record.written(write)
    assert write.doc_id is not None

    found = await record.documents.get(bot.bot_id, write.doc_id)
    assert found is not None
    stored, parts = found
    assert (stored.title, stored.file_path, stored.file_type, stored.author) == ("title", "path", "pdf", "author")
    assert (stored.tags, stored.metadata, stored.chunk_count) == (["x", "y"], {"k": 1}, 2)
    assert [(part.chunk_id, part.chunk_index, part.text, part.page_number) for part in parts] == [
        (write.chunk_ids[0], 0, "first", 7),
        (write.chunk_ids[1], 5, "second", None),
    ]
    assert write.chunk_ids[1] == write.chunk_ids[0] + 5
    assert await record.documents.generation_of(bot.bot_id, write.doc_id) == write.generation
    counts = await record.bots.counts(bot.bot_id)
    assert (counts.documents, counts.chunks, counts.sagas, counts.vector_gc) == (1, 2, 0, 0)


async def test_confirmed_are_the_current_chunks_of_this_bot(record: Record) -> None:
    bot, other = await record.bot(), await record.bot()
    mine, foreign = Write(bot, document("a", "b", "c")), Write(other, document("d"))
    await record.written(mine, foreign)
    a, b, c = mine.chunk_ids
    found = await record.documents.current_chunks(bot.bot_id, [c, foreign.chunk_ids[0], 12345, a], {c}, None)
    assert found.keys() == {c, a}
    assert {one.doc_id for one in found.values()} == {mine.doc_id}
    chunk = found[c].chunk
    assert chunk is not None
    assert (chunk.text, chunk.chunk_index, chunk.doc_id, chunk.title) == ("c", 2, mine.doc_id, "t")
    assert found[a].chunk is None
    assert [chunk.text for chunk in await record.visible(bot.bot_id, b, a)] == ["b", "a"]


async def test_a_document_is_read_in_pages(record: Record) -> None:
    bot = await record.bot()
    first, second = Write(bot, document(*"abcde")), Write(bot, document(*"xyz"))
    await record.written(first, second)
    assert first.doc_id is not None
    keys = list(first.chunk_ids)
    for after, limit, expected in (
        (0, 2, "ab"),
        (keys[1], 2, "cd"),
        (keys[3], 2, "e"),
        (keys[4], 2, ""),
        (0, None, "abcde"),
    ):
        found = await record.documents.get(bot.bot_id, first.doc_id, after, limit)
        assert found is not None
        assert found[0].chunk_count == 5
        assert "".join(chunk.text for chunk in found[1]) == expected


async def test_texts_are_measured_without_being_read(record: Record) -> None:
    bot = await record.bot()
    first, second = Write(bot, document("a", "나", "c" * 100, "d" * 1000)), Write(bot, document("x" * 5000))
    await record.written(first, second)
    a, b, c, d = first.chunk_ids
    assert await record.documents.text_bytes(bot.bot_id, [a, b], 0) == 1 + 3
    assert await record.documents.text_bytes(bot.bot_id, [b], 1) == 1 + 3 + 100
    assert await record.documents.text_bytes(bot.bot_id, [c, d], 1) == (3 + 100 + 1000) + (100 + 1000)
    assert await record.documents.text_bytes(bot.bot_id, [], 1) == 0


async def test_neighbours_are_of_the_same_generation(record: Record) -> None:
    bot = await record.bot()
    first, second = Write(bot, document(*"abcde")), Write(bot, document("f"))
    await record.written(first, second)
    a, _, c, _, e = first.chunk_ids
    found = await record.documents.neighbours(bot.bot_id, [a, c, e, *second.chunk_ids], 1)
    assert {key: "".join(chunk.text for chunk in near) for key, near in found.items()} == {a: "b", c: "bd", e: "d"}
    assert [chunk.text for chunk in (await record.documents.neighbours(bot.bot_id, [c], 9))[c]] == list("abde")


async def test_replacement_switches_at_once(record: Record) -> None:
    bot = await record.bot()
    first = Write(bot, document("old 0", "old 1", "old 2"))
    await record.written(first)
    second = Write(bot, document("new", title="new title"), first.doc_id)
    await record.documents.begin([second], TOKEN, HOUR)
    assert (second.doc_id, second.previous_generation) == (first.doc_id, first.generation)
    assert second.generation > first.generation
    both = [*first.chunk_ids, *second.chunk_ids]
    assert [chunk.text for chunk in await record.visible(bot.bot_id, *both)] == ["old 0", "old 1", "old 2"]

    await record.documents.finish([second], TOKEN)

    assert (error(second), second.replaced_chunks) == (None, 3)
    assert [chunk.text for chunk in await record.visible(bot.bot_id, *both)] == ["new"]
    assert await record.texts(bot.bot_id, first.doc_id) == ["new"]
    assert await record.garbage_due() == {first.generation: True}
    assert (await record.bots.counts(bot.bot_id)).chunks == 1


async def test_of_two_replacements_the_later_finish_fails(record: Record) -> None:
    bot = await record.bot()
    first = Write(bot, document("old"))
    await record.written(first)
    left, right = Write(bot, document("left"), first.doc_id), Write(bot, document("right"), first.doc_id)
    await record.documents.begin([left], TOKEN, HOUR)
    await record.documents.begin([right], TOKEN, HOUR)
    await record.documents.finish([right], TOKEN)
    await record.documents.finish([left], TOKEN)
    assert (error(right), error(left)) == (None, DocumentChanged)
    assert await record.texts(bot.bot_id, first.doc_id) == ["right"]
    assert await record.documents.compensate(bot.bot_id, [left.generation], TOKEN) == {left.generation}
    assert await record.verify.stray_chunks(bot.bot_id) == []


async def test_replacement_of_a_deleted_document_fails(record: Record) -> None:
    bot = await record.bot()
    first = Write(bot, document("old"))
    await record.written(first)
    assert first.doc_id is not None
    begun = Write(bot, document("new"), first.doc_id)
    await record.documents.begin([begun], TOKEN, HOUR)
    await record.documents.delete(bot.bot_id, [first.doc_id])
    late = Write(bot, document("newer"), first.doc_id)
    await record.documents.begin([late], TOKEN, HOUR)
    await record.documents.finish([begun], TOKEN)
    assert (error(late), error(begun)) == (DocumentNotFound, DocumentChanged)
    assert await record.documents.get(bot.bot_id, first.doc_id) is None


async def test_unknown_bot_and_document_fail_alone(record: Record) -> None:
    bot, gone = await record.bot(), await record.bot()
    await record.bots.begin_deletion(gone.bot_id, None, TOKEN, HOUR)
    writes = [Write(gone, document("a")), Write(bot, document("b"), 999_999), Write(bot, document("c"))]
    await record.documents.begin(writes, TOKEN, HOUR)
    assert [error(write) for write in writes] == [BotNotFound, DocumentNotFound, None]
    await record.documents.finish(writes[2:], TOKEN)
    assert await record.texts(bot.bot_id, writes[2].doc_id) == ["c"]


async def test_finish_fails_when_the_bot_is_going(record: Record) -> None:
    bot, staying = await record.bot(), await record.bot()
    writes = [Write(bot, document("a")), Write(staying, document("b"))]
    await record.documents.begin(writes, TOKEN, HOUR)
    await record.bots.begin_deletion(bot.bot_id, None, TOKEN, HOUR)
    await record.documents.finish(writes, TOKEN)
    assert [error(write) for write in writes] == [BotNotFound, None]
    assert await record.texts(bot.bot_id, writes[0].doc_id) is None


async def test_compensated_write_loses_at_finish(record: Record) -> None:
    bot = await record.bot()
    writes = [Write(bot, document("a")), Write(bot, document("b"))]
    await record.documents.begin(writes, TOKEN, HOUR)
    assert await record.documents.compensate(bot.bot_id, [writes[0].generation], TOKEN) == {writes[0].generation}
    await record.documents.finish(writes, TOKEN)
    assert [error(write) for write in writes] == [LeaseLost, None]
    assert await record.texts(bot.bot_id, writes[0].doc_id) is None
    assert await record.texts(bot.bot_id, writes[1].doc_id) == ["b"]
    assert await record.verify.stray_chunks(bot.bot_id) == []


async def test_another_token_neither_finishes_nor_compensates(record: Record) -> None:
    bot = await record.bot()
    write, stranger = Write(bot, document("a")), uuid4()
    await record.documents.begin([write], TOKEN, HOUR)
    assert await record.documents.compensate(bot.bot_id, [write.generation], stranger) == set()
    await record.documents.finish([write], stranger)
    assert error(write) is LeaseLost
    assert (await record.bots.counts(bot.bot_id)).sagas == 1
    assert await record.documents.compensate(bot.bot_id, [write.generation], TOKEN) == {write.generation}


async def test_compensate_takes_back_once_and_collects(record: Record) -> None:
    bot = await record.bot()
    write = Write(bot, document("a", "b"))
    await record.documents.begin([write], TOKEN, HOUR)
    assert await record.patient.compensate(bot.bot_id, [write.generation, 999_999], TOKEN) == {write.generation}
    assert await record.patient.compensate(bot.bot_id, [write.generation], TOKEN) == set()
    assert await record.garbage_due() == {write.generation: False}
    assert await record.verify.unknown_keys(bot.bot_id, bot.milvus_collection, write.chunk_ids) == set()
    assert (await record.bots.counts(bot.bot_id)).sagas == 0


async def test_finished_write_cannot_be_compensated(record: Record) -> None:
    bot = await record.bot()
    write = Write(bot, document("a"))
    await record.documents.begin([write], TOKEN, HOUR)
    await record.documents.finish([write], TOKEN)
    assert await record.documents.compensate(bot.bot_id, [write.generation], TOKEN) == set()
    assert await record.texts(bot.bot_id, write.doc_id) == ["a"]


async def test_only_expired_writes_are_taken_back(record: Record) -> None:
    bot, other = await record.bot(), await record.bot()
    dead, alive = [Write(bot, document("a")), Write(other, document("b"))], Write(bot, document("c"))
    await record.documents.begin(dead, TOKEN, PAST)
    await record.documents.begin([alive], TOKEN, HOUR)
    assert await record.documents.compensate_expired() == 2
    assert await record.documents.compensate_expired() == 0
    await record.documents.finish([*dead, alive], TOKEN)
    assert [error(write) for write in (*dead, alive)] == [LeaseLost, LeaseLost, None]
    assert set(await record.garbage_due()) == {write.generation for write in dead}


async def test_renewed_lease_is_not_expired(record: Record) -> None:
    bot = await record.bot()
    mine, foreign = Write(bot, document("a")), Write(bot, document("b"))
    await record.documents.begin([mine], TOKEN, PAST)
    await record.documents.begin([foreign], uuid4(), PAST)
    assert await record.documents.renew([mine.generation, foreign.generation], TOKEN, HOUR) == {mine.generation}
    assert await record.documents.compensate_expired() == 1
    await record.documents.finish([mine], TOKEN)
    assert error(mine) is None


async def test_abandoned_generations_are_collected_unless_current(record: Record) -> None:
    bot = await record.bot()
    current, lost, late = (Write(bot, document(text)) for text in "abc")
    await record.written(current)
    await record.documents.begin([lost, late], TOKEN, PAST)
    await record.documents.compensate_expired()
    settled = await record.garbage_due()
    assert settled == {lost.generation: True, late.generation: True}
    stale = await record.garbage.claim(NO_TIME)
    await record.garbage.end([row for row in stale if row.generation == lost.generation])
    await record.patient.enqueue_vector_gc(bot.bot_id, [current, lost, late])
    assert await record.garbage_due() == {lost.generation: False, late.generation: False}
    await record.documents.enqueue_vector_gc(bot.bot_id, [lost])
    assert (await record.garbage_due())[lost.generation] is False  # Never brought forward.
    await record.garbage.end(stale)  # Who claimed them before does not know of what came since.
    assert set(await record.garbage_due()) == {lost.generation, late.generation}


async def test_delete_is_at_once_and_once(record: Record) -> None:
    bot, other = await record.bot(), await record.bot()
    writes = [Write(bot, document("a", "b")), Write(bot, document("c")), Write(other, document("d"))]
    await record.written(*writes)
    ids = [write.generation for write in writes]
    assert await record.documents.delete(bot.bot_id, [ids[1], ids[0], ids[0], 999_999, ids[2]]) == {
        ids[0]: 2,
        ids[1]: 1,
    }
    assert await record.documents.delete(bot.bot_id, ids[:1]) == {}
    assert await record.visible(bot.bot_id, *writes[0].chunk_ids, *writes[1].chunk_ids) == []
    assert await record.texts(other.bot_id, ids[2]) == ["d"]
    assert set(await record.garbage_due()) == set(ids[:2])


async def test_deleted_version_settles_after_its_write(record: Record) -> None:
    bot = await record.bot()
    write = Write(bot, document("a"))
    await record.written(write)
    await record.patient.delete(bot.bot_id, [write.generation])
    assert await record.garbage_due() == {write.generation: False}


async def test_patch_sets_merges_and_removes(record: Record) -> None:
    bot = await record.bot()
    write = Write(bot, document("a", author="before", file_type="pdf", metadata={"keep": 1, "go": 2, "deep": {"x": 1}}))
    await record.written(write)
    updated_at = await record.documents.patch(
        bot.bot_id,
        write.generation,
        {"author": None, "title": "new", "tags": ["t"]},
        {"deep": {"y": 2}, "more": []},
        ["go", "absent"],
    )
    found = await record.documents.get(bot.bot_id, write.generation)
    assert found is not None
    stored = found[0]
    assert (stored.title, stored.author, stored.file_type, stored.tags) == ("new", None, "pdf", ["t"])
    assert stored.metadata == {"keep": 1, "deep": {"y": 2}, "more": []}
    assert updated_at == stored.updated_at >= stored.created_at
    assert await record.documents.patch(bot.bot_id, 999_999, {}, {"a": 1}, []) is None


async def test_patch_of_a_key_that_was_stored_in_another_form(record: Record) -> None:
    bot = await record.bot()
    write = Write(bot, document("a", metadata={"cafe\u0301": 1, "e\u0301": 2, "o\u0301": 3}))
    await record.written(write)
    await record.documents.patch(bot.bot_id, write.generation, {}, {"caf\u00e9": 4}, ["\u00e9"])
    found = await record.documents.get(bot.bot_id, write.generation)
    assert found is not None
    assert found[0].metadata == {"caf\u00e9": 4, "o\u0301": 3}


async def test_list_pages_ascend(record: Record) -> None:
    bot, other = await record.bot(), await record.bot()
    writes = [Write(bot, document(str(number), title=str(number))) for number in range(5)]
    await record.written(*writes, Write(other, document("x")))
    page = await record.documents.list(bot.bot_id, 0, 3)
    assert [found.title for found in page] == ["0", "1", "2"]
    rest = await record.documents.list(bot.bot_id, page[-1].doc_id, 3)
    assert [found.title for found in rest] == ["3", "4"]


async def test_timestamps_only_rise(record: Record) -> None:
    bot, other = await record.bot(), await record.bot()
    await record.documents.advance_timestamps({bot.bot_id: 7, other.bot_id: 3, uuid4(): 9})
    await record.documents.advance_timestamps({bot.bot_id: 5, other.bot_id: 4})
    assert await record.documents.milvus_timestamp(bot.bot_id, bot.milvus_collection) == 7
    assert await record.documents.milvus_timestamp(other.bot_id, other.milvus_collection) == 4
    assert await record.documents.milvus_timestamp(uuid4(), "any") == 0
    with pytest.raises(CollectionMoved):
        await record.documents.milvus_timestamp(bot.bot_id, other.milvus_collection)


@pytest.mark.parametrize(("value", "expected"), [(1, ["a"]), (2, ["b"]), (3, [])])
async def test_filters(record: Record, value: int, expected: list[str]) -> None:
    bot = await record.bot()
    writes = [Write(bot, document(text, metadata={"n": number})) for number, text in enumerate("ab", start=1)]
    await record.written(*writes)
    where = Condition("eq", MetadataPath(("n",)), value)
    keys = [key for write in writes for key in write.chunk_ids]
    confirmed = await record.documents.current_chunks(bot.bot_id, keys, keys, where)
    assert [one.chunk.text for one in confirmed.values() if one.chunk] == expected
    matching = await record.documents.matching_documents(bot.bot_id, where, 0, 9)
    assert matching == [write.doc_id for write in writes if write.document.chunks[0].text in expected]


async def test_filters_that_look_at_chunks(record: Record) -> None:
    bot = await record.bot()
    chunks = [NewChunk(number, f"page {page}", page) for number, page in enumerate([1, 2, 2, None])]
    first, second = Write(bot, NewDocument("a", chunks)), Write(bot, NewDocument("b", chunks[:2]))
    await record.written(first, second)
    replaced = Write(bot, NewDocument("b", chunks[1:2]), second.doc_id)
    await record.written(replaced)
    where = Condition("eq", Column("page_number"), 2)
    expected = [*first.chunk_ids[1:3], *replaced.chunk_ids]
    assert await record.documents.matching_chunks(bot.bot_id, where, 0, 9) == expected
    assert await record.documents.matching_chunks(bot.bot_id, where, expected[0], 1) == expected[1:2]
    every = [*first.chunk_ids, *replaced.chunk_ids]
    assert sorted(await record.documents.current_chunks(bot.bot_id, every, [], where)) == expected


def once(key: str = "k", body: bytes = b"1") -> IdempotentRequest:
    return IdempotentRequest(key, body, lambda outcomes: repr([outcome.doc_id for outcome in outcomes]).encode())


async def begun_once(record: Record, bot: Bot, request: IdempotentRequest, *, token: UUID = TOKEN) -> Write:
    write = Write(bot, document("a"))
    request.outcomes = lambda: [write.outcome]
    await record.documents.begin([write], token, HOUR, request)
    return write


async def test_an_idempotency_key_is_answered_once(record: Record) -> None:
    bot, first, again = await record.bot(), once(), once()
    write = await begun_once(record, bot, first)
    with pytest.raises(RequestInFlight):
        await begun_once(record, bot, once())
    await record.documents.finish([write], TOKEN, first)
    assert first.answer == b"[%d]" % (write.doc_id or 0)
    repeated = await begun_once(record, bot, again)
    assert (again.answer, again.replayed, repeated.generation) == (first.answer, True, 0)
    with pytest.raises(IdempotencyKeyReused):
        await begun_once(record, bot, once(body=b"2"))
    assert (await record.bots.counts(bot.bot_id)).documents == 1


async def test_an_idempotency_key_whose_request_was_undone_is_free(record: Record) -> None:
    bot, first, second = await record.bot(), once(), once()
    lost = await begun_once(record, bot, first)
    await record.documents.compensate(bot.bot_id, [lost.generation], TOKEN)
    taken = await begun_once(record, bot, second)
    await record.documents.finish([lost], TOKEN, first)
    assert (error(lost), first.answer) == (LeaseLost, None)
    await record.documents.finish([taken], TOKEN, second)
    assert (error(taken), second.answer) == (None, b"[%d]" % (taken.doc_id or 0))


async def test_old_idempotency_keys_are_swept(record: Record) -> None:
    bot, request = await record.bot(), once()
    write = await begun_once(record, bot, request)
    await record.keys(PAST).sweep()
    with pytest.raises(RequestInFlight):
        await begun_once(record, bot, once())
    await record.documents.finish([write], TOKEN, request)
    await record.keys(HOUR).sweep()
    found, free = once(), once()
    await record.keys(HOUR).replay(found)
    assert found.answer == request.answer
    await record.keys(PAST).sweep()
    await record.keys(HOUR).replay(free)
    assert free.answer is None


async def test_stale_keys_name_their_document_as_long_as_their_vectors_are_to_be_collected(record: Record) -> None:
    bot, token = await record.bot(), uuid4()
    replaced, deleted, current = (Write(bot, document("a", "b")), Write(bot, document("c")), Write(bot, document("d")))
    await record.written(replaced, deleted, current)
    new = Write(bot, document("e", "f", "g"), replaced.doc_id)
    await record.written(new)
    assert deleted.doc_id is not None
    await record.documents.delete(bot.bot_id, [deleted.doc_id])
    begun = Write(bot, document("h"))
    failed = Write(bot, document("i"), current.doc_id)
    await record.documents.begin([begun, failed], token, HOUR)
    await record.documents.compensate(bot.bot_id, [failed.generation], token)

    writes = (replaced, deleted, current, new, begun, failed)
    keys = [key for write in writes for key in write.chunk_ids]
    found = {
        one.chunk_id: one[1:] for one in await record.documents.stale_chunks(bot.bot_id, bot.milvus_collection, keys)
    }
    assert found == {
        **dict.fromkeys(replaced.chunk_ids, (replaced.doc_id, 3)),
        deleted.chunk_ids[0]: (deleted.doc_id, None),
        failed.chunk_ids[0]: (current.doc_id, 1),
    }

    other = await record.bot()
    assert {one[1] for one in await record.documents.stale_chunks(other.bot_id, bot.milvus_collection, keys)} == {None}
    await record.garbage.end(await record.garbage.claim(NO_TIME))
    found = {
        one.chunk_id: one[1:] for one in await record.documents.stale_chunks(bot.bot_id, bot.milvus_collection, keys)
    }
    assert set(found.values()) == {(None, None)}


async def test_documents_are_confirmed_whole(record: Record) -> None:
    bot = await record.bot()
    one, two = Write(bot, document("a", "b")), Write(bot, document("c"))
    await record.written(one, two)
    begun = Write(bot, document("d"), one.doc_id)
    await record.documents.begin([begun], TOKEN, HOUR)
    assert one.doc_id is not None
    asked = [two.chunk_ids[0], begun.chunk_ids[0]]
    found = await record.documents.current_chunks(
        bot.bot_id, asked, set(), None, doc_ids=[one.doc_id, one.doc_id + 999]
    )
    assert {key: row.chunk.text if row.chunk else None for key, row in found.items()} == {
        two.chunk_ids[0]: None,
        one.chunk_ids[0]: "a",
        one.chunk_ids[1]: "b",
    }
    nothing = Condition("eq", MetadataPath(("k",)), 1)
    assert await record.documents.current_chunks(bot.bot_id, asked, set(), nothing, doc_ids=[one.doc_id]) == {}
