"""The worker pool with a fake model, the validation of vectors, and the real model."""

import asyncio
import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import pytest_asyncio

from app.core.embedding.port import Embedder, PartialEmbeddingError, Vectors
from app.core.embedding.providers.use_multilingual import UseMultilingual
from app.core.embedding.queue.batch_queue import BatchLimits, Lane
from app.core.embedding.queue.workers import DOCUMENTS_NICE, Encode, WorkerPool
from app.core.embedding.validation import normalized
from app.utils.errors import EmbedderUnavailable, EmbeddingInvalid
from tests.doubles.hash_embedder import HashEmbedder


class GatedModel:
    """Gives [length] for each text, writes down its batches, and waits at a gate while that is closed."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)

    def __call__(self, texts: list[str], lane: Lane) -> Vectors:
        self.batches.append(texts)
        self.entered.release()
        assert self.gate.wait(5)
        if "bad" in texts:
            raise RuntimeError("model broke")
        rows = texts[1:] if "short" in texts else texts
        return np.array([[len(text)] for text in rows], dtype=np.float32)


@pytest.fixture
def model() -> GatedModel:
    return GatedModel()


@pytest_asyncio.fixture
async def pool(model: GatedModel) -> AsyncIterator[WorkerPool]:
    pool = WorkerPool(lambda: model, threads=1, limits=BatchLimits(texts=2, weight=100, queue=8))
    yield pool
    model.gate.set()
    await pool.close()


@contextmanager
def busy(model: GatedModel) -> Iterator[None]:
    """While the gate is closed, whatever comes first is worked on and all else waits."""
    model.gate.clear()
    yield
    model.gate.set()


async def submitted(pool: WorkerPool, texts: list[str], lane: Lane = Lane.DOCUMENTS) -> "asyncio.Task[Vectors]":
    task = asyncio.create_task(pool.encode(texts, lane))
    await asyncio.sleep(0)
    return task


async def taken(model: GatedModel) -> None:
    """Returns when the worker has taken up a batch."""
    assert await asyncio.to_thread(model.entered.acquire, timeout=5)


async def test_results_come_in_order(pool: WorkerPool, model: GatedModel) -> None:
    texts = ["x" * length for length in (5, 1, 90, 3, 0, 200, 8)]
    vectors = await pool.encode(texts, Lane.DOCUMENTS)
    assert vectors[:, 0].tolist() == [5, 1, 90, 3, 0, 200, 8]
    assert [[len(text) for text in batch] for batch in model.batches] == [[0, 1], [3, 5], [8, 90], [200]]


async def test_queries_overtake_and_calls_take_turns(pool: WorkerPool, model: GatedModel) -> None:
    with busy(model):
        tasks = [await submitted(pool, ["first"])]
        await taken(model)
        tasks.append(await submitted(pool, ["a1", "a1", "a22", "a22", "a333"]))
        tasks.append(await submitted(pool, ["b"]))
        tasks.append(await submitted(pool, ["query"], Lane.QUERY))
    await asyncio.gather(*tasks)
    assert model.batches == [["first"], ["query"], ["a1", "a1"], ["b"], ["a22", "a22"], ["a333"]]


async def test_a_cancelled_call_leaves_the_queue(pool: WorkerPool, model: GatedModel) -> None:
    with busy(model):
        first = await submitted(pool, ["first"])
        await taken(model)
        cancelled = await submitted(pool, ["gone"] * 8)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        after = await submitted(pool, ["after"] * 8)
    await asyncio.gather(first, after)
    assert not any("gone" in batch for batch in model.batches)


async def test_cancelling_what_is_being_worked_on_does_no_harm(pool: WorkerPool, model: GatedModel) -> None:
    with busy(model):
        running = await submitted(pool, ["running"])
        await taken(model)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    assert (await pool.encode(["next"], Lane.QUERY)).shape == (1, 1)


async def test_a_full_lane_refuses_at_once(pool: WorkerPool, model: GatedModel) -> None:
    with busy(model):
        tasks = [await submitted(pool, ["first"])]
        await taken(model)
        tasks.append(await submitted(pool, ["x"] * 8))
        with pytest.raises(EmbedderUnavailable) as caught:
            await pool.encode(["one more"], Lane.DOCUMENTS)
        assert caught.value.retry_after
        tasks.append(await submitted(pool, ["query"], Lane.QUERY))
    await asyncio.gather(*tasks)
    assert len(await pool.encode(["larger than the queue"] * 9, Lane.DOCUMENTS)) == 9


async def test_one_bad_text_fails_alone(pool: WorkerPool, model: GatedModel) -> None:
    """Its batch is halved until it is found; neither its neighbours nor who shares the batch notice."""
    with busy(model):
        first = await submitted(pool, ["first"])
        await taken(model)
        bad = await submitted(pool, ["bad", "y" * 10, "y" * 11, "y" * 12])
        good = await submitted(pool, ["good"])
    with pytest.raises(PartialEmbeddingError) as caught:
        await bad
    assert {index: type(error) for index, error in caught.value.errors.items()} == {0: EmbeddingInvalid}
    assert caught.value.vectors[:, 0].tolist() == [0, 10, 11, 12]
    assert len(await first) == len(await good) == 1
    with pytest.raises(PartialEmbeddingError):
        await pool.encode(["bad"], Lane.QUERY)


async def test_calls_share_a_batch(pool: WorkerPool, model: GatedModel) -> None:
    with busy(model):
        tasks = [await submitted(pool, ["first"])]
        await taken(model)
        tasks += [await submitted(pool, [text]) for text in ("a", "b", "long" * 20, "c", "d", "long" * 25)]
        gone = await submitted(pool, ["e"])
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
    await asyncio.gather(*tasks)
    assert model.batches[1:] == [["a", "b"], ["long" * 20], ["c", "d"], ["long" * 25]]


async def test_a_missing_vector_is_no_answer(pool: WorkerPool) -> None:
    with pytest.raises(PartialEmbeddingError) as caught:
        await pool.encode(["short", "other"], Lane.DOCUMENTS)
    assert list(caught.value.errors) == [0]


async def test_close_fails_what_waits(pool: WorkerPool, model: GatedModel) -> None:
    with busy(model):
        running = await submitted(pool, ["running"])
        await taken(model)
        waiting = await submitted(pool, ["waiting"])
        closing = asyncio.create_task(pool.close())
        with pytest.raises(EmbedderUnavailable):
            await waiting
    await closing
    assert len(await running) == 1
    with pytest.raises(EmbedderUnavailable):
        await pool.encode(["late"], Lane.QUERY)


async def test_a_thread_of_their_own_answers_queries_beside_documents(model: GatedModel) -> None:
    def queries_pass(texts: list[str], lane: Lane) -> Vectors:
        return np.ones((1, 1), dtype=np.float32) if lane is Lane.QUERY else model(texts, lane)

    pool = WorkerPool(lambda: queries_pass, threads=1, limits=BatchLimits(2, 100), query_threads=1)
    with busy(model):
        documents = [await submitted(pool, ["first"])]
        await taken(model)
        documents.append(await submitted(pool, ["second"]))
        assert (await pool.encode(["query"], Lane.QUERY)).tolist() == [[1]]
        assert model.batches == [["first"]]
    await asyncio.gather(*documents)
    await pool.close()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a thread has no niceness of its own")
@pytest.mark.parametrize(("query_threads", "more"), [(1, DOCUMENTS_NICE), (0, 0)])
async def test_documents_step_back_for_whatever_else_runs_on_the_cores(query_threads: int, more: int) -> None:
    """Where one thread does it all, questions would step back with them."""

    def niceness(texts: list[str], lane: Lane) -> Vectors:
        nice = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
        return np.full((len(texts), 1), nice, np.float32)

    pool = WorkerPool(lambda: niceness, threads=1, limits=BatchLimits(1, 1), query_threads=query_threads)
    own = os.getpriority(os.PRIO_PROCESS, 0)
    assert (await pool.encode(["a"], Lane.DOCUMENTS)).tolist() == [[min(19, own + more)]]
    assert os.getpriority(os.PRIO_PROCESS, 0) == own
    await pool.close()


async def test_start_loads_every_thread_s_model() -> None:
    made: list[str] = []

    def make() -> Encode:
        made.append(threading.current_thread().name)
        return GatedModel()

    pool = WorkerPool(make, threads=3, limits=BatchLimits(1, 1))
    assert made == []
    await pool.start()
    await pool.start()
    assert sorted(made) == ["embed-0", "embed-1", "embed-2"]
    await pool.close()


@pytest.mark.parametrize("use", [WorkerPool.start, lambda pool: pool.encode(["x"], Lane.QUERY)])
async def test_a_model_that_cannot_be_loaded(use: Callable[[WorkerPool], object]) -> None:
    def make() -> Encode:
        time.sleep(0.05)
        raise OSError("no weights")

    pool = WorkerPool(make, threads=2, limits=BatchLimits(1, 1))
    with pytest.raises((OSError, EmbedderUnavailable)):
        await use(pool)  # type: ignore[misc]
    with pytest.raises(EmbedderUnavailable):
        await pool.encode(["x"], Lane.DOCUMENTS)
    await pool.close()


def test_each_invalid_vector_becomes_an_error_and_the_others_have_length_1() -> None:
    vectors = np.ones((6, 4), dtype=np.float32)
    np.testing.assert_array_equal(normalized(vectors, 6, 4), np.full((6, 4), 0.5))
    vectors[1] = 0
    vectors[2, 3] = np.nan
    vectors[3, 0] = -np.inf
    vectors[4] = 1e30
    vectors[5] = 1e-30
    first, *invalid = normalized(vectors, 6, 4)
    np.testing.assert_array_equal(first, np.full(4, 0.5))
    assert all(isinstance(error, EmbeddingInvalid) for error in invalid)
    assert [str(error).split()[-1] for error in invalid] == ["length.", "number.", "number.", "float32.", "length."]


@pytest.mark.parametrize("shape", [(2, 4), (3, 5), (4, 4), (3,), (0, 0)])
def test_all_vectors_of_another_shape_are_invalid(shape: tuple[int, ...]) -> None:
    errors = normalized(np.ones(shape, dtype=np.float32), 3, 4)
    assert [type(error) for error in errors] == [EmbeddingInvalid] * 3


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def use() -> AsyncIterator[UseMultilingual]:
    embedder = UseMultilingual(threads=2)
    await embedder.ping()
    yield embedder
    await embedder.close()


@pytest.fixture(params=["hash", "use"])
def embedder(request: pytest.FixtureRequest, use: UseMultilingual) -> Embedder:
    return HashEmbedder() if request.param == "hash" else use


TEXTS = [
    "대한민국의 수도는 서울이다.",
    "The refund is paid within three days.",
    "한국의 수도는 서울입니다.",
    "오늘 저녁에는 김치찌개를 끓였다.",
    "가" * 700,
    "",
    " \n",
    "\U0001f600",
    "\x01",
]


async def test_vectors_have_length_1(embedder: Embedder) -> None:
    vectors = await embedder.embed_documents(TEXTS)
    assert vectors.dtype == np.float32
    assert vectors.shape == (len(TEXTS), embedder.dimension)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert (await embedder.embed_documents([])).shape == (0, embedder.dimension)


async def test_a_text_s_vector_does_not_depend_on_its_company(embedder: Embedder) -> None:
    many = await embedder.embed_documents(TEXTS * 10)
    alone = np.concatenate(await asyncio.gather(*(embedder.embed_queries([text]) for text in TEXTS)))
    np.testing.assert_allclose(many, np.tile(alone, (10, 1)), atol=1e-5)


async def test_a_paraphrase_is_nearer_than_another_subject(embedder: Embedder) -> None:
    capital, refund, paraphrase, stew = (await embedder.embed_documents(TEXTS))[:4]
    assert capital @ paraphrase > max(capital @ stew, capital @ refund) + 0.2


async def test_use_understands_other_words_and_languages(use: UseMultilingual) -> None:
    question = (await use.embed_queries(["환불은 얼마나 걸리나요?"]))[0]
    vectors = await use.embed_documents(["The refund is paid within three days.", "The stew is boiling."])
    assert question @ vectors[0] > question @ vectors[1] + 0.2
