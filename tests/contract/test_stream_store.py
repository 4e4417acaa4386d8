"""What StreamPort promises, and WritePort about lines of parts, held against plain memory and PostgreSQL alike."""

from collections.abc import Sequence
from uuid import UUID, uuid4

import pytest

from app.core.write.recorded import LinesRequest
from app.core.write.write import Outcome, Write
from app.schemas.rows import Bot
from app.schemas.stream_rows import LineResults, LinesKey, PartName, ResultPlace, StoredResults, StreamTotals
from app.utils.errors import BotNotFound, EmbedderUnavailable, LeaseLost, PartInProgress, TextTooLong
from tests.contract.records import HOUR, NO_TIME, PAST, Record, document, error

TOKEN = uuid4()
UNKNOWN = StreamTotals(0, 0, 0, 0)


def name(bot: Bot, part: int = 1, stream: str = "s") -> PartName:
    return PartName(bot.bot_id, stream, part)


def lines(part: PartName, after: int, last_line: int, *writes: Write) -> LinesRequest:
    def render(outcomes: Sequence[Outcome]) -> LineResults:
        failed = sum(outcome.error is not None for outcome in outcomes)
        return LineResults(len(outcomes) - failed, failed, b"lines to %d\n" % last_line)

    key = LinesKey(part, after, last_line, b"sha256 of %d" % last_line)
    return LinesRequest(key, render, lambda: [write.outcome for write in writes])


async def begin(record: Record, request: LinesRequest, *writes: Write) -> None:
    await record.transactions.begin(writes, TOKEN, HOUR, request)


async def finish(record: Record, request: LinesRequest, *writes: Write) -> None:
    await record.transactions.finish(writes, TOKEN, request)


async def state(record: Record, part: PartName) -> tuple[int, bytes, int, int, bool] | None:
    found = await record.streams(HOUR).part(part)
    return found and (found.lines, found.sha256, found.stored, found.failed, found.in_flight)


async def documents(record: Record, bot: Bot) -> int:
    return len(await record.documents.list(bot.bot_id, 0, 100))


async def results(record: Record, bot_id: UUID, *after: int, limit: int = 9, failed: bool = False) -> object:
    found = await record.streams(HOUR).results(bot_id, "s", ResultPlace(*after), limit, failed=failed)
    return [(*one.place, one.results) for one in found]


async def test_lines_are_stored_with_their_documents(record: Record) -> None:
    bot = await record.bot()
    part, streams = name(bot), record.streams(HOUR)
    assert await state(record, part) is None
    assert await streams.totals(bot.bot_id, "s") == UNKNOWN
    good, bad = Write(bot, document("a")), Write(bot, document("b"))
    request = lines(part, 0, 5, good, bad)
    await begin(record, request, good, bad)
    assert await state(record, part) == (0, b"", 0, 0, True)
    bad.fail(TextTooLong("too long"))
    await finish(record, request, good)
    assert await state(record, part) == (5, b"sha256 of 5", 1, 1, False)
    await streams.advance(lines(part, 5, 7).key, LineResults(0, 0, b""))
    assert await state(record, part) == (7, b"sha256 of 7", 1, 1, False)
    assert await documents(record, bot) == 1
    assert await streams.totals(bot.bot_id, "s") == StreamTotals(1, 7, 1, 1)


async def test_only_the_next_lines_begin(record: Record) -> None:
    bot = await record.bot()
    part = name(bot)
    await record.streams(HOUR).advance(lines(part, 0, 3).key, LineResults(3, 0, b"."))
    write = Write(bot, document("a"))
    for after in (0, 2, 4):
        with pytest.raises(PartInProgress):
            await begin(record, lines(part, after, 9, write), write)
        with pytest.raises(PartInProgress):
            await record.streams(HOUR).advance(lines(part, after, 9).key, LineResults(0, 0, b""))
    with pytest.raises(PartInProgress):
        await begin(record, lines(name(bot, 2), 3, 4, write), write)
    assert write.generation == 0
    assert await record.streams(HOUR).part(name(bot, 2)) is None


async def test_lines_in_flight_keep_others_out(record: Record) -> None:
    bot = await record.bot()
    part = name(bot)
    first, second = Write(bot, document("a")), Write(bot, document("a"))
    one, two = lines(part, 0, 1, first), lines(part, 0, 1, second)
    await begin(record, one, first)
    with pytest.raises(PartInProgress):
        await begin(record, two, second)
    with pytest.raises(PartInProgress):
        await record.streams(HOUR).advance(two.key, LineResults(0, 1, b""))
    await begin(record, lines(name(bot, 2), 0, 1, second), second)  # Another part is free.
    await record.writes.compensate(bot.bot_id, [first.generation], TOKEN)
    third = Write(bot, document("a"))
    again = lines(part, 0, 2, third)
    await begin(record, again, third)
    # The first one comes back late, and finds its part taken over.
    await finish(record, one, first)
    assert error(first) is LeaseLost
    await finish(record, again, third)
    assert await state(record, part) == (2, b"sha256 of 2", 1, 0, False)
    assert await documents(record, bot) == 1


async def test_t2_does_nothing_when_its_request_refuses(record: Record) -> None:
    bot = await record.bot()
    old = Write(bot, document("old"))
    await record.written(old)
    new, replacement, lost = Write(bot, document("a")), Write(bot, document("new"), old.doc_id), Write(bot, document())
    request = lines(name(bot), 0, 3, new, replacement, lost)
    await begin(record, request, new, replacement)
    lost.fail(EmbedderUnavailable("no"))
    with pytest.raises(EmbedderUnavailable):
        await finish(record, request, new, replacement)
    assert await state(record, name(bot)) == (0, b"", 0, 0, True)
    assert await record.texts(bot.bot_id, old.doc_id) == ["old"]
    assert await documents(record, bot) == 1
    undone = await record.writes.compensate(bot.bot_id, [new.generation, replacement.generation], TOKEN)
    assert undone == {new.generation, replacement.generation}
    assert await state(record, name(bot)) == (0, b"", 0, 0, False)


async def test_a_moved_bot_keeps_the_part(record: Record) -> None:
    bot = await record.bot()
    write = Write(bot, document("a"))
    request = lines(name(bot), 0, 1, write)
    await begin(record, request, write)
    first = write.generation
    moved = {bot.bot_id: bot}
    await record.transactions.restart([write], moved, TOKEN, HOUR, request)
    assert write.generation > first
    assert (await state(record, name(bot)) or ())[-1] is True
    await finish(record, request, write)
    assert await state(record, name(bot)) == (1, b"sha256 of 1", 1, 0, False)


async def test_pages(record: Record) -> None:
    bot, other = await record.bot(), await record.bot()
    streams = record.streams(HOUR)
    for part in (2, 1, 3):
        for after in (0, 10):
            done = LineResults(9, part == 2, b"%d.%d" % (part, after))
            await streams.advance(lines(name(bot, part), after, after + 10).key, done)
    await streams.advance(lines(name(bot, 9, "t"), 0, 1).key, LineResults(1, 0, b"t"))
    assert [part.part for part in await streams.parts(bot.bot_id, "s", 0, 2)] == [1, 2]
    assert [part.part for part in await streams.parts(bot.bot_id, "s", 2, 2)] == [3]
    assert await streams.parts(other.bot_id, "s", 0, 2) == []
    assert await streams.totals(bot.bot_id, "s") == StreamTotals(3, 60, 54, 2)
    every = [(1, 10, b"1.0"), (1, 20, b"1.10"), (2, 10, b"2.0"), (2, 20, b"2.10"), (3, 10, b"3.0"), (3, 20, b"3.10")]
    assert await results(record, bot.bot_id, 0, 0) == every
    assert await results(record, bot.bot_id, 1, 19, limit=2) == every[1:3]
    assert await results(record, bot.bot_id, 1, 20, limit=1) == every[2:3]
    assert await results(record, bot.bot_id, 0, 0, failed=True) == every[2:4]
    assert await results(record, other.bot_id, 0, 0) == []
    assert await streams.results(bot.bot_id, "t", ResultPlace(0, 0), 9, failed=False) == [
        StoredResults(ResultPlace(9, 1), b"t")
    ]


async def test_old_streams_are_deleted_as_a_whole(record: Record) -> None:
    bot = await record.bot()
    write = Write(bot, document("a"))
    await record.streams(HOUR).advance(lines(name(bot), 0, 1).key, LineResults(1, 0, b"."))
    request = lines(name(bot, 1, "in flight"), 0, 1, write)
    await begin(record, request, write)
    await record.streams(HOUR).sweep()
    assert await state(record, name(bot)) is not None
    await record.streams(PAST).sweep()
    assert await state(record, name(bot)) is None
    assert await results(record, bot.bot_id, 0, 0) == []
    assert await state(record, name(bot, 1, "in flight")) is not None
    await finish(record, request, write)
    assert write.error is None


async def test_parts_are_deleted_with_their_bot(record: Record) -> None:
    bot = await record.bot()
    await record.streams(HOUR).advance(lines(name(bot), 0, 1).key, LineResults(1, 0, b"."))
    write = Write(bot, document("a"))
    request = lines(name(bot), 1, 2, write)
    await begin(record, request, write)
    assert await record.bots.begin_deletion(bot.bot_id, None, TOKEN, HOUR)
    with pytest.raises(BotNotFound):
        await record.streams(HOUR).advance(lines(name(bot), 1, 2).key, LineResults(0, 0, b""))
    assert await record.bots.finish_deletion(bot.bot_id)
    await finish(record, request, write)
    assert error(write) is BotNotFound
    assert await state(record, name(bot)) is None
    late = Write(bot, document("b"))
    await begin(record, lines(name(bot), 1, 2, late), late)
    assert error(late) is BotNotFound
    assert await record.streams(NO_TIME).totals(bot.bot_id, "s") == UNKNOWN
