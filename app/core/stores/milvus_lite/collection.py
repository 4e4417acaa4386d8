"""Milvus Lite's collection with its own BM25 statistics, faster searches, and no gap during a flush.

BM25: Milvus Lite scores each segment and the rows that are not flushed with separate statistics, so a new row ranks as
if it were alone in a collection. This class uses the statistics of the whole collection, as a Milvus server does.

Speed: Milvus Lite loops over all rows in Python and unpacks each hit with its vector, 20 ms for 100 hits. This class
works on arrays, and computes which rows are current once after each write. It takes inserts as arrays too.

Flush: Milvus Lite swaps the memtable before the new segment is visible, so for a moment a search misses acknowledged
rows. This class makes searches wait until the flush has ended. The first search by words after a flush would have to
sort all words of the new segment, so the collection's thread does it.
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from milvus_lite.constants import DEFAULT_PARTITION
from milvus_lite.engine.operation import InsertOp
from milvus_lite.index.spec import IndexSpec
from milvus_lite.search.filter import evaluate_mask
from milvus_lite.storage.segment import Segment

from app.core.stores.milvus_lite.durable import DurableCollection
from app.core.stores.milvus_lite.read_write_lock import ReadWriteLock
from app.core.stores.milvus_lite.rows import Bools, Floats, Rows, View, current, sparse_vector
from app.schemas.milvus import BM25_B, BM25_K1, CHUNK_ID, DOC_ID, EMBEDDING, LEXICAL, LEXICAL_SPARSE

Hits = list[dict[str, Any]]
FAST_PATH = {
    "query_vectors", "top_k", "metric_type", "expr", "anns_field", "timezone", "search_params", "group_size",
}  # fmt: skip
"""Arguments that ``_search_fast`` supports."""
EXACT_ROWS = 20_000
"""Up to this number of rows a segment is searched exhaustively, in 5 ms; beyond it, by its vector index."""


class LiteCollection(DurableCollection):
    """Milvus Lite's Collection. BM25 by the formula of Robertson and Zaragoza (2009), with Milvus's statistics."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._rows_lock = ReadWriteLock()
        self._view: View | None = None
        self._segment_rows: dict[int, tuple[object, Rows]] = {}  # by id(), with the segment itself
        self._batch_rows: dict[int, Rows] = {}
        super().__init__(*args, **kwargs)

    def search(self, *args: Any, **kwargs: Any) -> list[Hits]:
        """Milvus Lite's search, with a fast path for the requests of this server, which need only keys and scores."""
        with self._rows_lock.read():
            given = {name for name, value in kwargs.items() if value}
            if not args and given <= FAST_PATH and kwargs.get("anns_field") in (EMBEDDING, LEXICAL_SPARSE):
                return [_hits(*found) for found in self._search_fast(**kwargs)]
            return super().search(*args, **kwargs)  # type: ignore[no-any-return]

    def query(self, *args: Any, **kwargs: Any) -> list[dict[str, Any]]:
        with self._rows_lock.read():
            return super().query(*args, **kwargs)  # type: ignore[no-any-return]

    def get(self, *args: Any, **kwargs: Any) -> list[dict[str, Any]]:
        with self._rows_lock.read():
            return super().get(*args, **kwargs)  # type: ignore[no-any-return]

    def best(
        self, queries: Any, top_k: int, field: str, expression: str | None, params: dict[str, Any]
    ) -> list[tuple[Floats, Any]]:
        """For each query the scores and keys of its ``top_k`` best rows, best first. Raises MilvusLiteError.

        ``queries``: vectors (queries, dimension), or texts for the lexical field. ``params``: of the vector index.
        """
        with self._rows_lock.read():
            return self._search_fast(queries, top_k, field, expression, search_params=params)

    def takes(self, dimension: int, *, has_words: bool) -> bool:
        """Whether ``insert_columns`` takes vectors of this dimension, with or without words."""
        fields = [CHUNK_ID, DOC_ID, EMBEDDING, *([LEXICAL, LEXICAL_SPARSE] if has_words else [])]
        return self._wal_data_schema.names == ["_seq", "_partition", *fields] and self.dimension == dimension

    @property
    def dimension(self) -> int:
        """Of the embeddings; 0 if the collection has none."""
        schema = self._wal_data_schema
        return int(schema.field(EMBEDDING).type.list_size) if EMBEDDING in schema.names else 0

    def insert_columns(
        self, chunk_ids: Sequence[int], doc_ids: Sequence[int], vectors: Floats, words: Sequence[str] | None
    ) -> None:
        """Milvus Lite's ``insert`` for columns of equal lengths. Raises what a failed write or flush raises."""
        rows = len(vectors)
        first = self._next_seq
        columns = {
            "_seq": np.arange(first, first + rows, dtype=np.uint64),
            "_partition": [DEFAULT_PARTITION] * rows,
            CHUNK_ID: list(chunk_ids),
            DOC_ID: list(doc_ids),
            EMBEDDING: pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1]),
        }
        if words is not None:
            analyzer = self._bm25_analyzers[LEXICAL_SPARSE]
            columns |= {LEXICAL: list(words), LEXICAL_SPARSE: [sparse_vector(analyzer.analyze(text)) for text in words]}
        batch = pa.RecordBatch.from_pydict(columns, schema=self._wal_data_schema)
        self._next_seq += rows
        self._apply(InsertOp(partition=DEFAULT_PARTITION, batch=batch))
        if self._should_flush():
            self._trigger_flush()

    def _trigger_flush(self) -> None:
        with self._rows_lock.write():
            super()._trigger_flush()

    def _bg_compact_and_index(self) -> None:
        """Milvus Lite's work after a flush, in a thread of the collection."""
        self._prepare_searches()
        super()._bg_compact_and_index()
        self._prepare_searches()

    def _prepare_searches(self) -> None:
        """Computes what the next search needs, if the collection has been searched since it was opened."""
        if self._view is None:
            return
        with self._rows_lock.read():
            for source in self._current_view().sources:
                source.prepare()

    def _build_or_load_segment_index(self, seg: Segment, spec: IndexSpec) -> None:
        """Not for a segment that is searched exhaustively: building takes longer than all else of a load."""
        if spec.field_name != EMBEDDING or seg.num_rows > EXACT_ROWS:
            super()._build_or_load_segment_index(seg, spec)

    def live_keys(self) -> set[int]:
        with self._rows_lock.read():
            view = self._current_view()
            return {
                key
                for source, live in zip(view.sources, view.current, strict=True)
                for key in source.keys[live].tolist()
            }

    def _search_fast(
        self,
        query_vectors: list[Any],
        top_k: int,
        anns_field: str,
        expr: str | None = None,
        timezone: str | None = None,
        search_params: dict[str, Any] | None = None,
        **_: Any,
    ) -> list[tuple[Floats, Any]]:
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
            found = _best_by_bm25(view, passing, [self._terms(text) for text in query_vectors], top_k)
        return [_merged([of_source[number] for of_source in found], top_k) for number in range(len(query_vectors))]

    def _terms(self, text: str) -> Counter[int]:
        return Counter(self._bm25_analyzers[LEXICAL_SPARSE].analyze(text))

    def _nearest(
        self, source: Rows, passes: Bools, queries: Floats, top_k: int, params: dict[str, Any] | None
    ) -> list[tuple[Floats, Any]]:
        """For each query the cosine similarities and keys of the ``top_k`` nearest rows of ``source``."""
        rows = np.flatnonzero(passes)
        index = self._index_of(source)
        if len(rows) > EXACT_ROWS and index is not None:
            ids, distances = index.search(queries, top_k, valid_mask=None if passes.all() else passes, params=params)
            return [
                (1 - near[number >= 0], source.keys[number[number >= 0]])
                for number, near in zip(ids, distances, strict=True)
            ]
        # If more than a quarter of the rows pass, computing all is cheaper than copying the passing ones.
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
        # Every write adds a batch or a newer delete; a flush or a compaction changes the segments.
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


def _best_by_bm25(
    view: View, passing: Sequence[Bools], queries: Sequence[Counter[int]], top_k: int
) -> list[list[tuple[Floats, Any]]]:
    """For each source and query the BM25 scores and keys of the ``top_k`` best rows.

    A term that occurs several times in a query counts as often.
    """
    postings = [source.postings for source in view.sources]
    norms = [BM25_K1 * (1 - BM25_B + BM25_B * found.lengths / view.mean_length) for found in postings]
    best: list[list[tuple[Floats, Any]]] = [[] for _ in postings]
    for terms in queries:
        scores = [np.zeros(len(source.keys)) for source in view.sources]
        for term, weight in terms.items():
            found = [(number, *match) for number, each in enumerate(postings) if (match := each.find(term)) is not None]
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
    """The ``top_k`` highest scores with their keys, unordered, and all that tie with the lowest of them."""
    if len(scores) <= top_k:
        return scores, keys
    kept = scores >= np.partition(scores, len(scores) - top_k)[len(scores) - top_k]
    return scores[kept], keys[kept]


def _merged(parts: Sequence[tuple[Floats, Any]], top_k: int) -> tuple[Floats, Any]:
    """Scores and keys of the ``top_k`` best hits of all parts, best first; ties by key."""
    if not parts:
        return np.zeros(0), np.zeros(0, np.int64)
    scores = np.concatenate([part[0] for part in parts])
    keys = np.concatenate([part[1] for part in parts])
    order = np.lexsort((keys, -scores))[:top_k]
    return scores[order], keys[order]


def _hits(scores: Floats, keys: Any) -> Hits:
    """As Milvus Lite's search returns them."""
    return [
        {"id": key, "distance": score, "entity": {}} for key, score in zip(keys.tolist(), scores.tolist(), strict=True)
    ]
