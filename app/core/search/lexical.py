"""Lexical analysis: turns a text into the tokens that the lexical field stores, and estimates BM25 scores.

Runs of Hangul, Kana and Han become overlapping pairs of characters (bigrams), so a noun is found regardless of the
particle after it and of the blanks around it. Every other word is one token. The tokens are joined with blanks, and the
``standard`` analyzers of Milvus and Milvus Lite then only split the text at the blanks.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from app.schemas.milvus import BM25_B, BM25_K1

MAX_BYTES: Final = 65_535
"""Milvus's longest VARCHAR, in bytes of UTF-8 (https://milvus.io/docs/limitations.md)."""

_BIGRAM_CHARS: Final = (
    "\u1100-\u11ff\ua960-\ua97f\uac00-\ud7ff"  # Hangul
    "\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff"  # Kana
    "\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"  # Han
)
_RUN: Final = re.compile(f"(?P<bigrams>(?:(?=\\w)[{_BIGRAM_CHARS}])+)|[^\\W_{_BIGRAM_CHARS}]+")


def tokens(text: str) -> Iterator[str]:
    """The tokens of the text in order, in NFKC and lower case. A run of a single bigram character is one token."""
    for run in _RUN.finditer(unicodedata.normalize("NFKC", text).lower()):
        found = run.group()
        if run.lastgroup is None or len(found) == 1:
            yield found
        else:
            yield from map(str.__add__, found, found[1:])


def lexical_text(text: str) -> str:
    """The tokens joined with blanks, in at most MAX_BYTES bytes of UTF-8.

    The 8,192 characters of a chunk make at most 57,336 bytes as bigrams of Hangul, Kana or common Han. Rare Han, with
    four bytes each, and characters that NFKC expands can exceed MAX_BYTES. Then the last tokens are left out, and the
    text is found by the others.
    """
    joined = " ".join(tokens(text))
    if len(joined) * 4 <= MAX_BYTES:
        return joined
    encoded = joined.encode()
    if len(encoded) <= MAX_BYTES:
        return joined
    end = encoded.rfind(b" ", 0, MAX_BYTES + 1)
    return encoded[: end if end > 0 else MAX_BYTES].decode(errors="ignore")


def estimated_bm25(query: str, texts: Sequence[str], scored: Sequence[tuple[str, float]]) -> list[float]:
    """An estimate of the BM25 score that the collection would give each of ``texts``; 0 if it shares no token.

    Only the collection knows how rare a token is. So the weight of each token is fitted, by least squares, to the
    ``scored`` texts, whose BM25 is known. A token that none of them has gets the highest weight.
    """
    query_counts = Counter(tokens(query))
    counts = [Counter(tokens(text)) for text in texts]
    known = [Counter(tokens(text)) for text, _ in scored]
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
