"""What core expects of the record about stored documents: reads, and changes that need no new vectors."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple, Protocol
from uuid import UUID

from app.core.ports.vector_index import Vectors
from app.schemas.filter_tree import Filter
from app.schemas.metadata import METADATA_BYTES
from app.schemas.rows import (
    Chunk,
    CurrentChunk,
    Document,
    ExpectedBot,
    ExternalIdState,
    PatchedDocuments,
    StaleChunk,
    StoredDocument,
    WriteTimestamps,
)
from app.schemas.versions import DocumentVersion, Precondition


class RecentVector(NamedTuple):
    """The vector (dimension,) of a chunk in ``recent_vectors``, and Milvus's timestamp of the write."""

    timestamp: int
    chunk_id: int
    doc_id: int
    vector: Vectors


class RecentWrites(NamedTuple):
    """The newest writes of a bot by all processes, of one moment.

    ``unshared``: the vectors of all acknowledged writes with a newer timestamp are in ``recent_vectors``. ``vectors``:
    those of them that were asked for, newest first; None if none were.
    """

    timestamps: WriteTimestamps
    unshared: int = 0
    vectors: Sequence[RecentVector] | None = None


class DocumentPort(Protocol):
    """A chunk is current when its generation is the one that its document's row names."""

    async def delete(
        self,
        bot_id: UUID,
        doc_ids: Sequence[int],
        where: Filter | None = None,
        precondition: Precondition | None = None,
    ) -> dict[int, int]:
        """Deletes those of the documents that exist and pass the filter, for every reader at once.

        Returns {doc_id: number of its chunks}. Their generations go to ``vector_gc``. Raises PreconditionFailed, with
        nothing deleted, when ``precondition`` does not hold for one of them.
        """

    async def patch(
        self,
        bot_id: UUID,
        doc_id: int,
        columns: dict[str, Any],
        merge: dict[str, Any],
        remove: Sequence[str],
        metadata_bytes: int = METADATA_BYTES,
        precondition: Precondition | None = None,
    ) -> DocumentVersion | None:
        """Sets ``columns``, merges ``merge`` into metadata and removes the keys ``remove`` from it.

        Returns the new version; None when there is no such document. Raises, with nothing changed, MetadataTooLarge
        when ``merge`` would make metadata larger than ``metadata_bytes``, and PreconditionFailed.
        """

    async def patch_many(
        self,
        bot_id: UUID,
        doc_ids: Sequence[int],
        columns: dict[str, Any],
        merge: dict[str, Any],
        remove: Sequence[str],
        where: Filter | None = None,
        metadata_bytes: int = METADATA_BYTES,
    ) -> PatchedDocuments:
        """As ``patch``, for those of the documents that exist and pass the filter.

        A document that has these values already keeps its ``updated_at``; one whose metadata would become larger than
        ``metadata_bytes`` is not changed.
        """

    async def get(
        self, bot_id: UUID, doc_id: int, after: int = 0, limit: int | None = None
    ) -> tuple[Document, list[Chunk]] | None:
        """The document and its chunks with a chunk_id above ``after``, ascending, at most ``limit`` of them.

        Both are of one moment. None when there is no such document.
        """

    async def chunk(self, bot_id: UUID, doc_id: int, chunk_index: int) -> tuple[DocumentVersion, Chunk | None] | None:
        """The document's version, and its current chunk with this index, if it has one. None: no such document."""

    async def stored(self, bot_id: UUID, doc_ids: Sequence[int]) -> Sequence[StoredDocument]:
        """Those of the documents that exist, each with the hashes of its current chunks, of one moment."""

    async def external_ids(self, bot_id: UUID, external_ids: Sequence[str]) -> Mapping[str, ExternalIdState]:
        """The state of each of these external ids, which are in NFC."""

    async def list(self, bot_id: UUID, after: int, limit: int) -> Sequence[Document]:
        """At most ``limit`` documents with a doc_id above ``after``, ascending."""

    async def with_chunks(
        self, bot_id: UUID, after: int, limit: int, chunks: int
    ) -> Sequence[tuple[Document, Sequence[Chunk]]]:
        """The next documents above doc_id ``after``, ascending, with all their chunks, of one moment.

        At most ``limit``, and no further one once these have ``chunks`` chunks.
        """

    async def current_chunks(
        self,
        bot_id: UUID,
        chunk_ids: Sequence[int],
        hydrate: Collection[int],
        where: Filter | None,
        expected_bot: ExpectedBot | None = None,
        doc_ids: Sequence[int] = (),
    ) -> dict[int, CurrentChunk]:
        """The chunks of ``chunk_ids`` that are current and pass the filter, by chunk_id.

        Those in ``hydrate`` come with text and document columns. With ``expected_bot`` the result is empty unless the
        bot's row meets it and its vectors are not being rebuilt. With ``doc_ids`` all current chunks of these documents
        are added, with text, and ``expected_bot`` is ignored.
        """

    async def stale_chunks(self, bot_id: UUID, collection: str, chunk_ids: Sequence[int]) -> Sequence[StaleChunk]:
        """The keys of ``chunk_ids`` that ``collection`` still had, but whose chunks no longer exist."""

    async def text_bytes(self, bot_id: UUID, chunk_ids: Sequence[int], distance: int) -> int:
        """Bytes of UTF-8 in the texts of these chunks and of their ``neighbours``, counted once per result."""

    async def texts(self, bot_id: UUID, chunk_ids: Sequence[int]) -> dict[int, str]:
        """The texts of those of the chunks that exist, by chunk_id."""

    async def neighbours(self, bot_id: UUID, chunk_ids: Sequence[int], distance: int) -> dict[int, Sequence[Chunk]]:
        """By chunk_id, up to ``distance`` chunks before it and up to ``distance`` after it in its document, in order.

        A chunk without neighbours is left out.
        """

    async def matching_documents(self, bot_id: UUID, where: Filter, after: int, limit: int) -> Sequence[int]:
        """At most ``limit`` doc_ids above ``after`` whose documents pass the filter, ascending."""

    async def matching_chunks(self, bot_id: UUID, where: Filter, after: int, limit: int) -> Sequence[int]:
        """At most ``limit`` ids of current chunks above ``after`` that pass a filter on chunk columns, ascending."""

    async def write_timestamps(self, bot_id: UUID, collection: str) -> WriteTimestamps:
        """Milvus's timestamps of the bot's writes; the newest is 0 when the bot does not exist.

        Raises CollectionMoved when the bot has another collection than ``collection``: newer writes went there.
        """

    async def recent_writes(self, bot_id: UUID, collection: str, age: int, limit: int) -> RecentWrites:
        """As ``write_timestamps``, and the vectors in ``recent_vectors``, at most ``limit``.

        Their timestamps are above ``unshared`` and above ``age`` before the newest one.
        """
