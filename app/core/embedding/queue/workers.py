"""A pool of threads that run a local model on queued texts."""

import asyncio
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress

import numpy as np

from app.core.embedding.port import TextResult, TextResults, Vectors, concat_results, stack_or_raise
from app.core.embedding.queue.batch_queue import BatchLimits, BatchQueue, Lane, QueueItem, resolve
from app.utils.errors import AppError, EmbedderUnavailable, EmbeddingInvalid

Encode = Callable[[list[str], Lane], Vectors]
"""Runs the model on one batch: the vectors (len(texts), dimension) of texts that are all of one lane."""

DOCUMENTS_NICE = 10
"""Niceness added to threads that embed documents, if there are other threads for queries: searches during a bulk insert
take a quarter less time (scripts/bench bulk)."""

log = logging.getLogger(__name__)


class WorkerPool:
    """``threads`` threads for both lanes and ``query_threads`` for queries alone, fed from one bounded queue.

    Each thread calls ``load`` once and then only its result. Calls are split into items within ``limits``, whose
    weights are characters, and small items of several calls share a batch. So a query waits for at most one batch of
    documents, and if there are query threads only for its share of the cores.
    """

    def __init__(
        self, load: Callable[[], Encode], *, threads: int, limits: BatchLimits, query_threads: int = 0
    ) -> None:
        self._load = load
        self._changed = threading.Condition()  # Guards everything below but the futures in ``_loaded``.
        self._queue = BatchQueue(limits)
        self._closed = False
        self._started = False
        lanes = [tuple(Lane)] * threads + [(Lane.QUERY,)] * query_threads
        self._lowers_priority = query_threads > 0
        self._loaded: list[Future[None]] = [Future() for _ in lanes]
        self._threads = [
            threading.Thread(target=self._run, args=(loaded, own_lanes), name=f"embed-{number}", daemon=True)
            for number, (loaded, own_lanes) in enumerate(zip(self._loaded, lanes, strict=True))
        ]

    async def start(self) -> None:
        """Returns when every thread has its model; raises what ``load`` raised. May be called again.

        The first call of ``encode`` starts the threads as well.
        """
        with self._changed:
            self._start_threads()
        await asyncio.gather(*(asyncio.shield(asyncio.wrap_future(loaded)) for loaded in self._loaded))

    async def encode(self, texts: Sequence[str], lane: Lane) -> Vectors:
        """The vectors of at least one text, in order. If the call is cancelled, its queued texts are dropped.

        Raises EmbedderUnavailable if the lane is full or the pool is closed. If the model fails on some texts, raises
        PartialEmbeddingError or their error; a batch that fails is halved until these texts are found.
        """
        # By length, because a model pads the texts of a batch to the longest.
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        with self._changed:
            self._start_threads()
            sizes = [len(texts[index]) for index in order]
            items = self._queue.add([texts[index] for index in order], sizes, lane, time.monotonic())
            self._changed.notify_all()  # notify() might wake only a thread that takes no documents.
        try:
            parts = await asyncio.gather(*(asyncio.wrap_future(item.results) for item in items))
        except BaseException:
            with self._changed:
                self._queue.drop(items)
            raise
        results = concat_results(parts)
        if isinstance(results, np.ndarray):
            vectors = np.empty_like(results)
            vectors[order] = results
            return vectors
        in_order: list[TextResult] = list(results)
        for index, result in zip(order, results, strict=True):
            in_order[index] = result
        return stack_or_raise(in_order)

    async def close(self) -> None:
        """Fails the calls that wait, lets each thread finish its batch, and returns when all threads have stopped."""
        self._shut("The embedder is shutting down.")
        for thread in self._threads:
            if thread.ident is not None:
                await asyncio.to_thread(thread.join)

    def _start_threads(self) -> None:
        if self._closed:
            raise EmbedderUnavailable("The embedder is shut down.")
        if not self._started:
            self._started = True
            for thread in self._threads:
                thread.start()

    def _take(self, lanes: Sequence[Lane]) -> list[QueueItem]:
        """Waits for the next batch of these lanes; empty when the pool is closed."""
        with self._changed:
            while not self._closed:
                if batch := self._queue.take(time.monotonic(), lanes):
                    return batch
                self._changed.wait()
            return []

    def _run(self, loaded: Future[None], lanes: Sequence[Lane]) -> None:
        try:
            encode = self._load()
        except BaseException as exc:
            loaded.set_exception(exc)
            self._shut("The embedder could not be loaded.")
            return
        loaded.set_result(None)
        if Lane.DOCUMENTS in lanes and self._lowers_priority:
            _lower_priority()
        while batch := self._take(lanes):
            resolve(batch, _encoded(encode, [text for item in batch for text in item.texts], batch[0].lane))

    def _shut(self, detail: str) -> None:
        with self._changed:
            self._closed = True
            for item in self._queue.clear():
                if item.results.set_running_or_notify_cancel():
                    item.results.set_exception(EmbedderUnavailable(detail))
            self._changed.notify_all()


def _lower_priority() -> None:
    """Gives this thread a lower priority than the event loop, query threads and stores on the same cores.

    Only Linux has a niceness for each thread (setpriority(2), "C library/kernel differences").
    """
    if sys.platform == "linux":
        with suppress(OSError):
            thread = threading.get_native_id()
            niceness = os.getpriority(os.PRIO_PROCESS, thread)
            os.setpriority(os.PRIO_PROCESS, thread, niceness + DOCUMENTS_NICE)


def _encoded(encode: Encode, texts: list[str], lane: Lane) -> TextResults:
    """The result of each text. If the model fails on the batch, its halves are tried, so that only bad texts fail."""
    try:
        vectors = encode(texts, lane)
        if len(vectors) != len(texts):
            raise EmbeddingInvalid("The embedder returned another number of vectors than texts.")
        return vectors
    except BaseException as exc:  # Not Exception: callers must not hang when a tokenizer in Rust panics.
        if len(texts) > 1:
            middle = len(texts) // 2
            return concat_results([_encoded(encode, texts[:middle], lane), _encoded(encode, texts[middle:], lane)])
        if isinstance(exc, AppError):
            return [exc]
        log.warning("the model fails on a text of %d characters", len(texts[0]), exc_info=exc)
        return [EmbeddingInvalid("The embedder failed on this text.")]
