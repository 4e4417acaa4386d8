"""The results of T1 and T2 that WritePort promises, in plain memory and in PostgreSQL."""

from uuid import uuid4

from app.core.ports import FinishResult, WriteFailure
from app.core.write.write import Write
from app.schemas.rows import IdempotencyKey, WriteRow
from tests.contract.records import HOUR, Record, document

TOKEN = uuid4()


async def test_results_name_numbers_and_failures(record: Record) -> None:
    """The rows that were passed in stay as they are."""
    bot, gone = await record.bot(), await record.bot()
    old = Write(bot, document("old", "older"))
    await record.written(old)
    await record.bots.begin_deletion(gone.bot_id, None, TOKEN, HOUR)
    rows = [
        Write(gone, document("a")).to_row(),
        Write(bot, document("b"), 999_999).to_row(),
        Write(bot, document("c"), old.doc_id, rewrites=old.generation + 1).to_row(),
        Write(bot, document("d"), old.doc_id).to_row(),
        Write(bot, document("e")).to_row(),
    ]
    *failures, replacement, insert = (await record.writes.begin(rows, TOKEN, HOUR)).writes
    assert failures == [
        WriteFailure.BOT_NOT_FOUND,
        WriteFailure.DOCUMENT_NOT_FOUND,
        WriteFailure.DOCUMENT_CHANGED,
    ]
    assert isinstance(replacement, WriteRow)
    assert isinstance(insert, WriteRow)
    assert (replacement.doc_id, replacement.previous_generation) == (old.doc_id, old.generation)
    assert (insert.doc_id, insert.previous_generation) == (insert.generation, None)
    assert [row.generation for row in rows] == [0] * len(rows)

    lost = insert._replace(generation=insert.generation + 99)
    result = await record.writes.finish([replacement, insert, lost], TOKEN, {})
    assert result.failed == {lost.generation: WriteFailure.LEASE_LOST}
    assert (result.moved, {key: one.chunks for key, one in result.replaced.items()}) == (
        frozenset(),
        {replacement.generation: 2},
    )


async def test_an_answer_is_made_of_the_result_and_only_where_a_write_succeeds(record: Record) -> None:
    bot = await record.bot()
    old = Write(bot, document("old"))
    await record.written(old)
    results: list[FinishResult] = []

    def answer(result: FinishResult) -> bytes:
        results.append(result)
        return b"body"

    key = IdempotencyKey("", "k", b"1")
    rows = [Write(bot, document("a"), old.doc_id).to_row(), Write(bot, document("b"), old.doc_id).to_row()]
    begun = await record.writes.begin(rows, TOKEN, HOUR, key)
    first, second = (row for row in begun.writes if isinstance(row, WriteRow))
    key = key._replace(generation=begun.key_generation or 0)
    assert key.generation == first.generation
    result = await record.writes.finish([first, second], TOKEN, {}, key, answer)
    assert result.failed == {second.generation: WriteFailure.DOCUMENT_CHANGED}
    assert results == [result]
    assert await record.keys(HOUR).find_answer(key) == b"body"
    assert (await record.writes.begin(rows, TOKEN, HOUR, key)).answer == b"body"

    other = IdempotencyKey("", "other", b"1")
    begun = await record.writes.begin([Write(bot, document("c")).to_row()], TOKEN, HOUR, other)
    (row,) = (row for row in begun.writes if isinstance(row, WriteRow))
    await record.writes.compensate(bot.bot_id, [row.generation], TOKEN)
    other = other._replace(generation=row.generation)
    assert (await record.writes.finish([row], TOKEN, {}, other, answer)).failed
    assert len(results) == 1
    assert await record.keys(HOUR).find_answer(other) is None
