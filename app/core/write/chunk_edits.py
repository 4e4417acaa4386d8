"""Changes of single chunks of a document. The document is written again, and every other vector is taken along."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Protocol

from app.schemas.rows import CHUNKS_PER_GENERATION, NewChunk
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


def _position(chunks: Sequence[NewChunk], chunk_index: int | None) -> int:
    for position, chunk in enumerate(chunks):
        if chunk.chunk_index == chunk_index:
            return position
    raise ChunkNotFound(f"The document has no chunk {chunk_index}.")
