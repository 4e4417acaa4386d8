"""Request and answer bodies of /search. Answers are dictionaries: these take a third of the time of objects."""

from datetime import datetime
from typing import (
    Annotated,
    Any,
    Literal,
    NotRequired,  # Pydantic wants this one below Python 3.12.
    Self,
)
from uuid import UUID

from pydantic import ConfigDict, Field, Strict, model_validator
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict

from app.models.base import Request
from app.models.collection import (
    DEFAULT_DENSE_WEIGHT,
    EXAMPLE_BOT,
    SERVERS_MODE,
    DenseWeight,
    MinConfidence,
    SearchMode,
)
from app.models.fields import AccountName, Integral, Milliseconds, NullIsDefault, QueryText
from app.models.filters import BoundedFilter

MAX_LIMIT = 10_000
"""Most results in one answer, over all of its queries."""
MAX_QUERIES = 64
MAX_CONTEXT = 20
DEFAULT_LIMIT = 5

Plan = Literal["documents_first", "search_first", "documents_in_slices", "nothing_matches"]
Limit = Annotated[int, Strict(), Field(ge=1, le=MAX_LIMIT), Integral]


class SearchOptions(Request):
    account_name: AccountName | None = None
    chat_bot_id: UUID
    limit: Annotated[Limit, NullIsDefault()] = Field(DEFAULT_LIMIT, description="Most results of a query.")
    mode: SearchMode | None = Field(None, description=f"Default: the bot's `mode`; without one {SERVERS_MODE}.")
    dense_weight: DenseWeight | None = Field(
        None,
        description="Weight of the dense score in hybrid mode, which it asks for if no mode is given. Default: the "
        f"bot's `dense_weight`; without one {DEFAULT_DENSE_WEIGHT}.",
    )
    filter: BoundedFilter | None = Field(
        None,
        description='For example {"type": "eq", "key": "metadata.language", "value": "ko"}. Applies to the documents '
        "as they are now.",
    )
    score_threshold: Annotated[float, Strict(), Field(ge=-1, le=1)] | None = Field(
        None, description="Minimum cosine similarity of a result. In dense and hybrid mode only."
    )
    group_by_document: Annotated[bool, Strict(), NullIsDefault()] = Field(
        False, description="Return the best chunk of each document, for up to `limit` documents."
    )
    distinct: Annotated[bool, Strict(), NullIsDefault()] = Field(
        False,
        description="Of chunks with equal texts return only the best; its `duplicates` names the others. Texts are "
        "compared after NFKC, with each run of white space as one blank.",
    )
    context_chunks: Annotated[int, Strict(), Field(ge=0, le=MAX_CONTEXT), Integral, NullIsDefault()] = Field(
        0, description="Number of neighbouring chunks to return with each result, before it and after it."
    )
    rerank: Annotated[bool, Strict(), NullIsDefault()] = Field(
        False, description="Rerank the best results with the server's reranker (RERANK_MODEL or RERANK_URL)."
    )

    min_confidence: MinConfidence | None = Field(
        None,
        description="Minimum confidence of a result. 422 if the bot's model has no calibration. Default: the bot's "
        "`min_confidence`; without one results are not cut.",
    )
    allow_partial: Annotated[bool, Strict(), NullIsDefault()] = Field(
        False,
        description="Search even while lost vectors of the bot are being rebuilt. The answer then has `complete` and "
        "`indexed`.",
    )

    @model_validator(mode="after")
    def _options_have_a_use(self) -> Self:
        if self.dense_weight is not None and self.mode in ("dense", "lexical"):
            raise PydanticCustomError("weight_without_hybrid", "dense_weight applies to hybrid mode only")
        if self.score_threshold is not None and self.mode == "lexical":
            raise PydanticCustomError(
                "threshold_without_similarity",
                "score_threshold is a cosine similarity, which lexical mode does not compute; hybrid mode with a "
                "dense_weight of 0 ranks by words and computes it",
            )
        return self


class SearchQuery(SearchOptions):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"chat_bot_id": EXAMPLE_BOT, "query_text": "경복궁은 무슨 요일에 쉬나요?", "limit": 5}]
        }
    )

    query_text: QueryText


class SearchBatch(SearchOptions):
    """Several queries to one bot, with the same options."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "chat_bot_id": EXAMPLE_BOT,
                    "query_texts": ["경복궁은 무슨 요일에 쉬나요?", "경복궁의 정문은 무엇인가?"],
                    "limit": 1,
                    "filter": {"type": "eq", "key": "metadata.language", "value": "ko"},
                }
            ]
        }
    )

    query_texts: Annotated[list[QueryText], Field(min_length=1, max_length=MAX_QUERIES)]

    @model_validator(mode="after")
    def _answer_is_bounded(self) -> Self:
        if len(self.query_texts) * self.limit > MAX_LIMIT:
            raise PydanticCustomError(
                "too_many_results", "number of queries times limit exceeds {most}", {"most": MAX_LIMIT}
            )
        return self


class SearchDocument(TypedDict):
    title: str
    file_type: str | None
    file_path: str | None
    author: str | None
    tags: list[str]
    metadata: dict[str, Any]
    created_at: datetime
    updated_at: datetime
    external_id: str | None


class ContextChunk(TypedDict):
    chunk_id: int
    chunk_index: int
    chunk_text: str
    page_number: int | None


class DuplicateChunk(TypedDict):
    doc_id: int
    chunk_id: int
    chunk_index: int


class ChunkDuplicates(TypedDict):
    count: Annotated[int, Field(description="Chunks with the text of this result, among those that were looked at.")]
    chunks: Annotated[list[DuplicateChunk], Field(description="The best of them, at most 10.")]


class SearchResult(TypedDict):
    chunk_id: int
    doc_id: int
    chunk_index: int
    score: Annotated[
        float,
        Field(
            description="Ranks the result: cosine similarity in dense mode, BM25 in lexical mode, 0..1 in hybrid mode. "
            "For a reranked result, the reranker's score."
        ),
    ]
    dense_score: Annotated[float | None, Field(description="Cosine similarity, -1..1; null in lexical mode.")]
    lexical_score: Annotated[
        float | None, Field(description="BM25; null in dense mode and for a chunk that lexical search did not find.")
    ]
    rerank_score: Annotated[float | None, Field(description="The reranker's score; null for a result not reranked.")]
    lexical_coverage: Annotated[
        float,
        Field(
            description="The share of the query's words, weighted by inverse document frequency, that the chunk has."
        ),
    ]
    confidence: Annotated[
        float | None,
        Field(
            description="How likely it is that this result or one below it answers the query; null if the bot's model "
            "has no calibration."
        ),
    ]
    chunk_text: str
    page_number: int | None
    context: Annotated[
        list[ContextChunk] | None,
        Field(description="The chunk and its neighbours in order; null unless `context_chunks` was given."),
    ]
    duplicates: NotRequired[Annotated[ChunkDuplicates, Field(description="Only with `distinct`.")]]
    document: SearchDocument


class SearchTimings(TypedDict):
    """Time of each stage, in milliseconds, and how the search was carried out. Stages overlap."""

    embedding_ms: Milliseconds
    dense_ms: Milliseconds
    lexical_ms: Milliseconds
    filter_ms: Milliseconds
    postgres_ms: Milliseconds
    rerank_ms: Milliseconds
    total_ms: Milliseconds
    filter_plan: Annotated[Plan | None, Field(description="How the filter was applied; null without a filter.")]
    matching_documents: Annotated[
        int | None,
        Field(
            description="Documents that pass the filter, counted up to 1,001; chunks if the filter tests page_number; "
            "null without a filter."
        ),
    ]
    search_rounds: Annotated[
        int, Field(description="Searches in Milvus: 1, or more if too many of the keys it returned were dropped.")
    ]
    dropped_keys: Annotated[
        int, Field(description="Keys from Milvus that were not current or did not pass the filter.")
    ]


class SearchAnswer(TypedDict):
    status: Literal["success"]
    query: str
    mode: SearchMode
    embedding_time_ms: Milliseconds
    vector_search_time_ms: Milliseconds
    postgres_query_time_ms: Milliseconds
    total_time_ms: Milliseconds
    timings: SearchTimings
    complete: NotRequired[
        Annotated[bool, Field(description="Only with `allow_partial`: whether all chunks were searched.")]
    ]
    indexed: NotRequired[Annotated[float, Field(ge=0, le=1, description="Share of the bot's chunks that is indexed.")]]
    results: list[SearchResult]


class QueryResults(TypedDict):
    query: str
    results: list[SearchResult]


class SearchBatchAnswer(TypedDict):
    """``answers`` in the order of the queries."""

    status: Literal["success"]
    mode: SearchMode
    embedding_time_ms: Milliseconds
    vector_search_time_ms: Milliseconds
    postgres_query_time_ms: Milliseconds
    total_time_ms: Milliseconds
    timings: SearchTimings
    complete: NotRequired[
        Annotated[bool, Field(description="Only with `allow_partial`: whether all chunks were searched.")]
    ]
    indexed: NotRequired[Annotated[float, Field(ge=0, le=1, description="Share of the bot's chunks that is indexed.")]]
    answers: list[QueryResults]
