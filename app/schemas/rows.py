"""Rows that core and the stores exchange."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Literal, NamedTuple
from uuid import UUID

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from app.schemas.versions import DocumentVersion, Precondition
from app.utils.errors import IdempotencyKeyReused

CHUNKS_PER_GENERATION = 65536
"""Keys reserved for one generation: ``chunk_id = generation * 65536 + chunk_index``."""

MAX_GENERATION = 2**37 - 1
"""The last one: ``chunk_id`` is a number in JSON, which is exact below 2**53."""

MARKER_COLLECTION = "chat_memory_installation"
"""In Milvus: which database it belongs to, and which generations are reserved (app.core.write.generations)."""

DOCUMENT_TABLE = "documents"
DOCUMENT_COLUMNS = (
    "bot_id",
    "doc_id",
    "generation",
    "title",
    "file_path",
    "file_type",
    "author",
    "tags",
    "metadata",
    "chunk_count",
    "chunk_span",
    "external_id",
)
CREATED_AT = "created_at"
"""Of ``documents``; now, if a row names none."""
CHUNK_TABLE = "document_chunks"
CHUNK_COLUMNS = ("bot_id", "chunk_id", "doc_id", "chunk_index", "text", "page_number")
EMBEDDING = "<f4"
"""The type of the numbers in ``recent_vectors.embedding``, for numpy."""


Mode = Literal["dense", "lexical", "hybrid"]
"""How a search finds chunks: by meaning, by words, or by both."""


class Progress(NamedTuple):
    """Progress of the rebuild of a bot's vectors, in chunks."""

    done: int
    total: int

    @property
    def share(self) -> float:
        return min(1.0, self.done / self.total) if self.total else 1.0


class WriteTimestamps(NamedTuple):
    """Milvus's timestamps of a bot's writes.

    ``newest``: no acknowledged write has a newer one. ``last_writer``: the lease token of the process that raised it
    last; None if that is not known. ``foreign``: no write of another process than ``last_writer`` has a newer one.
    """

    newest: int
    last_writer: UUID | None = None
    foreign: int = 0


class ExpectedBot(NamedTuple):
    """What the row of a bot must still be for a search's result to be complete and as the row asks.

    Its writes have timestamps up to ``guarantee_timestamp``, or it was ``writer`` who wrote last, and the writes of all
    others have.
    """

    created_at: datetime
    milvus_collection: str
    statistics_version: UUID | None
    default_mode: Mode | None
    default_dense_weight: float | None
    default_min_confidence: float | None
    guarantee_timestamp: int
    writer: UUID | None = None


@dataclass(frozen=True, slots=True)
class Bot:
    """A bot's row.

    ``milvus_collection``: the collection that holds the vectors. Callers know it as ``collection_name``.
    ``embedding_model`` and ``dimension``: None before the bot's first use. ``milvus_timestamp``: of its newest write.
    """

    bot_id: UUID
    bot_name: str
    collection_name: str
    account_name: str
    embedding_model: str | None
    dimension: int | None
    milvus_timestamp: int
    created_at: datetime
    partition_name: str
    milvus_collection: str
    unicode_normalized: bool = True
    """Whether all text of its documents is in NFC. If not, filters normalize it as they read it."""
    in_flight_generations: tuple[int, ...] = ()
    """Generations (equal to the doc_ids) of new documents that are being written. Filled by ``BotPort.get`` only."""
    rebuild: Progress | None = None
    """Set while vectors of this bot are missing in Milvus."""
    last_writer: UUID | None = None
    foreign_timestamp: int = 0
    """See ``WriteTimestamps``."""
    analyzer_version: int = 1
    """Of the words in ``milvus_collection``, and so of the queries to it."""
    title_in_lexical: bool = False
    """Whether the lexical field of each chunk begins with the title of its document."""
    next_title_in_lexical: bool = False
    """The same of the collection that is being filled by a migration."""
    statistics_version: UUID | None = None
    """Another one whenever the bot's ``BotStatistics`` change; None before they were computed."""
    default_mode: Mode | None = None
    default_dense_weight: float | None = None
    default_min_confidence: float | None = None
    """For searches that name none. None: the server's default."""
    pinned: bool = False
    """Whether its collection stays in Milvus's memory once it was loaded."""

    @property
    def timestamps(self) -> WriteTimestamps:
        return WriteTimestamps(self.milvus_timestamp, self.last_writer, self.foreign_timestamp)

    def with_timestamps(self, timestamps: WriteTimestamps) -> "Bot":
        newest, last_writer, foreign = timestamps
        return replace(self, milvus_timestamp=newest, last_writer=last_writer, foreign_timestamp=foreign)

    def __hash__(self) -> int:
        """Of two fields, as each search hashes its bot several times; equality compares all."""
        return hash((self.bot_id, self.milvus_timestamp))


BotChanges = dict[str, Any]
"""New values by column of ``bot_registry``: bot_name, default_mode, default_dense_weight,
default_min_confidence, pinned."""

CREATE_BOT, DELETE_BOT, DROP_COLLECTION = "create_bot", "delete_bot", "drop_collection"
"""The operations of a BotSaga."""


@dataclass(frozen=True, slots=True)
class BotSaga:
    """A saga of a whole bot. ``generation`` is its key. ``collection_name``: what DROP_COLLECTION drops."""

    generation: int
    operation: str
    bot_id: UUID
    collection_name: str | None = None


@dataclass(frozen=True, slots=True)
class BotCounts:
    """What a bot holds, and its backlog: ``sagas`` in flight, and generations that wait in ``vector_gc``."""

    documents: int
    chunks: int
    sagas: int
    vector_gc: int


@dataclass(frozen=True, slots=True)
class BotState:
    """A bot as ``verify`` sees it. ``collection_name``: its collection in Milvus. ``next_model``: the target of a model
    migration that is under way or was interrupted."""

    bot_id: UUID
    collection_name: str
    state: str
    embedding_model: str | None
    next_model: str | None
    is_rebuilding: bool
    has_partitions: bool


class NewChunk(Struct, frozen=True):
    chunk_index: int
    text: str
    page_number: int | None = None


class GivenVectors(NamedTuple):
    """Vectors of unit length that came with a document: float32 (dimension,) by chunk_index, made by ``model``."""

    model: str
    dimension: int
    by_index: Mapping[int, NDArray[np.float32]]


class NewDocument(Struct, frozen=True):
    """A document as a caller sends it, its chunks in the order of their chunk_index.

    Of an imported document: ``created_at`` is kept if the document is new, and ``vectors`` are stored as they are where
    the bot has their model. Chunks without one are embedded.
    """

    title: str
    chunks: Sequence[NewChunk]
    file_path: str | None = None
    file_type: str | None = None
    author: str | None = None
    tags: Sequence[str] = ()
    metadata: dict[str, Any] = {}
    external_id: str | None = None
    created_at: datetime | None = None
    vectors: GivenVectors | None = None

    @property
    def chunk_span(self) -> int:
        """One more than the largest chunk_index."""
        return self.chunks[-1].chunk_index + 1


class WriteRow(NamedTuple):
    """A write of a document, as T1 and T2 take it: an insert, or a replacement of the document ``doc_id``.

    ``bot_created_at`` tells the bot from one that is registered under the same bot_id later. ``collection_name``: where
    the document's vectors go. ``doc_id`` is None, and ``generation`` 0, before T1 gives out the numbers.
    ``previous_generation``: what the write replaces, known since T1; None for an insert. ``rewrites``: the generation
    whose chunks are written again or changed, the document's other columns staying as they are; None for any other
    write. ``precondition``: on what it replaces, at the moment of T2. The saga of a document with an ``external_id``
    holds it.
    """

    bot_id: UUID
    bot_created_at: datetime
    collection_name: str
    document: NewDocument
    doc_id: int | None = None
    generation: int = 0
    previous_generation: int | None = None
    rewrites: int | None = None
    precondition: Precondition | None = None


IMPORT_KEYS = "import "
"""With what the keys of imports begin. No client's key has a blank."""
IMPORTS_KEPT = timedelta(days=30)
"""How long an import can be continued that was stopped."""


class IdempotencyKey(NamedTuple):
    """An Idempotency-Key of an account, and of which request. ``generation``: the saga that represents the request
    while it is in flight; 0 before T1."""

    account: str
    key: str
    body_sha256: bytes
    generation: int = 0

    def check_same(self, body_sha256: bytes) -> None:
        """Raises IdempotencyKeyReused unless the key was first used for this very request."""
        if body_sha256 != self.body_sha256:
            raise IdempotencyKeyReused("This Idempotency-Key belongs to another request: its body or its path differs.")


@dataclass(frozen=True, slots=True)
class Document:
    """A document as it is stored, without its chunks."""

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
    generation: int

    @property
    def version(self) -> DocumentVersion:
        return DocumentVersion(self.generation, self.updated_at)


class ExternalIdState(NamedTuple):
    """``doc_id``: of the document that has this external_id, if there is one. ``held``: a write of it is in flight."""

    doc_id: int | None
    held: bool


class PatchedDocuments(NamedTuple):
    """doc_ids of one PATCH of many: ``unchanged`` had the values already, and the metadata of ``too_large`` would have
    become too large."""

    changed: Sequence[int] = ()
    unchanged: Sequence[int] = ()
    too_large: Sequence[int] = ()


class MissingDeleted(NamedTuple):
    """A part of the documents that a synchronization deletes. ``chunks``: {doc_id: number of chunks} of those that were
    still there. ``left``: whether there may be more."""

    chunks: dict[int, int]
    left: bool


@dataclass(frozen=True, slots=True)
class Chunk:
    chunk_id: int
    chunk_index: int
    text: str
    page_number: int | None


class ChunkHash(NamedTuple):
    """A stored chunk with the SHA-256 of its text in UTF-8."""

    chunk_id: int
    page_number: int | None
    text_sha256: bytes


@dataclass(frozen=True, slots=True)
class StoredDocument:
    """A document with hashes of its chunks' texts, in the order of their keys."""

    document: Document
    chunks: Sequence[ChunkHash]


@dataclass(frozen=True, slots=True)
class SearchChunk:
    """A confirmed chunk with its text, and the columns of its document."""

    chunk_id: int
    doc_id: int
    chunk_index: int
    text: str
    page_number: int | None
    title: str
    file_type: str | None
    file_path: str | None
    author: str | None
    tags: list[str]
    metadata: dict[str, Any]
    created_at: datetime
    updated_at: datetime
    external_id: str | None


class CurrentChunk(NamedTuple):
    """Confirms that a key is a current chunk of ``doc_id``. ``chunk``: the chunk itself, None if not hydrated."""

    doc_id: int
    chunk: SearchChunk | None


class StaleChunk(NamedTuple):
    """A key in Milvus whose chunk was replaced or deleted.

    ``doc_id``: the document it belonged to, None if that is no longer known. ``chunk_count``: number of chunks that
    the document has now, None if it was deleted.
    """

    chunk_id: int
    doc_id: int | None
    chunk_count: int | None
