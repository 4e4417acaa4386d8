"""A few threads that run a local model, in which a query never waits behind a pile of documents."""

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

from app.core.embedding.port import Row, Rows, Vectors, concat_rows, stack_or_raise
from app.core.embedding.queue.batch_queue import BatchLimits, BatchQueue, Lane, QueueItem, resolve_items
from app.utils.errors import AppError, EmbedderUnavailable, EmbeddingInvalid

Encode = Callable[[list[str]], Vectors]

DOCUMENTS_NICE = 10
"""Niceness of threads that embed documents, where others are there for queries: searches beside a bulk insert take a
quarter less (scripts/bench bulk)."""

log = logging.getLogger(__name__)


class WorkerPool:
    """``threads`` threads, each with its own ``Encode`` from ``make``, fed from one bounded queue in two lanes.

    Calls are cut into pieces within ``limits``, weights being characters, and small pieces of several calls share a
    batch: so a query waits for no more than the batch that is being worked on, and for nothing but its share of the
    cores where there are ``query_threads`` beside the others. A batch holds texts of one lane.
    """

    def __init__(
        self, make: Callable[[], Encode], *, threads: int, limits: BatchLimits, query_threads: int = 0
    ) -> None:
        self._make = make
        self._changed = threading.Condition()  # Guards everything below but the loaded futures.
        self._waiting = BatchQueue(limits)
        self._closed = False
        self._started = False
        lanes = [tuple(Lane)] * threads + [(Lane.QUERY,)] * query_threads
        self._steps_back = query_threads > 0
        self._loaded: list[Future[None]] = [Future() for _ in lanes]
        self._threads = [
            threading.Thread(target=self._run, args=(loaded, mine), name=f"embed-{number}", daemon=True)
            for number, (loaded, mine) in enumerate(zip(self._loaded, lanes, strict=True))
        ]

    async def start(self) -> None:
        """Returns when every thread has its model; raises what ``make`` raised. May be called again.

        Without it, the first call of ``encode`` starts the threads.
        """
        with self._changed:
            self._start_threads()
        await asyncio.gather(*(asyncio.shield(asyncio.wrap_future(loaded)) for loaded in self._loaded))

    async def encode(self, texts: Sequence[str], lane: Lane) -> Vectors:
        """Vectors of at least one text, in order. If cancelled, what still waits of it is dropped.

        Raises EmbedderUnavailable at once if too many texts wait in this lane or the pool is closed, and TextsFailed
        or the one error if the model fails on some texts: a batch that fails is halved until they are found.
        """
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        with self._changed:
            self._start_threads()
            sizes = [len(texts[index]) for index in order]
            pieces = self._waiting.add([texts[index] for index in order], sizes, lane, time.monotonic())
            self._changed.notify_all()  # A thread of queries alone could swallow a single word.
        try:
            parts = await asyncio.gather(*(asyncio.wrap_future(piece.rows) for piece in pieces))
        except BaseException:
            with self._changed:
                self._waiting.drop(pieces)
            raise
        rows = concat_rows(parts)
        if isinstance(rows, np.ndarray):
            vectors = np.empty_like(rows)
            vectors[order] = rows
            return vectors
        in_order: list[Row] = list(rows)
        for index, row in zip(order, rows, strict=True):
            in_order[index] = row
        return stack_or_raise(in_order)

    async def close(self) -> None:
        """Fails what waits, lets each thread end its batch, and returns when all threads have stopped."""
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
        """The next batch; empty when the pool is closed."""
        with self._changed:
            while not self._closed:
                if batch := self._waiting.take(time.monotonic(), lanes):
                    return batch
                self._changed.wait(self._waiting.due_in(time.monotonic(), lanes))
            return []

    def _run(self, loaded: Future[None], lanes: Sequence[Lane]) -> None:
        try:
            encode = self._make()
        except BaseException as exc:
            loaded.set_exception(exc)
            self._shut("The embedder could not be loaded.")
            return
        loaded.set_result(None)
        if Lane.DOCUMENTS in lanes and self._steps_back:
            _step_back()
        while batch := self._take(lanes):
            resolve_items(batch, _rows(encode, [text for piece in batch for text in piece.texts]))

    def _shut(self, detail: str) -> None:
        with self._changed:
            self._closed = True
            for piece in self._waiting.clear():
                if piece.rows.set_running_or_notify_cancel():
                    piece.rows.set_exception(EmbedderUnavailable(detail))
            self._changed.notify_all()


def _step_back() -> None:
    """Lets the rest of the machine go before this thread: the event loop, questions, the stores on the same cores.

    On Linux alone a thread has a niceness of its own (setpriority(2), "C library/kernel differences").
    """
    if sys.platform == "linux":
        with suppress(OSError):
            thread = threading.get_native_id()
            own = os.getpriority(os.PRIO_PROCESS, thread)
            os.setpriority(os.PRIO_PROCESS, thread, own + DOCUMENTS_NICE)


def _rows(encode: Encode, texts: list[str]) -> Rows:
    try:
        vectors = encode(texts)
        if len(vectors) != len(texts):
            raise EmbeddingInvalid("The embedder returned another number of vectors than texts.")
        return vectors
    except BaseException as exc:  # Not Exception: a panic in a Rust tokenizer must not leave a caller hanging.
        if len(texts) > 1:
            middle = len(texts) // 2
            return concat_rows([_rows(encode, texts[:middle]), _rows(encode, texts[middle:])])
        if isinstance(exc, AppError):
            return [exc]
        log.warning("the model fails on a text of %d characters", len(texts[0]), exc_info=exc)
        return [EmbeddingInvalid("The embedder failed on this text.")]
