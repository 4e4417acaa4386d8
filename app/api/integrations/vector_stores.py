"""Routes of /v1/vector_stores, by OpenAI's API: a vector store is a bot."""

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query

from app.api.auth import AccountDep
from app.api.deps import READ, WRITE, Admission, ServicesDep
from app.api.integrations.openai_ids import StorePath, bot_of, file_id, store_id
from app.api.limits import LimitsDep, check_answer, check_query
from app.api.search import confidence, run_query
from app.core.bots.derived import create_derived
from app.core.search import query as core
from app.core.services import Services
from app.models.collection import DEFAULT_ACCOUNT
from app.models.vector_stores import (
    DEFAULT_NAME,
    INSERT,
    CreateStore,
    ModifyStore,
    Order,
    SearchStore,
    shown_attributes,
)
from app.schemas.rows import Bot
from app.utils.errors import BotNotFound, ErrorLocation, NotServed
from app.utils.stopwatch import Stopwatch

router = APIRouter(prefix="/v1", tags=["integrations"], include_in_schema=False)

PageSize = Annotated[int, Query(ge=1, le=100)]
Json = dict[str, Any]


@router.get("/vector_stores", dependencies=[READ])
async def list_stores(
    services: ServicesDep,
    account: AccountDep,
    after: str | None = None,
    before: str | None = None,
    limit: PageSize = 20,
    order: Order = "desc",
) -> Json:
    bots = list((await services.bots.list(account.resolve(None))).bots)
    if order == "desc":
        bots.reverse()
    begin = _place(bots, after, "query.after") + 1 if after else 0
    end = _place(bots, before, "query.before") if before else len(bots)
    if before and not after:  # The page that ends there.
        begin = max(0, end - limit)
        more = begin > 0
    else:
        more = end - begin > limit
    return list_of([await _store(services, bot) for bot in bots[begin:end][:limit]], has_more=more)


def _place(bots: Sequence[Bot], store: str, location: str) -> int:
    """A client would ask for the same page for ever if an unknown id were ignored."""
    for number, bot in enumerate(bots):
        if bot.bot_id == bot_of(store):
            return number
    raise BotNotFound(locations=[ErrorLocation(location, BotNotFound.DETAIL)])


@router.post("/vector_stores", dependencies=[WRITE])
async def create_store(
    body: CreateStore,
    services: ServicesDep,
    account: AccountDep,
    idempotency_key: Annotated[str | None, Header(max_length=255)] = None,
) -> Json:
    """The same Idempotency-Key, or without one the same name, returns the same store: clients repeat requests."""
    body.check_served()
    name = body.name or DEFAULT_NAME
    seed = f"key {idempotency_key}" if idempotency_key else f"name {name}"
    bot = await create_derived(services.bots, account.resolve(None) or DEFAULT_ACCOUNT, name, seed)
    return await _store(services, bot)


@router.get("/vector_stores/{vector_store_id}", dependencies=[READ])
async def get_store(bot_id: StorePath, services: ServicesDep, account: AccountDep) -> Json:
    return await _store(services, await services.bots.get(bot_id, account.resolve(None)))


@router.post("/vector_stores/{vector_store_id}", dependencies=[WRITE])
async def modify_store(bot_id: StorePath, body: ModifyStore, services: ServicesDep, account: AccountDep) -> Json:
    owner = account.resolve(None)
    await services.bots.get(bot_id, owner)
    body.check_served()
    changes = {"bot_name": body.name} if body.name else {}
    return await _store(services, await services.bots.update(bot_id, owner, changes))


@router.delete("/vector_stores/{vector_store_id}", dependencies=[WRITE])
async def delete_store(bot_id: StorePath, services: ServicesDep, account: AccountDep) -> Json:
    """Deletes the bot and all of its documents."""
    await services.bots.delete(bot_id, account.resolve(None))
    return {"id": store_id(bot_id), "object": "vector_store.deleted", "deleted": True}


@router.post("/vector_stores/{vector_store_id}/search", dependencies=[READ])
async def search_store(
    bot_id: StorePath, body: SearchStore, services: ServicesDep, account: AccountDep, limits: LimitsDep
) -> Json:
    """The best chunks for any of the texts, best first."""
    check_query(body.query, limits)
    check_answer(len(body.query), body.max_num_results, 0)
    query = core.Query(bot_id, account.resolve(None), body.query, body.max_num_results, where=body.where)
    answer = await run_query(services, query, Stopwatch(), lambda index: f"body.query.{index}")
    best: dict[int, core.Result] = {}
    for result in (result for results in answer.results for result in results):
        kept = best.get(result.chunk.chunk_id)
        if kept is None or confidence(kept) < confidence(result):
            best[result.chunk.chunk_id] = result
    ordered = sorted(best.values(), key=lambda result: (-confidence(result), result.chunk.chunk_id))
    threshold = body.ranking_options.score_threshold
    return {
        "object": "vector_store.search_results.page",
        "search_query": body.query,
        "data": [_result(result) for result in ordered[: body.max_num_results] if confidence(result) >= threshold],
        "has_more": False,
        "next_page": None,
    }


def not_served() -> None:
    raise NotServed(f"This server takes texts, not files. {INSERT}")


# The body may be a file.
for path in ("/files", "/uploads", "/vector_stores/{id}/files", "/vector_stores/{id}/file_batches"):
    router.add_api_route(path, not_served, methods=["POST"], dependencies=[Depends(Admission("write", any_input=True))])


def list_of(items: Sequence[Json], *, has_more: bool) -> Json:
    ids = [item["id"] for item in items] or [None]
    return {"object": "list", "data": items, "first_id": ids[0], "last_id": ids[-1], "has_more": has_more}


async def _store(services: Services, bot: Bot) -> Json:
    documents = (await services.bots.counts(bot.bot_id)).documents
    return {
        "id": store_id(bot.bot_id),
        "object": "vector_store",
        "created_at": int(bot.created_at.timestamp()),
        "name": bot.bot_name,
        "usage_bytes": 0,
        "file_counts": {"in_progress": 0, "completed": documents, "failed": 0, "cancelled": 0, "total": documents},
        "status": "completed",
        "expires_after": None,
        "expires_at": None,
        "last_active_at": None,
        "metadata": {},
        "chat_bot_id": str(bot.bot_id),
        "collection_name": bot.collection_name,
    }


def _result(result: core.Result) -> Json:
    chunk = result.chunk
    return {
        "file_id": file_id(chunk.doc_id),
        "filename": chunk.title,
        "score": confidence(result),
        "attributes": shown_attributes(chunk.metadata),
        "content": [{"type": "text", "text": chunk.text}],
        "chunk_id": chunk.chunk_id,
        "page_number": chunk.page_number,
        "metadata": chunk.metadata,
    }
