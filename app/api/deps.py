"""What handlers take: the opened services, and checked parameters."""

from typing import Annotated, TypedDict
from uuid import UUID

from fastapi import Depends, Path, Query, Request

from app.core.services import Services
from app.models.collection import EXAMPLE_BOT
from app.models.data import EXAMPLE_DOC_ID
from app.models.fields import INT64_MAX, AccountName


class State(TypedDict):
    """The lifespan's state."""

    services: Services


async def _services(request: Request) -> Services:
    services: Services = request.state.services
    return services


ServicesDep = Annotated[Services, Depends(_services)]

BotPath = Annotated[UUID, Path(alias="chat_bot_id", description="The bot.", examples=[EXAMPLE_BOT])]
BotQuery = Annotated[UUID, Query(alias="chat_bot_id", description="The bot.", examples=[EXAMPLE_BOT])]
DocPath = Annotated[
    int,
    Path(alias="doc_id", ge=1, le=INT64_MAX, description="As insert returned it.", examples=[EXAMPLE_DOC_ID]),
]
AccountQuery = Annotated[
    AccountName | None,
    Query(alias="account_name", description="The bot's account; left out, any account's bot is meant."),
]
