"""Turns confirmed hits into results: fuses, applies threshold and grouping, and reads the texts of the winners."""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import replace

from app.core.embedding.port import PartialEmbeddingError, Vectors
from app.core.embedding.registry import EmbedderRegistry
from app.core.ports import DocumentPort, VectorIndex
from app.core.search.completion import cosine
from app.core.search.distinct import DistinctRanking, distinct_ranking, text_keys
from app.core.search.fusion import RankedChunk, best_per_document, relative_score_fusion
from app.core.search.hits import RetrievalRequest
from app.core.search.query import Query, Result
from app.core.search.response_size import check_bytes, is_large
from app.core.search.retrieval import RetrievalResult
from app.schemas.rows import Mode
from app.utils.errors import EmbedderUnavailable
from app.utils.stopwatch import Stopwatch

Rankings = list[list[RankedChunk]]
"""One ranking for each query text, best first."""


class ChunkReplaced(Exception):
    """A chunk was replaced after it was found and before its text was read. The search has to be repeated."""


class Ranker:
    """Stages in ``timings``: postgres, cosines, embedding."""

    def __init__(self, documents: DocumentPort, index: VectorIndex, embedders: EmbedderRegistry) -> None:
        self._documents = documents
        self._index = index
        self._embedders = embedders

    async def results(
        self, query: Query, mode: Mode, request: RetrievalRequest, found: RetrievalResult, timings: Stopwatch
    ) -> list[list[Result]]:
        """For each text the best ``request.limit`` chunks or documents, best first.

        Raises ChunkReplaced, but not if ``request.hydrate`` is "all".
        """
        rankings = await self._rank(query, mode, request, found, timings)
        distinct: Sequence[DistinctRanking] | None = None
        if query.distinct:
            distinct = await self._distinct(query, request, found, rankings, timings)
            rankings = [one.best for one in distinct]
        elif query.group_by_document:
            doc_ids = _doc_ids(found)
            rankings = [best_per_document(ranking, doc_ids) for ranking in rankings]
        rankings = [ranking[: request.limit] for ranking in rankings]
        await self._hydrate(request, found, rankings, timings)
        if mode == "hybrid":
            rankings = await self._with_cosines(request, found, rankings, timings)
        results = [
            [
                Result(chunk, ranked.score, ranked.dense, ranked.lexical)
                for ranked in ranking
                if (chunk := found.rows[ranked.chunk_id].chunk) is not None
            ]
            for ranking in rankings
        ]
        if distinct is None:
            return results
        return [
            [replace(one, duplicates=ranking.duplicates(one.chunk.chunk_id, found.rows)) for one in of_text]
            for ranking, of_text in zip(distinct, results, strict=True)
        ]

    async def _rank(
        self, query: Query, mode: Mode, request: RetrievalRequest, found: RetrievalResult, timings: Stopwatch
    ) -> Rankings:
        rankings = [
            relative_score_fusion(pair.dense, pair.lexical, request.dense_weight, request.candidates)
            for pair in found.lists
        ]
        if mode == "hybrid" and query.score_threshold is not None:
            rankings = await self._above_threshold(query.score_threshold, request, found, rankings, timings)
        return rankings

    async def _distinct(
        self,
        query: Query,
        request: RetrievalRequest,
        found: RetrievalResult,
        rankings: Rankings,
        timings: Stopwatch,
    ) -> list[DistinctRanking]:
        with timings.measure("postgres"):
            keys = await text_keys(self._documents, request.bot.bot_id, found.rows, rankings)
        doc_ids = _doc_ids(found) if query.group_by_document else None
        return [distinct_ranking(ranking, keys, doc_ids) for ranking in rankings]

    async def _above_threshold(
        self,
        threshold: float,
        request: RetrievalRequest,
        found: RetrievalResult,
        rankings: Rankings,
        timings: Stopwatch,
    ) -> Rankings:
        """Removes chunks whose cosine similarity is below the threshold.

        The similarity of a chunk from the lexical list alone is computed only if it can reach the threshold: a chunk
        outside a full dense list is at most as similar as that list's last chunk.
        """
        candidates: Rankings = []
        for pair, ranking in zip(found.lists, rankings, strict=True):
            last = pair.dense[-1].score if pair.dense and len(pair.dense) >= request.candidates else 1.0
            candidates.append([ranked for ranked in ranking if ranked.dense is not None or last >= threshold])
        compared = await self._with_cosines(request, found, candidates, timings)
        return [
            [ranked for ranked in ranking if ranked.dense is not None and ranked.dense >= threshold]
            for ranking in compared
        ]

    async def _hydrate(
        self,
        request: RetrievalRequest,
        found: RetrievalResult,
        rankings: Iterable[Sequence[RankedChunk]],
        timings: Stopwatch,
    ) -> None:
        """Reads the winners that were not hydrated yet into ``found.rows``. Raises ChunkReplaced, AnswerTooLarge."""
        missing = {
            ranked.chunk_id for ranking in rankings for ranked in ranking if not found.rows[ranked.chunk_id].chunk
        }
        if not missing:
            return
        with timings.measure("postgres"):
            if is_large(len(missing), 0):
                check_bytes(await self._documents.text_bytes(request.bot.bot_id, list(missing), 0), "body.limit")
            rows = await self._documents.current_chunks(request.bot.bot_id, list(missing), missing, request.where)
        if len(rows) < len(missing):
            raise ChunkReplaced
        found.rows |= rows

    async def _with_cosines(
        self, request: RetrievalRequest, found: RetrievalResult, rankings: Rankings, timings: Stopwatch
    ) -> Rankings:
        """Adds the cosine similarity of chunks that only the lexical list has, from the stored vectors.

        The vector of a chunk that has just been replaced may be gone; then its text is embedded again. Raises
        ChunkReplaced if its text was not read.
        """
        missing = {ranked.chunk_id for ranking in rankings for ranked in ranking if ranked.dense is None}
        if not missing or request.vectors is None:
            return rankings
        vectors = {key: found.vectors[key] for key in missing if key in found.vectors}
        if stored := list(missing - vectors.keys()):
            with timings.measure("cosines"):
                vectors |= await self._index.embeddings(
                    request.bot.milvus_collection, stored, guarantee_timestamp=request.writes.timestamps.newest
                )
        if gone := list(missing - vectors.keys()):
            vectors |= zip(gone, await self._embed_again(request, found, gone, timings), strict=True)
        return [
            [
                ranked if ranked.dense is not None else ranked._replace(dense=cosine(vectors[ranked.chunk_id], query))
                for ranked in ranking
            ]
            for ranking, query in zip(rankings, await asyncio.shield(request.vectors), strict=True)
        ]

    async def _embed_again(
        self, request: RetrievalRequest, found: RetrievalResult, keys: Sequence[int], timings: Stopwatch
    ) -> Vectors:
        chunks = [chunk for key in keys if (chunk := found.rows[key].chunk) is not None]
        if len(chunks) < len(keys):
            raise ChunkReplaced
        try:
            with timings.measure("embedding"):
                return await self._embedders.of(request.bot).embed_documents([chunk.text for chunk in chunks])
        except PartialEmbeddingError as exc:
            raise EmbedderUnavailable("A chunk that has just been replaced could not be compared. Try again.") from exc


def _doc_ids(found: RetrievalResult) -> dict[int, int]:
    return {key: row.doc_id for key, row in found.rows.items()}
