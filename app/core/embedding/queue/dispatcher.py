"""Sends queued texts to a provider over the network, several requests at a time."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

from app.core.embedding.port import TextResults, concat_results
from app.core.embedding.queue.batch_queue import BatchLimits, BatchQueue, Lane, QueueItem, resolve
from app.utils.errors import EmbedderUnavailable

Send = Callable[[list[str], Lane], Awaitable[TextResults]]


class Dispatcher:
    """Runs at most ``max_concurrency`` requests at a time; if that is 2 or more, one of them is reserved for queries.

    ``send`` returns one result for each text and raises nothing. A dispatcher belongs to one event loop.
    """

    def __init__(self, send: Send, *, limits: BatchLimits, max_concurrency: int) -> None:
        self._send = send
        self._queue = BatchQueue(limits)
        self._free = {Lane.QUERY: max_concurrency, Lane.DOCUMENTS: max(1, max_concurrency - 1)}
        self._running: set[asyncio.Task[None]] = set()
        self._closed = False

    async def encode(self, texts: Sequence[str], weights: Sequence[int], lane: Lane) -> TextResults:
        """The results of at least one text, in order. If the call is cancelled, its queued texts are dropped.

        Raises EmbedderUnavailable if the lane is full, and after ``close``.
        """
        if self._closed:
            raise EmbedderUnavailable("The embedder is shut down.")
        items = self._queue.add(texts, weights, lane, time.monotonic())
        self._start_batches()
        try:
            parts = await asyncio.gather(*(asyncio.wrap_future(item.results) for item in items))
        except BaseException:
            self._queue.drop(items)
            raise
        return concat_results(parts)

    def set_limits(self, *, texts: int | None = None, weight: int | None = None) -> None:
        """New bounds of a batch, in texts and tokens; None keeps the old one."""
        self._queue.set_limits(texts, weight)

    async def close(self) -> None:
        """Fails the calls that wait or run."""
        self._closed = True
        for item in self._queue.clear():
            _fail(item)
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    def _start_batches(self) -> None:
        """Starts the batches that wait, as far as requests are free."""
        if self._closed:
            return
        now = time.monotonic()
        while lanes := self._free_lanes():
            batch = self._queue.take(now, lanes)
            if not batch:
                break
            task = asyncio.create_task(self._run(batch))
            self._running.add(task)
            for lane in _occupied_lanes(batch[0].lane):
                self._free[lane] -= 1
            task.add_done_callback(lambda task, lane=batch[0].lane: self._done(task, lane))  # type: ignore[misc]

    def _free_lanes(self) -> list[Lane]:
        if self._free[Lane.QUERY] <= 0:
            return []
        return [Lane.QUERY, Lane.DOCUMENTS] if self._free[Lane.DOCUMENTS] > 0 else [Lane.QUERY]

    def _done(self, task: asyncio.Task[None], lane: Lane) -> None:
        self._running.discard(task)
        for occupied in _occupied_lanes(lane):
            self._free[occupied] += 1
        self._start_batches()

    async def _run(self, batch: list[QueueItem]) -> None:
        try:
            texts = batch[0].texts if len(batch) == 1 else [text for item in batch for text in item.texts]
            resolve(batch, await self._send(texts, batch[0].lane))
        except BaseException as exc:
            for item in batch:
                if not item.results.done():
                    item.results.set_exception(
                        EmbedderUnavailable("The embedder is shutting down.")
                        if isinstance(exc, asyncio.CancelledError)
                        else exc
                    )
            if not isinstance(exc, Exception):
                raise


def _occupied_lanes(lane: Lane) -> tuple[Lane, ...]:
    """The lanes whose number of free requests a request of ``lane`` reduces: one of documents reduces both."""
    return (Lane.QUERY,) if lane is Lane.QUERY else (Lane.QUERY, Lane.DOCUMENTS)


def _fail(item: QueueItem) -> None:
    if item.results.set_running_or_notify_cancel():
        item.results.set_exception(EmbedderUnavailable("The embedder is shutting down."))
