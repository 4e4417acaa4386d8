"""What WritePort and DocumentPort promise of external ids, in memory and in PostgreSQL."""

from uuid import uuid4

import pytest

from app.core.write.write import Write
from app.schemas.rows import Bot, ExternalIdState, IdempotencyKey
from app.utils.errors import DocumentChanged, ExternalIdsHeld, RequestInFlight
from tests.contract.records import HOUR, PAST, Record, document, error

ID = "a/b"


def write(bot: Bot, external_id: str | None = ID, doc_id: int | None = None) -> Write:
    return Write(bot, document("x", external_id=external_id), doc_id)


async def state(record: Record, bot: Bot) -> ExternalIdState:
    return (await record.documents.external_ids(bot.bot_id, [ID]))[ID]


async def test_a_write_holds_its_external_id_until_it_ends(record: Record) -> None:
    bot, other, token = await record.bot(), await record.bot(), uuid4()
    first = write(bot)
    assert await state(record, bot) == (None, False)
    await record.transactions.begin([first], token, HOUR)
    assert await state(record, bot) == (None, True)
    beside = [write(bot, None), write(bot, "other"), write(other)]
    with pytest.raises(ExternalIdsHeld) as held:
        await record.transactions.begin([beside[0], write(bot)], uuid4(), HOUR)
    assert held.value.ids == {(bot.bot_id, ID)}
    await record.written(*beside)
    await record.transactions.finish([first], token)
    assert await state(record, bot) == (first.doc_id, False)
    assert await state(record, other) == (beside[2].doc_id, False)
    assert first.doc_id is not None
    found = await record.documents.get(bot.bot_id, first.doc_id)
    assert found is not None
    assert found[0].external_id == ID


async def test_an_undone_write_lets_its_external_id_go(record: Record) -> None:
    bot, token = await record.bot(), uuid4()
    first, second = write(bot), write(bot)
    await record.transactions.begin([first], token, HOUR)
    assert await record.writes.compensate(bot.bot_id, [first.generation], token) == {first.generation}
    await record.transactions.begin([second], uuid4(), PAST)
    assert await record.writes.compensate_expired() == 1
    assert await state(record, bot) == (None, False)
    await record.written(write(bot))


async def test_t1_finds_that_a_document_came_or_went_since(record: Record) -> None:
    bot = await record.bot()
    stored = write(bot)
    await record.written(stored)
    assert stored.doc_id is not None
    with pytest.raises(ExternalIdsHeld):
        await record.transactions.begin([write(bot)], uuid4(), HOUR)
    replacing = write(bot, doc_id=stored.doc_id)
    await record.written(replacing)
    assert (replacing.outcome.result, replacing.outcome.replaced_chunks) == ("replaced", 1)
    await record.documents.delete(bot.bot_id, [stored.doc_id])
    with pytest.raises(ExternalIdsHeld):
        await record.transactions.begin([write(bot, doc_id=stored.doc_id)], uuid4(), HOUR)
    assert await state(record, bot) == (None, False)
    await record.written(write(bot))


async def test_a_replacement_without_the_external_id_keeps_it(record: Record) -> None:
    bot, token = await record.bot(), uuid4()
    stored = write(bot)
    await record.written(stored)
    slower = write(bot, doc_id=stored.doc_id)
    await record.transactions.begin([slower], token, HOUR)
    await record.written(write(bot, None, stored.doc_id))
    await record.transactions.finish([slower], token)
    assert error(slower) is DocumentChanged
    assert await state(record, bot) == (stored.doc_id, True)  # Until it is compensated.
    await record.writes.compensate(bot.bot_id, [slower.generation], token)
    assert await state(record, bot) == (stored.doc_id, False)


async def test_a_restarted_write_holds_it_further(record: Record) -> None:
    bot, token = await record.bot(), uuid4()
    first = write(bot)
    await record.transactions.begin([first], token, HOUR)
    await record.transactions.restart([first], {bot.bot_id: bot}, token, HOUR)
    assert first.error is None
    with pytest.raises(ExternalIdsHeld):
        await record.transactions.begin([write(bot)], uuid4(), HOUR)
    await record.transactions.finish([first], token)
    assert await state(record, bot) == (first.doc_id, False)


async def test_an_answer_without_a_write_is_remembered(record: Record) -> None:
    bot, token = await record.bot(), uuid4()
    keys = record.keys(HOUR)
    key = IdempotencyKey("a", "k", b"1" * 32)
    assert await keys.remember(key, b"first") == b"first"
    assert await keys.remember(key, b"second") == b"first"
    assert await keys.find_answer(key) == b"first"
    other = IdempotencyKey("a", "other", b"1" * 32)
    await record.writes.begin([write(bot).to_row()], token, HOUR, other)
    with pytest.raises(RequestInFlight):
        await keys.remember(other, b"x")
