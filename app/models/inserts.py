"""Structures that read the bodies of /data/insert and /data/insert/batch faster than the models in ``app.models.data``.

The models define what a body may contain, for the OpenAPI document and for each error. These structures contain the
same, and msgspec reads them from JSON in a third of the time. A structure may reject a body that the model accepts, but
must never accept one that the model rejects. tests/unit/test_inserts.py compares them.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self
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
    EXTERNAL_ID_CHARS,
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
else:  # null means the default: ``is_valid`` replaces it.
    Tags = Annotated[list[Annotated[str, Meta(max_length=TAG_CHARS)]], Meta(max_length=TAGS_PER_DOCUMENT)] | None
    Metadata = dict[str, Any] | None

OnConflict = Literal["error", "replace", "skip", "replace_if_changed"]
"""As ``app.core.write.upsert.OnConflict``."""
ERRORS_PER_DOCUMENT = 50
NUL = b"\\u0000"
"""The only form of NUL in JSON."""


class Chunk(NewChunk, frozen=True, forbid_unknown_fields=True):
    chunk_index: Annotated[int, Meta(ge=0, lt=CHUNKS_PER_DOCUMENT)]
    text: Annotated[str, Meta(max_length=TEXT_CHARS)]
    page_number: Annotated[int, Meta(ge=0, le=INT32_MAX)] | None = None


class DocumentFields(Struct, frozen=True, forbid_unknown_fields=True):
    chat_bot_id: UUID
    title: Annotated[str, Meta(max_length=TITLE_CHARS)]
    file_path: Annotated[str, Meta(max_length=FILE_PATH_CHARS)] | None = None
    file_type: Annotated[str, Meta(max_length=FILE_TYPE_CHARS)] | None = None
    author: Annotated[str, Meta(max_length=AUTHOR_CHARS)] | None = None
    tags: Tags = []
    metadata: Metadata = {}
    external_id: Annotated[str, Meta(max_length=EXTERNAL_ID_CHARS)] | None = None


class Item(Struct, frozen=True, forbid_unknown_fields=True):
    """A document with its chunks, in the order of the body."""

    document: DocumentFields
    chunks: Annotated[list[Chunk], Meta(min_length=1, max_length=CHUNKS_PER_DOCUMENT)]

    @property
    def title(self) -> str:
        return self.document.title

    @property
    def total_chunks(self) -> int:
        return len(self.chunks)

    def new_document(self, external_id: str | None = None) -> NewDocument:
        """The document for the core, with its chunks ordered by chunk_index. ``external_id``: in place of its own."""
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
            external_id or document.external_id,
        )


class Body(Struct, frozen=True, forbid_unknown_fields=True):
    @classmethod
    def of(cls, body: BaseModel) -> Self:
        """The content of a validated model."""
        return convert(body.model_dump(), cls)


class Insert(Item, Body, frozen=True, forbid_unknown_fields=True):
    """The body of /data/insert and of PUT /data/document/{doc_id}."""

    account_name: Annotated[str, Meta(max_length=NAME_CHARS)] | None = None
    on_conflict: OnConflict = "error"

    @classmethod
    def read(cls, content: bytes) -> Self | None:
        """None if the model must validate the body, and write its errors if it has any."""
        body: Self | None = _decoded(_insert_decoder, content)
        return body if body and is_valid([body], body.account_name) else None


@dataclass(frozen=True, slots=True)
class InvalidItem:
    """A document of a batch that is not valid.

    ``errors``: (location in the document, message) of each error. ``title`` is None if it cannot be in a response.
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
            title if isinstance(title, str) and _is_printable(title) else None,
            len(chunks) if isinstance(chunks, list) else 0,
            [(one["loc"], one["msg"]) for one in errors[:ERRORS_PER_DOCUMENT]],
        )


def _is_printable(title: str) -> bool:
    try:
        return len(title.encode()) <= 4 * TITLE_CHARS
    except UnicodeEncodeError:
        return False


class ManyItems(Struct, frozen=True, forbid_unknown_fields=True):
    documents: Annotated[list[Item], Meta(min_length=1, max_length=DOCUMENTS_PER_BATCH)]
    account_name: Annotated[str, Meta(max_length=NAME_CHARS)] | None = None
    on_conflict: OnConflict = "error"


@dataclass(frozen=True, slots=True)
class InsertMany:
    """The body of /data/insert/batch."""

    documents: Sequence[Item | InvalidItem]
    account_name: str | None = None
    on_conflict: OnConflict = "error"

    @classmethod
    def read(cls, content: bytes) -> Self | None:
        """None if the model must validate the body, and write the errors of its documents if there are any."""
        body: ManyItems | None = _decoded(_insert_many_decoder, content)
        if body is None or sum(len(item.chunks) for item in body.documents) > CHUNKS_PER_DOCUMENT:
            return None
        if not is_valid(body.documents, body.account_name):
            return None
        return cls(body.documents, body.account_name, body.on_conflict)

    @classmethod
    def of(cls, body: "InsertBatch") -> Self:
        """The content of a validated model."""
        documents: Sequence[BaseModel | InvalidItem] = body.documents
        items = [one if isinstance(one, InvalidItem) else convert(one.model_dump(), Item) for one in documents]
        return cls(items, body.account_name, body.on_conflict)


def read_item(content: bytes) -> Item | InvalidItem:
    """A document with its chunks, from JSON. Raises ValueError if it is not JSON in UTF-8."""
    item: Item | None = _decoded(_item_decoder, content)
    if item and is_valid([item], None):
        return item
    from app.models.data import DocumentWithChunks  # Imports this module.

    try:
        value = json.loads(content.decode())
    except RecursionError as exc:
        raise ValueError("is nested too deep") from exc
    try:
        return convert(DocumentWithChunks.model_validate(value).model_dump(), Item)
    except ValidationError as exc:
        return InvalidItem.of(value, exc)


_item_decoder = Decoder(Item)
_insert_decoder = Decoder(Insert)
_insert_many_decoder = Decoder(ManyItems)


def _decoded(decoder: Decoder[Any], content: bytes) -> Any:
    if NUL in content:
        return None
    try:
        return decoder.decode(content)
    except (MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def is_valid(items: Sequence[Item], account: str | None) -> bool:
    """Checks the rules that the types do not have. Leaves text that is not in NFC to the model.

    Text has no NUL, see ``_decoded``, and no lone surrogate, which msgspec rejects.
    """
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
        external_id = document.external_id
        if external_id is not None and blank(external_id):
            return False
        optional = (document.file_path or "", document.file_type or "", document.author or "", external_id or "")
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
