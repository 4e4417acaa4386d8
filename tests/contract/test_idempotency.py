"""What WritePort and IdempotencyPort promise about idempotency keys, in plain memory and in PostgreSQL."""

from uuid import UUID, uuid4

import pytest

from app.core.write.idempotency import IdempotentRequest
from app.core.write.write import Write
from app.schemas.rows import Bot
from app.utils.errors import IdempotencyKeyReused, LeaseLost, RequestInFlight
from tests.contract.records import HOUR, PAST, Record, document, error

TOKEN = uuid4()


def once(key: str = "k", body: bytes = b"1") -> IdempotentRequest:
    return IdempotentRequest(key, body, lambda outcomes: repr([outcome.doc_id for outcome in outcomes]).encode())


async def begun_once(record: Record, bot: Bot, request: IdempotentRequest, *, token: UUID = TOKEN) -> Write:
    write = Write(bot, document("a"))
    request.outcomes = lambda: [write.outcome]
    await record.transactions.begin([write], token, HOUR, request)
    return write


async def test_an_idempotency_key_is_answered_once(record: Record) -> None:
    bot, first, again = await record.bot(), once(), once()
    write = await begun_once(record, bot, first)
    with pytest.raises(RequestInFlight):
        await begun_once(record, bot, once())
    await record.transactions.finish([write], TOKEN, first)
    assert first.answer == b"[%d]" % (write.doc_id or 0)
    repeated = await begun_once(record, bot, again)
    assert (again.answer, again.replayed, repeated.generation) == (first.answer, True, 0)
    with pytest.raises(IdempotencyKeyReused):
        await begun_once(record, bot, once(body=b"2"))
    assert (await record.bots.counts(bot.bot_id)).documents == 1


async def test_an_idempotency_key_whose_request_was_undone_is_free(record: Record) -> None:
    bot, first, second = await record.bot(), once(), once()
    lost = await begun_once(record, bot, first)
    await record.writes.compensate(bot.bot_id, [lost.generation], TOKEN)
    taken = await begun_once(record, bot, second)
    await record.transactions.finish([lost], TOKEN, first)
    assert (error(lost), first.answer) == (LeaseLost, None)
    await record.transactions.finish([taken], TOKEN, second)
    assert (error(taken), second.answer) == (None, b"[%d]" % (taken.doc_id or 0))


async def test_old_idempotency_keys_are_swept(record: Record) -> None:
    bot, request = await record.bot(), once()
    write = await begun_once(record, bot, request)
    await record.keys(PAST).sweep()
    with pytest.raises(RequestInFlight):
        await begun_once(record, bot, once())
    await record.transactions.finish([write], TOKEN, request)
    await record.keys(HOUR).sweep()
    keys = record.keys(HOUR)
    assert await keys.find_answer(request.to_row()) == request.answer
    await record.keys(PAST).sweep()
    assert await keys.find_answer(request.to_row()) is None
