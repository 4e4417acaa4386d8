"""What a collection of Milvus Lite holds at one moment, as arrays: keys, vectors, postings, and which rows are current.

A segment never changes, nor does a batch of rows not yet flushed: what is made of one is kept with it.
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
    """The rows of an immutable table: their keys and sequence numbers."""

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
    """The terms of rows: which rows hold a term, and how often. ``lengths``: how many words a row has."""

    def __init__(self, sparse: Sequence[bytes | None]) -> None:
        vectors = [vector or b"" for vector in sparse]
        counts = np.array([len(vector) // PAIR.itemsize for vector in vectors], np.int64)
        pairs = np.frombuffer(b"".join(vectors), PAIR)
        rows = np.repeat(np.arange(len(vectors)), counts)
        order = np.argsort(pairs["term"], kind="stable")
        self._rows, self._frequencies = rows[order], pairs["frequency"][order].astype(np.float64)
        terms, starts = np.unique(pairs["term"][order], return_index=True)
        ends = np.append(starts, len(order))[1:]
        self._places = dict(zip(terms.tolist(), zip(starts.tolist(), ends.tolist(), strict=True), strict=True))
        self.lengths: Floats = np.zeros(len(vectors))
        np.add.at(self.lengths, rows, pairs["frequency"])

    def of(self, term: int) -> tuple[Integers, Floats] | None:
        """Rows, each once, and frequencies."""
        place = self._places.get(term)
        return None if place is None else (self._rows[slice(*place)], self._frequencies[slice(*place)])


@dataclass(frozen=True)
class View:
    """All rows of the collection at one moment, and which of them are current."""

    token: tuple[int, ...]
    held: tuple[object, ...]  # Whose identities the token has: alive, so that nothing else can have them.
    sources: Sequence[Rows]
    current: Sequence[Bools]

    @cached_property
    def count(self) -> int:
        return sum(int(np.count_nonzero(live)) for live in self.current)

    @cached_property
    def mean_length(self) -> float:
        """Words of a row, on average; 1 where there are none."""
        total = sum(
            float(source.postings.lengths[live].sum()) for source, live in zip(self.sources, self.current, strict=True)
        )
        return total / self.count if total else 1.0


def current(sources: Sequence[Rows], deletes: Sequence[Mapping[int, int]]) -> list[Bools]:
    """For each source which rows are the newest of their key and not deleted since.

    ``deletes``: the sequence number of each key's newest delete.
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
            place = np.minimum(np.searchsorted(deleted[:, 0], keys), len(deleted) - 1)
            live &= (deleted[place, 0] != keys) | (deleted[place, 1] <= seqs)
    return np.split(live, np.cumsum([len(source.keys) for source in sources])[:-1])
