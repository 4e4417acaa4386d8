"""T1 and T2 of a batch of writes.

The record takes rows and answers with results. Which writes of the batch fail, and with which error, is decided here.
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from uuid import UUID

from app.core.ports import BeginResult, FinishResult, Refusal, SharedVectors, StoredAnswer, WriteFailure, WritePort
from app.core.write.recorded import RecordedRequest
from app.core.write.write import Write
from app.schemas.quotas import QuotaShortfall
from app.schemas.rows import Bot, WriteRow
from app.schemas.versions import DocumentVersion
from app.utils.errors import (
    AppError,
    BotNotFound,
    DocumentChanged,
    DocumentNotFound,
    LeaseLost,
    PreconditionFailed,
    QuotaExceeded,
)

CHANGED = "The document was changed or deleted while this request ran. Nothing of the request is stored."
LEASE_LOST = "The write took longer than its lease and was undone. Nothing of it is stored."


class WriteTransactions:
    """Each method is one transaction of ``WritePort``, which says what it does and raises, and sets its results on the
    writes and on the request. ``token`` and ``lease`` are those of the writes' sagas."""

    def __init__(self, store: WritePort) -> None:
        self._store = store

    async def begin(
        self, writes: Sequence[Write], token: UUID, lease: timedelta, request: RecordedRequest | None = None
    ) -> None:
        """T1. Sets generations, or errors; for an answered ``request`` its stored answer, and begins no write."""
        key = request.to_row() if request else None
        result = await self._store.begin([write.to_row() for write in writes], token, lease, key)
        if request and result.answer is not None:
            request.set_replay(result.answer)
            return
        for write, begun in zip(writes, result.writes, strict=True):
            if not isinstance(begun, WriteRow):
                write.fail(_error(begun, write))
            else:
                write.set_previous(begun.previous_generation)
                write.assign_generation(begun.generation)
        _set_generation(request, result)

    async def restart(
        self,
        writes: Sequence[Write],
        bots: Mapping[UUID, Bot],
        token: UUID,
        lease: timedelta,
        request: RecordedRequest | None = None,
    ) -> None:
        """T1 again, for writes whose bots have moved. ``bots``: these bots as they are now."""
        key = request.to_row() if request else None
        collections = {bot_id: bot.milvus_collection for bot_id, bot in bots.items()}
        result = await self._store.restart([write.to_row() for write in writes], collections, token, lease, key)
        for write, begun in zip(writes, result.writes, strict=True):
            if not isinstance(begun, WriteRow):
                write.fail(_error(begun, write))
            else:
                write.restart(begun.generation, bots[begun.bot_id])
        _set_generation(request, result)

    async def finish(
        self,
        writes: Sequence[Write],
        token: UUID,
        request: RecordedRequest | None = None,
        timestamps: Mapping[UUID, int] | None = None,
        shared: SharedVectors | None = None,
    ) -> None:
        """T2. Sets errors and numbers of replaced chunks, or which writes have to be restarted first."""
        rows = [write.to_row() for write in writes]
        if request is None:
            _apply(await self._store.finish(rows, token, timestamps or {}, shared=shared), writes)
            return

        def answer(result: FinishResult) -> StoredAnswer:
            _apply(result, writes)  # Before the commit: the answer tells the outcome of every write.
            return request.set_answer()

        _apply(await self._store.finish(rows, token, timestamps or {}, request.to_row(), answer, shared), writes)


def _apply(result: FinishResult, writes: Sequence[Write]) -> None:
    """Applying a result twice changes nothing."""
    for write in writes:
        if failure := result.failed.get(write.generation):
            write.fail(_error(failure, write, result.versions.get(write.generation)))
        write.moved = write.generation in result.moved
        write.replaced, write.version = result.replaced.get(write.generation), result.versions.get(write.generation)


def _set_generation(request: RecordedRequest | None, result: BeginResult) -> None:
    if request and result.key_generation is not None:
        request.generation = result.key_generation


def _error(failure: Refusal, write: Write, version: DocumentVersion | None = None) -> AppError:
    """``version``: the document's present one, where its precondition failed."""
    match failure:
        case QuotaShortfall():
            return QuotaExceeded(*failure)
        case WriteFailure.BOT_NOT_FOUND:
            return BotNotFound()
        case WriteFailure.DOCUMENT_NOT_FOUND:
            return DocumentNotFound(f"This bot has no document {write.doc_id}.")
        case WriteFailure.DOCUMENT_CHANGED:
            return DocumentChanged(f"Document {write.doc_id} was replaced or deleted while this request ran.")
        case WriteFailure.PRECONDITION_FAILED:
            return PreconditionFailed(CHANGED, etag=version.etag if version else None)
        case WriteFailure.LEASE_LOST:
            return LeaseLost(LEASE_LOST)
