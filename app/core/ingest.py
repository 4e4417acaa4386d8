"""Inserting and replacing documents."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from app.core.bots import Bots
from app.core.saga import Saga
from app.core.write import Write
from app.schemas.rows import NewDocument
from app.utils.clock import Stopwatch
from app.utils.errors import AppError, Place, Unavailable


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one document: its doc_id, or the error that undid it."""

    doc_id: int | None
    error: AppError | None = None


class Ingest:
    def __init__(self, bots: Bots, saga: Saga) -> None:
        self._bots = bots
        self._saga = saga

    async def insert(self, bot_id: UUID, account: str | None, document: NewDocument, watch: Stopwatch) -> int:
        """Stores one document and returns its doc_id. Raises what undid it."""
        write = await self._run_one(Write(await self._bots.usable(bot_id, account), document), watch)
        assert write.doc_id is not None
        return write.doc_id

    async def replace(
        self, bot_id: UUID, account: str | None, doc_id: int, document: NewDocument, watch: Stopwatch
    ) -> int:
        """Replaces a document's metadata and chunks at one stroke for every reader; how many chunks went.

        Raises DocumentNotFound, DocumentChanged when another request was quicker, or what undid the write.
        """
        write = await self._run_one(Write(await self._bots.usable(bot_id, account), document, doc_id), watch)
        return write.replaced_chunks

    async def insert_many(
        self, account: str | None, documents: Sequence[tuple[UUID, NewDocument]], watch: Stopwatch
    ) -> list[Outcome]:
        """Stores each document or undoes it alone; outcomes in the order of ``documents``.

        When none could be stored and all for the same reason, raises that reason.
        """
        bots = await self._bots.usable_many(list({bot_id for bot_id, _ in documents}), account)
        outcomes: list[Outcome | Write] = []
        for bot_id, document in documents:
            bot = bots[bot_id]
            if isinstance(bot, AppError):
                outcomes.append(Outcome(None, bot))
            elif isinstance(bot, Exception):
                raise bot
            else:
                outcomes.append(Write(bot, document))
        writes = [outcome for outcome in outcomes if isinstance(outcome, Write)]
        if writes:
            await self._saga.run(writes, watch)
        results = [_outcome(outcome) if isinstance(outcome, Write) else outcome for outcome in outcomes]
        _raise_common_error(results)
        return results

    async def _run_one(self, write: Write, watch: Stopwatch) -> Write:
        await self._saga.run([write], watch)
        if write.error:
            raise write.error
        return write


def _outcome(write: Write) -> Outcome:
    return Outcome(None, write.error) if write.error else Outcome(write.doc_id)


def _raise_common_error(outcomes: Sequence[Outcome]) -> None:
    errors = [outcome.error for outcome in outcomes if outcome.error]
    if len(errors) < len(outcomes) or len({type(error) for error in errors}) > 1:
        return
    first = errors[0]
    if isinstance(first, Unavailable):
        raise first
    if first.status == 404:
        first.places = tuple(
            Place(f"body.documents.{number}.document.chat_bot_id", error.detail) for number, error in enumerate(errors)
        )
        raise first
