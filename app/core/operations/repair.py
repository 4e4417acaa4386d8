"""Mends what verify finds, while the server serves.

PostgreSQL is the record: vectors without a chunk go, chunks without a vector are written anew by the same saga
that writes a document. Text that PostgreSQL itself has lost cannot be restored; then its row is made to say so.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from uuid import UUID

from app.core.bots.bots import Bots
from app.core.operations.rebuild import Rebuilder, Tell
from app.core.operations.verify import Finding, Verifier
from app.core.ports import DocumentPort, VectorIndex, VerifyPort
from app.core.write.recovery import Recovery
from app.core.write.saga import Saga
from app.core.write.write import Write
from app.schemas.rows import CHUNKS_PER_GENERATION, Bot, BotState, Chunk, Document, NewChunk, NewDocument
from app.utils.errors import BotNotFound, CollectionMoved, DocumentChanged
from app.utils.failpoints import failpoint
from app.utils.stopwatch import Stopwatch

AT_ONCE = 64
"""Findings of one kind that are mended together."""

HIDES_OTHERS = ("partition_missing", "collection_missing", "index_rebuilding", "chunk_lost", "chunk_stray")
"""Mending these brings others to light: contents that could not be looked at, vectors that had a chunk until then."""

Mend = Callable[[Bot, Sequence[Finding]], Awaitable[None]]


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
        self._repairs: dict[str, Mend] = {
            "partition_missing": self._make_partitions,
            "collection_missing": self._make_collection,
            "index_rebuilding": self._rebuild,
            "chunk_lost": self._recount,
            "chunk_stray": self._drop_strays,
            "vector_orphan": self._drop_vectors,
            "vector_lost": self._write_anew,
            "vector_mismatch": self._write_anew,
        }

    async def finish_abandoned_sagas(self) -> None:
        """Ends the sagas that no process works on. Raises Unavailable."""
        await self._recovery.run_round()

    async def rebuild(self, bot_id: UUID, tell: Tell) -> None:
        """Returns when the bot has all vectors again that Milvus lost. Raises as Rebuilder's."""
        await self._rebuilder.rebuilt(bot_id, tell)

    async def repair_bot(self, bot_id: UUID) -> AsyncIterator[Finding]:
        """Yields what was found once it is mended.

        Raises Unavailable when a store or the embedder is away, ModelMismatch, and the error of a document that
        could not be written anew.
        """
        again = True
        while again:
            again = False
            for state in await self._store.bots():
                if state.bot_id == bot_id:
                    async for mended in self._repair_once(state):
                        again = again or mended.kind in HIDES_OTHERS
                        yield mended

    async def repair_found(self, bot_id: UUID, findings: AsyncIterator[Finding]) -> AsyncIterator[Finding]:
        """As ``repair_bot``, of findings of one kind that another check makes."""
        state = next((state for state in await self._store.bots() if state.bot_id == bot_id), None)
        batch: list[Finding] = []
        async for finding in findings:
            batch.append(finding)
            if len(batch) == AT_ONCE and state is not None:
                async for mended in self._mend(state, batch):
                    yield mended
                batch = []
        if batch and state is not None:
            async for mended in self._mend(state, batch):
                yield mended

    async def _repair_once(self, state: BotState) -> AsyncIterator[Finding]:
        waiting: dict[str, list[Finding]] = {}
        async for finding in self._verifier.check_bot(state):
            batch = waiting.setdefault(finding.kind, [])
            batch.append(finding)
            if len(batch) == AT_ONCE:
                async for mended in self._mend(state, waiting.pop(finding.kind)):
                    yield mended
        for batch in waiting.values():
            async for mended in self._mend(state, batch):
                yield mended

    async def _mend(self, state: BotState, findings: Sequence[Finding]) -> AsyncIterator[Finding]:
        try:
            bot = await self._bots.get(state.bot_id, None)
        except BotNotFound:
            return  # Deleted meanwhile, with all that was wrong about it.
        await failpoint("repair.before_mend")
        await self._repairs[findings[0].kind](bot, findings)
        await failpoint("repair.after_mend")
        for finding in findings:
            yield finding

    async def _make_partitions(self, bot: Bot, _: Sequence[Finding]) -> None:
        await self._store.make_partitions(bot.bot_id)

    async def _make_collection(self, bot: Bot, _: Sequence[Finding]) -> None:
        with suppress(CollectionMoved):  # It was lost, and the bot is to be rebuilt.
            await self._bots.ensure_collection(bot)

    async def _rebuild(self, bot: Bot, _: Sequence[Finding]) -> None:
        await self._rebuilder.rebuilt(bot.bot_id)

    async def _recount(self, bot: Bot, findings: Sequence[Finding]) -> None:
        await self._store.recount_chunks(bot.bot_id, [finding.doc_id for finding in findings if finding.doc_id])

    async def _drop_strays(self, bot: Bot, findings: Sequence[Finding]) -> None:
        await self._store.drop_stray_chunks(bot.bot_id, _keys(findings))

    async def _drop_vectors(self, bot: Bot, findings: Sequence[Finding]) -> None:
        # By key: an orphan may lie within a generation that is current. No write of it is under way, as verify saw
        # neither its chunk nor its generation on vector_gc.
        await self._index.delete(bot.milvus_collection, _keys(findings))

    async def _write_anew(self, bot: Bot, findings: Sequence[Finding]) -> None:
        """Through the saga, so that a crash in the middle, a PUT or a DELETE meanwhile do no harm."""
        bot = await self._bots.usable(bot.bot_id, None)
        writes: list[Write] = []
        for doc_id in dict.fromkeys(finding.doc_id for finding in findings if finding.doc_id):
            found = await self._documents.get(bot.bot_id, doc_id)
            if found is not None and found[1]:
                writes.append(_rewrite(bot, *found))
        if writes:
            await self._saga.run(writes, Stopwatch())
        for write in writes:
            if write.error and not isinstance(write.error, DocumentChanged):
                raise write.error


def _keys(findings: Sequence[Finding]) -> list[int]:
    return [finding.key for finding in findings if finding.key is not None]


def _rewrite(bot: Bot, document: Document, chunks: Sequence[Chunk]) -> Write:
    new = NewDocument(
        title=document.title,
        chunks=[NewChunk(chunk.chunk_index, chunk.text, chunk.page_number) for chunk in chunks],
        file_path=document.file_path,
        file_type=document.file_type,
        author=document.author,
        tags=document.tags,
        metadata=document.metadata,
    )
    return Write(bot, new, document.doc_id, rewrites=chunks[0].chunk_id // CHUNKS_PER_GENERATION)
