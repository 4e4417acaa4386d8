"""Searches with ``distinct`` through HTTP, with a real PostgreSQL and the in-memory index."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import Any

import pytest

from app.core.connect import Stores
from app.core.embedding.port import Embedder
from app.core.services import Services, build_services
from app.core.stores.postgres.database import Database
from app.core.stores.postgres.documents import DocumentStore
from tests.api.test_rerank import ByLength
from tests.conftest import BotClient
from tests.doubles.memory_index import MemoryIndex

MODES = ["dense", "lexical", "hybrid"]


@pytest.fixture
async def services(db: Database, index: MemoryIndex, embedder: Embedder, settings: Any) -> AsyncIterator[Services]:
    async with build_services(settings, Stores(db, index, timedelta(0)), embedder, ByLength()) as opened:
        yield opened


def texts(results: list[dict[str, Any]]) -> list[str]:
    return [result["chunk_text"] for result in results]


async def search(bot: BotClient, text: str, **options: object) -> list[dict[str, Any]]:
    return await bot.search(text, distinct=True, **options)


async def copies(bot: BotClient, count: int, text: str, **document: object) -> list[int]:
    """``count`` documents with this text."""
    body = {"documents": [bot.body(text, **document) for _ in range(count)]}
    answer = (await bot.http.post("/data/insert/batch", json=body)).json()
    assert answer["success_count"] == count
    return [result["doc_id"] for result in answer["results"]]


@pytest.mark.parametrize("mode", MODES)
async def test_equal_chunks_collapse_to_the_best(bot: BotClient, mode: str) -> None:
    first = await bot.insert("바다 이야기", "산 이야기")
    second = await bot.insert("바다  이야기 ", "바다\u3000이야기", "들 이야기")
    results = await search(bot, "바다 이야기", mode=mode)
    assert sorted(" ".join(text.split()) for text in texts(results)) == ["들 이야기", "바다 이야기", "산 이야기"]
    best = results[0]
    equal = {(first, 0), (second, 0), (second, 1)}
    named = {(one["doc_id"], one["chunk_index"]) for one in best["duplicates"]["chunks"]}
    assert best["duplicates"]["count"] == 2
    assert named | {(best["doc_id"], best["chunk_index"])} == equal
    assert [one["duplicates"] for one in results[1:]] == [{"count": 0, "chunks": []}] * 2
    plain = await bot.search("바다 이야기", mode=mode)
    assert len(plain) == 5
    assert all("duplicates" not in one for one in plain)


@pytest.mark.parametrize("mode", MODES)
async def test_the_list_is_refilled(bot: BotClient, mode: str) -> None:
    """More copies than the candidates that are looked at first, and other texts behind them."""
    await copies(bot, 150, "바다 이야기")
    await bot.insert(*(f"바다 멀리 {name}" for name in ("산", "들", "강", "숲")))
    results = await search(bot, "바다 이야기", mode=mode, limit=5)
    assert len(set(texts(results))) == len(results) == 5
    assert texts(results)[0] == "바다 이야기"
    assert (results[0]["duplicates"]["count"], len(results[0]["duplicates"]["chunks"])) == (149, 10)
    scores = [one["score"] for one in results]
    assert scores == sorted(scores, reverse=True)
    body = {"chat_bot_id": str(bot.bot_id), "query_text": "바다 이야기", "mode": mode, "limit": 5}
    rounds = (await bot.http.post("/search/query", json={**body, "distinct": True})).json()["timings"]["search_rounds"]
    assert rounds == 2
    assert (await bot.http.post("/search/query", json=body)).json()["timings"]["search_rounds"] == 1


async def test_a_list_that_milvus_cannot_refill_is_not_asked_for_again(bot: BotClient) -> None:
    await copies(bot, 20, "바다 이야기")
    body = {"chat_bot_id": str(bot.bot_id), "query_text": "바다", "distinct": True}
    answer = (await bot.http.post("/search/query", json=body)).json()
    assert texts(answer["results"]) == ["바다 이야기"]
    assert answer["timings"]["search_rounds"] == 1


@pytest.mark.parametrize("mode", MODES)
async def test_with_filter_grouping_context_and_rerank(bot: BotClient, mode: str) -> None:
    await copies(bot, 130, "바다 이야기", metadata={"kind": 1})
    await copies(bot, 130, "바다 소식", metadata={"kind": 2})
    for name in ("산", "들", "강", "숲"):
        await bot.insert("바다 이야기", f"바다 {name} 이야기", metadata={"kind": 1})
    only = {"filter": {"type": "eq", "key": "metadata.kind", "value": 1}, "mode": mode, "limit": 5}
    results = await search(bot, "바다 이야기", **only)
    assert len(set(texts(results))) == len(results) == 5
    assert "바다 소식" not in texts(results)
    assert results[0]["duplicates"]["count"] == 133

    grouped = await search(bot, "바다 이야기", **only, group_by_document=True)
    assert len(set(texts(grouped))) == len({one["doc_id"] for one in grouped}) == len(grouped) >= 4

    (near, *_) = [one for one in await search(bot, "바다 이야기", **only, context_chunks=1) if one["chunk_index"] == 1]
    assert [one["chunk_text"] for one in near["context"]] == ["바다 이야기", near["chunk_text"]]

    again = await search(bot, "바다 이야기", **only, rerank=True)
    assert len(set(texts(again))) == len(again)
    assert again[0]["score"] == again[0]["rerank_score"]
    assert {one["chunk_text"]: one["duplicates"] for one in again}["바다 이야기"]["count"] == 133


async def test_each_text_of_a_batch(bot: BotClient) -> None:
    await copies(bot, 150, "바다 이야기")
    await bot.insert("산 이야기", "들 이야기", "바다 소식")
    body = {"chat_bot_id": str(bot.bot_id), "query_texts": ["바다 이야기", "산 이야기"], "distinct": True, "limit": 4}
    answers = (await bot.http.post("/search/batch", json=body)).json()["answers"]
    for answer in answers:
        assert sorted(texts(answer["results"])) == ["들 이야기", "바다 소식", "바다 이야기", "산 이야기"]
    assert texts(answers[1]["results"])[0] == "산 이야기"


@pytest.mark.parametrize("mode", ["dense", "hybrid"])
async def test_with_a_threshold(bot: BotClient, mode: str) -> None:
    await copies(bot, 30, "바다 이야기")
    await bot.insert("산 정상", "바다 이야기 둘")
    plain = await bot.search("바다 이야기", mode=mode, limit=40, score_threshold=0.5)
    results = await search(bot, "바다 이야기", mode=mode, score_threshold=0.5)
    assert texts(results) == list(dict.fromkeys(texts(plain)))  # type: ignore[arg-type]


async def test_a_document_replaced_during_the_search(bot: BotClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its text cannot be compared any more: the search is repeated, and shows the new one."""
    await copies(bot, 3, "바다 이야기")
    doc_id = await bot.insert("먼 바다")
    read = DocumentStore.texts
    replaced = asyncio.Event()

    async def late(self: DocumentStore, bot_id: Any, chunk_ids: Sequence[int]) -> dict[int, str]:
        if not replaced.is_set():
            replaced.set()
            answer = await bot.http.put(f"/data/document/{doc_id}", json=bot.body("바다 소식"))
            assert answer.status_code == 200
        return await read(self, bot_id, chunk_ids)

    monkeypatch.setattr(DocumentStore, "texts", late)
    results = await search(bot, "바다 이야기", limit=2)
    assert replaced.is_set()
    assert sorted(texts(results)) == ["바다 소식", "바다 이야기"]
