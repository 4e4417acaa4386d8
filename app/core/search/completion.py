"""Adds to a search what Milvus could not show yet: documents that were replaced while it ran.

An unconfirmed key may be the only trace of a document: the document was replaced, and its new vectors have timestamps
above the search's guarantee timestamp. A second search under a newer guarantee waits for Milvus's next tick, and the
document may be replaced again before that. PostgreSQL knows which document the key belonged to and which chunks it has
now. Their scores are computed here from their texts, and they are merged into the hits (decision 6).
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from app.core.analyzers.analyzers import analyzed_text, tokens
from app.core.embedding.port import PartialEmbeddingError, Vectors
from app.core.embedding.registry import EmbedderRegistry
from app.core.ports import DocumentPort, Hit
from app.core.search.hits import HitLists, RetrievalRequest, keys_to_hydrate, merge_hits, take_all_confirmed
from app.core.search.lexical import estimated_bm25
from app.schemas.rows import CurrentChunk
from app.utils.stopwatch import Stopwatch

MAX_PASSES = 8
"""Passes in which further documents may turn out to be replaced. Each takes a few milliseconds."""
SCORED_TEXTS = 32
"""BM25 weights of the query's words are estimated from the scores of at most this many hits of Milvus."""


@dataclass(slots=True)
class Completed:
    """A completed search, all of one snapshot.

    ``rows``: the confirmed chunks. ``lists``: Milvus's hits and the added ones. ``vectors``: of the added chunks.
    """

    lists: Sequence[HitLists]
    rows: dict[int, CurrentChunk]
    vectors: dict[int, Vectors] = field(default_factory=dict)


class Completion:
    def __init__(self, documents: DocumentPort, embedders: EmbedderRegistry) -> None:
        self._documents = documents
        self._embedders = embedders

    async def complete(
        self,
        request: RetrievalRequest,
        raw: Sequence[HitLists],
        lists: Sequence[HitLists],
        k: int,
        rows: dict[int, CurrentChunk],
        max_chunks: int,
        timings: Stopwatch,
    ) -> Completed | None:
        """``lists`` with the current chunks of replaced documents merged in.

        ``raw``: the lists as Milvus returned them for top ``k``. ``lists``: the same with the process's recent vectors.
        ``rows``: the confirmed chunks among them.
        Returns None, and the search has to be repeated, if more than ``max_chunks`` chunks would have to be embedded or
        if a key's document is not known any more. Raises Unavailable when PostgreSQL or the embedder is unavailable.
        """
        completed = Completed(lists, rows)
        bot = request.bot
        milvus_keys = {hit.chunk_id for pair in lists for hits in pair.each() for hit in hits}
        looked_up: set[int] = set()
        replaced: dict[int, int] = {}  # Number of chunks by doc_id.
        for _ in range(MAX_PASSES):
            confirmed = take_all_confirmed(request, raw, completed.lists, k, completed.rows)
            unconfirmed = {key for pair in confirmed for one in pair for key in one.unconfirmed} - looked_up
            if not unconfirmed:
                return completed
            with timings.measure("postgres"):
                stale = await self._documents.stale_chunks(bot.bot_id, bot.milvus_collection, list(unconfirmed))
            if any(chunk.doc_id is None for chunk in stale):
                return None
            looked_up |= {chunk.chunk_id for chunk in stale}
            found = {
                chunk.doc_id: chunk.chunk_count for chunk in stale if chunk.doc_id is not None and chunk.chunk_count
            }
            if found.keys() <= replaced.keys():
                return completed
            replaced |= found
            if sum(replaced.values()) > max_chunks:
                return None
            hydrate = keys_to_hydrate(request, lists) | _best_lexical_keys(lists)
            with timings.measure("postgres"):
                completed.rows = await self._documents.current_chunks(
                    bot.bot_id, list(milvus_keys), hydrate, request.where, doc_ids=list(replaced)
                )
            added = {key: row.chunk.text for key, row in completed.rows.items() if key not in milvus_keys and row.chunk}
            if not await self._embed(request, completed.vectors, added, timings):
                return None
            completed.lists = await self._merged(request, raw, lists, k, completed, added)
        return None

    async def _embed(
        self, request: RetrievalRequest, vectors: dict[int, Vectors], added: dict[int, str], timings: Stopwatch
    ) -> bool:
        """Adds to ``vectors`` those of the added texts. False if a text cannot be embedded."""
        missing = [key for key in added if key not in vectors]
        if request.vectors is None or not missing:
            return True
        try:
            with timings.measure("embedding"):
                embedder = self._embedders.of(request.bot)
                embedded = await embedder.embed_documents([added[key] for key in missing])
        except PartialEmbeddingError:
            return False
        vectors |= zip(missing, embedded, strict=True)
        return True

    async def _merged(
        self,
        request: RetrievalRequest,
        raw: Sequence[HitLists],
        lists: Sequence[HitLists],
        k: int,
        completed: Completed,
        added: dict[int, str],
    ) -> list[HitLists]:
        """``lists`` with the added chunks, each in its place."""
        merged = [HitLists(pair.dense, pair.lexical) for pair in lists]
        if request.vectors is not None:
            for pair, found, query in zip(merged, raw, await request.vectors, strict=True):
                hits = [Hit(key, cosine(completed.vectors[key], query)) for key in added]
                least = request.min_similarity
                near = [hit for hit in hits if least is None or hit.score >= least]
                pair.dense = merge_hits(pair.dense or [], near, found.dense or [], k)
        if request.lexical:
            bot = request.bot
            words = {
                key: Counter(tokens(analyzed_text(chunk.title, chunk.text, bot.title_in_lexical), bot.analyzer_version))
                for key in added.keys() | _best_lexical_keys(lists)
                if (row := completed.rows.get(key)) and (chunk := row.chunk)
            }
            for pair, found, text in zip(merged, raw, request.texts, strict=True):
                scored = [
                    (words[hit.chunk_id], hit.score)
                    for hit in islice(pair.lexical or (), SCORED_TEXTS)
                    if hit.chunk_id in words
                ]
                asked = Counter(tokens(text, bot.analyzer_version))
                estimated = estimated_bm25(asked, [words[key] for key in added], scored)
                shared = [Hit(key, score) for key, score in zip(added, estimated, strict=True) if score > 0]
                pair.lexical = merge_hits(pair.lexical or [], shared, found.lexical or [], k)
        return merged


def cosine(one: Vectors, other: Vectors) -> float:
    """Cosine similarity of two vectors (dimension,), -1..1."""
    similarity = float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other)))
    return max(-1.0, min(1.0, similarity))


def _best_lexical_keys(lists: Iterable[HitLists]) -> set[int]:
    return {hit.chunk_id for pair in lists for hit in (pair.lexical or ())[:SCORED_TEXTS]}
