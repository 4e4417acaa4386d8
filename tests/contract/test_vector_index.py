"""The contract of VectorIndex, checked on the in-memory index, Milvus Lite and a Milvus server."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest

from app.core.ports import Hit, UnverifiedCollection, VectorIndex, Vectors
from app.schemas.milvus import MAX_TOP_K
from app.utils.errors import CollectionForeign, CollectionMissing, CollectionReleased
from tests.contract.conftest import DIMENSION, Backend, new_name

GENERATION = 65_536


def random_vectors(count: int, dimension: int = DIMENSION, seed: int = 7) -> Vectors:
    return np.random.default_rng(seed).standard_normal((count, dimension)).astype(np.float32)


def axis(number: int, sign: float = 1.0) -> Vectors:
    vector = np.zeros(DIMENSION, np.float32)
    vector[number] = sign
    return vector


async def upsert(
    index: VectorIndex, collection: str, rows: dict[int, Vectors], doc_id: int = 1, *, fresh: bool = False
) -> int:
    vectors = np.array(list(rows.values()), np.float32)
    return await index.upsert(collection, np.array(list(rows)), np.full(len(rows), doc_id), vectors, fresh=fresh)


async def scanned(index: VectorIndex, collection: str, page: int = 4096) -> list[list[int]]:
    return [keys async for keys in index.scan(collection, page=page)]


async def nearest(index: VectorIndex, collection: str, query: Vectors, k: int, **options: Any) -> list[Hit]:
    """The hits of a dense search for one query (dimension,)."""
    (hits,) = await index.search_dense(collection, query[None, :], k, **options)
    return hits


def ids(hits: list[Hit]) -> list[int]:
    return [hit.chunk_id for hit in hits]


async def test_search_returns_the_nearest_by_cosine_best_first(index: VectorIndex, collection: str) -> None:
    vectors = random_vectors(300) * np.linspace(0.1, 50, 300, dtype=np.float32)[:, None]
    query = random_vectors(1, seed=8)[0] * 3
    timestamp = await index.upsert(collection, np.arange(300), np.ones(300, np.int64), vectors)
    cosines = vectors @ query / np.linalg.norm(vectors, axis=1) / np.linalg.norm(query)
    best = np.argsort(-cosines)[:20]

    hits = await nearest(index, collection, query, 20, guarantee_timestamp=timestamp)

    assert ids(hits) == best.tolist()
    assert [hit.score for hit in hits] == pytest.approx(cosines[best].tolist(), abs=1e-4)


async def test_scores_lie_between_minus_one_and_one(index: VectorIndex, collection: str) -> None:
    vector = random_vectors(1)[0]
    timestamp = await upsert(index, collection, {1: vector, 2: -vector})
    hits = await nearest(index, collection, vector, 2, guarantee_timestamp=timestamp)
    assert ids(hits) == [1, 2]
    assert [hit.score for hit in hits] == pytest.approx([1, -1], abs=1e-4)
    assert all(-1 <= hit.score <= 1 for hit in hits)


async def test_a_write_is_seen_under_its_timestamp(index: VectorIndex, collection: str) -> None:
    vectors = random_vectors(10)
    for key, vector in enumerate(vectors):
        timestamp = await upsert(index, collection, {key: vector})
        assert ids(await nearest(index, collection, vector, 1, guarantee_timestamp=timestamp)) == [key]


async def test_the_keys_are_counted(index: VectorIndex, collection: str) -> None:
    assert await index.count(collection) == 0
    await index.upsert(collection, np.arange(5), np.ones(5, np.int64), random_vectors(5))
    await index.upsert(collection, np.arange(3, 7), np.ones(4, np.int64), random_vectors(4))
    assert await index.count(collection) == 7
    await index.delete(collection, [0, 99])
    assert await index.count(collection) == 6
    with pytest.raises(CollectionMissing):
        await index.count(new_name())


async def test_upsert_replaces(index: VectorIndex, collection: str) -> None:
    await upsert(index, collection, {1: axis(0), 2: axis(1)}, doc_id=1)
    timestamp = await upsert(index, collection, {1: axis(2)}, doc_id=9)
    assert ids(await nearest(index, collection, axis(2), 1, guarantee_timestamp=timestamp)) == [1]
    assert ids(await nearest(index, collection, axis(2), 5, guarantee_timestamp=timestamp, doc_ids=[9])) == [1]
    assert ids(await nearest(index, collection, axis(2), 5, guarantee_timestamp=timestamp, doc_ids=[1])) == [2]
    assert await scanned(index, collection) == [[1, 2]]


async def test_upsert_again_after_delete(index: VectorIndex, collection: str) -> None:
    await upsert(index, collection, {1: axis(0)})
    await index.delete(collection, [1])
    timestamp = await upsert(index, collection, {1: axis(1)})
    assert ids(await nearest(index, collection, axis(1), 1, guarantee_timestamp=timestamp)) == [1]
    assert await index.present(collection, [(0, 10)]) == {1}


async def test_present_sees_deletes_and_takes_half_open_ranges(index: VectorIndex, collection: str) -> None:
    first, second = 5 * GENERATION, 6 * GENERATION
    await upsert(index, collection, {key: axis(0) for key in (first, first + 1, second - 1, second, second + 7)})
    assert await index.present(collection, [(first, second)]) == {first, first + 1, second - 1}

    await index.delete(collection, [first, second - 1, 999])

    assert await index.present(collection, [(first, second)]) == {first + 1}
    assert await index.present(collection, [(first, first + 1), (second, second + 8)]) == {second, second + 7}
    assert await index.present(collection, []) == set()


async def test_present_takes_64_ranges_of_a_generation(index: VectorIndex, collection: str) -> None:
    await upsert(index, collection, {generation * GENERATION + 3: axis(0) for generation in range(0, 130, 2)})
    ranges = [(generation * GENERATION, (generation + 1) * GENERATION) for generation in range(64)]
    assert await index.present(collection, ranges) == {g * GENERATION + 3 for g in range(0, 64, 2)}


async def test_delete_of_nothing_is_no_error(index: VectorIndex, collection: str) -> None:
    await index.delete(collection, [])
    await index.delete(collection, [12345])


async def test_delete_of_more_than_a_request_holds(index: VectorIndex, collection: str) -> None:
    await upsert(index, collection, {1: axis(0), 4_000: axis(1)})
    await index.delete(collection, range(2, 5_000))
    assert await index.present(collection, [(0, 5_000)]) == {1}


async def test_scan_pages_ascend_across_segments_updates_and_deletes(backend: Backend, collection: str) -> None:
    index, keys = backend.index, np.random.default_rng(3).permutation(1000)
    await index.upsert(collection, keys[:500], keys[:500], random_vectors(500))
    await backend.flush(collection)  # so that two segments hold keys of the whole range
    await index.upsert(collection, keys[500:], keys[500:], random_vectors(500))
    await upsert(index, collection, {int(key): axis(0) for key in keys[:50]})
    gone = keys[100:200].tolist()
    await index.delete(collection, gone)
    await upsert(index, collection, {5000: axis(0)})

    pages = await scanned(index, collection, page=128)

    assert [key for page in pages for key in page] == sorted({*range(1000), 5000} - set(gone))
    assert max(map(len, pages)) <= 128


async def test_scan_ends_where_a_page_is_just_full(index: VectorIndex, collection: str) -> None:
    await upsert(index, collection, {key: axis(0) for key in range(8)})
    assert await scanned(index, collection, page=4) == [[0, 1, 2, 3], [4, 5, 6, 7]]


async def test_doc_ids_limit_the_search(index: VectorIndex, collection: str) -> None:
    vectors = random_vectors(200)
    timestamp = await index.upsert(collection, np.arange(200), np.arange(200) // 10, vectors)
    hits = await nearest(index, collection, vectors[0], 50, guarantee_timestamp=timestamp, doc_ids=[3, 7, 99])
    assert sorted(ids(hits)) == [*range(30, 40), *range(70, 80)]
    assert await nearest(index, collection, vectors[0], 5, guarantee_timestamp=timestamp, doc_ids=[99]) == []
    assert await nearest(index, collection, vectors[0], 5, guarantee_timestamp=timestamp, doc_ids=[]) == []
    keys = [hit.chunk_id for hit in hits][::2]
    (some,) = await index.search_dense(
        collection, vectors[:1], 50, guarantee_timestamp=timestamp, chunk_ids=[*keys, 2**60]
    )
    assert [hit.chunk_id for hit in some] == keys
    assert await index.search_dense(collection, vectors[:1], 5, guarantee_timestamp=timestamp, chunk_ids=[]) == [[]]
    last = max(ids(hits))
    (hits,) = await index.search_dense(
        collection,
        vectors[:1],
        50,
        guarantee_timestamp=timestamp,
        doc_ids=[3, 7, 99],
        exclude_ranges=[(-5, 0), (last, last + 1)],
    )
    assert last not in ids(hits)
    assert hits


async def test_ten_thousand_doc_ids(index: VectorIndex, collection: str) -> None:
    big = 2**62
    vectors = random_vectors(20)
    timestamp = await index.upsert(collection, np.arange(20), big + np.arange(20), vectors)
    wanted = [big + number for number in range(10, 10_010)]
    hits = await nearest(index, collection, vectors[0], 100, guarantee_timestamp=timestamp, doc_ids=wanted)
    assert sorted(ids(hits)) == list(range(10, 20))


@pytest.mark.parametrize("k", [100, MAX_TOP_K])
async def test_k_may_exceed_the_collection(index: VectorIndex, collection: str, k: int) -> None:
    timestamp = await upsert(index, collection, {key: axis(key) for key in range(5)})
    assert sorted(ids(await nearest(index, collection, axis(0), k, guarantee_timestamp=timestamp))) == [0, 1, 2, 3, 4]


async def test_empty_collection(index: VectorIndex, collection: str) -> None:
    assert await index.present(collection, [(0, 100)]) == set()
    assert await nearest(index, collection, axis(0), 5) == []


@pytest.mark.parametrize("k", [0, MAX_TOP_K + 1])
async def test_k_out_of_bounds_is_refused(index: VectorIndex, collection: str, k: int) -> None:
    with pytest.raises(ValueError, match="k must be"):
        await nearest(index, collection, axis(0), k)


async def test_wrong_dimension_is_refused(index: VectorIndex, collection: str) -> None:
    with pytest.raises(ValueError, match=r"dimensions|embeddings"):
        await index.upsert(collection, np.array([1]), np.array([1]), random_vectors(1, DIMENSION + 1))
    with pytest.raises(ValueError, match="dimensions"):
        await nearest(index, collection, random_vectors(1, DIMENSION - 1)[0], 5)
    with pytest.raises(ValueError, match=r"keys|embeddings"):
        await index.upsert(collection, np.array([1, 2]), np.array([1]), random_vectors(1))
    assert await scanned(index, collection) == []


CALLS: dict[str, Callable[[VectorIndex, str], Awaitable[object]]] = {
    "upsert": lambda index, name: upsert(index, name, {1: axis(0)}),
    "delete": lambda index, name: index.delete(name, [1]),
    "search": lambda index, name: nearest(index, name, axis(0), 5),
    "present": lambda index, name: index.present(name, [(0, 10)]),
    "scan": scanned,
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
async def test_missing_collection(index: VectorIndex, call: Callable[[VectorIndex, str], Awaitable[object]]) -> None:
    with pytest.raises(CollectionMissing):
        await call(index, new_name())


async def test_life_of_a_collection(index: VectorIndex) -> None:
    """Created twice, refused with another dimension, dropped twice, and created with the other dimension."""
    name = new_name()
    await index.create(name, DIMENSION)
    await index.create(name, DIMENSION)
    with pytest.raises(CollectionForeign):
        await index.create(name, DIMENSION * 2)
    assert name in await index.collections()
    await upsert(index, name, {1: axis(0)})

    await index.drop(name)
    await index.drop(name)
    assert name not in await index.collections()
    for call in CALLS.values():
        with pytest.raises(CollectionMissing):
            await call(index, name)

    await index.create(name, DIMENSION * 2)
    vectors = random_vectors(3, DIMENSION * 2)
    timestamp = await index.upsert(name, np.arange(3), np.arange(3), vectors)
    assert ids(await nearest(index, name, vectors[2], 1, guarantee_timestamp=timestamp)) == [2]
    await index.drop(name)


async def test_concurrent_creates(index: VectorIndex) -> None:
    one, others = new_name(), [new_name() for _ in range(4)]
    await asyncio.gather(*(index.create(name, DIMENSION) for name in [one] * 16 + others))
    assert {one, *others} <= set(await index.collections())
    for name in (one, *others):
        timestamp = await upsert(index, name, {7: axis(0)})
        assert ids(await nearest(index, name, axis(0), 1, guarantee_timestamp=timestamp)) == [7]
        await index.drop(name)


async def test_concurrent_creates_with_two_dimensions_let_one_win(index: VectorIndex) -> None:
    name = new_name()
    outcomes = await asyncio.gather(*(index.create(name, dimension) for dimension in (8, 16)), return_exceptions=True)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["CollectionForeign", "NoneType"]
    await index.drop(name)


@pytest.mark.parametrize(("name", "dimension"), [("한국어", 8), ("a-b", 8), ("", 8), ("a" * 256, 8), ("ok", 0)])
async def test_impossible_collections_are_refused(index: VectorIndex, name: str, dimension: int) -> None:
    with pytest.raises(ValueError, match="collection"):
        await index.create(name, dimension)


async def test_upsert_larger_than_a_request(index: VectorIndex) -> None:
    name, dimension, count = new_name(), 8192, 540  # 18 MB
    await index.create(name, dimension)
    vectors = random_vectors(count, dimension)
    timestamp = await index.upsert(name, np.arange(count), np.arange(count), vectors)
    assert [key for page in await scanned(index, name) for key in page] == list(range(count))
    for key in (0, count // 2, count - 1):
        assert ids(await nearest(index, name, vectors[key], 1, guarantee_timestamp=timestamp)) == [key]
    await index.drop(name)


async def test_writers_and_readers_at_once(index: VectorIndex, collection: str) -> None:
    async def work(number: int) -> None:
        vectors = random_vectors(20, seed=number)
        keys = np.arange(20) + number * GENERATION
        timestamp = await index.upsert(collection, keys, np.full(20, number), vectors)
        hits = await nearest(index, collection, vectors[3], 1, guarantee_timestamp=timestamp, doc_ids=[number])
        assert ids(hits) == [int(keys[3])]

    await asyncio.gather(*(work(number) for number in range(12)))
    assert sum(map(len, await scanned(index, collection))) == 240


async def test_ping(index: VectorIndex) -> None:
    await index.ping()


async def test_a_collection_without_failures_is_not_unverified(index: VectorIndex, collection: str) -> None:
    timestamp = await upsert(index, collection, {1: axis(0)})
    assert collection not in {each.name for each in await index.unverified_collections()}
    assert collection not in {each.name for each in await index.unverified_collections(claim=1)}
    await index.finish_verification(UnverifiedCollection(collection, 0, True, True), complete=True)
    assert len(await nearest(index, collection, axis(0), 5, guarantee_timestamp=timestamp)) == 1


async def test_a_released_collection_takes_writes_and_is_read_after_a_load(index: VectorIndex) -> None:
    name = new_name()
    await index.create(name, DIMENSION, load=False)
    await index.release(name)  # On Milvus Lite it is loaded.
    assert name not in await index.loaded()
    await upsert(index, name, {1: axis(0), 2: axis(1), 3: axis(2)}, fresh=True)
    await index.delete(name, [2])
    for read in (nearest(index, name, axis(0), 3), index.embeddings(name, [1]), index.present(name, [(0, 9)])):
        with pytest.raises(CollectionReleased):
            await read
    with pytest.raises(CollectionReleased):
        await scanned(index, name)
    await asyncio.gather(index.load(name), index.load(name))
    assert name in await index.loaded()
    assert await index.present(name, [(0, 9)]) == {1, 3}
    await index.load(name)
    await index.release(name)
    await index.release(name)
    assert name not in await index.loaded()
    with pytest.raises(CollectionReleased):
        await nearest(index, name, axis(0), 3)
    await index.create(name, DIMENSION)
    assert await scanned(index, name) == [[1, 3]]
    await index.drop(name)
    assert name not in await index.loaded()
    with pytest.raises(CollectionMissing):
        await index.load(name)
