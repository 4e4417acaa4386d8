"""Request and response bodies of /v1/rerank, as in the APIs of Cohere and Jina."""

from typing import Annotated

from pydantic import ConfigDict, Field, Strict

from app.models.base import Request, Response
from app.models.fields import ChunkText, Integral, NullIsDefault, QueryText

MAX_DOCUMENTS = 256


class RerankRequest(Request):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "query": "경복궁은 언제 쉬나요?",
                    "documents": ["광화문은 경복궁의 남쪽 정문이다.", "경복궁은 화요일에 문을 닫는다."],
                    "top_n": 1,
                }
            ]
        }
    )

    model: Annotated[str, Field(min_length=1, max_length=512)] | None = Field(
        None, description="Optional. The name of the server's reranker, or its part after the last slash."
    )
    query: QueryText = Field(description="The query.")
    documents: Annotated[list[ChunkText], Field(min_length=1, max_length=MAX_DOCUMENTS)] = Field(
        description="The passages to rank."
    )
    top_n: Annotated[int, Strict(), Field(ge=1), Integral] | None = Field(
        None, description="Number of results. Default: all."
    )
    return_documents: Annotated[bool, Strict(), NullIsDefault()] = Field(
        False, description="Whether the response contains the passages."
    )


class RerankDocument(Response):
    text: str


class RerankResult(Response):
    model_config = ConfigDict(json_schema_serialization_defaults_required=False)

    index: int = Field(description="Position of the passage in the request, from 0.")
    relevance_score: float = Field(description="Higher is better. The scale depends on the reranker.")
    document: RerankDocument | None = None


class RerankUsage(Response):
    total_tokens: int = Field(description="Number of characters, since not all models count tokens.")


class RerankAnswer(Response):
    model: str
    results: list[RerankResult] = Field(description="Best first.")
    usage: RerankUsage
