"""The read path: embeds the query, retrieves and ranks chunks, reranks and rates them, and adds their neighbours."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from uuid import UUID

from app.core.bots.bot_cache import StableValueCache
from app.core.bots.bots import Bots
from app.core.bots.loads import Loads
from app.core.bots.modes import check_mode
from app.core.bots.recent_vectors import RecentVectors
from app.core.embedding.port import Embedder, Vectors
from app.core.embedding.registry import EmbedderRegistry
from app.core.ports import DocumentPort, RecentWrites, VectorIndex
from app.core.search.coalescing import RequestCoalescer
from app.core.search.distinct import CANDIDATES, wider_request
from app.core.search.filter_plan import FilterPlanner
from app.core.search.fusion import DEFAULT_DENSE_WEIGHT
from app.core.search.hits import RetrievalRequest
from app.core.search.query import Query, Result, SearchResults, Trace
from app.core.search.ranking import ChunkReplaced, Ranker
from app.core.search.relevance import Relevance
from app.core.search.rerank import NO_RERANKER, Reranker, check_pairs
from app.core.search.response_size import MAX_LARGE_ANSWERS, AnswerThrottle, check_bytes, is_large
from app.core.search.retrieval import AssumedRowChanged, Retrieval, in_flight_key_ranges
from app.schemas.filter_tree import Normalized, references_chunks
from app.schemas.rows import Bot, Chunk, Mode, WriteTimestamps
from app.utils.errors import (
    AppError,
    CollectionMissing,
    CollectionMoved,
    ErrorLocation,
    InvalidInput,
    VectorIndexUnavailable,
)
from app.utils.stopwatch import Stopwatch
from app.utils.tasks import cancel_quietly

HYBRID_CANDIDATES = 100
"""Chunks of each list that are fused in hybrid mode."""
MAX_ATTEMPTS = 3
"""Attempts of a search whose bot's collection is replaced while it runs."""


class Search:
    """Stages in ``timings``: embedding, dense, lexical, cosines, postgres, filter (a part of postgres), rerank.

    Embedding, lexical search and filtering overlap, and so do dense and lexical search. ``on_search`` is called for
    each search. ``rebuild_error`` returns the error for a bot whose index is incomplete. ``recent``: what this process
    has just written.
    """

    def __init__(
        self,
        bots: Bots,
        documents: DocumentPort,
        index: VectorIndex,
        embedders: EmbedderRegistry,
        reranker: Reranker | None = None,
        *,
        on_search: Callable[[], None],
        large_answers: AnswerThrottle,
        rebuild_error: Callable[[Bot], AppError],
        relevance: Relevance,
        recent: RecentVectors,
        loads: Loads,
    ) -> None:
        self._bots = bots
        self._documents = documents
        self._index = index
        self._embedders = embedders
        self._reranker = reranker
        self._on_search = on_search
        self._large_answers = large_answers
        self._large_slots = asyncio.Semaphore(MAX_LARGE_ANSWERS)
        self._rebuild_error = rebuild_error
        self._relevance = relevance
        self._retrieval = Retrieval(bots, documents, index, embedders, recent, loads)
        self._planner = FilterPlanner(documents, self._retrieval)
        self._ranker = Ranker(documents, index, embedders)
        self._bot_reader = RequestCoalescer(self._read_bot)
        self._recent = recent
        self._bot_cache = StableValueCache[tuple[UUID, str | None], Bot](_without_writes)

    async def query(self, query: Query, timings: Stopwatch) -> SearchResults:
        """For each text the best ``limit`` current chunks, or documents, best first.

        Raises UnsupportedMode, InvalidInput, AnswerTooLarge, BotNotFound, ModelMismatch, PartialEmbeddingError,
        RerankInvalid, NotCalibrated, IndexRebuilding, and Unavailable when a store, the embedder or the reranker is
        unavailable.
        """
        if query.rerank:
            if self._reranker is None:
                raise InvalidInput(NO_RERANKER, locations=[ErrorLocation("body.rerank", NO_RERANKER)])
            check_pairs(len(query.texts), self._reranker.top_n)
        self._on_search()
        results = len(query.texts) * query.limit
        if not is_large(results, query.context_chunks):
            self._large_answers.note_search()
            return await self._search_with_retries(query, timings)
        async with self._large_slots, self._large_answers.slot(results, timings):
            return await self._search_with_retries(query, timings)

    async def _search_with_retries(self, query: Query, timings: Stopwatch) -> SearchResults:
        """Starts again, with the bot's new row, when its collection was replaced during the search."""
        for _ in range(MAX_ATTEMPTS):
            try:
                return await self._search(query, timings)
            except (CollectionMoved, CollectionMissing):
                continue
        raise VectorIndexUnavailable("The bot's collection was replaced during the search. Try again.")

    async def _search(self, query: Query, timings: Stopwatch) -> SearchResults:
        """Optimistic: searches with the bot's cached row; the statement that confirms the keys validates the row.

        If it was not validated, or anything else was irregular, the row is read. If it is unchanged, the optimistic
        results stand; otherwise the search is repeated with it (decision 10).
        """
        key = (query.bot_id, query.account)
        embedding: asyncio.Future[Vectors] | None = None
        optimistic_outcome: SearchResults | AppError | None = None
        cached = self._bot_cache.stable_value(key)
        if cached is not None and (cached.in_flight_generations or cached.rebuild):
            # What was in flight may have finished: the search would exclude its chunks or be refused for no reason.
            is_own = self._recent.wrote_last(cached.timestamps)
            cached = replace(cached, in_flight_generations=()) if is_own and not cached.rebuild else None
        if cached is not None and self._recent.heard_lately(cached) and _wanted_mode(query, cached) != "dense":
            cached = None  # Others may go on to write. With their vectors the timestamps are read again in any case.
        try:
            # With a single model, embedding need not wait for the bot's row.
            mode = _wanted_mode(query, cached)
            if mode != "lexical" and (only := self._embedders.only):
                if mode == "dense" and cached is not None:
                    embedding = await self._embedded(only, query.texts, timings)
                else:
                    embedding = asyncio.create_task(self._embed(only, query.texts, timings))
            if cached is not None and (embedding is not None or mode == "lexical"):
                try:
                    optimistic_outcome = await self._answer(query, cached, True, embedding, timings)
                    # Without timestamps an unchanged row does not prove that dropped keys were stale.
                    trace = optimistic_outcome.trace
                    is_regular = not trace.dropped or cached.milvus_timestamp > 0
                    if trace.bot_unchanged and trace.rounds == 1 and is_regular:
                        return optimistic_outcome
                except AssumedRowChanged:
                    pass
                except AppError as exc:
                    optimistic_outcome = exc
            bot = await self._bot_reader(key, None)
            self._bot_cache.observe(key, bot)
            if bot.rebuild and not query.allow_partial:
                raise self._rebuild_error(bot)
            if optimistic_outcome is not None and bot == cached:
                if isinstance(optimistic_outcome, AppError):
                    raise optimistic_outcome
                return optimistic_outcome
            if _wanted_mode(query, bot) != "lexical" and embedding is None:
                embedding = asyncio.create_task(self._embed(self._embedders.of(bot), query.texts, timings))
            return await self._answer(query, bot, False, embedding, timings)
        finally:
            if embedding is not None:
                cancel_quietly(embedding)

    async def _read_bot(self, key: tuple[UUID, str | None], calls: Sequence[None]) -> Sequence[Bot]:
        return [await self._bots.usable(*key)] * len(calls)

    async def _answer(
        self,
        query: Query,
        bot: Bot,
        is_optimistic: bool,
        embedding: asyncio.Future[Vectors] | None,
        timings: Stopwatch,
    ) -> SearchResults:
        mode = _mode(query, bot, await self._supports_lexical(bot))
        writes = RecentWrites(bot.timestamps)
        if mode == "dense" and self._recent.heard_lately(bot):
            # Milvus may not show yet what others wrote.
            with timings.measure("postgres"):
                writes = await self._retrieval.recent_writes(bot, lexical=False)
            bot = bot.with_timestamps(writes.timestamps)
            self._recent.heard_lately(bot)
            if is_optimistic:
                self._bot_cache.observe((query.bot_id, query.account), bot)
        request = self._request(query, mode, bot, writes, is_optimistic, None if mode == "lexical" else embedding)
        trace = Trace()
        try:
            results = await self._results(query, mode, request, trace, timings)
        except ChunkReplaced:
            with timings.measure("postgres"):
                writes = await self._retrieval.recent_writes(bot, request.lexical)
            again = replace(request, writes=writes, hydrate="all")
            results = await self._results(query, mode, again, trace, timings)
        if query.rerank:
            results = await self._reranked(query, results, timings)
        if query.min_confidence is None and bot.default_min_confidence is not None:
            query = replace(query, min_confidence=bot.default_min_confidence)
        results = await self._relevance.rate(query, bot, results)
        if query.context_chunks:
            results = await self._with_context(bot, results, query.context_chunks, timings)
        return SearchResults(mode, results, trace, bot.rebuild)

    async def _results(
        self, query: Query, mode: Mode, request: RetrievalRequest, trace: Trace, timings: Stopwatch
    ) -> list[list[Result]]:
        while True:
            found = await self._planner.retrieve(request, trace, timings)
            results = await self._ranker.results(query, mode, request, found, timings)
            wider = wider_request(request, found.lists, results) if query.distinct else None
            if wider is None:
                return results
            request = wider

    async def _embedded(self, embedder: Embedder, texts: Sequence[str], timings: Stopwatch) -> asyncio.Future[Vectors]:
        """The vectors as a finished future: cheaper than a task if the search has nothing else to do until then."""
        finished: asyncio.Future[Vectors] = asyncio.get_running_loop().create_future()
        try:
            finished.set_result(await self._embed(embedder, texts, timings))
        except AppError as exc:
            finished.set_exception(exc)
        return finished

    async def _embed(self, embedder: Embedder, texts: Sequence[str], timings: Stopwatch) -> Vectors:
        with timings.measure("embedding"):
            return await embedder.embed_queries(texts)

    async def _supports_lexical(self, bot: Bot) -> bool:
        try:
            return await self._index.supports_lexical(bot.milvus_collection)
        except CollectionMissing:
            await self._bots.ensure_collection(bot)
            return self._index.bm25

    def _request(
        self,
        query: Query,
        mode: Mode,
        bot: Bot,
        writes: RecentWrites,
        is_optimistic: bool,
        embedding: asyncio.Future[Vectors] | None,
    ) -> RetrievalRequest:
        limit = query.limit
        if query.rerank and self._reranker is not None:
            limit = max(limit, self._reranker.top_n)
        candidates = max(limit, HYBRID_CANDIDATES) if mode == "hybrid" else limit
        return RetrievalRequest(
            bot=bot,
            optimistic=is_optimistic,
            writes=writes,
            texts=query.texts,
            vectors=embedding,
            lexical=mode != "dense",
            candidates=max(candidates, CANDIDATES) if query.distinct else candidates,
            min_documents=limit if query.group_by_document else 1,
            limit=limit,
            dense_weight=_dense_weight(query, bot),
            min_similarity=query.score_threshold if mode == "dense" else None,
            where=query.where if bot.unicode_normalized or query.where is None else Normalized(query.where),
            filters_chunks=query.where is not None and references_chunks(query.where),
            exclude_ranges=in_flight_key_ranges(bot.in_flight_generations),
            hydrate="none" if is_large(len(query.texts) * limit, 0) else "likely",
        )

    async def _reranked(self, query: Query, results: list[list[Result]], timings: Stopwatch) -> list[list[Result]]:
        """The best ``top_n`` results of each text in the reranker's order, then the others; ``limit`` of them."""
        assert self._reranker is not None
        top_n = self._reranker.top_n
        pairs = [
            (text, result.chunk.text)
            for text, found in zip(query.texts, results, strict=True)
            for result in found[:top_n]
        ]
        with timings.measure("rerank"):
            scores = iter(await self._reranker.scores(pairs))
        scored = [
            [
                replace(result, score=score, rerank_score=score)
                for result, score in zip(found[:top_n], scores, strict=False)
            ]
            for found in results
        ]
        return [
            [*sorted(best, key=lambda result: -result.score), *found[top_n:]][: query.limit]
            for best, found in zip(scored, results, strict=True)
        ]

    async def _with_context(
        self, bot: Bot, results: list[list[Result]], distance: int, timings: Stopwatch
    ) -> list[list[Result]]:
        """Adds to each result its chunk and the neighbours up to ``distance`` chunks away. Raises AnswerTooLarge."""
        keys = list({result.chunk.chunk_id for found in results for result in found})
        with timings.measure("postgres"):
            if is_large(len(keys), distance):
                check_bytes(await self._documents.text_bytes(bot.bot_id, keys, distance), "body.context_chunks")
            neighbours = await self._documents.neighbours(bot.bot_id, keys, distance)

        def with_context(result: Result) -> Result:
            chunk = result.chunk
            own = Chunk(chunk.chunk_id, chunk.chunk_index, chunk.text, chunk.page_number)
            context = sorted([*neighbours.get(chunk.chunk_id, ()), own], key=lambda one: one.chunk_id)
            return replace(result, context=context)

        return [[with_context(result) for result in found] for found in results]


def _without_writes(bot: Bot) -> Bot:
    """The row without what changes with every write."""
    return replace(bot.with_timestamps(WriteTimestamps(0)), in_flight_generations=())


def _wanted_mode(query: Query, bot: Bot | None) -> Mode | None:
    """The query's mode, or the bot's default. None: neither names one, or the bot is not known yet."""
    if query.mode is None and query.dense_weight is not None:
        return "hybrid"  # A dense_weight asks for it.
    return query.mode or (bot.default_mode if bot else None)


def _mode(query: Query, bot: Bot, supports_lexical: bool) -> Mode:
    """The mode of the search. Raises UnsupportedMode, and InvalidInput for a threshold in lexical mode."""
    mode = _wanted_mode(query, bot) or ("hybrid" if supports_lexical else "dense")
    check_mode(mode, supports_lexical)
    if mode == "lexical" and query.score_threshold is not None:
        detail = "The bot's default mode is lexical, which computes no cosine similarity: name another mode."
        raise InvalidInput(detail, locations=[ErrorLocation("body.score_threshold", detail)])
    return mode


def _dense_weight(query: Query, bot: Bot) -> float:
    given = bot.default_dense_weight if query.dense_weight is None else query.dense_weight
    return DEFAULT_DENSE_WEIGHT if given is None else given
