"""What a search shows while Milvus still has many vectors of deleted and replaced chunks."""

import pytest

from app.core.ports import VectorIndex
from tests.conftest import BotClient

DOCUMENTS = 200
LIMIT = 20


@pytest.mark.parametrize("mode", ["dense", "lexical", "hybrid"])
async def test_a_fifth_deleted_or_replaced_a_moment_ago(bot: BotClient, index: VectorIndex, mode: str) -> None:
    """Every answer has ``limit`` results, and all are current."""
    if mode != "dense" and not index.bm25:
        answer = await bot.http.post(
            "/search/query", json={"chat_bot_id": str(bot.bot_id), "query_text": "x", "mode": mode}
        )
        assert (answer.status_code, answer.json()["code"]) == (422, "unsupported_mode")
        return
    old = {number: f"이야기 {number} 옛말" for number in range(DOCUMENTS)}
    answer = await bot.http.post("/data/insert/batch", json={"documents": [bot.body(text) for text in old.values()]})
    ids = [result["doc_id"] for result in answer.json()["results"]]
    current = set(old.values())
    for number, doc_id in enumerate(ids):
        if number % 10 == 0:
            await bot.http.delete(f"/data/document/{doc_id}", params={"chat_bot_id": str(bot.bot_id)})
        elif number % 10 == 1:
            await bot.http.put(f"/data/document/{doc_id}", json=bot.body(f"이야기 {number} 새말"))
            current.add(f"이야기 {number} 새말")
        if number % 10 < 2:
            current.remove(old[number])
            found = await bot.search(old[number], mode=mode, limit=LIMIT)
            assert len(found) == LIMIT
            assert {str(result["chunk_text"]) for result in found} <= current


@pytest.mark.parametrize("mode", ["dense", "lexical", "hybrid"])
async def test_a_distinct_search_asks_for_more(bot: BotClient, index: VectorIndex, mode: str) -> None:
    """More chunks of one text than the candidates that are looked at first."""
    if mode != "dense" and not index.bm25:
        pytest.skip("this Milvus has no BM25")
    equal = [bot.body("이야기 하나 옛말") for _ in range(120)]
    others = [bot.body(f"이야기 둘 {number}") for number in range(4)]
    answer = await bot.http.post("/data/insert/batch", json={"documents": [*equal, *others]})
    assert answer.json()["success_count"] == 124
    found = await bot.search("이야기 하나 옛말", mode=mode, distinct=True)
    assert len({result["chunk_text"] for result in found}) == len(found) == 5
    assert found[0]["duplicates"]["count"] == 119  # type: ignore[index]
