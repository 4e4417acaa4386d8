"""The line of a document in an export or an import: ``app.core.transfer.format``."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import numpy as np
import orjson
from msgspec import Meta, MsgspecError, Struct, convert
from msgspec.json import Decoder
from msgspec.structs import replace
from pydantic import ValidationError

from app.models.data import DocumentWithChunks
from app.models.fields import CHUNKS_PER_DOCUMENT
from app.models.inserts import NUL, Chunk, DocumentFields, Item, is_valid
from app.schemas.rows import GivenVectors, NewDocument
from app.utils.errors import InvalidInput, MalformedBody

FLOAT = np.dtype("<f4")
Time = Annotated[datetime, Meta(tz=True)]


class ImportedChunk(Chunk, frozen=True, forbid_unknown_fields=True):
    """``vector``: float32, little-endian; in JSON in base64."""

    vector: bytes | None = None


class ImportedDocument(Struct, frozen=True, forbid_unknown_fields=True):
    """``doc_id`` and ``updated_at`` are those of the exported document; an import gives new ones."""

    document: dict[str, Any]
    chunks: Annotated[list[ImportedChunk], Meta(min_length=1, max_length=CHUNKS_PER_DOCUMENT)]
    doc_id: int | None = None
    created_at: Time | None = None
    updated_at: Time | None = None


_decoder = Decoder(ImportedDocument)


def read_document(
    line: bytes, bot_id: UUID, model: tuple[str, int] | None, check: Callable[[Item], object] = lambda _item: None
) -> NewDocument:
    """The document of one line, to be stored in this bot, from whatever bot it was exported.

    ``model``: name and dimension of the model of its vectors; None to leave them out. Raises MalformedBody if the line
    is not JSON; InvalidInput, which names the field; and what ``check`` raises.
    """
    read, item = _read_fast(line, bot_id) or _read(line, bot_id)
    check(item)
    vectors = None if model is None else _vectors(read.chunks, *model)
    return replace(item.new_document(), created_at=read.created_at, vectors=vectors)


def _read_fast(line: bytes, bot_id: UUID) -> tuple[ImportedDocument, Item] | None:
    """None if the model must validate the line, and say what is wrong with it."""
    if NUL in line:
        return None
    try:
        read = _decoder.decode(line)
        item = _item(read, bot_id)
    except (MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return (read, item) if is_valid([item], None) else None


def _read(line: bytes, bot_id: UUID) -> tuple[ImportedDocument, Item]:
    """Puts strings into NFC. Raises MalformedBody and InvalidInput."""
    try:
        content: Any = orjson.loads(line)
    except orjson.JSONDecodeError as exc:
        raise MalformedBody(f"is not JSON in UTF-8: {exc}") from exc
    if not isinstance(content, dict) or not isinstance(content.get("document"), dict):
        raise InvalidInput("document: should be an object")
    chunks = content.get("chunks")
    parts = [part for part in chunks if isinstance(part, dict)] if isinstance(chunks, list) else []
    vectors = [part.pop("vector", None) for part in parts]
    try:
        body = {"document": {**content["document"], "chat_bot_id": bot_id}, "chunks": chunks}
        valid = DocumentWithChunks.model_validate(body).model_dump()
        for chunk, vector in zip(valid["chunks"], vectors, strict=True):
            chunk["vector"] = vector
        read = convert({**content, **valid}, ImportedDocument)
        return read, _item(read, bot_id)
    except ValidationError as exc:
        error = exc.errors()[0]
        raise InvalidInput(f"{'.'.join(map(str, error['loc']))}: {error['msg']}") from exc
    except MsgspecError as exc:
        raise InvalidInput(str(exc)) from exc


def _item(read: ImportedDocument, bot_id: UUID) -> Item:
    return Item(convert({**read.document, "chat_bot_id": bot_id}, DocumentFields), read.chunks)  # type: ignore[arg-type]


def _vectors(chunks: Sequence[ImportedChunk], model: str, dimension: int) -> GivenVectors | None:
    """Raises InvalidInput if one has another dimension."""
    found = {chunk.chunk_index: chunk.vector for chunk in chunks if chunk.vector is not None}
    for index, vector in found.items():
        if len(vector) != dimension * FLOAT.itemsize:
            raise InvalidInput(f"chunks.{index}.vector: is not of {dimension} numbers of type float32")
    by_index = {index: np.frombuffer(vector, FLOAT) for index, vector in found.items()}
    return GivenVectors(model, dimension, by_index) if found else None
