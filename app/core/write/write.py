"""The state of one document write. Only the saga, and what it consists of, changes it."""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from app.core.ports import Replaced
from app.schemas.rows import CHUNKS_PER_GENERATION, Bot, NewDocument, WriteRow
from app.schemas.versions import DocumentVersion, Precondition
from app.utils.errors import AppError

WriteResult = Literal["created", "replaced", "unchanged", "skipped"]
"""unchanged: the stored document is the same. skipped: there is one, which was to stay as it is."""


class Outcome(NamedTuple):
    """The result for one document: its doc_id, or the error because of which nothing of it is stored.

    ``version``: what the document is now, or was before any later write; None if that is not known.
    """

    doc_id: int | None
    error: AppError | None = None
    replaced_chunks: int = 0
    embedded_chunks: int = 0
    result: WriteResult = "created"
    chunks: int = 0
    version: DocumentVersion | None = None


class StoredVectors(NamedTuple):
    """Vectors that a write can take along: the keys in ``collection`` of chunks with the same text, by chunk_index."""

    collection: str
    keys: Mapping[int, int]


class Write:
    """An insert, whose ``doc_id`` is None before T1, or a replacement of the document ``doc_id``.

    ``rewrites``: a generation whose chunks are written again, or some of them changed. Then only chunks and vectors are
    replaced, and only if that generation is still current.
    ``stored``: vectors that need not be embedded, as long as the bot has that collection.
    ``precondition``: on the document that is replaced, which T2 checks. ``replaced`` and ``version``: set by T2.
    ``error``: why the write failed; no step but its compensation follows. ``moved``: its bot has another collection by
    now, so the write has to be restarted.
    """

    def __init__(
        self,
        bot: Bot,
        document: NewDocument,
        doc_id: int | None = None,
        *,
        rewrites: int | None = None,
        stored: StoredVectors | None = None,
        precondition: Precondition | None = None,
    ) -> None:
        self.bot = bot
        self.document = document
        self.doc_id = doc_id
        self.rewrites = rewrites
        self.stored = stored
        self.precondition = precondition
        self.carried_chunks = 0
        self.generation = 0
        self.previous_generation: int | None = None
        self.replaced: Replaced | None = None
        self.version: DocumentVersion | None = None
        self.error: AppError | None = None
        self.moved = False

    def assign_generation(self, generation: int) -> None:
        """T1 gave out this generation. A new document takes it as its doc_id as well."""
        self.generation = generation
        if self.doc_id is None:
            self.doc_id = generation

    def set_previous(self, generation: int | None) -> None:
        """T1 found this generation current, so T2 must still find it; None for an insert."""
        self.previous_generation = generation

    def restart(self, generation: int, bot: Bot) -> None:
        """T1 gave out another generation, for the bot as it is now."""
        self.generation, self.bot, self.moved, self.carried_chunks = generation, bot, False, 0

    def stored_key(self, chunk_index: int) -> int | None:
        """The key of the vector that this chunk takes along; None if it has to be embedded."""
        if self.stored is None or self.stored.collection != self.bot.milvus_collection:
            return None
        return self.stored.keys.get(chunk_index)

    @property
    def is_live(self) -> bool:
        """Whether the next step of the saga includes this write."""
        return self.error is None and not self.moved

    @property
    def chunk_ids(self) -> list[int]:
        first = self.generation * CHUNKS_PER_GENERATION
        return [first + chunk.chunk_index for chunk in self.document.chunks]

    @property
    def outcome(self) -> Outcome:
        if self.error:
            return Outcome(None, self.error)
        embedded = len(self.document.chunks) - self.carried_chunks
        result: WriteResult = "created" if self.previous_generation is None else "replaced"
        replaced = self.replaced.chunks if self.replaced else 0
        return Outcome(self.doc_id, None, replaced, embedded, result, len(self.document.chunks), self.version)

    def fail(self, error: AppError) -> None:
        """The first error is kept."""
        self.error = self.error or error

    def to_row(self) -> WriteRow:
        return WriteRow(
            self.bot.bot_id,
            self.bot.created_at,
            self.bot.milvus_collection,
            self.document,
            self.doc_id,
            self.generation,
            self.previous_generation,
            self.rewrites,
            self.precondition,
        )


def live(writes: Sequence[Write]) -> list[Write]:
    """Those of the writes that have not failed."""
    return [write for write in writes if write.error is None]
