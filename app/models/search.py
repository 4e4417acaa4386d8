"""Bodies of /search."""

from datetime import datetime
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import ConfigDict, Field, Strict, model_validator
from pydantic_core import PydanticCustomError

from app.models.base import Request, Response
from app.models.collection import DEFAULT_ACCOUNT, EXAMPLE_BOT
from app.models.fields import AccountName, Milliseconds, QueryText, StrictInt
from app.models.filters import Filter

MAX_LIMIT = 10_000


class SearchQuery(Request):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "account_name": DEFAULT_ACCOUNT,
                    "chat_bot_id": EXAMPLE_BOT,
                    "query_text": "경복궁의 정문은 무엇인가?",
                    "limit": 5,
                }
            ]
        }
    )

    account_name: AccountName | None = None
    chat_bot_id: UUID
    query_text: QueryText
    limit: Annotated[StrictInt, Field(ge=1, le=MAX_LIMIT)] = 5
    mode: Literal["dense", "lexical", "hybrid"] = Field(
        "dense", description="lexical and hybrid need a collection with a lexical field; none has one yet."
    )
    dense_weight: Annotated[float, Strict(), Field(ge=0, le=1)] | None = Field(
        None, description="Share of the dense score in hybrid mode."
    )
    filter: Filter | None = Field(
        None,
        description='Such as {"type": "eq", "key": "metadata.language", "value": "ko"}; applied to the documents as '
        "they are now.",
    )
    score_threshold: Annotated[float, Strict(), Field(ge=-1, le=1)] | None = Field(
        None, description="Least cosine similarity of a result."
    )

    @model_validator(mode="after")
    def _weight_has_a_use(self) -> Self:
        if self.dense_weight is not None and self.mode != "hybrid":
            raise PydanticCustomError("weight_without_hybrid", "dense_weight has a meaning in hybrid mode alone")
        return self


class SearchDocument(Response):
    title: str
    file_type: str | None
    file_path: str | None
    author: str | None
    tags: list[str]
    metadata: dict[str, Any]
    created_at: datetime


class SearchResult(Response):
    chunk_id: int
    doc_id: int
    chunk_index: int
    score: float = Field(description="Cosine similarity, -1..1.")
    chunk_text: str
    page_number: int | None
    document: SearchDocument


class SearchAnswer(Response):
    status: Literal["success"] = "success"
    query: str
    embedding_time_ms: Milliseconds
    vector_search_time_ms: Milliseconds
    postgres_query_time_ms: Milliseconds
    total_time_ms: Milliseconds
    results: list[SearchResult]
