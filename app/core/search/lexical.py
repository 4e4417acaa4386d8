"""Estimates BM25 scores of texts that the collection does not have yet."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from app.core.analyzers.analyzers import tokens
from app.schemas.milvus import BM25_B, BM25_K1


def estimated_bm25(
    query: str, texts: Sequence[str], scored: Sequence[tuple[str, float]], analyzer_version: int
) -> list[float]:
    """An estimate of the BM25 score that the collection would give each of ``texts``; 0 if it shares no token.

    Only the collection knows how rare a token is. So the weight of each token is fitted, by least squares, to the
    ``scored`` texts, whose BM25 is known. A token that none of them has gets the highest weight.
    """
    query_counts = Counter(tokens(query, analyzer_version))
    counts = [Counter(tokens(text, analyzer_version)) for text in texts]
    known = [Counter(tokens(text, analyzer_version)) for text, _ in scored]
    lengths = [words.total() for words in known or counts]
    mean = sum(lengths) / max(len(lengths), 1) or 1.0

    def saturation(words: Counter[str]) -> list[float]:
        norm = BM25_K1 * (1 - BM25_B + BM25_B * words.total() / mean)
        return [count * words[token] * (BM25_K1 + 1) / (words[token] + norm) for token, count in query_counts.items()]

    weights = np.ones(len(query_counts))
    if known and query_counts:
        matrix = np.array([saturation(words) for words in known])
        weights = np.linalg.lstsq(matrix, np.array([score for _, score in scored]), rcond=None)[0].clip(1e-3)
        weights[~matrix.any(axis=0)] = weights.max()
    return [float(np.dot(saturation(words), weights)) for words in counts]
