"""Checks the invariants at rest by reading both stores directly. Shares no code with app/core/operations/verify.py."""

import asyncio
import json
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from random import Random
from typing import Any
from uuid import UUID

import asyncpg
import numpy as np
from pymilvus import MilvusClient, MilvusException

from tests.chaos.answer_checks import cosines
from tests.chaos.chunk_text import parse_chunk_text
from tests.chaos.model import Bot, Document, Violation, now
from tests.chaos.processes import StoreProcesses

DRAIN_SECONDS = 30.0
LOADS = 5
"""Most attempts to read a collection that the server may release again."""
CHUNKS_PER_GENERATION = 65536
PAGE_ROWS = 8192
INSTALLATION = "chat_memory_installation"
"""The collection of reserved generations. It does not belong to a bot."""
_BACKLOG = """
SELECT (SELECT string_agg(s::text, ' ') FROM sagas s) AS sagas,
       (SELECT string_agg(g::text, ' ') FROM vector_gc g) AS vector_gc,
       (SELECT string_agg(bot_id::text, ' ') FROM bot_registry WHERE state <> 'active') AS going
"""
_WAITING = "SELECT DISTINCT collection_name FROM vector_gc WHERE next_attempt_at = 'infinity'"
_CHUNKS = """
SELECT bot_id, chunk_id, doc_id, chunk_index, text FROM document_chunks ORDER BY bot_id, chunk_id
"""
_PARTITIONS = """
SELECT p.relname AS parent, c.relname AS child
FROM pg_inherits i JOIN pg_class p ON p.oid = i.inhparent JOIN pg_class c ON c.oid = i.inhrelid
WHERE p.relname IN ('documents', 'document_chunks') AND c.relkind = 'r'
"""
_LOOSE_TABLES = """
SELECT relname FROM pg_class
WHERE relkind = 'r' AND NOT relispartition AND relname ~ '^(documents|document_chunks)_[0-9a-f]{32}$'
"""


@dataclass(frozen=True)
class Vector:
    doc_id: int
    embedding: Any


class RestCheck:
    """Holds connections to both stores. ``reconnect`` opens them, also after a store has died."""

    def __init__(self, stores: StoreProcesses) -> None:
        self._stores = stores
        self._postgres: asyncpg.Connection[asyncpg.Record] | None = None
        self._milvus: MilvusClient | None = None

    async def reconnect(self) -> None:
        await self.close()
        address = self._stores.postgres
        self._postgres = await asyncpg.connect(
            host=address.host, port=address.port, user=address.user, database=address.database, timeout=10
        )
        self._milvus = await asyncio.to_thread(MilvusClient, self._stores.milvus_uri, timeout=10, dedicated=True)

    async def close(self) -> None:
        if self._postgres is not None:
            self._postgres.terminate()
        if self._milvus is not None:
            self._milvus.close()
        self._postgres = self._milvus = None

    async def drained(self) -> None:
        """Invariant 5: waits until no work is left. Raises Violation after DRAIN_SECONDS.

        Work that waits for a load of its collection is caused to go on.
        """
        assert self._postgres is not None
        deadline = now() + DRAIN_SECONDS
        while (backlog := await self._postgres.fetchrow(_BACKLOG)) and any(backlog.values()):
            if now() > deadline:
                raise Violation(5, f"not drained after {DRAIN_SECONDS:.0f} s: {dict(backlog)}")
            if waiting := await self._postgres.fetch(_WAITING):
                await asyncio.to_thread(self._load, [row["collection_name"] for row in waiting])
            await asyncio.sleep(0.03)
        while unverified := await asyncio.to_thread(self._stores.unverified_collections):
            if now() > deadline:
                raise Violation(1, f"not compared after {DRAIN_SECONDS:.0f} s: {unverified}")
            await asyncio.sleep(0.03)

    async def recovered(self) -> None:
        """Waits until every saga has ended or is locked, in two queries in a row."""
        assert self._postgres is not None
        looks = 0
        deadline = now() + DRAIN_SECONDS
        while looks < 2 and now() < deadline:
            async with self._postgres.transaction():
                left = await self._postgres.fetch("SELECT generation FROM sagas FOR UPDATE SKIP LOCKED")
            looks = 0 if left else looks + 1
            await asyncio.sleep(0.05)

    async def check(self, bots: list[Bot]) -> list[Bot]:
        """Checks invariants 1, 3, 7 and 8 while nothing is in flight. Settles the model; returns existing bots."""
        assert self._postgres is not None
        async with self._postgres.transaction(isolation="repeatable_read", readonly=True):
            registry = await self._postgres.fetch("SELECT * FROM bot_registry")
            documents = await self._postgres.fetch("SELECT * FROM documents")
            chunks = await self._postgres.fetch(_CHUNKS)
            partitions = await self._postgres.fetch(_PARTITIONS)
            loose = await self._postgres.fetch(_LOOSE_TABLES)
        vectors = await asyncio.to_thread(self._vectors)
        existing = self._check_bots(bots, registry, partitions, loose, set(vectors))
        rows: dict[UUID, list[asyncpg.Record]] = defaultdict(list)
        for row in documents:
            rows[row["bot_id"]].append(row)
        only_bot: dict[UUID, dict[int, asyncpg.Record]] = defaultdict(dict)
        for chunk in chunks:
            only_bot[chunk["bot_id"]][chunk["chunk_id"]] = chunk
        for bot in existing:
            self._check_documents(bot, rows[bot.bot_id], only_bot[bot.bot_id])
            _check_vectors(bot, only_bot[bot.bot_id], vectors[bot.collection])
        return existing

    async def release_some(self, random: Random) -> None:
        """Releases a bot's collection, as another program does."""
        await asyncio.to_thread(self._release, random)

    def _release(self, random: Random) -> None:
        assert self._milvus is not None
        with suppress(MilvusException):
            if names := sorted(set(self._milvus.list_collections()) - {INSTALLATION}):
                self._milvus.release_collection(random.choice(names))

    def _load(self, collections: list[str]) -> None:
        assert self._milvus is not None
        for collection in collections:
            with suppress(MilvusException):  # It was dropped, or is released again at this moment.
                self._milvus.load_collection(collection)

    def _vectors(self) -> dict[str, dict[int, Vector]]:
        """What Milvus holds: {collection: {chunk_id: vector}}."""
        assert self._milvus is not None
        found = {}
        for collection in set(self._milvus.list_collections()) - {INSTALLATION}:
            for attempt in range(LOADS):
                try:
                    rows = self._rows(collection)
                    break
                except MilvusException:  # It is released. Milvus Lite loads nothing by itself after a restart.
                    if attempt == LOADS - 1:
                        raise
                    self._load([collection])
            found[collection] = {row["chunk_id"]: Vector(row["doc_id"], row["embedding"]) for row in rows}
            # While it flushes, Milvus Lite shows a row in the old place and the new one. It must be the same row.
            for row in rows:
                if found[collection][row["chunk_id"]] != Vector(row["doc_id"], row["embedding"]):
                    raise Violation(1, f"{collection} holds two vectors under the key {row['chunk_id']}")
        return found

    def _rows(self, collection: str) -> list[dict[str, Any]]:
        """All rows, page by page: a query returns at most 16,384. The options make it return the smallest keys."""
        assert self._milvus is not None
        rows: list[dict[str, Any]] = []
        last = -1
        while page := self._milvus.query(
            collection,
            filter=f"chunk_id > {last}",
            output_fields=["chunk_id", "doc_id", "embedding"],
            limit=PAGE_ROWS,
            iterator="True",
            reduce_stop_for_best="True",
        ):
            rows += page
            last = max(row["chunk_id"] for row in page)
        return rows

    def _check_bots(
        self, bots: list[Bot], registry: Any, partitions: Any, loose: Any, collections: set[str]
    ) -> list[Bot]:
        registered = {row["bot_id"]: row for row in registry}
        moment = now()
        existing = []
        for bot in bots:
            row = registered.pop(bot.bot_id, None)
            if not bot.exists.saw(row and True, moment, moment):
                raise Violation(7, f"{bot.history.name}: against what was answered its row is {row}", bot.history)
            if row is not None:
                if row["state"] != "active" or row["embedding_model"] is None:
                    raise Violation(7, f"{bot.history.name} is unfinished at rest: {dict(row)}", bot.history)
                bot.exists.settle(True)
                bot.deletions.clear()
                existing.append(bot)
        if registered:
            raise Violation(7, f"bots that no client created: {registered}")
        expected = {
            (parent, f"{parent}_{bot.bot_id.hex}") for bot in existing for parent in ("documents", "document_chunks")
        }
        if (found := {(row["parent"], row["child"]) for row in partitions}) != expected or loose:
            raise Violation(7, f"partitions {found ^ expected}, loose tables {loose}")
        if (wanted := {bot.collection for bot in existing}) != collections:
            raise Violation(7, f"collections too many or too few: {collections ^ wanted}")
        return existing

    def _check_documents(self, bot: Bot, rows: list[asyncpg.Record], chunks: dict[int, asyncpg.Record]) -> None:
        by_title = {title: document for document in bot.documents.values() for title in document.titles.values()}
        expected: set[int] = set()
        present: dict[int, Document] = {}
        moment = now()
        for row in rows:
            if row["title"] not in by_title:
                raise Violation(4, f"{bot.history.name} has a document that no client wrote: {dict(row)}", bot.history)
            document = by_title[row["title"]]
            history = document.history
            if document.label in present:
                raise Violation(6, f"{history.name} is stored twice", history)
            present[document.label] = document
            if document.doc_id not in (None, row["doc_id"]):
                raise Violation(3, f"{history.name} was acknowledged as another doc_id: {dict(row)}", history)
            document.doc_id = row["doc_id"]
            keys = sorted(key for key in chunks if key // CHUNKS_PER_GENERATION == row["generation"])
            versions = document.with_texts([chunks[key]["text"] for key in keys])
            versions = [version for version in versions if document.titles[version] == row["title"]]
            if not versions or len(keys) != row["chunk_count"]:
                raise Violation(3, f"{history.name} has lost chunks: {dict(row)}", history)
            expected.update(keys)
            possible = document.content.possible(moment, moment)
            version = next((version for version in versions if version in possible), versions[0])
            self._settle(document, version, row["metadata"], moment)
        for document in list(bot.documents.values()):
            if document.label not in present:
                self._settle(document, None, None, moment)
                del bot.documents[document.label]
        if strays := chunks.keys() - expected:
            stray = chunks[min(strays)]
            label = parse_chunk_text(stray["text"])
            history = bot.documents[label.label].history if label and label.label in bot.documents else bot.history
            raise Violation(1, f"chunks of no current generation at rest: {sorted(strays)}, {dict(stray)}", history)

    @staticmethod
    def _settle(document: Document, version: int | None, metadata: str | None, moment: float) -> None:
        if not document.content.saw(version, moment, moment):
            possible = document.content.possible(moment, moment)
            raise Violation(
                3, f"{document.history.name} is at version {version}; possible: {possible}", document.history
            )
        document.content.settle(version)
        patch = json.loads(metadata)["patch"] if metadata else None
        if not document.patch.saw(patch, moment, moment):
            possible = document.patch.possible(moment, moment)
            raise Violation(
                3, f"{document.history.name} has metadata {metadata}; possible: {possible}", document.history
            )
        document.patch.settle(patch)
        document.history.add(f"at rest: version {version}")


def _check_vectors(bot: Bot, chunks: dict[int, asyncpg.Record], vectors: dict[int, Vector]) -> None:
    if differing := chunks.keys() ^ vectors.keys():
        key = min(differing)
        where = "Milvus has lost" if key in chunks else "Milvus still holds"
        doc_id = chunks[key]["doc_id"] if key in chunks else vectors[key].doc_id
        histories = [each.history for each in bot.documents.values() if each.doc_id == doc_id]
        history = histories[0] if histories else bot.history
        raise Violation(1, f"{where} {len(differing)} keys of {bot.history.name}, such as {key}", history)
    if not chunks:
        return
    keys = list(chunks)
    for key in keys:
        if vectors[key].doc_id != chunks[key]["doc_id"]:
            raise Violation(1, f"vector {key} of {bot.history.name} names document {vectors[key].doc_id}", bot.history)
    texts = [chunks[key]["text"] for key in keys]
    similar = cosines(np.array([vectors[key].embedding for key in keys], np.float32), texts)
    if similar.min() < 0.999:
        worst = texts[int(similar.argmin())]
        raise Violation(8, f"the vector of {worst!r} has cosine {similar.min():.4f} to its embedding", bot.history)
