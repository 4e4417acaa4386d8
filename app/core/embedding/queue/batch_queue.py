"""The queue of texts to be embedded. It forms batches of texts of several calls. It has no thread and no clock."""

from bisect import insort
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from enum import IntEnum
from itertools import count, islice

from app.core.embedding.port import TextResults
from app.utils import metrics
from app.utils.errors import EmbedderUnavailable


class Lane(IntEnum):
    """The priority of a call: queries go before documents."""

    QUERY = 0
    DOCUMENTS = 1


QUERY_TEXTS = 512
"""Queries that may wait: one or two seconds of work."""
DOCUMENT_TEXTS = 8192
"""Texts of documents that may wait: one or two minutes of work."""
RETRY_AFTER = {Lane.QUERY: 1, Lane.DOCUMENTS: 5}
"""Seconds that a caller should wait when the lane is full."""
LOOKAHEAD = 64
"""Number of queued items that are considered for a batch."""
QUEUE_TEXTS = {lane: metrics.QUEUE_TEXTS.labels(lane.name.lower()) for lane in Lane}
QUEUE_SECONDS = {lane: metrics.QUEUE_SECONDS.labels(lane.name.lower()) for lane in Lane}
BATCH_TEXTS = {lane: metrics.BATCH_TEXTS.labels(lane.name.lower()) for lane in Lane}


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """The bounds of a batch and of the queue."""

    texts: int
    """Texts of a batch."""
    weight: int
    """Total weight of a batch, in characters or tokens. A heavier text is a batch of its own."""
    by_length: bool = True
    """Put only texts of similar weight in one batch, because the model pads each to the longest."""
    queue: int = DOCUMENT_TEXTS
    """Texts of documents that may wait."""


@dataclass(frozen=True, slots=True)
class QueueOptions:
    """The values of BatchLimits that callers may choose; None means the provider's default."""

    batch_texts: int | None = None
    queue_texts: int | None = None


@dataclass(order=True, slots=True)
class QueueItem:
    """Texts of one call that go into the same batch. Items are sorted by turn, then by age."""

    turn: int
    age: int
    lane: Lane = field(compare=False)
    texts: list[str] = field(compare=False)
    weight: int = field(compare=False)
    longest: int = field(compare=False)
    since: float = field(compare=False)
    results: Future[TextResults] = field(compare=False, default_factory=Future)


def resolve(batch: Sequence[QueueItem], results: TextResults) -> None:
    """Gives each item its part of the batch's results, which has one result for each text."""
    start = 0
    for item in batch:
        item.results.set_result(results[start : start + len(item.texts)])
        start += len(item.texts)


class BatchQueue:
    """A bounded queue for each lane. Not thread-safe.

    Calls of a lane take turns item by item, so that a small call does not wait for the end of a large one (start-time
    fair queueing, Goyal et al. 1996).
    """

    def __init__(self, limits: BatchLimits) -> None:
        self._limits = limits
        self._capacity = {Lane.QUERY: min(QUERY_TEXTS, limits.queue), Lane.DOCUMENTS: limits.queue}
        self._items: dict[Lane, list[QueueItem]] = {lane: [] for lane in Lane}
        self._texts = dict.fromkeys(Lane, 0)
        self._turn = dict.fromkeys(Lane, 0)
        self._age = count()

    def add(self, texts: Sequence[str], weights: Sequence[int], lane: Lane, now: float) -> list[QueueItem]:
        """Splits a call into items and queues them. Raises EmbedderUnavailable if the lane is full.

        A call that is larger than the whole queue is accepted when its lane is empty; otherwise it never could be.
        """
        waiting = self._texts[lane]
        if waiting and waiting + len(texts) > self._capacity[lane]:
            raise EmbedderUnavailable("Too many texts wait to be embedded.", retry_after=RETRY_AFTER[lane])
        items = [
            QueueItem(
                turn=self._turn[lane] + number,
                age=next(self._age),
                lane=lane,
                texts=[texts[index] for index in part],
                weight=sum(weights[index] for index in part),
                longest=max(weights[index] for index in part),
                since=now,
            )
            for number, part in enumerate(self._split(weights))
        ]
        for item in items:
            insort(self._items[lane], item)
        self._count(lane, len(texts))
        return items

    def set_limits(self, texts: int | None, weight: int | None) -> None:
        """New bounds of a batch; None keeps the old one. Items that are queued already keep their size."""
        self._limits = replace(self._limits, texts=texts or self._limits.texts, weight=weight or self._limits.weight)

    def drop(self, items: Sequence[QueueItem]) -> None:
        """Removes the items of a cancelled call. Items that are being embedded are not affected."""
        cancelled = {item.age for item in items if item.results.cancel()}
        for lane, waiting in self._items.items():
            self._count(lane, -sum(len(item.texts) for item in waiting if item.age in cancelled))
            waiting[:] = [item for item in waiting if item.age not in cancelled]

    def take(self, now: float, lanes: Sequence[Lane] = tuple(Lane)) -> list[QueueItem]:
        """Removes the next batch and returns its items, marked as running; all of one lane. Empty if nothing waits."""
        for lane in lanes:
            while self._items[lane]:
                batch = list(self._batch(self._items[lane]))
                self._turn[lane] = batch[0].turn
                for item in batch:
                    self._items[lane].remove(item)
                    self._count(lane, -len(item.texts))
                    QUEUE_SECONDS[lane].observe(now - item.since)
                if running := [item for item in batch if item.results.set_running_or_notify_cancel()]:
                    BATCH_TEXTS[lane].observe(sum(len(item.texts) for item in running))
                    return running
        return []

    def clear(self) -> list[QueueItem]:
        """Removes and returns all items."""
        removed = [item for items in self._items.values() for item in items]
        for lane in Lane:
            self._items[lane].clear()
            self._count(lane, -self._texts[lane])
        return removed

    def _count(self, lane: Lane, texts: int) -> None:
        self._texts[lane] += texts
        QUEUE_TEXTS[lane].inc(texts)

    def _batch(self, items: list[QueueItem]) -> Iterator[QueueItem]:
        """The first item, and those of the next ones that fit into a batch with it."""
        first = items[0]
        yield first
        texts, weight = len(first.texts), first.weight
        for item in islice(items, 1, LOOKAHEAD):
            if texts >= self._limits.texts or weight >= self._limits.weight:
                return
            if self._limits.by_length and not first.longest <= 2 * item.longest <= 4 * first.longest:
                continue
            if texts + len(item.texts) <= self._limits.texts and weight + item.weight <= self._limits.weight:
                texts += len(item.texts)
                weight += item.weight
                yield item

    def _split(self, weights: Sequence[int]) -> Iterator[list[int]]:
        """The indexes of a call's texts in parts within the limits."""
        part: list[int] = []
        total = 0
        for index, weight in enumerate(weights):
            if part and (len(part) == self._limits.texts or total + weight > self._limits.weight):
                yield part
                part, total = [], 0
            part.append(index)
            total += weight
        yield part
