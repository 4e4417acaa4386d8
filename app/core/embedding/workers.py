"""A few threads that run a local model, in which a query never waits behind a pile of documents."""

import asyncio
import heapq
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import count

import numpy as np

from app.core.embedding.port import Vectors
from app.utils.errors import EmbedderUnavailable, EmbeddingInvalid

Encode = Callable[[list[str]], Vectors]


class Lane(IntEnum):
    """Who goes first."""

    QUERY = 0
    DOCUMENTS = 1


CAPACITY = {Lane.QUERY: 512, Lane.DOCUMENTS: 8192}
"""Texts that may wait in each lane: a second or two of queries, a minute or two of documents."""
RETRY_AFTER = {Lane.QUERY: 1, Lane.DOCUMENTS: 5}


@dataclass(order=True, slots=True)
class _Batch:
    """A part of one call. Batches are taken by lane, then turn, then age."""

    lane: Lane
    turn: int
    age: int
    texts: list[str] = field(compare=False)
    vectors: Future[Vectors] = field(compare=False, default_factory=Future)


class WorkerPool:
    """``threads`` threads, each with its own ``Encode`` from ``make``, fed from one bounded queue in two lanes.

    Calls are cut into batches of at most ``batch_texts`` texts and (a longer text goes alone) ``batch_chars``
    characters, so a query waits for no more than the batch that is being worked on. Calls of the same lane take turns
    batch by batch: a small one does not wait for the end of a big one (start-time fair queueing, Goyal et al. 1996).
    """

    def __init__(
        self,
        make: Callable[[], Encode],
        *,
        threads: int,
        batch_texts: int,
        batch_chars: int,
        capacity: dict[Lane, int] | None = None,
    ) -> None:
        self._make = make
        self._batch_texts = batch_texts
        self._batch_chars = batch_chars
        self._capacity = capacity or CAPACITY
        self._changed = threading.Condition()  # Guards everything below but the loaded futures.
        self._heap: list[_Batch] = []
        self._waiting: Counter[Lane] = Counter()
        self._turn = 0
        self._age = count()
        self._closed = False
        self._started = False
        self._loaded: list[Future[None]] = [Future() for _ in range(threads)]
        self._threads = [
            threading.Thread(target=self._run, args=(loaded,), name=f"embed-{number}", daemon=True)
            for number, loaded in enumerate(self._loaded)
        ]

    async def start(self) -> None:
        """Returns when every thread has its model; raises what ``make`` raised. May be called again.

        Without it, the first call of ``encode`` starts the threads.
        """
        with self._changed:
            self._start_threads()
        await asyncio.gather(*(asyncio.shield(asyncio.wrap_future(loaded)) for loaded in self._loaded))

    async def encode(self, texts: Sequence[str], lane: Lane) -> Vectors:
        """Vectors of at least one text, in order. If cancelled or failed, what still waits of it is dropped.

        Raises EmbedderUnavailable at once if too many texts wait in this lane or the pool is closed,
        EmbeddingInvalid if the model gave another number of vectors than texts, and what the model raises.
        """
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        batches = self._enqueue([texts[index] for index in order], lane)
        try:
            parts = await asyncio.gather(*(asyncio.wrap_future(batch.vectors) for batch in batches))
        except BaseException:
            self._drop(batches)
            raise
        vectors = np.concatenate(parts)
        in_order = np.empty_like(vectors)
        in_order[order] = vectors
        return in_order

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

    def _enqueue(self, texts: list[str], lane: Lane) -> list[_Batch]:
        with self._changed:
            self._start_threads()
            waiting = self._waiting[lane]
            # A call larger than the whole queue is let in when nothing else waits, else it never could be.
            if waiting and waiting + len(texts) > self._capacity[lane]:
                raise EmbedderUnavailable("Too many texts wait to be embedded.", retry_after=RETRY_AFTER[lane])
            batches = [
                _Batch(lane, self._turn + number, next(self._age), part) for number, part in enumerate(self._cut(texts))
            ]
            for batch in batches:
                heapq.heappush(self._heap, batch)
            self._waiting[lane] += len(texts)
            self._changed.notify(len(batches))
            return batches

    def _cut(self, texts: list[str]) -> Iterator[list[str]]:
        batch: list[str] = []
        chars = 0
        for text in texts:
            if batch and (len(batch) == self._batch_texts or chars + len(text) > self._batch_chars):
                yield batch
                batch, chars = [], 0
            batch.append(text)
            chars += len(text)
        yield batch

    def _drop(self, batches: list[_Batch]) -> None:
        with self._changed:
            dropped = {id(batch) for batch in batches if batch.vectors.cancel()}
            kept = [batch for batch in self._heap if id(batch) not in dropped]
            self._waiting[batches[0].lane] -= sum(len(b.texts) for b in self._heap if id(b) in dropped)
            heapq.heapify(kept)
            self._heap = kept

    def _take(self) -> _Batch | None:
        with self._changed:
            while True:
                while not self._heap and not self._closed:
                    self._changed.wait()
                if self._closed:
                    return None
                batch = heapq.heappop(self._heap)
                self._waiting[batch.lane] -= len(batch.texts)
                if batch.lane is Lane.DOCUMENTS:
                    self._turn = batch.turn
                if batch.vectors.set_running_or_notify_cancel():
                    return batch

    def _run(self, loaded: Future[None]) -> None:
        try:
            encode = self._make()
        except BaseException as exc:
            loaded.set_exception(exc)
            self._shut("The embedder could not be loaded.")
            return
        loaded.set_result(None)
        while (batch := self._take()) is not None:
            try:
                vectors = encode(batch.texts)
                if len(vectors) != len(batch.texts):
                    raise EmbeddingInvalid("The embedder returned another number of vectors than texts.")
            except BaseException as exc:  # Not Exception: a panic in a Rust tokenizer must not leave a caller hanging.
                batch.vectors.set_exception(exc)
            else:
                batch.vectors.set_result(vectors)

    def _shut(self, detail: str) -> None:
        with self._changed:
            self._closed = True
            for batch in self._heap:
                if batch.vectors.set_running_or_notify_cancel():
                    batch.vectors.set_exception(EmbedderUnavailable(detail))
            self._heap.clear()
            self._waiting.clear()
            self._changed.notify_all()
