"""DocumentPort in plain memory."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import timedelta
from hashlib import sha256
from typing import Any
from uuid import UUID

from app.core.ports import RecentWrites
from app.schemas.filter_tree import Filter
from app.schemas.metadata import METADATA_BYTES, check_metadata
from app.schemas.rows import (
    CHUNKS_PER_GENERATION,
    Chunk,
    ChunkHash,
    CurrentChunk,
    Document,
    ExpectedBot,
    ExternalIdState,
    PatchedDocuments,
    SearchChunk,
    StaleChunk,
    StoredDocument,
    WriteTimestamps,
)
from app.schemas.versions import DocumentVersion, Precondition
from app.utils.errors import CollectionMoved, MetadataTooLarge
from app.utils.unicode import is_nfc, nfc
from tests.doubles.memory_store.tables import ChunkRow, DocumentRow, Tables

Matches = Callable[[Filter, Mapping[str, Any]], bool]


def no_filters(_filter: Filter, _document: Mapping[str, Any]) -> bool:
    raise NotImplementedError("this store was made without filters")


class MemoryDocumentStore:
    """``matches``: whether a row of documents, as a dict, passes a filter."""

    def __init__(self, tables: Tables, late_write_window: timedelta, matches: Matches = no_filters) -> None:
        self._tables = tables
        self._late_write_window = late_write_window
        self._matches = matches

    async def delete(
        self,
        bot_id: UUID,
        doc_ids: Sequence[int],
        where: Filter | None = None,
        precondition: Precondition | None = None,
    ) -> dict[int, int]:
        documents = self._tables.partition(bot_id).documents
        if precondition:
            for doc_id in self._existing(bot_id, doc_ids, None):
                precondition.check(documents[doc_id].document().version)
        deleted = {}
        for doc_id in self._existing(bot_id, doc_ids, where):
            document = documents.pop(doc_id)
            self._tables.discard(bot_id, document, self._late_write_window)
            deleted[doc_id] = document.chunk_count
        return deleted

    def _existing(self, bot_id: UUID, doc_ids: Sequence[int], where: Filter | None) -> list[int]:
        documents = self._tables.partition(bot_id).documents
        found = (doc_id for doc_id in sorted(set(doc_ids)) if doc_id in documents)
        return [doc_id for doc_id in found if where is None or self._matches(where, asdict(documents[doc_id]))]

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
        document = self._document(bot_id, doc_id)
        if document is None:
            return None
        if precondition:
            precondition.check(document.document().version)
        kept = {
            key: value
            for key, value in document.metadata.items()
            if is_nfc(key) or (nfc(key) not in merge and nfc(key) not in remove)
        }
        merged = {key: value for key, value in (kept | merge).items() if key not in remove}
        if merge:
            check_metadata(merged, metadata_bytes)
        for name, value in columns.items():
            setattr(document, name, value)
        document.metadata = merged
        document.touch(self._tables.now())
        return document.document().version

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
        changed, unchanged, too_large = [], [], []
        documents = self._tables.partition(bot_id).documents
        for doc_id in self._existing(bot_id, doc_ids, where):
            before = replace(documents[doc_id])
            try:
                await self.patch(bot_id, doc_id, columns, merge, remove, metadata_bytes)
            except MetadataTooLarge:
                too_large.append(doc_id)
                continue
            if replace(documents[doc_id], updated_at=before.updated_at) == before:
                documents[doc_id].updated_at = before.updated_at
                unchanged.append(doc_id)
            else:
                changed.append(doc_id)
        return PatchedDocuments(changed, unchanged, too_large)

    async def get(
        self, bot_id: UUID, doc_id: int, after: int = 0, limit: int | None = None
    ) -> tuple[Document, list[Chunk]] | None:
        document = self._document(bot_id, doc_id)
        if document is None:
            return None
        chunks = [chunk for row, chunk in self._tables.current(bot_id) if row is document and chunk.chunk_id > after]
        return document.document(), sorted(chunks, key=lambda chunk: chunk.chunk_id)[:limit]

    async def chunk(self, bot_id: UUID, doc_id: int, chunk_index: int) -> tuple[DocumentVersion, Chunk | None] | None:
        found = await self.get(bot_id, doc_id)
        if found is None:
            return None
        return found[0].version, next((chunk for chunk in found[1] if chunk.chunk_index == chunk_index), None)

    async def stored(self, bot_id: UUID, doc_ids: Sequence[int]) -> Sequence[StoredDocument]:
        found = []
        for doc_id in doc_ids:
            if (shown := await self.get(bot_id, doc_id)) is not None:
                document, chunks = shown
                hashes = [
                    ChunkHash(chunk.chunk_id, chunk.page_number, sha256(chunk.text.encode()).digest())
                    for chunk in chunks
                ]
                found.append(StoredDocument(document, hashes))
        return found

    async def external_ids(self, bot_id: UUID, external_ids: Sequence[str]) -> Mapping[str, ExternalIdState]:
        found = {}
        for external_id in external_ids:
            document = self._tables.by_external_id(bot_id, external_id)
            held = self._tables.holds(bot_id, external_id)
            found[external_id] = ExternalIdState(document.doc_id if document else None, held)
        return found

    async def list(self, bot_id: UUID, after: int, limit: int) -> Sequence[Document]:
        documents = self._tables.partition(bot_id).documents
        return [documents[doc_id].document() for doc_id in sorted(documents) if doc_id > after][:limit]

    async def with_chunks(
        self, bot_id: UUID, after: int, limit: int, chunks: int
    ) -> Sequence[tuple[Document, Sequence[Chunk]]]:
        page: list[tuple[Document, Sequence[Chunk]]] = []
        for document in await self.list(bot_id, after, limit):
            if sum(one.chunk_count for one, _ in page) >= chunks:
                break
            found = await self.get(bot_id, document.doc_id)
            assert found is not None
            page.append(found)
        return page

    async def current_chunks(
        self,
        bot_id: UUID,
        chunk_ids: Sequence[int],
        hydrate: Collection[int],
        where: Filter | None,
        expected_bot: ExpectedBot | None = None,
        doc_ids: Sequence[int] = (),
    ) -> dict[int, CurrentChunk]:
        if not doc_ids and expected_bot and not self._is_expected(bot_id, expected_bot):
            return {}
        chunks = self._tables.partition(bot_id).chunks
        found: dict[int, CurrentChunk] = {}
        of_documents: list[int] = []
        if doc_ids:
            of_documents = [chunk.chunk_id for row, chunk in self._tables.current(bot_id) if row.doc_id in doc_ids]
            hydrate = {*hydrate, *of_documents}
        for chunk_id in [*chunk_ids, *of_documents]:
            row = chunks.get(chunk_id)
            document = self._reads(bot_id, row, chunk_id) if row else None
            if row and document and (where is None or self._passes(where, document, row)):
                shown = _search_chunk(row.chunk, document) if chunk_id in hydrate else None
                found[chunk_id] = CurrentChunk(row.doc_id, shown)
        return found

    async def stale_chunks(self, bot_id: UUID, collection: str, chunk_ids: Sequence[int]) -> Sequence[StaleChunk]:
        partition = self._tables.partition(bot_id)
        found: list[StaleChunk] = []
        for chunk_id in chunk_ids:
            if chunk_id not in partition.chunks:
                row = self._tables.garbage.get((chunk_id // CHUNKS_PER_GENERATION, collection))
                doc_id = row.doc_id if row and row.bot_id == bot_id else None
                document = None if doc_id is None else partition.documents.get(doc_id)
                found.append(StaleChunk(chunk_id, doc_id, document.chunk_count if document else None))
        return found

    async def text_bytes(self, bot_id: UUID, chunk_ids: Sequence[int], distance: int) -> int:
        chunks = self._tables.partition(bot_id).chunks
        own = [chunks[key].chunk.text for key in chunk_ids if key in chunks]
        beside = (await self.neighbours(bot_id, chunk_ids, distance)).values() if distance else ()
        return sum(len(text.encode()) for text in [*own, *(chunk.text for near in beside for chunk in near)])

    async def texts(self, bot_id: UUID, chunk_ids: Sequence[int]) -> dict[int, str]:
        chunks = self._tables.partition(bot_id).chunks
        return {chunk_id: chunks[chunk_id].chunk.text for chunk_id in chunk_ids if chunk_id in chunks}

    async def neighbours(self, bot_id: UUID, chunk_ids: Sequence[int], distance: int) -> dict[int, Sequence[Chunk]]:
        chunks = self._tables.partition(bot_id).chunks
        found: dict[int, Sequence[Chunk]] = {}
        for chunk_id in chunk_ids:
            generation = chunk_id // CHUNKS_PER_GENERATION
            keys = sorted(key for key in chunks if key // CHUNKS_PER_GENERATION == generation and key != chunk_id)
            before, after = [key for key in keys if key < chunk_id], [key for key in keys if key > chunk_id]
            if near := before[-distance:] + after[:distance]:
                found[chunk_id] = [chunks[key].chunk for key in near]
        return found

    async def matching_documents(self, bot_id: UUID, where: Filter, after: int, limit: int) -> Sequence[int]:
        documents = self._tables.partition(bot_id).documents
        return [key for key in sorted(documents) if key > after and self._matches(where, asdict(documents[key]))][
            :limit
        ]

    async def matching_chunks(self, bot_id: UUID, where: Filter, after: int, limit: int) -> Sequence[int]:
        chunks = sorted(self._tables.partition(bot_id).chunks.items())
        return [
            key
            for key, row in chunks
            if key > after and (document := self._reads(bot_id, row, key)) and self._passes(where, document, row)
        ][:limit]

    def _passes(self, where: Filter, document: DocumentRow, row: ChunkRow) -> bool:
        return self._matches(where, {**asdict(document), "page_number": row.chunk.page_number})

    async def write_timestamps(self, bot_id: UUID, collection: str) -> WriteTimestamps:
        bot = self._tables.active(bot_id)
        if bot and bot.collection != collection:
            raise CollectionMoved()
        return bot.bot().timestamps if bot else WriteTimestamps(0)

    async def recent_writes(self, bot_id: UUID, collection: str, age: int, limit: int) -> RecentWrites:
        timestamps = await self.write_timestamps(bot_id, collection)
        if (bot := self._tables.active(bot_id)) is None:
            return RecentWrites(timestamps, vectors=())
        above = max(bot.unshared_timestamp, bot.milvus_timestamp - age)
        vectors = [row.vector for row in self._tables.recent.get(bot_id, ()) if row.vector.timestamp > above]
        newest_first = sorted(vectors, key=lambda vector: -vector.timestamp)
        return RecentWrites(timestamps, bot.unshared_timestamp, newest_first[:limit])

    def _is_expected(self, bot_id: UUID, expected: ExpectedBot) -> bool:
        row = self._tables.active(bot_id)
        if row is None or bot_id in self._tables.rebuilds:
            return False
        if (row.created_at, row.collection, row.statistics_version) != expected[:3]:
            return False
        if (row.default_mode, row.default_dense_weight, row.default_min_confidence) != expected[3:6]:
            return False
        is_own = expected.writer is not None and row.last_writer == expected.writer
        return (row.foreign_timestamp if is_own else row.milvus_timestamp) <= expected.guarantee_timestamp

    def _document(self, bot_id: UUID, doc_id: int) -> DocumentRow | None:
        return self._tables.partition(bot_id).documents.get(doc_id)

    def _reads(self, bot_id: UUID, row: ChunkRow, chunk_id: int) -> DocumentRow | None:
        """The join on generation of every read: the chunk's document if the chunk is current."""
        document = self._document(bot_id, row.doc_id)
        return document if document and document.generation == chunk_id // CHUNKS_PER_GENERATION else None


def _search_chunk(chunk: Chunk, document: DocumentRow) -> SearchChunk:
    return SearchChunk(
        chunk_id=chunk.chunk_id,
        doc_id=document.doc_id,
        chunk_index=chunk.chunk_index,
        text=chunk.text,
        page_number=chunk.page_number,
        title=document.title,
        file_type=document.file_type,
        file_path=document.file_path,
        author=document.author,
        tags=list(document.tags),
        metadata=dict(document.metadata),
        created_at=document.created_at,
        updated_at=document.updated_at,
        external_id=document.external_id,
    )
