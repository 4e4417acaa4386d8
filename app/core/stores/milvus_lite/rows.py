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

    def prepare(self) -> None:
        """Computes what a search needs, so that no search has to."""
        _ = self.norms
        if self._words is not None:
            _ = self.postings

    @cached_property
    def postings(self) -> "Postings":
        assert self._words is not None
        return Postings(self.table.column(self._words).to_pylist())


def sparse_vector(terms: Sequence[int]) -> bytes:
    """The vector of a text's words, each given by its number: pairs of a term and how often it occurs, by term."""
    numbers, counts = np.unique(np.array(terms, "<u4"), return_counts=True)
    pairs = np.empty(len(numbers), PAIR)
    pairs["term"], pairs["frequency"] = numbers, counts
    return pairs.tobytes()


class Postings:
    """An inverted index: which rows contain a term, and how often. ``lengths`` (rows,): number of words of each row."""

    def __init__(self, sparse: Sequence[bytes | None]) -> None:
        vectors = [vector or b"" for vector in sparse]
        counts = np.array([len(vector) // PAIR.itemsize for vector in vectors], np.int64)
        pairs = np.frombuffer(b"".join(vectors), PAIR)
        rows = np.repeat(np.arange(len(vectors)), counts)
        # Sorted as numbers of a term and a place: several times faster than argsort.
        sorted_pairs = np.sort((pairs["term"].astype(np.uint64) << 32) | np.arange(len(pairs), dtype=np.uint64))
        order = (sorted_pairs & 0xFFFFFFFF).astype(np.int64)
        terms = (sorted_pairs >> 32).astype(np.uint32)
        self._rows, self._frequencies = rows[order], pairs["frequency"][order].astype(np.float64)
        starts = np.flatnonzero(np.diff(terms, prepend=~terms[:1]))
        self._terms, self._starts = terms[starts], np.append(starts, len(terms))
        self.lengths: Floats = np.bincount(rows, pairs["frequency"], len(vectors)).astype(float)

    def find(self, term: int) -> tuple[Integers, Floats] | None:
        """Row numbers, each once, and the frequency of the term in each; None if no row contains it."""
        place = int(np.searchsorted(self._terms, np.uint32(term)))
        if place == len(self._terms) or self._terms[place] != term:
            return None
        found = slice(self._starts[place], self._starts[place + 1])
        return self._rows[found], self._frequencies[found]


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
