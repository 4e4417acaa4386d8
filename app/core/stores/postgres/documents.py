"""DocumentPort on PostgreSQL: ``documents`` and ``document_chunks``."""

import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import fields
from datetime import timedelta
from typing import Any
from uuid import UUID

import numpy as np

from app.core.ports import RecentVector, RecentWrites
from app.core.stores.postgres.connection import Connection
from app.core.stores.postgres.database import Database
from app.core.stores.postgres.filter_sql import compile_filter
from app.core.stores.postgres.tenant_guard import TenantMismatch, check_only_bot, only_bot
from app.schemas.filter_tree import Filter
from app.schemas.metadata import METADATA_BYTES, check_metadata
from app.schemas.metadata import metadata_bytes as metadata_length
from app.schemas.queries import SQL
from app.schemas.rows import (
    CHUNKS_PER_GENERATION,
    EMBEDDING,
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
from app.utils.errors import CollectionMoved

PATCH_COLUMNS = ("title", "file_path", "file_type", "author", "tags")
DOCUMENT_FIELDS = tuple(column.name for column in fields(Document))
CHUNK_FIELDS = tuple(column.name for column in fields(Chunk))
SEARCH_CHUNK_FIELDS = tuple(column.name for column in fields(SearchChunk))
FILTER_PLACEHOLDER = "/*filter*/ true"
"""Where a statement takes a compiled filter; without a filter it runs as it is."""


class DocumentStore:
    """``late_write_window``: how long after the end of its call a write to Milvus may still take effect."""

    def __init__(self, db: Database, late_write_window: timedelta) -> None:
        self._db = db
        self._late_write_window = late_write_window

    async def delete(
        self,
        bot_id: UUID,
        doc_ids: Sequence[int],
        where: Filter | None = None,
        precondition: Precondition | None = None,
    ) -> dict[int, int]:
        try:
            async with self._db.transaction() as conn:
                if precondition:
                    await _check(conn, bot_id, doc_ids, precondition)
                return await delete_documents(conn, bot_id, doc_ids, where, self._late_write_window)
        except TenantMismatch:
            return {}

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
        values = (bot_id, doc_id, *_patch_values(columns, merge, remove, metadata_bytes))
        try:
            async with self._db.transaction() as conn:
                if precondition:
                    await _check(conn, bot_id, [doc_id], precondition)
                rows = await conn.fetch(SQL["patch_document"], *values)
                check_only_bot(rows, bot_id)
                if merge and rows and rows[0]["large_metadata"] is not None:
                    check_metadata(rows[0]["large_metadata"], metadata_bytes)
        except TenantMismatch:
            return None
        return _version(rows[0]) if rows else None

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
        values = _patch_values(columns, merge, remove, metadata_bytes)
        too_large: set[int] = set()
        try:
            async with self._db.transaction() as conn:
                own = list(await lock_documents(conn, bot_id, doc_ids, where))
                while True:
                    try:
                        async with conn.transaction():
                            fitting = [doc_id for doc_id in own if doc_id not in too_large]
                            rows = await conn.fetch(SQL["patch_documents"], bot_id, fitting, *values)
                            check_only_bot(rows, bot_id)
                            if merge and (found := _too_large(rows, metadata_bytes)):
                                raise _TooLarge
                        break
                    except _TooLarge:
                        too_large |= found
        except TenantMismatch:
            return PatchedDocuments()
        changed = {row["doc_id"] for row in rows}
        unchanged = [doc_id for doc_id in own if doc_id not in changed and doc_id not in too_large]
        return PatchedDocuments(sorted(changed), unchanged, sorted(too_large))

    async def get(
        self, bot_id: UUID, doc_id: int, after: int = 0, limit: int | None = None
    ) -> tuple[Document, list[Chunk]] | None:
        async with self._db.snapshot() as conn:
            rows = only_bot(await conn.fetch(SQL["get_document"], bot_id, doc_id), bot_id)
            if not rows:
                return None
            chunks = only_bot(await conn.fetch(SQL["get_document_chunks"], bot_id, doc_id, after, limit), bot_id)
        return document_of(rows[0]), [_chunk(chunk) for chunk in chunks]

    async def chunk(self, bot_id: UUID, doc_id: int, chunk_index: int) -> tuple[DocumentVersion, Chunk | None] | None:
        rows = only_bot(await self._db.fetch(SQL["get_document_chunk"], bot_id, doc_id, chunk_index), bot_id)
        if not rows:
            return None
        return _version(rows[0]), None if rows[0]["chunk_id"] is None else _chunk(rows[0])

    async def stored(self, bot_id: UUID, doc_ids: Sequence[int]) -> Sequence[StoredDocument]:
        rows = only_bot(await self._db.fetch(SQL["stored_documents"], bot_id, doc_ids), bot_id)
        return [
            StoredDocument(
                document_of(row), [*map(ChunkHash, row["chunk_ids"], row["page_numbers"], row["text_hashes"])]
            )
            for row in rows
        ]

    async def external_ids(self, bot_id: UUID, external_ids: Sequence[str]) -> Mapping[str, ExternalIdState]:
        async with self._db.connection() as conn:
            held = {row["external_id"] for row in await conn.fetch(SQL["held_external_ids"], bot_id, external_ids)}
            rows = only_bot(await conn.fetch(SQL["documents_by_external_id"], bot_id, external_ids), bot_id)
        doc_ids = {row["external_id"]: row["doc_id"] for row in rows}
        return {name: ExternalIdState(doc_ids.get(name), name in held) for name in external_ids}

    async def list(self, bot_id: UUID, after: int, limit: int) -> Sequence[Document]:
        rows = only_bot(await self._db.fetch(SQL["list_documents"], bot_id, after, limit), bot_id)
        return [document_of(row) for row in rows]

    async def with_chunks(
        self, bot_id: UUID, after: int, limit: int, chunks: int
    ) -> Sequence[tuple[Document, Sequence[Chunk]]]:
        rows = only_bot(await self._db.fetch(SQL["documents_with_chunks"], bot_id, after, limit, chunks), bot_id)
        return [
            (
                document_of(row),
                [
                    Chunk(key, key % CHUNKS_PER_GENERATION, text, page)
                    for key, text, page in zip(row["chunk_ids"], row["texts"], row["page_numbers"], strict=True)
                ],
            )
            for row in rows
        ]

    async def current_chunks(
        self,
        bot_id: UUID,
        chunk_ids: Sequence[int],
        hydrate: Collection[int],
        where: Filter | None,
        expected_bot: ExpectedBot | None = None,
        doc_ids: Sequence[int] = (),
    ) -> dict[int, CurrentChunk]:
        if doc_ids:
            sql, values = filtered(SQL["current_chunks_of_documents"], where, first_param=5)
            found = await self._db.fetch(sql, bot_id, chunk_ids, list(hydrate), doc_ids, *values)
            return _current_chunks(only_bot(found, bot_id, "document_bot_id"))
        sql, values = filtered(SQL["current_chunks"], where, first_param=12)
        row = expected_bot or (None,) * len(ExpectedBot._fields)
        found = await self._db.fetch(sql, bot_id, chunk_ids, list(hydrate), *row, *values)
        return _current_chunks(only_bot(found, bot_id, "document_bot_id"))

    async def stale_chunks(self, bot_id: UUID, collection: str, chunk_ids: Sequence[int]) -> Sequence[StaleChunk]:
        rows = await self._db.fetch(SQL["stale_chunks"], bot_id, chunk_ids, collection)
        return [StaleChunk(**row) for row in rows]

    async def text_bytes(self, bot_id: UUID, chunk_ids: Sequence[int], distance: int) -> int:
        row = await self._db.fetchrow(SQL["text_bytes"], bot_id, chunk_ids, distance)
        return int(row["bytes"]) if row else 0

    async def texts(self, bot_id: UUID, chunk_ids: Sequence[int]) -> dict[int, str]:
        rows = only_bot(await self._db.fetch(SQL["chunk_texts"], bot_id, chunk_ids), bot_id)
        return {row["chunk_id"]: row["text"] for row in rows}

    async def neighbours(self, bot_id: UUID, chunk_ids: Sequence[int], distance: int) -> dict[int, Sequence[Chunk]]:
        rows = only_bot(await self._db.fetch(SQL["neighbouring_chunks"], bot_id, chunk_ids, distance), bot_id)
        groups = itertools.groupby(rows, lambda row: row["neighbour_of"])
        return {chunk_id: [_chunk(row) for row in group] for chunk_id, group in groups}

    async def matching_documents(self, bot_id: UUID, where: Filter, after: int, limit: int) -> Sequence[int]:
        sql, values = filtered(SQL["matching_documents"], where, first_param=4)
        return [row["doc_id"] for row in only_bot(await self._db.fetch(sql, bot_id, after, limit, *values), bot_id)]

    async def matching_chunks(self, bot_id: UUID, where: Filter, after: int, limit: int) -> Sequence[int]:
        sql, values = filtered(SQL["matching_chunks"], where, first_param=4)
        rows = only_bot(await self._db.fetch(sql, bot_id, after, limit, *values), bot_id, "document_bot_id")
        return [row["chunk_id"] for row in rows]

    async def write_timestamps(self, bot_id: UUID, collection: str) -> WriteTimestamps:
        row = await self._db.fetchrow(SQL["write_timestamps"], bot_id)
        if row and row["milvus_collection"] != collection:
            raise CollectionMoved()
        if row is None:
            return WriteTimestamps(0)
        return _timestamps(row)

    async def recent_writes(self, bot_id: UUID, collection: str, age: int, limit: int) -> RecentWrites:
        rows = await self._db.fetch(SQL["recent_writes"], bot_id, age, limit)
        if not rows:
            return RecentWrites(WriteTimestamps(0), vectors=())
        if rows[0]["milvus_collection"] != collection:
            raise CollectionMoved()
        vectors = [
            RecentVector(row["written"], row["chunk_id"], row["doc_id"], np.frombuffer(row["embedding"], EMBEDDING))
            for row in rows
            if row["written"] is not None
        ]
        return RecentWrites(_timestamps(rows[0]), rows[0]["unshared_timestamp"], vectors)


def _timestamps(row: Any) -> WriteTimestamps:
    return WriteTimestamps(row["milvus_timestamp"], row["last_writer"], row["foreign_timestamp"])


class _TooLarge(Exception):
    """Rolls back a PATCH of many documents, to repeat it without those that would become too large."""


async def delete_documents(
    conn: Connection, bot_id: UUID, doc_ids: Sequence[int], where: Filter | None, late_write_window: timedelta
) -> dict[int, int]:
    """``DocumentPort.delete`` in the caller's transaction. Raises TenantMismatch: then it has to be rolled back."""
    own = await lock_documents(conn, bot_id, doc_ids, where)
    rows = await conn.fetch(SQL["delete_documents"], bot_id, list(own), late_write_window)
    check_only_bot(rows, bot_id)
    return {row["doc_id"]: row["chunk_count"] for row in rows}


async def lock_documents(
    conn: Connection, bot_id: UUID, doc_ids: Sequence[int], where: Filter | None = None
) -> dict[int, DocumentVersion]:
    """Locks those of the bot's documents that exist and pass the filter; returns their versions by doc_id."""
    sql, values = filtered(SQL["lock_documents"], where, first_param=3)
    rows = only_bot(await conn.fetch(sql, bot_id, doc_ids, *values), bot_id)
    return {row["doc_id"]: _version(row) for row in rows}


async def _check(conn: Connection, bot_id: UUID, doc_ids: Sequence[int], precondition: Precondition) -> None:
    """Locks those of the documents that exist. Raises PreconditionFailed."""
    for version in (await lock_documents(conn, bot_id, doc_ids)).values():
        precondition.check(version)


def _patch_values(
    columns: dict[str, Any], merge: dict[str, Any], remove: Sequence[str], metadata_bytes: int
) -> tuple[Any, ...]:
    flags_and_values = [item for name in PATCH_COLUMNS for item in (name in columns, columns.get(name))]
    return (*flags_and_values, merge, remove, metadata_bytes, [*merge, *remove])


def _too_large(rows: Iterable[Any], most: int) -> set[int]:
    measured = ((row["doc_id"], row["large_metadata"]) for row in rows)
    return {doc_id for doc_id, metadata in measured if metadata is not None and metadata_length(metadata) > most}


def _version(row: Any) -> DocumentVersion:
    return DocumentVersion(row["generation"], row["updated_at"])


def document_of(row: Any) -> Document:
    return Document(*(row[name] for name in DOCUMENT_FIELDS))


def _chunk(row: Any) -> Chunk:
    return Chunk(*(row[name] for name in CHUNK_FIELDS))


def _current_chunks(rows: Iterable[Any]) -> dict[int, CurrentChunk]:
    return {
        row["chunk_id"]: CurrentChunk(row["doc_id"], _search_chunk(row) if row["hydrate"] else None) for row in rows
    }


def _search_chunk(row: Any) -> SearchChunk:
    return SearchChunk(**{name: row[name] for name in SEARCH_CHUNK_FIELDS})


def filtered(sql: str, where: Filter | None, *, first_param: int) -> tuple[str, Sequence[object]]:
    if where is None:
        return sql, ()
    condition, values = compile_filter(where, first_param)
    return sql.replace(FILTER_PLACEHOLDER, condition), values
