"""Estimates BM25 scores of texts that the collection does not have yet."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from app.schemas.milvus import BM25_B, BM25_K1


def estimated_bm25(
    query: Counter[str], texts: Sequence[Counter[str]], scored: Sequence[tuple[Counter[str], float]]
) -> list[float]:
    """An estimate of the BM25 score that the collection would give each of ``texts``; 0 if it shares no token.

    A text is given as the number of each of its tokens. Only the collection knows how rare a token is. So the weight of
    each token is fitted, by least squares, to the ``scored`` texts, whose BM25 is known. A token that none of them has
    gets the highest weight.
    """
    known = [words for words, _ in scored]
    lengths = [words.total() for words in known or texts]
    mean = sum(lengths) / max(len(lengths), 1) or 1.0

    def saturation(words: Counter[str]) -> list[float]:
        norm = BM25_K1 * (1 - BM25_B + BM25_B * words.total() / mean)
        return [count * words[token] * (BM25_K1 + 1) / (words[token] + norm) for token, count in query.items()]

    weights = np.ones(len(query))
    if known and query:
        matrix = np.array([saturation(words) for words in known])
        weights = np.linalg.lstsq(matrix, np.array([score for _, score in scored]), rcond=None)[0].clip(1e-3)
        weights[~matrix.any(axis=0)] = weights.max()
    return [float(np.dot(saturation(words), weights)) for words in texts]
