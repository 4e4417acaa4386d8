"""Bodies of /v1/rerank, after Cohere's and Jina's."""

from typing import Annotated

from pydantic import ConfigDict, Field, Strict

from app.models.base import Request, Response
from app.models.fields import ChunkText, NullIsDefault, QueryText, Whole

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
        None, description="The server's reranker, or what follows the last slash of its name; may be left out."
    )
    query: QueryText = Field(description="The question.")
    documents: Annotated[list[ChunkText], Field(min_length=1, max_length=MAX_DOCUMENTS)] = Field(
        description="Passages to be ranked."
    )
    top_n: Annotated[int, Strict(), Field(ge=1), Whole] | None = Field(
        None, description="So many of the best; left out, all."
    )
    return_documents: Annotated[bool, Strict(), NullIsDefault()] = Field(
        False, description="Whether the passages come back."
    )


class RerankDocument(Response):
    text: str


class RerankResult(Response):
    model_config = ConfigDict(json_schema_serialization_defaults_required=False)

    index: int = Field(description="Place of the passage in the request.")
    relevance_score: float = Field(description="Higher is better; the reranker's own scale.")
    document: RerankDocument | None = None


class RerankUsage(Response):
    total_tokens: int = Field(description="Characters: not every model here counts tokens.")


class RerankAnswer(Response):
    model: str
    results: list[RerankResult] = Field(description="Best first.")
    usage: RerankUsage
