"""The route of Dify's External Knowledge API. ``app.api.error_forms`` has the form of its errors."""

from typing import Any

from fastapi import APIRouter

from app.api.auth import AccountDep
from app.api.deps import READ, ServicesDep
from app.api.limits import LimitsDep, check_query
from app.api.search import confidence, run_query
from app.core.search.query import Query, Result
from app.models.dify import Record, Records, Retrieval
from app.utils.stopwatch import Stopwatch

router = APIRouter(prefix="/integrations/dify", tags=["integrations"], include_in_schema=False)


async def retrieval(body: Retrieval, services: ServicesDep, account: AccountDep, limits: LimitsDep) -> Records:
    """The best chunks of the bot that ``knowledge_id`` names, by its chat_bot_id or its collection_name."""
    check_query([body.query], limits)
    owner = account.resolve(None)
    bot_id = await services.bots.resolve(body.knowledge_id, owner)
    query = Query(bot_id, owner, [body.query], body.limit, where=body.where)
    answer = await run_query(services, query, Stopwatch(), lambda _: "body.query")
    records = (_record(result) for result in answer.results[0])
    return {"records": [record for record in records if record["score"] >= body.score_threshold]}


# Dify adds "/retrieval" to the URL that a person gave, and some people end theirs with a slash.
for path in ("/retrieval", "/retrieval/"):
    router.add_api_route(path, retrieval, methods=["POST"], dependencies=[READ])


def _record(result: Result) -> Record:
    chunk = result.chunk
    # Strings: Dify's model of a citation takes no number for document_id.
    metadata: dict[str, Any] = {**chunk.metadata, "document_id": str(chunk.doc_id), "chunk_id": str(chunk.chunk_id)}
    return {"content": chunk.text, "score": confidence(result), "title": chunk.title, "metadata": metadata}
