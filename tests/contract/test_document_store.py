"""What DocumentPort promises of writes, deletions and patches, in plain memory and in PostgreSQL."""

from uuid import uuid4

from app.core.write.write import Write
from app.schemas.rows import NewChunk, NewDocument
from app.utils.errors import BotNotFound, DocumentChanged, DocumentNotFound, LeaseLost
from tests.contract.records import HOUR, NO_TIME, PAST, Record, document, error

TOKEN = uuid4()


async def test_begun_write_is_numbered_and_shows_nothing(record: Record) -> None:
    bot = await record.bot()
    writes = [Write(bot, document("a", "b")), Write(bot, document("c"))]
    await record.transactions.begin(writes, TOKEN, HOUR)
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
    assert await record.writes.generation_of(bot.bot_id, write.doc_id) == write.generation
    counts = await record.bots.counts(bot.bot_id)
    assert (counts.documents, counts.chunks, counts.sagas, counts.vector_gc) == (1, 2, 0, 0)


async def test_replacement_becomes_visible_as_a_whole(record: Record) -> None:
    bot = await record.bot()
    first = Write(bot, document("old 0", "old 1", "old 2"))
    await record.written(first)
    second = Write(bot, document("new", title="new title"), first.doc_id)
    await record.transactions.begin([second], TOKEN, HOUR)
    assert (second.doc_id, second.previous_generation) == (first.doc_id, first.generation)
    assert second.generation > first.generation
    both = [*first.chunk_ids, *second.chunk_ids]
    assert [chunk.text for chunk in await record.visible(bot.bot_id, *both)] == ["old 0", "old 1", "old 2"]

    await record.transactions.finish([second], TOKEN)

    assert (error(second), second.outcome.replaced_chunks) == (None, 3)
    assert [chunk.text for chunk in await record.visible(bot.bot_id, *both)] == ["new"]
    assert await record.texts(bot.bot_id, first.doc_id) == ["new"]
    assert await record.garbage_due() == {first.generation: True}
    assert (await record.bots.counts(bot.bot_id)).chunks == 1


async def test_of_two_replacements_the_later_finish_fails(record: Record) -> None:
    bot = await record.bot()
    first = Write(bot, document("old"))
    await record.written(first)
    left, right = Write(bot, document("left"), first.doc_id), Write(bot, document("right"), first.doc_id)
    await record.transactions.begin([left], TOKEN, HOUR)
    await record.transactions.begin([right], TOKEN, HOUR)
    await record.transactions.finish([right], TOKEN)
    await record.transactions.finish([left], TOKEN)
    assert (error(right), error(left)) == (None, DocumentChanged)
    assert await record.texts(bot.bot_id, first.doc_id) == ["right"]
    assert await record.writes.compensate(bot.bot_id, [left.generation], TOKEN) == {left.generation}
    assert await record.verify.stray_chunks(bot.bot_id) == []


async def test_replacement_of_a_deleted_document_fails(record: Record) -> None:
    bot = await record.bot()
    first = Write(bot, document("old"))
    await record.written(first)
    assert first.doc_id is not None
    begun = Write(bot, document("new"), first.doc_id)
    await record.transactions.begin([begun], TOKEN, HOUR)
    await record.documents.delete(bot.bot_id, [first.doc_id])
    late = Write(bot, document("newer"), first.doc_id)
    await record.transactions.begin([late], TOKEN, HOUR)
    await record.transactions.finish([begun], TOKEN)
    assert (error(late), error(begun)) == (DocumentNotFound, DocumentChanged)
    assert await record.documents.get(bot.bot_id, first.doc_id) is None


async def test_unknown_bot_and_document_fail_alone(record: Record) -> None:
    bot, gone = await record.bot(), await record.bot()
    await record.bots.begin_deletion(gone.bot_id, None, TOKEN, HOUR)
    writes = [Write(gone, document("a")), Write(bot, document("b"), 999_999), Write(bot, document("c"))]
    await record.transactions.begin(writes, TOKEN, HOUR)
    assert [error(write) for write in writes] == [BotNotFound, DocumentNotFound, None]
    await record.transactions.finish(writes[2:], TOKEN)
    assert await record.texts(bot.bot_id, writes[2].doc_id) == ["c"]


async def test_finish_fails_while_the_bot_is_deleted(record: Record) -> None:
    bot, staying = await record.bot(), await record.bot()
    writes = [Write(bot, document("a")), Write(staying, document("b"))]
    await record.transactions.begin(writes, TOKEN, HOUR)
    await record.bots.begin_deletion(bot.bot_id, None, TOKEN, HOUR)
    await record.transactions.finish(writes, TOKEN)
    assert [error(write) for write in writes] == [BotNotFound, None]
    assert await record.texts(bot.bot_id, writes[0].doc_id) is None


async def test_compensated_write_cannot_be_finished(record: Record) -> None:
    bot = await record.bot()
    writes = [Write(bot, document("a")), Write(bot, document("b"))]
    await record.transactions.begin(writes, TOKEN, HOUR)
    assert await record.writes.compensate(bot.bot_id, [writes[0].generation], TOKEN) == {writes[0].generation}
    await record.transactions.finish(writes, TOKEN)
    assert [error(write) for write in writes] == [LeaseLost, None]
    assert await record.texts(bot.bot_id, writes[0].doc_id) is None
    assert await record.texts(bot.bot_id, writes[1].doc_id) == ["b"]
    assert await record.verify.stray_chunks(bot.bot_id) == []


async def test_another_token_neither_finishes_nor_compensates(record: Record) -> None:
    bot = await record.bot()
    write, stranger = Write(bot, document("a")), uuid4()
    await record.transactions.begin([write], TOKEN, HOUR)
    assert await record.writes.compensate(bot.bot_id, [write.generation], stranger) == set()
    await record.transactions.finish([write], stranger)
    assert error(write) is LeaseLost
    assert (await record.bots.counts(bot.bot_id)).sagas == 1
    assert await record.writes.compensate(bot.bot_id, [write.generation], TOKEN) == {write.generation}


async def test_compensation_happens_once_and_enqueues_vectors(record: Record) -> None:
    bot = await record.bot()
    write = Write(bot, document("a", "b"))
    await record.transactions.begin([write], TOKEN, HOUR)
    assert await record.patient_writes.compensate(bot.bot_id, [write.generation, 999_999], TOKEN) == {write.generation}
    assert await record.patient_writes.compensate(bot.bot_id, [write.generation], TOKEN) == set()
    assert await record.garbage_due() == {write.generation: False}
    assert await record.verify.unknown_keys(bot.bot_id, bot.milvus_collection, write.chunk_ids) == set()
    assert (await record.bots.counts(bot.bot_id)).sagas == 0


async def test_finished_write_cannot_be_compensated(record: Record) -> None:
    bot = await record.bot()
    write = Write(bot, document("a"))
    await record.transactions.begin([write], TOKEN, HOUR)
    await record.transactions.finish([write], TOKEN)
    assert await record.writes.compensate(bot.bot_id, [write.generation], TOKEN) == set()
    assert await record.texts(bot.bot_id, write.doc_id) == ["a"]


async def test_only_expired_writes_are_compensated(record: Record) -> None:
    bot, other = await record.bot(), await record.bot()
    dead, alive = [Write(bot, document("a")), Write(other, document("b"))], Write(bot, document("c"))
    await record.transactions.begin(dead, TOKEN, PAST)
    await record.transactions.begin([alive], TOKEN, HOUR)
    assert await record.writes.compensate_expired() == 2
    assert await record.writes.compensate_expired() == 0
    await record.transactions.finish([*dead, alive], TOKEN)
    assert [error(write) for write in (*dead, alive)] == [LeaseLost, LeaseLost, None]
    assert set(await record.garbage_due()) == {write.generation for write in dead}


async def test_renewed_lease_is_not_expired(record: Record) -> None:
    bot = await record.bot()
    mine, foreign = Write(bot, document("a")), Write(bot, document("b"))
    await record.transactions.begin([mine], TOKEN, PAST)
    await record.transactions.begin([foreign], uuid4(), PAST)
    assert await record.writes.renew([mine.generation, foreign.generation], TOKEN, HOUR) == {mine.generation}
    assert await record.writes.compensate_expired() == 1
    await record.transactions.finish([mine], TOKEN)
    assert error(mine) is None


async def test_abandoned_generations_are_collected_unless_current(record: Record) -> None:
    bot = await record.bot()
    current, lost, late = (Write(bot, document(text)) for text in "abc")
    await record.written(current)
    await record.transactions.begin([lost, late], TOKEN, PAST)
    await record.writes.compensate_expired()
    settled = await record.garbage_due()
    assert settled == {lost.generation: True, late.generation: True}
    stale = await record.garbage.claim(NO_TIME)
    await record.garbage.complete([row for row in stale if row.generation == lost.generation])
    await record.patient_writes.enqueue_vector_gc(bot.bot_id, [write.to_row() for write in (current, lost, late)])
    assert await record.garbage_due() == {lost.generation: False, late.generation: False}
    await record.writes.enqueue_vector_gc(bot.bot_id, [lost.to_row()])
    assert (await record.garbage_due())[lost.generation] is False  # Never brought forward.
    await record.garbage.complete(stale)  # Who claimed them before does not know of what came since.
    assert set(await record.garbage_due()) == {lost.generation, late.generation}


async def test_deletion_is_immediate_and_happens_once(record: Record) -> None:
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


async def test_deleted_version_waits_for_late_writes(record: Record) -> None:
    bot = await record.bot()
    write = Write(bot, document("a"))
    await record.written(write)
    await record.patient_documents.delete(bot.bot_id, [write.generation])
    assert await record.garbage_due() == {write.generation: False}


async def test_patch_sets_merges_and_removes(record: Record) -> None:
    bot = await record.bot()
    write = Write(bot, document("a", author="before", file_type="pdf", metadata={"keep": 1, "go": 2, "deep": {"x": 1}}))
    await record.written(write)
    version = await record.documents.patch(
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
    assert version == stored.version
    assert stored.updated_at >= stored.created_at
    assert await record.documents.patch(bot.bot_id, 999_999, {}, {"a": 1}, []) is None


async def test_patch_finds_a_key_that_was_stored_in_another_unicode_form(record: Record) -> None:
    bot = await record.bot()
    write = Write(bot, document("a", metadata={"cafe\u0301": 1, "e\u0301": 2, "o\u0301": 3}))
    await record.written(write)
    await record.documents.patch(bot.bot_id, write.generation, {}, {"caf\u00e9": 4}, ["\u00e9"])
    found = await record.documents.get(bot.bot_id, write.generation)
    assert found is not None
    assert found[0].metadata == {"caf\u00e9": 4, "o\u0301": 3}
