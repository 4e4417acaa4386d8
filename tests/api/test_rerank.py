"""Reranking through HTTP, by a tiny cross-encoder with random weights, made here."""

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import httpx
import pytest

from app.config import Settings
from app.core.cross_encoder import MAX_WAITING, CrossEncoderReranker
from app.core.embedding.port import Embedder
from app.core.rerank import Reranker
from app.core.services import Services, Stores, wired
from app.core.stores.memory_index import MemoryIndex
from app.core.stores.postgres import Database
from app.utils.errors import EmbedderUnavailable, StartupError
from tests.conftest import BotClient

TOP = 4


class ByLength:
    """Thinks that the shortest passage answers best."""

    top = TOP

    async def scores(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        return [-float(len(passage)) for _, passage in pairs]

    async def close(self) -> None:
        return None


@pytest.fixture
async def services(db: Database, index: MemoryIndex, embedder: Embedder, settings: Settings) -> AsyncIterator[Services]:
    from datetime import timedelta

    reranker: Reranker = ByLength()
    async with wired(settings, Stores(db, index, timedelta(0)), embedder, reranker) as opened:
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
    reranker._waiting = MAX_WAITING
    with pytest.raises(EmbedderUnavailable):
        await reranker.scores(pairs)
    await reranker.close()


@pytest.mark.filterwarnings("default")
async def test_a_model_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="RERANK_MODEL"):
        await CrossEncoderReranker.open(str(tmp_path / "nothing"), TOP)
