"""Routes of /search."""

from collections.abc import Callable
from typing import TypedDict

from fastapi import APIRouter

from app.api.auth import Account, AccountDep
from app.api.deps import READ, ServicesDep
from app.api.errors import BODY_ERRORS, error_responses
from app.api.fast_route import FastRoute
from app.api.limits import LimitsDep, check_answer, check_query
from app.core.embedding.port import PartialEmbeddingError
from app.core.search.query import Query, Result, SearchResults
from app.core.services import Services
from app.models.search import (
    ContextChunk,
    SearchAnswer,
    SearchBatch,
    SearchBatchAnswer,
    SearchOptions,
    SearchQuery,
    SearchResult,
    SearchTimings,
)
from app.schemas.rows import CHUNKS_PER_GENERATION
from app.utils import metrics
from app.utils.stopwatch import Stopwatch

router = APIRouter(prefix="/search", tags=["search"], route_class=FastRoute)


@router.post(
    "/query", dependencies=[READ], responses=error_responses(404, 409, 502, *BODY_ERRORS), operation_id="search"
)
async def query(body: SearchQuery, services: ServicesDep, account: AccountDep, limits: LimitsDep) -> SearchAnswer:
    """Searches one bot: the best chunks for a text, best first, as they are stored now."""
    timings = Stopwatch()
    check_query([body.query_text], limits)
    answer = await _search(services, account, body, [body.query_text], timings, lambda _: "body.query_text")
    return {
        "status": "success",
        "query": body.query_text,
        "mode": answer.mode,
        "embedding_time_ms": timings["embedding"],
        "vector_search_time_ms": _milvus(timings),
        "postgres_query_time_ms": timings["postgres"],
        "total_time_ms": timings.total,
        "timings": _timings(answer, timings),
        **_share(body, answer),
        "results": _results(answer.results[0]),
    }


@router.post(
    "/batch", dependencies=[READ], responses=error_responses(404, 409, 502, *BODY_ERRORS), operation_id="search_batch"
)
async def batch(body: SearchBatch, services: ServicesDep, account: AccountDep, limits: LimitsDep) -> SearchBatchAnswer:
    """Searches one bot for up to 64 texts."""
    timings = Stopwatch()
    check_query(body.query_texts, limits)
    answer = await _search(
        services, account, body, body.query_texts, timings, lambda index: f"body.query_texts.{index}"
    )
    return {
        "status": "success",
        "mode": answer.mode,
        "embedding_time_ms": timings["embedding"],
        "vector_search_time_ms": _milvus(timings),
        "postgres_query_time_ms": timings["postgres"],
        "total_time_ms": timings.total,
        "timings": _timings(answer, timings),
        **_share(body, answer),
        "answers": [
            {"query": text, "results": _results(results)}
            for text, results in zip(body.query_texts, answer.results, strict=True)
        ],
    }


async def _search(
    services: Services,
    account: Account,
    body: SearchOptions,
    texts: list[str],
    timings: Stopwatch,
    location: Callable[[int], str],
) -> SearchResults:
    check_answer(len(texts), body.limit, body.context_chunks)
    query = Query(
        bot_id=body.chat_bot_id,
        account=account.resolve(body.account_name),
        texts=texts,
        limit=body.limit,
        mode=body.mode,
        dense_weight=body.dense_weight,
        where=body.filter.to_core() if body.filter else None,
        score_threshold=body.score_threshold,
        group_by_document=body.group_by_document,
        distinct=body.distinct,
        context_chunks=body.context_chunks,
        rerank=body.rerank,
        min_confidence=body.min_confidence,
        allow_partial=body.allow_partial,
    )
    return await run_query(services, query, timings, location)


async def run_query(
    services: Services, query: Query, timings: Stopwatch, location: Callable[[int], str]
) -> SearchResults:
    """Searches. ``location``: where the request has the text with this index."""
    try:
        answer = await services.search.query(query, timings)
    except PartialEmbeddingError as exc:
        raise exc.located(location) from exc
    if query.where is None:
        metrics.STALE_KEYS.inc(answer.trace.dropped)
    return answer


def confidence(result: Result) -> float:
    """The score for APIs that promise 0..1: the confidence; without a calibration the score, cut to 0..1."""
    return min(1.0, max(0.0, result.score)) if result.confidence is None else result.confidence


class _Share(TypedDict, total=False):
    complete: bool
    indexed: float


def _share(body: SearchOptions, answer: SearchResults) -> _Share:
    if not body.allow_partial:
        return {}
    share = 1.0 if answer.rebuild is None else answer.rebuild.share
    return {"complete": answer.rebuild is None, "indexed": round(share, 4)}


def _milvus(timings: Stopwatch) -> float:
    """Dense and lexical search run at the same time."""
    return round(max(timings["dense"], timings["lexical"]) + timings["cosines"], 3)


def _timings(answer: SearchResults, timings: Stopwatch) -> SearchTimings:
    return {
        "embedding_ms": timings["embedding"],
        "dense_ms": timings["dense"],
        "lexical_ms": timings["lexical"],
        "filter_ms": timings["filter"],
        "postgres_ms": timings["postgres"],
        "rerank_ms": timings["rerank"],
        "total_ms": timings.total,
        "filter_plan": answer.trace.plan,
        "matching_documents": answer.trace.matching,
        "search_rounds": answer.trace.rounds,
        "dropped_keys": answer.trace.dropped,
    }


def _results(results: list[Result]) -> list[SearchResult]:
    return [_result(result) for result in results]


def _result(result: Result) -> SearchResult:
    chunk = result.chunk
    context: list[ContextChunk] = [
        {
            "chunk_id": near.chunk_id,
            "chunk_index": near.chunk_index,
            "chunk_text": near.text,
            "page_number": near.page_number,
        }
        for near in result.context
    ]
    answer: SearchResult = {
        "chunk_id": chunk.chunk_id,
        "doc_id": chunk.doc_id,
        "chunk_index": chunk.chunk_index,
        "score": result.score,
        "dense_score": result.dense_score,
        "lexical_score": result.lexical_score,
        "rerank_score": result.rerank_score,
        "lexical_coverage": result.lexical_coverage,
        "confidence": result.confidence,
        "chunk_text": chunk.text,
        "page_number": chunk.page_number,
        "context": context or None,
        "document": {
            "title": chunk.title,
            "file_type": chunk.file_type,
            "file_path": chunk.file_path,
            "author": chunk.author,
            "tags": chunk.tags,
            "metadata": chunk.metadata,
            "created_at": chunk.created_at,
            "updated_at": chunk.updated_at,
            "external_id": chunk.external_id,
        },
    }
    if result.duplicates is not None:
        answer["duplicates"] = {
            "count": result.duplicates.count,
            "chunks": [
                {"doc_id": doc_id, "chunk_id": chunk_id, "chunk_index": chunk_id % CHUNKS_PER_GENERATION}
                for doc_id, chunk_id in result.duplicates.chunks
            ],
        }
    return answer
