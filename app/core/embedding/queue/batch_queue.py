"""What waits to be embedded, and what goes together into the next batch. No thread and no clock of its own."""

from bisect import insort
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from enum import IntEnum
from itertools import count, islice

from app.core.embedding.port import Rows
from app.utils import metrics
from app.utils.errors import EmbedderUnavailable


class Lane(IntEnum):
    """Who goes first."""

    QUERY = 0
    DOCUMENTS = 1


QUERY_TEXTS = 512
"""Queries that may wait: a second or two."""
DOCUMENT_TEXTS = 8192
"""Texts of documents that may wait: a minute or two."""
RETRY_AFTER = {Lane.QUERY: 1, Lane.DOCUMENTS: 5}
NEIGHBOURS = 64
"""Pieces that are looked at to fill up a batch."""
QUEUE_TEXTS = {lane: metrics.QUEUE_TEXTS.labels(lane.name.lower()) for lane in Lane}
QUEUE_SECONDS = {lane: metrics.QUEUE_SECONDS.labels(lane.name.lower()) for lane in Lane}
BATCH_TEXTS = {lane: metrics.BATCH_TEXTS.labels(lane.name.lower()) for lane in Lane}


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """``texts`` and ``weight`` bound a batch; a heavier text goes alone. ``wait`` is how many seconds a batch that is
    not full waits for company. With ``alike`` only texts of like length share a batch: a model pads each to the
    longest.
    """

    texts: int
    weight: int
    wait: float = 0.0
    alike: bool = True
    queue: int = DOCUMENT_TEXTS


@dataclass(order=True, slots=True)
class QueueItem:
    """A part of one call, of one batch at most. Taken by turn, then age."""

    turn: int
    age: int
    lane: Lane = field(compare=False)
    texts: list[str] = field(compare=False)
    weight: int = field(compare=False)
    longest: int = field(compare=False)
    since: float = field(compare=False)
    rows: Future[Rows] = field(compare=False, default_factory=Future)


def resolve_items(batch: Sequence[QueueItem], rows: Rows) -> None:
    """Each piece its rows: there is one for each text of the batch."""
    start = 0
    for piece in batch:
        piece.rows.set_result(rows[start : start + len(piece.texts)])
        start += len(piece.texts)


class BatchQueue:
    """Bounded queues, one a lane. Queries go first; calls of one lane take turns piece by piece, so that a small one
    does not wait for the end of a big one (start-time fair queueing, Goyal et al. 1996).
    """

    def __init__(self, limits: BatchLimits) -> None:
        self._limits = limits
        self._capacity = {Lane.QUERY: min(QUERY_TEXTS, limits.queue), Lane.DOCUMENTS: limits.queue}
        self._pieces: dict[Lane, list[QueueItem]] = {lane: [] for lane in Lane}
        self._texts = dict.fromkeys(Lane, 0)
        self._turn = dict.fromkeys(Lane, 0)
        self._age = count()

    def add(self, texts: Sequence[str], weights: Sequence[int], lane: Lane, now: float) -> list[QueueItem]:
        """Cuts a call into pieces and queues them. Raises EmbedderUnavailable when the lane is full."""
        waiting = self._texts[lane]
        # A call larger than the whole queue is let in when nothing else waits, else it never could be.
        if waiting and waiting + len(texts) > self._capacity[lane]:
            raise EmbedderUnavailable("Too many texts wait to be embedded.", retry_after=RETRY_AFTER[lane])
        pieces = [
            QueueItem(
                turn=self._turn[lane] + number,
                age=next(self._age),
                lane=lane,
                texts=[texts[index] for index in part],
                weight=sum(weights[index] for index in part),
                longest=max(weights[index] for index in part),
                since=now,
            )
            for number, part in enumerate(self._cut(weights))
        ]
        for piece in pieces:
            insort(self._pieces[lane], piece)
        self._count(lane, len(texts))
        return pieces

    def limit(self, texts: int | None, weight: int | None) -> None:
        """Other bounds for batches, from now on; None leaves one as it is."""
        self._limits = replace(self._limits, texts=texts or self._limits.texts, weight=weight or self._limits.weight)

    def drop(self, pieces: Sequence[QueueItem]) -> None:
        """Takes out what nobody waits for any more. What is being worked on stays."""
        gone = {piece.age for piece in pieces if piece.rows.cancel()}
        for lane, waiting in self._pieces.items():
            self._count(lane, -sum(len(piece.texts) for piece in waiting if piece.age in gone))
            waiting[:] = [piece for piece in waiting if piece.age not in gone]

    def due_in(self, now: float, lanes: Sequence[Lane] = tuple(Lane)) -> float | None:
        """Seconds until a batch should be taken from these lanes; None when nothing waits there."""
        delays = [
            0.0 if not self._limits.wait or self._full(pieces) else max(0.0, pieces[0].since + self._limits.wait - now)
            for lane in lanes
            if (pieces := self._pieces[lane])
        ]
        return min(delays, default=None)

    def take(self, now: float, lanes: Sequence[Lane] = tuple(Lane)) -> list[QueueItem]:
        """The next batch, its pieces marked as running; empty when none is due."""
        for lane in lanes:
            if self._pieces[lane] and self.due_in(now, [lane]) == 0:
                batch = list(self._batch(self._pieces[lane]))
                self._turn[lane] = batch[0].turn
                for piece in batch:
                    self._pieces[lane].remove(piece)
                    self._count(lane, -len(piece.texts))
                    QUEUE_SECONDS[lane].observe(now - piece.since)
                if running := [piece for piece in batch if piece.rows.set_running_or_notify_cancel()]:
                    BATCH_TEXTS[lane].observe(sum(len(piece.texts) for piece in running))
                    return running
        return []

    def clear(self) -> list[QueueItem]:
        """Everything that waits; nothing does any more."""
        left = [piece for pieces in self._pieces.values() for piece in pieces]
        for lane in Lane:
            self._pieces[lane].clear()
            self._count(lane, -self._texts[lane])
        return left

    def _count(self, lane: Lane, texts: int) -> None:
        self._texts[lane] += texts
        QUEUE_TEXTS[lane].inc(texts)

    def _full(self, pieces: list[QueueItem]) -> bool:
        batch = list(self._batch(pieces))
        texts, weight = sum(len(piece.texts) for piece in batch), sum(piece.weight for piece in batch)
        return texts >= self._limits.texts or weight >= self._limits.weight or len(batch) < len(pieces)

    def _batch(self, pieces: list[QueueItem]) -> Iterator[QueueItem]:
        head = pieces[0]
        yield head
        texts, weight = len(head.texts), head.weight
        for piece in islice(pieces, 1, NEIGHBOURS):
            if texts >= self._limits.texts or weight >= self._limits.weight:
                return
            if self._limits.alike and not head.longest <= 2 * piece.longest <= 4 * head.longest:
                continue
            if texts + len(piece.texts) <= self._limits.texts and weight + piece.weight <= self._limits.weight:
                texts += len(piece.texts)
                weight += piece.weight
                yield piece

    def _cut(self, weights: Sequence[int]) -> Iterator[list[int]]:
        part: list[int] = []
        weight = 0
        for index, one in enumerate(weights):
            if part and (len(part) == self._limits.texts or weight + one > self._limits.weight):
                yield part
                part, weight = [], 0
            part.append(index)
            weight += one
        yield part
