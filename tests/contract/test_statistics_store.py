"""Document frequencies, their versions and calibrations, in PostgreSQL and in memory."""

from dataclasses import replace
from datetime import timedelta
from uuid import uuid4

import pytest

from app.core.bots.recent_vectors import Snapshot
from app.core.write.write import Write
from app.schemas.operation_rows import BotSize, Calibration, TermCounts
from app.schemas.rows import Bot
from tests.contract.records import HOUR, NO_TIME, Record, document

COUNTS, SIZE = TermCounts(3, b"\x01\x00\x00\x00\x02\x00"), BotSize(3, 1)
ONE, OTHER = Calibration((0.0, 1.0, 2.0, 3.0, 4.0), (0.0, 1.0, 2.0, 3.0)), Calibration((1.0,) * 5, (1.0,) * 4)


async def stored(record: Record, bot: Bot, counts: TermCounts = COUNTS) -> Bot:
    """The bot's row after these counts were stored."""
    assert await record.statistics.store(bot.bot_id, bot.statistics_version, 1, False, counts, SIZE)
    return await again(record, bot)


async def again(record: Record, bot: Bot) -> Bot:
    found = await record.bots.get(bot.bot_id, None)
    assert found is not None
    return found


async def test_counts_come_with_a_new_version(record: Record) -> None:
    bot = await record.bot()
    found = await record.statistics.get(bot.bot_id)
    assert found is not None
    assert (
        (found.version, found.counts, found.calibration) == (None, None, None) == (bot.statistics_version, None, None)
    )
    first = await stored(record, bot)
    found = await record.statistics.get(bot.bot_id)
    assert found is not None
    assert (found.version, found.counts) == (first.statistics_version, COUNTS)
    second = await stored(record, first, TermCounts(0, b""))
    assert len({None, first.statistics_version, second.statistics_version}) == 3
    found = await record.statistics.get(bot.bot_id)
    assert found is not None
    assert found.counts == TermCounts(0, b"")


async def test_only_one_of_two_writers_stores(record: Record) -> None:
    bot = await record.bot()
    now = await stored(record, bot)
    for version, analyzer, title in ((None, 1, False), (uuid4(), 1, False), (now.statistics_version, 2, False)):
        assert not await record.statistics.store(bot.bot_id, version, analyzer, title, TermCounts(1, b""), SIZE)
    assert not await record.statistics.store(bot.bot_id, now.statistics_version, 1, True, TermCounts(1, b""), SIZE)
    found = await record.statistics.get(bot.bot_id)
    assert found is not None
    assert (found.version, found.counts) == (now.statistics_version, COUNTS)


async def test_the_version_of_a_row_is_checked_while_its_chunks_are_confirmed(record: Record) -> None:
    bot = await record.bot()
    write = Write(bot, document("one"))
    await record.written(write)
    key = write.generation << 16
    before = await again(record, bot)

    async def confirmed(expected: Bot) -> list[int]:
        row = Snapshot(guarantee_timestamp=expected.milvus_timestamp).expected(expected)
        return list(await record.documents.current_chunks(bot.bot_id, [key], [], None, row))

    assert await confirmed(before) == [key]
    now = await stored(record, before)
    assert not await confirmed(before)
    assert await confirmed(now) == [key]
    assert replace(now, statistics_version=None) == before


async def test_samples_and_sizes(record: Record) -> None:
    bot = await record.bot()
    assert await record.statistics.size(bot.bot_id, 10) == BotSize(0, 0)
    assert await record.statistics.sample(bot.bot_id, 10, 0) == []
    await record.written(Write(bot, document("one", "two", title="some")))
    await record.written(Write(bot, document("three", title="other")))
    await record.written(Write(await record.bot(), document("foreign")))
    assert await record.statistics.size(bot.bot_id, 10) == BotSize(3, 1)
    assert (await record.statistics.size(bot.bot_id, 2)).chunks == 2
    everything = {("some", "one"), ("some", "two"), ("other", "three")}
    for pages in (0, 1):
        assert set(await record.statistics.sample(bot.bot_id, 10, pages)) == everything
        assert len(await record.statistics.sample(bot.bot_id, 2, pages)) == 2


async def test_one_process_checks_a_sample(record: Record) -> None:
    bot = await record.bot()
    assert await record.statistics.claim_check(bot.bot_id, NO_TIME) is None
    now = await stored(record, bot)
    assert await record.statistics.claim_check(bot.bot_id, HOUR) is None
    found = await record.statistics.claim_check(bot.bot_id, timedelta(hours=-1))
    assert found is not None
    assert (found.version, found.analyzer_version, found.title_in_lexical) == (now.statistics_version, 1, False)
    assert found.size == SIZE
    assert 0 <= found.age < 60
    assert await record.statistics.claim_check(bot.bot_id, HOUR) is None


async def test_a_calibration_changes_the_versions_of_its_bots(record: Record) -> None:
    model = f"m-{uuid4()}"
    bots = []
    for dimension in (4, 4, 5):
        bot_id, token = uuid4(), uuid4()
        saga = await record.bots.insert(bot_id, "bot", f"c_{bot_id.hex}", "chatty", token, HOUR)
        assert saga is not None
        await record.bots.finish_creation(saga, bot_id, f"c_{bot_id.hex}", model, dimension, token)
        found = await record.bots.get(bot_id, None)
        assert found is not None
        bots.append(await stored(record, found))
    assert await record.statistics.calibrate(model, 4, 1, ONE) == 2
    assert await record.statistics.calibrate(model, 4, 2, OTHER) == 0
    assert await record.statistics.calibrate(f"other {model}", 4, 1, OTHER) == 0
    for bot, calibration in zip(bots, (ONE, ONE, None), strict=True):
        statistics, now = await record.statistics.get(bot.bot_id), await again(record, bot)
        assert statistics is not None
        assert (statistics.calibration, statistics.counts) == (calibration, COUNTS)
        assert statistics.version == now.statistics_version
        assert (now.statistics_version == bot.statistics_version) is (calibration is None)
    assert await record.statistics.calibrate(model, 4, 1, OTHER) == 2
    statistics = await record.statistics.get(bots[0].bot_id)
    assert statistics is not None
    assert statistics.calibration == OTHER


async def test_a_deleted_bot(record: Record) -> None:
    bot = await stored(record, await record.bot())
    token = uuid4()
    assert await record.bots.begin_deletion(bot.bot_id, None, token, HOUR) is not None
    assert await record.statistics.get(bot.bot_id) is None
    assert await record.statistics.claim_check(bot.bot_id, timedelta(hours=-1)) is None
    assert not await record.statistics.store(bot.bot_id, bot.statistics_version, 1, False, COUNTS, SIZE)
    assert await record.bots.finish_deletion(bot.bot_id)
    assert await record.statistics.size(bot.bot_id, 10) == BotSize(0, 0)


@pytest.mark.parametrize("pages", [0, 1])
async def test_chunks_of_writes_in_flight_are_not_sampled(record: Record, pages: int) -> None:
    bot = await record.bot()
    await record.written(Write(bot, document("one")))
    await record.transactions.begin([Write(bot, document("two"))], uuid4(), HOUR)
    assert [text for _, text in await record.statistics.sample(bot.bot_id, 10, pages)] == ["one"]
