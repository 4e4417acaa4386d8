"""One document on its way into both stores."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple
from uuid import UUID

from app.schemas.rows import CHUNKS_PER_GENERATION, Bot, NewDocument
from app.utils.errors import AppError, BotNotFound, DocumentChanged, DocumentNotFound, LeaseLost

LEASE_LOST = "The write took longer than its lease and was undone. Nothing of it is stored."


class Outcome(NamedTuple):
    """What became of one document: its doc_id, or the error that undid it."""

    doc_id: int | None
    error: AppError | None = None
    replaced_chunks: int = 0


class Write:
    """An insert (``doc_id`` None until it is numbered) or a replacement of the document ``doc_id``.

    ``rewrites`` is the generation that is written again, with the same text: then only chunks and vectors are
    replaced, and only if that generation is still current.
    ``error`` is what undid it; a write with an error takes no further step but its compensation. ``moved``: its bot
    has another collection by now, so that it is to be begun anew.
    """

    def __init__(
        self, bot: Bot, document: NewDocument, doc_id: int | None = None, *, rewrites: int | None = None
    ) -> None:
        self.bot = bot
        self.document = document
        self.doc_id = doc_id
        self.rewrites = rewrites
        self.chunk_span = document.chunk_span
        self.generation = 0
        self.previous_generation: int | None = None
        self.replaced_chunks = 0
        self.error: AppError | None = None
        self.moved = False

    def replaces(self, generation: int | None) -> None:
        """Tells which generation is current at T1: the one that T2 must still find. None: there is no such document."""
        self.previous_generation = generation
        if generation is None:
            self.fail_unknown_document()
        elif self.rewrites not in (None, generation):
            self.fail_changed()

    def number(self, generation: int) -> None:
        """Gives the write its generation. A new document takes the number as its doc_id as well."""
        self.generation = generation
        if self.doc_id is None:
            self.doc_id = generation

    def restart(self, generation: int, bot: Bot) -> None:
        """Gives the write another generation, for the bot as it is now."""
        self.generation, self.bot, self.moved = generation, bot, False

    @property
    def is_live(self) -> bool:
        return self.error is None and not self.moved

    @property
    def chunk_ids(self) -> list[int]:
        first = self.generation * CHUNKS_PER_GENERATION
        return [first + chunk.chunk_index for chunk in self.document.chunks]

    @property
    def outcome(self) -> Outcome:
        return Outcome(None, self.error) if self.error else Outcome(self.doc_id, None, self.replaced_chunks)

    def fail(self, error: AppError) -> None:
        """The first error is the one that counts."""
        self.error = self.error or error

    def fail_unknown_bot(self) -> None:
        self.fail(BotNotFound("There is no bot with this chat_bot_id."))

    def fail_unknown_document(self) -> None:
        self.fail(DocumentNotFound(f"This bot has no document {self.doc_id}."))

    def fail_changed(self) -> None:
        self.fail(DocumentChanged(f"Document {self.doc_id} was replaced or deleted while this request ran."))

    def fail_lease_lost(self) -> None:
        self.fail(LeaseLost(LEASE_LOST))

    def record(self) -> tuple[object, ...]:
        """The document's row: DOCUMENT_COLUMNS."""
        document = self.document
        return (
            self.bot.bot_id,
            self.doc_id,
            self.generation,
            document.title,
            document.file_path,
            document.file_type,
            document.author,
            document.tags,
            document.metadata,
            len(document.chunks),
            self.chunk_span,
        )


def mark_moved(writes: Sequence[Write], collections: Mapping[UUID, str]) -> bool:
    """Marks the writes whose vectors are not in their bot's collection of now; whether there are any."""
    for write in writes:
        if write.error is None and collections[write.bot.bot_id] != write.bot.milvus_collection:
            write.moved = True
    return any(write.moved for write in writes)
