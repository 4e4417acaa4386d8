"""Fills a collection from PostgreSQL while its bot is written to: for a model migration, or a rebuild."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import NamedTuple
from uuid import UUID

import numpy as np

from app.core.analyzers.analyzers import analyzed_text
from app.core.operations.vector_source import VectorSource
from app.core.operations.verify import present_keys
from app.core.ports import ModelMigrationPort, VectorIndex, VerifyPort
from app.schemas.operation_rows import SourceChunk
from app.schemas.rows import CHUNKS_PER_GENERATION
from app.utils.failpoints import failpoint


class Target(NamedTuple):
    """A collection that is filled, and how its words are made."""

    collection: str
    analyzer_version: int
    title_in_lexical: bool


class Copier:
    """``late_write_window``: how long after the end of its call a write to Milvus may still take effect. ``points``:
    the prefix of its fail points; without it there are none."""

    def __init__(
        self,
        store: ModelMigrationPort,
        verify: VerifyPort,
        index: VectorIndex,
        late_write_window: timedelta,
        points: str = "",
    ) -> None:
        self._store = store
        self._verify = verify
        self._index = index
        self._late_write_window = late_write_window
        self._points = points

    async def present(self, collection: str, page: Sequence[SourceChunk]) -> set[int]:
        """The keys in the collection that belong to the generations of these chunks."""
        return await present_keys(self._index, collection, {chunk.generation for chunk in page})

    async def copy(
        self,
        bot_id: UUID,
        target: Target,
        source: VectorSource,
        chunks: Sequence[SourceChunk],
        check: Callable[[], None],
    ) -> int:
        """Upserts the chunks with vectors of the source; then collects those whose documents were deleted meanwhile.

        A document that was deleted before the upsert may have been collected too early; one that is deleted later is
        collected as usual. Returns the upsert's timestamp. Raises as ``write``.
        """
        timestamp = await self.write(target, source, chunks, check)
        if self._points:
            await failpoint(f"{self._points}.after_upsert")
        current = await self._verify.current_keys(bot_id, sorted({chunk.doc_id for chunk in chunks}))
        gone = {chunk.generation: chunk.chunk_span for chunk in chunks if chunk.chunk_id not in current}
        if gone:
            await self._store.enqueue_vector_gc(bot_id, target.collection, gone)
        return timestamp

    async def write(
        self,
        target: Target,
        source: VectorSource,
        chunks: Sequence[SourceChunk],
        check: Callable[[], None],
        milvus_timestamp: int | None = None,
    ) -> int:
        """Upserts the chunks with the vectors of the source; returns the upsert's timestamp.

        ``milvus_timestamp``: as for ``VectorSource.vectors``.
        ``check`` is called before the write to Milvus, and raises LeaseLost when another process may have taken over.
        Raises the errors of the source.
        """
        vectors = await source.vectors(chunks, milvus_timestamp)
        keys = np.array([chunk.chunk_id for chunk in chunks], np.int64)
        doc_ids = np.array([chunk.doc_id for chunk in chunks], np.int64)
        if self._points:
            await failpoint(f"{self._points}.before_upsert")
        check()
        texts = [analyzed_text(chunk.title, chunk.text, target.title_in_lexical) for chunk in chunks]
        return await self._index.upsert(
            target.collection, keys, doc_ids, vectors, texts, analyzer_version=target.analyzer_version
        )

    async def collect_orphans(self, bot_id: UUID, collection: str, started: float) -> None:
        """Collects what an interrupted run has copied and was then deleted.

        The interrupted run's last write may have been in flight when this run began, at ``started``. So this waits
        until that write can no longer take effect.
        """
        await self.wait_for_late_writes(started)
        async for page in self._index.scan(collection):
            spans: dict[int, int] = {}
            for key in await self._verify.unknown_keys(bot_id, collection, page):
                generation, index = divmod(key, CHUNKS_PER_GENERATION)
                spans[generation] = max(spans.get(generation, 0), index + 1)
            if spans:
                await self._store.enqueue_vector_gc(bot_id, collection, spans)

    async def wait_for_late_writes(self, since: float) -> None:
        """Waits until no write can take effect any more that was in flight at that time of the event loop."""
        until = since + self._late_write_window.total_seconds()
        await asyncio.sleep(max(0.0, until - asyncio.get_running_loop().time()))
