"""WritePort on PostgreSQL: ``sagas``, ``document_chunks`` and ``documents``."""

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import timedelta
from uuid import UUID

import asyncpg

from app.core.ports import (
    BeginResult,
    FinishResult,
    Refusal,
    RenderAnswer,
    Replaced,
    RequestKey,
    SharedVectors,
    WriteFailure,
)
from app.core.stores.postgres import external_ids, idempotency, quotas, streams
from app.core.stores.postgres import request_keys as keys
from app.core.stores.postgres.connection import Connection
from app.core.stores.postgres.copied_rows import chunk_records, insert_documents
from app.core.stores.postgres.database import Database
from app.core.stores.postgres.documents import lock_documents
from app.core.stores.postgres.tenant_guard import only_bot
from app.schemas.queries import SQL
from app.schemas.rows import CHUNK_COLUMNS, CHUNK_TABLE, EMBEDDING, IdempotencyKey, WriteRow
from app.schemas.stream_rows import LinesKey
from app.schemas.versions import DocumentVersion
from app.utils.errors import NoGeneration, PreconditionFailed
from app.utils.tasks import cancel_quietly


class WriteStore:
    """``late_write_window``: how long after the end of its call a write to Milvus may still take effect."""

    def __init__(self, db: Database, late_write_window: timedelta) -> None:
        self._db = db
        self._late_write_window = late_write_window

    async def begin(
        self, writes: Sequence[WriteRow], token: UUID, lease: timedelta, key: RequestKey | None = None
    ) -> BeginResult:
        async with self._db.transaction() as conn:
            if isinstance(key, IdempotencyKey) and (answer := await idempotency.claim(conn, key)) is not None:
                return BeginResult((), answer=answer)
            bots = await _lock_bots(conn, writes)
            if isinstance(key, LinesKey) and key.name.bot_id in bots:
                await streams.claim(conn, key)
            current = await _generations(conn, writes)
            checked: list[WriteRow | Refusal] = []
            for write in writes:
                if not _is_same_bot(write, bots):
                    checked.append(WriteFailure.BOT_NOT_FOUND)
                elif write.doc_id is None:
                    checked.append(write)
                else:
                    checked.append(_replacing(write, current.get((write.bot_id, write.doc_id))))
            external_ids.check_not_gone(writes, checked)
            checked = await quotas.within(conn, bots, checked)
            result = await self._open(conn, checked, token, lease, key)
            # After the sagas hold the external ids: what a write that held one before has done is visible now.
            await external_ids.check_unchanged(conn, [write for write in result.writes if isinstance(write, WriteRow)])
            return result

    async def restart(
        self,
        writes: Sequence[WriteRow],
        collections: Mapping[UUID, str],
        token: UUID,
        lease: timedelta,
        key: RequestKey | None = None,
    ) -> BeginResult:
        async with self._db.transaction() as conn:
            bots, locked = await _lock_bots_and_key(conn, writes, key)
            if not locked:
                return BeginResult([WriteFailure.LEASE_LOST] * len(writes))
            undone: set[int] = set()
            for bot_id in sorted({write.bot_id for write in writes}):
                generations = [write.generation for write in writes if write.bot_id == bot_id]
                rows = await conn.fetch(SQL["compensate_writes"], bot_id, generations, token, self._late_write_window)
                undone |= {row["generation"] for row in rows}
            checked: list[WriteRow | Refusal] = []
            for write in writes:
                if not _is_same_bot(write, bots):
                    checked.append(WriteFailure.BOT_NOT_FOUND)
                elif write.generation not in undone:
                    checked.append(WriteFailure.LEASE_LOST)
                else:
                    checked.append(write._replace(collection_name=collections[write.bot_id]))
            return await self._open(conn, checked, token, lease, key if key and key.generation in undone else None)

    @staticmethod
    async def _open(
        conn: Connection,
        checked: Sequence[WriteRow | Refusal],
        token: UUID,
        lease: timedelta,
        key: RequestKey | None,
    ) -> BeginResult:
        """Begins the sagas of the writes among ``checked`` and stores their chunks. Raises NoGeneration."""
        live = [write for write in checked if isinstance(write, WriteRow)]
        if not live:
            return BeginResult(checked)
        values = (
            [write.bot_id for write in live],
            [write.doc_id for write in live],
            [write.previous_generation for write in live],
            [write.document.chunk_span for write in live],
            [write.collection_name for write in live],
            token,
            lease,
        )
        names = [write.document.external_id for write in live]
        if any(names):
            rows = await conn.fetch(SQL["begin_writes_with_external_ids"], *values, names)
            if len(rows) < len(live):
                await external_ids.check_not_held(conn, live, {(row["bot_id"], row["external_id"]) for row in rows})
        else:
            rows = await conn.fetch(SQL["begin_writes"], *values)
        if len(rows) < len(live):
            raise NoGeneration
        generations = iter(sorted(row["generation"] for row in rows))
        begun = [_numbered(write, next(generations)) if isinstance(write, WriteRow) else write for write in checked]
        live = [write for write in begun if isinstance(write, WriteRow)]
        if key:
            await keys.assign(conn, key, live[0].generation)
        await conn.copy_records_to_table(CHUNK_TABLE, columns=CHUNK_COLUMNS, records=chunk_records(live))
        return BeginResult(begun, key_generation=live[0].generation if key else None)

    async def renew(self, generations: Sequence[int], token: UUID, lease: timedelta) -> set[int]:
        rows = await self._db.fetch(SQL["renew_leases"], generations, token, lease)
        return {row["generation"] for row in rows}

    async def finish(
        self,
        writes: Sequence[WriteRow],
        token: UUID,
        timestamps: Mapping[UUID, int],
        key: RequestKey | None = None,
        answer: RenderAnswer | None = None,
        shared: SharedVectors | None = None,
    ) -> FinishResult:
        if not timestamps:
            async with self._db.transaction() as conn:
                return await self._finish(conn, writes, token, key, answer)
        connected = asyncio.Event()
        advancing = asyncio.create_task(self._advance_timestamps(timestamps, token, shared, connected))
        try:
            # T2 holds a connection until the timestamps are committed. So their connection is acquired before its own:
            # no task that holds a connection waits for another to become free. A pooler does not keep to that order.
            await (advancing if self._db.pooled else connected.wait())
            async with self._db.transaction() as conn:
                result = await self._finish(conn, writes, token, key, answer)
                await advancing
        finally:
            cancel_quietly(advancing)
        return result

    async def _finish(
        self,
        conn: Connection,
        writes: Sequence[WriteRow],
        token: UUID,
        key: RequestKey | None,
        answer: RenderAnswer | None,
    ) -> FinishResult:
        bots, locked = await _lock_bots_and_key(conn, writes, key)
        if not locked:
            return FinishResult(failed=dict.fromkeys((write.generation for write in writes), WriteFailure.LEASE_LOST))
        failed: dict[int, Refusal] = {
            write.generation: WriteFailure.BOT_NOT_FOUND for write in writes if not _is_same_bot(write, bots)
        }
        moved = frozenset(
            write.generation
            for write in _without(writes, failed)
            if bots[write.bot_id]["milvus_collection"] != write.collection_name
        )
        if moved:
            return FinishResult(failed, moved)
        replaced: dict[int, Replaced] = {}
        versions: dict[int, DocumentVersion | None] = {}
        replacing = [write for write in writes if write.previous_generation is not None]
        meter = await quotas.meter(conn, bots, _without(writes, failed), lock=True)
        if undecided := writes if meter else replacing:
            # A write that may yet fail has to keep its saga then.
            rows = await conn.fetch(SQL["lock_leases"], _generations_of(_without(undecided, failed)), token)
            failed |= _lost(rows, _without(undecided, failed))
        for write in _without(replacing, failed):
            versions[write.generation], failure = await _refusal(conn, write)
            failure = failure or (meter.refusal(write) if meter else None)
            if failure is None and (switched := await self._switch(conn, write)):
                replaced[write.generation], versions[write.generation] = switched
                if meter:
                    meter.count(write)
            else:
                failed[write.generation] = failure or WriteFailure.DOCUMENT_CHANGED
        if meter:
            for write in _without(writes, failed):
                if write.previous_generation is None:
                    if shortfall := meter.refusal(write):
                        failed[write.generation] = shortfall
                    else:
                        meter.count(write)
        ended = await conn.fetch(SQL["end_sagas"], _generations_of(_without(writes, failed)), token)
        failed |= _lost(ended, _without(writes, failed))
        done = _without(writes, failed)
        if new := [write for write in done if write.previous_generation is None]:
            await insert_documents(conn, new)
            versions |= {one.generation: DocumentVersion(one.generation, ended[0]["ended_at"]) for one in new}
        if meter:
            await meter.store(conn)
        result = FinishResult(failed, moved, replaced, versions)
        if key and answer and done:
            await keys.store_answer(conn, key, answer(result))
        return result

    async def _advance_timestamps(
        self, timestamps: Mapping[UUID, int], token: UUID, shared: SharedVectors | None, connected: asyncio.Event
    ) -> None:
        """Commits before T2 and does not wait for the disk: the log is sequential, so T2's own flush covers it, and the
        bots' rows are not locked during that flush. ``connected`` is set when it has its connection, or has failed."""
        try:
            async with self._db.connection() as conn:
                connected.set()
                if len(timestamps) == 1:
                    newest = (*next(iter(timestamps.items())), token)
                    if shared is None:
                        await conn.execute(SQL["advance_milvus_timestamp"], *newest)
                    else:
                        await conn.execute(SQL["advance_milvus_timestamp_and_share"], *newest, *_shared_values(shared))
                    return
                async with conn.transaction():
                    await conn.execute("SET LOCAL synchronous_commit = off")
                    bots = sorted(timestamps)
                    # A statement of its own: an UPDATE locks rows in its plan's order, so that two batches deadlock.
                    await conn.execute(SQL["lock_bots_for_timestamps"], bots)
                    of_bots = [timestamps[bot] for bot in bots]
                    await conn.execute(SQL["advance_milvus_timestamps"], bots, of_bots, token)
        finally:
            connected.set()

    async def _switch(self, conn: Connection, write: WriteRow) -> tuple[Replaced, DocumentVersion] | None:
        """What the write has replaced, and with what; None when ``previous_generation`` is not current."""
        document = write.document
        switch = (write.bot_id, write.doc_id, write.previous_generation, write.generation)
        if write.rewrites is not None:
            shape = (len(document.chunks), document.chunk_span, document.title)
            row = await conn.fetchrow(SQL["switch_generation"], *switch, self._late_write_window, *shape)
        else:
            row = await conn.fetchrow(
                SQL["switch_document"],
                *switch,
                document.title,
                document.file_path,
                document.file_type,
                document.author,
                list(document.tags),
                document.metadata,
                len(document.chunks),
                document.chunk_span,
                self._late_write_window,
            )
        if row is None:
            return None
        assert write.previous_generation is not None
        old = DocumentVersion(write.previous_generation, row["replaced_at"])
        return Replaced(row["chunk_count"], old), DocumentVersion(write.generation, row["updated_at"])

    async def compensate(self, bot_id: UUID, generations: Sequence[int], token: UUID) -> set[int]:
        # A transaction that may be committing elsewhere holds its sagas' rows, so this waits for its outcome.
        rows = await self._db.fetch(SQL["compensate_writes"], bot_id, generations, token, self._late_write_window)
        return {row["generation"] for row in rows}

    async def compensate_expired(self) -> int:
        async with self._db.transaction() as conn:
            expired: dict[UUID, list[int]] = {}
            for row in await conn.fetch(SQL["expired_writes"]):
                expired.setdefault(row["bot_id"], []).append(row["generation"])
            for bot_id, generations in expired.items():
                await conn.execute(SQL["compensate_writes"], bot_id, generations, None, self._late_write_window)
        return sum(map(len, expired.values()))

    async def enqueue_vector_gc(self, bot_id: UUID, writes: Sequence[WriteRow]) -> None:
        generations, spans = [write.generation for write in writes], [write.document.chunk_span for write in writes]
        collections = [write.collection_name for write in writes]
        await self._db.execute(
            SQL["enqueue_vector_gc"], bot_id, generations, spans, self._late_write_window, collections
        )

    async def sweep_recent_vectors(self, age: timedelta) -> None:
        await self._db.execute(SQL["sweep_recent_vectors"], age)

    async def generation_of(self, bot_id: UUID, doc_id: int) -> int | None:
        async with self._db.connection() as conn:
            return (await _current_generations(conn, bot_id, [doc_id])).get(doc_id)


async def _lock_bots(conn: Connection, writes: Sequence[WriteRow]) -> dict[UUID, asyncpg.Record]:
    """The rows of those bots that exist. None of them is deleted or moved before the commit."""
    bots = sorted({write.bot_id for write in writes})
    return {row["bot_id"]: row for row in await conn.fetch(SQL["lock_bot_for_use"], bots)}


async def _lock_bots_and_key(
    conn: Connection, writes: Sequence[WriteRow], key: RequestKey | None
) -> tuple[dict[UUID, asyncpg.Record], bool]:
    """In the order of T1. Also whether the request still has its key; if not, the bots may be missing."""
    if isinstance(key, IdempotencyKey) and not await idempotency.lock(conn, key):
        return {}, False
    bots = await _lock_bots(conn, writes)
    # Without the bot, whose deletion has deleted the part, the writes fail because of that.
    if isinstance(key, LinesKey) and key.name.bot_id in bots:
        return bots, await streams.lock(conn, key)
    return bots, True


def _is_same_bot(write: WriteRow, bots: Mapping[UUID, asyncpg.Record]) -> bool:
    bot = bots.get(write.bot_id)
    return bot is not None and bot["created_at"] == write.bot_created_at


async def _generations(conn: Connection, writes: Iterable[WriteRow]) -> dict[tuple[UUID, int], int]:
    """By bot_id and doc_id, the current generations of those documents that the writes replace and that exist."""
    replaced: dict[UUID, list[int]] = {}
    for write in writes:
        if write.doc_id is not None:
            replaced.setdefault(write.bot_id, []).append(write.doc_id)
    return {
        (bot_id, doc_id): generation
        for bot_id, doc_ids in replaced.items()
        for doc_id, generation in (await _current_generations(conn, bot_id, doc_ids)).items()
    }


async def _current_generations(conn: Connection, bot_id: UUID, doc_ids: Sequence[int]) -> dict[int, int]:
    rows = only_bot(await conn.fetch(SQL["current_generations"], bot_id, doc_ids), bot_id)
    return {row["doc_id"]: row["generation"] for row in rows}


def _replacing(write: WriteRow, generation: int | None) -> WriteRow | WriteFailure:
    """``write``, which replaces the current ``generation``, or why it cannot."""
    if generation is None:
        return WriteFailure.DOCUMENT_NOT_FOUND
    if write.rewrites not in (None, generation):
        return WriteFailure.DOCUMENT_CHANGED
    return write._replace(previous_generation=generation)


def _numbered(write: WriteRow, generation: int) -> WriteRow:
    doc_id = generation if write.doc_id is None else write.doc_id
    return write._replace(generation=generation, doc_id=doc_id)


def _without(writes: Iterable[WriteRow], failed: Collection[int]) -> list[WriteRow]:
    return [write for write in writes if write.generation not in failed]


async def _refusal(conn: Connection, write: WriteRow) -> tuple[DocumentVersion | None, Refusal | None]:
    """If the write's precondition does not hold: the document's version now, and the failure. Locks the document."""
    if write.precondition is None or write.doc_id is None:
        return None, None
    version = (await lock_documents(conn, write.bot_id, [write.doc_id])).get(write.doc_id)
    try:
        write.precondition.check(version)
    except PreconditionFailed:
        return version, WriteFailure.PRECONDITION_FAILED
    return None, None


def _generations_of(writes: Iterable[WriteRow]) -> list[int]:
    return [write.generation for write in writes]


def _lost(held: Sequence[asyncpg.Record], writes: Sequence[WriteRow]) -> dict[int, WriteFailure]:
    """Those of the writes whose sagas are not among ``held``: not the token's any more."""
    found = {row["generation"] for row in held}
    return {write.generation: WriteFailure.LEASE_LOST for write in _without(writes, found)}


def _shared_values(shared: SharedVectors) -> tuple[object, ...]:
    """$4 to $7 of advance_milvus_timestamp_and_share."""
    vectors = [vector.tobytes() for vector in shared.vectors.astype(EMBEDDING, copy=False)]
    return shared.collection_name, shared.chunk_ids.tolist(), shared.doc_ids.tolist(), vectors
