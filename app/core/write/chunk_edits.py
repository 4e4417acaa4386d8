"""Writes the chunks of a stored document again: as they are, or with a single one changed."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Protocol

from app.core.write.write import StoredVectors, Write
from app.schemas.rows import CHUNKS_PER_GENERATION, Bot, Chunk, Document, NewChunk, NewDocument
from app.schemas.versions import Precondition
from app.utils.errors import ChunkNotFound, ErrorLocation, InvalidInput, LastChunk


class ChunkEdit(Protocol):
    """``chunk_index``: the place of the change. None for an insert at the end, until ``apply`` has set it."""

    chunk_index: int | None

    def apply(self, chunks: Sequence[NewChunk]) -> list[NewChunk]:
        """The chunks, in order, as they are to be. Raises ChunkNotFound, LastChunk, InvalidInput."""


@dataclass
class ReplaceChunk:
    chunk_index: int | None
    text: str
    page_number: int | None

    def apply(self, chunks: Sequence[NewChunk]) -> list[NewChunk]:
        position = _position(chunks, self.chunk_index)
        new = NewChunk(chunks[position].chunk_index, self.text, self.page_number)
        return [*chunks[:position], new, *chunks[position + 1 :]]


@dataclass
class InsertChunk:
    """Before the chunk with this index. That chunk and those that follow it without a gap get the next higher index."""

    chunk_index: int | None
    text: str
    page_number: int | None

    def apply(self, chunks: Sequence[NewChunk]) -> list[NewChunk]:
        if self.chunk_index is None:
            self.chunk_index = chunks[-1].chunk_index + 1
        first = self.chunk_index
        before = [chunk for chunk in chunks if chunk.chunk_index < first]
        taken = count(first)
        after = [
            NewChunk(chunk.chunk_index + 1, chunk.text, chunk.page_number)
            if chunk.chunk_index == next(taken)
            else chunk
            for chunk in chunks[len(before) :]
        ]
        new = NewChunk(first, self.text, self.page_number)
        if [*before, new, *after][-1].chunk_index >= CHUNKS_PER_GENERATION:
            detail = f"No chunk_index below {CHUNKS_PER_GENERATION:,} is left after this place."
            raise InvalidInput(detail, locations=[ErrorLocation("body.chunk_index", detail)])
        return [*before, new, *after]


@dataclass
class DeleteChunk:
    """The other chunks keep their indexes."""

    chunk_index: int | None

    def apply(self, chunks: Sequence[NewChunk]) -> list[NewChunk]:
        position = _position(chunks, self.chunk_index)
        if len(chunks) == 1:
            raise LastChunk("A document has at least one chunk. Delete the document instead.")
        return [*chunks[:position], *chunks[position + 1 :]]


def rewrite(
    bot: Bot,
    document: Document,
    chunks: Sequence[Chunk],
    edit: ChunkEdit | None = None,
    *,
    carry: bool = True,
    precondition: Precondition | None = None,
) -> Write:
    """A write of the document's chunks, as they are or as ``edit`` changes them. It fails if they were replaced.

    The vectors of texts that stay are taken along; without ``carry`` they are embedded. Raises what ``edit`` raises.
    """
    new = [NewChunk(chunk.chunk_index, chunk.text, chunk.page_number) for chunk in chunks]
    if edit is not None:
        new = edit.apply(new)
    by_text = {chunk.text: chunk.chunk_id for chunk in chunks}
    keys = {chunk.chunk_index: by_text[chunk.text] for chunk in new if chunk.text in by_text}
    stored = StoredVectors(bot.milvus_collection, keys) if carry else None
    # Of the document's columns only the title is read: the words have it.
    generation = chunks[0].chunk_id // CHUNKS_PER_GENERATION
    new_document = NewDocument(document.title, new)
    return Write(bot, new_document, document.doc_id, rewrites=generation, stored=stored, precondition=precondition)


def _position(chunks: Sequence[NewChunk], chunk_index: int | None) -> int:
    for position, chunk in enumerate(chunks):
        if chunk.chunk_index == chunk_index:
            return position
    raise ChunkNotFound(f"The document has no chunk {chunk_index}.")
