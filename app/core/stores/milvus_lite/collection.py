"""Milvus Lite's collection with its searches and its flush mended.

Words: as it comes, each segment and the rows not yet flushed are scored by statistics of their own, so that a row just
written ranks as in a collection of its own. Here they are those of the whole collection, as on a Milvus server.

Speed: as it comes, each search looks at every row in Python and unpacks each hit with its vector, which takes 20 ms
for 100 hits. Here it is arrays, and which rows are current is worked out once after a write.

Flush: as it comes, rows are in neither place for a moment, between the swap of the memtable and the segment's
appearance, and a search then passes over what was acknowledged. Here searches wait for that moment to end.
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from milvus_lite.search.filter import evaluate_mask

from app.core.stores.milvus_lite.durable import DurableCollection
from app.core.stores.milvus_lite.read_write_lock import ReadWriteLock
from app.core.stores.milvus_lite.rows import Bools, Floats, Rows, View, current
from app.schemas.milvus import BM25_B, BM25_K1, EMBEDDING, LEXICAL_SPARSE

Hits = list[dict[str, Any]]
PLAIN = {
    "query_vectors", "top_k", "metric_type", "expr", "anns_field", "timezone", "search_params", "group_size",
}  # fmt: skip
EXACT_ROWS = 20_000
"""Up to so many rows of a segment are compared one by one, 5 ms; beyond, its graph is searched."""


class LiteCollection(DurableCollection):
    """Keeps to Collection. BM25 by the formula of Robertson and Zaragoza (2009), statistics as Milvus counts them."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._gate = ReadWriteLock()
        self._view: View | None = None
        self._segment_rows: dict[int, tuple[object, Rows]] = {}  # by identity, with what has it
        self._batch_rows: dict[int, Rows] = {}
        super().__init__(*args, **kwargs)

    def search(self, *args: Any, **kwargs: Any) -> list[Hits]:
        """As the inherited one. What this server asks, keys and scores of all rows that pass a filter, goes apart."""
        with self._gate.shared():
            asked = {name for name, value in kwargs.items() if value}
            if not args and asked <= PLAIN and kwargs.get("anns_field") in (EMBEDDING, LEXICAL_SPARSE):
                return self._search_plain(**kwargs)
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

    def live_keys(self) -> set[int]:
        with self._gate.shared():
            view = self._current_view()
            return {
                key
                for source, live in zip(view.sources, view.current, strict=True)
                for key in source.keys[live].tolist()
            }

    def _search_plain(
        self,
        query_vectors: list[Any],
        top_k: int,
        anns_field: str,
        expr: str | None = None,
        timezone: str | None = None,
        search_params: dict[str, Any] | None = None,
        **_: Any,
    ) -> list[Hits]:
        self._require_loaded()
        self.resolve_search_metric(anns_field, None)
        compiled = self._compile_filter(expr, timezone=timezone) if expr else None
        view = self._current_view()
        passing = [
            live if compiled is None else live & evaluate_mask(compiled, source.table)
            for source, live in zip(view.sources, view.current, strict=True)
        ]
        if anns_field == EMBEDDING:
            queries = np.asarray(query_vectors, np.float32)
            found = [
                self._nearest(source, passes, queries, top_k, search_params)
                for source, passes in zip(view.sources, passing, strict=True)
            ]
        else:
            found = _best_by_words(view, passing, [self._terms(text) for text in query_vectors], top_k)
        return [_merged([of_source[number] for of_source in found], top_k) for number in range(len(query_vectors))]

    def _terms(self, text: str) -> Counter[int]:
        return Counter(self._bm25_analyzers[LEXICAL_SPARSE].analyze(text))

    def _nearest(
        self, source: Rows, passes: Bools, queries: Floats, top_k: int, params: dict[str, Any] | None
    ) -> list[tuple[Floats, Any]]:
        """For each query cosines and keys of the source's ``top_k`` nearest rows."""
        rows = np.flatnonzero(passes)
        index = self._index_of(source)
        if len(rows) > EXACT_ROWS and index is not None:
            ids, distances = index.search(queries, top_k, valid_mask=None if passes.all() else passes, params=params)
            return [
                (1 - near[number >= 0], source.keys[number[number >= 0]])
                for number, near in zip(ids, distances, strict=True)
            ]
        # Most of the rows are not worth copying out.
        everything = len(rows) * 4 > len(passes)
        vectors, norms = (source.vectors, source.norms) if everything else (source.vectors[rows], source.norms[rows])
        lengths = np.linalg.norm(queries, axis=1, keepdims=True)
        cosines = (queries @ vectors.T) / np.maximum(norms * lengths, np.finfo(np.float32).tiny)
        return [_top(of_query[rows] if everything else of_query, source.keys[rows], top_k) for of_query in cosines]

    def _index_of(self, source: Rows) -> Any:
        for segment, rows in self._segment_rows.values():
            if rows is source:
                return segment.indexes.get(EMBEDDING)  # type: ignore[attr-defined]
        return None

    def _current_view(self) -> View:
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
        of_segments = {
            id(segment): self._segment_rows.get(id(segment)) or (segment, self._rows(segment.table))
            for segment in segments
            if segment.num_rows
        }
        of_batches = {id(batch): self._batch_rows.get(id(batch)) or self._rows(batch) for batch in batches}
        sources = [*(rows for _, rows in of_segments.values()), *of_batches.values()]
        view = View(token, (segments, memtable), sources, current(sources, [tombstones._map, deleted]))
        self._segment_rows, self._batch_rows, self._view = of_segments, of_batches, view
        return view

    def _rows(self, table: Any) -> Rows:
        words = LEXICAL_SPARSE if LEXICAL_SPARSE in self._bm25_analyzers else None
        return Rows(table, self._pk_name, EMBEDDING, words)


def _best_by_words(
    view: View, passing: Sequence[Bools], queries: Sequence[Counter[int]], top_k: int
) -> list[list[tuple[Floats, Any]]]:
    """For each source and query BM25 and keys of the ``top_k`` best rows. A term counts as often as it is asked."""
    postings = [source.postings for source in view.sources]
    norms = [BM25_K1 * (1 - BM25_B + BM25_B * found.lengths / view.mean_length) for found in postings]
    best: list[list[tuple[Floats, Any]]] = [[] for _ in postings]
    for terms in queries:
        scores = [np.zeros(len(source.keys)) for source in view.sources]
        for term, weight in terms.items():
            found = [(number, *place) for number, one in enumerate(postings) if (place := one.of(term)) is not None]
            holding = sum(int(np.count_nonzero(view.current[number][rows])) for number, rows, _ in found)
            idf = math.log1p((view.count - holding + 0.5) / (holding + 0.5))
            for number, rows, frequencies in found:
                gain = frequencies * (BM25_K1 + 1) / (frequencies + norms[number][rows])
                scores[number][rows] += weight * idf * gain
        for number, (source, passes) in enumerate(zip(view.sources, passing, strict=True)):
            rows = np.flatnonzero(passes & (scores[number] > 0))
            best[number].append(_top(scores[number][rows], source.keys[rows], top_k))
    return best


def _top(scores: Floats, keys: Any, top_k: int) -> tuple[Floats, Any]:
    """The highest scores with their keys, unordered, and all that tie with the last."""
    if len(scores) <= top_k:
        return scores, keys
    kept = scores >= np.partition(scores, len(scores) - top_k)[len(scores) - top_k]
    return scores[kept], keys[kept]


def _merged(parts: Sequence[tuple[Floats, Any]], top_k: int) -> Hits:
    """Best first, equals by key."""
    if not parts:
        return []
    scores = np.concatenate([part[0] for part in parts])
    keys = np.concatenate([part[1] for part in parts])
    order = np.lexsort((keys, -scores))[:top_k]
    return [
        {"id": key, "distance": score, "entity": {}}
        for key, score in zip(keys[order].tolist(), scores[order].tolist(), strict=True)
    ]
