"""The rows of a Milvus Lite collection at one moment, as arrays: keys, vectors, postings, and which rows are current.

Segments and batches of rows that are not flushed are immutable, so the arrays made of one are cached with it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Bools = NDArray[np.bool_]
Integers = NDArray[np.int64]
Floats = NDArray[np.floating[Any]]
PAIR = np.dtype([("term", "<u4"), ("frequency", "<f4")])
"""One term of a sparse vector, as Milvus Lite stores it."""


class Rows:
    """The rows of an immutable table: keys and sequence numbers, and on demand vectors and postings."""

    def __init__(self, table: "pa.Table | pa.RecordBatch", key: str, embedding: str, words: str | None) -> None:
        self.table = table
        self.keys: Integers = table.column(key).to_numpy(zero_copy_only=False).astype(np.int64)
        self.seqs: Integers = table.column("_seq").to_numpy(zero_copy_only=False).astype(np.int64)
        self._embedding = embedding
        self._words = words

    @cached_property
    def vectors(self) -> Floats:
        """(rows, dimension)."""
        column = self.table.column(self._embedding)
        parts = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
        flat = [np.asarray(part.flatten(), np.float32) for part in parts]
        vectors: Floats = np.concatenate(flat).reshape(len(self.keys), -1)
        return vectors

    @cached_property
    def norms(self) -> Floats:
        return np.asarray(np.linalg.norm(self.vectors, axis=1))

    @cached_property
    def postings(self) -> "Postings":
        assert self._words is not None
        return Postings(self.table.column(self._words).to_pylist())


class Postings:
    """An inverted index: which rows contain a term, and how often. ``lengths`` (rows,): number of words of each row."""

    def __init__(self, sparse: Sequence[bytes | None]) -> None:
        vectors = [vector or b"" for vector in sparse]
        counts = np.array([len(vector) // PAIR.itemsize for vector in vectors], np.int64)
        pairs = np.frombuffer(b"".join(vectors), PAIR)
        rows = np.repeat(np.arange(len(vectors)), counts)
        order = np.argsort(pairs["term"], kind="stable")
        self._rows, self._frequencies = rows[order], pairs["frequency"][order].astype(np.float64)
        terms, starts = np.unique(pairs["term"][order], return_index=True)
        ends = np.append(starts, len(order))[1:]
        self._ranges = dict(zip(terms.tolist(), zip(starts.tolist(), ends.tolist(), strict=True), strict=True))
        self.lengths: Floats = np.zeros(len(vectors))
        np.add.at(self.lengths, rows, pairs["frequency"])

    def find(self, term: int) -> tuple[Integers, Floats] | None:
        """Row numbers, each once, and the frequency of the term in each; None if no row contains it."""
        found = self._ranges.get(term)
        return None if found is None else (self._rows[slice(*found)], self._frequencies[slice(*found)])


@dataclass(frozen=True)
class View:
    """All rows of a collection at one moment, and which of them are current.

    ``token`` changes with every write. It contains ids of objects, so ``held`` keeps those objects alive: no other
    object can get the same id.
    """

    token: tuple[int, ...]
    held: tuple[object, ...]
    sources: Sequence[Rows]
    current: Sequence[Bools]

    @cached_property
    def count(self) -> int:
        return sum(int(np.count_nonzero(live)) for live in self.current)

    @cached_property
    def mean_length(self) -> float:
        """Mean number of words of a current row; 1 if there are no words."""
        total = sum(
            float(source.postings.lengths[live].sum()) for source, live in zip(self.sources, self.current, strict=True)
        )
        return total / self.count if total else 1.0


def current(sources: Sequence[Rows], deletes: Sequence[Mapping[int, int]]) -> list[Bools]:
    """For each source a mask (rows,): whether the row is the newest one of its key and was not deleted after that.

    ``deletes``: maps of keys to the sequence number of their newest delete.
    """
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
            position = np.minimum(np.searchsorted(deleted[:, 0], keys), len(deleted) - 1)
            live &= (deleted[position, 0] != keys) | (deleted[position, 1] <= seqs)
    return np.split(live, np.cumsum([len(source.keys) for source in sources])[:-1])
