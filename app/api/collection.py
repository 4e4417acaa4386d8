"""Routes of /collection: bots."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Response
from starlette.convertors import StringConvertor, register_url_convertor

from app.api.auth import AccountDep
from app.api.cursors import decode_cursor, encode_cursor, read_time
from app.api.deps import READ, WRITE, AccountQuery, BotPath, ServicesDep
from app.api.errors import BODY_ERRORS, COMMON_ERRORS, error_responses
from app.core.bots.bots import NewBot
from app.models.collection import (
    DEFAULT_ACCOUNT,
    BotCreated,
    BotDeleted,
    BotDetail,
    BotList,
    BotUpdated,
    BotWarmed,
    CreateBot,
    ListedBot,
    UpdateBot,
)
from app.models.fields import CURSOR_CHARS
from app.schemas.operation_rows import LoadState
from app.schemas.rows import Bot
from app.utils.errors import InvalidInput
from app.utils.stopwatch import Stopwatch

router = APIRouter(prefix="/collection", tags=["collection"])


MAX_BOTS = 1_000
MAX_COUNTED_BOTS = 100
"""Bots of a page with counts: each is counted by a statement of its own, which reads one partition."""
BotPageSize = Annotated[
    int | None,
    Query(
        ge=1,
        le=MAX_BOTS,
        description=f"Maximum number of bots per page. Default: all. With counts: at most {MAX_COUNTED_BOTS}, also by "
        "default.",
    ),
]
BotCursor = Annotated[
    str | None,
    Query(max_length=CURSOR_CHARS, description="next_cursor of the previous page; leave it out for the first page."),
]


class _BotSegment(StringConvertor):
    """Does not match ``create`` and ``list``, so that their own routes answer other methods with a 405."""

    regex = "(?!(?:create|list)$)[^/]+"


register_url_convertor("bot", _BotSegment())


@router.post(
    "/create",
    dependencies=[WRITE],
    status_code=201,
    responses={
        200: {"model": BotCreated, "description": "The bot exists with these values."},
        **error_responses(404, 409, *BODY_ERRORS),
    },
    operation_id="create_collection",
)
async def create(body: CreateBot, services: ServicesDep, account: AccountDep, response: Response) -> BotCreated:
    """Registers a bot and creates its partitions and its collection. The same body again has no effect and is a 200."""
    owner = account.resolve(body.account_name) or DEFAULT_ACCOUNT
    bot, is_new = await services.bots.create(
        NewBot(
            bot_id=body.chat_bot_id,
            bot_name=body.bot_name,
            collection_name=body.collection_name,
            account_name=owner,
            dimension=body.dimension,
            default_mode=body.mode,
            default_dense_weight=body.dense_weight,
            default_min_confidence=body.min_confidence,
            title_in_lexical=body.title_in_lexical,
            pinned=body.pinned,
        )
    )
    response.status_code = 201 if is_new else 200
    return BotCreated.model_validate(_fields(bot))


@router.get(
    "/list", dependencies=[READ], responses=error_responses(404, *COMMON_ERRORS), operation_id="list_collections"
)
async def list_bots(
    services: ServicesDep,
    account: AccountQuery,
    limit: BotPageSize = None,
    cursor: BotCursor = None,
    counts: Annotated[bool, Query(description="Count the documents and chunks of each bot.")] = False,
) -> BotList:
    """The bots of the account, oldest first. Without API keys and without account_name: the bots of all accounts."""
    if counts:
        limit = _limit_with_counts(limit)
    after = decode_cursor(cursor, account, "query.cursor", read_time, UUID) if cursor is not None else None
    page = await services.bots.list(account, (after[0], after[1]) if after else None, limit, with_counts=counts)
    states = await services.bots.load_states(page.bots)
    bots = [_fields(bot) | _load_fields(state) for bot, state in zip(page.bots, states, strict=True)]
    for bot, numbers in zip(bots, page.counts or (), strict=False):
        bot |= {"document_count": numbers.documents, "chunk_count": numbers.chunks}
    return BotList(
        total=page.total,
        bots=[ListedBot.model_validate(bot) for bot in bots],
        next_cursor=encode_cursor(account, page.last.created_at, page.last.bot_id) if page.last else None,
    )


@router.get(
    "/{chat_bot_id:bot}",
    dependencies=[READ],
    responses=error_responses(404, *COMMON_ERRORS),
    operation_id="get_collection",
)
async def get(bot_id: BotPath, services: ServicesDep, account: AccountQuery) -> BotDetail:
    """One bot, with the number of its documents and chunks and its unfinished background work."""
    bot, counts = await services.bots.get_with_counts(bot_id, account)
    (state,) = await services.bots.load_states([bot])
    return BotDetail.model_validate(
        {
            **_fields(bot),
            **_load_fields(state),
            "document_count": counts.documents,
            "chunk_count": counts.chunks,
            "sagas_in_flight": counts.sagas,
            "vector_gc_backlog": counts.vector_gc,
        }
    )


@router.patch(
    "/{chat_bot_id:bot}",
    dependencies=[WRITE],
    responses=error_responses(404, 409, *BODY_ERRORS),
    operation_id="update_collection",
)
async def update(bot_id: BotPath, body: UpdateBot, services: ServicesDep, account: AccountDep) -> BotUpdated:
    """Changes fields of a bot. The fields that the body does not have stay as they are."""
    bot = await services.bot_settings.update(bot_id, account.resolve(body.account_name), body.changes)
    return BotUpdated.model_validate(_fields(bot))


@router.post(
    "/{chat_bot_id:bot}/warm",
    dependencies=[READ],
    responses={
        202: {"model": BotWarmed, "description": "The bot is being loaded."},
        **error_responses(404, 409, *COMMON_ERRORS),
    },
    operation_id="warm_collection",
)
async def warm(bot_id: BotPath, services: ServicesDep, account: AccountQuery, response: Response) -> BotWarmed:
    """Loads the bot's vectors into Milvus's memory, and answers at once: 200 if they are loaded, 202 if that begins.

    For front ends that open a session: a search of a bot that was not in use waits for it.
    """
    bot, state = await services.bots.warm(bot_id, account)
    response.status_code = 200 if state == "loaded" else 202
    return BotWarmed(chat_bot_id=bot.bot_id, load_state=state)


@router.delete(
    "/{chat_bot_id:bot}",
    dependencies=[WRITE],
    responses=error_responses(404, *COMMON_ERRORS),
    operation_id="delete_collection",
)
async def delete(bot_id: BotPath, services: ServicesDep, account: AccountQuery) -> BotDeleted:
    """Deletes the bot and all of its documents. All other calls answer 404 for it at once.

    A 503 means that some of its data is still there. The server removes it later by itself.
    """
    timings = Stopwatch()
    await services.bots.delete(bot_id, account)
    return BotDeleted(chat_bot_id=bot_id, total_time_ms=timings.total)


def _limit_with_counts(limit: int | None) -> int:
    if limit is not None and limit > MAX_COUNTED_BOTS:
        reason = f"with counts a page has at most {MAX_COUNTED_BOTS} bots"
        raise InvalidInput.at("query.limit", reason)
    return limit or MAX_COUNTED_BOTS


def _fields(bot: Bot) -> dict[str, object]:
    return {
        "chat_bot_id": bot.bot_id,
        "bot_name": bot.bot_name,
        "collection_name": bot.collection_name,
        "account_name": bot.account_name,
        "partition_name": bot.partition_name,
        "dimension": bot.dimension,
        "embedding_model": bot.embedding_model,
        "created_at": bot.created_at,
        "mode": bot.default_mode,
        "dense_weight": bot.default_dense_weight,
        "min_confidence": bot.default_min_confidence,
        "title_in_lexical": bot.title_in_lexical,
        "pinned": bot.pinned,
    }


def _load_fields(state: LoadState | None) -> dict[str, object]:
    return {
        "load_state": None if state is None else state.state,
        "last_used_at": None if state is None else state.last_used_at,
    }
