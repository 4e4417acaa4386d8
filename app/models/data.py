"""Request and response bodies of /data."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    JsonValue,
    Strict,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict

from app.models.base import Request, Response
from app.models.collection import EXAMPLE_BOT
from app.models.fields import (
    CHUNKS_PER_DOCUMENT,
    DOCUMENTS_PER_BATCH,
    INT32_MAX,
    AccountName,
    Author,
    ChunkText,
    DocId,
    ExternalId,
    FilePath,
    FileType,
    Integral,
    Metadata,
    Milliseconds,
    NullIsDefault,
    Tags,
    Title,
    storable_json,
)
from app.models.inserts import InvalidItem, OnConflict

EXAMPLE_DOC_ID = 2
"""The first document's id if the examples are run on a new server. The first bot has used generation 1."""
EXAMPLE_EXTERNAL_ID = "guide/gyeongbokgung.txt"
EXAMPLE_DOCUMENT: dict[str, JsonValue] = {
    "document": {
        "chat_bot_id": EXAMPLE_BOT,
        "title": "경복궁 안내",
        "file_type": "txt",
        "tags": ["seoul"],
        "metadata": {"language": "ko"},
        "external_id": EXAMPLE_EXTERNAL_ID,
    },
    "chunks": [
        {"chunk_index": 0, "text": "광화문은 경복궁의 남쪽 정문이다.", "page_number": 1},
        {"chunk_index": 1, "text": "경복궁은 화요일에 문을 닫는다.", "page_number": 1},
    ],
}


class DocumentIn(Request):
    chat_bot_id: UUID = Field(description="The bot of the document.")
    title: Title
    file_path: FilePath | None = Field(None, description="The source of the text. The server does not open it.")
    file_type: FileType | None = None
    author: Author | None = None
    tags: Annotated[Tags, NullIsDefault()] = Field(default_factory=list)
    metadata: Annotated[Metadata, NullIsDefault()] = Field(
        default_factory=dict, description="Any JSON object. Searches can filter by it."
    )
    external_id: ExternalId | None = Field(
        None, description="The document's name in its own source, such as a path or a URL. Unique within the bot."
    )


class ChunkIn(Request):
    chunk_index: Annotated[int, Strict(), Field(ge=0, lt=CHUNKS_PER_DOCUMENT), Integral] = Field(
        description="Position in the document. Each can be used once; gaps are allowed."
    )
    text: ChunkText = Field(description="The text that is embedded and searched.")
    page_number: Annotated[int, Strict(), Field(ge=0, le=INT32_MAX), Integral] | None = None


def _distinct(chunks: list[ChunkIn]) -> list[ChunkIn]:
    seen: dict[int, int] = {}
    for position, chunk in enumerate(chunks):
        first = seen.setdefault(chunk.chunk_index, position)
        if first != position:
            raise PydanticCustomError(
                "repeated_chunk_index",
                "chunk_index {chunk_index} is used at positions {first} and {position}",
                {"chunk_index": chunk.chunk_index, "first": first, "position": position},
            )
    return chunks


OnConflictField = Annotated[
    OnConflict,
    Field(
        description="If the bot has a document with this external_id: error is a 409, replace puts the new one in its "
        "place, skip leaves it as it is, replace_if_changed replaces it only if something differs."
    ),
    NullIsDefault(),
]


class DocumentWithChunks(Request):
    document: DocumentIn
    chunks: Annotated[list[ChunkIn], Field(min_length=1, max_length=CHUNKS_PER_DOCUMENT), AfterValidator(_distinct)]


class InsertDocument(DocumentWithChunks):
    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE_DOCUMENT]})

    account_name: AccountName | None = None
    on_conflict: OnConflictField = "error"


def _or_invalid_item(value: object, handler: ValidatorFunctionWrapHandler) -> object:
    """The validated document, or an InvalidItem: one invalid document does not stop the others."""
    try:
        return handler(value)
    except ValidationError as exc:
        return InvalidItem.of(value, exc)


class InsertBatch(Request):
    # documents contains an InvalidItem for each document that is not valid.
    model_config = ConfigDict(json_schema_extra={"examples": [{"documents": [EXAMPLE_DOCUMENT]}]})

    account_name: AccountName | None = None
    on_conflict: OnConflictField = "error"
    documents: Annotated[
        list[Annotated[DocumentWithChunks, WrapValidator(_or_invalid_item)]],
        Field(min_length=1, max_length=DOCUMENTS_PER_BATCH),
    ]

    @model_validator(mode="after")
    def _not_too_many_chunks(self) -> Self:
        documents: Sequence[DocumentWithChunks | InvalidItem] = self.documents
        valid = [one for one in documents if not isinstance(one, InvalidItem)]
        if sum(len(document.chunks) for document in valid) > CHUNKS_PER_DOCUMENT:
            raise PydanticCustomError("too_many_chunks", f"holds more than {CHUNKS_PER_DOCUMENT:,} chunks in total")
        return self


Result = Annotated[
    Literal["created", "replaced", "unchanged", "skipped"],
    Field(description="What was done: unchanged and skipped left a stored document with this external_id as it was."),
]
EMBEDDED_CHUNKS = "Chunks that were embedded. A text that the replaced document had too is not embedded again."


class WriteTimes(TypedDict):
    """Times of a write. Responses to writes are plain dictionaries, as in ``app.models.search``."""

    postgres_insert_time_ms: Milliseconds
    embedding_time_ms: Milliseconds
    milvus_insert_time_ms: Milliseconds
    total_time_ms: Milliseconds


class DocumentInserted(WriteTimes):
    status: Literal["success"]
    doc_id: int
    result: Result
    total_chunks: int
    embedded_chunks: Annotated[int, Field(description=EMBEDDED_CHUNKS)]


class ItemErrorLocation(TypedDict):
    loc: Annotated[str, Field(description="For example body.documents.1.chunks.0.text.")]
    msg: str


class ItemError(TypedDict):
    code: Annotated[str, Field(description="As in the response to an insert of one document.")]
    detail: str
    errors: Annotated[list[ItemErrorLocation], Field(description="The location of each error, at most 50.")]


class BatchResult(TypedDict):
    index: Annotated[int, Field(description="Position in the request's documents, from 0.")]
    doc_id: int | None
    title: Annotated[str | None, Field(description="null if the request has no valid title.")]
    result: Result | None
    total_chunks: int
    success: bool
    error: ItemError | None


class BatchInserted(WriteTimes):
    status: Literal["success", "partial", "failed"]
    total_documents: int
    total_chunks: Annotated[int, Field(description="Stored chunks of all documents that succeeded.")]
    success_count: int
    failure_count: int
    results: list[BatchResult]


class DocumentReplaced(WriteTimes):
    status: Literal["success"]
    doc_id: int
    deleted_chunks: int
    inserted_chunks: int
    embedded_chunks: Annotated[int, Field(description=EMBEDDED_CHUNKS)]


class ChunkFields(Request):
    account_name: AccountName | None = None
    chat_bot_id: UUID
    text: ChunkText = Field(description="The text that is embedded and searched.")
    page_number: Annotated[int, Strict(), Field(ge=0, le=INT32_MAX), Integral] | None = None


class PutChunk(ChunkFields):
    """Replaces text and page_number of a chunk."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"chat_bot_id": EXAMPLE_BOT, "text": "경복궁 안내"}]})


class InsertChunk(ChunkFields):
    model_config = ConfigDict(json_schema_extra={"examples": [{"chat_bot_id": EXAMPLE_BOT, "text": "경복궁 안내"}]})

    chunk_index: Annotated[int, Strict(), Field(ge=0, lt=CHUNKS_PER_DOCUMENT), Integral] | None = Field(
        None, description="The new chunk's place. The chunks there move up by one. Default: after the last one."
    )


class ChunkWritten(WriteTimes):
    status: Literal["success"]
    doc_id: int
    chunk_index: int
    chunk_count: Annotated[int, Field(description="Number of all chunks of the document now.")]
    embedded_chunks: Annotated[int, Field(description=EMBEDDED_CHUNKS)]


class DocumentOut(Response):
    doc_id: int
    title: str
    file_path: str | None
    file_type: str | None
    author: str | None
    tags: list[str]
    metadata: dict[str, Any]
    chunk_count: int
    created_at: datetime
    updated_at: datetime
    external_id: str | None


class ChunkOut(Response):
    chunk_id: int
    chunk_index: int
    text: str
    page_number: int | None


class ChunkDetail(Response):
    status: Literal["success"] = "success"
    doc_id: int
    chunk: ChunkOut


class ChunkList(Response):
    status: Literal["success"] = "success"
    doc_id: int
    chunk_count: int = Field(description="Number of all chunks of the document.")
    chunks: list[ChunkOut]
    next_cursor: str | None = Field(description="The cursor of the next page; null on the last page.")


class DocumentDetail(Response):
    status: Literal["success"] = "success"
    document: DocumentOut
    chunk_count: int = Field(description="Number of all chunks of the document.")
    chunks: list[ChunkOut]
    next_cursor: str | None = Field(description="The cursor of the next page of chunks; null on the last page.")


class DocumentList(Response):
    status: Literal["success"] = "success"
    documents: list[DocumentOut]
    next_cursor: str | None = Field(description="The cursor of the next page; null on the last page.")


FIXED_FIELDS = ("chat_bot_id", "doc_id", "external_id", "chunk_count", "created_at", "updated_at")
"""Fields of a document that no request can set."""


class MetadataUpdates(Request):
    """Names of document fields set these fields. All other keys are merged into metadata. null removes a value.

    Keys in ``metadata`` are always merged into metadata, even if they have the name of a document field.
    """

    model_config = ConfigDict(extra="allow", json_schema_extra={"minProperties": 1})

    title: Title = ""
    file_path: FilePath | None = None
    file_type: FileType | None = None
    author: Author | None = None
    tags: Tags | None = None
    metadata: Metadata = Field(
        default_factory=dict,
        description="Keys to merge into metadata, even if they have the name of a document field. null removes a key.",
    )

    @model_validator(mode="after")
    def _is_valid(self) -> Self:
        if not any(chosen_updates(self)):
            raise PydanticCustomError("nothing_to_update", "contains nothing to update")
        return self


def chosen_updates(updates: MetadataUpdates) -> tuple[dict[str, Any], dict[str, Any]]:
    """(fields, metadata keys) to set, or to remove where the value is None. Raises PydanticCustomError.

    This is a function, and reads other keys without getattr, because a key can have the name of a Pydantic attribute.
    """
    names = updates.model_fields_set & MetadataUpdates.model_fields.keys() - {"metadata"}
    extra: dict[str, Any] = storable_json(updates.model_extra or {})
    for name in extra:
        if name in FIXED_FIELDS:
            raise PydanticCustomError(
                "fixed_field",
                '{name} cannot be changed; a metadata key with this name goes into "metadata"',
                {"name": name},
            )
        if name in updates.metadata:
            raise PydanticCustomError("repeated_key", "has the metadata key {name} twice", {"name": name})
    return {name: getattr(updates, name) for name in names}, storable_json({**extra, **updates.metadata})


class PatchMetadata(Request):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "chat_bot_id": EXAMPLE_BOT,
                    "metadata_updates": {"author": "안내소", "reviewed": True, "draft": None},
                }
            ]
        }
    )

    account_name: AccountName | None = None
    chat_bot_id: UUID
    metadata_updates: MetadataUpdates


class MetadataPatched(Response):
    status: Literal["success"] = "success"
    doc_id: int
    updated_at: datetime
    postgres_time_ms: Milliseconds


class DeleteTimes(Response):
    postgres_time_ms: Milliseconds
    total_time_ms: Milliseconds


class DocumentDeleted(DeleteTimes):
    status: Literal["success"] = "success"
    doc_id: int
    deleted_chunks: int


class DeleteBatch(Request):
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"chat_bot_id": EXAMPLE_BOT, "doc_ids": [EXAMPLE_DOC_ID]}]}
    )

    account_name: AccountName | None = None
    chat_bot_id: UUID
    doc_ids: Annotated[list[DocId], Field(min_length=1, max_length=10_000)]


class BatchDeleted(DeleteTimes):
    status: Literal["success", "partial", "failed"]
    deleted_documents: int
    deleted_chunks: int
    not_found: list[int] = Field(description="The doc_ids that this bot does not have.")
