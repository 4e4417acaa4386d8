"""/search through HTTP, with a real PostgreSQL and the in-memory index."""

import asyncio
import json
import re
from uuid import uuid4

import httpx
import numpy as np
import pytest

from app.core.search.retrieval import SPARE_HITS
from tests.conftest import BotClient, register
from tests.doubles.hash_embedder import HashEmbedder
from tests.doubles.memory_index import MemoryIndex

MODES = ("dense", "lexical", "hybrid")


def texts(results: list[dict[str, object]]) -> list[object]:
    return [result["chunk_text"] for result in results]


async def plant(index: MemoryIndex, bot: BotClient, doc_id: int, query: str, count: int, generation: int) -> None:
    """Vectors and texts that match ``query`` exactly, under keys that PostgreSQL does not have."""
    vector = (await HashEmbedder().embed_queries([query]))[0]
    keys = generation * 65_536 + np.arange(count)
    vectors, texts = np.tile(vector, (count, 1)), [query] * count
    await index.upsert(f"bot_{bot.bot_id.hex}", keys, np.full(count, doc_id), vectors, texts)


@pytest.mark.parametrize("path", ["query", "batch"])
async def test_the_fast_path_and_fastapi_give_the_same_response(bot: BotClient, path: str) -> None:
    """FastRoute leaves a content type with a parameter to FastAPI."""
    metadata = {"n": 1.5, "big": 2**63 - 1, "nested": {"a": [None, True, "줄\n"]}, "tiny": 1e-7}
    await bot.insert("서울 광화문", "서울 경복궁", title='"제목"', metadata=metadata, tags=["x"])
    asked = {"query_text": "서울"} if path == "query" else {"query_texts": ["서울", "부산"]}
    body = json.dumps({"chat_bot_id": str(bot.bot_id), "context_chunks": 1, **asked})
    answers = [
        await bot.http.post(f"/search/{path}", content=body, headers={"content-type": content_type})
        for content_type in ("application/json", "application/json; charset=utf-8")
    ]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[0].headers["content-type"] == answers[1].headers["content-type"]
    direct, usual = (re.sub(r'_ms":[0-9.]+', '_ms":0', answer.text) for answer in answers)
    assert direct == usual
    assert "광화문" in direct


async def test_answer_is_complete(bot: BotClient) -> None:
    doc_id = await bot.insert(
        "서울", title="제목", file_path="/a", file_type="txt", author="나", tags=["x"], metadata={"n": 1}
    )
    answer = await bot.http.post(
        "/search/query", json={"chat_bot_id": str(bot.bot_id), "query_text": "서울", "mode": "dense"}
    )
    found = answer.json()
    assert (found["status"], found["query"], found["mode"]) == ("success", "서울", "dense")
    timings = found["timings"]
    assert {name: timings.pop(name) for name in ("filter_plan", "matching_documents", "search_rounds")} == {
        "filter_plan": None, "matching_documents": None, "search_rounds": 1
    }  # fmt: skip
    assert timings.pop("dropped_keys") == 0
    assert all(isinstance(time, float) and time >= 0 for time in timings.values())
    times = [found[f"{name}_time_ms"] for name in ("embedding", "vector_search", "postgres_query", "total")]
    assert all(isinstance(time, float) and time >= 0 for time in times)
    assert times[-1] > 0
    (result,) = found["results"]
    assert result["score"] == pytest.approx(1)
    document = result.pop("document")
    assert document.pop("created_at") == document.pop("updated_at")
    assert document == {
        "title": "제목", "file_path": "/a", "file_type": "txt", "author": "나", "tags": ["x"], "metadata": {"n": 1},
        "external_id": None,
    }  # fmt: skip
    assert result.pop("dense_score") == result.pop("score")
    chunk_id = doc_id * 65_536
    assert result == {
        "chunk_id": chunk_id, "doc_id": doc_id, "chunk_index": 0, "chunk_text": "서울", "page_number": None,
        "lexical_score": None, "rerank_score": None, "lexical_coverage": 1.0, "confidence": None, "context": None,
    }  # fmt: skip


async def test_limit_order_and_threshold(bot: BotClient) -> None:
    await bot.insert(*(f"문서 번호 {number}" for number in range(30)), "전혀 다른 글")
    assert len(await bot.search("문서 번호 3")) == 5
    results = await bot.search("문서 번호 3", limit=31, mode="dense")
    assert len(results) == 31
    scores = [float(str(result["score"])) for result in results]
    assert scores == sorted(scores, reverse=True)
    assert results[0]["chunk_text"] == "문서 번호 3"
    threshold = scores[3]
    above = await bot.search("문서 번호 3", limit=31, mode="dense", score_threshold=threshold)
    assert above == [result for result in results if float(str(result["score"])) >= threshold]
    assert await bot.search("문서 번호 3", score_threshold=1.0, limit=1, mode="dense") in ([], results[:1])


async def test_an_empty_bot_has_no_results(bot: BotClient) -> None:
    assert await bot.search("무엇") == []


async def test_deleted_and_replaced_chunks_are_never_shown(bot: BotClient) -> None:
    replaced = await bot.insert("사과 하나")
    deleted = await bot.insert("사과 둘")
    await bot.http.put(f"/data/document/{replaced}", json=bot.body("배 하나"))
    assert texts(await bot.search("사과 하나")) == ["사과 둘", "배 하나"]
    await bot.http.delete(f"/data/document/{deleted}", params={"chat_bot_id": str(bot.bot_id)})
    assert texts(await bot.search("사과 하나")) == ["배 하나"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("count", [1, SPARE_HITS, 500, 9_000])
async def test_stale_vectors_are_never_shown_and_displace_no_result(
    bot: BotClient, index: MemoryIndex, count: int, mode: str
) -> None:
    doc_id = await bot.insert(*(f"참 {number}" for number in range(10)))
    await plant(index, bot, doc_id, "참", count, generation=10**6)
    results = await bot.search("참", limit=10, mode=mode)
    assert sorted(map(str, texts(results))) == [f"참 {number}" for number in range(10)]
    everything = {"type": "exists", "key": "title"}
    assert await bot.search("참", limit=10, mode=mode, filter=everything) == results


async def test_chunks_of_another_bot_are_never_shown(
    client: httpx.AsyncClient, bot: BotClient, index: MemoryIndex
) -> None:
    """Not even when they are in this bot's collection."""
    other = await register(client)
    doc_id = await other.insert("비밀")
    await plant(index, bot, doc_id, "비밀", 1, generation=doc_id)
    assert await bot.search("비밀") == []
    assert texts(await other.search("비밀")) == ["비밀"]


async def test_wrong_account_is_not_found(client: httpx.AsyncClient) -> None:
    bot = await register(client, account_name="mine")
    await bot.insert("x")
    body = {"chat_bot_id": str(bot.bot_id), "query_text": "x"}
    assert (await client.post("/search/query", json={**body, "account_name": "mine"})).status_code == 200
    for change in ({"account_name": "chatty"}, {"chat_bot_id": str(uuid4())}):
        answer = await client.post("/search/query", json=body | change)
        assert (answer.status_code, answer.json()["code"]) == (404, "bot_not_found")


async def test_a_patch_counts_for_filters_at_once(bot: BotClient) -> None:
    korean = await bot.insert("인사 하나", metadata={"language": "ko"}, tags=["a"])
    await bot.insert("인사 둘", metadata={"language": "en"}, title="other")
    of_korean = {"type": "eq", "key": "metadata.language", "value": "ko"}
    assert texts(await bot.search("인사", filter=of_korean)) == ["인사 하나"]
    assert texts(await bot.search("인사", filter={"type": "not", "filter": of_korean})) == ["인사 둘"]
    by_tag = {"type": "and", "filters": [{"type": "contains", "key": "tags", "value": "a"}, of_korean]}
    assert texts(await bot.search("인사", filter=by_tag)) == ["인사 하나"]

    patched = await bot.http.patch(
        f"/data/document/{korean}/metadata",
        json={"chat_bot_id": str(bot.bot_id), "metadata_updates": {"language": None, "tags": None, "title": "new"}},
    )
    assert patched.status_code == 200, patched.text
    assert await bot.search("인사", filter=of_korean) == []
    assert await bot.search("인사", filter=by_tag) == []
    (result,) = await bot.search("인사", filter={"type": "eq", "key": "title", "value": "new"})
    assert result["chunk_text"] == "인사 하나"


async def test_filter_finds_the_needle_behind_nearer_chunks(bot: BotClient) -> None:
    await bot.insert(*(f"가까운 글 {number}" for number in range(300)), metadata={"kind": "hay"})
    await bot.insert("아주 먼 이야기", metadata={"kind": "needle"})
    needle = {"type": "eq", "key": "metadata.kind", "value": "needle"}
    assert texts(await bot.search("가까운 글", filter=needle)) == ["아주 먼 이야기"]


@pytest.mark.parametrize("mode", ["dense", "lexical"])
@pytest.mark.parametrize("kind", ["rare", "common"])
async def test_a_filter_that_more_documents_pass_than_are_prefiltered(
    bot: BotClient, kind: str, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.core.search.filter_plan.MAX_PREFILTER_IDS", 10)
    for number in range(30):
        await bot.insert(f"이야기 {number}", metadata={"number": number})
    lower = 3 if kind == "common" else 15
    matching = {"type": "gte", "key": "metadata.number", "value": lower}
    everything = await bot.search("이야기 1", limit=30, mode=mode)
    wanted = [result for result in everything if result["document"]["metadata"]["number"] >= lower]  # type: ignore[index]
    assert await bot.search("이야기 1", limit=3, mode=mode, filter=matching) == wanted[:3]
    assert await bot.search("이야기 1", limit=30, mode=mode, filter=matching) == wanted


async def test_a_chunk_is_found_by_the_search_after_its_insert(bot: BotClient) -> None:
    async def write_and_search(number: int) -> None:
        text = f"동시에 쓴 글 {number} {uuid4().hex}"
        await bot.insert(text)
        assert texts(await bot.search(text, limit=1)) == [text]

    await asyncio.gather(*(write_and_search(number) for number in range(20)))


async def test_a_collection_that_was_dropped_directly_in_milvus(bot: BotClient, index: MemoryIndex) -> None:
    """No call answers as if the bot were empty, and a write does not hide the loss."""
    await bot.insert("사라질 글")
    await index.drop(f"bot_{bot.bot_id.hex}")
    body = {"chat_bot_id": str(bot.bot_id), "query_text": "글"}
    for _ in range(2):
        answer = await bot.http.post("/search/query", json=body)
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "10"), answer.text
        problem = answer.json()
        assert (problem["code"], problem["progress"]) == (
            "index_rebuilding",
            {"chunks_indexed": 0, "chunks_total": 1},
        )
        await bot.insert("새 글")
    partial = (await bot.http.post("/search/query", json={**body, "allow_partial": True})).json()
    assert (texts(partial["results"]), partial["complete"], partial["indexed"]) == (["새 글"] * 2, False, 0.0)


async def test_allow_partial_on_a_complete_bot(bot: BotClient) -> None:
    await bot.insert("글")
    body = {"chat_bot_id": str(bot.bot_id), "query_text": "글", "allow_partial": True}
    answer = (await bot.http.post("/search/query", json=body)).json()
    assert (len(answer["results"]), answer["complete"], answer["indexed"]) == (1, True, 1.0)
    body = {"chat_bot_id": str(bot.bot_id), "query_texts": ["글"], "allow_partial": True}
    answer = (await bot.http.post("/search/batch", json=body)).json()
    assert (len(answer["answers"][0]["results"]), answer["complete"], answer["indexed"]) == (1, True, 1.0)
    assert "complete" not in (await bot.http.post("/search/query", json=_query(bot))).json()


def _query(bot: BotClient) -> dict[str, object]:
    return {"chat_bot_id": str(bot.bot_id), "query_text": "글"}


async def test_a_result_says_when_its_document_changed(bot: BotClient) -> None:
    doc_id = await bot.insert("서울")
    changes = {"chat_bot_id": str(bot.bot_id), "metadata_updates": {"n": 1}}
    patched = (await bot.http.patch(f"/data/document/{doc_id}/metadata", json=changes)).json()
    (result,) = await bot.search("서울")
    document: dict[str, str] = result["document"]  # type: ignore[assignment]
    assert document["updated_at"] == patched["updated_at"] > document["created_at"]
