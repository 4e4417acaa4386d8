"""Vectors of chunks: those that came with the document, or are stored already, are taken; the rest is embedded.

A stored vector is only a saving. One that cannot be read, or is not a vector of unit length, is embedded.
"""

import logging
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from hashlib import sha256
from typing import Final, NamedTuple

import numpy as np

from app.core.embedding.port import Embedder, PartialEmbeddingError, Vectors
from app.core.ports import VectorIndex
from app.core.write.write import StoredVectors, Write
from app.schemas.rows import Bot, NewDocument, StoredDocument
from app.utils.errors import AppError, CollectionMissing, CollectionReleased
from app.utils.failpoints import failpoint
from app.utils.stopwatch import Stopwatch

log = logging.getLogger(__name__)

LENGTH_TOLERANCE: Final = 1e-3
"""How far the squared length of a stored vector may be from 1. This server stores vectors of unit length."""

EMBEDDED_WITHOUT_LOADING: Final = 64
"""Chunks that are rather embedded than read from a collection that would have to be loaded first."""


class ChunkText(NamedTuple):
    """The text of one chunk of a write."""

    write: Write
    chunk_index: int
    text: str


def text_sha256(text: str) -> bytes:
    """As ``ChunkHash.text_sha256``."""
    return sha256(text.encode()).digest()


def same_texts(collection: str, stored: StoredDocument | None, document: NewDocument) -> StoredVectors | None:
    """The vectors in ``collection`` of stored chunks that have a text of the new document; None if there are none.

    The text alone decides: a model embeds nothing else of a document.
    """
    if stored is None:
        return None
    by_hash = {chunk.text_sha256: chunk.chunk_id for chunk in stored.chunks}
    keys = {
        chunk.chunk_index: key for chunk in document.chunks if (key := by_hash.get(text_sha256(chunk.text))) is not None
    }
    return StoredVectors(collection, keys) if keys else None


async def chunk_vectors(
    index: VectorIndex, embedder: Embedder, chunks: Sequence[ChunkText], timings: Stopwatch
) -> Vectors:
    """The vectors (len(chunks), dimension) in order. Counts those that were not embedded in ``Write.carried_chunks``.

    Raises as ``Embedder.embed_documents``. Stages in ``timings``: embedding, milvus.
    """
    sources: dict[int, int] = {}
    keys: dict[Bot, set[int]] = {}
    carried: dict[int, Vectors] = {}
    for position, chunk in enumerate(chunks):
        write = chunk.write
        if (vector := _given(chunk, embedder)) is not None:
            carried[position] = vector
        elif write.stored is not None and (key := write.stored_key(chunk.chunk_index)) is not None:
            sources[position] = key
            keys.setdefault(write.bot, set()).add(key)
    if not sources and not carried:
        return await _embed(embedder, [chunk.text for chunk in chunks], timings)
    stored: dict[int, Vectors] = {}
    with timings.measure("milvus"):
        for bot, of_bot in keys.items():
            stored |= await _read(index, embedder.dimension, bot, of_bot)
    carried |= {position: stored[key] for position, key in sources.items() if key in stored}
    vectors = np.zeros((len(chunks), embedder.dimension), np.float32)
    for position, vector in carried.items():
        vectors[position] = vector
        chunks[position].write.carried_chunks += 1
    new = [position for position in range(len(chunks)) if position not in carried]
    if new:
        try:
            vectors[new] = await _embed(embedder, [chunks[position].text for position in new], timings)
        except PartialEmbeddingError as exc:
            vectors[new] = exc.vectors
            raise PartialEmbeddingError(vectors, {new[index]: error for index, error in exc.errors.items()}) from exc
    return vectors


def _given(chunk: ChunkText, embedder: Embedder) -> Vectors | None:
    """The vector that came with the chunk, if it is of this model."""
    given = chunk.write.document.vectors
    if given is None or (given.model, given.dimension) != (embedder.model, embedder.dimension):
        return None
    return given.by_index.get(chunk.chunk_index)


async def _read(index: VectorIndex, dimension: int, bot: Bot, keys: Collection[int]) -> Mapping[int, Vectors]:
    """The usable ones of the vectors with these keys in the bot's collection."""
    read = partial(index.embeddings, bot.milvus_collection, sorted(keys), guarantee_timestamp=bot.milvus_timestamp)
    try:
        await failpoint("write.before_carry")
        try:
            found = await read()
        except CollectionReleased:
            if len(keys) <= EMBEDDED_WITHOUT_LOADING:
                raise
            await index.load(bot.milvus_collection)
            found = await read()
    except (AppError, CollectionMissing) as exc:
        log.warning("%d stored vectors could not be read and are embedded: %s", len(keys), exc)
        return {}
    return {key: vector for key, vector in found.items() if is_usable(vector, dimension)}


def is_usable(vector: Vectors, dimension: int) -> bool:
    """Whether it has this dimension and unit length. False also for NaN."""
    return vector.shape == (dimension,) and abs(float(vector @ vector) - 1) <= LENGTH_TOLERANCE


async def _embed(embedder: Embedder, texts: Sequence[str], timings: Stopwatch) -> Vectors:
    with timings.measure("embedding"):
        return await embedder.embed_documents(texts)
