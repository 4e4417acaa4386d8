"""WritePort in plain memory."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from uuid import UUID

from app.core.ports import (
    BeginResult,
    FinishResult,
    RecentVector,
    Refusal,
    RenderAnswer,
    Replaced,
    RequestKey,
    SharedVectors,
    WriteFailure,
)
from app.schemas.quotas import QuotaShortfall
from app.schemas.rows import CHUNKS_PER_GENERATION, Chunk, IdempotencyKey, WriteRow
from app.schemas.stream_rows import LinesKey
from app.schemas.versions import DocumentVersion
from app.utils.errors import ExternalIdsHeld, PreconditionFailed
from tests.doubles.memory_store import idempotency, streams
from tests.doubles.memory_store import request_keys as keys
from tests.doubles.memory_store.quotas import Meter
from tests.doubles.memory_store.tables import MICROSECOND, BotRow, ChunkRow, DocumentRow, RecentRow, Tables


class MemoryWriteStore:
    def __init__(self, tables: Tables, late_write_window: timedelta) -> None:
        self._tables = tables
        self._late_write_window = late_write_window

    async def begin(
        self, writes: Sequence[WriteRow], token: UUID, lease: timedelta, key: RequestKey | None = None
    ) -> BeginResult:
        self._tables.check_block(len(writes))
        if isinstance(key, IdempotencyKey) and (answer := idempotency.claim(self._tables, key)) is not None:
            return BeginResult((), answer=answer)
        if isinstance(key, LinesKey) and self._tables.active(key.name.bot_id):
            streams.claim(self._tables, key)
        self._check_external_ids(writes)
        meter = Meter(self._tables)
        return self._open([_within_quota(meter, self._checked(write)) for write in writes], token, lease, key)

    def _check_external_ids(self, writes: Sequence[WriteRow]) -> None:
        held: list[tuple[UUID, str]] = []
        for write in writes:
            external_id = write.document.external_id
            if external_id is None or not self._is_same_bot(write):
                continue
            document = self._tables.by_external_id(write.bot_id, external_id)
            if self._tables.holds(write.bot_id, external_id) or write.doc_id != (document and document.doc_id):
                held.append((write.bot_id, external_id))
        if held:
            raise ExternalIdsHeld(held)

    def _checked(self, write: WriteRow) -> WriteRow | WriteFailure:
        if not self._is_same_bot(write):
            return WriteFailure.BOT_NOT_FOUND
        if write.doc_id is None:
            return write
        document = self._tables.partition(write.bot_id).documents.get(write.doc_id)
        if document is None:
            return WriteFailure.DOCUMENT_NOT_FOUND
        if write.rewrites not in (None, document.generation):
            return WriteFailure.DOCUMENT_CHANGED
        return write._replace(previous_generation=document.generation)

    async def restart(
        self,
        writes: Sequence[WriteRow],
        collections: Mapping[UUID, str],
        token: UUID,
        lease: timedelta,
        key: RequestKey | None = None,
    ) -> BeginResult:
        self._tables.check_block(len(writes))
        if key and not self._has_key(key):
            return BeginResult([WriteFailure.LEASE_LOST] * len(writes))
        undone: set[int] = set()
        for write in writes:
            undone |= await self.compensate(write.bot_id, [write.generation], token)
        checked: list[WriteRow | Refusal] = []
        for write in writes:
            if not self._is_same_bot(write):
                checked.append(WriteFailure.BOT_NOT_FOUND)
            elif write.generation not in undone:
                checked.append(WriteFailure.LEASE_LOST)
            else:
                checked.append(write._replace(collection_name=collections[write.bot_id]))
        return self._open(checked, token, lease, key if key and key.generation in undone else None)

    def _open(
        self,
        checked: Sequence[WriteRow | Refusal],
        token: UUID,
        lease: timedelta,
        key: RequestKey | None,
    ) -> BeginResult:
        begun = [self._begin(write, token, lease) if isinstance(write, WriteRow) else write for write in checked]
        first = next((write.generation for write in begun if isinstance(write, WriteRow)), None)
        if key is None or first is None:
            return BeginResult(begun)
        keys.assign(self._tables, key, first)
        return BeginResult(begun, key_generation=first)

    def _begin(self, write: WriteRow, token: UUID, lease: timedelta) -> WriteRow:
        generation = self._tables.next_generation()
        doc_id = generation if write.doc_id is None else write.doc_id
        saga = self._tables.begin_saga("write", write.bot_id, token, lease, generation)
        saga.doc_id, saga.chunk_span, saga.collection_name = doc_id, write.document.chunk_span, write.collection_name
        saga.external_id = write.document.external_id
        chunks = self._tables.partition(write.bot_id).chunks
        for chunk in write.document.chunks:
            chunk_id = generation * CHUNKS_PER_GENERATION + chunk.chunk_index
            chunks[chunk_id] = ChunkRow(doc_id, Chunk(chunk_id, chunk.chunk_index, chunk.text, chunk.page_number))
        return write._replace(generation=generation, doc_id=doc_id)

    async def renew(self, generations: Sequence[int], token: UUID, lease: timedelta) -> set[int]:
        held, until = self._tables.held(generations, token), self._tables.now() + lease
        for saga in held:
            saga.lease_until = until
        return {saga.generation for saga in held}

    async def finish(
        self,
        writes: Sequence[WriteRow],
        token: UUID,
        timestamps: Mapping[UUID, int],
        key: RequestKey | None = None,
        answer: RenderAnswer | None = None,
        shared: SharedVectors | None = None,
    ) -> FinishResult:
        for bot_id, timestamp in timestamps.items():
            if bot := self._tables.bots.get(bot_id):
                bot.advance(timestamp, token)
                self._share(bot, timestamp, shared if len(timestamps) == 1 else None)
        if key and not self._has_key(key):
            return FinishResult(failed=dict.fromkeys((write.generation for write in writes), WriteFailure.LEASE_LOST))
        failed: dict[int, Refusal] = {
            write.generation: WriteFailure.BOT_NOT_FOUND for write in writes if not self._is_same_bot(write)
        }
        live = [write for write in writes if write.generation not in failed]
        moved = frozenset(write.generation for write in live if self._has_moved(write))
        if moved:
            return FinishResult(failed, moved)
        failed |= dict.fromkeys(self._lost(live, token), WriteFailure.LEASE_LOST)
        replaced: dict[int, Replaced] = {}
        versions: dict[int, DocumentVersion | None] = {}
        made: dict[int | None, DocumentVersion] = {}
        meter = Meter(self._tables)
        for write in sorted(live, key=lambda write: write.previous_generation is None):
            if write.generation in failed:
                continue
            now = self._tables.now()
            if write.previous_generation is None:
                if shortfall := self._shortfall(meter, write):
                    failed[write.generation] = shortfall
                    continue
                meter.count(write)
                versions[write.generation] = DocumentVersion(write.generation, now)
                continue
            version = versions[write.generation] = made.get(write.doc_id) or self._version(write)
            if not _holds(write, version):
                failed[write.generation] = WriteFailure.PRECONDITION_FAILED
            elif version is None or not self._is_as_expected(write, version):
                failed[write.generation] = WriteFailure.DOCUMENT_CHANGED
            elif shortfall := self._shortfall(meter, write):
                failed[write.generation] = shortfall
            else:
                meter.count(write)
                old = self._tables.partition(write.bot_id).documents[write.doc_id or 0]
                replaced[write.generation] = Replaced(old.chunk_count, version)
                new = DocumentVersion(write.generation, max(now, version.updated_at + MICROSECOND))
                made[write.doc_id] = versions[write.generation] = new
        done = [write for write in live if write.generation not in failed]
        result = FinishResult(failed, moved, replaced, versions)
        if key and answer and done:  # Before anything changes: it may raise.
            keys.store_answer(self._tables, key, answer(result))
        for write in done:
            version = versions[write.generation]
            assert version is not None
            if write.previous_generation is None:
                assert write.doc_id is not None
                document = self._row(write, write.doc_id, write.document.created_at or version.updated_at)
                document.updated_at = version.updated_at
                self._tables.partition(write.bot_id).documents[write.doc_id] = document
            else:
                self._switch(write, version.updated_at)
        self._tables.end_sagas([write.generation for write in done], token)
        return result

    def _shortfall(self, meter: Meter, write: WriteRow) -> QuotaShortfall | None:
        return meter.refusal(write)

    def _has_key(self, key: RequestKey) -> bool:
        """Without the bot of lines, the writes fail because of that."""
        if isinstance(key, IdempotencyKey):
            return idempotency.lock(self._tables, key)
        return self._tables.active(key.name.bot_id) is None or streams.lock(self._tables, key)

    def _share(self, bot: BotRow, timestamp: int, shared: SharedVectors | None) -> None:
        if shared is None or bot.state != "active" or bot.collection != shared.collection_name:
            bot.unshared_timestamp = max(bot.unshared_timestamp, timestamp)
            return
        keys = zip(shared.chunk_ids.tolist(), shared.doc_ids.tolist(), shared.vectors, strict=True)
        rows = [RecentRow(RecentVector(timestamp, *one), self._tables.now()) for one in keys]
        self._tables.recent.setdefault(bot.bot_id, []).extend(rows)

    async def sweep_recent_vectors(self, age: timedelta) -> None:
        until = self._tables.now() - age
        for bot_id, rows in list(self._tables.recent.items()):
            swept = [row.vector.timestamp for row in rows if row.written_at < until]
            self._tables.recent[bot_id] = [row for row in rows if row.written_at >= until]
            if swept and (bot := self._tables.bots.get(bot_id)):
                bot.unshared_timestamp = max(bot.unshared_timestamp, *swept)
            if not self._tables.recent[bot_id]:
                del self._tables.recent[bot_id]

    def _lost(self, writes: Iterable[WriteRow], token: UUID) -> set[int]:
        generations = {write.generation for write in writes}
        return generations - {saga.generation for saga in self._tables.held(generations, token)}

    def _is_as_expected(self, write: WriteRow, version: DocumentVersion) -> bool:
        """Whether the document is as T1 found it: its generation, and its title where only chunks are written."""
        row = self._tables.partition(write.bot_id).documents[write.doc_id or 0]
        same_title = write.rewrites is None or row.title == write.document.title
        return version.generation == write.previous_generation and same_title

    def _version(self, write: WriteRow) -> DocumentVersion | None:
        row = self._tables.partition(write.bot_id).documents.get(write.doc_id or 0)
        return row.document().version if row else None

    def _switch(self, write: WriteRow, updated_at: datetime) -> None:
        old = self._tables.partition(write.bot_id).documents[write.doc_id or 0]
        new = self._row(write, old.doc_id, old.created_at)
        if write.rewrites is not None:
            new = replace(
                old,
                generation=new.generation,
                chunk_count=new.chunk_count,
                chunk_span=new.chunk_span,
            )
        new.external_id, new.updated_at = old.external_id, updated_at
        self._tables.partition(write.bot_id).documents[old.doc_id] = new
        self._tables.discard(write.bot_id, old, self._late_write_window)

    async def compensate(self, bot_id: UUID, generations: Sequence[int], token: UUID | None) -> set[int]:
        mine = [saga.generation for saga in self._tables.held(generations, token) if saga.bot_id == bot_id]
        for saga in self._tables.end_sagas(mine, token):
            self._tables.drop_chunks(bot_id, saga.generation)
            assert saga.collection_name is not None
            until = self._tables.now() + self._late_write_window
            self._tables.collect(bot_id, saga.generation, saga.collection_name, saga.chunk_span, until, saga.doc_id)
        return set(mine)

    async def compensate_expired(self) -> int:
        now = self._tables.now()
        expired = [saga for saga in self._tables.sagas.values() if saga.operation == "write" and saga.lease_until < now]
        for saga in expired:
            await self.compensate(saga.bot_id, [saga.generation], None)
        return len(expired)

    async def enqueue_vector_gc(self, bot_id: UUID, writes: Sequence[WriteRow]) -> None:
        if self._tables.active(bot_id) is None:
            return
        current = {document.generation for document in self._tables.partition(bot_id).documents.values()}
        not_before = self._tables.now() + self._late_write_window
        for write in writes:
            if write.generation not in current:
                span = write.document.chunk_span
                self._tables.collect_again(bot_id, write.generation, write.collection_name, span, not_before)

    async def generation_of(self, bot_id: UUID, doc_id: int) -> int | None:
        document = self._tables.partition(bot_id).documents.get(doc_id)
        return document.generation if document else None

    def _is_same_bot(self, write: WriteRow) -> bool:
        bot = self._tables.active(write.bot_id)
        return bot is not None and bot.created_at == write.bot_created_at

    def _has_moved(self, write: WriteRow) -> bool:
        return self._tables.bots[write.bot_id].collection != write.collection_name

    def _row(self, write: WriteRow, doc_id: int, created_at: datetime) -> DocumentRow:
        document = write.document
        return DocumentRow(
            doc_id,
            write.generation,
            document.title,
            document.file_path,
            document.file_type,
            document.author,
            list(document.tags),
            dict(document.metadata),
            len(document.chunks),
            document.chunk_span,
            created_at,
            self._tables.now(),
            document.external_id,
        )


def _within_quota(meter: Meter, write: WriteRow | Refusal) -> WriteRow | Refusal:
    if isinstance(write, WriteRow):
        if shortfall := meter.refusal(write):
            return shortfall
        meter.count(write)
    return write


def _holds(write: WriteRow, version: DocumentVersion | None) -> bool:
    """Whether the precondition of the write holds for this version of the document that it replaces."""
    try:
        if write.precondition:
            write.precondition.check(version)
    except PreconditionFailed:
        return False
    return True
