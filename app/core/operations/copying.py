"""Fills a collection from PostgreSQL while its bot is written to: a move to another model, or a rebuild."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import timedelta
from uuid import UUID

import numpy as np

from app.core.embedding.check import invalid_vectors
from app.core.embedding.port import Embedder, PartialEmbeddingError
from app.core.ports import ReembedPort, VectorIndex, VerifyPort
from app.schemas.rows import CHUNKS_PER_GENERATION, SourceChunk
from app.utils.errors import EmbeddingInvalid
from app.utils.failpoints import failpoint

SPANS = 64


class Copier:
    """``settle``: how long after its call's end a write to Milvus may still land. ``points``: before the names of its
    fail points; without, it has none."""

    def __init__(
        self, store: ReembedPort, verify: VerifyPort, index: VectorIndex, settle: timedelta, points: str = ""
    ) -> None:
        self._store = store
        self._verify = verify
        self._index = index
        self._settle = settle
        self._points = points

    async def present(self, collection: str, page: Sequence[SourceChunk]) -> set[int]:
        """The keys that the collection has of these generations."""
        generations = sorted({chunk.generation for chunk in page})
        found: set[int] = set()
        for start in range(0, len(generations), SPANS):
            spans = [
                (generation * CHUNKS_PER_GENERATION, (generation + 1) * CHUNKS_PER_GENERATION)
                for generation in generations[start : start + SPANS]
            ]
            found |= await self._index.present(collection, spans)
        return found

    async def copy(
        self,
        bot_id: UUID,
        collection: str,
        embedder: Embedder,
        chunks: Sequence[SourceChunk],
        check: Callable[[], None],
    ) -> int:
        """Embeds and upserts, then looks whether somebody deleted a document meanwhile; the upsert's timestamp.

        A deletion before the upsert was collected too early, perhaps; one after it is collected as any other.
        """
        timestamp = await self.write(collection, embedder, chunks, check)
        if self._points:
            await failpoint(f"{self._points}.after_upsert")
        current = await self._verify.current_keys(bot_id, sorted({chunk.doc_id for chunk in chunks}))
        gone = {chunk.generation: chunk.chunk_span for chunk in chunks if chunk.chunk_id not in current}
        if gone:
            await self._store.enqueue_vector_gc(bot_id, collection, gone)
        return timestamp

    async def write(
        self, collection: str, embedder: Embedder, chunks: Sequence[SourceChunk], check: Callable[[], None]
    ) -> int:
        """Embeds and upserts. Raises the error of a text that the model does not take, its place named.

        ``check`` is called before the write to Milvus: it raises LeaseLost when another process may have taken over.
        """
        try:
            vectors = await embedder.embed_documents([chunk.text for chunk in chunks])
        except PartialEmbeddingError as exc:
            raise exc.named(lambda index: _place(chunks[index])) from exc
        for index, reason in invalid_vectors(vectors, len(chunks), embedder.dimension).items():
            raise EmbeddingInvalid(f"{_place(chunks[index])}: the embedder's vector is unusable: {reason}.")
        keys = np.array([chunk.chunk_id for chunk in chunks], np.int64)
        doc_ids = np.array([chunk.doc_id for chunk in chunks], np.int64)
        if self._points:
            await failpoint(f"{self._points}.before_upsert")
        check()
        return await self._index.upsert(collection, keys, doc_ids, vectors, [chunk.text for chunk in chunks])

    async def collect_strays(self, bot_id: UUID, collection: str, started: float) -> None:
        """What a run that was killed has copied, and did not live to see deleted.

        Its last write may have been on its way when this one began, at ``started``, so this looks when none can land
        any more.
        """
        await self.settled(started)
        async for page in self._index.scan(collection):
            spans: dict[int, int] = {}
            for key in await self._verify.unknown_keys(bot_id, collection, page):
                generation, index = divmod(key, CHUNKS_PER_GENERATION)
                spans[generation] = max(spans.get(generation, 0), index + 1)
            if spans:
                await self._store.enqueue_vector_gc(bot_id, collection, spans)

    async def settled(self, since: float) -> None:
        """Waits until what was on its way at that time of the loop cannot land any more."""
        until = since + self._settle.total_seconds()
        await asyncio.sleep(max(0.0, until - asyncio.get_running_loop().time()))


def _place(chunk: SourceChunk) -> str:
    return f"document {chunk.doc_id}, chunk_index {chunk.chunk_id % CHUNKS_PER_GENERATION}"
