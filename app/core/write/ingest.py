"""Inserts and replaces documents."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import groupby
from random import Random
from uuid import UUID

from msgspec.structs import replace

from app.core.bots.bot_cache import BoundedCache
from app.core.bots.bots import Bots
from app.core.ports import DocumentPort, IdempotencyPort, StreamPort
from app.core.write.carrying import same_texts
from app.core.write.chunk_edits import ChunkEdit, rewrite
from app.core.write.idempotency import IdempotentRequest
from app.core.write.recorded import LinesRequest
from app.core.write.saga import Saga
from app.core.write.upsert import Entry, ExternalId, OnConflict, Pauses, Upsert
from app.core.write.write import Outcome, Write
from app.schemas.rows import Bot, Document, NewDocument
from app.schemas.stream_rows import LineResults
from app.schemas.versions import Precondition
from app.utils.errors import (
    AppError,
    BotNotFound,
    DocumentChanged,
    DocumentNotFound,
    ErrorLocation,
    ExternalIdsHeld,
    InvalidInput,
    QuotaExceeded,
    Unavailable,
)
from app.utils.stopwatch import Stopwatch


class Ingest:
    """With ``request`` a method takes effect once for its key. If ``request.answer`` is set afterwards, it is the
    answer to send, whatever the method returns. Raises IdempotencyKeyReused, RequestInFlight.
    """

    def __init__(
        self,
        bots: Bots,
        documents: DocumentPort,
        saga: Saga,
        idempotency: IdempotencyPort,
        streams: StreamPort,
        *,
        patience: float,
        random: Random | None = None,
    ) -> None:
        """``patience``: seconds for which a request waits for other writes of its external ids."""
        self._patience = patience
        self._random = random or Random()  # noqa: S311 # for the length of a pause
        self._bots = bots
        self._documents = documents
        self._saga = saga
        self._idempotency = idempotency
        self._streams = streams
        self._known = BoundedCache[tuple[UUID, str | None], Bot]()

    async def insert(
        self,
        bot_id: UUID,
        account: str | None,
        document: NewDocument,
        timings: Stopwatch,
        request: IdempotentRequest | None = None,
        on_conflict: OnConflict = "error",
        precondition: Precondition | None = None,
    ) -> list[Outcome]:
        """Stores one document. Raises the error because of which it is not stored.

        ``precondition``: on the document that has its ``external_id`` so far. Raises PreconditionFailed.
        """
        if await self._answered(request, account):
            return []
        upsert = Upsert(self._documents, on_conflict, single=True, precondition=precondition)
        outcomes = await self._insert(account, [(bot_id, document)], timings, request, upsert)
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
        precondition: Precondition | None = None,
    ) -> list[Outcome]:
        """Replaces a document's metadata and chunks, in one step for every reader. Embeds only texts that it has not.

        Raises DocumentNotFound, DocumentChanged when another request replaced or deleted it first, PreconditionFailed
        (also in that case, if it then does not hold) and any other error of the write.
        """
        if await self._answered(request, account):
            return []
        bot = await self._bots.usable(bot_id, account)
        with timings.measure("postgres"):
            found = await self._documents.stored(bot_id, [doc_id])
        if precondition and found:
            precondition.check(found[0].document.version)
        if document.external_id is not None:
            document = _with_external_id_of(found[0].document if found else None, document)
        stored = same_texts(bot.milvus_collection, found[0] if found else None, document)
        write = Write(bot, document, doc_id, stored=stored, precondition=precondition)
        outcomes = await self._run([write], timings, request)
        if write.error:
            raise write.error
        return outcomes

    async def edit_chunks(
        self,
        bot_id: UUID,
        account: str | None,
        doc_id: int,
        edit: ChunkEdit,
        timings: Stopwatch,
        request: IdempotentRequest | None = None,
        precondition: Precondition | None = None,
    ) -> list[Outcome]:
        """Changes chunks of a document, in one step for every reader. Its other fields stay. Embeds only a new text.

        Raises DocumentNotFound, DocumentChanged and PreconditionFailed as ``replace``, what ``edit`` raises, and any
        other error of the write.
        """
        if await self._answered(request, account):
            return []
        bot = await self._bots.usable(bot_id, account)
        with timings.measure("postgres"):
            found = await self._documents.get(bot_id, doc_id)
        if found is None:
            raise DocumentNotFound(f"This bot has no document {doc_id}.")
        if precondition:
            precondition.check(found[0].version)
        write = rewrite(bot, *found, edit, precondition=precondition)
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
        on_conflict: OnConflict = "error",
    ) -> list[Outcome]:
        """Stores each document, or nothing of it; returns outcomes in the order of ``documents``.

        An error in ``documents`` is the outcome of its document. When no document is stored, and all for the same
        reason, raises that error.
        """
        outcomes = await self.insert_each(account, documents, timings, request, on_conflict)
        _raise_common_error(outcomes)
        return outcomes

    async def insert_each(
        self,
        account: str | None,
        documents: Sequence[Entry],
        timings: Stopwatch,
        request: IdempotentRequest | None = None,
        on_conflict: OnConflict = "error",
        *,
        unnamed: bool = False,
    ) -> list[Outcome]:
        """As ``insert_many``, but an error that all documents have is the outcome of each.

        ``unnamed``: documents without an external_id are new documents, whatever ``on_conflict`` is.
        """
        if await self._answered(request, account):
            return []
        upsert = Upsert(self._documents, on_conflict, unnamed=unnamed)
        return await self._insert(account, documents, timings, request, upsert)

    async def insert_lines(
        self,
        account: str | None,
        documents: Sequence[Entry],
        timings: Stopwatch,
        request: LinesRequest,
        on_conflict: OnConflict = "error",
        *,
        unnamed: bool = False,
    ) -> LineResults:
        """As ``insert_each``, for lines of a part, which are all of its bot; stores their results too, and returns
        them.

        Raises, with nothing stored, the errors of ``Bots.usable``, PartInProgress, and the error of a document that a
        later attempt may not have.
        """
        bot_id = request.key.name.bot_id
        await self._bots.usable(bot_id, account)
        await self._insert(account, documents, timings, request, Upsert(self._documents, on_conflict, unnamed=unnamed))
        if request.results is None:  # No document was written.
            await self._streams.advance(request.to_row(), request.set_answer())
        assert request.results is not None
        return request.results

    async def _insert(
        self,
        account: str | None,
        documents: Sequence[Entry],
        timings: Stopwatch,
        request: IdempotentRequest | LinesRequest | None,
        upsert: Upsert,
    ) -> list[Outcome]:
        """Uses cached rows of bots first. Where T1 finds a bot changed, reads its row and tries its documents again."""
        if upsert.concerns(documents):
            return await self._upsert(upsert, account, documents, timings, request)
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

    async def _upsert(
        self,
        upsert: Upsert,
        account: str | None,
        documents: Sequence[Entry],
        timings: Stopwatch,
        request: IdempotentRequest | LinesRequest | None,
    ) -> list[Outcome]:
        """Waits for other writes of the same external ids. Each round begins every write of the request, or none."""
        bots = await self._read_bots(account, _bots(documents))
        pauses, given_up = Pauses(self._patience, self._random), set[ExternalId]()
        while True:
            with timings.measure("postgres"):
                slots = await upsert.plan(bots, documents, pauses.over, given_up)
            if slots is not None:
                if isinstance(request, LinesRequest):  # Nothing is embedded for a batch that would be undone.
                    request.check(slot for slot in slots if isinstance(slot, Outcome))
                try:
                    outcomes = await self._run(slots, timings, request)
                    # A write by doc_id holds no external_id, and may have ended first.
                    if not upsert.single or pauses.over or not isinstance(outcomes[0].error, DocumentChanged):
                        return outcomes
                except ExternalIdsHeld as exc:
                    if pauses.over:
                        given_up |= exc.ids
            await pauses.wait()

    async def _read_bots(self, account: str | None, wanted: Collection[UUID]) -> dict[UUID, Bot | AppError]:
        return await self._bots.usable_many(list(wanted), account) if wanted else {}

    async def _insert_into(
        self,
        bots: Mapping[UUID, Bot | AppError],
        account: str | None,
        documents: Sequence[Entry],
        timings: Stopwatch,
        request: IdempotentRequest | LinesRequest | None,
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
        self,
        slots: Sequence[Outcome | Write],
        timings: Stopwatch,
        request: IdempotentRequest | LinesRequest | None,
    ) -> list[Outcome]:
        def outcomes() -> list[Outcome]:
            return [slot.outcome if isinstance(slot, Write) else slot for slot in slots]

        if request:
            request.outcomes = outcomes
        if writes := [slot for slot in slots if isinstance(slot, Write)]:
            await self._saga.run(writes, timings, request)
        elif isinstance(request, IdempotentRequest) and any(outcome.error is None for outcome in outcomes()):
            answer = request.set_answer()
            stored = await self._idempotency.remember(request.to_row(), answer)
            if stored != answer:
                request.set_replay(stored)
        return outcomes()


def _with_external_id_of(stored: Document | None, document: NewDocument) -> NewDocument:
    """The new document as one whose external_id stays. Raises InvalidInput if it has another one."""
    if stored and document.external_id != stored.external_id:
        detail = "The external_id of a document cannot be changed."
        raise InvalidInput(detail, locations=[ErrorLocation("body.document.external_id", detail)])
    return replace(document, external_id=None)


def _bots(documents: Iterable[Entry]) -> set[UUID]:
    return {entry[0] for entry in documents if isinstance(entry, tuple)}


def _raise_common_error(outcomes: Sequence[Outcome]) -> None:
    errors = [outcome.error for outcome in outcomes if outcome.error]
    if not errors or len(errors) < len(outcomes):
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
    if isinstance(first, Unavailable | QuotaExceeded):
        raise first
    if first.status == 404:
        first.locations = tuple(
            ErrorLocation(f"body.documents.{number}.document.chat_bot_id", error.detail)
            for number, error in enumerate(errors)
        )
        raise first
