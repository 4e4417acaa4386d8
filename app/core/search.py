"""The read path: embed, search Milvus by key, confirm in PostgreSQL.

Milvus may show what was deleted and may not yet show what replaced it. What PostgreSQL does not confirm is
dropped; if that leaves a gap, Milvus is asked again, under a guarantee read after the gap was seen.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from app.core.bots import Bots
from app.core.embedding.check import unusable
from app.core.embedding.port import Embedder, Vectors
from app.core.stores.ports import DocumentPort, Hit, VectorIndex
from app.schemas.filter_tree import Filter
from app.schemas.rows import Bot, VisibleChunk
from app.utils.clock import Stopwatch
from app.utils.errors import CollectionMissing, EmbeddingInvalid, Place, UnsupportedMode

MAX_TOP_K = 16_384
"""Milvus's own limit (https://milvus.io/docs/limitations.md)."""
SPARE_HITS = 16
"""Asked for beyond the limit, so that a few stale keys cost no second search."""
WIDEN_FACTOR = 8
MAX_ROUNDS = 6
FEW_DOCUMENTS = 10_000
"""Up to so many matching documents are named to Milvus; with more, the nearest chunks are filtered afterwards."""


@dataclass(frozen=True, slots=True)
class Query:
    bot_id: UUID
    account: str | None
    text: str
    limit: int
    mode: str = "dense"
    where: Filter | None = None
    score_threshold: float | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """A confirmed chunk and its cosine similarity to the query."""

    chunk: VisibleChunk
    score: float


class Search:
    """Stages in ``watch``: embedding, milvus, postgres."""

    def __init__(self, bots: Bots, documents: DocumentPort, index: VectorIndex, embedder: Embedder) -> None:
        self._bots = bots
        self._documents = documents
        self._index = index
        self._embedder = embedder

    async def query(self, query: Query, watch: Stopwatch) -> list[Result]:
        """The ``limit`` current chunks nearest to the text, best first.

        Raises UnsupportedMode, BotNotFound, ModelMismatch, EmbeddingInvalid, and Unavailable when a store or the
        embedder is away.
        """
        if query.mode != "dense":
            detail = f"This Milvus holds no lexical field, so that {query.mode} mode cannot be served; use dense."
            raise UnsupportedMode(detail, places=[Place("body.mode", detail)])
        vector, bot = await asyncio.gather(
            self._embed(query.text, watch), self._bots.usable(query.bot_id, query.account)
        )
        if query.where is None:
            return await self._nearest(bot, vector, query, None, watch)
        with watch.timing("postgres"):
            matching = await self._documents.matching(bot.bot_id, query.where, 0, FEW_DOCUMENTS + 1)
        if not matching:
            return []
        if len(matching) <= FEW_DOCUMENTS:
            return await self._nearest(bot, vector, query, matching, watch)
        results = await self._nearest(bot, vector, query, None, watch)
        if len(results) < query.limit:
            results = await self._nearest_by_slices(bot, vector, query, watch)
        return results

    async def _embed(self, text: str, watch: Stopwatch) -> Vectors:
        with watch.timing("embedding"):
            vector = await self._embedder.embed_query(text)
        if reasons := unusable(vector[None, :], 1, self._embedder.dimension):
            raise EmbeddingInvalid(f"The embedder's vector for query_text is unusable: {reasons[0]}.")
        return vector

    async def _nearest(
        self, bot: Bot, vector: Vectors, query: Query, doc_ids: Sequence[int] | None, watch: Stopwatch
    ) -> list[Result]:
        """Searches until ``limit`` results are confirmed and no gap is new, or Milvus has no more to give.

        A key that PostgreSQL does not confirm is stale, or its document is being replaced: then the new vectors
        are in Milvus already, and a search under a newer guarantee sees them. A key unconfirmed twice is stale.
        When chunks are filtered afterwards (a filter but no doc_ids) most unconfirmed keys merely fail the
        filter: only too few results count.
        """
        k = min(query.limit + SPARE_HITS, MAX_TOP_K)
        guarantee = bot.milvus_timestamp
        filtered_after = query.where is not None and doc_ids is None
        stale: set[int] = set()
        for _ in range(MAX_ROUNDS):
            with watch.timing("milvus"):
                hits = await self._hits(bot, vector, k, guarantee, doc_ids)
            found = _above(hits, query.score_threshold)
            keys = [hit.chunk_id for hit in found]
            with watch.timing("postgres"):
                chunks = await self._documents.visible(bot.bot_id, keys, query.limit, query.where)
            enough = len(chunks) == query.limit
            exhausted = len(found) < k or k == MAX_TOP_K
            examined = keys[: chunks[-1].rank] if enough else keys
            unconfirmed = set(examined).difference(chunk.chunk_id for chunk in chunks)
            if (enough or exhausted) and (filtered_after or unconfirmed <= stale):
                break
            stale = unconfirmed
            if not enough and not exhausted:
                k = min(k * WIDEN_FACTOR, MAX_TOP_K)
            with watch.timing("postgres"):
                guarantee = await self._documents.milvus_timestamp(bot.bot_id)
        return [Result(chunk, found[chunk.rank - 1].score) for chunk in chunks]

    async def _nearest_by_slices(self, bot: Bot, vector: Vectors, query: Query, watch: Stopwatch) -> list[Result]:
        """Exact for any filter: the matching documents, FEW_DOCUMENTS at a time."""
        assert query.where is not None
        best: dict[int, Result] = {}
        after = 0
        while True:
            with watch.timing("postgres"):
                doc_ids = await self._documents.matching(bot.bot_id, query.where, after, FEW_DOCUMENTS)
            if doc_ids:
                for result in await self._nearest(bot, vector, query, doc_ids, watch):
                    best[result.chunk.chunk_id] = result
            if len(doc_ids) < FEW_DOCUMENTS:
                return sorted(best.values(), key=lambda result: -result.score)[: query.limit]
            after = doc_ids[-1]

    async def _hits(
        self, bot: Bot, vector: Vectors, k: int, guarantee: int, doc_ids: Sequence[int] | None
    ) -> list[Hit]:
        try:
            return await self._index.search(bot.collection_name, vector, k, guarantee=guarantee, doc_ids=doc_ids)
        except CollectionMissing:
            # Deleted meanwhile (then this raises BotNotFound), or dropped behind our back.
            await self._bots.make_collection(bot)
            return []


def _above(hits: list[Hit], threshold: float | None) -> list[Hit]:
    if threshold is None:
        return hits
    return [hit for hit in hits if hit.score >= threshold]
