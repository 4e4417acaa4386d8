"""Request and response bodies of /collection."""

from datetime import datetime
from typing import Annotated, Literal, Self
from uuid import UUID

from pydantic import ConfigDict, Field, Strict, model_validator
from pydantic_core import PydanticCustomError

from app.models.base import Request, Response
from app.models.fields import AccountName, BotName, CollectionName, Integral, Milliseconds
from app.schemas.rows import BotChanges

DEFAULT_ACCOUNT = "chatty"
DEFAULT_DENSE_WEIGHT = 0.3
"""For descriptions only. tests/unit/test_fusion.py compares it with the core's."""
DEFAULT_MODE = "The mode of searches that name none."
SERVERS_MODE = "hybrid if the bot's collection supports lexical search, else dense"
DEFAULT_CONFIDENCE = "The minimum confidence of results in searches that name none."
TITLES = "Whether a document's title is part of the words by which its chunks are found."
PINNED = "Whether the bot's vectors stay in Milvus's memory once they were loaded, however long the bot is not used."
DEFAULT_WEIGHT = "The weight of the dense score in searches in hybrid mode that name none."

SearchMode = Literal["dense", "lexical", "hybrid"]
DenseWeight = Annotated[float, Strict(), Field(ge=0, le=1)]
MinConfidence = Annotated[float, Strict(), Field(ge=0, le=1)]

EXAMPLE_BOT = "7f3c1e9a-2b4d-4c6e-8f10-1a2b3c4d5e6f"


class CreateBot(Request):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"chat_bot_id": EXAMPLE_BOT, "bot_name": "서울 안내 봇", "collection_name": "seoul_guide"}]
        }
    )

    account_name: AccountName | None = Field(
        None, description=f"The bot's account. Default: the API key's account; without API keys {DEFAULT_ACCOUNT}."
    )
    chat_bot_id: UUID = Field(description="The bot's id, chosen by the client. All other calls use it.")
    bot_name: BotName = Field(description="A name for people.")
    collection_name: CollectionName
    dimension: Annotated[int, Strict(), Field(ge=1, le=32_768), Integral] | None = Field(
        None, description="Optional. Must be the dimension of the embedding model."
    )
    mode: SearchMode | None = Field(None, description=f"{DEFAULT_MODE} Default: {SERVERS_MODE}.")
    dense_weight: DenseWeight | None = Field(None, description=f"{DEFAULT_WEIGHT} Default: {DEFAULT_DENSE_WEIGHT}.")
    min_confidence: MinConfidence | None = Field(
        None, description=f"{DEFAULT_CONFIDENCE} Default: results are not cut."
    )
    title_in_lexical: Annotated[bool, Strict()] | None = Field(None, description=f"{TITLES} Default: true.")
    pinned: Annotated[bool, Strict()] | None = Field(None, description=f"{PINNED} Default: false.")


class BotCreated(Response):
    status: Literal["success"] = "success"
    chat_bot_id: UUID
    bot_name: str
    collection_name: str
    partition_name: str = Field(description="The PostgreSQL partition of the bot's documents.")
    dimension: int = Field(description="Dimension of the embedding model.")
    embedding_model: str


class BotInfo(Response):
    chat_bot_id: UUID
    bot_name: str
    collection_name: str
    account_name: str
    partition_name: str
    dimension: int | None = Field(description="null until the bot is used for the first time.")
    embedding_model: str | None = Field(description="null until the bot is used for the first time.")
    created_at: datetime
    mode: SearchMode | None = Field(description=f"{DEFAULT_MODE} null: {SERVERS_MODE}.")
    dense_weight: float | None = Field(description=f"{DEFAULT_WEIGHT} null: {DEFAULT_DENSE_WEIGHT}.")
    min_confidence: float | None = Field(description=f"{DEFAULT_CONFIDENCE} null: results are not cut.")
    title_in_lexical: bool = Field(description=TITLES)
    pinned: bool = Field(description=PINNED)


class LoadedBot(BotInfo):
    load_state: Literal["loaded", "loading", "released"] | None = Field(
        description="Whether the bot's vectors are in Milvus's memory, as seen some seconds ago. A released bot is "
        "loaded at its next search, which takes seconds. null: the server has no MAX_LOADED_COLLECTIONS, so nothing is "
        "released."
    )
    last_used_at: datetime | None = Field(
        description="When the vectors were last read, some seconds old; null if that is not known."
    )


class ListedBot(LoadedBot):
    document_count: int | None = Field(None, description="null unless `counts` is true.")
    chunk_count: int | None = Field(None, description="null unless `counts` is true.")


class BotList(Response):
    status: Literal["success"] = "success"
    total: int = Field(description="Number of all bots of the account.")
    bots: list[ListedBot]
    next_cursor: str | None = Field(description="The cursor of the next page; null on the last page.")


class BotDetail(LoadedBot):
    status: Literal["success"] = "success"
    document_count: int
    chunk_count: int
    sagas_in_flight: int = Field(description="Writes of this bot that are not finished or undone yet.")
    vector_gc_backlog: int = Field(
        description="Generations whose vectors are not removed from Milvus yet. Those of a released bot that were "
        "deleted are looked for once more when it is loaded; until then they count here."
    )


class BotWarmed(Response):
    status: Literal["success"] = "success"
    chat_bot_id: UUID
    load_state: Literal["loaded", "loading"]


class UpdateBot(Request):
    model_config = ConfigDict(json_schema_extra={"minProperties": 1, "examples": [{"bot_name": "서울 여행 봇"}]})

    account_name: AccountName | None = None
    bot_name: BotName | None = Field(None, description="The new name.")
    mode: SearchMode | None = Field(None, description=f"{DEFAULT_MODE} null: {SERVERS_MODE}.")
    dense_weight: DenseWeight | None = Field(None, description=f"{DEFAULT_WEIGHT} null: {DEFAULT_DENSE_WEIGHT}.")
    min_confidence: MinConfidence | None = Field(None, description=f"{DEFAULT_CONFIDENCE} null: results are not cut.")
    pinned: Annotated[bool, Strict()] | None = Field(None, description=PINNED)

    @model_validator(mode="after")
    def _changes_something(self) -> Self:
        if not self.changes:
            raise PydanticCustomError("nothing_to_update", "contains nothing to update")
        return self

    @property
    def changes(self) -> BotChanges:
        """A bot_name or pinned of null is omitted, as elsewhere. null as a default sets it back to the server's."""
        name = {} if self.bot_name is None else {"bot_name": self.bot_name}
        pinned = {} if self.pinned is None else {"pinned": self.pinned}
        given = self.model_fields_set & {"mode", "dense_weight", "min_confidence"}
        return {**name, **pinned, **{f"default_{field}": getattr(self, field) for field in given}}


class BotUpdated(BotInfo):
    status: Literal["success"] = "success"


class BotDeleted(Response):
    status: Literal["success"] = "success"
    chat_bot_id: UUID
    total_time_ms: Milliseconds
