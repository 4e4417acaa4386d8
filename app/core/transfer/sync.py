"""Makes a bot's documents equal to those of a client, which the client sends in one session.

A session knows which documents the bot had when it began. Each batch names those that the client has, and stores what
is new or changed. Only the end of the session deletes what the client has not named, so that a client that dies deletes
nothing. Documents without an external_id, and those that others have stored since the session began, are left alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar
from uuid import UUID, uuid4

from app.core.bots.bots import Bots
from app.core.ports import DocumentPort, SyncPort
from app.core.write.ingest import Ingest
from app.core.write.recovery import Recovery
from app.core.write.upsert import Entry, OnConflict, Upsert
from app.core.write.write import Outcome, Write, WriteResult
from app.utils.errors import AppError, SyncIncomplete, SyncInProgress, SyncNotFound
from app.utils.failpoints import failpoint
from app.utils.stopwatch import Stopwatch

T = TypeVar("T")
LEASE = timedelta(seconds=60)
"""After this time without a call another session may begin. This one goes on if none has."""
PART = 200
"""Documents that one transaction deletes."""
ON_CONFLICT: OnConflict = "replace_if_changed"


@dataclass(frozen=True, slots=True)
class SyncEnd:
    """What the end of a session deleted."""

    documents: int = 0
    chunks: int = 0


class Sync:
    """All methods raise BotNotFound; those of a session SyncNotFound when it was ended, or another one has begun."""

    def __init__(
        self, bots: Bots, store: SyncPort, documents: DocumentPort, ingest: Ingest, recovery: Recovery, part: int = PART
    ) -> None:
        self._bots = bots
        self._store = store
        self._documents = documents
        self._ingest = ingest
        self._recovery = recovery
        self._part = part

    async def start(self, bot_id: UUID, account: str | None) -> UUID:
        """Begins a session and returns its id. Raises SyncInProgress while the lease of another one lasts."""
        await self._bots.usable(bot_id, account)
        session_id = uuid4()
        if not await self._store.begin(bot_id, session_id, LEASE):
            seconds = int(LEASE.total_seconds())
            detail = f"Another session synchronizes this bot, or did until {seconds} seconds ago."
            raise SyncInProgress(detail, retry_after=5)
        return session_id

    async def batch(
        self, bot_id: UUID, account: str | None, session_id: UUID, documents: Sequence[Entry], timings: Stopwatch
    ) -> list[Outcome]:
        """Stores those of the documents that are new or changed; as ``Ingest.insert_many`` with ``replace_if_changed``.

        Each must have an external_id. The session deletes none that was named, whether it could be stored or not.
        """
        await self._bots.get(bot_id, account)
        await self._found(bot_id, session_id, documents)
        await failpoint("sync.after_found")
        return await self._ingest.insert_many(account, documents, timings, None, ON_CONFLICT)

    async def finish(self, bot_id: UUID, account: str | None, session_id: UUID, *, delete_missing: bool) -> SyncEnd:
        """Ends the session. With ``delete_missing`` it first deletes, in parts, the documents that were not named.

        Raises SyncIncomplete, with nothing deleted, when a document that was sent could not be read: it may be one of
        the bot's. After any other error the call can be repeated.
        """
        await self._bots.get(bot_id, account)
        chunks: dict[int, int] = {}
        if delete_missing:
            if _known(await self._store.is_incomplete(bot_id, session_id, LEASE)):
                raise SyncIncomplete("A document that was sent is not valid, so that nothing is deleted as missing.")
            left = True
            while left:
                await failpoint("sync.before_delete")
                part = _known(await self._store.delete_missing(bot_id, session_id, self._part, LEASE))
                await failpoint("sync.after_delete")
                chunks |= part.chunks
                left = part.left
        if chunks:
            self._recovery.wake()
        _known(await self._store.end(bot_id, session_id) or None)
        return SyncEnd(len(chunks), sum(chunks.values()))

    async def cancel(self, bot_id: UUID, account: str | None, session_id: UUID) -> None:
        """Ends the session and deletes nothing. What its batches have stored stays."""
        await self.finish(bot_id, account, session_id, delete_missing=False)

    async def missing(self, bot_id: UUID, account: str | None, session_id: UUID) -> int:
        """How many documents the end of the session would delete."""
        await self._bots.get(bot_id, account)
        return _known(await self._store.count_missing(bot_id, session_id, LEASE))

    async def plan(
        self, bot_id: UUID, account: str | None, session_id: UUID, documents: Sequence[Entry]
    ) -> list[WriteResult | AppError]:
        """What ``batch`` would do with each document. Nothing is stored."""
        bot = await self._bots.usable(bot_id, account)
        await self._found(bot_id, session_id, documents)
        planned = await Upsert(self._documents, ON_CONFLICT).plan({bot_id: bot}, documents, True, set())
        return [_would_be(one) for one in planned or ()]

    async def _found(self, bot_id: UUID, session_id: UUID, documents: Sequence[Entry]) -> None:
        """Notes that the client has these documents. Raises SyncNotFound."""
        names = [one[1].external_id for one in documents if isinstance(one, tuple) and one[1].external_id]
        incomplete = len(names) < len(documents)
        _known(await self._store.found(bot_id, session_id, names, LEASE, incomplete=incomplete))


def _would_be(planned: Outcome | Write) -> WriteResult | AppError:
    if isinstance(planned, Write):
        return "created" if planned.doc_id is None else "replaced"
    return planned.error or planned.result


def _known(answer: T | None) -> T:
    if answer is None:
        raise SyncNotFound("This session was ended, or another one has begun since its last call.")
    return answer
