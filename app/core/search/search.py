"""The read path: embed, find keys by vector and by words, confirm them in PostgreSQL, rank them."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from uuid import UUID

from app.core.bots.bot_cache import StableValueCache
from app.core.bots.bots import Bots
from app.core.embedding.check import invalid_vectors
from app.core.embedding.port import Embedder, PartialEmbeddingError, Vectors
from app.core.embedding.registry import EmbedderRegistry
from app.core.ports import DocumentPort, Hit, VectorIndex
from app.core.search.coalescing import RequestCoalescer
from app.core.search.completion import cosine
from app.core.search.fusion import DEFAULT_DENSE_WEIGHT, RankedChunk, best_per_document, relative_score_fusion
from app.core.search.hits import HitLists, RetrievalRequest, take_confirmed
from app.core.search.query import Mode, Query, Result, SearchResults, Trace
from app.core.search.rerank import NO_RERANKER, Reranker, check_pairs
from app.core.search.response_size import MAX_LARGE_ANSWERS, AnswerThrottle, check_bytes, is_large
from app.core.search.retrieval import Retrieval, RetrievalResult, in_flight_key_ranges
from app.schemas.filter_tree import Normalized, references_chunks
from app.schemas.rows import Bot, Chunk
from app.utils.errors import (
    AppError,
    CollectionMissing,
    CollectionMoved,
    EmbedderUnavailable,
    EmbeddingInvalid,
    ErrorLocation,
    InvalidInput,
    UnsupportedMode,
    VectorIndexUnavailable,
)
from app.utils.stopwatch import Stopwatch
from app.utils.tasks import cancel_quietly

HYBRID_DEPTH = 100
"""Chunks of each list that are fused."""
FEW_DOCUMENTS = 1_000
"""Up to so many matching documents are named to Milvus; with more, the nearest chunks are filtered afterwards."""
SLICE_DOCUMENTS = 10_000
"""Documents named to Milvus at a time where filtering afterwards did not find enough."""
ATTEMPTS = 3
"""How often a search begins anew because its bot moved."""


class Search:
    """Stages in ``timings``: embedding, dense, lexical, cosines, postgres, filter (a part of postgres), rerank.

    Embedding, searching by words and filtering overlap, as do the two searches. ``on_search`` is called for each
    search. ``rebuild_error`` makes the error for a bot whose index is incomplete.
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
    ) -> None:
        self._bots = bots
        self._documents = documents
        self._index = index
        self._embedders = embedders
        self._on_search = on_search
        self._large_answers = large_answers
        self._rebuild_error = rebuild_error
        self._reranker = reranker
        self._retrieval = Retrieval(bots, documents, index, embedders)
        self._usable = RequestCoalescer(self._usable_by_all)
        self._large = asyncio.Semaphore(MAX_LARGE_ANSWERS)
        self._rows = StableValueCache[tuple[UUID, str | None], Bot]()

    async def query(self, query: Query, timings: Stopwatch) -> SearchResults:
        """For each text the ``limit`` best current chunks, or documents, best first.

        Raises UnsupportedMode, InvalidInput, BotNotFound, ModelMismatch, TextsFailed, IndexRebuilding, and Unavailable
        when a store or the embedder is away.
        """
        if query.rerank:
            if self._reranker is None:
                raise InvalidInput(NO_RERANKER, places=[ErrorLocation("body.rerank", NO_RERANKER)])
            check_pairs(len(query.texts), self._reranker.top)
        self._on_search()
        results = len(query.texts) * query.limit
        if not is_large(results, query.context_chunks):
            self._large_answers.asked()
            return await self._attempts(query, timings)
        async with self._large, self._large_answers.turn(results, timings):
            return await self._attempts(query, timings)

    async def _attempts(self, query: Query, timings: Stopwatch) -> SearchResults:
        for _ in range(ATTEMPTS):
            try:
                return await self._query(query, timings)
            except (CollectionMoved, CollectionMissing):
                continue  # With the bot as it is now, and by its new model.
        raise VectorIndexUnavailable("The bot's collection went away while it was searched.")

    async def _query(self, query: Query, timings: Stopwatch) -> SearchResults:
        """First with the bot's row as it was lately, if it was at rest: what confirms the keys looks at the row too.

        Where that does not show it to be so still, or not all went smoothly, the row is read; if it is another one,
        the search begins anew with it.
        """
        of = (query.bot_id, query.account)
        embedding: asyncio.Future[Vectors] | None = None
        assumed: SearchResults | AppError | None = None
        expected = self._rows.stable_value(of)
        if expected is not None and (expected.in_flight_generations or expected.rebuild):
            expected = None  # It may be finished by now: new documents would be passed over, the answer refused.
        try:
            # Where one model serves every bot, it need not wait for the bot's row.
            if query.mode != "lexical" and (only := self._embedders.only):
                if query.mode == "dense" and expected is not None:
                    embedding = await self._embedded(only, query.texts, timings)
                else:
                    embedding = asyncio.create_task(self._embed(only, query.texts, timings))
            if expected is not None and (embedding is not None or query.mode == "lexical"):
                try:
                    assumed = await self._answer(query, expected, True, embedding, timings)
                    # Where the row has a timestamp, that it is held says that what was dropped is stale.
                    smooth = not assumed.trace.dropped or expected.milvus_timestamp > 0
                    if assumed.trace.held and assumed.trace.rounds == 1 and smooth:
                        return assumed
                except AppError as exc:
                    assumed = exc
            bot = await self._usable(of, None)
            self._rows.observe(of, bot)
            if bot.rebuild and not query.allow_partial:
                raise self._rebuild_error(bot)
            if assumed is not None and bot == expected:
                if isinstance(assumed, AppError):
                    raise assumed
                return assumed
            if query.mode != "lexical" and embedding is None:
                embedding = asyncio.create_task(self._embed(self._embedders.of(bot), query.texts, timings))
            return await self._answer(query, bot, False, embedding, timings)
        finally:
            if embedding is not None:
                cancel_quietly(embedding)

    async def _usable_by_all(self, key: tuple[UUID, str | None], callers: Sequence[None]) -> Sequence[Bot]:
        return [await self._bots.usable(*key)] * len(callers)

    async def _answer(
        self, query: Query, bot: Bot, assumed: bool, embedding: asyncio.Future[Vectors] | None, timings: Stopwatch
    ) -> SearchResults:
        mode = _mode(query, await self._has_words(bot))
        ask = self._ask(query, mode, bot, assumed, embedding)
        trace = Trace()
        try:
            results = await self._results(query, mode, ask, trace, timings)
        except _Replaced:
            with timings.measure("postgres"):
                guarantee_timestamp = await self._documents.milvus_timestamp(bot.bot_id, bot.milvus_collection)
            results = await self._results(
                query, mode, replace(ask, guarantee_timestamp=guarantee_timestamp, read_all=True), trace, timings
            )
        if query.rerank:
            results = await self._reranked(query, results, timings)
        if query.context_chunks:
            results = await self._with_context(bot, results, query.context_chunks, timings)
        return SearchResults(mode, results, trace, bot.rebuild)

    async def _embedded(self, embedder: Embedder, texts: Sequence[str], timings: Stopwatch) -> asyncio.Future[Vectors]:
        """As a task that has ended, which costs less: for a search that has nothing else to do meanwhile."""
        ended: asyncio.Future[Vectors] = asyncio.get_running_loop().create_future()
        try:
            ended.set_result(await self._embed(embedder, texts, timings))
        except AppError as exc:
            ended.set_exception(exc)
        return ended

    async def _embed(self, embedder: Embedder, texts: Sequence[str], timings: Stopwatch) -> Vectors:
        with timings.measure("embedding"):
            vectors = await embedder.embed_queries(texts)
        if reasons := invalid_vectors(vectors, len(texts), embedder.dimension):
            raise EmbeddingInvalid(f"The embedder's vector for the query is unusable: {next(iter(reasons.values()))}.")
        return vectors

    async def _has_words(self, bot: Bot) -> bool:
        try:
            return await self._index.supports_lexical(bot.milvus_collection)
        except CollectionMissing:
            await self._bots.make_collection(bot)
            return self._index.bm25

    def _ask(
        self, query: Query, mode: Mode, bot: Bot, assumed: bool, embedding: asyncio.Future[Vectors] | None
    ) -> RetrievalRequest:
        shown = query.limit
        if query.rerank and self._reranker is not None:
            shown = max(shown, self._reranker.top)
        return RetrievalRequest(
            bot=bot,
            assumed=assumed,
            guarantee_timestamp=bot.milvus_timestamp,
            texts=query.texts,
            vectors=embedding,
            lexical=mode != "dense",
            depth=max(shown, HYBRID_DEPTH) if mode == "hybrid" else shown,
            documents=shown if query.group_by_document else 1,
            read=shown,
            hydrate=not is_large(len(query.texts) * shown, 0),
            dense_weight=DEFAULT_DENSE_WEIGHT if query.dense_weight is None else query.dense_weight,
            floor=query.score_threshold if mode == "dense" else None,
            by_chunk=query.where is not None and references_chunks(query.where),
            where=query.where if bot.unicode_normalized or query.where is None else Normalized(query.where),
            exclude_ranges=in_flight_key_ranges(bot.in_flight_generations),
        )

    async def _find(self, ask: RetrievalRequest, trace: Trace, timings: Stopwatch) -> RetrievalResult:
        """By the plan that suits the number of documents that pass the filter."""
        matching: Sequence[int] | None = None
        if ask.where is not None:
            passing = await self._matching(ask, 0, FEW_DOCUMENTS + 1, timings)
            trace.matching = len(passing)
            if not passing:
                trace.plan = "nothing_matches"
                return _nothing(ask)
            trace.plan = "documents_first" if len(passing) <= FEW_DOCUMENTS else "search_first"
            matching = passing if trace.plan == "documents_first" else None
        found = await self._retrieval.find(ask, matching, timings)
        if trace.plan == "search_first" and not found.complete:
            trace.plan = "documents_in_slices"
            found = await self._find_by_slices(ask, timings)
        trace.rounds += found.rounds
        trace.dropped = found.dropped
        trace.held = found.held
        return found

    async def _matching(self, ask: RetrievalRequest, after: int, limit: int, timings: Stopwatch) -> Sequence[int]:
        assert ask.where is not None
        with timings.measure("postgres"), timings.measure("filter"):
            find = self._documents.matching_chunks if ask.by_chunk else self._documents.matching_documents
            return await find(ask.bot.bot_id, ask.where, after, limit)

    async def _find_by_slices(self, ask: RetrievalRequest, timings: Stopwatch) -> RetrievalResult:
        """Exact for any filter: the matching documents, SLICE_DOCUMENTS at a time."""
        best = _nothing(ask)
        after = 0
        while True:
            doc_ids = await self._matching(ask, after, SLICE_DOCUMENTS, timings)
            if doc_ids:
                found = await self._retrieval.find(ask, doc_ids, timings)
                best.rows |= found.rows
                best.vectors |= found.vectors
                best.rounds += found.rounds
                best.lists = [_merged(one, other) for one, other in zip(best.lists, found.lists, strict=True)]
            if not doc_ids or len(doc_ids) < SLICE_DOCUMENTS:
                for pair in best.lists:
                    pair.dense = pair.dense and take_confirmed(ask, pair.dense, True, best.rows).hits
                    pair.lexical = pair.lexical and take_confirmed(ask, pair.lexical, True, best.rows).hits
                return best
            after = doc_ids[-1]

    async def _winners(
        self, query: Query, mode: Mode, ask: RetrievalRequest, found: RetrievalResult, timings: Stopwatch
    ) -> list[list[RankedChunk]]:
        rankings = [relative_score_fusion(pair.dense, pair.lexical, ask.dense_weight) for pair in found.lists]
        if mode == "hybrid" and query.score_threshold is not None:
            rankings = await self._above(query.score_threshold, ask, found, rankings, timings)
        if query.group_by_document:
            doc_ids = {key: row.doc_id for key, row in found.rows.items()}
            rankings = [best_per_document(ranking, doc_ids) for ranking in rankings]
        return [ranking[: ask.read] for ranking in rankings]

    async def _above(
        self,
        threshold: float,
        ask: RetrievalRequest,
        found: RetrievalResult,
        rankings: list[list[RankedChunk]],
        timings: Stopwatch,
    ) -> list[list[RankedChunk]]:
        """Without what is less similar. What only words have found is compared now, where it can still pass.

        A chunk outside of a full dense list is no nearer than that list's last one.
        """
        candidates: list[list[RankedChunk]] = []
        for pair, ranking in zip(found.lists, rankings, strict=True):
            last = pair.dense[-1].score if pair.dense and len(pair.dense) >= ask.depth else 1.0
            candidates.append([one for one in ranking if one.dense is not None or last >= threshold])
        compared = await self._with_cosines(ask, found, candidates, timings)
        return [[one for one in ranking if one.dense is not None and one.dense >= threshold] for ranking in compared]

    async def _read(
        self,
        ask: RetrievalRequest,
        found: RetrievalResult,
        winners: Iterable[Sequence[RankedChunk]],
        timings: Stopwatch,
    ) -> None:
        """Reads the chunks that were not foreseen to win. Raises _Replaced if one is no longer current."""
        missing = {one.chunk_id for ranking in winners for one in ranking if found.rows[one.chunk_id].chunk is None}
        if not missing:
            return
        with timings.measure("postgres"):
            if is_large(len(missing), 0):
                check_bytes(await self._documents.text_bytes(ask.bot.bot_id, list(missing), 0), "body.limit")
            rows = await self._documents.current_chunks(ask.bot.bot_id, list(missing), missing, ask.where)
        if len(rows) < len(missing):
            raise _Replaced
        found.rows |= rows

    async def _results(
        self, query: Query, mode: Mode, ask: RetrievalRequest, trace: Trace, timings: Stopwatch
    ) -> list[list[Result]]:
        """Raises _Replaced when a chunk was replaced before it was read; not when all are read at once."""
        found = await self._find(ask, trace, timings)
        winners = await self._winners(query, mode, ask, found, timings)
        await self._read(ask, found, winners, timings)
        if mode == "hybrid":
            winners = await self._with_cosines(ask, found, winners, timings)
        return [
            [
                Result(chunk, one.score, one.dense, one.lexical)
                for one in ranking
                if (chunk := found.rows[one.chunk_id].chunk) is not None
            ]
            for ranking in winners
        ]

    async def _with_cosines(
        self, ask: RetrievalRequest, found: RetrievalResult, rankings: list[list[RankedChunk]], timings: Stopwatch
    ) -> list[list[RankedChunk]]:
        """Gives what only words have found its cosine similarity, from the stored vectors.

        Those of a chunk that was replaced a moment ago may be gone. Raises _Replaced when its text was not read.
        """
        lacking = {one.chunk_id for ranking in rankings for one in ranking if one.dense is None}
        if not lacking or ask.vectors is None:
            return rankings
        stored = {key: found.vectors[key] for key in lacking if key in found.vectors}
        if asked := list(lacking - stored.keys()):
            with timings.measure("cosines"):
                stored |= await self._index.embeddings(
                    ask.bot.milvus_collection, asked, guarantee_timestamp=ask.guarantee_timestamp
                )
        if gone := list(lacking - stored.keys()):
            stored |= zip(gone, await self._embedded_again(ask, found, gone, timings), strict=True)
        return [
            [
                one if one.dense is not None else one._replace(dense=cosine(stored[one.chunk_id], vector))
                for one in ranking
            ]
            for ranking, vector in zip(rankings, await asyncio.shield(ask.vectors), strict=True)
        ]

    async def _embedded_again(
        self, ask: RetrievalRequest, found: RetrievalResult, keys: Sequence[int], timings: Stopwatch
    ) -> Vectors:
        chunks = [chunk for key in keys if (chunk := found.rows[key].chunk) is not None]
        if len(chunks) < len(keys):
            raise _Replaced
        try:
            with timings.measure("embedding"):
                return await self._embedders.of(ask.bot).embed_documents([chunk.text for chunk in chunks])
        except PartialEmbeddingError as exc:
            raise EmbedderUnavailable(
                "A chunk that was replaced a moment ago could not be compared. Try again."
            ) from exc

    async def _reranked(self, query: Query, results: list[list[Result]], timings: Stopwatch) -> list[list[Result]]:
        assert self._reranker is not None
        top = self._reranker.top
        pairs = [
            (text, one.chunk.text) for text, found in zip(query.texts, results, strict=True) for one in found[:top]
        ]
        with timings.measure("rerank"):
            scores = iter(await self._reranker.scores(pairs))
        scored = [
            [replace(one, score=score, rerank_score=score) for one, score in zip(found[:top], scores, strict=False)]
            for found in results
        ]
        return [
            [*sorted(best, key=lambda one: -one.score), *found[top:]][: query.limit]
            for best, found in zip(scored, results, strict=True)
        ]

    async def _with_context(
        self, bot: Bot, results: list[list[Result]], reach: int, timings: Stopwatch
    ) -> list[list[Result]]:
        keys = list({one.chunk.chunk_id for found in results for one in found})
        with timings.measure("postgres"):
            if is_large(len(keys), reach):
                check_bytes(await self._documents.text_bytes(bot.bot_id, keys, reach), "body.context_chunks")
            beside = await self._documents.neighbours(bot.bot_id, keys, reach)

        def whole(one: Result) -> Result:
            chunk = one.chunk
            itself = Chunk(chunk.chunk_id, chunk.chunk_index, chunk.text, chunk.page_number)
            context = sorted([*beside.get(chunk.chunk_id, ()), itself], key=lambda part: part.chunk_id)
            return replace(one, context=context)

        return [[whole(one) for one in found] for found in results]


class _Replaced(Exception):
    """A chunk was replaced between being found and being read."""


def _mode(query: Query, supports_lexical: bool) -> Mode:
    """Raises UnsupportedMode, and InvalidInput for what the mode has no use for."""
    # A weight speaks of hybrid mode, named or not.
    mode: Mode = query.mode or ("hybrid" if supports_lexical or query.dense_weight is not None else "dense")
    if mode != "dense" and not supports_lexical:
        detail = f"This bot's collection holds no words, so that {mode} mode cannot be served; use dense."
        raise UnsupportedMode(detail, places=[ErrorLocation("body.mode", detail)])
    return mode


def _nothing(ask: RetrievalRequest) -> RetrievalResult:
    return RetrievalResult(
        [HitLists(None if ask.vectors is None else [], [] if ask.lexical else None) for _ in ask.texts]
    )


def _merged(one: HitLists, other: HitLists) -> HitLists:
    def best(some: list[Hit] | None, more: list[Hit] | None) -> list[Hit] | None:
        if some is None or more is None:
            return some
        return sorted([*some, *more], key=lambda hit: (-hit.score, hit.chunk_id))

    return HitLists(best(one.dense, other.dense), best(one.lexical, other.lexical))
