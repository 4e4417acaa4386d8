"""Puts into an answer what Milvus could not show yet: documents that were replaced while they were searched for.

A key that PostgreSQL does not confirm may be all that a search saw of a document: its new vectors were written after
the timestamp that the search guarantees. To search again under a newer one means to wait for Milvus's next tick, in
which the document may be replaced once more. But PostgreSQL knows which document the key belonged to and what its
chunks are now. Their similarity is computed here, from their text, and they take their place among the hits.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from app.core.embedding.port import PartialEmbeddingError, Vectors
from app.core.embedding.registry import EmbedderRegistry
from app.core.ports import DocumentPort, Hit
from app.core.search.hits import HitLists, RetrievalRequest, foreseen, take_all_confirmed
from app.core.search.lexical import estimated_bm25
from app.schemas.rows import CurrentChunk
from app.utils.stopwatch import Stopwatch

ATTEMPTS = 8
"""How often more documents may turn out to have been replaced, a few milliseconds each."""
SCORED_TEXTS = 32
"""From the scores of so many texts that Milvus ranked by words the weights of the words are estimated."""


@dataclass(slots=True)
class Completed:
    """Of one moment: ``rows`` of all hits, ``lists`` with the hits that were added, and the vectors of these."""

    lists: Sequence[HitLists]
    rows: dict[int, CurrentChunk]
    vectors: dict[int, Vectors] = field(default_factory=dict)


class Completion:
    def __init__(self, documents: DocumentPort, embedders: EmbedderRegistry) -> None:
        self._documents = documents
        self._embedders = embedders

    async def complete(
        self,
        ask: RetrievalRequest,
        lists: Sequence[HitLists],
        k: int,
        rows: dict[int, CurrentChunk],
        most: int,
        timings: Stopwatch,
    ) -> Completed | None:
        """``lists`` as Milvus gave them, of each k hits at most, and what ``rows`` confirmed of them, made complete.

        None when that takes embedding more than ``most`` chunks, or a document is not known any more: then the search
        has to be repeated.
        Raises Unavailable when PostgreSQL or the embedder is away.
        """
        now = Completed(lists, rows)
        bot = ask.bot
        raw = {hit.chunk_id for pair in lists for hits in pair.each() for hit in hits}
        stale: set[int] = set()
        replaced: dict[int, int] = {}
        for _ in range(ATTEMPTS):
            cuts = take_all_confirmed(ask, lists, now.lists, k, now.rows)
            unconfirmed = {key for of_pair in cuts for one in of_pair for key in one.unconfirmed} - stale
            if not unconfirmed:
                return now
            with timings.measure("postgres"):
                gone = await self._documents.stale_chunks(bot.bot_id, bot.milvus_collection, list(unconfirmed))
            if any(one.doc_id is None for one in gone):
                return None
            stale |= {one.chunk_id for one in gone}
            found = {one.doc_id: one.chunk_count for one in gone if one.doc_id is not None and one.chunk_count}
            if found.keys() <= replaced.keys():
                return now
            replaced |= found
            if sum(replaced.values()) > most:
                return None
            wanted = foreseen(ask, lists) | _best_by_words(lists)
            with timings.measure("postgres"):
                now.rows = await self._documents.current_chunks(
                    bot.bot_id, list(raw), wanted, ask.where, doc_ids=list(replaced)
                )
            added = {key: row.chunk.text for key, row in now.rows.items() if key not in raw and row.chunk}
            if not await self._embed(ask, now.vectors, added, timings):
                return None
            now.lists = await self._merged(ask, lists, k, now, added)
        return None

    async def _embed(
        self, ask: RetrievalRequest, vectors: dict[int, Vectors], added: dict[int, str], timings: Stopwatch
    ) -> bool:
        lacking = [key for key in added if key not in vectors]
        if ask.vectors is None or not lacking:
            return True
        try:
            with timings.measure("embedding"):
                made = await self._embedders.of(ask.bot).embed_documents([added[key] for key in lacking])
        except PartialEmbeddingError:
            return False
        vectors |= zip(lacking, made, strict=True)
        return True

    async def _merged(
        self, ask: RetrievalRequest, lists: Sequence[HitLists], k: int, now: Completed, added: dict[int, str]
    ) -> list[HitLists]:
        """``lists`` and the chunks that were added, each in its place."""
        merged = [HitLists(pair.dense, pair.lexical) for pair in lists]
        if ask.vectors is not None:
            for pair, query in zip(merged, await ask.vectors, strict=True):
                near = [Hit(key, cosine(now.vectors[key], query)) for key in added]
                near = [hit for hit in near if ask.floor is None or hit.score >= ask.floor]
                pair.dense = _with(pair.dense or [], near, k)
        if ask.lexical:
            for pair, text in zip(merged, ask.texts, strict=True):
                scored = [
                    (row.chunk.text, hit.score)
                    for hit in islice(pair.lexical or (), SCORED_TEXTS)
                    if (row := now.rows.get(hit.chunk_id)) and row.chunk
                ]
                scores = zip(added, estimated_bm25(text, list(added.values()), scored), strict=True)
                pair.lexical = _with(pair.lexical or [], (Hit(key, score) for key, score in scores if score > 0), k)
        return merged


def cosine(one: Vectors, other: Vectors) -> float:
    similar = float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other)))
    return max(-1.0, min(1.0, similar))


def _with(hits: list[Hit], added: Iterable[Hit], k: int) -> list[Hit]:
    """Where Milvus has more than the ``k`` that it was asked for, nothing is known of what comes below the last."""
    last = hits[-1].score if len(hits) >= k else -np.inf
    return sorted([*hits, *(hit for hit in added if hit.score >= last)], key=lambda hit: (-hit.score, hit.chunk_id))


def _best_by_words(lists: Iterable[HitLists]) -> set[int]:
    return {hit.chunk_id for pair in lists for hit in (pair.lexical or ())[:SCORED_TEXTS]}
