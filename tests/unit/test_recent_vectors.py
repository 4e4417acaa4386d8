"""What a process holds of its own writes, and which guarantee that leaves for Milvus."""

from collections.abc import Iterator
from datetime import UTC, datetime
from uuid import UUID, uuid4

import numpy as np
import pytest

from app.core.bots import recent_vectors
from app.core.bots.recent_vectors import READ_AGE, RecentVectors, Snapshot, shareable
from app.core.ports import RecentVector, RecentWrites, SharedVectors
from app.schemas.rows import Bot, WriteTimestamps

ME, OTHER = uuid4(), uuid4()


def row(newest: int, last_writer: UUID | None, foreign: int) -> RecentWrites:
    """The writes of a bot's row, without their vectors."""
    return RecentWrites(WriteTimestamps(newest, last_writer, foreign))


OWN = row(100, ME, 40)
"""Of a row that this process wrote last."""


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    now = [0.0]
    monkeypatch.setattr(recent_vectors, "_now", lambda: now[0])
    return now


@pytest.fixture
def recent(clock: list[float]) -> RecentVectors:
    return RecentVectors(ME)


def add(recent: RecentVectors, timestamp: int, *keys: int, collection: str = "c", doc_id: int = 1) -> None:
    chunk_ids = np.array(keys, np.int64)
    vectors = np.array([[key, 1.0] for key in keys], np.float32)
    recent.add(collection, timestamp, chunk_ids, np.full(len(keys), doc_id), vectors)


def held(snapshot: Snapshot) -> set[int]:
    return {hit.chunk_id for hit in snapshot.nearest(np.array([1.0, 0.0], np.float32))}


def test_own_writes_need_no_guarantee(recent: RecentVectors) -> None:
    add(recent, 100, 1, 2)
    found = recent.snapshot("c", OWN)
    assert (found.guarantee_timestamp, found.writer, held(found)) == (40, ME, {1, 2})


def test_writes_of_others_do(recent: RecentVectors) -> None:
    add(recent, 100, 1)
    assert recent.snapshot("c", row(120, OTHER, 100)).guarantee_timestamp == 120
    assert recent.snapshot("c", row(120, None, 0)).guarantee_timestamp == 120
    assert recent.snapshot("another", OWN) == Snapshot(100)


def test_what_is_not_held_any_more_raises_the_guarantee(recent: RecentVectors, clock: list[float]) -> None:
    add(recent, 90, 1)
    clock[0] = 0.9
    add(recent, 100, 2)
    clock[0] = 1.5
    found = recent.snapshot("c", OWN)
    assert (found.guarantee_timestamp, held(found)) == (90, {2})
    clock[0] = 2.5
    found = recent.snapshot("c", OWN)
    assert (found.guarantee_timestamp, held(found)) == (100, set())


def test_a_large_write_is_not_held(recent: RecentVectors, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent_vectors, "WRITE_CHUNKS", 2)
    add(recent, 100, 1, 2, 3)
    assert recent.snapshot("c", OWN).guarantee_timestamp == 100


@pytest.mark.parametrize(("bound", "most"), [("COLLECTION_CHUNKS", 3), ("TOTAL_BYTES", 3 * 2 * 4)])
def test_the_oldest_make_room(recent: RecentVectors, monkeypatch: pytest.MonkeyPatch, bound: str, most: int) -> None:
    monkeypatch.setattr(recent_vectors, bound, most)
    for timestamp in (80, 90, 100):
        add(recent, timestamp, timestamp, timestamp + 1)
    found = recent.snapshot("c", OWN)
    assert (found.guarantee_timestamp, held(found)) == (90, {100, 101})
    assert recent._bytes == 2 * 2 * 4


def test_a_forgotten_collection_is_not_trusted(recent: RecentVectors, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent_vectors, "COLLECTIONS", 1)
    add(recent, 100, 1)
    before = recent.snapshot("c", OWN)
    add(recent, 101, 2, collection="d")
    assert recent.snapshot("c", OWN) == Snapshot(100)
    assert not recent.is_unchanged("c", before)
    add(recent, 102, 3)
    found = recent.snapshot("c", row(102, ME, 40))
    assert (found.guarantee_timestamp, held(found)) == (100, {3})
    assert not recent.is_unchanged("c", before)
    assert recent._bytes == 2 * 4


def test_a_snapshot_knows_whether_something_was_written_since(recent: RecentVectors) -> None:
    add(recent, 100, 1)
    snapshot = recent.snapshot("c", OWN)
    assert recent.is_unchanged("c", snapshot)
    add(recent, 101, 2)
    assert not recent.is_unchanged("c", snapshot)


def test_a_snapshot_covers_rows_that_only_this_process_changed(recent: RecentVectors) -> None:
    add(recent, 100, 1)
    snapshot = recent.snapshot("c", OWN)
    assert snapshot.covers(row(130, ME, 40))
    assert not snapshot.covers(row(130, ME, 110))
    assert not snapshot.covers(row(130, OTHER, 40))
    assert not snapshot.covers(row(130, None, 40))
    assert Snapshot(40).covers(row(40, None, 0))
    assert not Snapshot(40).covers(row(41, None, 0))


def test_nearest_of_some_documents_or_keys(recent: RecentVectors) -> None:
    add(recent, 100, 1, 2, doc_id=7)
    add(recent, 101, 3, doc_id=8)
    snapshot, query = recent.snapshot("c", OWN), np.array([2.0, 0.0], np.float32)
    scores = {hit.chunk_id: hit.score for hit in snapshot.nearest(query)}
    assert scores == pytest.approx({1: 0.5**0.5, 2: 2 / 5**0.5, 3: 3 / 10**0.5})
    assert {hit.chunk_id for hit in snapshot.nearest(query, doc_ids=[8])} == {3}
    assert {hit.chunk_id for hit in snapshot.nearest(query, chunk_ids=[2, 3])} == {2, 3}
    assert snapshot.nearest(np.ones(3, np.float32)) == []  # Vectors of another model.


NEWEST = 2 * READ_AGE


def shared(unshared: int, *timestamps: int, newest: int = NEWEST) -> RecentWrites:
    """The writes of a row that another process wrote last. Each vector's key is its timestamp."""
    vectors = [RecentVector(timestamp, timestamp, 1, np.ones(2, np.float32)) for timestamp in timestamps]
    return RecentWrites(WriteTimestamps(newest, OTHER, 0), unshared, vectors)


def test_shared_vectors_need_the_guarantee_of_what_is_not_among_them(recent: RecentVectors) -> None:
    for unshared, guarantee in ((0, READ_AGE), (READ_AGE + 5, READ_AGE + 5), (NEWEST, NEWEST)):
        found = recent.snapshot("c", shared(unshared, NEWEST, READ_AGE + 5, READ_AGE))
        assert found.guarantee_timestamp == guarantee
        if guarantee < NEWEST:
            assert held(found) == found.shared == {key for key in (NEWEST, READ_AGE + 5) if key > guarantee}
            assert found.writer is None
    assert recent.snapshot("c", RecentWrites(WriteTimestamps(NEWEST, OTHER, 0))) == Snapshot(NEWEST)


def test_a_search_without_vectors_of_others_never_counts_as_one_with_them(recent: RecentVectors) -> None:
    """Its row may be older than what this process wrote and does not hold any more."""
    add(recent, 100, *range(recent_vectors.WRITE_CHUNKS + 1))
    found = recent.snapshot("c", row(60, OTHER, 40))
    assert (found.guarantee_timestamp, found.writer, found.shared) == (100, ME, None)
    bot = Bot(ME, "b", "c", "a", "m", 2, 60, datetime.now(UTC), "p", "c", last_writer=OTHER)
    assert found.expected(bot)[-2:] == (100, ME)
    assert not found.covers(row(101, OTHER, 40))


def test_own_writes_are_preferred_if_they_need_less(recent: RecentVectors) -> None:
    add(recent, NEWEST, 1)
    (*_, vectors) = shared(0, NEWEST)
    found = recent.snapshot("c", RecentWrites(WriteTimestamps(NEWEST, ME, 40), 0, vectors))
    assert (found.guarantee_timestamp, found.writer, held(found)) == (40, ME, {1})
    found = recent.snapshot("c", RecentWrites(WriteTimestamps(NEWEST, ME, NEWEST - 1), 0, vectors))
    assert (found.guarantee_timestamp, found.writer, held(found)) == (READ_AGE, None, {NEWEST})


def test_only_the_newest_of_many_shared_vectors_are_used(
    recent: RecentVectors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recent_vectors, "READ_CHUNKS", 3)
    found = recent.snapshot("c", shared(0, NEWEST, NEWEST - 1, NEWEST - 1))
    assert (found.guarantee_timestamp, held(found)) == (NEWEST - 1, {NEWEST})


def test_a_snapshot_covers_the_shared_vectors_that_it_has(recent: RecentVectors) -> None:
    found = recent.snapshot("c", shared(0, NEWEST, NEWEST - 2))
    assert found.covers(shared(0, NEWEST, NEWEST - 2))
    assert found.covers(shared(0, NEWEST, NEWEST - 2, READ_AGE))
    assert not found.covers(shared(0, NEWEST, NEWEST - 1, NEWEST - 2))  # Raised later, though written earlier.
    assert not found.covers(shared(0, NEWEST + 1, NEWEST, NEWEST - 2, newest=NEWEST + 1))
    assert not found.covers(shared(READ_AGE + 1, NEWEST, NEWEST - 2))
    assert not found.covers(row(NEWEST, OTHER, 0))


def test_a_process_hears_of_writes_of_others(recent: RecentVectors, clock: list[float]) -> None:
    def bot(newest: int, last_writer: UUID | None, foreign: int) -> Bot:
        made = datetime.now(UTC)
        return Bot(
            ME, "b", "c", "a", "m", 2, newest, made, "p", "c", last_writer=last_writer, foreign_timestamp=foreign
        )

    assert not recent.heard_lately(bot(0, None, 0))
    assert not recent.heard_lately(bot(50, ME, 0))
    assert recent.heard_lately(bot(60, OTHER, 50))
    clock[0] = 0.9
    assert recent.heard_lately(bot(70, ME, 60))
    clock[0] = 1.1
    assert not recent.heard_lately(bot(70, ME, 60))
    assert recent.heard_lately(bot(80, OTHER, 70))
    clock[0] = 2.0
    assert recent.heard_lately(bot(80, OTHER, 70))
    clock[0] = 2.2
    assert not recent.heard_lately(bot(80, OTHER, 70))


def test_small_writes_are_shared() -> None:
    for chunks, dimension, expected in ((8, 1024, True), (9, 4, False), (8, 1025, False)):
        keys = np.arange(chunks)
        assert shareable(SharedVectors("c", keys, keys, np.zeros((chunks, dimension), np.float32))) is expected
