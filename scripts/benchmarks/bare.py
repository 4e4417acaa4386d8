"""The bare script: what a user would write without this server, with asyncio, pymilvus, asyncpg and the same embedder.

It has the same kind of collection and the same tables, and steps overlap where they can. It has no saga, no checks
and no HTTP. A write that fails half-way stays half-way.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any
from uuid import UUID, uuid4

import asyncpg
from pymilvus import AsyncMilvusClient

from app.core.analyzers.analyzers import lexical_text
from app.core.embedding.port import Embedder
from app.core.stores.address import PostgresAddress
from app.core.stores.milvus.index import MilvusIndex
from app.core.stores.postgres.database import _leave_as_it_is, _prepare_connection
from app.schemas.milvus import search_params

DOCUMENT_COLUMNS = ("bot_id", "doc_id", "generation", "title", "metadata", "chunk_count", "chunk_span")
CHUNK_COLUMNS = ("bot_id", "chunk_id", "doc_id", "chunk_index", "text")
READ = """
SELECT c.chunk_id, c.doc_id, c.chunk_index, c.text, c.page_number,
       d.title, d.file_type, d.file_path, d.author, d.tags, d.metadata, d.created_at
FROM unnest($2::bigint[]) AS k (chunk_id)
CROSS JOIN LATERAL (SELECT * FROM document_chunks c WHERE c.bot_id = $1 AND c.chunk_id = k.chunk_id OFFSET 0) AS c
CROSS JOIN LATERAL (SELECT * FROM documents d WHERE d.bot_id = $1 AND d.doc_id = c.doc_id OFFSET 0) AS d
"""
GET = """
SELECT d.*, array(SELECT c.text FROM document_chunks c WHERE c.bot_id = $1 AND c.doc_id = $2 ORDER BY c.chunk_id)
FROM documents d WHERE d.bot_id = $1 AND d.doc_id = $2
"""


@dataclass(frozen=True, slots=True)
class Text:
    title: str
    text: str


class Bare:
    def __init__(self, milvus: AsyncMilvusClient, pool: Any, embedder: Embedder) -> None:
        self._milvus = milvus
        self._pool = pool
        self._embedder = embedder
        self._bot: UUID = uuid4()
        self._collection = f"bare_{self._bot.hex}"
        self._numbers = count(1 << 40)

    async def make(self, uri: str) -> None:
        """Registers a bot, whose partitions the schema's trigger creates, and makes a collection as the server does."""
        register = "INSERT INTO bot_registry (bot_id, bot_name, collection_name) VALUES ($1, 'bare', $2)"
        await self._pool.execute(register, self._bot, self._collection)
        index = await MilvusIndex.connect(uri, analyzer=lexical_text)
        await index.create(self._collection, self._embedder.dimension)
        self._words = index.bm25
        await index.close()

    async def insert(self, texts: Sequence[Text]) -> None:
        """Writes rows to PostgreSQL while vectors are computed and written to Milvus."""
        ids = [next(self._numbers) for _ in texts]
        await asyncio.gather(self._copy(ids, texts), self._index(ids, texts))

    async def _copy(self, ids: Sequence[int], texts: Sequence[Text]) -> None:
        documents = [
            (self._bot, id, id, text.title, {"source": "korquad"}, 1, 1) for id, text in zip(ids, texts, strict=True)
        ]
        chunks = [(self._bot, id << 16, id, 0, text.text) for id, text in zip(ids, texts, strict=True)]
        async with self._pool.acquire() as conn, conn.transaction():
            await conn.copy_records_to_table("documents", columns=DOCUMENT_COLUMNS, records=documents)
            await conn.copy_records_to_table("document_chunks", columns=CHUNK_COLUMNS, records=chunks)

    async def _index(self, ids: Sequence[int], texts: Sequence[Text]) -> None:
        vectors = await self._embedder.embed_documents([text.text for text in texts])
        more = {"lexical": ""} if self._words else {}
        rows = [
            {"chunk_id": id << 16, "doc_id": id, "embedding": vector, **more}
            for id, vector in zip(ids, vectors, strict=True)
        ]
        await self._milvus.insert(self._collection, rows)

    async def search(self, text: str, limit: int = 5) -> list[dict[str, Any]]:
        vector = (await self._embedder.embed_queries([text]))[0]
        found = await self._milvus.search(
            self._collection,
            data=[vector],
            anns_field="embedding",
            limit=limit,
            search_params=search_params(limit),
            consistency_level="Eventually",
        )
        scores = dict(zip(found[0].ids, found[0].distances, strict=True))
        rows = await self._pool.fetch(READ, self._bot, list(scores))
        results = [{**row, "score": scores[row["chunk_id"]]} for row in rows]
        return sorted(results, key=lambda row: -row["score"])


@asynccontextmanager
async def opened_bare(address: PostgresAddress, uri: str, embedder: Embedder) -> AsyncIterator[Bare]:
    pool = await asyncpg.create_pool(
        host=address.host,
        port=address.port,
        user=address.user,
        database=address.database,
        min_size=16,
        max_size=16,
        init=_prepare_connection,
        reset=_leave_as_it_is,
    )
    milvus = AsyncMilvusClient(uri, dedicated=True)
    bare = Bare(milvus, pool, embedder)
    await bare.make(uri)
    await embedder.ping()
    try:
        yield bare
    finally:
        await milvus.close()
        await pool.close()
        await embedder.close()
