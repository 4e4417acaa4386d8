"""What DocumentPort promises of changes by filter, held against plain memory and PostgreSQL alike."""

from typing import Any

from app.core.write.write import Write
from app.schemas.filter_tree import Column, Condition, MetadataPath
from app.schemas.rows import Document, PatchedDocuments
from tests.contract.records import Record, document

KIND = MetadataPath(("kind",))


async def stored(record: Record, doc_id: int | None, bot_id: Any) -> Document | None:
    assert doc_id is not None
    found = await record.documents.get(bot_id, doc_id)
    return found[0] if found else None


async def test_only_what_passes_is_deleted(record: Record) -> None:
    bot, other = await record.bot(), await record.bot()
    writes = [Write(bot, document("a", "b", metadata={"kind": number % 2})) for number in range(4)]
    theirs = Write(other, document("c", metadata={"kind": 0}))
    await record.written(*writes, theirs)
    ids = [write.doc_id for write in (*writes, theirs) if write.doc_id]
    deleted = await record.documents.delete(bot.bot_id, [*ids, 10**9], Condition("eq", KIND, 0))
    assert deleted == {ids[0]: 2, ids[2]: 2}
    left = [await stored(record, doc_id, bot.bot_id) is not None for doc_id in ids[:4]]
    assert left == [False, True, False, True]
    assert await stored(record, theirs.doc_id, other.bot_id)
    assert set(await record.garbage_due()) == {ids[0], ids[2]}


async def test_many_are_patched_as_one_is(record: Record) -> None:
    bot, other = await record.bot(), await record.bot()
    writes = [Write(bot, document("a", author="m", metadata={"kind": number % 2, "old": 1})) for number in range(4)]
    theirs = Write(other, document("a", metadata={"kind": 0}))
    await record.written(*writes, theirs)
    ids = [write.doc_id for write in writes if write.doc_id]
    before = {doc_id: await stored(record, doc_id, bot.bot_id) for doc_id in ids}
    changes: tuple[Any, ...] = ({"author": None, "tags": ["x"]}, {"kind": 5}, ["old"])
    asked = [*ids, theirs.doc_id or 0, 10**9]
    done = await record.documents.patch_many(bot.bot_id, asked, *changes, Condition("eq", KIND, 0))
    assert done == PatchedDocuments([ids[0], ids[2]], [], [])
    for doc_id in ids:
        found, old = await stored(record, doc_id, bot.bot_id), before[doc_id]
        assert found is not None
        assert old is not None
        if doc_id in done.changed:
            assert (found.author, found.tags, found.metadata) == (None, ["x"], {"kind": 5})
            assert found.updated_at > old.updated_at
            assert found.created_at == old.created_at
        else:
            assert found == old
    theirs_now = await stored(record, theirs.doc_id, other.bot_id)
    assert theirs_now is not None
    assert theirs_now.metadata == {"kind": 0}
    # Repeated without a filter: two have the values already.
    again = await record.documents.patch_many(bot.bot_id, asked, *changes)
    assert ([*again.changed], [*again.unchanged]) == ([ids[1], ids[3]], [ids[0], ids[2]])


async def test_a_document_that_would_be_too_large_stays(record: Record) -> None:
    bot = await record.bot()
    writes = [Write(bot, document("a", metadata={"note": "x" * length})) for length in (10, 80, 10)]
    await record.written(*writes)
    ids = [write.doc_id for write in writes if write.doc_id]
    before = await stored(record, ids[1], bot.bot_id)
    done = await record.documents.patch_many(bot.bot_id, ids, {"author": "m"}, {"more": 1}, [], None, 60)
    assert ([*done.changed], [*done.unchanged], [*done.too_large]) == ([ids[0], ids[2]], [], [ids[1]])
    assert await stored(record, ids[1], bot.bot_id) == before


async def test_a_filter_on_a_column(record: Record) -> None:
    bot = await record.bot()
    writes = [Write(bot, document("a", title=title)) for title in ("a", "b")]
    await record.written(*writes)
    ids = [write.doc_id for write in writes if write.doc_id]
    on_title = Condition("eq", Column("title"), "b")
    done = await record.documents.patch_many(bot.bot_id, ids, {"title": "c"}, {}, [], on_title)
    assert [*done.changed] == [ids[1]]
    assert await record.documents.patch_many(bot.bot_id, ids, {"title": "c"}, {}, [], on_title) == ([], [], [])
