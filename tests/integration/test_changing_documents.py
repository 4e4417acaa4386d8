"""Documents that are replaced faster than Milvus shows the new vectors are in every answer nevertheless."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import numpy as np
import pytest

from app.core.ports import ChunkIds, Vectors
from tests.conftest import BotClient
from tests.doubles.hash_embedder import HashEmbedder
from tests.doubles.memory_index import MemoryIndex

NOT_OTHER = {"type": "not", "filter": {"type": "eq", "key": "metadata.other", "value": 1}}
CALM = [f"calm {number} 조용한 글" for number in range(4)]


async def nothing() -> None:
    return None


class LaggingIndex(MemoryIndex):
    """Shows no write above the guarantee timestamp, as Milvus may. Calls ``overtake`` after each search."""

    def __init__(self) -> None:
        super().__init__()
        self._timestamps: dict[int, int] = {}
        self._timestamp = 0
        self.overtake: Callable[[], Awaitable[object]] = nothing
        self.searches = 0

    async def upsert(
        self, collection: str, chunk_ids: ChunkIds, doc_ids: ChunkIds, embeddings: Vectors, *args: Any, **more: Any
    ) -> int:
        await super().upsert(collection, chunk_ids, doc_ids, embeddings, *args, **more)
        self._timestamp += 1
        self._timestamps |= dict.fromkeys(chunk_ids.tolist(), self._timestamp)
        return self._timestamp

    async def search_dense(self, collection: str, *args: Any, guarantee_timestamp: int = 0, **more: Any) -> Any:
        return await self._late(super().search_dense, collection, guarantee_timestamp, *args, **more)

    async def search_lexical(self, collection: str, *args: Any, guarantee_timestamp: int = 0, **more: Any) -> Any:
        return await self._late(super().search_lexical, collection, guarantee_timestamp, *args, **more)

    async def _late(
        self, search: Callable[..., Any], collection: str, guarantee_timestamp: int, *args: Any, **more: Any
    ) -> Any:
        rows = self._get(collection).rows
        late = {key: row for key, row in rows.items() if self._timestamps[key] > guarantee_timestamp}
        for key in late:
            del rows[key]
        found = await search(
            collection, *args, **more
        )  # Does not yield to the event loop, so no other task sees the rows missing.
        rows |= late
        self.searches += 1
        await self.overtake()
        return found


@pytest.fixture
def index() -> LaggingIndex:
    return LaggingIndex()


@pytest.fixture
def late_write_window() -> timedelta:
    """As with a Milvus server: rows of vector_gc for replaced chunks stay for a while."""
    return timedelta(seconds=15)


@pytest.fixture
async def hot(bot: BotClient, index: LaggingIndex) -> list[int]:
    """Two documents of two chunks. They are replaced after each search in Milvus, before its keys are confirmed."""
    for text in CALM:
        await bot.insert(text)
    doc_ids = [await bot.insert(*texts(number, 0), metadata={"hot": True}) for number in range(2)]
    version = 0

    async def overtake() -> None:
        nonlocal version
        version += 1
        for number, doc_id in enumerate(doc_ids):
            body = bot.body(*texts(number, version), metadata={"hot": True})
            answer = await bot.http.put(f"/data/document/{doc_id}", json=body)
            assert answer.status_code in (200, 409), (
                answer.text
            )  # Hybrid mode's two searches may do it at the same time.

    index.overtake = overtake
    return doc_ids


def texts(number: int, version: int) -> list[str]:
    return [f"calm document {number} part {part} version {version} 글" for part in range(2)]


def chunks_of(results: list[dict[str, Any]], doc_id: int) -> list[str]:
    return sorted(result["chunk_text"] for result in results if result["doc_id"] == doc_id)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"mode": "dense"}, id="dense"),
        pytest.param({"mode": "lexical"}, id="lexical"),
        pytest.param({"mode": "hybrid"}, id="hybrid"),
        pytest.param({"mode": "dense", "score_threshold": -1.0}, id="dense-threshold"),
        pytest.param({"mode": "hybrid", "score_threshold": -1.0}, id="hybrid-threshold"),
        pytest.param({"mode": "dense", "filter": NOT_OTHER}, id="filter"),
        pytest.param({"mode": "dense", "filter": NOT_OTHER, "search_first": True}, id="filtered-afterwards"),
    ],
)
async def test_a_listing_has_every_document(
    bot: BotClient, hot: list[int], options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    if options.pop("search_first", False):
        monkeypatch.setattr("app.core.search.filter_plan.MAX_PREFILTER_IDS", 1)
    for _ in range(5):
        results: list[dict[str, Any]] = await bot.search("calm", limit=100, **options)  # type: ignore[assignment]
        for number, doc_id in enumerate(hot):
            found = chunks_of(results, doc_id)
            version = found[0].split()[6] if found else "none"
            assert found == texts(number, int(version))
        assert {result["chunk_text"] for result in results} >= set(CALM)
        scores = [result["score"] for result in results]
        assert scores == sorted(scores, reverse=True)


async def test_added_chunks_rank_by_their_exact_similarity(bot: BotClient, hot: list[int], index: LaggingIndex) -> None:
    embedder = HashEmbedder()
    question = texts(1, 3)[0]
    index.searches = 0
    results: list[dict[str, Any]] = await bot.search(question, limit=3, mode="dense")  # type: ignore[assignment]
    assert index.searches == 1  # No search waited for another tick.
    vectors = await embedder.embed_documents([result["chunk_text"] for result in results])
    (query,) = await embedder.embed_queries([question])
    cosines = vectors @ query / np.linalg.norm(vectors, axis=1) / np.linalg.norm(query)
    assert np.allclose([result["score"] for result in results], cosines, atol=1e-5)
    assert {result["doc_id"] for result in results} >= {hot[1]}


async def test_a_document_deleted_during_the_search_is_not_shown(
    bot: BotClient, hot: list[int], index: LaggingIndex
) -> None:
    async def delete() -> None:
        index.overtake = nothing
        await bot.http.delete(f"/data/document/{hot[0]}", params={"chat_bot_id": str(bot.bot_id)})

    index.overtake = delete
    results: list[dict[str, Any]] = await bot.search("calm", limit=100, mode="dense")  # type: ignore[assignment]
    assert chunks_of(results, hot[0]) == []
    assert len(chunks_of(results, hot[1])) == 2


async def test_a_large_document_is_searched_for_again(bot: BotClient, index: LaggingIndex) -> None:
    """Embedding it would take longer than waiting for Milvus."""
    many = [f"chunk {number}" for number in range(40)]
    doc_id = await bot.insert(*many)
    overtaken = asyncio.Event()

    async def once() -> None:
        if not overtaken.is_set():
            overtaken.set()
            await bot.http.put(f"/data/document/{doc_id}", json=bot.body(*[f"{text} again" for text in many]))

    index.overtake = once
    results: list[dict[str, Any]] = await bot.search("chunk", limit=100, mode="dense")  # type: ignore[assignment]
    assert chunks_of(results, doc_id) == sorted(f"{text} again" for text in many)
    assert index.searches == 2
