"""What the bodies of /data/insert and /data/insert/batch are read into: the quick way past ``app.models.data``.

The models say what a body may hold, in the documentation and in each error. These structures are read from JSON in a
third of the time and hold the same. They may refuse what a model takes, never take what it refuses; a test compares.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Self
from uuid import UUID

from msgspec import Meta, MsgspecError, Struct, convert
from msgspec.json import Decoder
from msgspec.structs import force_setattr
from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticCustomError

from app.models.fields import (
    AUTHOR_CHARS,
    CHUNKS_PER_DOCUMENT,
    DOCUMENTS_PER_BATCH,
    FILE_PATH_CHARS,
    FILE_TYPE_CHARS,
    INT32_MAX,
    NAME_CHARS,
    TAG_CHARS,
    TAGS_PER_DOCUMENT,
    TEXT_CHARS,
    TITLE_CHARS,
    storable_json,
)
from app.schemas.rows import NewChunk, NewDocument
from app.utils.unicode import blank, is_nfc

if TYPE_CHECKING:
    from app.models.data import InsertBatch

    Tags = list[str]
    Metadata = dict[str, Any]
else:  # null counts as left out: ``_sound`` puts an empty one in its place, before anybody sees it.
    Tags = Annotated[list[Annotated[str, Meta(max_length=TAG_CHARS)]], Meta(max_length=TAGS_PER_DOCUMENT)] | None
    Metadata = dict[str, Any] | None

ERRORS_PER_DOCUMENT = 50
NUL = b"\\u0000"
"""As JSON must write it."""


class Chunk(NewChunk, frozen=True, forbid_unknown_fields=True):
    chunk_index: Annotated[int, Meta(ge=0, lt=CHUNKS_PER_DOCUMENT)]
    text: Annotated[str, Meta(max_length=TEXT_CHARS)]
    page_number: Annotated[int, Meta(ge=0, le=INT32_MAX)] | None = None


class Fields(Struct, frozen=True, forbid_unknown_fields=True):
    chat_bot_id: UUID
    title: Annotated[str, Meta(max_length=TITLE_CHARS)]
    file_path: Annotated[str, Meta(max_length=FILE_PATH_CHARS)] | None = None
    file_type: Annotated[str, Meta(max_length=FILE_TYPE_CHARS)] | None = None
    author: Annotated[str, Meta(max_length=AUTHOR_CHARS)] | None = None
    tags: Tags = []
    metadata: Metadata = {}


class Item(Struct, frozen=True, forbid_unknown_fields=True):
    """A document with its chunks, as they stand in the body."""

    document: Fields
    chunks: Annotated[list[Chunk], Meta(min_length=1, max_length=CHUNKS_PER_DOCUMENT)]

    @property
    def title(self) -> str:
        return self.document.title

    @property
    def total_chunks(self) -> int:
        return len(self.chunks)

    def new_document(self) -> NewDocument:
        """With its chunks in order."""
        document, chunks = self.document, self.chunks
        if len(chunks) > 1:
            chunks = sorted(chunks, key=lambda chunk: chunk.chunk_index)
        return NewDocument(
            document.title,
            chunks,
            document.file_path,
            document.file_type,
            document.author,
            document.tags,
            document.metadata,
        )


class Body(Struct, frozen=True, forbid_unknown_fields=True):
    @classmethod
    def of(cls, body: BaseModel) -> Self:
        """What the model holds."""
        return convert(body.model_dump(), cls)


class Insert(Item, Body, frozen=True, forbid_unknown_fields=True):
    """A body of /data/insert, and of PUT /data/document/{doc_id}."""

    account_name: Annotated[str, Meta(max_length=NAME_CHARS)] | None = None

    @classmethod
    def read(cls, content: bytes) -> Self | None:
        """None if the model should say what is wrong with it."""
        body: Self | None = _decoded(INSERT, content)
        return body if body and _sound([body], body.account_name) else None


@dataclass(frozen=True, slots=True)
class RefusedItem:
    """A document of a batch that cannot be stored as it stands in the body.

    ``errors``: where in the document, and why. ``title`` is None where it has none that can be answered.
    """

    title: str | None
    total_chunks: int
    errors: Sequence[tuple[Sequence[int | str], str]]

    @classmethod
    def of(cls, value: object, error: ValidationError) -> Self:
        fields = value if isinstance(value, dict) else {}
        document, chunks = fields.get("document"), fields.get("chunks")
        title = document.get("title") if isinstance(document, dict) else None
        errors = error.errors(include_input=False, include_context=False, include_url=False)
        return cls(
            title if isinstance(title, str) and _answerable(title) else None,
            len(chunks) if isinstance(chunks, list) else 0,
            [(one["loc"], one["msg"]) for one in errors[:ERRORS_PER_DOCUMENT]],
        )


def _answerable(title: str) -> bool:
    try:
        return len(title.encode()) <= 4 * TITLE_CHARS
    except UnicodeEncodeError:
        return False


class ManyItems(Struct, frozen=True, forbid_unknown_fields=True):
    documents: Annotated[list[Item], Meta(min_length=1, max_length=DOCUMENTS_PER_BATCH)]
    account_name: Annotated[str, Meta(max_length=NAME_CHARS)] | None = None


@dataclass(frozen=True, slots=True)
class InsertMany:
    """A body of /data/insert/batch."""

    documents: Sequence[Item | RefusedItem]
    account_name: str | None = None

    @classmethod
    def read(cls, content: bytes) -> Self | None:
        """None if the model should say what is wrong with it, or with some of its documents."""
        body: ManyItems | None = _decoded(INSERT_MANY, content)
        if body is None or sum(len(item.chunks) for item in body.documents) > CHUNKS_PER_DOCUMENT:
            return None
        return cls(body.documents, body.account_name) if _sound(body.documents, body.account_name) else None

    @classmethod
    def of(cls, body: "InsertBatch") -> Self:
        """What the model holds."""
        documents: Sequence[BaseModel | RefusedItem] = body.documents
        items = [one if isinstance(one, RefusedItem) else convert(one.model_dump(), Item) for one in documents]
        return cls(items, body.account_name)


INSERT = Decoder(Insert)
INSERT_MANY = Decoder(ManyItems)


def _decoded(decoder: Decoder[Any], content: bytes) -> Any:
    if NUL in content:
        return None
    try:
        return decoder.decode(content)
    except (MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _sound(items: Sequence[Item], account: str | None) -> bool:
    """What their types do not say. NUL and lone surrogates do not come here; what is no NFC is left to the model."""
    if account is not None and (blank(account) or not is_nfc(account)):
        return False
    for item in items:
        document, chunks = item.document, item.chunks
        if document.tags is None:
            force_setattr(document, "tags", [])
        if document.metadata is None:
            force_setattr(document, "metadata", {})
        if blank(document.title) or any(map(blank, document.tags)):
            return False
        optional = (document.file_path or "", document.file_type or "", document.author or "")
        if not is_nfc("\n".join((document.title, *optional, *document.tags))):
            return False
        for chunk in chunks:
            if blank(chunk.text):
                return False
        if len(chunks) > 1 and len({chunk.chunk_index for chunk in chunks}) < len(chunks):
            return False
        if document.metadata:
            try:
                if storable_json(document.metadata) is not document.metadata:
                    return False
            except PydanticCustomError:
                return False
    return True
