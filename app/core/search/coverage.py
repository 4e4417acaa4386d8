"""Which share of a query's words a chunk covers, by inverse document frequency.

How rare a word is comes from a sample of the bot's chunks, not from Milvus: so it works without a lexical field, and is
the same on every server. The sample keeps hashes of 32 bits: one word in 260,000 is taken for another one of 16,384.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from app.core.analyzers.analyzers import tokens
from app.schemas.operation_rows import TermCounts

MAX_TERMS = 16_384
"""Terms of which counts are kept, the most frequent ones: 96 KB for each bot. The others count as unknown, and so they
do almost: they are in one or two chunks of the sample."""
UNSEEN_CHUNKS = 5
"""Chunks without any word, by which the sample counts as larger. In a bot of one chunk every word would be common."""

Terms = str
"""The different terms of a chunk with blanks around each: quick to make, to search, and small in memory."""


def terms(text: str, analyzer_version: int) -> Terms:
    return f" {' '.join(set(tokens(text, analyzer_version)))} "


class TermCounter:
    """Counts in how many of at most 65,535 chunks each term occurs."""

    def __init__(self) -> None:
        self._counts = Counter[str]()
        self._chunks = 0

    def add(self, text: str, analyzer_version: int) -> None:
        self._counts.update(set(tokens(text, analyzer_version)))
        self._chunks += 1

    def result(self) -> TermCounts:
        kept = self._counts.most_common(MAX_TERMS)
        counts = np.fromiter((count for _, count in kept), "<u2", len(kept))
        hashes = _hashes(term for term, _ in kept)
        order = np.argsort(hashes, kind="stable")
        return TermCounts(self._chunks, hashes[order].tobytes() + counts[order].tobytes())


class Match(NamedTuple):
    """How much of a query a chunk has. ``covered`` and ``missing`` are sums over the query's different words, of which
    one that no chunk of the sample has counts 1, and others less."""

    covered: float
    missing: float

    @property
    def coverage(self) -> float:
        """The share of the query's weight that is covered, 0..1; 0 for a query without words."""
        total = self.covered + self.missing
        return self.covered / total if total else 0.0


class QueryTerms(NamedTuple):
    """The different terms of a query with blanks around each, and the weight of each."""

    terms: Sequence[str]
    weights: Sequence[float]

    def match(self, chunk: Terms) -> Match:
        covered = missing = 0.0
        for term, weight in zip(self.terms, self.weights, strict=True):
            if term in chunk:
                covered += weight
            else:
                missing += weight
        return Match(covered, missing)


class DocumentFrequencies:
    """How rare each term is in a bot."""

    def __init__(self, counts: TermCounts) -> None:
        size = len(counts.terms) // 6
        self._hashes = np.frombuffer(counts.terms, "<u4", size)
        self._counts = np.frombuffer(counts.terms, "<u2", size, offset=4 * size)
        self._chunks = counts.sampled + UNSEEN_CHUNKS
        self.nbytes = len(counts.terms)

    def query(self, text: str, analyzer_version: int) -> QueryTerms:
        """The terms of a query with their weights, 0..1: idf (as in BM25), divided by that of a term never seen."""
        different = list(dict.fromkeys(tokens(text, analyzer_version)))
        hashes = _hashes(different)
        frequencies = np.zeros(len(hashes))
        if len(self._hashes):
            positions = np.minimum(np.searchsorted(self._hashes, hashes), len(self._hashes) - 1)
            known = self._hashes[positions] == hashes
            frequencies[known] = self._counts[positions[known]]
        weights = _idf(self._chunks, frequencies) / _idf(self._chunks, np.zeros(1))
        return QueryTerms([f" {term} " for term in different], weights.tolist())


def _idf(chunks: int, frequencies: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.log1p((chunks - frequencies + 0.5) / (frequencies + 0.5))


def _hashes(different: Iterable[str]) -> NDArray[np.uint32]:
    return np.array([crc32(term.encode()) for term in different], "<u4")
