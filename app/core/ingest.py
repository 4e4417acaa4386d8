"""Inserting and replacing documents."""

from collections.abc import Sequence
from uuid import UUID

from app.core.bots import Bots
from app.core.once import Once
from app.core.saga import Saga
from app.core.stores.ports import OncePort
from app.core.write import Outcome, Write
from app.schemas.rows import NewDocument
from app.utils.clock import Stopwatch
from app.utils.errors import AppError, Place, Unavailable


class Ingest:
    """With ``once``, each method takes effect once for its key; then ``once.answer`` is what is to be sent, and only
    without it the returned outcomes count. Raises IdempotencyKeyReused, RequestInFlight.
    """

    def __init__(self, bots: Bots, saga: Saga, keys: OncePort) -> None:
        self._bots = bots
        self._saga = saga
        self._keys = keys

    async def insert(
        self, bot_id: UUID, account: str | None, document: NewDocument, watch: Stopwatch, once: Once | None = None
    ) -> list[Outcome]:
        """Stores one document. Raises what undid it."""
        if await self._answered(once, account):
            return []
        return await self._run_one(Write(await self._bots.usable(bot_id, account), document), watch, once)

    async def replace(
        self,
        bot_id: UUID,
        account: str | None,
        doc_id: int,
        document: NewDocument,
        watch: Stopwatch,
        once: Once | None = None,
    ) -> list[Outcome]:
        """Replaces a document's metadata and chunks at one stroke for every reader.

        Raises DocumentNotFound, DocumentChanged when another request was quicker, or what undid the write.
        """
        if await self._answered(once, account):
            return []
        return await self._run_one(Write(await self._bots.usable(bot_id, account), document, doc_id), watch, once)

    async def insert_many(
        self,
        account: str | None,
        documents: Sequence[tuple[UUID, NewDocument]],
        watch: Stopwatch,
        once: Once | None = None,
    ) -> list[Outcome]:
        """Stores each document or undoes it alone; outcomes in the order of ``documents``.

        When none could be stored and all for the same reason, raises that reason.
        """
        if await self._answered(once, account):
            return []
        bots = await self._bots.usable_many(list({bot_id for bot_id, _ in documents}), account)
        slots: list[Outcome | Write] = []
        for bot_id, document in documents:
            bot = bots[bot_id]
            if isinstance(bot, AppError):
                slots.append(Outcome(None, bot))
            elif isinstance(bot, Exception):
                raise bot
            else:
                slots.append(Write(bot, document))
        outcomes = await self._run(slots, watch, once)
        _raise_common_error(outcomes)
        return outcomes

    async def _answered(self, once: Once | None, account: str | None) -> bool:
        """Whether the answer is known before anything is looked up: the bot may be gone by now."""
        if once is None:
            return False
        once.account = account or ""
        await self._keys.replay(once)
        return once.replayed

    async def _run_one(self, write: Write, watch: Stopwatch, once: Once | None) -> list[Outcome]:
        outcomes = await self._run([write], watch, once)
        if write.error:
            raise write.error
        return outcomes

    async def _run(self, slots: Sequence[Outcome | Write], watch: Stopwatch, once: Once | None) -> list[Outcome]:
        def outcomes() -> list[Outcome]:
            return [slot.outcome if isinstance(slot, Write) else slot for slot in slots]

        if once:
            once.outcomes = outcomes
        if writes := [slot for slot in slots if isinstance(slot, Write)]:
            await self._saga.run(writes, watch, once)
        return outcomes()


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
