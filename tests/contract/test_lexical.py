"""Lexical search, in memory and on Milvus Lite. On a Milvus before 2.5 it is refused, and dense search works."""

import asyncio
import json
import random
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio

from app.core.ports import Hit, VectorIndex, Vectors
from app.core.stores.milvus.index import MilvusIndex
from app.schemas.milvus import has_bm25
from tests.contract.conftest import DIMENSION, Backend, new_name
from tests.contract.test_vector_index import axis, ids, nearest, random_vectors
from tests.doubles.memory_index import MemoryIndex
from tests.lite_server import LiteServer
from tests.milvus_index import connect_index
from tests.milvus_server import MilvusServer

DATA = Path(__file__).resolve().parents[1] / "data" / "KorQuAD_v1.0_dev.json"
QUESTIONS = 200


@pytest.fixture
def index(backend: Backend) -> VectorIndex:
    if not backend.index.bm25:
        pytest.skip("this server has no BM25")
    return backend.index


async def put(index: VectorIndex, collection: str, texts: dict[int, str], doc_id: int = 1) -> int:
    vectors = random_vectors(len(texts))
    return await index.upsert(
        collection, np.array(list(texts)), np.full(len(texts), doc_id), vectors, list(texts.values())
    )


async def found(index: VectorIndex, collection: str, text: str, k: int = 5, **options: object) -> list[Hit]:
    (hits,) = await index.search_lexical(collection, [text], k, **options)  # type: ignore[arg-type]
    return hits


async def test_best_first_and_only_chunks_that_share_a_token(index: VectorIndex, collection: str) -> None:
    await put(index, collection, {1: "서울의 날씨", 2: "서울의 서울", 3: "부산의 바다", 4: "", 5: "?!"})
    hits = await found(index, collection, "서울은 어떤가")
    assert ids(hits) == [2, 1]
    assert hits[0].score > hits[1].score > 0
    assert await found(index, collection, "제주") == []
    assert await found(index, collection, "?!") == []


async def test_many_queries_at_once(index: VectorIndex, collection: str) -> None:
    await put(index, collection, {1: "서울의 날씨", 2: "부산의 바다"})
    hits = await index.search_lexical(collection, ["부산", "?", "서울 부산", "제주"], 5)
    assert [ids(one) for one in hits] == [[2], [], [1, 2], []]
    vectors = np.array([axis(0), axis(1)])
    await index.upsert(collection, np.array([1, 2]), np.array([1, 1]), vectors, ["가", "나"])
    near = await index.search_dense(collection, vectors, 1)
    assert [ids(one) for one in near] == [[1], [2]]


async def test_upsert_and_delete_change_what_is_found(index: VectorIndex, collection: str) -> None:
    await put(index, collection, {1: "서울의 날씨", 2: "서울의 바다"})
    await put(index, collection, {1: "부산의 날씨"})
    assert ids(await found(index, collection, "서울")) == [2]
    await index.delete(collection, [2])
    assert await found(index, collection, "서울") == []
    await index.upsert(collection, np.array([1]), np.array([1]), random_vectors(1))
    assert await found(index, collection, "부산") == []  # Its chunks were written without texts.


async def test_doc_ids_restrict_and_leave_scores_alone(index: VectorIndex, collection: str) -> None:
    for doc_id in (1, 2, 3):
        await put(index, collection, {doc_id * 10 + n: f"서울 이야기 {n * doc_id}" for n in range(4)}, doc_id)
    everything = await found(index, collection, "서울 이야기 6", 12)
    only = await found(index, collection, "서울 이야기 6", 12, doc_ids=[2, 99])
    assert only == [hit for hit in everything if hit.chunk_id // 10 == 2]
    assert await found(index, collection, "서울", doc_ids=[]) == []


async def test_excluded_ranges_are_skipped(index: VectorIndex, collection: str) -> None:
    await put(index, collection, {key: f"서울 {key}" for key in range(40)})
    exclude_ranges = [(0, 7), (10, 11), (20, 40)]
    left = [*range(7, 10), *range(11, 20)]
    assert sorted(ids(await found(index, collection, "서울", 40, exclude_ranges=exclude_ranges))) == left
    (near,) = await index.search_dense(collection, random_vectors(1), 40, exclude_ranges=exclude_ranges)
    assert sorted(ids(near)) == left
    (near,) = await index.search_dense(collection, random_vectors(1), 40, exclude_ranges=exclude_ranges, doc_ids=[2])
    assert near == []


async def test_equals_are_ordered_by_key_also_at_the_cut(index: VectorIndex, collection: str) -> None:
    await put(index, collection, dict.fromkeys(random.Random(1).sample(range(100), 50), "같은 글"))
    everything = ids(await found(index, collection, "같은", 50))
    assert everything == sorted(everything)
    assert ids(await found(index, collection, "같은", 7)) == everything[:7]


async def test_embeddings_come_back(index: VectorIndex, collection: str) -> None:
    vectors = random_vectors(3)
    await index.upsert(collection, np.arange(3), np.ones(3, np.int64), vectors, ["a", "b", "c"])
    stored = await index.embeddings(collection, [0, 2, 99])
    assert set(stored) == {0, 2}
    for key, vector in stored.items():
        assert vector / np.linalg.norm(vector) == pytest.approx(vectors[key] / np.linalg.norm(vectors[key]), abs=1e-6)
    assert await index.embeddings(collection, []) == {}


async def test_the_longest_lexical_text_is_taken(index: VectorIndex, collection: str) -> None:
    await put(index, collection, {1: "\U00020000\U00020001" + "\U00020000" * 8190, 2: "\ufdfa" * 8192, 3: "가" * 8192})
    assert ids(await found(index, collection, "\U00020000\U00020001")) == [1]
    assert ids(await found(index, collection, "가가")) == [3]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def both(lite_server: LiteServer) -> AsyncIterator[tuple[MilvusIndex, MemoryIndex, str, list[str]]]:
    articles = json.loads(DATA.read_text(encoding="utf-8"))["data"][:40]
    paragraphs = [paragraph for article in articles for paragraph in article["paragraphs"]]
    texts = [paragraph["context"] for paragraph in paragraphs]
    questions = [qa["question"] for paragraph in paragraphs for qa in paragraph["qas"]]
    lite, memory, name = await connect_index(lite_server.uri), MemoryIndex(), new_name()
    vectors = random_vectors(len(texts))
    for index in (lite, memory):
        await index.create(name, DIMENSION)
        # Some rows are replaced and some deleted, in several segments. The last ones are not flushed.
        await put(index, name, {key: f"옛 글 {key}" for key in range(0, len(texts), 5)})
    for start in range(0, len(texts), 100):
        part = slice(start, start + 100)
        keys = np.arange(len(texts))[part]
        for index in (lite, memory):
            await index.upsert(name, keys, keys, vectors[part], texts[part])
        if start < 200:
            await asyncio.to_thread(Backend._flush, lite_server.uri, name)
    for index in (lite, memory):
        await index.delete(name, list(range(3, len(texts), 10)))
    yield lite, memory, name, questions[:: len(questions) // QUESTIONS][:QUESTIONS]
    await lite.close()


class TestAgainstMemory:
    """Milvus Lite ranks KorQuAD as the plain formula does, however the rows are spread over segments."""

    async def test_lexical(self, both: tuple[MilvusIndex, MemoryIndex, str, list[str]]) -> None:
        lite, memory, name, questions = both
        got = await lite.search_lexical(name, questions, 20)
        wanted = await memory.search_lexical(name, questions, 20)
        assert sum(map(len, wanted)) > 3000
        _assert_same(got, wanted, 1e-3)

    async def test_dense(self, both: tuple[MilvusIndex, MemoryIndex, str, list[str]]) -> None:
        lite, memory, name, _ = both
        queries = random_vectors(QUESTIONS, seed=9)
        _assert_same(await lite.search_dense(name, queries, 20), await memory.search_dense(name, queries, 20), 1e-5)

    async def test_filtered(self, both: tuple[MilvusIndex, MemoryIndex, str, list[str]]) -> None:
        lite, memory, name, questions = both
        doc_ids = list(range(0, 400, 3))
        _assert_same(
            await lite.search_lexical(name, questions, 5, doc_ids=doc_ids),
            await memory.search_lexical(name, questions, 5, doc_ids=doc_ids),
            1e-3,
        )


async def test_dense_ranking_is_the_same_on_lite_and_on_a_server(
    lite_server: LiteServer, milvus_server: MilvusServer
) -> None:
    name, vectors, queries = new_name(), random_vectors(600), random_vectors(QUESTIONS, seed=9)
    answers = []
    for uri in (lite_server.uri, milvus_server.uri):
        index = await connect_index(uri)
        await index.create(name, DIMENSION)
        timestamp = await index.upsert(name, np.arange(600), np.arange(600), vectors, [""] * 600)
        answers.append(await index.search_dense(name, queries, 5, guarantee_timestamp=timestamp))
        await index.drop(name)
        await index.close()
    _assert_same(*answers, 1e-4)


def _assert_same(got: list[list[Hit]], wanted: list[list[Hit]], tolerance: float) -> None:
    """The same keys in the same order, except that keys with equal scores, within rounding, may change places."""
    for one, other in zip(got, wanted, strict=True):
        assert [hit.score for hit in one] == pytest.approx([hit.score for hit in other], abs=tolerance)
        scores = {hit.chunk_id: hit.score for hit in other}
        last = other[-1].score if other else 0.0
        for hit in one:
            assert abs(scores.get(hit.chunk_id, last) - hit.score) <= tolerance


async def test_a_collection_of_an_earlier_server_stays_dense(lite_server: LiteServer) -> None:
    name = new_name()
    earlier = await connect_index(lite_server.uri)
    earlier._bm25 = False
    await earlier.create(name, DIMENSION)
    await earlier.upsert(name, np.array([1]), np.array([1]), random_vectors(1), ["서울"])
    await earlier.close()
    index = await connect_index(lite_server.uri)
    await index.create(name, DIMENSION)
    assert not await index.supports_lexical(name)
    vector: Vectors = axis(3)
    await index.upsert(name, np.array([2]), np.array([1]), vector[None, :], ["부산"])
    assert ids(await nearest(index, name, vector, 1)) == [2]
    with pytest.raises(ValueError, match="no lexical field"):
        await index.search_lexical(name, ["부산"], 1)
    await index.drop(name)
    assert name not in await index.collections()
    await index.close()


async def test_a_server_without_bm25_says_so(milvus_server: MilvusServer) -> None:
    index, name = await connect_index(milvus_server.uri), new_name()
    await index.create(name, DIMENSION)
    assert (index.bm25, await index.supports_lexical(name)) == (False, False)
    assert await index.unverified_collections() == ()  # Its version is 2.3.5-lite, but it is not Milvus Lite.
    await index.drop(name)
    await index.close()


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("2.3.5", False), ("v2.4.17", False), ("2.5.0", True), ("v2.6.2-gpu", True), ("2.10.1", True), ("3.0", True),
        ("milvus_lite-3.2.2", True), ("milvus_lite-2.5.1", False), ("unknown", False),
    ],
)  # fmt: skip
def test_which_servers_have_bm25(version: str, expected: bool) -> None:
    assert has_bm25(version) is expected
