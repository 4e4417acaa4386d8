"""Sends what waits to a provider over the network, several requests at a time."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

from app.core.embedding.port import Rows, concat_rows
from app.core.embedding.queue.batch_queue import BatchLimits, BatchQueue, Lane, QueueItem, resolve_items
from app.utils.errors import EmbedderUnavailable

Send = Callable[[list[str], Lane], Awaitable[Rows]]


class Dispatcher:
    """At most ``max_concurrency`` requests at once, one of them kept for queries if there are two or more.

    ``send`` gives a row for each text and raises nothing. Belongs to one event loop.
    """

    def __init__(self, send: Send, *, limits: BatchLimits, max_concurrency: int) -> None:
        self._send = send
        self._waiting = BatchQueue(limits)
        self._free = {Lane.QUERY: max_concurrency, Lane.DOCUMENTS: max(1, max_concurrency - 1)}
        self._running: set[asyncio.Task[None]] = set()
        self._alarm: asyncio.TimerHandle | None = None
        self._closed = False

    async def encode(self, texts: Sequence[str], weights: Sequence[int], lane: Lane) -> Rows:
        """A row for each of at least one text, in order. If cancelled, what still waits of it is dropped.

        Raises EmbedderUnavailable at once if too many texts wait in this lane, or after ``close``.
        """
        if self._closed:
            raise EmbedderUnavailable("The embedder is shut down.")
        pieces = self._waiting.add(texts, weights, lane, time.monotonic())
        self._pump()
        try:
            parts = await asyncio.gather(*(asyncio.wrap_future(piece.rows) for piece in pieces))
        except BaseException:
            self._waiting.drop(pieces)
            raise
        return concat_rows(parts)

    def limit(self, *, texts: int | None = None, weight: int | None = None) -> None:
        """Bounds the batches from now on. What is queued stays in the pieces that it was cut into."""
        self._waiting.limit(texts, weight)

    async def close(self) -> None:
        """Fails what waits and what is on its way."""
        self._closed = True
        if self._alarm is not None:
            self._alarm.cancel()
        for piece in self._waiting.clear():
            _fail(piece)
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    def _pump(self) -> None:
        """Starts what may start now, and comes again when something else is due."""
        if self._closed:
            return
        now = time.monotonic()
        while lanes := self._lanes():
            batch = self._waiting.take(now, lanes)
            if not batch:
                break
            task = asyncio.create_task(self._run(batch))
            self._running.add(task)
            for lane in _takes(batch[0].lane):
                self._free[lane] -= 1
            task.add_done_callback(lambda task, lane=batch[0].lane: self._done(task, lane))  # type: ignore[misc]
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if (lanes := self._lanes()) and (delay := self._waiting.due_in(now, lanes)):
            self._alarm = asyncio.get_running_loop().call_later(delay, self._pump)

    def _lanes(self) -> list[Lane]:
        if self._free[Lane.QUERY] <= 0:
            return []
        return [Lane.QUERY, Lane.DOCUMENTS] if self._free[Lane.DOCUMENTS] > 0 else [Lane.QUERY]

    def _done(self, task: asyncio.Task[None], lane: Lane) -> None:
        self._running.discard(task)
        for taken in _takes(lane):
            self._free[taken] += 1
        self._pump()

    async def _run(self, batch: list[QueueItem]) -> None:
        try:
            texts = batch[0].texts if len(batch) == 1 else [text for piece in batch for text in piece.texts]
            resolve_items(batch, await self._send(texts, batch[0].lane))
        except BaseException as exc:
            for piece in batch:
                if not piece.rows.done():
                    piece.rows.set_exception(
                        EmbedderUnavailable("The embedder is shutting down.")
                        if isinstance(exc, asyncio.CancelledError)
                        else exc
                    )
            if not isinstance(exc, Exception):
                raise


def _takes(lane: Lane) -> tuple[Lane, ...]:
    """What a request is counted under: documents under both, for they may not take a query's last place."""
    return (Lane.QUERY,) if lane is Lane.QUERY else (Lane.QUERY, Lane.DOCUMENTS)


def _fail(piece: QueueItem) -> None:
    if piece.rows.set_running_or_notify_cancel():
        piece.rows.set_exception(EmbedderUnavailable("The embedder is shutting down."))
