"""What the record promises of exports and imports, in memory and in PostgreSQL."""

from datetime import UTC, datetime
from uuid import uuid4

from msgspec.structs import replace

from app.core.write.idempotency import IdempotentRequest
from app.core.write.write import Write
from app.schemas.rows import IMPORT_KEYS, NewChunk, NewDocument
from tests.contract.records import HOUR, PAST, Record, document


async def test_documents_come_with_their_current_chunks(record: Record) -> None:
    bot, other = await record.bot(), await record.bot()
    old, second, third = (Write(bot, document(*texts)) for texts in ("ab", "c", "defg"))
    await record.written(old, second, third, Write(other, document("foreign")))
    new = Write(bot, NewDocument("new", [NewChunk(1, "x", 7), NewChunk(5, "나\n")], tags=["t"]), old.doc_id)
    await record.written(new)
    await record.transactions.begin([Write(bot, document("not", "visible"))], uuid4(), HOUR)
    read = record.documents.with_chunks
    page = await read(bot.bot_id, 0, 10, 100)
    assert [one.doc_id for one, _ in page] == [old.doc_id, second.doc_id, third.doc_id]
    (first, chunks), *_ = page
    assert first == (await record.documents.list(bot.bot_id, 0, 1))[0]
    assert chunks == await record.chunks(bot.bot_id, old.doc_id)
    assert [(chunk.chunk_index, chunk.text, chunk.page_number) for chunk in chunks] == [(1, "x", 7), (5, "나\n", None)]
    assert ["".join(chunk.text for chunk in chunks) for _, chunks in page[1:]] == ["c", "defg"]
    assert len(await read(bot.bot_id, 0, 2, 100)) == 2
    for chunks_in_page, documents in ((1, 1), (2, 1), (3, 2), (4, 3)):
        assert len(await read(bot.bot_id, 0, 10, chunks_in_page)) == documents
    assert second.doc_id is not None
    assert [one.doc_id for one, _ in await read(bot.bot_id, second.doc_id, 10, 100)] == [third.doc_id]
    assert await read(uuid4(), 0, 10, 100) == []


async def test_a_new_document_keeps_the_time_that_it_came_with(record: Record) -> None:
    bot, then = await record.bot(), datetime(2019, 3, 1, 12, 30, 15, 123456, tzinfo=UTC)
    kept, other = Write(bot, replace(document("a"), created_at=then)), Write(bot, document("b"))
    await record.written(kept, other)
    first, second = await record.documents.list(bot.bot_id, 0, 10)
    assert first.created_at == then
    assert first.updated_at > then, "it is the time of the write, on which the collection of vectors relies"
    assert second.created_at > then
    await record.written(Write(bot, replace(document("c"), created_at=datetime(2020, 1, 1, tzinfo=UTC)), kept.doc_id))
    assert (await record.documents.list(bot.bot_id, 0, 1))[0].created_at == then


async def test_the_records_of_an_import_are_kept_until_it_ends(record: Record) -> None:
    bot = await record.bot()
    requests = [
        IdempotentRequest(key, b"1", lambda _: b"done") for key in (f"{IMPORT_KEYS}a 1", f"{IMPORT_KEYS}b 1", "k")
    ]
    for request in requests:
        write = Write(bot, document("a"))
        request.outcomes = lambda write=write: [write.outcome]  # type: ignore[misc]
        token = uuid4()
        await record.transactions.begin([write], token, HOUR, request)
        await record.transactions.finish([write], token, request)
    keys = record.keys(PAST)

    async def answered() -> list[bool]:
        return [await keys.find_answer(request.to_row()) is not None for request in requests]

    assert await answered() == [True] * 3
    await keys.sweep()
    assert await answered() == [True, True, False]
    await keys.forget("", f"{IMPORT_KEYS}a ")
    assert await answered() == [False, True, False]
