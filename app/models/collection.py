"""Bodies of /collection."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import ConfigDict, Field, Strict

from app.models.base import Request, Response
from app.models.fields import AccountName, BotName, CollectionName, Milliseconds, Whole

DEFAULT_ACCOUNT = "chatty"
EXAMPLE_BOT = "7f3c1e9a-2b4d-4c6e-8f10-1a2b3c4d5e6f"


class CreateBot(Request):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"chat_bot_id": EXAMPLE_BOT, "bot_name": "서울 안내 봇", "collection_name": "seoul_guide"}]
        }
    )

    account_name: AccountName | None = Field(
        None, description=f"Whose bot it is; left out, the API key's account, or without keys {DEFAULT_ACCOUNT}."
    )
    chat_bot_id: UUID = Field(description="Chosen by the caller; every other call names the bot by it.")
    bot_name: BotName = Field(description="For people.")
    collection_name: CollectionName
    dimension: Annotated[int, Strict(), Field(ge=1, le=32_768), Whole] | None = Field(
        None, description="Must equal the embedding model's; may be left out."
    )


class BotCreated(Response):
    status: Literal["success"] = "success"
    chat_bot_id: UUID
    bot_name: str
    collection_name: str
    partition_name: str = Field(description="Of the documents in PostgreSQL.")
    dimension: int = Field(description="Of the embedding model.")
    embedding_model: str


class BotInfo(Response):
    chat_bot_id: UUID
    bot_name: str
    collection_name: str
    account_name: str
    partition_name: str
    dimension: int | None = Field(description="null until the bot's first use.")
    embedding_model: str | None = Field(description="null until the bot's first use.")
    created_at: datetime


class BotList(Response):
    status: Literal["success"] = "success"
    total: int
    bots: list[BotInfo]


class BotDetail(BotInfo):
    status: Literal["success"] = "success"
    document_count: int
    chunk_count: int
    sagas_in_flight: int = Field(description="Writes of this bot that are neither finished nor undone yet.")
    vector_gc_backlog: int = Field(description="Generations whose vectors are still to be removed from Milvus.")


class BotDeleted(Response):
    status: Literal["success"] = "success"
    chat_bot_id: UUID
    total_time_ms: Milliseconds
