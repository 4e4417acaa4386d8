"""The lines of an exported bot: NDJSON, a manifest, then a document a line, then the end.

    {"format":"chat-memory-export","version":1,"export_id":..,"bot":{..},"vectors":true,"documents":2,"chunks":3,..}
    {"doc_id":7,"document":{"title":..},"created_at":..,"updated_at":..,"chunks":[{"chunk_index":0,"text":..,..}]}
    {"end":true,"documents":2,"chunks":3,"vectors":3,"sha256":".."}

The counts of the manifest are those of its moment, the counts of the end those of the lines. ``sha256`` is that of all
bytes before the end's line. A file without that line, or with another hash, was cut off or changed. A vector is
float32, little-endian, in base64. RAG_Milvus_API_Design.md, section 3, is the reference.
"""

import gzip
from binascii import b2a_base64
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

import msgspec
import numpy as np
import orjson
from msgspec import Struct

from app.core.embedding.port import Vectors
from app.core.transfer.lines import Digest
from app.schemas.rows import Bot, BotCounts, Chunk, Document, Mode
from app.utils.errors import InvalidInput

FORMAT: Final = "chat-memory-export"
VERSION: Final = 1
VECTOR_TYPE: Final = np.dtype("<f4")
END: Final = b'{"end"'
LEVEL: Final = 5
"""Of the compression. Vectors shrink to three quarters, texts to a third, at any level."""


class ExportedBot(Struct, frozen=True):
    """The settings of an exported bot. ``embedding_model`` and ``dimension``: None of a bot that was never used."""

    chat_bot_id: UUID
    bot_name: str
    collection_name: str
    account_name: str
    created_at: datetime
    embedding_model: str | None
    dimension: int | None
    analyzer_version: int
    title_in_lexical: bool
    mode: Mode | None = None
    dense_weight: float | None = None
    min_confidence: float | None = None

    @property
    def model(self) -> tuple[str, int] | None:
        """Name and dimension."""
        return (self.embedding_model, self.dimension) if self.embedding_model and self.dimension else None


class Manifest(Struct, frozen=True):
    """The first line. ``export_id``: another one for each export. ``documents`` and ``chunks``: at its start."""

    format: str
    version: int
    export_id: UUID
    exported_at: datetime
    bot: ExportedBot
    vectors: bool
    documents: int
    chunks: int

    @classmethod
    def read(cls, line: bytes) -> "Manifest":
        """Raises InvalidInput for anything but the manifest of a version that this program can read."""
        try:
            manifest = _read_manifest(line)
        except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
            raise InvalidInput(f"The first line is not the manifest of an export: {exc}.") from exc
        if manifest.format != FORMAT:
            raise InvalidInput(f"The first line names another format than {FORMAT}.")
        if manifest.version != VERSION:
            raise InvalidInput(
                f"The export has version {manifest.version} of the format; this program reads {VERSION}."
            )
        return manifest


class End(Struct, frozen=True):
    """The last line. ``vectors``: how many chunks have one. ``sha256``: in hexadecimal."""

    end: bool
    documents: int
    chunks: int
    vectors: int
    sha256: str

    @classmethod
    def read(cls, line: bytes) -> "End | None":
        """None for any other line."""
        if not line.startswith(END):
            return None
        try:
            return _read_end(line)
        except msgspec.MsgspecError:
            return None


class WholeCheck:
    """Reads the lines of an export in order, and says whether it is whole.

    ``manifest`` and ``end``: the first and the last line, as soon as they were read.
    """

    def __init__(self) -> None:
        self.manifest: Manifest | None = None
        self.end: End | None = None
        self._lines = 0
        self._torn: str | None = None

    def see(self, line: bytes | None, before: Digest) -> None:
        """The next line; None for one that is too long to be read. ``before``: the SHA-256 of the lines before it.

        Raises InvalidInput if the first line is not a manifest.
        """
        self._lines += 1
        if self.manifest is None:
            self.manifest = Manifest.read(line or b"")
        elif self.end is not None:
            self._torn = "was changed: it has lines after its last one"
        elif line is not None and (end := End.read(line)):
            self.end = end
            if end.sha256 != before.hexdigest() or end.documents != self._lines - 2:
                self._torn = "was changed or is damaged: its hash or its count is not the one in its last line"

    @property
    def torn(self) -> str | None:
        """What is wrong, as the rest of a sentence; None if the export is whole."""
        return "was cut off: it has no last line" if self.end is None else self._torn


_read_manifest = msgspec.json.Decoder(Manifest).decode
_read_end = msgspec.json.Decoder(End).decode


def manifest_line(export_id: UUID, now: datetime, bot: Bot, counts: BotCounts, *, vectors: bool) -> bytes:
    exported = ExportedBot(
        bot.bot_id,
        bot.bot_name,
        bot.collection_name,
        bot.account_name,
        bot.created_at,
        bot.embedding_model,
        bot.dimension,
        bot.analyzer_version,
        bot.title_in_lexical,
        bot.default_mode,
        bot.default_dense_weight,
        bot.default_min_confidence,
    )
    return _line(Manifest(FORMAT, VERSION, export_id, now, exported, vectors, counts.documents, counts.chunks))


def document_head(document: Document) -> bytes:
    """The line up to its first chunk. After the last one follows ``DOCUMENT_TAIL``."""
    head = orjson.dumps(
        {
            "doc_id": document.doc_id,
            "document": {
                "title": document.title,
                "file_path": document.file_path,
                "file_type": document.file_type,
                "author": document.author,
                "tags": document.tags,
                "metadata": document.metadata,
                "external_id": document.external_id,
            },
            "created_at": document.created_at,
            "updated_at": document.updated_at,
        }
    )
    return head[:-1] + b',"chunks":['


DOCUMENT_TAIL: Final = b"]}\n"


def chunk_items(chunks: Sequence[Chunk], vectors: Mapping[int, Vectors] | None) -> bytes:
    """The chunks as items of an array. ``vectors`` by chunk_id; None: without the field ``vector``."""
    items: list[dict[str, object]] = []
    for chunk in chunks:
        item: dict[str, object] = {
            "chunk_index": chunk.chunk_index,
            "text": chunk.text,
            "page_number": chunk.page_number,
        }
        if vectors is not None:
            vector = vectors.get(chunk.chunk_id)
            item["vector"] = (
                None if vector is None else b2a_base64(vector.astype(VECTOR_TYPE).tobytes(), newline=False).decode()
            )
        items.append(item)
    return orjson.dumps(items)[1:-1]


def compressed(piece: bytes) -> bytes:
    """The piece as a gzip member of its own, so that a compressed export can be cut after any of them."""
    return gzip.compress(piece, LEVEL, mtime=0)


def end_line(documents: int, chunks: int, vectors: int, sha256: str) -> bytes:
    return _line(End(True, documents, chunks, vectors, sha256))


def _line(content: Manifest | End) -> bytes:
    # Times are left to orjson, as in the lines of documents.
    return orjson.dumps(msgspec.to_builtins(content, builtin_types=(datetime,)), option=orjson.OPT_APPEND_NEWLINE)
