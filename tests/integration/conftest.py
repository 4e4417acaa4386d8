"""Stores that fail on demand, crashes at named points, and what must hold when all is quiet again."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Literal

import numpy as np
import pytest

from app.config import Settings
from app.core.analyzers.analyzers import NEWEST
from app.core.embedding.port import PartialEmbeddingError
from app.core.operations.verify import Finding, Verifier
from app.core.ports import ChunkIds, VectorIndex, Vectors
from app.core.stores.postgres.database import Database
from app.utils.errors import EmbedderUnavailable, EmbeddingInvalid, VectorIndexUnavailable
from tests.conftest import until
from tests.doubles.hash_embedder import HashEmbedder
from tests.doubles.memory_index import MemoryIndex

COLLECTIONS = (
    "SELECT coalesce(milvus_collection, collection_name) AS collection_name, embedding_model FROM bot_registry"
)
BAD = "no vector for this"
Hook = Callable[[str], Awaitable[None]]


async def findings(verifier: Verifier) -> list[Finding]:
    """All that ``verify`` finds."""
    found = [finding async for finding in verifier.check_all()]
    for bot in await verifier.bots():
        found += [finding async for finding in verifier.check_bot(bot)]
    return found


class Crash(BaseException):
    """The process died here: no handler of ours may run further."""


class FaultyEmbedder(HashEmbedder):
    """No vector for the text BAD; ``away`` takes it away altogether."""

    away = False

    async def embed_documents(self, texts: Sequence[str]) -> Vectors:
        if self.away:
            raise EmbedderUnavailable("Too many texts wait to be embedded.", retry_after=5)
        vectors = await super().embed_documents(texts)
        errors = {index: EmbeddingInvalid("no vector") for index, text in enumerate(texts) if text == BAD}
        if errors:
            raise PartialEmbeddingError(vectors, errors)
        return vectors


class FaultyIndex(MemoryIndex):
    """``fault``: an upsert fails before or after it has landed, or fails and lands when ``land`` is called."""

    def __init__(self) -> None:
        super().__init__()
        self.fault: Literal["before", "after", "later"] | None = None
        self.only: str | None = None  # The one collection that fails; all, when None.
        self._late: list[tuple[str, ChunkIds, ChunkIds, Vectors, Sequence[str] | None, int]] = []

    async def upsert(
        self,
        collection: str,
        chunk_ids: ChunkIds,
        doc_ids: ChunkIds,
        embeddings: Vectors,
        texts: Sequence[str] | None = None,
        *,
        analyzer_version: int = NEWEST,
        fresh: bool = False,
    ) -> int:
        failing = self.fault is not None and self.only in (None, collection)
        if failing and self.fault == "later":
            self._late.append((collection, chunk_ids, doc_ids, embeddings, texts, analyzer_version))
        if not failing or self.fault == "after":
            await super().upsert(
                collection, chunk_ids, doc_ids, embeddings, texts, analyzer_version=analyzer_version, fresh=fresh
            )
        if failing:
            raise VectorIndexUnavailable("Milvus did not answer in time.")
        return 0

    async def land(self) -> None:
        for *write, version in self._late:
            await super().upsert(*write, analyzer_version=version)
        self._late.clear()


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"recovery_interval_seconds": 0.05})


@pytest.fixture
def index() -> FaultyIndex:
    return FaultyIndex()


async def expire(db: Database) -> None:
    """Every lease has passed, as if the processes that hold them had been silent for long."""
    await db.execute("UPDATE sagas SET lease_until = now() - interval '1 hour'")


async def no_work_left(db: Database) -> bool:
    return not await db.fetch("SELECT generation FROM sagas UNION ALL SELECT generation FROM vector_gc")


async def current_keys(db: Database) -> dict[str, set[int]]:
    """By collection: the keys of current generations."""
    keys: dict[str, set[int]] = {}
    for row in await db.fetch(COLLECTIONS):
        if row["embedding_model"]:
            keys[row["collection_name"]] = set()
    rows = await db.fetch(
        """
        SELECT coalesce(b.milvus_collection, b.collection_name) AS collection_name, c.chunk_id FROM bot_registry b
        JOIN documents d USING (bot_id)
        JOIN document_chunks c ON c.bot_id = d.bot_id AND c.doc_id = d.doc_id AND c.chunk_id / 65536 = d.generation
        """
    )
    for row in rows:
        keys[row["collection_name"]].add(row["chunk_id"])
    return keys


async def index_keys(index: VectorIndex) -> dict[str, set[int]]:
    return {
        collection: {key async for page in index.scan(collection) for key in page}
        for collection in await index.collections()
    }


async def assert_at_rest(db: Database, index: VectorIndex) -> None:
    """Waits until no work is left; then invariants 1, 5 and 7 of the design hold."""
    await until(lambda: no_work_left(db))
    keys = await current_keys(db)
    assert await index_keys(index) == keys
    stored = {row["chunk_id"] for row in await db.fetch("SELECT chunk_id FROM document_chunks")}
    assert stored == set().union(*keys.values())
    promised = await db.fetch("SELECT chunk_count FROM documents")
    assert len(stored) == sum(row["chunk_count"] for row in promised)
    bots = {row["bot_id"].hex for row in await db.fetch("SELECT bot_id FROM bot_registry")}
    for parent in ("documents", "document_chunks"):
        children = await db.fetch(
            "SELECT relname FROM pg_class WHERE relkind = 'r' AND relname ~ ('^' || $1::text || '_[0-9a-f]{32}$')",
            parent,
        )
        assert {row["relname"].removeprefix(f"{parent}_") for row in children} == bots
    assert not await db.fetch("SELECT FROM bot_registry WHERE state <> 'active'")


async def plant_vector(index: VectorIndex, collection: str, key: int, doc_id: int, dimension: int = 64) -> None:
    vector = np.ones((1, dimension), np.float32)
    await index.upsert(collection, np.array([key]), np.array([doc_id]), vector)
