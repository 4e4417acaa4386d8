"""Asks Milvus for keys and PostgreSQL which of them are current, until there are enough.

Milvus may show what was deleted and may not yet show what replaced it. What PostgreSQL does not confirm is
dropped; what may be missing for it comes from PostgreSQL, or Milvus is asked again (decision 6).
"""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from uuid import UUID

import numpy as np

from app.core.bots.bots import Bots
from app.core.embedding.port import Vectors
from app.core.embedding.registry import EmbedderRegistry
from app.core.ports import DocumentPort, Hit, KeyRange, VectorIndex
from app.core.search.coalescing import RequestCoalescer
from app.core.search.completion import Completion
from app.core.search.hits import ConfirmedHits, HitLists, RetrievalRequest, foreseen, take_all_confirmed
from app.schemas.rows import CHUNKS_PER_GENERATION, Bot, CurrentChunk
from app.utils.errors import CollectionMissing, Unavailable
from app.utils.stopwatch import Stopwatch

MAX_TOP_K = 16_384
"""Milvus's own limit (https://milvus.io/docs/limitations.md)."""
SPARE_HITS = 16
"""Asked for beyond what is needed, so that a few stale keys cost no second search."""
WIDEN_FACTOR = 8
MAX_ROUNDS = 6
FEW_CHUNKS, FEW_ROUNDS, MANY_CHUNKS = 16, 2, 512
"""Replaced chunks that are embedded rather than waited for: at once, and after two rounds that were overtaken."""
MAX_SPANS = 16
"""Ranges of keys that Milvus is told to pass over."""
SEARCHES_AT_ONCE = 2
"""Of a kind, in Milvus: it works on the second while the answer to the first is on its way."""
BatchKey = tuple[str, int, tuple[KeyRange, ...]]
"""Searches of the same collection, k and passed-over keys are carried out together. A search among given documents
is not: PostgreSQL, which named them, knows no documents that are not finished."""


@dataclass(slots=True)
class RetrievalResult:
    """Confirmed lists, one pair a text. ``complete``: none is shorter than it could be.

    ``held``: the bot that was assumed was found to be so still. ``vectors``: of hits that Milvus may not have yet.
    """

    lists: list[HitLists]
    rows: dict[int, CurrentChunk] = field(default_factory=dict)
    complete: bool = True
    rounds: int = 0
    dropped: int = 0
    held: bool = False
    vectors: dict[int, Vectors] = field(default_factory=dict)


class Retrieval:
    """Stages in the timings: dense and lexical, which overlap, postgres."""

    def __init__(self, bots: Bots, documents: DocumentPort, index: VectorIndex, embedders: EmbedderRegistry) -> None:
        self._completion = Completion(documents, embedders)
        self._bots = bots
        self._documents = documents
        self._index = index
        self._confirm = RequestCoalescer(self._confirm_all)
        self._dense_batcher = RequestCoalescer(self._search_dense_batch, SEARCHES_AT_ONCE)
        self._lexical_batcher = RequestCoalescer(self._search_lexical_batch, SEARCHES_AT_ONCE)

    async def find(self, ask: RetrievalRequest, only: Sequence[int] | None, timings: Stopwatch) -> RetrievalResult:
        """Searches until every list is long enough and nothing is missing, or Milvus has no more to give.

        Searched is the whole collection, or ``only`` these documents; these chunks, where ``ask.by_chunk``.

        A key that PostgreSQL does not confirm is stale, or its document was replaced since the guarantee was read:
        then the new vectors are in Milvus, and this search may not have seen them. Where the bot's timestamp is still
        the guarantee, nothing was written since. Otherwise the documents come from PostgreSQL, if they are small, or
        from a search under the newer guarantee. Without timestamps (Milvus Lite) another search costs no wait: a key
        that is unconfirmed twice is stale there.

        When chunks are filtered afterwards (a filter, but no ``only``) most unconfirmed keys merely fail the filter; a
        list that Milvus's limit then keeps short is left incomplete. Raises CollectionMoved when newer vectors are in
        another collection by now, and Unavailable when more was replaced or deleted than can be passed over.
        """
        k = min(ask.depth + SPARE_HITS, MAX_TOP_K)
        guarantee_timestamp = ask.guarantee_timestamp
        filtered_after = ask.where is not None and only is None
        stale: set[int] = set()
        found = RetrievalResult([])
        for found.rounds in range(1, MAX_ROUNDS + 1):
            raw = await self._search(ask, k, guarantee_timestamp, only, timings)
            lists: Sequence[HitLists] = raw
            with timings.measure("postgres"):
                found.rows = await self._confirmed(ask, lists)
            found.held = ask.assumed and bool(found.rows)
            cuts = take_all_confirmed(ask, raw, lists, k, found.rows)
            unconfirmed = {key for of_pair in cuts for one in of_pair for key in one.unconfirmed}
            found.dropped = len(unconfirmed)
            newest = guarantee_timestamp
            current = unconfirmed <= stale or (found.held and guarantee_timestamp > 0)
            if not current:
                with timings.measure("postgres"):
                    newest = await self._documents.milvus_timestamp(ask.bot.bot_id, ask.bot.milvus_collection)
                current = 0 < newest <= guarantee_timestamp
            if not current and (newest or found.rounds > 1 or filtered_after):
                most = FEW_CHUNKS if found.rounds <= FEW_ROUNDS else MANY_CHUNKS
                completed = await self._completion.complete(ask, raw, k, found.rows, most, timings)
                if completed is not None:
                    current = True
                    lists, found.rows, found.vectors = completed.lists, completed.rows, completed.vectors
                    cuts = take_all_confirmed(ask, raw, lists, k, found.rows)
            found.lists = [_kept(pair, of_pair) for pair, of_pair in zip(lists, cuts, strict=True)]
            every = [one for of_pair in cuts for one in of_pair]
            done = all(one.enough or one.exhausted for one in every)
            found.complete = done
            if done and current:
                return found
            if not done:
                share = min(one.share for one in every if not one.enough)
                if k == MAX_TOP_K or (filtered_after and share * MAX_TOP_K < ask.depth):
                    if current and (filtered_after or share == 1):
                        return found
                else:
                    k = min(max(k * WIDEN_FACTOR, int(ask.depth / max(share, 0.001) * 1.5)), MAX_TOP_K)
            stale, guarantee_timestamp = unconfirmed, newest
        raise Unavailable("More documents were replaced or deleted a moment ago than this search can pass over.")

    async def _confirmed(self, ask: RetrievalRequest, lists: Sequence[HitLists]) -> dict[int, CurrentChunk]:
        """Of the hits those that are current. The spare ones are asked about only where they may be needed."""
        every = [hits for pair in lists for hits in pair.each()]
        wanted = foreseen(ask, lists)
        spare = ask.where is not None or ask.documents > 1
        keys = {hit.chunk_id for hits in every for hit in (hits if spare else hits[: ask.depth])}
        still = ask.bot if ask.assumed else None
        if ask.where is not None:
            return await self._documents.current_chunks(ask.bot.bot_id, list(keys), wanted, ask.where, still)
        kind = (ask.bot.bot_id, still)
        rows = await self._confirm(kind, (keys, wanted))
        if any(key not in rows for key in keys) and (rest := {hit.chunk_id for hits in every for hit in hits} - keys):
            # All of them once more: two statements could confirm two generations of one document.
            rows = await self._confirm(kind, (keys | rest, wanted))
        return rows

    async def _confirm_all(
        self, kind: tuple[UUID, Bot | None], calls: Sequence[tuple[set[int], set[int]]]
    ) -> Sequence[dict[int, CurrentChunk]]:
        """Every call gets the rows of all."""
        bot_id, still = kind
        keys = set[int]().union(*(keys for keys, _ in calls))
        wanted = set[int]().union(*(wanted for _, wanted in calls))
        return [await self._documents.current_chunks(bot_id, list(keys), wanted, None, still)] * len(calls)

    async def _search(
        self, ask: RetrievalRequest, k: int, guarantee_timestamp: int, only: Sequence[int] | None, timings: Stopwatch
    ) -> list[HitLists]:
        try:
            if ask.lexical:
                dense, lexical = await asyncio.gather(
                    self._dense(ask, k, guarantee_timestamp, only, timings),
                    self._lexical(ask, k, guarantee_timestamp, only, timings),
                )
            else:  # The same without two tasks.
                dense, lexical = await self._dense(ask, k, guarantee_timestamp, only, timings), None
        except CollectionMissing:
            # Deleted or moved meanwhile, or lost (then this raises BotNotFound, CollectionMoved), or never filled.
            await self._bots.make_collection(ask.bot)
            raise
        empty: list[None] = [None] * len(ask.texts)
        return [HitLists(near, words) for near, words in zip(dense or empty, lexical or empty, strict=True)]

    async def _dense(
        self, ask: RetrievalRequest, k: int, guarantee_timestamp: int, only: Sequence[int] | None, timings: Stopwatch
    ) -> list[list[Hit]] | None:
        if ask.vectors is None:
            return None
        vectors = await asyncio.shield(ask.vectors)  # Another search may go on with them.
        with timings.measure("dense"):
            if only is None:
                key = (ask.bot.milvus_collection, k, tuple(ask.exclude_ranges))
                found = await self._dense_batcher(key, (vectors, guarantee_timestamp))
            else:
                found = await self._index.search_dense(
                    ask.bot.milvus_collection,
                    vectors,
                    k,
                    guarantee_timestamp=guarantee_timestamp,
                    doc_ids=None if ask.by_chunk else only,
                    chunk_ids=only if ask.by_chunk else None,
                )
        floor = ask.floor
        return found if floor is None else [[hit for hit in hits if hit.score >= floor] for hits in found]

    async def _lexical(
        self, ask: RetrievalRequest, k: int, guarantee_timestamp: int, only: Sequence[int] | None, timings: Stopwatch
    ) -> list[list[Hit]]:
        with timings.measure("lexical"):
            if only is None:
                key = (ask.bot.milvus_collection, k, tuple(ask.exclude_ranges))
                return await self._lexical_batcher(key, (ask.texts, guarantee_timestamp))
            return await self._index.search_lexical(
                ask.bot.milvus_collection,
                ask.texts,
                k,
                guarantee_timestamp=guarantee_timestamp,
                doc_ids=None if ask.by_chunk else only,
                chunk_ids=only if ask.by_chunk else None,
            )

    async def _search_dense_batch(
        self, key: BatchKey, calls: Sequence[tuple[Vectors, int]]
    ) -> Sequence[list[list[Hit]]]:
        collection, k, exclude_ranges = key
        vectors = calls[0][0] if len(calls) == 1 else np.concatenate([vectors for vectors, _ in calls])
        guarantee_timestamp = max(guarantee_timestamp for _, guarantee_timestamp in calls)
        found = iter(
            await self._index.search_dense(
                collection, vectors, k, guarantee_timestamp=guarantee_timestamp, exclude_ranges=exclude_ranges
            )
        )
        return [[next(found) for _ in vectors] for vectors, _ in calls]

    async def _search_lexical_batch(
        self, key: BatchKey, calls: Sequence[tuple[Sequence[str], int]]
    ) -> Sequence[list[list[Hit]]]:
        collection, k, exclude_ranges = key
        texts = [text for texts, _ in calls for text in texts]
        guarantee_timestamp = max(guarantee_timestamp for _, guarantee_timestamp in calls)
        found = iter(
            await self._index.search_lexical(
                collection, texts, k, guarantee_timestamp=guarantee_timestamp, exclude_ranges=exclude_ranges
            )
        )
        return [[next(found) for _ in texts] for texts, _ in calls]


def in_flight_key_ranges(generations: Iterable[int]) -> list[KeyRange]:
    """The keys of these generations, neighbours joined; of the longest runs, if there are many."""
    runs: list[list[int]] = []
    for generation in sorted(generations):
        if runs and generation == runs[-1][1]:
            runs[-1][1] += 1
        else:
            runs.append([generation, generation + 1])
    longest = sorted(runs, key=lambda run: run[0] - run[1])[:MAX_SPANS]
    return [(first * CHUNKS_PER_GENERATION, end * CHUNKS_PER_GENERATION) for first, end in sorted(longest)]


def _kept(pair: HitLists, cuts: Sequence[ConfirmedHits]) -> HitLists:
    left = iter(cuts)
    return HitLists(None if pair.dense is None else next(left).hits, None if pair.lexical is None else next(left).hits)
