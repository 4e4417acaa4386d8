"""Embeds texts again and compares them with the vectors in Milvus: ``verify --vectors``.

It only reads, page by page, while servers run. A chunk without a vector is not reported here but by ``Verifier``.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final
from uuid import UUID

from app.core.embedding.port import PartialEmbeddingError
from app.core.embedding.registry import EmbedderRegistry
from app.core.embedding.tolerance import cosine, tolerance
from app.core.operations.verify import Finding
from app.core.ports import BotPort, VectorIndex, VerifyPort
from app.schemas.operation_rows import SourceChunk
from app.schemas.rows import Bot
from app.utils.errors import CollectionMissing

PAGE: Final = 512
"""Chunks that are embedded and compared together."""


class VectorCheck:
    """``allowed``: a tolerance instead of those of the providers."""

    def __init__(
        self,
        store: VerifyPort,
        bots: BotPort,
        index: VectorIndex,
        embedders: EmbedderRegistry,
        allowed: float | None = None,
    ) -> None:
        self._store = store
        self._bots = bots
        self._index = index
        self._embedders = embedders
        self._allowed = allowed

    async def count(self, bot_id: UUID, sample: int | None = None) -> int:
        """How many chunks ``check_bot`` compares."""
        chunks = (await self._bots.counts(bot_id)).chunks
        return chunks if sample is None else min(chunks, sample)

    async def check_bot(
        self, bot_id: UUID, sample: int | None = None, progress: Callable[[int], object] = lambda _count: None
    ) -> AsyncIterator[Finding]:
        """Finds chunks whose vectors are not those of their texts: among all, or among ``sample`` drawn at random.

        Raises ModelMismatch when the bot's model is not one of this process's, and Unavailable.
        """
        bot = await self._bots.get(bot_id, None)
        if bot is None or bot.embedding_model is None:
            return
        async for page in self._pages(bot_id, sample):
            for chunk, distance in await self._distances(bot, page):
                now = await self._bots.get(bot_id, None)
                if now is None or now.milvus_collection != bot.milvus_collection:
                    return  # It was migrated to another model, which has embedded every text again.
                if await self._store.chunks_of_keys(bot_id, [chunk.chunk_id]):
                    vector = f"vector {chunk.chunk_id} in {bot.milvus_collection}"
                    detail = f"{vector} differs by {distance:.3f} from that of its text"
                    yield Finding("vector_mismatch", bot_id, detail, chunk.chunk_id, chunk.doc_id)
            progress(len(page))

    async def _pages(self, bot_id: UUID, sample: int | None) -> AsyncIterator[Sequence[SourceChunk]]:
        if sample is None:
            after = 0
            while page := await self._store.chunk_page(bot_id, after, PAGE):
                yield page
                after = page[-1].chunk_id
            return
        keys = await self._store.sampled_keys(bot_id, sample)
        for start in range(0, len(keys), PAGE):
            yield await self._store.chunks_of_keys(bot_id, keys[start : start + PAGE])

    async def _distances(self, bot: Bot, page: Sequence[SourceChunk]) -> list[tuple[SourceChunk, float]]:
        """(chunk, 1 - cosine) of the chunks above the tolerance."""
        embedder = self._embedders.of(bot)
        keys = [chunk.chunk_id for chunk in page]
        try:
            stored = await self._index.embeddings(bot.milvus_collection, keys, guarantee_timestamp=bot.milvus_timestamp)
        except CollectionMissing:
            return []
        there = [chunk for chunk in page if chunk.chunk_id in stored]
        if not there:
            return []
        failed: set[int] = set()
        try:
            vectors = await embedder.embed_documents([chunk.text for chunk in there])
        except PartialEmbeddingError as exc:  # These are neither compared nor written again.
            vectors, failed = exc.vectors, set(exc.errors)
        allowed = tolerance(embedder.model) if self._allowed is None else self._allowed
        found = []
        for number, chunk in enumerate(there):
            if number not in failed:
                distance = 1 - cosine(vectors[number], stored[chunk.chunk_id])
                if not distance <= allowed:
                    found.append((chunk, distance))
        return found
