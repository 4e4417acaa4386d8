"""Reranking through HTTP, by a tiny cross-encoder with random weights, made here."""

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from app.config import Settings
from app.core.connect import Stores
from app.core.embedding.port import Embedder
from app.core.search.cross_encoder import BATCH_PAIRS, CrossEncoderReranker
from app.core.search.rerank import MAX_PAIRS, PairLimiter, Reranker, RerankingService
from app.core.services import Services, build_services
from app.core.stores.postgres.database import Database
from app.utils.errors import ModelNotFound, RerankerUnavailable, StartupError
from tests.conftest import BotClient
from tests.doubles.memory_index import MemoryIndex

TOP = 4


class ByLength:
    """Thinks that the shortest passage answers best."""

    model = "tests/by-length"
    top_n = TOP

    async def scores(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        return [-float(len(passage)) for _, passage in pairs]

    async def close(self) -> None:
        return None


@pytest.fixture
async def services(db: Database, index: MemoryIndex, embedder: Embedder, settings: Settings) -> AsyncIterator[Services]:
    from datetime import timedelta

    reranker: Reranker = ByLength()
    async with build_services(settings, Stores(db, index, timedelta(0)), embedder, reranker) as opened:
        yield opened


@pytest.mark.parametrize("mode", ["dense", "lexical", "hybrid"])
async def test_the_best_are_read_again(client: httpx.AsyncClient, bot: BotClient, mode: str) -> None:
    await bot.insert(*(f"긴 글 {'가' * number}" for number in range(10)))
    plain = await bot.search("긴 글 가가가", mode=mode, limit=TOP)
    again = await bot.search("긴 글 가가가", mode=mode, limit=2, rerank=True)
    lengths = sorted(len(str(one["chunk_text"])) for one in plain)[:2]
    assert [len(str(one["chunk_text"])) for one in again] == lengths
    for one in again:
        assert one["score"] == one["rerank_score"] == -len(str(one["chunk_text"]))
    body = {"chat_bot_id": str(bot.bot_id), "query_texts": ["긴 글 가가가", "글"], "mode": mode, "limit": 2}
    answer = await client.post("/search/batch", json={**body, "rerank": True})
    assert answer.json()["answers"][0]["results"] == again
    assert answer.json()["timings"]["rerank_ms"] > 0


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of two layers whose weights mean nothing."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("cross-encoder")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz가나다라마바사"]
    (folder / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    transformers.BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=128, num_labels=1,
    )  # fmt: skip
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    return folder


@pytest.mark.filterwarnings("default")
async def test_a_cross_encoder_of_sentence_transformers(tiny_model: Path) -> None:
    pytest.importorskip("sentence_transformers")
    reranker = await CrossEncoderReranker.open(str(tiny_model), TOP)
    pairs = [("가 나", "다 라"), ("가 나", "a b c " * 500), ("z", "마")]
    scores = await reranker.scores(pairs)
    assert len(scores) == 3
    assert await reranker.scores(pairs[::-1]) == pytest.approx(scores[::-1], abs=1e-5)
    assert await reranker.scores([]) == []
    many = [("가 나", "다 라 " * number) for number in range(3 * BATCH_PAIRS)]
    together = await asyncio.gather(reranker.scores(many), reranker.scores(many[::-1]))
    assert together[0] == pytest.approx(together[1][::-1], abs=1e-5)
    reranker._limiter.pairs = MAX_PAIRS - 2
    with pytest.raises(RerankerUnavailable):
        await reranker.scores(pairs)
    assert reranker._limiter.pairs == MAX_PAIRS - 2
    await reranker.close()


async def test_who_is_cancelled_leaves_a_batch_at_most_behind() -> None:
    read: list[int] = []
    begun, go_on = threading.Event(), threading.Event()

    class Slow:
        def predict(self, pairs: list[tuple[str, str]], **_: object) -> list[float]:
            begun.set()
            assert go_on.wait(10)
            read.append(len(pairs))
            return [0.0] * len(pairs)

    reranker = CrossEncoderReranker("slow", Slow(), TOP, ThreadPoolExecutor(1))
    reading = asyncio.create_task(reranker.scores([("a", "b")] * 100 * BATCH_PAIRS))
    assert await asyncio.to_thread(begun.wait, 10)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert reranker._limiter.pairs == 0
    go_on.set()
    assert await reranker.scores([("a", "b")]) == [0.0]
    assert read == [BATCH_PAIRS, 1]
    await reranker.close()


def test_pairs_above_the_limit_are_refused() -> None:
    limiter = PairLimiter()
    with limiter.admit(MAX_PAIRS - 1), limiter.admit(1):
        with pytest.raises(RerankerUnavailable) as caught, limiter.admit(1):
            pass
        assert caught.value.retry_after
    with limiter.admit(MAX_PAIRS):
        pass


async def test_no_more_than_the_best_are_read(bot: BotClient) -> None:
    await bot.insert(*(f"긴 글 {'가' * number}" for number in range(10)))
    plain = await bot.search("긴 글 가가가", limit=10)
    again = await bot.search("긴 글 가가가", limit=10, rerank=True)
    best = sorted(plain[:TOP], key=lambda one: len(str(one["chunk_text"])))
    assert [one["chunk_id"] for one in again] == [one["chunk_id"] for one in [*best, *plain[TOP:]]]
    assert all(one["rerank_score"] == -len(str(one["chunk_text"])) for one in again[:TOP])
    assert [one["score"] for one in again[TOP:]] == [one["score"] for one in plain[TOP:]]
    assert {one["rerank_score"] for one in again[TOP:]} == {None}


async def test_more_than_is_ever_read_is_refused(
    client: httpx.AsyncClient, bot: BotClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ByLength, "top_n", 200)
    body = {"chat_bot_id": str(bot.bot_id), "query_texts": ["왜?"] * 11, "limit": 1, "rerank": True}
    answer = await client.post("/search/batch", json=body)
    assert (answer.status_code, answer.json()["errors"][0]["loc"]) == (422, "body.query_texts")
    assert (await client.post("/search/batch", json=body | {"query_texts": ["왜?"] * 10})).status_code == 200


@pytest.mark.filterwarnings("default")
async def test_a_model_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="RERANK_MODEL"):
        await CrossEncoderReranker.open(str(tmp_path / "nothing"), TOP)


BODY = {"query": "왜?", "documents": ["아주 긴 글이다.", "글.", "긴 글."]}


async def test_others_are_served_it_too(client: httpx.AsyncClient) -> None:
    answer = await client.post("/v1/rerank", json=BODY)
    assert answer.status_code == 200
    assert answer.json() == {
        "model": "tests/by-length",
        "results": [
            {"index": 1, "relevance_score": -2.0},
            {"index": 2, "relevance_score": -4.0},
            {"index": 0, "relevance_score": -9.0},
        ],
        "usage": {"total_tokens": 17},
    }
    null = await client.post("/v1/rerank", json={**BODY, "model": None, "top_n": None, "return_documents": None})
    assert null.json() == answer.json()
    for model in ("tests/by-length", "by-length"):
        answer = await client.post("/v1/rerank", json={**BODY, "model": model, "top_n": 1, "return_documents": True})
        assert answer.json()["results"] == [{"index": 1, "relevance_score": -2.0, "document": {"text": "글."}}]


@pytest.mark.parametrize(
    ("change", "status", "code", "place"),
    [
        ({"model": "other"}, 404, "model_not_found", "body.model"),
        ({"documents": []}, 422, "invalid_input", "body.documents"),
        ({"documents": ["x"] * 257}, 422, "invalid_input", "body.documents"),
        ({"documents": ["x", " "]}, 422, "invalid_input", "body.documents.1"),
        ({"query": ""}, 422, "invalid_input", "body.query"),
        ({"top_n": 0}, 422, "invalid_input", "body.top_n"),
        ({"max_tokens_per_doc": 5}, 422, "invalid_input", "body.max_tokens_per_doc"),
    ],
)
async def test_what_cannot_be_ranked_is_refused(
    client: httpx.AsyncClient, change: dict[str, object], status: int, code: str, place: str
) -> None:
    answer = await client.post("/v1/rerank", json={**BODY, **change})
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert [error["loc"] for error in answer.json()["errors"]] == [place]


async def test_without_a_reranker_there_is_none() -> None:
    with pytest.raises(ModelNotFound, match="RERANK_URL"):
        await RerankingService(None).rank(None, "x", ["y"], None)
