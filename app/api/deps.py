"""What handlers take: the opened services, and checked parameters."""

from typing import TYPE_CHECKING, Annotated, Literal, TypedDict
from uuid import UUID

from fastapi import Depends, Path, Query, Request

from app.api.auth import AccountDep, authorize
from app.api.limits import Limits, Writes, spend_rate
from app.api.parameters import check_parameters
from app.core.keys import Keys
from app.core.services import Services
from app.models.collection import EXAMPLE_BOT
from app.models.data import EXAMPLE_DOC_ID, InsertBatch, InsertDocument
from app.models.fields import INT64_MAX, AccountName
from app.models.inserts import Insert, InsertMany

if TYPE_CHECKING:
    from app.api.rate import Rate


class State(TypedDict):
    """The lifespan's state."""

    services: Services
    limits: Limits
    rate: "Rate | None"
    writes: Writes
    keys: Keys | None
    health_open: bool
    docs: Literal["open", "key", "off"]


async def _services(request: Request) -> Services:
    services: Services = request.state.services
    return services


async def admit(request: Request) -> None:
    """Raises Unauthorized, Forbidden, RateLimited, and InvalidInput as ``check_parameters``."""
    await authorize(request)
    await spend_rate(request)
    await check_parameters(request)


ServicesDep = Annotated[Services, Depends(_services)]
Admitted = Depends(admit)
"""Of every route that works for an account."""


async def _insert(body: InsertDocument) -> Insert:
    return Insert.of(body)


async def _insert_many(body: InsertBatch) -> InsertMany:
    return InsertMany.of(body)


InsertBody = Annotated[Insert, Depends(_insert)]
InsertManyBody = Annotated[InsertMany, Depends(_insert_many)]

BotPath = Annotated[UUID, Path(alias="chat_bot_id", description="The bot.", examples=[EXAMPLE_BOT])]
BotQuery = Annotated[UUID, Query(alias="chat_bot_id", description="The bot.", examples=[EXAMPLE_BOT])]
DocPath = Annotated[
    int,
    Path(alias="doc_id", ge=1, le=INT64_MAX, description="As insert returned it.", examples=[EXAMPLE_DOC_ID]),
]
_AccountQuery = Annotated[
    AccountName | None,
    Query(
        alias="account_name", description="The bot's account; left out, the key's, or without keys any account's bot."
    ),
]


async def _account_of_query(account: AccountDep, account_name: _AccountQuery = None) -> str | None:
    return account.named(account_name)


AccountQuery = Annotated[str | None, Depends(_account_of_query)]
"""The account that a request without a body is about."""
