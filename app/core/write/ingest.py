"""Inserts and replaces documents."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import groupby
from uuid import UUID

from app.core.bots.bot_cache import BoundedCache
from app.core.bots.bots import Bots
from app.core.ports import IdempotencyPort
from app.core.write.idempotency import IdempotentRequest
from app.core.write.saga import Saga
from app.core.write.write import Outcome, Write
from app.schemas.rows import Bot, NewDocument
from app.utils.errors import AppError, BotNotFound, ErrorLocation, Unavailable
from app.utils.stopwatch import Stopwatch

Entry = tuple[UUID, NewDocument] | AppError


class Ingest:
    """With ``request`` a method takes effect once for its key. If ``request.answer`` is set afterwards, it is the
    answer to send, whatever the method returns. Raises IdempotencyKeyReused, RequestInFlight.
    """

    def __init__(self, bots: Bots, saga: Saga, idempotency: IdempotencyPort) -> None:
        self._bots = bots
        self._saga = saga
        self._idempotency = idempotency
        self._known = BoundedCache[tuple[UUID, str | None], Bot]()

    async def insert(
        self,
        bot_id: UUID,
        account: str | None,
        document: NewDocument,
        timings: Stopwatch,
        request: IdempotentRequest | None = None,
    ) -> list[Outcome]:
        """Stores one document. Raises the error because of which it is not stored."""
        if await self._answered(request, account):
            return []
        outcomes = await self._insert(account, [(bot_id, document)], timings, request)
        if error := outcomes[0].error:
            raise error
        return outcomes

    async def replace(
        self,
        bot_id: UUID,
        account: str | None,
        doc_id: int,
        document: NewDocument,
        timings: Stopwatch,
        request: IdempotentRequest | None = None,
    ) -> list[Outcome]:
        """Replaces a document's metadata and chunks, in one step for every reader.

        Raises DocumentNotFound, DocumentChanged when another request replaced or deleted it first, and any other error
        of the write.
        """
        if await self._answered(request, account):
            return []
        write = Write(await self._bots.usable(bot_id, account), document, doc_id)
        outcomes = await self._run([write], timings, request)
        if write.error:
            raise write.error
        return outcomes

    async def insert_many(
        self,
        account: str | None,
        documents: Sequence[Entry],
        timings: Stopwatch,
        request: IdempotentRequest | None = None,
    ) -> list[Outcome]:
        """Stores each document, or nothing of it; returns outcomes in the order of ``documents``.

        An error in ``documents`` is the outcome of its document. When no document is stored, and all for the same
        reason, raises that error.
        """
        if await self._answered(request, account):
            return []
        outcomes = await self._insert(account, documents, timings, request)
        _raise_common_error(outcomes)
        return outcomes

    async def _insert(
        self, account: str | None, documents: Sequence[Entry], timings: Stopwatch, request: IdempotentRequest | None
    ) -> list[Outcome]:
        """Uses cached rows of bots first. Where T1 finds a bot changed, reads its row and tries its documents again."""
        wanted = _bots(documents)
        if request:  # Only one T1 may claim the key.
            return await self._insert_into(await self._read_bots(account, wanted), account, documents, timings, request)
        known = {bot_id: bot for bot_id in wanted if (bot := self._known.get((bot_id, account)))}
        bots = {**known, **await self._read_bots(account, wanted - known.keys())}
        outcomes = await self._insert_into(bots, account, documents, timings, None)
        again = [
            number
            for number, (entry, outcome) in enumerate(zip(documents, outcomes, strict=True))
            if isinstance(outcome.error, BotNotFound) and isinstance(entry, tuple) and entry[0] in known
        ]
        if again:
            part = [documents[number] for number in again]
            bots = await self._read_bots(account, _bots(part))
            redone = await self._insert_into(bots, account, part, timings, None)
            for number, outcome in zip(again, redone, strict=True):
                outcomes[number] = outcome
        return outcomes

    async def _read_bots(self, account: str | None, wanted: Collection[UUID]) -> dict[UUID, Bot | AppError]:
        return await self._bots.usable_many(list(wanted), account) if wanted else {}

    async def _insert_into(
        self,
        bots: Mapping[UUID, Bot | AppError],
        account: str | None,
        documents: Sequence[Entry],
        timings: Stopwatch,
        request: IdempotentRequest | None,
    ) -> list[Outcome]:
        slots: list[Outcome | Write] = []
        for entry in documents:
            if isinstance(entry, AppError):
                slots.append(Outcome(None, entry))
                continue
            bot_id, document = entry
            bot = bots[bot_id]
            slots.append(Outcome(None, bot) if isinstance(bot, AppError) else Write(bot, document))
        outcomes = await self._run(slots, timings, request)
        for bot, same in groupby((slot for slot in slots if isinstance(slot, Write)), key=lambda write: write.bot):
            key = (bot.bot_id, account)
            if any(isinstance(write.error, BotNotFound) for write in same):
                self._known.forget(key)
            elif self._known.get(key) is not bot:
                self._known.put(key, bot)
        return outcomes

    async def _answered(self, request: IdempotentRequest | None, account: str | None) -> bool:
        """Whether the request was answered before. Checked before the bot is read, which may not exist any more."""
        if request is None:
            return False
        request.account = account or ""
        answer = await self._idempotency.find_answer(request.to_row())
        if answer is not None:
            request.set_replay(answer)
        return request.replayed

    async def _run(
        self, slots: Sequence[Outcome | Write], timings: Stopwatch, request: IdempotentRequest | None
    ) -> list[Outcome]:
        def outcomes() -> list[Outcome]:
            return [slot.outcome if isinstance(slot, Write) else slot for slot in slots]

        if request:
            request.outcomes = outcomes
        if writes := [slot for slot in slots if isinstance(slot, Write)]:
            await self._saga.run(writes, timings, request)
        return outcomes()


def _bots(documents: Iterable[Entry]) -> set[UUID]:
    return {entry[0] for entry in documents if isinstance(entry, tuple)}


def _raise_common_error(outcomes: Sequence[Outcome]) -> None:
    errors = [outcome.error for outcome in outcomes if outcome.error]
    if len(errors) < len(outcomes):
        return
    first = errors[0]
    if all(error.status == 422 for error in errors):
        first.locations = tuple(
            location
            for number, error in enumerate(errors)
            for location in error.locations or (ErrorLocation(f"body.documents.{number}", error.detail),)
        )
        raise first
    if len({type(error) for error in errors}) > 1:
        return
    if isinstance(first, Unavailable):
        raise first
    if first.status == 404:
        first.locations = tuple(
            ErrorLocation(f"body.documents.{number}.document.chat_bot_id", error.detail)
            for number, error in enumerate(errors)
        )
        raise first
