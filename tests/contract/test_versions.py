"""Versions of documents and preconditions on them, in plain memory and in PostgreSQL."""

from uuid import UUID, uuid4

import pytest

from app.core.write.write import Write
from app.schemas.filter_tree import Column, Condition
from app.schemas.rows import Bot
from app.schemas.versions import ANY, DocumentVersion, Precondition
from app.utils.errors import DocumentChanged, PreconditionFailed
from tests.contract.records import HOUR, Record, document

TOKEN = uuid4()


def matching(version: DocumentVersion | None) -> Precondition:
    assert version is not None
    return Precondition(frozenset({version.etag}))


async def version_of(record: Record, bot_id: UUID, doc_id: int | None) -> DocumentVersion:
    assert doc_id is not None
    found = await record.documents.get(bot_id, doc_id)
    assert found is not None
    (listed,) = await record.documents.list(bot_id, doc_id - 1, 1)
    (stored,) = await record.documents.stored(bot_id, [doc_id])
    chunk = await record.documents.chunk(bot_id, doc_id, 0)
    assert chunk is not None
    assert found[0].version == listed.version == stored.document.version == chunk[0]
    return found[0].version


def rewriting(bot: Bot, old: Write, precondition: Precondition | None = None) -> Write:
    new = document("rewritten", title=old.document.title)
    return Write(bot, new, old.doc_id, rewrites=old.generation, precondition=precondition)


async def test_every_change_makes_another_version_which_its_answer_has(record: Record) -> None:
    bot = await record.bot()
    write = Write(bot, document("a", title="one"))
    await record.written(write)
    seen = [write.outcome.version]
    assert write.doc_id is not None
    for title in ("two", "one", "one"):  # Back to what it was, and once without a difference.
        seen.append(await record.documents.patch(bot.bot_id, write.doc_id, {"title": title}, {}, []))
        assert seen[-1] == await version_of(record, bot.bot_id, write.doc_id)
    everything = Condition("eq", Column("title"), "one")
    for value, changed in ((1, 1), (1, 0), (2, 1)):
        patched = await record.documents.patch_many(bot.bot_id, [write.doc_id], {}, {"k": value}, [], everything)
        assert len(patched.changed) == changed
    seen.append(await version_of(record, bot.bot_id, write.doc_id))
    replacing = Write(bot, document("a", title="one"), write.doc_id)
    await record.written(replacing)
    seen.append(replacing.outcome.version)
    rewritten = rewriting(bot, replacing)
    await record.written(rewritten)
    seen.append(rewritten.outcome.version)
    assert rewritten.replaced is not None
    assert rewritten.replaced.version == replacing.version
    assert seen[-1] == await version_of(record, bot.bot_id, write.doc_id)
    assert None not in seen
    assert len({version.etag for version in seen if version}) == len(seen)
    assert sorted(version.updated_at for version in seen if version) == [one.updated_at for one in seen if one]


async def test_t2_checks_the_precondition_and_tells_the_present_version(record: Record) -> None:
    """A PATCH during a PUT does not change the generation."""
    bot = await record.bot()
    old = Write(bot, document("old"))
    await record.written(old)
    assert old.doc_id is not None
    put = Write(bot, document("new"), old.doc_id, precondition=matching(old.version))
    edit = rewriting(bot, old, matching(old.version))
    free = rewriting(bot, old)
    await record.transactions.begin([put, edit, free], TOKEN, HOUR)
    patched = await record.documents.patch(bot.bot_id, old.doc_id, {}, {"k": 1}, [])
    assert patched is not None
    await record.transactions.finish([put, edit], TOKEN)
    for write in (put, edit):
        assert isinstance(write.error, PreconditionFailed)
        assert write.error.etag == patched.etag
    await record.transactions.finish([free], TOKEN)
    assert free.error is None
    assert await record.texts(bot.bot_id, old.doc_id) == ["rewritten"]


async def test_chunks_are_not_written_again_with_a_title_that_was_patched(record: Record) -> None:
    """Their words would keep the old title."""
    bot = await record.bot()
    old = Write(bot, document("old", title="old title"))
    await record.written(old)
    assert old.doc_id is not None
    edit = rewriting(bot, old)
    await record.transactions.begin([edit], TOKEN, HOUR)
    await record.documents.patch(bot.bot_id, old.doc_id, {"title": "new title"}, {}, [])
    await record.transactions.finish([edit], TOKEN)
    assert isinstance(edit.error, DocumentChanged)
    assert await record.texts(bot.bot_id, old.doc_id) == ["old"]


async def test_t2_without_the_document(record: Record) -> None:
    bot = await record.bot()
    old = Write(bot, document("old"))
    await record.written(old)
    assert old.doc_id is not None
    put = Write(bot, document("new"), old.doc_id, precondition=Precondition(frozenset({ANY})))
    free = Write(bot, document("new"), old.doc_id)
    await record.transactions.begin([put, free], TOKEN, HOUR)
    await record.documents.delete(bot.bot_id, [old.doc_id])
    await record.transactions.finish([put, free], TOKEN)
    assert isinstance(put.error, PreconditionFailed)
    assert put.error.etag is None
    assert isinstance(free.error, DocumentChanged)


async def test_of_two_writes_with_one_etag_the_second_fails(record: Record) -> None:
    bot = await record.bot()
    old = Write(bot, document("old"))
    await record.written(old)
    puts = [Write(bot, document(text), old.doc_id, precondition=matching(old.version)) for text in "ab"]
    await record.transactions.begin(puts, TOKEN, HOUR)
    await record.transactions.finish(puts, TOKEN)
    assert puts[0].error is None
    assert isinstance(puts[1].error, PreconditionFailed)
    assert puts[0].version is not None
    assert puts[1].error.etag == puts[0].version.etag


async def test_patch_and_delete_check_it_and_change_nothing(record: Record) -> None:
    bot = await record.bot()
    write = Write(bot, document("a"))
    await record.written(write)
    assert write.doc_id is not None
    first = write.version
    second = await record.documents.patch(bot.bot_id, write.doc_id, {}, {"k": 1}, [], precondition=matching(first))
    assert second is not None
    for call in (
        record.documents.patch(bot.bot_id, write.doc_id, {}, {"k": 2}, [], precondition=matching(first)),
        record.documents.delete(bot.bot_id, [write.doc_id], precondition=matching(first)),
        record.documents.delete(bot.bot_id, [write.doc_id], precondition=Precondition(None, frozenset({ANY}))),
    ):
        with pytest.raises(PreconditionFailed) as failed:
            await call
        assert failed.value.etag == second.etag
    assert await version_of(record, bot.bot_id, write.doc_id) == second
    assert await record.documents.patch(bot.bot_id, 99_999, {}, {}, [], precondition=matching(first)) is None
    assert await record.documents.delete(bot.bot_id, [99_999], precondition=matching(first)) == {}
    assert await record.documents.delete(bot.bot_id, [write.doc_id], precondition=matching(second)) == {write.doc_id: 1}
