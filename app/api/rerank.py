"""Routes of /v1/rerank: the server's reranker, by the API of Cohere and Jina."""

from fastapi import APIRouter

from app.api.deps import READ, ServicesDep
from app.api.errors import BODY_ERRORS, error_responses
from app.api.limits import LimitsDep, check_query
from app.models.rerank import RerankAnswer, RerankDocument, RerankRequest, RerankResult, RerankUsage

router = APIRouter(prefix="/v1", tags=["rerank"])


@router.post(
    "/rerank",
    dependencies=[READ],
    response_model=RerankAnswer,
    response_model_exclude_none=True,
    responses=error_responses(404, 502, *BODY_ERRORS),
    operation_id="rerank",
)
async def rerank(body: RerankRequest, services: ServicesDep, limits: LimitsDep) -> RerankAnswer:
    """Ranks passages by their relevance to a query, with the reranker that searches use."""
    check_query([body.query, *body.documents], limits)
    ranking = await services.reranking.rank(body.model, body.query, body.documents, body.top_n)
    results = [
        RerankResult(
            index=index,
            relevance_score=score,
            document=RerankDocument(text=body.documents[index]) if body.return_documents else None,
        )
        for index, score in ranking.passages
    ]
    characters = len(body.query) + sum(map(len, body.documents))
    return RerankAnswer(model=ranking.model, results=results, usage=RerankUsage(total_tokens=characters))
