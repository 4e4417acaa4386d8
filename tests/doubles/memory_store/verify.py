"""VerifyPort in plain memory."""

import random
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from uuid import UUID

from app.core.stores.postgres.verify import PAGE
from app.schemas.operation_rows import SourceChunk
from app.schemas.rows import CHUNKS_PER_GENERATION, BotState
from tests.doubles.memory_store.tables import MICROSECOND, Partition, Tables


class MemoryVerifyStore:
    def __init__(self, tables: Tables, lease_seconds: float) -> None:
        self._tables = tables
        self._grace = timedelta(seconds=lease_seconds)

    async def bots(self, only: UUID | None = None) -> Sequence[BotState]:
        return [
            BotState(
                bot_id,
                bot.collection,
                bot.state,
                bot.embedding_model,
                bot.next.embedding_model if bot.next else None,
                bot_id in self._tables.rebuilds,
                bot_id in self._tables.partitions,
            )
            for bot_id, bot in sorted(self._tables.bots.items())
            if only in (None, bot_id)
        ]

    async def unknown_keys(self, bot_id: UUID, collection: str, keys: Sequence[int]) -> set[int]:
        chunks, garbage = self._tables.partition(bot_id).chunks, self._tables.garbage
        return {key for key in keys if key not in chunks and (key // CHUNKS_PER_GENERATION, collection) not in garbage}

    async def document_pages(self, bot_id: UUID) -> AsyncIterator[list[int]]:
        doc_ids = sorted(self._tables.partition(bot_id).documents)
        for start in range(0, len(doc_ids), PAGE):
            yield doc_ids[start : start + PAGE]

    async def current_keys(self, bot_id: UUID, doc_ids: Sequence[int]) -> dict[int, int]:
        wanted = set(doc_ids)
        current = self._tables.current(bot_id)
        return {chunk.chunk_id: document.doc_id for document, chunk in current if document.doc_id in wanted}

    def _copied(self, bot_id: UUID) -> list[SourceChunk]:
        current = self._tables.current(bot_id)
        found = (
            SourceChunk(chunk.chunk_id, row.doc_id, row.title, chunk.text, row.chunk_span) for row, chunk in current
        )
        return sorted(found, key=lambda copied: copied.chunk_id)

    async def chunk_page(self, bot_id: UUID, after: int, limit: int) -> Sequence[SourceChunk]:
        return [copied for copied in self._copied(bot_id) if copied.chunk_id > after][:limit]

    async def sampled_keys(self, bot_id: UUID, count: int) -> Sequence[int]:
        keys = [copied.chunk_id for copied in self._copied(bot_id)]
        return sorted(random.sample(keys, min(count, len(keys))))

    async def chunks_of_keys(self, bot_id: UUID, keys: Sequence[int]) -> Sequence[SourceChunk]:
        return [copied for copied in self._copied(bot_id) if copied.chunk_id in set(keys)]

    async def wrong_chunk_counts(self, bot_id: UUID) -> Sequence[int]:
        counts = dict.fromkeys(self._tables.partition(bot_id).documents, 0)
        for document, _ in self._tables.current(bot_id):
            counts[document.doc_id] += 1
        documents = self._tables.partition(bot_id).documents
        return [doc_id for doc_id, count in counts.items() if documents[doc_id].chunk_count != count]

    async def stray_chunks(self, bot_id: UUID) -> Sequence[int]:
        current = {chunk.chunk_id for _, chunk in self._tables.current(bot_id)}
        return [
            key
            for key in self._tables.partition(bot_id).chunks
            if key not in current and key // CHUNKS_PER_GENERATION not in self._tables.sagas
        ]

    async def orphaned_partitions(self) -> Sequence[str]:
        orphaned = self._tables.partitions.keys() - self._tables.bots.keys()
        return [f"{parent}_{bot_id.hex}" for bot_id in orphaned for parent in ("documents", "document_chunks")]

    async def foreign_partitions(self) -> Sequence[tuple[str, str, str]]:
        return []  # There are no roles here.

    async def abandoned_sagas(self) -> Sequence[int]:
        limit = self._tables.now() - self._grace
        return [saga.generation for saga in self._tables.sagas.values() if saga.lease_until < limit]

    async def recount_chunks(self, bot_id: UUID, doc_ids: Sequence[int]) -> None:
        documents = self._tables.partition(bot_id).documents
        for doc_id in set(doc_ids) & documents.keys():
            left = sum(document.doc_id == doc_id for document, _ in self._tables.current(bot_id))
            if left:
                documents[doc_id].chunk_count = left
                documents[doc_id].updated_at += MICROSECOND
            else:
                del documents[doc_id]

    async def drop_stray_chunks(self, bot_id: UUID, chunk_ids: Sequence[int]) -> None:
        for chunk_id in set(chunk_ids).intersection(await self.stray_chunks(bot_id)):
            del self._tables.partition(bot_id).chunks[chunk_id]

    async def make_partitions(self, bot_id: UUID) -> None:
        self._tables.partitions.setdefault(bot_id, Partition())
