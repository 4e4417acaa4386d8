"""Arguments and results of the tools of /mcp. Their JSON Schemas are what a model sees of a tool."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import Field, Strict, WithJsonSchema
from typing_extensions import TypedDict

from app.models.base import Request
from app.models.collection import SearchMode
from app.models.fields import INT64_MAX, Author, ChunkText, DocId, FilePath, Metadata, QueryText, Tags, Title
from app.models.filters import BoundedFilter

MAX_RESULTS = 50
MAX_TEXTS = 1_000
MAX_CHUNKS = 1_000
DEFAULT_CHUNKS = 100

ToolFilter = Annotated[
    BoundedFilter,
    WithJsonSchema(
        {
            "type": "object",
            "description": 'Only documents that match, for example {"type": "eq", "key": "metadata.language", "value": '
            '"ko"}. Types: eq, ne, gt, gte, lt, lte, in, nin, contains, starts_with, is_empty; and, or with "filters"; '
            'not with "filter". Keys: metadata.<name>, title, author, file_type, tags, created_at.',
        }
    ),
]
"""A short schema: the whole one refers to itself, which not every client can read."""


class NoArguments(Request):
    pass


class OfBot(Request):
    chat_bot_id: UUID = Field(description="The bot, from list_bots.")


class SearchArguments(OfBot):
    query: QueryText = Field(description="A question, or words to look for.")
    filter: ToolFilter | None = None
    mode: SearchMode | None = Field(
        None, description="By meaning, by words, or by both. Default: both, where the bot has words."
    )
    limit: Annotated[int, Strict(), Field(ge=1, le=MAX_RESULTS)] = 5


class FetchArguments(OfBot):
    doc_id: DocId
    cursor: Annotated[int, Field(ge=0, le=INT64_MAX)] = Field(0, description="next_cursor of the page before.")
    limit: Annotated[int, Strict(), Field(ge=1, le=MAX_CHUNKS)] = DEFAULT_CHUNKS


class NewDocumentArguments(Request):
    title: Title
    texts: Annotated[list[ChunkText], Field(min_length=1, max_length=MAX_TEXTS)] = Field(
        description="The document's text in passages, in order. Each is found on its own."
    )
    metadata: Metadata = Field(default_factory=dict)
    tags: Tags = Field(default_factory=list)
    file_path: FilePath | None = Field(None, description="The source, such as a URL.")
    author: Author | None = None


class InsertArguments(NewDocumentArguments, OfBot):
    pass


class QueryArgument(Request):
    query: QueryText


class IdArgument(Request):
    id: str = Field(max_length=64, description="The id of a result of search.")


class BotEntry(TypedDict):
    chat_bot_id: str
    bot_name: str
    collection_name: str


class BotEntries(TypedDict):
    bots: list[BotEntry]


class Passage(TypedDict):
    doc_id: int
    chunk_id: int
    title: str
    text: str
    score: float
    page_number: int | None
    metadata: dict[str, Any]


class Passages(TypedDict):
    results: list[Passage]


class FetchedChunk(TypedDict):
    chunk_index: int
    text: str
    page_number: int | None


class FetchedDocument(TypedDict):
    doc_id: int
    title: str
    file_path: str | None
    author: str | None
    tags: list[str]
    metadata: dict[str, Any]
    created_at: datetime
    chunks: list[FetchedChunk]
    next_cursor: int | None


class Inserted(TypedDict):
    doc_id: int
    chunks: int


class ConnectorResult(TypedDict):
    id: str
    title: str
    url: str


class ConnectorResults(TypedDict):
    results: list[ConnectorResult]


class ConnectorDocument(TypedDict):
    id: str
    title: str
    text: str
    url: str
    metadata: dict[str, Any]
