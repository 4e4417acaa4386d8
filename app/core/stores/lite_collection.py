"""Milvus Lite's collection with its lexical search and its flush mended.

Lexical search: as it comes, each segment and the rows not yet flushed are scored by statistics of their own, so that a
row just written ranks as in a collection of its own. Here they are those of the whole collection, as on a Milvus
server, and postings are arrays.

Flush: as it comes, rows are in neither place for a moment, between the swap of the memtable and the segment's
appearance, and a search then passes over what was acknowledged. Here searches wait for that moment to end.
"""

import math
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from milvus_lite.engine.collection import Collection
from milvus_lite.search.filter import evaluate_mask
from numpy.typing import NDArray

from app.schemas.milvus import BM25_B, BM25_K1

Bools = NDArray[np.bool_]
Floats = NDArray[np.floating[Any]]
PAIR = np.dtype([("term", "<u4"), ("frequency", "<f4")])


class Gate:
    """Many may pass at once, or one alone. Whoever wants to be alone goes before those who come later."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._mine = threading.local()
        self._inside = 0
        self._waiting = 0
        self._occupied = False

    @contextmanager
    def shared(self) -> Iterator[None]:
        """A thread that is inside already, either way, passes."""
        if getattr(self._mine, "inside", False):
            yield
            return
        with self._changed:
            self._changed.wait_for(lambda: not self._occupied and not self._waiting)
            self._inside += 1
        self._mine.inside = True
        try:
            yield
        finally:
            self._mine.inside = False
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        with self._changed:
            self._waiting += 1
            self._changed.wait_for(lambda: not self._occupied and not self._inside)
            self._waiting -= 1
            self._occupied = True
        self._mine.inside = True
        try:
            yield
        finally:
            self._mine.inside = False
            with self._changed:
                self._occupied = False
                self._changed.notify_all()


class Postings:
    """The terms of an immutable table's rows: which rows hold a term, and how often."""

    def __init__(self, table: "pa.Table | pa.RecordBatch", field: str, key: str) -> None:
        self.table = table
        self.keys = np.array(table.column(key).to_pylist(), np.int64)
        self.seqs = np.array(table.column("_seq").to_pylist(), np.int64)
        vectors = [vector or b"" for vector in table.column(field).to_pylist()]
        counts = np.array([len(vector) // PAIR.itemsize for vector in vectors], np.int64)
        pairs = np.frombuffer(b"".join(vectors), PAIR)
        rows = np.repeat(np.arange(len(vectors)), counts)
        order = np.argsort(pairs["term"], kind="stable")
        self._rows, self._frequencies = rows[order], pairs["frequency"][order].astype(np.float64)
        terms, starts = np.unique(pairs["term"][order], return_index=True)
        ends = np.append(starts[1:], len(order))
        self._places = dict(zip(terms.tolist(), zip(starts.tolist(), ends.tolist(), strict=True), strict=True))
        self.lengths = np.bincount(rows, weights=pairs["frequency"], minlength=len(vectors))

    def of(self, term: int) -> tuple[NDArray[np.int64], Floats] | None:
        """Rows and frequencies."""
        place = self._places.get(term)
        return None if place is None else (self._rows[slice(*place)], self._frequencies[slice(*place)])


@dataclass(frozen=True)
class View:
    """All rows of the collection at one moment, and which of them are current."""

    token: tuple[int, ...]
    held: tuple[object, ...]  # Whose identities the token has: alive, so that nothing else can have them.
    sources: Sequence[Postings]
    current: Sequence[Bools]
    count: int
    mean_length: float


class LiteCollection(Collection):
    """Keeps to Collection; BM25 by the formula of Robertson and Zaragoza (2009), statistics as Milvus counts them."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._gate = Gate()
        self._view: View | None = None
        self._batches: dict[int, Postings] = {}  # of the memtable, by the identity of what each holds on to
        super().__init__(*args, **kwargs)

    def search(self, *args: Any, **kwargs: Any) -> list[list[dict[str, Any]]]:
        with self._gate.shared():
            return super().search(*args, **kwargs)  # type: ignore[no-any-return]

    def query(self, *args: Any, **kwargs: Any) -> list[dict[str, Any]]:
        with self._gate.shared():
            return super().query(*args, **kwargs)  # type: ignore[no-any-return]

    def get(self, *args: Any, **kwargs: Any) -> list[dict[str, Any]]:
        with self._gate.shared():
            return super().get(*args, **kwargs)  # type: ignore[no-any-return]

    def _trigger_flush(self) -> None:
        with self._gate.alone():
            super()._trigger_flush()

    def _search_sparse(
        self,
        query_vectors: list[str],
        vector_field: str,
        top_k: int,
        metric_type: str,
        partition_names: list[str] | None,
        expr: str | None,
        output_fields: list[str] | None,
        timezone: str | None = None,
    ) -> list[list[dict[str, Any]]]:
        if metric_type != "BM25" or partition_names or output_fields:
            raise NotImplementedError("Only what the server asks for: BM25 of all partitions, keys and scores.")
        k1, b = BM25_K1, BM25_B  # What the index was made with does not reach Milvus Lite through pymilvus 3.0.2.
        compiled = self._compile_filter(expr, timezone=timezone) if expr else None
        view = self._current_view(vector_field)
        passing = [
            current if compiled is None else current & evaluate_mask(compiled, source.table)
            for source, current in zip(view.sources, view.current, strict=True)
        ]
        norms = [k1 * (1 - b + b * source.lengths / (view.mean_length or 1.0)) for source in view.sources]
        analyze = self._bm25_analyzers[vector_field].analyze
        return [self._best(view, Counter(analyze(text)), passing, norms, k1, top_k) for text in query_vectors]

    @staticmethod
    def _best(
        view: View,
        terms: Counter[int],
        passing: Sequence[Bools],
        norms: Sequence[Floats],
        k1: float,
        top_k: int,
    ) -> list[dict[str, Any]]:
        scores = [np.zeros(len(source.keys)) for source in view.sources]
        for term, weight in terms.items():
            found = [
                (number, *posting)
                for number, source in enumerate(view.sources)
                if (posting := source.of(term)) is not None
            ]
            holding = sum(int(np.count_nonzero(view.current[number][rows])) for number, rows, _ in found)
            idf = math.log1p((view.count - holding + 0.5) / (holding + 0.5))
            for number, rows, frequencies in found:
                # A row stands once among a term's rows, so that += misses nothing.
                scores[number][rows] += weight * idf * frequencies * (k1 + 1) / (frequencies + norms[number][rows])
        best: list[tuple[float, int]] = []
        for source, passes, score in zip(view.sources, passing, scores, strict=True):
            rows = np.flatnonzero(passes & (score > 0))
            if len(rows) > top_k:
                # All that tie with the last one stay, so that keys decide among them.
                least = np.partition(score[rows], len(rows) - top_k)[len(rows) - top_k]
                rows = rows[score[rows] >= least]
            best.extend(zip((-score[rows]).tolist(), source.keys[rows].tolist(), strict=True))
        return [{"id": key, "distance": distance, "entity": {}} for distance, key in sorted(best)[:top_k]]

    def _current_view(self, field: str) -> View:
        memtable = self._memtable
        with memtable._lock:
            batches = tuple(memtable._insert_batches)
            deleted = {key: seq for key, (seq, _) in memtable._delete_index.items()}
        segments, tombstones = self._read_snapshot()
        # Every write adds a batch or moves the newest delete; a flush or a compaction changes the segments.
        token = (*map(id, segments), id(memtable), len(batches), len(deleted), max(deleted.values(), default=0))
        known = self._view
        if known is not None and known.token == token:
            return known
        sources = [self._of_segment(segment, field) for segment in segments if segment.num_rows]
        fresh = {id(batch): self._batches.get(id(batch)) or self._postings(batch, field) for batch in batches}
        self._batches = fresh
        sources.extend(fresh.values())
        current = _current(sources, [tombstones._map, deleted])
        count = sum(int(np.count_nonzero(live)) for live in current)
        total = sum(float(source.lengths[live].sum()) for source, live in zip(sources, current, strict=True))
        view = View(token, (segments, memtable), sources, current, count, total / count if count else 0.0)
        self._view = view
        return view

    def _of_segment(self, segment: Any, field: str) -> Postings:
        if field not in segment.sparse_indexes:
            segment.sparse_indexes[field] = self._postings(segment.table, field)
        found: Postings = segment.sparse_indexes[field]
        return found

    def _postings(self, table: "pa.Table | pa.RecordBatch", field: str) -> Postings:
        return Postings(table, field, self._pk_name)


def _current(sources: Sequence[Postings], deletes: Sequence[dict[int, int]]) -> list[Bools]:
    """For each source which rows are the newest of their key and not deleted since."""
    if not sources:
        return []
    keys = np.concatenate([source.keys for source in sources])
    seqs = np.concatenate([source.seqs for source in sources])
    order = np.lexsort((seqs, keys))
    newest = np.ones(len(keys), bool)
    newest[:-1] = keys[order][1:] != keys[order][:-1]
    live = np.zeros(len(keys), bool)
    live[order] = newest
    for gone in deletes:
        if gone:
            deleted = np.array(sorted(gone.items()), np.int64)
            place = np.minimum(np.searchsorted(deleted[:, 0], keys), len(deleted) - 1)
            live &= (deleted[place, 0] != keys) | (deleted[place, 1] <= seqs)
    return np.split(live, np.cumsum([len(source.keys) for source in sources])[:-1])
