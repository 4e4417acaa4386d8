"""Repairs what verify finds, while the server serves.

PostgreSQL is the record: vectors without a chunk are deleted, and chunks without a vector are written again by the saga
that writes a document. Text that PostgreSQL itself has lost cannot be restored; its document's row is corrected.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from uuid import UUID

from app.core.bots.bots import Bots
from app.core.operations.rebuild import OnProgress, Rebuilder
from app.core.operations.verify import Finding, Verifier
from app.core.ports import DocumentPort, VectorIndex, VerifyPort
from app.core.write.chunk_edits import rewrite
from app.core.write.recovery import Recovery
from app.core.write.saga import Saga
from app.core.write.write import Write
from app.schemas.rows import Bot, BotState
from app.utils.errors import BotNotFound, CollectionMoved, DocumentChanged
from app.utils.failpoints import failpoint
from app.utils.stopwatch import Stopwatch

BATCH_FINDINGS = 64
"""Findings of one kind that are repaired together."""

HIDES_OTHERS = ("partition_missing", "collection_missing", "index_rebuilding", "chunk_lost", "chunk_stray")
"""After the repair of one of these, verify may find more: contents that it could not read, vectors without a chunk."""

Repair = Callable[[Bot, Sequence[Finding]], Awaitable[None]]


class Repairer:
    def __init__(
        self,
        verifier: Verifier,
        store: VerifyPort,
        documents: DocumentPort,
        bots: Bots,
        saga: Saga,
        index: VectorIndex,
        recovery: Recovery,
        rebuilder: Rebuilder,
    ) -> None:
        self._verifier = verifier
        self._store = store
        self._documents = documents
        self._bots = bots
        self._saga = saga
        self._index = index
        self._recovery = recovery
        self._rebuilder = rebuilder
        self._repairs: dict[str, Repair] = {
            "partition_missing": self._make_partitions,
            "collection_missing": self._make_collection,
            "index_rebuilding": self._rebuild,
            "chunk_lost": self._recount,
            "chunk_stray": self._delete_stray_chunks,
            "vector_orphan": self._delete_vectors,
            "vector_lost": self._write_again,
            "vector_mismatch": self._write_again,
        }

    async def finish_abandoned_sagas(self) -> None:
        """Finishes or undoes the sagas that no process runs any more. Raises Unavailable."""
        await self._recovery.run_round()

    async def rebuild(self, bot_id: UUID, on_progress: OnProgress) -> None:
        """Returns when the bot has all vectors again that Milvus lost. Raises as ``Rebuilder.rebuild``."""
        await self._rebuilder.wait_until_rebuilt(bot_id, on_progress)

    async def repair_bot(self, bot_id: UUID) -> AsyncIterator[Finding]:
        """Yields each finding after its repair.

        Raises Unavailable when a store or the embedder does not answer, ModelMismatch, and the error of a document
        that could not be written again.
        """
        again = True
        while again:
            again = False
            for state in await self._store.bots(bot_id):
                async for repaired in self._repair_once(state):
                    again = again or repaired.kind in HIDES_OTHERS
                    yield repaired

    async def repair_found(self, bot_id: UUID, findings: AsyncIterator[Finding]) -> AsyncIterator[Finding]:
        """As ``repair_bot``, for the findings of another check, all of one kind."""
        batch: list[Finding] = []
        async for finding in findings:
            batch.append(finding)
            if len(batch) == BATCH_FINDINGS:
                async for repaired in self._repair(bot_id, batch):
                    yield repaired
                batch = []
        if batch:
            async for repaired in self._repair(bot_id, batch):
                yield repaired

    async def _repair_once(self, state: BotState) -> AsyncIterator[Finding]:
        waiting: dict[str, list[Finding]] = {}
        async for finding in self._verifier.check_bot(state):
            batch = waiting.setdefault(finding.kind, [])
            batch.append(finding)
            if len(batch) == BATCH_FINDINGS:
                async for repaired in self._repair(state.bot_id, waiting.pop(finding.kind)):
                    yield repaired
        for batch in waiting.values():
            async for repaired in self._repair(state.bot_id, batch):
                yield repaired

    async def _repair(self, bot_id: UUID, findings: Sequence[Finding]) -> AsyncIterator[Finding]:
        try:
            bot = await self._bots.get(bot_id, None)
        except BotNotFound:
            return  # It was deleted meanwhile.
        await failpoint("repair.before")
        await self._repairs[findings[0].kind](bot, findings)
        await failpoint("repair.after")
        for finding in findings:
            yield finding

    async def _make_partitions(self, bot: Bot, _: Sequence[Finding]) -> None:
        await self._store.make_partitions(bot.bot_id)

    async def _make_collection(self, bot: Bot, _: Sequence[Finding]) -> None:
        with suppress(CollectionMoved):  # It had chunks; the bot has a new collection and is marked to be rebuilt.
            await self._bots.ensure_collection(bot)

    async def _rebuild(self, bot: Bot, _: Sequence[Finding]) -> None:
        await self._rebuilder.wait_until_rebuilt(bot.bot_id)

    async def _recount(self, bot: Bot, findings: Sequence[Finding]) -> None:
        await self._store.recount_chunks(bot.bot_id, [finding.doc_id for finding in findings if finding.doc_id])

    async def _delete_stray_chunks(self, bot: Bot, findings: Sequence[Finding]) -> None:
        await self._store.drop_stray_chunks(bot.bot_id, _keys(findings))

    async def _delete_vectors(self, bot: Bot, findings: Sequence[Finding]) -> None:
        # By key: an orphan may have a current generation. No write of it is in flight, because verify saw neither its
        # chunk nor its generation in vector_gc.
        await self._index.delete(bot.milvus_collection, _keys(findings))

    async def _write_again(self, bot: Bot, findings: Sequence[Finding]) -> None:
        """Through the saga, so that a crash in the middle, or a PUT or DELETE at the same time, does no harm."""
        bot = await self._bots.usable(bot.bot_id, None)
        writes: list[Write] = []
        for doc_id in dict.fromkeys(finding.doc_id for finding in findings if finding.doc_id):
            found = await self._documents.get(bot.bot_id, doc_id)
            if found is not None and found[1]:
                writes.append(rewrite(bot, *found, carry=False))  # A stored vector may be what is wrong.
        if writes:
            await self._saga.run(writes, Stopwatch())
        for write in writes:
            if write.error and not isinstance(write.error, DocumentChanged):
                raise write.error


def _keys(findings: Sequence[Finding]) -> list[int]:
    return [finding.key for finding in findings if finding.key is not None]
