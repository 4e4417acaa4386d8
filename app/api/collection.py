"""Routes of /collection: bots."""

from fastapi import APIRouter, Response
from starlette.convertors import StringConvertor, register_url_convertor

from app.api.auth import AccountDep
from app.api.deps import READ, WRITE, AccountQuery, BotPath, ServicesDep
from app.api.errors import BODY_ERRORS, COMMON_ERRORS, error_responses
from app.core.bots.bots import NewBot
from app.models.collection import (
    DEFAULT_ACCOUNT,
    BotCreated,
    BotDeleted,
    BotDetail,
    BotInfo,
    BotList,
    BotUpdated,
    CreateBot,
    UpdateBot,
)
from app.schemas.rows import Bot
from app.utils.stopwatch import Stopwatch

router = APIRouter(prefix="/collection", tags=["collection"])


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
        NewBot(body.chat_bot_id, body.bot_name, body.collection_name, owner, body.dimension)
    )
    response.status_code = 201 if is_new else 200
    return BotCreated.model_validate(_fields(bot))


@router.get(
    "/list", dependencies=[READ], responses=error_responses(404, *COMMON_ERRORS), operation_id="list_collections"
)
async def list_bots(services: ServicesDep, account: AccountQuery) -> BotList:
    """The bots of the account, oldest first. Without API keys and without account_name: the bots of all accounts."""
    bots = [BotInfo.model_validate(_fields(bot)) for bot in await services.bots.list(account)]
    return BotList(total=len(bots), bots=bots)


@router.get(
    "/{chat_bot_id:bot}",
    dependencies=[READ],
    responses=error_responses(404, *COMMON_ERRORS),
    operation_id="get_collection",
)
async def get(bot_id: BotPath, services: ServicesDep, account: AccountQuery) -> BotDetail:
    """One bot, with the number of its documents and chunks and its unfinished background work."""
    bot, counts = await services.bots.get_with_counts(bot_id, account)
    return BotDetail.model_validate(
        {
            **_fields(bot),
            "document_count": counts.documents,
            "chunk_count": counts.chunks,
            "sagas_in_flight": counts.sagas,
            "vector_gc_backlog": counts.vector_gc,
        }
    )


@router.patch(
    "/{chat_bot_id:bot}",
    dependencies=[WRITE],
    responses=error_responses(404, *BODY_ERRORS),
    operation_id="update_collection",
)
async def update(bot_id: BotPath, body: UpdateBot, services: ServicesDep, account: AccountDep) -> BotUpdated:
    """Changes fields of a bot. The fields that the body does not have stay as they are."""
    bot = await services.bots.update(bot_id, account.resolve(body.account_name), body.changes)
    return BotUpdated.model_validate(_fields(bot))


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
    }
