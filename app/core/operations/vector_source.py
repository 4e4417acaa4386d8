"""Where the vectors of copied chunks come from: an embedder, or the bot's present collection."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import numpy as np

from app.core.embedding.port import Embedder, PartialEmbeddingError, Vectors
from app.core.ports import BotPort, VectorIndex
from app.schemas.operation_rows import SourceChunk
from app.schemas.rows import CHUNKS_PER_GENERATION, Bot
from app.utils.errors import BotNotFound, CollectionMissing

EmbedderOf = Callable[[Bot], Awaitable[Embedder]]
"""The embedder that made a bot's vectors. Raises ModelMismatch and StartupError."""


class VectorSource(Protocol):
    """``embedded``: how many chunks it has embedded. ``pause``: how long to wait after a page, as a share of the time
    that the page took."""

    embedded: int
    pause: float

    async def vectors(self, chunks: Sequence[SourceChunk], milvus_timestamp: int | None = None) -> Vectors:
        """The vectors (n, dimension) of the chunks. Raises the error of a text that the model does not take.

        ``milvus_timestamp``: of the bot's newest write. Inside a cut-over it is given, so that no further connection is
        needed.
        """


class Embedding:
    """Implements VectorSource by embedding the texts."""

    pause = 0.0

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self.embedded = 0

    async def vectors(self, chunks: Sequence[SourceChunk], milvus_timestamp: int | None = None) -> Vectors:
        del milvus_timestamp  # The texts are all that it needs.
        try:
            vectors = await self._embedder.embed_documents([chunk.text for chunk in chunks])
        except PartialEmbeddingError as exc:
            raise exc.located(lambda index: _location(chunks[index])) from exc
        self.embedded += len(chunks)
        return vectors


class StoredVectors:
    """Implements VectorSource by reading the bot's present collection. Embeds the texts of vectors that it lacks.

    ``embedder_of``: opens the bot's embedder; it is called only if a vector is missing.
    """

    pause = 1.0  # Without an embedder nothing else slows the copying down, and searches need the stores.

    def __init__(self, bots: BotPort, index: VectorIndex, embedder_of: EmbedderOf, bot: Bot) -> None:
        self._bots = bots
        self._index = index
        self._embedder_of = embedder_of
        self._bot = bot
        self.embedded = 0

    async def vectors(self, chunks: Sequence[SourceChunk], milvus_timestamp: int | None = None) -> Vectors:
        bot = self._bot
        if milvus_timestamp is None:
            found = await self._bots.get(bot.bot_id, None)
            if found is None:
                raise BotNotFound("The bot was deleted meanwhile.")
            self._bot = bot = found
            milvus_timestamp = bot.milvus_timestamp
        keys = [chunk.chunk_id for chunk in chunks]
        try:
            stored = await self._index.embeddings(bot.milvus_collection, keys, guarantee_timestamp=milvus_timestamp)
        except CollectionMissing:
            stored = {}  # Milvus lost it.
        usable = {key: vector for key, vector in stored.items() if _is_usable(vector, bot)}
        missing = [chunk for chunk in chunks if chunk.chunk_id not in usable]
        if missing:
            usable |= zip((chunk.chunk_id for chunk in missing), await self._embed(bot, missing), strict=True)
        return np.stack([usable[key] for key in keys])

    async def _embed(self, bot: Bot, chunks: Sequence[SourceChunk]) -> Vectors:
        source = Embedding(await self._embedder_of(bot))
        vectors = await source.vectors(chunks)
        self.embedded += source.embedded
        return vectors


def _is_usable(vector: Vectors, bot: Bot) -> bool:
    return vector.shape == (bot.dimension,) and bool(np.isfinite(vector).all()) and bool(vector.any())


def _location(chunk: SourceChunk) -> str:
    return f"document {chunk.doc_id}, chunk_index {chunk.chunk_id % CHUNKS_PER_GENERATION}"
