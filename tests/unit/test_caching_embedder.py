"""The caches, the check of what comes back, long texts in parts, and what shares a batch."""

import json
from collections.abc import Sequence

import numpy as np
import pytest

from app.core.embedding.cache import ENTRY_BYTES, VectorCache
from app.core.embedding.caching_embedder import CachingEmbedder
from app.core.embedding.long_text import halves, merged, split
from app.core.embedding.port import PartialEmbeddingError, Vectors, stack_or_raise
from app.core.embedding.queue.batch_queue import BatchLimits, BatchQueue, Lane
from app.utils.errors import EmbedderUnavailable, EmbeddingInvalid, TextRefused
from tests.doubles.hash_embedder import HashEmbedder


class Scripted(HashEmbedder):
    """Writes down what it is asked; a text may be JSON of the vector it is to get, or begin with "refuse"."""

    def __init__(self) -> None:
        super().__init__(2)
        self.asked: list[list[str]] = []

    async def embed_documents(self, texts: Sequence[str]) -> Vectors:
        self.asked.append(list(texts))
        return stack_or_raise(
            [
                TextRefused(text) if text.startswith("refuse") else np.array(json.loads(text), dtype=np.float32)
                for text in texts
            ]
        )


@pytest.fixture
def provider() -> Scripted:
    return Scripted()


async def test_vectors_are_scaled_to_length_1_and_kept(provider: Scripted) -> None:
    embedder = CachingEmbedder(provider, 1 << 20)
    expected = [[0.6, 0.8], [1, 0], [0.6, 0.8]]
    texts = ["[3, 4]", "[2, 0]", "[3, 4]"]
    for _ in range(2):
        np.testing.assert_allclose(await embedder.embed_documents(texts), expected)
    assert provider.asked == [["[3, 4]", "[2, 0]"]]
    np.testing.assert_allclose(await embedder.embed_documents(["[2, 0]", "[0, 5]"]), [[1, 0], [0, 1]])
    assert provider.asked[1:] == [["[0, 5]"]]
    assert (await embedder.embed_documents([])).shape == (0, 2)


async def test_queries_are_kept_apart(provider: Scripted) -> None:
    """A model may want other words before a query."""
    embedder = CachingEmbedder(provider, 1 << 20)
    await embedder.embed_documents(["[3, 4]"])
    for _ in range(3):
        np.testing.assert_allclose((await embedder.embed_queries(["[3, 4]"]))[0], [0.6, 0.8])
    assert provider.asked == [["[3, 4]"], ["[3, 4]"]]


@pytest.mark.parametrize("bad", ["[NaN, 1]", "[0, 0]", "[1e30, 1]", "[Infinity, 0]", "refuse"])
async def test_a_text_without_a_sound_vector_fails_alone_and_is_not_kept(provider: Scripted, bad: str) -> None:
    embedder = CachingEmbedder(provider, 1 << 20)
    for _ in range(2):
        with pytest.raises(PartialEmbeddingError) as caught:
            await embedder.embed_documents(["[3, 4]", bad, "[0, 1]", bad])
        kind = TextRefused if bad == "refuse" else EmbeddingInvalid
        assert {index: type(error) for index, error in caught.value.errors.items()} == {1: kind, 3: kind}
        np.testing.assert_allclose(caught.value.vectors[[0, 2]], [[0.6, 0.8], [0, 1]])
    assert provider.asked[1] == [bad]
    with pytest.raises(PartialEmbeddingError) as failed:
        await embedder.embed_queries([bad])
    assert isinstance(failed.value.errors[0], kind)


async def test_vectors_of_another_shape_are_nobody_s(provider: Scripted) -> None:
    with pytest.raises(PartialEmbeddingError):
        await CachingEmbedder(provider, 0).embed_documents(["[1, 2, 3]", "[3, 4, 5]"])


async def test_a_provider_that_is_away_keeps_nobody_from_the_cache(
    provider: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedder = CachingEmbedder(provider, 1 << 20)
    await embedder.embed_documents(["[3, 4]"])

    async def away(_: Sequence[str]) -> Vectors:
        raise EmbedderUnavailable("away")

    monkeypatch.setattr(provider, "embed_documents", away)
    assert len(await embedder.embed_documents(["[3, 4]"])) == 1
    with pytest.raises(PartialEmbeddingError) as caught:
        await embedder.embed_documents(["[3, 4]", "[1, 0]"])
    assert {index: type(error) for index, error in caught.value.errors.items()} == {1: EmbedderUnavailable}
    with pytest.raises(EmbedderUnavailable):
        await embedder.embed_documents(["[1, 0]", "[0, 1]"])


async def test_without_a_cache_everything_is_asked_again(provider: Scripted) -> None:
    embedder = CachingEmbedder(provider, 0)
    for _ in range(2):
        await embedder.embed_documents(["[3, 4]"])
        await embedder.embed_queries(["[3, 4]"])
    assert len(provider.asked) == 4


def test_the_cache_is_bounded_in_bytes_and_forgets_what_was_not_asked_for() -> None:
    vector = np.ones(4, dtype=np.float32)
    cache = VectorCache("model", 3 * (ENTRY_BYTES + vector.nbytes))
    a, b, c, d = (cache.key(text) for text in "abcd")
    for key in (a, b, c):
        cache.put(key, vector)
    assert cache.get(a) is not None
    cache.put(d, vector)
    assert [cache.get(key) is not None for key in (a, b, c, d)] == [True, False, True, True]
    assert cache.bytes <= 3 * (ENTRY_BYTES + vector.nbytes)
    cache.put(b, np.ones(10_000, dtype=np.float32))
    assert cache.get(b) is None
    assert cache.key("a") != VectorCache("another", 1).key("a")


def test_what_is_kept_is_a_copy_that_cannot_be_written_to() -> None:
    cache = VectorCache("model", 1 << 20)
    vectors = np.ones((2, 4), dtype=np.float32)
    cache.put(b"a", vectors[0])
    vectors[:] = 7
    kept = cache.get(b"a")
    assert kept is not None
    assert kept.tolist() == [1, 1, 1, 1]
    with pytest.raises(ValueError, match="read-only"):
        kept[0] = 2


@pytest.mark.parametrize(
    "text", ["one two three four five six seven", "x" * 33, "가" * 11, "\U0001f600" * 9, " a " * 9]
)
def test_a_long_text_is_split_and_nothing_is_lost(text: str) -> None:
    parts = split(text, lambda part: len(part.encode()) <= 12)
    assert "".join(parts) == text
    assert all(len(part.encode()) <= 12 for part in parts)
    assert split("short", lambda _: True) == ["short"]
    assert split("x", lambda _: False) == ["x"]


def test_words_stay_whole_where_there_are_any() -> None:
    assert halves("one two three four") == ("one two", " three four")


def test_the_parts_vectors_are_weighed_by_length() -> None:
    vectors = np.array([[2, 0], [0, 5]], dtype=np.float32)
    np.testing.assert_allclose(merged(vectors, ["x" * 3, "x" * 4]), [0.6, 0.8])


def test_one_error_of_all_texts_is_the_call_s() -> None:
    away = EmbedderUnavailable("away", retry_after=7)
    with pytest.raises(EmbedderUnavailable) as caught:
        stack_or_raise([away, away])
    assert caught.value is away


def test_the_queue_takes_queries_first_and_texts_of_like_length_together() -> None:
    queue = BatchQueue(BatchLimits(texts=4, weight=100))
    documents = queue.add(["a" * 10, "b" * 60, "c" * 60], [10, 60, 60], Lane.DOCUMENTS, now=0)
    assert [item.texts for item in documents] == [["a" * 10, "b" * 60], ["c" * 60]]
    queue.add(["d" * 12], [12], Lane.DOCUMENTS, now=0)
    queue.add(["e" * 40], [40], Lane.DOCUMENTS, now=0)
    queue.add(["q"], [1], Lane.QUERY, now=0)
    taken = [[text[0] for item in queue.take(0) for text in item.texts] for _ in range(6)]
    assert taken == [["q"], ["a", "b"], ["d"], ["e", "c"], [], []]


def test_calls_behind_a_batch_that_was_cancelled_are_taken_at_once() -> None:
    queue = BatchQueue(BatchLimits(texts=2, weight=100))
    gone = queue.add(["a", "b", "c", "d"], [1] * 4, Lane.DOCUMENTS, now=0)
    queue.add(["e"], [1], Lane.DOCUMENTS, now=0)
    for item in gone:  # As asyncio does, before the call itself can drop its items.
        item.results.cancel()
    assert [item.texts for item in queue.take(0)] == [["e"]]
    assert queue.take(0) == []
