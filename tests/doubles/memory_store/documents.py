"""Documents and chunks in plain memory; keeps to DocumentPort as ``stores.documents.DocumentStore`` does."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from app.core.write.idempotency import IdempotentRequest
from app.core.write.write import Write, mark_moved
from app.schemas.filter_tree import Filter
from app.schemas.metadata import METADATA_BYTES, check_metadata
from app.schemas.rows import CHUNKS_PER_GENERATION, Bot, Chunk, CurrentChunk, Document, SearchChunk, StaleChunk
from app.utils.errors import CollectionMoved
from app.utils.unicode import is_nfc, nfc
from tests.doubles.memory_store import idempotency as keys
from tests.doubles.memory_store.tables import ChunkRow, DocumentRow, Tables

Matches = Callable[[Filter, Mapping[str, Any]], bool]


def no_filters(_filter: Filter, _document: Mapping[str, Any]) -> bool:
    raise NotImplementedError("this store was made without filters")


class MemoryDocumentStore:
    """``settle`` as in the real one; ``matches`` says whether a row of documents, as a dict, passes a filter."""

    def __init__(self, tables: Tables, settle: timedelta, matches: Matches = no_filters) -> None:
        self._tables = tables
        self._settle = settle
        self._matches = matches

    async def begin(
        self, writes: Sequence[Write], token: UUID, lease: timedelta, once: IdempotentRequest | None = None
    ) -> None:
        self._tables.check_block(len(writes))
        if once and not keys.claim(self._tables, once):
            return
        self._fail_unknown_bots(writes)
        for write in writes:
            if write.error is None and write.doc_id is not None:
                document = self._document(write.bot.bot_id, write.doc_id)
                write.replaces(document.generation if document else None)
        live = [write for write in writes if write.error is None]
        for write in live:
            generation = self._tables.next_generation()
            if once and write is live[0]:
                keys.assign(self._tables, once, generation)
            write.number(generation)
            self._open(write, token, lease)

    async def restart(
        self,
        writes: Sequence[Write],
        bots: Mapping[UUID, Bot],
        token: UUID,
        lease: timedelta,
        once: IdempotentRequest | None = None,
    ) -> None:
        self._tables.check_block(len(writes))
        if once and not keys.hold(self._tables, once):
            for write in writes:
                write.fail_lease_lost()
            return
        self._fail_unknown_bots(writes)
        undone: set[int] = set()
        for write in writes:
            undone |= await self.compensate(write.bot.bot_id, [write.generation], token)
            if write.generation not in undone:
                write.fail_lease_lost()
        was_key = once and once.generation in undone
        live = [write for write in writes if write.error is None]
        for write in live:
            write.restart(self._tables.next_generation(), bots[write.bot.bot_id])
            self._open(write, token, lease)
        if once and was_key and live:
            keys.assign(self._tables, once, live[0].generation)

    def _open(self, write: Write, token: UUID, lease: timedelta) -> None:
        assert write.doc_id is not None
        saga = self._tables.begin_saga("write", write.bot.bot_id, token, lease, write.generation)
        saga.doc_id, saga.chunk_span, saga.collection_name = write.doc_id, write.chunk_span, write.bot.milvus_collection
        chunks = self._tables.partition(write.bot.bot_id).chunks
        for chunk_id, chunk in zip(write.chunk_ids, write.document.chunks, strict=True):
            chunks[chunk_id] = ChunkRow(write.doc_id, Chunk(chunk_id, chunk.chunk_index, chunk.text, chunk.page_number))

    async def renew(self, generations: Sequence[int], token: UUID, lease: timedelta) -> set[int]:
        held = self._tables.held(generations, token)
        for saga in held:
            saga.lease_until = self._tables.now() + lease
        return {saga.generation for saga in held}

    async def advance_timestamps(self, timestamps: Mapping[UUID, int]) -> None:
        for bot_id, timestamp in timestamps.items():
            if bot := self._tables.bots.get(bot_id):
                bot.milvus_timestamp = max(bot.milvus_timestamp, timestamp)

    async def finish(
        self,
        writes: Sequence[Write],
        token: UUID,
        once: IdempotentRequest | None = None,
        timestamps: Mapping[UUID, int] | None = None,
    ) -> None:
        await self.advance_timestamps(timestamps or {})
        if once and not keys.hold(self._tables, once):
            for write in writes:
                write.fail_lease_lost()
            return
        if mark_moved(writes, self._fail_unknown_bots(writes)):
            return
        held = {saga.generation for saga in self._tables.held((write.generation for write in writes), token)}
        for write in writes:
            if write.error is None and write.generation not in held:
                write.fail_lease_lost()
            if write.error is None and write.previous_generation is not None:
                self._switch(write)
        done = [write for write in writes if write.error is None]
        for write in done:
            if write.previous_generation is None:
                assert write.doc_id is not None
                documents = self._tables.partition(write.bot.bot_id).documents
                documents[write.doc_id] = self._row(write, self._tables.now())
        self._tables.end_sagas([write.generation for write in done], token)
        if once and done:
            keys.store_answer(self._tables, once)

    def _switch(self, write: Write) -> None:
        assert write.doc_id is not None
        bot_id = write.bot.bot_id
        old = self._document(bot_id, write.doc_id)
        if old is None or old.generation != write.previous_generation:
            write.fail_changed()
            return
        new = self._row(write, old.created_at)
        if write.rewrites is not None:
            new = replace(old, generation=new.generation, updated_at=new.updated_at)
        self._tables.partition(bot_id).documents[write.doc_id] = new
        self._discard(bot_id, old)
        write.replaced_chunks = old.chunk_count

    async def compensate(self, bot_id: UUID, generations: Sequence[int], token: UUID | None) -> set[int]:
        mine = [saga.generation for saga in self._tables.held(generations, token) if saga.bot_id == bot_id]
        for saga in self._tables.end_sagas(mine, token):
            self._tables.drop_chunks(bot_id, saga.generation)
            assert saga.collection_name is not None
            until = self._tables.now() + self._settle
            self._tables.collect(bot_id, saga.generation, saga.collection_name, saga.chunk_span, until, saga.doc_id)
        return set(mine)

    async def enqueue_vector_gc(self, bot_id: UUID, writes: Sequence[Write]) -> None:
        if self._tables.active(bot_id) is None:
            return
        current = {document.generation for document in self._tables.partition(bot_id).documents.values()}
        not_before = self._tables.now() + self._settle
        for write in writes:
            if write.generation not in current:
                collection = write.bot.milvus_collection
                self._tables.collect_again(bot_id, write.generation, collection, write.chunk_span, not_before)

    async def compensate_expired(self) -> int:
        now = self._tables.now()
        expired = [saga for saga in self._tables.sagas.values() if saga.operation == "write" and saga.lease_until < now]
        for saga in expired:
            await self.compensate(saga.bot_id, [saga.generation], None)
        return len(expired)

    async def generation_of(self, bot_id: UUID, doc_id: int) -> int | None:
        document = self._document(bot_id, doc_id)
        return document.generation if document else None

    async def delete(self, bot_id: UUID, doc_ids: Sequence[int]) -> dict[int, int]:
        documents = self._tables.partition(bot_id).documents
        deleted = {}
        for doc_id in sorted(set(doc_ids)):
            if (document := documents.pop(doc_id, None)) is not None:
                self._discard(bot_id, document)
                deleted[doc_id] = document.chunk_count
        return deleted

    async def patch(
        self,
        bot_id: UUID,
        doc_id: int,
        columns: dict[str, Any],
        merge: dict[str, Any],
        remove: Sequence[str],
        metadata_bytes: int = METADATA_BYTES,
    ) -> datetime | None:
        document = self._document(bot_id, doc_id)
        if document is None:
            return None
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
        document.updated_at = self._tables.now()
        return document.updated_at

    async def get(
        self, bot_id: UUID, doc_id: int, after: int = 0, limit: int | None = None
    ) -> tuple[Document, list[Chunk]] | None:
        document = self._document(bot_id, doc_id)
        if document is None:
            return None
        chunks = [chunk for row, chunk in self._tables.current(bot_id) if row is document and chunk.chunk_id > after]
        return document.document(), sorted(chunks, key=lambda chunk: chunk.chunk_id)[:limit]

    async def list(self, bot_id: UUID, after: int, limit: int) -> Sequence[Document]:
        documents = self._tables.partition(bot_id).documents
        return [documents[doc_id].document() for doc_id in sorted(documents) if doc_id > after][:limit]

    async def current_chunks(
        self,
        bot_id: UUID,
        chunk_ids: Sequence[int],
        hydrate: Collection[int],
        where: Filter | None,
        expected_bot: Bot | None = None,
        doc_ids: Sequence[int] = (),
    ) -> dict[int, CurrentChunk]:
        if not doc_ids and expected_bot and not self._is_unchanged(expected_bot):
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

    async def milvus_timestamp(self, bot_id: UUID, collection: str) -> int:
        bot = self._tables.active(bot_id)
        if bot and bot.collection != collection:
            raise CollectionMoved()
        return bot.milvus_timestamp if bot else 0

    def _is_unchanged(self, bot: Bot) -> bool:
        row = self._tables.active(bot.bot_id)
        if row is None or bot.bot_id in self._tables.rebuilds:
            return False
        return (row.created_at, row.milvus_timestamp, row.collection) == (
            bot.created_at,
            bot.milvus_timestamp,
            bot.milvus_collection,
        )

    def _fail_unknown_bots(self, writes: Sequence[Write]) -> dict[UUID, str]:
        found: dict[UUID, str] = {}
        for write in writes:
            bot = self._tables.active(write.bot.bot_id)
            if bot is None or bot.created_at != write.bot.created_at:
                write.fail_unknown_bot()
            if bot is not None:
                found[bot.bot_id] = bot.collection
        return found

    def _document(self, bot_id: UUID, doc_id: int) -> DocumentRow | None:
        return self._tables.partition(bot_id).documents.get(doc_id)

    def _reads(self, bot_id: UUID, row: ChunkRow, chunk_id: int) -> DocumentRow | None:
        """The reader's join on generation: the chunk's document, if the chunk is current."""
        document = self._document(bot_id, row.doc_id)
        return document if document and document.generation == chunk_id // CHUNKS_PER_GENERATION else None

    def _discard(self, bot_id: UUID, old: DocumentRow) -> None:
        """What a replaced or deleted version leaves behind; its late writes can be no later than its switch."""
        self._tables.drop_chunks(bot_id, old.generation)
        now, bot = self._tables.now(), self._tables.bots.get(bot_id)
        if bot is None:
            return
        filled = bot_id in self._tables.rebuilds  # As below.
        until = now + self._settle if filled else max(now, old.updated_at + self._settle)
        self._tables.collect(bot_id, old.generation, bot.collection, old.chunk_span, until, old.doc_id)
        if bot.next:  # A copy may be under way, and land as late as any write.
            name, until = bot.next.collection_name, now + self._settle
            self._tables.collect(bot_id, old.generation, name, old.chunk_span, until, old.doc_id)

    def _row(self, write: Write, created_at: datetime) -> DocumentRow:
        document = write.document
        assert write.doc_id is not None
        return DocumentRow(
            write.doc_id,
            write.generation,
            document.title,
            document.file_path,
            document.file_type,
            document.author,
            list(document.tags),
            dict(document.metadata),
            len(document.chunks),
            write.chunk_span,
            created_at,
            self._tables.now(),
        )


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
    )
