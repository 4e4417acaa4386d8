"""What the client takes and returns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class Bot:
    chat_bot_id: str
    bot_name: str
    collection_name: str
    embedding_model: str | None = None
    dimension: int | None = None


@dataclass(frozen=True, slots=True)
class Document:
    """A document to store. ``texts``: its passages in order; each is embedded and found on its own.

    ``page_numbers``: one for each text, or none.
    """

    title: str
    texts: Sequence[str]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    tags: Sequence[str] = ()
    file_path: str | None = None
    file_type: str | None = None
    author: str | None = None
    page_numbers: Sequence[int | None] | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one document of ``insert_many``: its doc_id, or the code and detail of the error."""

    doc_id: int | None
    code: str | None = None
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class Chunk:
    chunk_id: int
    chunk_index: int
    text: str
    page_number: int | None


@dataclass(frozen=True, slots=True)
class StoredDocument:
    """``chunks`` and ``etag``: None where a list of documents was read. ``etag``: for ``if_match``."""

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
    chunks: list[Chunk] | None = None
    etag: str | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """A chunk that was found. ``score`` ranks it; ``confidence``, 0..1, is None where the server has none."""

    doc_id: int
    chunk_id: int
    chunk_index: int
    text: str
    score: float
    dense_score: float | None
    lexical_score: float | None
    confidence: float | None
    page_number: int | None
    title: str
    metadata: dict[str, Any]
    raw: dict[str, Any]
