"""``documents`` and ``document_chunks``: the transactions of a write, and the reads."""

import asyncio
import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import fields
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from app.core.stores.postgres import idempotency as keys
from app.core.stores.postgres.database import Connection, Database
from app.core.stores.postgres.filter_sql import compile_filter
from app.core.stores.postgres.tenant_guard import TenantMismatch, check_only_bot, only_bot
from app.core.write.idempotency import IdempotentRequest
from app.core.write.write import Write, mark_moved
from app.schemas.filter_tree import Filter
from app.schemas.metadata import METADATA_BYTES, check_metadata
from app.schemas.queries import SQL
from app.schemas.rows import (
    CHUNK_COLUMNS,
    CHUNK_TABLE,
    DOCUMENT_COLUMNS,
    DOCUMENT_TABLE,
    Bot,
    Chunk,
    CurrentChunk,
    Document,
    SearchChunk,
    StaleChunk,
)
from app.utils.errors import CollectionMoved, NoGeneration
from app.utils.tasks import cancel_quietly

COLUMNS = ("title", "file_path", "file_type", "author", "tags")
DOCUMENT_FIELDS = tuple(column.name for column in fields(Document))
CHUNK_FIELDS = tuple(column.name for column in fields(Chunk))
SEARCH_CHUNK_FIELDS = tuple(column.name for column in fields(SearchChunk))
FILTER_PLACEHOLDER = "/*filter*/ true"
"""Where a statement takes a compiled filter; without one it reads as it stands."""


class DocumentStore:
    """All methods raise DatabaseUnavailable.

    ``settle`` is how long after its call's end a write to Milvus may still land.
    """

    def __init__(self, db: Database, settle: timedelta) -> None:
        self._db = db
        self._settle = settle

    async def begin(
        self, writes: Sequence[Write], token: UUID, lease: timedelta, once: IdempotentRequest | None = None
    ) -> None:
        """T1: numbers the writes, stores their chunks and opens their sagas. Nothing is visible yet.

        A write with ``doc_id`` set is a replacement: its previous generation is read here. A write is marked
        failed when its bot or the document to be replaced does not exist. With ``once``, nothing is begun when
        it has been answered before. Raises IdempotencyKeyReused, RequestInFlight; and NoGeneration, with nothing
        done, when a block has to be reserved first.
        """
        async with self._db.transaction() as conn:
            if once and not await keys.claim(conn, once):
                return
            await self._fail_unknown_bots(conn, writes)
            for write in writes:
                if write.error is None and write.doc_id is not None:
                    write.replaces(await self._generation(conn, write.bot.bot_id, write.doc_id))
            live = [write for write in writes if write.error is None]
            if not live:
                return
            opened = await self._open(conn, [(write, write.bot) for write in live], token, lease)
            for write, generation in zip(live, opened, strict=True):
                write.number(generation)
            if once:
                await keys.assign(conn, once, live[0].generation)
            await self._store_chunks(conn, live)

    async def restart(
        self,
        writes: Sequence[Write],
        bots: Mapping[UUID, Bot],
        token: UUID,
        lease: timedelta,
        once: IdempotentRequest | None = None,
    ) -> None:
        """T1 for writes whose bot has moved: takes them back and begins them again, at one stroke.

        Each gets a new generation, and of ``bots`` the bot as it is now; its document and what it replaces stay.
        Marks a write failed whose lease is lost or whose bot is gone. Raises NoGeneration as ``begin`` does.
        """
        async with self._db.transaction() as conn:
            if once and not await keys.hold(conn, once):
                for write in writes:
                    write.fail_lease_lost()
                return
            await self._fail_unknown_bots(conn, writes)
            undone: set[int] = set()
            for bot_id in sorted({write.bot.bot_id for write in writes}):
                generations = [write.generation for write in writes if write.bot.bot_id == bot_id]
                rows = await conn.fetch(SQL["compensate_writes"], bot_id, generations, token, self._settle)
                undone |= {row["generation"] for row in rows}
            for write in writes:
                if write.generation not in undone:
                    write.fail_lease_lost()
            live = [write for write in writes if write.error is None]
            was_key = once and once.generation in undone
            if not live:
                return
            opened = await self._open(conn, [(write, bots[write.bot.bot_id]) for write in live], token, lease)
            for write, generation in zip(live, opened, strict=True):
                write.restart(generation, bots[write.bot.bot_id])
            if once and was_key:
                await keys.assign(conn, once, live[0].generation)
            await self._store_chunks(conn, live)

    @staticmethod
    async def _open(conn: Connection, live: Sequence[tuple[Write, Bot]], token: UUID, lease: timedelta) -> list[int]:
        """Begins the sagas; the generation of each. Raises NoGeneration."""
        rows = await conn.fetch(
            SQL["begin_writes"],
            [bot.bot_id for _, bot in live],
            [write.doc_id for write, _ in live],
            [write.previous_generation for write, _ in live],
            [write.chunk_span for write, _ in live],
            [bot.milvus_collection for _, bot in live],
            token,
            lease,
        )
        if len(rows) < len(live):
            raise NoGeneration
        return sorted(row["generation"] for row in rows)

    @staticmethod
    async def _store_chunks(conn: Connection, live: Sequence[Write]) -> None:
        await conn.copy_records_to_table(
            CHUNK_TABLE,
            columns=CHUNK_COLUMNS,
            records=(
                (write.bot.bot_id, chunk_id, write.doc_id, chunk.chunk_index, chunk.text, chunk.page_number)
                for write in live
                for chunk_id, chunk in zip(write.chunk_ids, write.document.chunks, strict=True)
            ),
        )

    async def renew(self, generations: Sequence[int], token: UUID, lease: timedelta) -> set[int]:
        """Returns the sagas that are still this token's; not one that is being ended at this moment."""
        rows = await self._db.fetch(SQL["renew_leases"], generations, token, lease)
        return {row["generation"] for row in rows}

    async def advance_timestamps(self, timestamps: Mapping[UUID, int]) -> None:
        """Tells every later search, in any process, what it must see.

        Committed before T2 and without waiting for the disk: the log is sequential, so T2's own flush covers
        it, and the bot's row is not held during that flush.
        """
        if not timestamps:
            return
        if len(timestamps) == 1:
            await self._db.execute(SQL["advance_milvus_timestamp"], *next(iter(timestamps.items())))
            return
        async with self._db.transaction() as conn:
            await conn.execute("SET LOCAL synchronous_commit = off")
            bots = sorted(timestamps)
            # In a statement of its own: an UPDATE locks in its plan's order, and batches over the same bots deadlock.
            await conn.execute(SQL["lock_bots_for_timestamps"], bots)
            await conn.execute(SQL["advance_milvus_timestamps"], bots, [timestamps[bot] for bot in bots])

    async def finish(
        self,
        writes: Sequence[Write],
        token: UUID,
        once: IdempotentRequest | None = None,
        timestamps: Mapping[UUID, int] | None = None,
    ) -> None:
        """T2: makes the writes visible and takes what they replace away, in one transaction.

        ``timestamps`` are raised beside it, and before its commit.

        Marks a write failed where its lease is lost, its bot is gone, or its document was changed meanwhile;
        such a write's saga stays, for ``compensate``. With ``once``, its answer is stored if a write succeeded.
        When a bot has moved to another collection since its vectors were written, its writes are marked as moved and
        nothing is done to any: the moved ones are to be begun anew, and then all finished.
        """
        raising = asyncio.create_task(self.advance_timestamps(timestamps or {}))
        try:
            # It gets the first connection: who holds one here and waits for it never waits for a further one. A pooler
            # does not give out its own in that order.
            await (raising if self._db.pooled else asyncio.sleep(0))
            async with self._db.transaction() as conn:
                await self._finish(conn, writes, token, once)
                await raising
        finally:
            cancel_quietly(raising)

    async def _finish(
        self, conn: Connection, writes: Sequence[Write], token: UUID, once: IdempotentRequest | None
    ) -> None:
        if once and not await keys.hold(conn, once):
            for write in writes:
                write.fail_lease_lost()
            return
        collections = await self._fail_unknown_bots(conn, writes)
        if mark_moved(writes, collections):
            return
        if replacing := [write for write in writes if write.previous_generation is not None]:
            # A replacement may yet fail, and then its saga has to stay.
            await self._fail_lost(conn, "hold_leases", replacing, token)
            for write in replacing:
                if write.error is None:
                    await self._switch(conn, write)
        await self._fail_lost(conn, "end_sagas", writes, token)
        done = [write for write in writes if write.error is None]
        if new := [write.record() for write in done if write.previous_generation is None]:
            await conn.copy_records_to_table(DOCUMENT_TABLE, columns=DOCUMENT_COLUMNS, records=new)
        if once and done:
            await keys.store_answer(conn, once)

    @staticmethod
    async def _fail_lost(conn: Connection, statement: str, writes: Sequence[Write], token: UUID) -> None:
        """Holds or ends the sagas of what goes on, and marks the writes whose lease is lost."""
        live = [write for write in writes if write.error is None]
        rows = await conn.fetch(SQL[statement], [write.generation for write in live], token)
        found = {row["generation"] for row in rows}
        for write in live:
            if write.generation not in found:
                write.fail_lease_lost()

    @staticmethod
    async def _fail_unknown_bots(conn: Connection, writes: Sequence[Write]) -> dict[UUID, str]:
        """Marks writes to bots that are gone, and keeps the other bots from going or moving until the commit.

        A bot that was registered anew since its row was read is another bot. Returns each bot's collection.
        """
        bots = sorted({write.bot.bot_id for write in writes})
        active = {row["bot_id"]: row for row in await conn.fetch(SQL["lock_bot_for_use"], bots)}
        for write in writes:
            row = active.get(write.bot.bot_id)
            if row is None or row["created_at"] != write.bot.created_at:
                write.fail_unknown_bot()
        return {bot_id: row["milvus_collection"] for bot_id, row in active.items()}

    async def _switch(self, conn: Connection, write: Write) -> None:
        document = write.document
        switch = (write.bot.bot_id, write.doc_id, write.previous_generation, write.generation)
        if write.rewrites is not None:
            replaced = await conn.fetchval(SQL["switch_generation"], *switch, self._settle)
        else:
            replaced = await conn.fetchval(
                SQL["switch_document"],
                *switch,
                document.title,
                document.file_path,
                document.file_type,
                document.author,
                list(document.tags),
                document.metadata,
                len(document.chunks),
                write.chunk_span,
                self._settle,
            )
        if replaced is None:
            write.fail_changed()
        else:
            write.replaced_chunks = replaced

    async def compensate(self, bot_id: UUID, generations: Sequence[int], token: UUID) -> set[int]:
        """Takes unfinished writes of one bot back; returns those that were unfinished.

        A transaction that may be committing elsewhere holds its sagas' rows, so this waits for its outcome.
        """
        rows = await self._db.fetch(SQL["compensate_writes"], bot_id, generations, token, self._settle)
        return {row["generation"] for row in rows}

    async def enqueue_vector_gc(self, bot_id: UUID, writes: Sequence[Write]) -> None:
        """Has the vectors of writes that somebody else undid deleted once more. A current generation is left alone."""
        generations, spans = [write.generation for write in writes], [write.chunk_span for write in writes]
        collections = [write.bot.milvus_collection for write in writes]
        await self._db.execute(SQL["enqueue_vector_gc"], bot_id, generations, spans, self._settle, collections)

    async def compensate_expired(self) -> int:
        """Takes back writes past their lease, whoever began them; returns how many."""
        async with self._db.transaction() as conn:
            expired: dict[UUID, list[int]] = {}
            for row in await conn.fetch(SQL["expired_writes"]):
                expired.setdefault(row["bot_id"], []).append(row["generation"])
            for bot_id, generations in expired.items():
                await conn.execute(SQL["compensate_writes"], bot_id, generations, None, self._settle)
        return sum(map(len, expired.values()))

    async def generation_of(self, bot_id: UUID, doc_id: int) -> int | None:
        """The document's current generation, or None when it does not exist."""
        async with self._db.connection() as conn:
            return await self._generation(conn, bot_id, doc_id)

    @staticmethod
    async def _generation(conn: Connection, bot_id: UUID, doc_id: int) -> int | None:
        rows = only_bot(await conn.fetch(SQL["current_generation"], bot_id, doc_id), bot_id)
        return rows[0]["generation"] if rows else None

    async def delete(self, bot_id: UUID, doc_ids: Sequence[int]) -> dict[int, int]:
        """Removes the documents that exist, at once for every reader; {doc_id: number of its chunks}."""
        try:
            async with self._db.transaction() as conn:
                locked = only_bot(await conn.fetch(SQL["lock_documents"], bot_id, doc_ids), bot_id)
                own = [row["doc_id"] for row in locked]
                rows = await conn.fetch(SQL["delete_documents"], bot_id, own, self._settle)
                check_only_bot(rows, bot_id)
        except TenantMismatch:
            return {}
        return {row["doc_id"]: row["chunk_count"] for row in rows}

    async def patch(
        self,
        bot_id: UUID,
        doc_id: int,
        columns: dict[str, Any],
        merge: dict[str, Any],
        remove: Sequence[str],
        metadata_bytes: int = METADATA_BYTES,
    ) -> datetime | None:
        """Sets ``columns``, merges ``merge`` into metadata and takes the keys ``remove`` out of it.

        Returns updated_at, or None when there is no such document. Raises MetadataTooLarge, with nothing changed, when
        ``merge`` would make metadata larger than ``metadata_bytes``.
        """
        flags_and_values = [item for name in COLUMNS for item in (name in columns, columns.get(name))]
        values = (bot_id, doc_id, *flags_and_values, merge, remove, metadata_bytes, [*merge, *remove])
        try:
            async with self._db.transaction() as conn:
                rows = await conn.fetch(SQL["patch_document"], *values)
                check_only_bot(rows, bot_id)
                if merge and rows and rows[0]["large_metadata"] is not None:
                    check_metadata(rows[0]["large_metadata"], metadata_bytes)
        except TenantMismatch:
            return None
        return rows[0]["updated_at"] if rows else None

    async def get(
        self, bot_id: UUID, doc_id: int, after: int = 0, limit: int | None = None
    ) -> tuple[Document, list[Chunk]] | None:
        """The document and its chunks in order, both of one moment: ``limit`` of those with a key above ``after``."""
        async with self._db.snapshot() as conn:
            rows = only_bot(await conn.fetch(SQL["get_document"], bot_id, doc_id), bot_id)
            if not rows:
                return None
            chunks = only_bot(await conn.fetch(SQL["get_document_chunks"], bot_id, doc_id, after, limit), bot_id)
        return _document(rows[0]), [_chunk(chunk) for chunk in chunks]

    async def list(self, bot_id: UUID, after: int, limit: int) -> Sequence[Document]:
        """Documents with a doc_id above ``after``, ascending."""
        rows = only_bot(await self._db.fetch(SQL["list_documents"], bot_id, after, limit), bot_id)
        return [_document(row) for row in rows]

    async def current_chunks(
        self,
        bot_id: UUID,
        chunk_ids: Sequence[int],
        hydrate: Collection[int],
        where: Filter | None,
        expected_bot: Bot | None = None,
        doc_ids: Sequence[int] = (),
    ) -> dict[int, CurrentChunk]:
        """The chunks of ``chunk_ids`` that are current and pass the filter, by chunk_id.

        Those in ``hydrate`` come with text and document columns. With ``expected_bot`` the result is empty unless the
        bot's row still equals it; its ``in_flight_generations`` are not compared. With ``doc_ids`` all current chunks
        of these documents are added, with text, and ``expected_bot`` is ignored.
        """
        if doc_ids:
            sql, values = _filtered(SQL["current_chunks_of_documents"], where, first_param=5)
            found = await self._db.fetch(sql, bot_id, chunk_ids, list(hydrate), doc_ids, *values)
            return _current_chunks(only_bot(found, bot_id, "document_bot_id"))
        row = (
            (expected_bot.created_at, expected_bot.milvus_timestamp, expected_bot.milvus_collection)
            if expected_bot
            else (None, None, None)
        )
        sql, values = _filtered(SQL["current_chunks"], where, first_param=7)
        found = await self._db.fetch(sql, bot_id, chunk_ids, list(hydrate), *row, *values)
        return _current_chunks(only_bot(found, bot_id, "document_bot_id"))

    async def stale_chunks(self, bot_id: UUID, collection: str, chunk_ids: Sequence[int]) -> Sequence[StaleChunk]:
        """The keys of ``chunk_ids`` that ``collection`` still had, but whose chunks no longer exist."""
        rows = await self._db.fetch(SQL["stale_chunks"], bot_id, chunk_ids, collection)
        return [StaleChunk(**row) for row in rows]

    async def text_bytes(self, bot_id: UUID, chunk_ids: Sequence[int], distance: int) -> int:
        """Bytes of UTF-8 in the texts of these chunks and of their ``neighbours``, counted once per result."""
        row = await self._db.fetchrow(SQL["text_bytes"], bot_id, chunk_ids, distance)
        return int(row["bytes"]) if row else 0

    async def neighbours(self, bot_id: UUID, chunk_ids: Sequence[int], distance: int) -> dict[int, Sequence[Chunk]]:
        """By chunk_id, up to ``distance`` chunks before it and up to ``distance`` after it in its document, in order.

        A chunk without neighbours is left out.
        """
        rows = only_bot(await self._db.fetch(SQL["neighbouring_chunks"], bot_id, chunk_ids, distance), bot_id)
        groups = itertools.groupby(rows, lambda row: row["neighbour_of"])
        return {chunk_id: [_chunk(row) for row in group] for chunk_id, group in groups}

    async def matching_documents(self, bot_id: UUID, where: Filter, after: int, limit: int) -> Sequence[int]:
        """At most ``limit`` doc_ids above ``after`` whose documents pass the filter, ascending."""
        sql, values = _filtered(SQL["matching_documents"], where, first_param=4)
        return [row["doc_id"] for row in only_bot(await self._db.fetch(sql, bot_id, after, limit, *values), bot_id)]

    async def matching_chunks(self, bot_id: UUID, where: Filter, after: int, limit: int) -> Sequence[int]:
        """At most ``limit`` ids of current chunks above ``after`` that pass a filter on chunk columns, ascending."""
        sql, values = _filtered(SQL["matching_chunks"], where, first_param=4)
        rows = only_bot(await self._db.fetch(sql, bot_id, after, limit, *values), bot_id, "document_bot_id")
        return [row["chunk_id"] for row in rows]

    async def milvus_timestamp(self, bot_id: UUID, collection: str) -> int:
        """Milvus's timestamp of the bot's newest write; 0 when the bot does not exist.

        Raises CollectionMoved when the bot has another collection than ``collection``: newer writes went there.
        """
        row = await self._db.fetchrow(SQL["milvus_timestamp"], bot_id)
        if row and row["milvus_collection"] != collection:
            raise CollectionMoved()
        return row["milvus_timestamp"] if row else 0


def _document(row: Any) -> Document:
    return Document(*(row[name] for name in DOCUMENT_FIELDS))


def _chunk(row: Any) -> Chunk:
    return Chunk(*(row[name] for name in CHUNK_FIELDS))


def _current_chunks(rows: Iterable[Any]) -> dict[int, CurrentChunk]:
    return {
        row["chunk_id"]: CurrentChunk(row["doc_id"], _search_chunk(row) if row["hydrate"] else None) for row in rows
    }


def _search_chunk(row: Any) -> SearchChunk:
    return SearchChunk(**{name: row[name] for name in SEARCH_CHUNK_FIELDS})


def _filtered(sql: str, where: Filter | None, *, first_param: int) -> tuple[str, Sequence[object]]:
    if where is None:
        return sql, ()
    condition, values = compile_filter(where, first_param)
    return sql.replace(FILTER_PLACEHOLDER, condition), values
