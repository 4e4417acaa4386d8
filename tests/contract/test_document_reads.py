"""What DocumentPort promises of reads: confirmed chunks, pages, neighbours and filters, in memory and in PostgreSQL."""

from hashlib import sha256
from uuid import UUID, uuid4

import pytest

from app.core.write.write import Write
from app.schemas.filter_tree import Column, Condition, MetadataPath
from app.schemas.listing import Order, Place
from app.schemas.rows import Bot, ChunkHash, Document, ExpectedBot, NewChunk, NewDocument, WriteTimestamps
from app.utils.errors import CollectionMoved
from tests.contract.records import HOUR, NO_TIME, Record, document

TOKEN = uuid4()


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


async def test_stored_documents_have_the_hashes_of_their_current_texts(record: Record) -> None:
    bot, other = await record.bot(), await record.bot()
    old, foreign = Write(bot, document("x", "y", "z")), Write(other, document("d"))
    await record.written(old, foreign)
    chunks = [NewChunk(1, "a", 7), NewChunk(5, "나\n")]
    new = Write(bot, NewDocument("new", chunks, tags=["t"]), old.doc_id)
    await record.written(new)
    begun = Write(bot, document("not", "visible"), old.doc_id)
    await record.transactions.begin([begun], uuid4(), HOUR)
    assert old.doc_id is not None
    assert foreign.doc_id is not None
    (stored,) = await record.documents.stored(bot.bot_id, [foreign.doc_id, old.doc_id, 10**12])
    assert (stored.document.doc_id, stored.document.title, stored.document.tags) == (old.doc_id, "new", ["t"])
    hashes = [sha256(chunk.text.encode()).digest() for chunk in chunks]
    assert list(stored.chunks) == [
        ChunkHash(key, page, text) for key, page, text in zip(new.chunk_ids, (7, None), hashes, strict=True)
    ]
    assert await record.documents.stored(bot.bot_id, []) == []


async def test_texts_are_measured_without_being_read(record: Record) -> None:
    bot = await record.bot()
    first, second = Write(bot, document("a", "나", "c" * 100, "d" * 1000)), Write(bot, document("x" * 5000))
    await record.written(first, second)
    a, b, c, d = first.chunk_ids
    assert await record.documents.text_bytes(bot.bot_id, [a, b], 0) == 1 + 3
    assert await record.documents.text_bytes(bot.bot_id, [b], 1) == 1 + 3 + 100
    assert await record.documents.text_bytes(bot.bot_id, [c, d], 1) == (3 + 100 + 1000) + (100 + 1000)
    assert await record.documents.text_bytes(bot.bot_id, [], 1) == 0


async def test_texts_of_chunks(record: Record) -> None:
    bot, other = await record.bot(), await record.bot()
    mine, foreign = Write(bot, document("a", "나")), Write(other, document("d"))
    await record.written(mine, foreign)
    a, b = mine.chunk_ids
    found = await record.documents.texts(bot.bot_id, [b, a, a + 2, foreign.chunk_ids[0]])
    assert found == {a: "a", b: "나"}
    assert await record.documents.texts(bot.bot_id, []) == {}


async def test_neighbours_are_of_the_same_generation(record: Record) -> None:
    bot = await record.bot()
    first, second = Write(bot, document(*"abcde")), Write(bot, document("f"))
    await record.written(first, second)
    a, _, c, _, e = first.chunk_ids
    found = await record.documents.neighbours(bot.bot_id, [a, c, e, *second.chunk_ids], 1)
    assert {key: "".join(chunk.text for chunk in near) for key, near in found.items()} == {a: "b", c: "bd", e: "d"}
    assert [chunk.text for chunk in (await record.documents.neighbours(bot.bot_id, [c], 9))[c]] == list("abde")


async def test_named_documents_are_confirmed_with_all_their_chunks(record: Record) -> None:
    bot = await record.bot()
    one, two = Write(bot, document("a", "b")), Write(bot, document("c"))
    await record.written(one, two)
    begun = Write(bot, document("d"), one.doc_id)
    await record.transactions.begin([begun], TOKEN, HOUR)
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


async def test_list_pages_ascend(record: Record) -> None:
    bot, other = await record.bot(), await record.bot()
    writes = [Write(bot, document(str(number), title=str(number))) for number in range(5)]
    await record.written(*writes, Write(other, document("x")))
    page = await record.documents.list(bot.bot_id, 0, 3)
    assert [found.title for found in page] == ["0", "1", "2"]
    rest = await record.documents.list(bot.bot_id, page[-1].doc_id, 3)
    every = [*page, *rest]
    assert [found.title for found in rest] == ["3", "4"]

    async def list_before(doc_id: int, limit: int) -> list[Document]:
        order = Order("doc_id", descending=True)
        found = await record.listing.query(bot.bot_id, None, order, Place(doc_id, doc_id), limit)
        return [one.document for one in found]

    assert await list_before(2**62, 10) == every[::-1]
    assert await list_before(every[-1].doc_id, 1) == [every[-2]]
    assert await list_before(every[0].doc_id, 10) == []


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


async def test_stale_keys_name_their_document_until_their_vectors_are_collected(record: Record) -> None:
    bot, token = await record.bot(), uuid4()
    replaced, deleted, current = (Write(bot, document("a", "b")), Write(bot, document("c")), Write(bot, document("d")))
    await record.written(replaced, deleted, current)
    new = Write(bot, document("e", "f", "g"), replaced.doc_id)
    await record.written(new)
    assert deleted.doc_id is not None
    await record.documents.delete(bot.bot_id, [deleted.doc_id])
    begun = Write(bot, document("h"))
    failed = Write(bot, document("i"), current.doc_id)
    await record.transactions.begin([begun, failed], token, HOUR)
    await record.writes.compensate(bot.bot_id, [failed.generation], token)

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
    await record.garbage.complete(await record.garbage.claim(NO_TIME))
    found = {
        one.chunk_id: one[1:] for one in await record.documents.stale_chunks(bot.bot_id, bot.milvus_collection, keys)
    }
    assert set(found.values()) == {(None, None)}


async def test_timestamps_only_rise(record: Record) -> None:
    bot, other = await record.bot(), await record.bot()
    await record.writes.finish([], TOKEN, {bot.bot_id: 7, other.bot_id: 3, uuid4(): 9})
    await record.writes.finish([], TOKEN, {bot.bot_id: 5, other.bot_id: 4})
    assert await timestamps(record, bot) == (7, TOKEN, 0)
    assert await timestamps(record, other) == (4, TOKEN, 0)
    assert await record.documents.write_timestamps(uuid4(), "any") == (0, None, 0)
    with pytest.raises(CollectionMoved):
        await record.documents.write_timestamps(bot.bot_id, other.milvus_collection)


async def timestamps(record: Record, bot: Bot) -> WriteTimestamps:
    found = await record.documents.write_timestamps(bot.bot_id, bot.milvus_collection)
    row = await record.bots.get(bot.bot_id, None)
    assert row is not None
    assert row.timestamps == found
    return found


@pytest.mark.parametrize("others", [0, 1], ids=["one bot", "two bots"])
async def test_a_change_of_writer_makes_older_writes_foreign(record: Record, others: int) -> None:
    """Also if the new writer's timestamp is the older one: then only the writer changes."""
    bot = await record.bot()
    beside = {(await record.bot()).bot_id: 1 for _ in range(others)}
    one, two = uuid4(), uuid4()
    for timestamp, writer, expected in (
        (10, one, (10, one, 0)),
        (12, one, (12, one, 0)),
        (11, two, (12, two, 12)),
        (15, two, (15, two, 12)),
        (14, two, (15, two, 12)),
        (13, one, (15, one, 15)),
        (20, one, (20, one, 15)),
    ):
        await record.writes.finish([], writer, {bot.bot_id: timestamp} | beside)
        assert await timestamps(record, bot) == expected


async def test_a_row_is_as_expected_if_its_writes_are_covered(record: Record) -> None:
    write = Write(await record.bot(), document("a"))
    await record.written(write)
    bot_id, me, other = write.bot.bot_id, uuid4(), uuid4()
    await record.writes.finish([], other, {bot_id: 10})
    await record.writes.finish([], me, {bot_id: 20})
    bot = await record.bots.get(bot_id, None)
    assert bot is not None

    async def is_as_expected(guarantee: int, writer: UUID | None, collection: str = bot.milvus_collection) -> bool:
        expected = ExpectedBot(bot.created_at, collection, None, None, None, None, guarantee, writer)
        return bool(await record.documents.current_chunks(bot_id, write.chunk_ids, set(), None, expected))

    assert await is_as_expected(20, None)
    assert not await is_as_expected(19, None)
    assert await is_as_expected(10, me)
    assert not await is_as_expected(9, me)
    assert not await is_as_expected(19, other)
    assert not await is_as_expected(20, me, "another_collection")
