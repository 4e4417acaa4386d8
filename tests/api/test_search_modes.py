"""Modes, threshold, grouping, context and batches through HTTP, with a real PostgreSQL and the in-memory index."""

import asyncio
from typing import Any

import httpx
import pytest

from app.core.embedding.port import Embedder, Vectors
from app.core.search.search import MAX_ATTEMPTS
from app.schemas.queries import SQL
from app.utils.failpoints import install
from tests.conftest import BotClient, register
from tests.doubles.memory_index import MemoryIndex

PALACE = (
    "경복궁은 화요일에 문을 닫는다.",
    "남산에는 케이블카가 있다.",
    "한강에서 자전거를 탄다.",
    "Tokyo Tower is red.",
)


def texts(results: list[dict[str, object]]) -> list[object]:
    return [result["chunk_text"] for result in results]


async def refused(bot: BotClient, path: str = "/search/query", **options: object) -> dict[str, Any]:
    body = {"chat_bot_id": str(bot.bot_id), **({"query_text": "글"} if path == "/search/query" else {}), **options}
    answer = await bot.http.post(path, json=body)
    assert answer.status_code == 422, answer.text
    problem: dict[str, Any] = answer.json()
    return problem


async def test_lexical_search_finds_nouns_with_any_particle(bot: BotClient) -> None:
    await bot.insert(*PALACE)
    (result,) = await bot.search("경복궁의 휴일은?", mode="lexical")
    assert result["chunk_text"] == PALACE[0]
    assert result["score"] == result["lexical_score"] > 0  # type: ignore[operator]
    assert result["dense_score"] is None
    assert texts(await bot.search("TOKYO", mode="lexical")) == [PALACE[3]]
    assert await bot.search("?!", mode="lexical") == []


async def test_lexical_mode_needs_no_embedder(bot: BotClient, monkeypatch: pytest.MonkeyPatch) -> None:
    await bot.insert(*PALACE)

    async def away(self: object, text: str) -> Vectors:
        raise AssertionError("the embedder was asked")

    monkeypatch.setattr("tests.doubles.hash_embedder.HashEmbedder.embed_queries", away)
    assert texts(await bot.search("케이블카", mode="lexical")) == [PALACE[1]]


async def test_hybrid_is_the_default_and_has_both_scores(bot: BotClient) -> None:
    await bot.insert(*PALACE)
    answer = await bot.http.post("/search/query", json={"chat_bot_id": str(bot.bot_id), "query_text": "남산 케이블카"})
    assert answer.json()["mode"] == "hybrid"
    results = answer.json()["results"]
    dense = {one["chunk_id"]: one["dense_score"] for one in await bot.search("남산 케이블카", mode="dense")}
    words = {one["chunk_id"]: one["lexical_score"] for one in await bot.search("남산 케이블카", mode="lexical")}
    assert results[0]["chunk_text"] == PALACE[1]
    assert results[0]["score"] == pytest.approx(1)
    for one in results:
        assert one["dense_score"] == pytest.approx(dense[one["chunk_id"]])
        assert one["lexical_score"] == words.get(one["chunk_id"])


async def test_dense_weight_changes_the_ranking(bot: BotClient) -> None:
    await bot.insert(*PALACE)
    by_words = [one["chunk_id"] for one in await bot.search("한강 자전거", mode="lexical")]
    assert [one["chunk_id"] for one in await bot.search("한강 자전거", dense_weight=0.0)][: len(by_words)] == by_words
    by_vector = [one["chunk_id"] for one in await bot.search("한강 자전거", mode="dense")]
    assert [one["chunk_id"] for one in await bot.search("한강 자전거", mode="hybrid", dense_weight=1.0)] == by_vector


async def test_a_chunk_from_the_lexical_list_alone_has_its_true_similarity(
    bot: BotClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    far = "오래된 이야기가 길게 길게 이어지고 또 이어진다, XYZ"
    await bot.insert(*(f"가나다라 {number}" for number in range(40)), far)
    true = {one["chunk_text"]: one["dense_score"] for one in await bot.search("가나다라 XYZ", mode="dense", limit=41)}
    assert list(true).index(far) > 10
    monkeypatch.setattr("app.core.search.search.HYBRID_CANDIDATES", 5)
    monkeypatch.setattr("app.core.search.retrieval.SPARE_HITS", 0)
    results = await bot.search("가나다라 XYZ", dense_weight=0.1)
    assert results[0]["chunk_text"] == far
    for one in results:
        assert one["dense_score"] == pytest.approx(true[one["chunk_text"]])
    least = true[far] + 0.001  # type: ignore[operator]
    assert far not in texts(await bot.search("가나다라 XYZ", dense_weight=0.1, score_threshold=least))
    everything = await bot.search("가나다라 XYZ", dense_weight=0.1, score_threshold=-1)
    assert texts(everything) == texts(results)


async def test_threshold_in_hybrid_mode_changes_neither_order_nor_scores(bot: BotClient) -> None:
    await bot.insert(*(f"문서 번호 {number}" for number in range(20)), "전혀 다른 글")
    results = await bot.search("문서 번호 3", limit=21)
    middle = sorted(float(str(one["dense_score"])) for one in results)[10]
    above = await bot.search("문서 번호 3", limit=21, score_threshold=middle)
    assert above == [one for one in results if float(str(one["dense_score"])) >= middle]


@pytest.mark.parametrize(
    "options",
    [
        {"mode": "dense", "dense_weight": 0.5},
        {"mode": "lexical", "dense_weight": 0.5},
        {"mode": "lexical", "score_threshold": 0.5},
        {"mode": "best"},
        {"context_chunks": 21},
        {"context_chunks": -1},
        {"group_by_document": 1},
        {"rerank": True},
    ],
)
async def test_options_without_effect_are_refused(bot: BotClient, options: dict[str, object]) -> None:
    problem = await refused(bot, **options)
    assert problem["code"] == "invalid_input"
    assert await refused(bot, "/search/batch", query_texts=["글"], **options)


class TestWithoutWords:
    """A Milvus or a collection without a lexical field."""

    @pytest.fixture
    def index(self) -> MemoryIndex:
        return MemoryIndex(bm25=False)

    async def test_dense_is_the_default_and_the_others_are_refused(self, bot: BotClient) -> None:
        await bot.insert(*PALACE)
        results = await bot.search("남산 케이블카")
        assert results == await bot.search("남산 케이블카", mode="dense")
        assert len(results) == 4
        for options in ({"mode": "lexical"}, {"mode": "hybrid"}, {"dense_weight": 0.5}):
            problem = await refused(bot, **options)
            assert problem["code"] == "unsupported_mode"
            assert problem["errors"][0]["loc"] == "body.mode"

    async def test_an_older_collection_stays_dense(
        self, client: httpx.AsyncClient, bot: BotClient, index: MemoryIndex
    ) -> None:
        await bot.insert(*PALACE)
        index._bm25 = True
        newer = await register(client)
        await newer.insert(*PALACE)
        assert texts(await newer.search("남산 케이블카", mode="lexical")) == [PALACE[1]]
        assert (await refused(bot, mode="hybrid"))["code"] == "unsupported_mode"
        assert len(await bot.search("남산 케이블카")) == 4


@pytest.mark.parametrize("mode", ["dense", "lexical", "hybrid"])
async def test_group_by_document(bot: BotClient, mode: str) -> None:
    """The nearest chunks all belong to one document; each document is shown with its best chunk."""
    await bot.insert(*(f"바다 이야기 {number}" for number in range(60)), title="sea")
    for number in range(4):
        await bot.insert(f"산 이야기 {number}", f"들 이야기 {number}", title=str(number))
    chunks = await bot.search("바다 이야기 7", mode=mode, limit=68)
    results = await bot.search("바다 이야기 7", mode=mode, limit=5, group_by_document=True)
    assert len({one["doc_id"] for one in results}) == len(results) == 5
    best: dict[object, object] = {}
    for one in chunks:
        best.setdefault(one["doc_id"], one["chunk_id"])
    assert {one["doc_id"]: one["chunk_id"] for one in results} == best


@pytest.mark.parametrize("mode", ["dense", "lexical", "hybrid"])
async def test_a_large_answer_is_measured_before_it_is_read(
    bot: BotClient, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    await bot.insert(*(f"낱말 {number}" for number in range(10)))
    small = [await bot.search("낱말 3", limit=limit, mode=mode, context_chunks=2) for limit in (4, 10)]
    size = sum(len(str(part["chunk_text"]).encode()) for one in small[1] for part in one["context"])
    monkeypatch.setattr("app.core.search.response_size.LARGE_TEXTS", 3)
    monkeypatch.setattr("app.core.search.response_size.MAX_BYTES", size)
    assert [await bot.search("낱말 3", limit=limit, mode=mode, context_chunks=2) for limit in (4, 10)] == small
    monkeypatch.setattr("app.core.search.response_size.MAX_BYTES", size - 1)
    body = {"chat_bot_id": str(bot.bot_id), "query_text": "낱말 3", "limit": 10, "mode": mode}
    answer = await bot.http.post("/search/query", json=body | {"context_chunks": 2})
    assert (answer.status_code, answer.json()["code"]) == (422, "answer_too_large")
    assert answer.json()["errors"][0]["loc"] == "body.context_chunks"
    monkeypatch.setattr("app.core.search.response_size.MAX_BYTES", 79)
    answer = await bot.http.post("/search/query", json=body)
    assert (answer.status_code, answer.json()["errors"][0]["loc"]) == (422, "body.limit")


async def test_context_is_the_neighbours_in_order(bot: BotClient) -> None:
    chunks = [{"chunk_index": index, "text": f"문장 {index}", "page_number": index} for index in (0, 1, 2, 5, 9, 40)]
    document = {"chat_bot_id": str(bot.bot_id), "title": "t"}
    stored = await bot.http.post("/data/insert", json={"document": document, "chunks": chunks})
    await bot.insert("문장 5 같은 다른 글")

    async def context(text: str, reach: int) -> list[int]:
        (result,) = await bot.search(text, mode="dense", limit=1, context_chunks=reach)
        assert result["doc_id"] == stored.json()["doc_id"]
        near: list[dict[str, Any]] = result["context"]  # type: ignore[assignment]
        assert all(one["chunk_text"] == f"문장 {one['chunk_index']}" for one in near)
        assert all(one["page_number"] == one["chunk_index"] for one in near)
        return [one["chunk_index"] for one in near]

    assert await context("문장 5", 1) == [2, 5, 9]
    assert await context("문장 5", 20) == [0, 1, 2, 5, 9, 40]
    results = await bot.search("문장 5 같은 다른 글", mode="dense", limit=1, context_chunks=2)
    assert [one["chunk_text"] for one in results[0]["context"]] == ["문장 5 같은 다른 글"]  # type: ignore[attr-defined]
    assert [one["context"] for one in await bot.search("문장")] == [None] * 5


@pytest.mark.parametrize("mode", ["dense", "lexical", "hybrid"])
async def test_a_batch_has_the_results_of_its_queries_alone(bot: BotClient, mode: str) -> None:
    for number, text in enumerate(PALACE):
        await bot.insert(text, metadata={"number": number})
    asked = ["경복궁 휴일", "케이블카", "?", "Tower", "케이블카"]
    options: dict[str, object] = {
        "mode": mode, "limit": 2, "filter": {"type": "lt", "key": "metadata.number", "value": 3}, "context_chunks": 1
    }  # fmt: skip
    body = {"chat_bot_id": str(bot.bot_id), "query_texts": asked, **options}
    answer = await bot.http.post("/search/batch", json=body)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert (found["mode"], found["timings"]["filter_plan"]) == (mode, "documents_first")
    assert [one["query"] for one in found["answers"]] == asked
    for one in found["answers"]:
        alone = await bot.search(one["query"], **options)
        assert texts(one["results"]) == texts(alone)
        for got, wanted in zip(one["results"], alone, strict=True):
            assert got["score"] == pytest.approx(wanted["score"], abs=1e-5)


async def test_a_batch_makes_one_call_of_each_kind(
    bot: BotClient, index: MemoryIndex, embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bot.insert(*PALACE)
    calls: list[str] = []

    def count(owner: object, name: str) -> None:
        real = getattr(owner, name)

        async def counted(*args: object, **kwargs: object) -> object:
            calls.append(name)
            return await real(*args, **kwargs)

        monkeypatch.setattr(owner, name, counted)

    count(index, "search_dense")
    count(index, "search_lexical")
    count(embedder, "embed_queries")
    monkeypatch.setattr("app.core.stores.postgres.documents.SQL", _Counted(calls))
    texts_asked = [f"글 {number}" for number in range(64)]
    answer = await bot.http.post("/search/batch", json={"chat_bot_id": str(bot.bot_id), "query_texts": texts_asked})
    assert len(answer.json()["answers"]) == 64
    assert sorted(calls) == ["current_chunks", "embed_queries", "search_dense", "search_lexical"]


class _Counted(dict[str, str]):
    """Records each use of the statements that a search may make. Recovery uses others all the time."""

    def __init__(self, calls: list[str]) -> None:
        super().__init__(SQL)
        self._calls = calls

    def __getitem__(self, name: str) -> str:
        if name in ("current_chunks", "neighbouring_chunks", "matching_documents", "write_timestamps"):
            self._calls.append(name)
        return super().__getitem__(name)


@pytest.mark.parametrize(
    "options",
    [
        {"query_texts": []},
        {"query_texts": ["글"] * 65},
        {"query_texts": ["글"] * 64, "limit": 157},
        {"query_texts": ["글", " "]},
    ],
)
async def test_batch_is_bounded(bot: BotClient, options: dict[str, object]) -> None:
    assert (await refused(bot, "/search/batch", **options))["code"] == "invalid_input"


@pytest.mark.parametrize("mode", ["dense", "lexical", "hybrid"])
async def test_a_chunk_is_found_by_the_search_after_its_insert_in_every_mode(bot: BotClient, mode: str) -> None:
    for number in range(20):
        text = f"방금 쓴 글 {number:04d}번"
        await bot.insert(text)
        assert texts(await bot.search(text, limit=1, mode=mode)) == [text]


async def test_a_chunk_replaced_between_ranking_and_reading(
    bot: BotClient, index: MemoryIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A winner that was not hydrated is read by a second statement, and may be gone by then."""
    from app.core.stores.postgres.documents import DocumentStore

    old = await bot.insert("사과 하나")
    await bot.insert("사과 둘")
    real = DocumentStore.current_chunks
    calls = 0

    async def current_chunks(self: DocumentStore, *args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 1:  # As if no winner had been hydrated.
            return await real(self, *args[:2], (), *args[3:])
        if calls == 2:
            await bot.http.put(f"/data/document/{old}", json=bot.body("사과 셋"))
        return await real(self, *args)

    monkeypatch.setattr(DocumentStore, "current_chunks", current_chunks)
    assert sorted(map(str, texts(await bot.search("사과")))) == ["사과 둘", "사과 셋"]
    assert 3 <= calls <= 2 * MAX_ATTEMPTS + 2


async def test_a_document_replaced_while_its_chunks_are_confirmed(
    bot: BotClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Spare hits are confirmed by a second statement, and by then other chunks of the document may be current."""
    from app.core.stores.postgres.documents import DocumentStore

    held, replaced = await bot.insert("배"), await bot.insert("사과")
    landed, go_on = [asyncio.Event(), asyncio.Event()], [asyncio.Event(), asyncio.Event()]
    turns = iter(range(2))

    async def wait(point: str) -> None:
        if point == "write.before_t2":
            turn = next(turns)
            landed[turn].set()
            await go_on[turn].wait()

    remove = install(wait)
    replacing = []
    for turn, (doc_id, text) in enumerate([(held, "사과"), (replaced, "사과 둘")]):
        call = bot.http.put(f"/data/document/{doc_id}", json=bot.body(text))
        replacing.append(asyncio.create_task(call))
        await landed[turn].wait()
    real = DocumentStore.current_chunks
    calls = 0

    async def current_chunks(self: DocumentStore, *args: Any, **more: Any) -> Any:
        nonlocal calls
        calls += 1
        rows = await real(self, *args, **more)
        if calls == 3:  # The first statement of the second round, in which stale keys are known.
            go_on[1].set()
            assert (await replacing[1]).status_code == 200
        return rows

    monkeypatch.setattr(DocumentStore, "current_chunks", current_chunks)
    assert texts(await bot.search("사과", limit=2, mode="dense")) == ["사과 둘", "배"]
    assert calls > 3
    go_on[0].set()
    assert (await replacing[0]).status_code == 200
    remove()


async def test_writes_in_flight_do_not_displace_results(bot: BotClient) -> None:
    """A hundred vectors that no search may show yet are nearer than all current ones."""
    await bot.insert("사과 하나")
    landed, go_on = asyncio.Event(), asyncio.Event()

    async def wait(point: str) -> None:
        if point == "write.before_t2":
            landed.set()
            await go_on.wait()

    remove = install(wait)
    documents = {"documents": [bot.body("사과") for _ in range(100)]}
    inserting = asyncio.create_task(bot.http.post("/data/insert/batch", json=documents))
    await landed.wait()
    body = {"chat_bot_id": str(bot.bot_id), "query_text": "사과"}
    answer = (await bot.http.post("/search/query", json=body)).json()
    assert texts(answer["results"]) == ["사과 하나"]
    assert (answer["timings"]["search_rounds"], answer["timings"]["dropped_keys"]) == (1, 0)
    go_on.set()
    await inserting
    remove()
    assert texts(await bot.search("사과", limit=1)) == ["사과"]
