"""What WritePort, BotPort and QuotaPort promise about quotas, in plain memory and in PostgreSQL."""

from uuid import UUID, uuid4

import pytest

from app.core.access.quotas import Quotas
from app.core.write.write import Write
from app.schemas.quotas import NO_QUOTA, Quota, Usage
from app.utils.errors import AppError, QuotaExceeded
from tests.contract.records import HOUR, Record, document, error

TOKEN = uuid4()


async def used(record: Record, account: str = "chatty") -> Usage:
    return (await Quotas(record.quotas, record.bots).usage(account)).used


async def limit(record: Record, quota: Quota, account: str = "chatty") -> None:
    await Quotas(record.quotas, record.bots).set(account, quota)


async def run(record: Record, *writes: Write) -> list[type[AppError] | None]:
    await record.transactions.begin(writes, TOKEN, HOUR)
    begun = [write for write in writes if write.error is None]
    await record.transactions.finish(begun, TOKEN)
    for write in begun:
        if write.error:
            await record.writes.compensate(write.bot.bot_id, [write.generation], TOKEN)
    return [error(write) for write in writes]


async def test_nothing_is_refused_and_all_is_counted_without_a_quota(record: Record) -> None:
    bot, other = await record.bot(), await record.bot("other")
    await record.written(Write(bot, document("a", "b")), Write(other, document("c")))
    assert (await used(record), await used(record, "other")) == (Usage(1, 1, 2), Usage(1, 1, 1))
    assert await record.quotas.get("chatty") == NO_QUOTA
    assert [usage.documents for usage in await record.quotas.usage("chatty")] == [None]
    assert list(await record.quotas.accounts()) == ["chatty", "other"]


async def test_documents_and_chunks_up_to_the_quota(record: Record) -> None:
    """What was stored before the quota counts. What needs no more is never refused."""
    bot, second = await record.bot(), await record.bot()
    old = Write(bot, document("a", "b"))
    await record.written(old)
    await limit(record, Quota(documents=3, chunks=5))
    writes = [Write(second, document("c")), Write(bot, document("d", "e", "f")), Write(bot, document("g"))]
    assert await run(record, *writes) == [None, QuotaExceeded, None]
    assert (error(writes[1]), await used(record)) == (QuotaExceeded, Usage(2, 3, 4))
    assert writes[1].error is not None
    assert writes[1].error.more == {"quota": {"name": "chunks", "used": 3, "limit": 5, "requested": 3}}
    assert await run(record, Write(bot, document("h"))) == [QuotaExceeded]
    assert await run(record, Write(bot, document("a", "b", "c", "d"), old.doc_id)) == [QuotaExceeded]
    assert await run(record, Write(bot, document("a", "b", "c"), old.doc_id)) == [None]
    assert await used(record) == Usage(2, 3, 5)
    await limit(record, Quota(documents=1, chunks=1))
    assert await run(record, Write(bot, document("a", "b"), old.doc_id)) == [None]
    assert await used(record) == Usage(2, 3, 4)


async def test_the_place_goes_to_the_write_that_ends_first(record: Record) -> None:
    """Both fit when they begin. The second is undone, and what it would have stored is counted by nobody."""
    bot, other = await record.bot(), await record.bot()
    await limit(record, Quota(documents=1))
    late, early = Write(bot, document("late")), Write(other, document("early"))
    for write in (late, early):
        await record.transactions.begin([write], TOKEN, HOUR)
    await record.transactions.finish([early], TOKEN)
    await record.transactions.finish([late], TOKEN)
    assert (error(early), error(late)) == (None, QuotaExceeded)
    assert await record.writes.compensate(bot.bot_id, [late.generation], TOKEN) == {late.generation}
    assert await used(record) == Usage(2, 1, 1)


async def test_what_replacements_give_up_is_there_for_new_documents(record: Record) -> None:
    bot = await record.bot()
    old = Write(bot, document("a", "b", "c"))
    await record.written(old)
    await limit(record, Quota(chunks=3))
    writes = [Write(bot, document("d", "e")), Write(bot, document("a"), old.doc_id)]
    await record.transactions.begin([writes[1]], TOKEN, HOUR)
    await record.transactions.finish([writes[1]], TOKEN)
    assert await run(record, writes[0]) == [None]
    assert await used(record) == Usage(1, 2, 3)


async def test_deleted_documents_and_bots_make_room(record: Record) -> None:
    bot, other = await record.bot(), await record.bot()
    await limit(record, Quota(bots=2, documents=2))
    first, second = Write(bot, document("a")), Write(other, document("b"))
    await record.written(first, second)
    with pytest.raises(QuotaExceeded):
        await record.bot()
    assert await run(record, Write(bot, document("c"))) == [QuotaExceeded]
    assert first.doc_id is not None
    await record.documents.delete(bot.bot_id, [first.doc_id, 999_999])
    assert await used(record) == Usage(2, 1, 1)
    assert await run(record, Write(bot, document("c"))) == [None]
    await record.bots.begin_deletion(other.bot_id, None, TOKEN, HOUR)
    assert await used(record) == Usage(1, 1, 1)
    third = await record.bot()
    assert await run(record, Write(third, document("d")), Write(third, document("e"))) == [None, QuotaExceeded]


async def test_a_bot_beyond_the_quota_leaves_nothing_and_an_existing_one_is_no_new_one(record: Record) -> None:
    bot = await record.bot()
    await limit(record, Quota(bots=1))
    new = uuid4()
    with pytest.raises(QuotaExceeded) as refused:
        await _register(record, new)
    assert refused.value.more == {"quota": {"name": "bots", "used": 1, "limit": 1, "requested": 1}}
    assert await record.bots.state(new) is None
    assert await _register(record, bot.bot_id) is None
    await _register(record, new, "other")


async def test_a_removed_quota_refuses_nothing_and_a_new_one_counts_again(record: Record) -> None:
    bot = await record.bot()
    await limit(record, Quota(documents=0))
    assert await run(record, Write(bot, document("a"))) == [QuotaExceeded]
    await limit(record, NO_QUOTA)
    assert await run(record, Write(bot, document("a"))) == [None]
    assert [usage.chunks for usage in await record.quotas.usage("chatty")] == [None]
    await limit(record, Quota(documents=1))
    assert await run(record, Write(bot, document("b"))) == [QuotaExceeded]
    assert await used(record) == Usage(1, 1, 1)


async def test_documents_that_lost_chunks_are_counted_as_they_are(record: Record) -> None:
    bot = await record.bot()
    await limit(record, Quota(chunks=10))
    write = Write(bot, document("a", "b"))
    await record.written(write)
    assert write.doc_id is not None
    await record.verify.recount_chunks(bot.bot_id, [write.doc_id])
    assert await used(record) == Usage(1, 1, 2)


async def _register(record: Record, bot_id: UUID, account: str = "chatty") -> int | None:
    return await record.bots.insert(bot_id, "bot", f"c_{bot_id.hex}", account, TOKEN, HOUR)
