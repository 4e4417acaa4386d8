"""/search: questions."""

from fastapi import APIRouter

from app.api.deps import ServicesDep
from app.api.errors import documented
from app.core.search import Query, Result
from app.models.search import SearchAnswer, SearchDocument, SearchQuery, SearchResult
from app.utils.clock import Stopwatch

router = APIRouter(prefix="/search", tags=["search"])


@router.post("/query", responses=documented(404, 409, 422, 503), operation_id="search")
async def query(body: SearchQuery, services: ServicesDep) -> SearchAnswer:
    """The chunks of one bot nearest to a text, best first, as they are stored at this moment."""
    watch = Stopwatch()
    results = await services.search.query(
        Query(
            bot_id=body.chat_bot_id,
            account=body.account_name,
            text=body.query_text,
            limit=body.limit,
            mode=body.mode,
            where=body.filter.to_core() if body.filter else None,
            score_threshold=body.score_threshold,
        ),
        watch,
    )
    return SearchAnswer(
        query=body.query_text,
        embedding_time_ms=watch["embedding"],
        vector_search_time_ms=watch["milvus"],
        postgres_query_time_ms=watch["postgres"],
        total_time_ms=watch.total,
        results=[_result(result) for result in results],
    )


def _result(result: Result) -> SearchResult:
    chunk = result.chunk
    return SearchResult(
        chunk_id=chunk.chunk_id,
        doc_id=chunk.doc_id,
        chunk_index=chunk.chunk_index,
        score=result.score,
        chunk_text=chunk.text,
        page_number=chunk.page_number,
        document=SearchDocument.model_validate(chunk),
    )
