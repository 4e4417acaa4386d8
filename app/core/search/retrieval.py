"""Searches Milvus for keys, asks PostgreSQL which are current, and repeats until there are enough.

Milvus may return chunks that were deleted, and may not yet return their replacements. Keys that PostgreSQL does not
confirm are dropped. Chunks that Milvus could not show yet come from PostgreSQL or from another search (decision 6).
"""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from uuid import UUID

import numpy as np

from app.core.bots import recent_vectors
from app.core.bots.bots import Bots
from app.core.bots.loads import Loads
from app.core.bots.recent_vectors import RecentVectors, Snapshot
from app.core.embedding.port import Vectors
from app.core.embedding.registry import EmbedderRegistry
from app.core.ports import DocumentPort, Hit, KeyRange, RecentWrites, VectorIndex
from app.core.search.coalescing import RequestCoalescer
from app.core.search.completion import Completion
from app.core.search.hits import (
    ConfirmedHits,
    HitLists,
    RetrievalRequest,
    keys_to_hydrate,
    merge_hits,
    take_all_confirmed,
)
from app.schemas.rows import CHUNKS_PER_GENERATION, Bot, CurrentChunk, ExpectedBot
from app.utils.errors import CollectionMissing, Unavailable
from app.utils.stopwatch import Stopwatch

MAX_TOP_K = 16_384
"""Milvus's limit (https://milvus.io/docs/limitations.md)."""
SPARE_HITS = 16
"""Hits requested beyond the needed number, so that a few stale keys do not cost a second search."""
WIDEN_FACTOR = 8
"""Growth of top k when a list came out too short."""
MAX_ROUNDS = 6
SMALL_COMPLETION, LARGE_COMPLETION = 16, 512
"""Chunks of replaced documents that are embedded instead of searching again: in the first rounds, and in later ones."""
SMALL_COMPLETION_ROUNDS = 2
MAX_EXCLUDED_RANGES = 16
"""Key ranges in one Milvus filter expression."""
MAX_CONCURRENT_SEARCHES = 2
"""Milvus searches for each BatchKey: Milvus works on the second while the answer to the first is being received."""

BatchKey = tuple[str, int, tuple[KeyRange, ...]]
"""Searches with the same collection, top k and excluded ranges share a request.

Searches with ``allowed_ids`` do not: PostgreSQL named the ids, and it names no unfinished documents.
"""

LexicalBatchKey = tuple[str, int, tuple[KeyRange, ...], int]
"""The same, and the version of the analyzer."""


class AssumedRowChanged(Exception):
    """Others have written since the bot's row was read that an optimistic search assumes."""


@dataclass(slots=True)
class RetrievalResult:
    """The confirmed hits for each text.

    ``rows``: the confirmed chunks by key. ``is_complete``: no list is shorter than it could be. ``rounds``: searches in
    Milvus. ``dropped``: keys of the last round that PostgreSQL did not confirm. ``bot_unchanged``: the assumed row of
    the bot was found unchanged. ``vectors``: of chunks that Milvus may not have yet.
    """

    lists: list[HitLists]
    rows: dict[int, CurrentChunk] = field(default_factory=dict)
    is_complete: bool = True
    rounds: int = 0
    dropped: int = 0
    bot_unchanged: bool = False
    vectors: dict[int, Vectors] = field(default_factory=dict)


class Retrieval:
    """Stages in ``timings``: dense and lexical, which overlap, and postgres."""

    def __init__(
        self,
        bots: Bots,
        documents: DocumentPort,
        index: VectorIndex,
        embedders: EmbedderRegistry,
        recent: RecentVectors,
        loads: Loads,
    ) -> None:
        self._completion = Completion(documents, embedders)
        self._recent = recent
        self._loads = loads
        self._bots = bots
        self._documents = documents
        self._index = index
        self._confirm_batcher = RequestCoalescer(self._confirm_batch)
        self._writes_reader = RequestCoalescer(self._read_writes)
        self._dense_batcher = RequestCoalescer(self._search_dense_batch, MAX_CONCURRENT_SEARCHES)
        self._lexical_batcher = RequestCoalescer(self._search_lexical_batch, MAX_CONCURRENT_SEARCHES)

    async def retrieve(
        self, request: RetrievalRequest, allowed_ids: Sequence[int] | None, timings: Stopwatch
    ) -> RetrievalResult:
        """Searches until every list is long enough and nothing can be missing, or Milvus has no more hits.

        ``allowed_ids`` limits the search to these documents, or to these chunks if the request ``filters_chunks``.
        None searches the whole collection; a filter is then applied to the hits (post-filtering).

        A key is unconfirmed because it is stale, or because its document was replaced after the bot's timestamps were
        read. In the second case the new vectors are in Milvus, but this search may not have seen them. If the bot's row
        is unchanged, but for writes of this process that were looked at, the key is stale. Otherwise the document comes
        from PostgreSQL if it is small, or from a search under the newer timestamps. Without timestamps, on Milvus Lite,
        a second search is cheap: a key that is unconfirmed twice is stale.

        With post-filtering most unconfirmed keys are current but fail the filter. A list that stays too short at
        Milvus's top-k limit makes the result incomplete. Raises CollectionMoved when the bot has another collection by
        now, AssumedRowChanged if the request is optimistic, and Unavailable when more documents were replaced or
        deleted than MAX_ROUNDS searches can make up for.
        """
        k = min(request.candidates + SPARE_HITS, MAX_TOP_K)
        writes = request.writes
        post_filter = request.where is not None and allowed_ids is None
        unconfirmed_before: set[int] = set()
        result = RetrievalResult([])
        for result.rounds in range(1, MAX_ROUNDS + 1):
            snapshot = self._snapshot(request, writes)
            raw = await self._search(request, k, snapshot.guarantee_timestamp, allowed_ids, timings)
            with_recent = await _with_recent(request, raw, k, snapshot, allowed_ids)
            lists: Sequence[HitLists] = with_recent
            with timings.measure("postgres"):
                result.rows = await self._confirmed(request, lists, snapshot)
            has_all_own = self._recent.is_unchanged(request.bot.milvus_collection, snapshot)
            result.bot_unchanged = request.optimistic and bool(result.rows)
            confirmed = take_all_confirmed(request, raw, lists, k, result.rows)
            unconfirmed = {key for pair in confirmed for one in pair for key in one.unconfirmed}
            result.dropped = len(unconfirmed)
            # is_current: every unconfirmed key is stale, or its document's current chunks were added.
            is_current = unconfirmed <= unconfirmed_before or (
                result.bot_unchanged and snapshot.shared is None and writes.timestamps.newest > 0 and has_all_own
            )
            if not is_current:
                with timings.measure("postgres"):
                    writes = await self.recent_writes(request.bot, request.lexical)
                is_current = writes.timestamps.newest > 0 and snapshot.covers(writes)
                if request.optimistic and not result.rows and writes.timestamps.newest and not is_current:
                    raise AssumedRowChanged
                is_current = is_current and has_all_own
            if not is_current and (writes.timestamps.newest or result.rounds > 1 or post_filter):
                max_chunks = SMALL_COMPLETION if result.rounds <= SMALL_COMPLETION_ROUNDS else LARGE_COMPLETION
                completed = await self._completion.complete(
                    request, raw, with_recent, k, result.rows, max_chunks, timings
                )
                if completed is not None:
                    is_current = True
                    lists, result.rows, result.vectors = completed.lists, completed.rows, completed.vectors
                    confirmed = take_all_confirmed(request, raw, lists, k, result.rows)
            result.lists = [_only_confirmed(pair, hits) for pair, hits in zip(lists, confirmed, strict=True)]
            all_lists = [one for pair in confirmed for one in pair]
            result.is_complete = all(one.is_enough or one.is_exhausted for one in all_lists)
            if result.is_complete and is_current:
                return result
            if not result.is_complete:
                # A list is too short: ask for more hits, unless k is at its limit or too few would pass the filter.
                share = min(one.share for one in all_lists if not one.is_enough)
                if k == MAX_TOP_K or (post_filter and share * MAX_TOP_K < request.candidates):
                    if is_current and (post_filter or share == 1):
                        return result
                else:
                    k = min(max(k * WIDEN_FACTOR, int(request.candidates / max(share, 0.001) * 1.5)), MAX_TOP_K)
            unconfirmed_before = unconfirmed
        raise Unavailable("Too many documents of this bot were replaced or deleted during the search.")

    async def recent_writes(self, bot: Bot, lexical: bool) -> RecentWrites:
        """The bot's newest writes, with their vectors if the search is not ``lexical``. Raises CollectionMoved."""
        if lexical:
            return RecentWrites(await self._documents.write_timestamps(bot.bot_id, bot.milvus_collection))
        return await self._writes_reader((bot.bot_id, bot.milvus_collection), None)

    async def _read_writes(self, key: tuple[UUID, str], calls: Sequence[None]) -> Sequence[RecentWrites]:
        limits = (recent_vectors.READ_AGE, recent_vectors.READ_CHUNKS)
        return [await self._documents.recent_writes(*key, *limits)] * len(calls)

    def _snapshot(self, request: RetrievalRequest, writes: RecentWrites) -> Snapshot:
        """Of the recent vectors. Words are found by Milvus alone, so a search by words waits for every write.

        Those of other processes are part of an optimistic search only from its beginning: otherwise it asks whether the
        row's timestamps are the same.
        """
        if request.lexical:
            return Snapshot(writes.timestamps.newest)
        if request.optimistic and request.writes.vectors is None:
            writes = RecentWrites(writes.timestamps)
        return self._recent.snapshot(request.bot.milvus_collection, writes)

    async def _confirmed(
        self, request: RetrievalRequest, lists: Sequence[HitLists], snapshot: Snapshot
    ) -> dict[int, CurrentChunk]:
        """The current chunks among the hits. Spare hits are looked up only if they may be needed."""
        all_lists = [hits for pair in lists for hits in pair.each()]
        hydrate = keys_to_hydrate(request, lists)
        needs_spare = request.where is not None or request.min_documents > 1
        keys = {hit.chunk_id for hits in all_lists for hit in (hits if needs_spare else hits[: request.candidates])}
        expected_bot = snapshot.expected(request.bot) if request.optimistic else None
        if request.where is not None:
            return await self._documents.current_chunks(
                request.bot.bot_id, list(keys), hydrate, request.where, expected_bot
            )
        batch = (request.bot.bot_id, expected_bot)
        rows = await self._confirm_batcher(batch, (keys, hydrate))
        if any(key not in rows for key in keys) and (
            spare_keys := {hit.chunk_id for hits in all_lists for hit in hits} - keys
        ):
            # All keys again: two statements could confirm two generations of one document.
            rows = await self._confirm_batcher(batch, (keys | spare_keys, hydrate))
        return rows

    async def _confirm_batch(
        self, batch: tuple[UUID, ExpectedBot | None], calls: Sequence[tuple[set[int], set[int]]]
    ) -> Sequence[dict[int, CurrentChunk]]:
        """Every call gets the rows of all calls."""
        bot_id, expected_bot = batch
        keys = set[int]().union(*(keys for keys, _ in calls))
        hydrate = set[int]().union(*(hydrate for _, hydrate in calls))
        return [await self._documents.current_chunks(bot_id, list(keys), hydrate, None, expected_bot)] * len(calls)

    async def _search(
        self,
        request: RetrievalRequest,
        k: int,
        guarantee_timestamp: int,
        allowed_ids: Sequence[int] | None,
        timings: Stopwatch,
    ) -> list[HitLists]:
        search = (request, k, guarantee_timestamp, allowed_ids, timings)
        collection = request.bot.milvus_collection
        try:
            if self._loads.is_cold(collection):  # Here, because what follows may serve several requests.
                await self._loads.ready(collection)
            if request.lexical:
                dense, lexical = await asyncio.gather(self._dense(*search), self._lexical(*search))
            else:  # Without the cost of two tasks.
                dense, lexical = await self._dense(*search), None
        except CollectionMissing:
            # The collection was never created, or it was deleted, moved or lost: ensure_collection then raises
            # BotNotFound or CollectionMoved.
            await self._bots.ensure_collection(request.bot)
            raise
        none: list[None] = [None] * len(request.texts)
        return [HitLists(*pair) for pair in zip(dense or none, lexical or none, strict=True)]

    async def _dense(
        self,
        request: RetrievalRequest,
        k: int,
        guarantee_timestamp: int,
        allowed_ids: Sequence[int] | None,
        timings: Stopwatch,
    ) -> list[list[Hit]] | None:
        if request.vectors is None:
            return None
        vectors = await asyncio.shield(request.vectors)  # A repeated search may still need them.
        with timings.measure("dense"):
            if allowed_ids is None:
                key = (request.bot.milvus_collection, k, tuple(request.exclude_ranges))
                found = await self._dense_batcher(key, (vectors, guarantee_timestamp))
            else:
                found = await self._index.search_dense(
                    request.bot.milvus_collection,
                    vectors,
                    k,
                    guarantee_timestamp=guarantee_timestamp,
                    doc_ids=None if request.filters_chunks else allowed_ids,
                    chunk_ids=allowed_ids if request.filters_chunks else None,
                )
        least = request.min_similarity
        return found if least is None else [[hit for hit in hits if hit.score >= least] for hits in found]

    async def _lexical(
        self,
        request: RetrievalRequest,
        k: int,
        guarantee_timestamp: int,
        allowed_ids: Sequence[int] | None,
        timings: Stopwatch,
    ) -> list[list[Hit]]:
        with timings.measure("lexical"):
            if allowed_ids is None:
                key = (request.bot.milvus_collection, k, tuple(request.exclude_ranges))
                version = request.bot.analyzer_version
                return await self._lexical_batcher((*key, version), (request.texts, guarantee_timestamp))
            return await self._index.search_lexical(
                request.bot.milvus_collection,
                request.texts,
                k,
                analyzer_version=request.bot.analyzer_version,
                guarantee_timestamp=guarantee_timestamp,
                doc_ids=None if request.filters_chunks else allowed_ids,
                chunk_ids=allowed_ids if request.filters_chunks else None,
            )

    async def _search_dense_batch(
        self, key: BatchKey, calls: Sequence[tuple[Vectors, int]]
    ) -> Sequence[list[list[Hit]]]:
        collection, k, exclude_ranges = key
        vectors = calls[0][0] if len(calls) == 1 else np.concatenate([vectors for vectors, _ in calls])
        newest = max(guarantee_timestamp for _, guarantee_timestamp in calls)
        hits = iter(
            await self._index.search_dense(
                collection, vectors, k, guarantee_timestamp=newest, exclude_ranges=exclude_ranges
            )
        )
        return [[next(hits) for _ in vectors] for vectors, _ in calls]

    async def _search_lexical_batch(
        self, key: LexicalBatchKey, calls: Sequence[tuple[Sequence[str], int]]
    ) -> Sequence[list[list[Hit]]]:
        collection, k, exclude_ranges, version = key
        all_texts = [text for texts, _ in calls for text in texts]
        newest = max(guarantee_timestamp for _, guarantee_timestamp in calls)
        hits = iter(
            await self._index.search_lexical(
                collection,
                all_texts,
                k,
                analyzer_version=version,
                guarantee_timestamp=newest,
                exclude_ranges=exclude_ranges,
            )
        )
        return [[next(hits) for _ in texts] for texts, _ in calls]


async def _with_recent(
    request: RetrievalRequest, raw: list[HitLists], k: int, snapshot: Snapshot, allowed_ids: Sequence[int] | None
) -> list[HitLists]:
    """The lists from Milvus with the recent vectors merged in."""
    if not snapshot.parts or request.vectors is None:
        return raw
    doc_ids, chunk_ids = (None, allowed_ids) if request.filters_chunks else (allowed_ids, None)
    least = -1.0 if request.min_similarity is None else request.min_similarity
    merged: list[HitLists] = []
    for pair, query in zip(raw, await asyncio.shield(request.vectors), strict=True):
        near = [hit for hit in snapshot.nearest(query, doc_ids, chunk_ids) if hit.score >= least]
        dense = pair.dense or []
        merged.append(HitLists(merge_hits(dense, near, dense, k), pair.lexical))
    return merged


def in_flight_key_ranges(generations: Iterable[int]) -> list[KeyRange]:
    """The key ranges of these generations. Adjacent ones are joined, and the MAX_EXCLUDED_RANGES longest are kept."""
    runs: list[list[int]] = []
    for generation in sorted(generations):
        if runs and generation == runs[-1][1]:
            runs[-1][1] += 1
        else:
            runs.append([generation, generation + 1])
    longest = sorted(runs, key=lambda run: run[0] - run[1])[:MAX_EXCLUDED_RANGES]
    return [(first * CHUNKS_PER_GENERATION, end * CHUNKS_PER_GENERATION) for first, end in sorted(longest)]


def _only_confirmed(pair: HitLists, confirmed: Sequence[ConfirmedHits]) -> HitLists:
    lists = iter(confirmed)
    return HitLists(
        None if pair.dense is None else next(lists).hits, None if pair.lexical is None else next(lists).hits
    )
