"""What SyncPort promises, held against plain memory and PostgreSQL alike."""

from uuid import uuid4

from app.core.write.write import Write
from app.schemas.rows import Bot, MissingDeleted
from tests.contract.records import HOUR, PAST, Record, document

ONE, TWO = uuid4(), uuid4()


async def stored(record: Record, bot: Bot, *names: str | None) -> list[int]:
    writes = [Write(bot, document("a", "b", external_id=name)) for name in names]
    await record.written(*writes)
    return [write.doc_id for write in writes if write.doc_id]


async def left(record: Record, bot: Bot) -> list[int]:
    return [document.doc_id for document in await record.documents.list(bot.bot_id, 0, 100)]


async def test_what_was_not_found_is_deleted(record: Record) -> None:
    bot, other = await record.bot(), await record.bot()
    ids = await stored(record, bot, "a", "b", "c", "d", None)
    theirs = await stored(record, other, "c", "x")
    assert await record.syncs.begin(bot.bot_id, ONE, HOUR)
    later = await stored(record, bot, "later")
    assert await record.syncs.found(bot.bot_id, ONE, ["a", "new"], HOUR, incomplete=False)
    assert await record.syncs.count_missing(bot.bot_id, ONE, HOUR) == 3
    await record.documents.delete(bot.bot_id, [ids[1]])
    assert await record.syncs.delete_missing(bot.bot_id, ONE, 2, HOUR) == MissingDeleted({ids[2]: 2}, True)
    assert await record.syncs.delete_missing(bot.bot_id, ONE, 2, HOUR) == MissingDeleted({ids[3]: 2}, False)
    assert await record.syncs.delete_missing(bot.bot_id, ONE, 2, HOUR) == MissingDeleted({}, False)
    assert await left(record, bot) == [ids[0], ids[4], *later]
    assert await left(record, other) == theirs
    assert set(await record.garbage_due()) == {*ids[1:4]}
    assert await record.syncs.end(bot.bot_id, ONE)
    assert not await record.syncs.end(bot.bot_id, ONE)


async def test_a_document_that_has_the_name_of_a_deleted_one_stays(record: Record) -> None:
    bot = await record.bot()
    (old,) = await stored(record, bot, "a")
    assert await record.syncs.begin(bot.bot_id, ONE, HOUR)
    await record.documents.delete(bot.bot_id, [old])
    new = await stored(record, bot, "a")
    assert await record.syncs.delete_missing(bot.bot_id, ONE, 5, HOUR) == MissingDeleted({}, False)
    assert await left(record, bot) == new


async def test_one_session_at_a_time(record: Record) -> None:
    bot, other = await record.bot(), await record.bot()
    await stored(record, bot, "a")
    assert await record.syncs.begin(bot.bot_id, ONE, HOUR)
    assert not await record.syncs.begin(bot.bot_id, TWO, HOUR)
    assert await record.syncs.begin(other.bot_id, TWO, HOUR)
    assert not await record.syncs.begin(uuid4(), TWO, HOUR)
    # Its lease is over, and nobody else has begun: it goes on.
    assert await record.syncs.found(bot.bot_id, ONE, ["a"], PAST, incomplete=True)
    assert await record.syncs.is_incomplete(bot.bot_id, ONE, PAST)
    assert await record.syncs.begin(bot.bot_id, TWO, HOUR)
    assert await record.syncs.is_incomplete(bot.bot_id, TWO, HOUR) is False
    assert await record.syncs.count_missing(bot.bot_id, TWO, HOUR) == 1
    # The first one has lost it.
    assert await record.syncs.found(bot.bot_id, ONE, ["a"], HOUR, incomplete=False) is None
    assert await record.syncs.count_missing(bot.bot_id, ONE, HOUR) is None
    assert await record.syncs.is_incomplete(bot.bot_id, ONE, HOUR) is None
    assert await record.syncs.delete_missing(bot.bot_id, ONE, 5, HOUR) is None
    assert not await record.syncs.end(bot.bot_id, ONE)
    assert len(await left(record, bot)) == 1
    assert await record.syncs.count_missing(bot.bot_id, TWO, HOUR) == 1


async def test_a_deleted_bot_has_no_session(record: Record) -> None:
    bot = await record.bot()
    assert await record.syncs.begin(bot.bot_id, ONE, HOUR)
    assert await record.bots.begin_deletion(bot.bot_id, None, ONE, HOUR)
    assert await record.syncs.delete_missing(bot.bot_id, ONE, 5, HOUR) is None
    assert await record.bots.finish_deletion(bot.bot_id)
    assert not await record.syncs.end(bot.bot_id, ONE)
