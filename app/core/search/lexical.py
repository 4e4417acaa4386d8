"""The words of a text as the lexical field holds them: tokens of letters and digits, joined with blanks.

Runs of Hangul, Kana and Han become overlapping pairs of characters, so that a noun is found whatever particle
follows it and wherever blanks stand. Every other word stays whole. What Milvus's and Milvus Lite's own ``standard``
analyzers do to such a text is the same: they split it at the blanks.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from app.schemas.milvus import BM25_B, BM25_K1

MAX_BYTES: Final = 65_535
"""Longest VARCHAR of Milvus (https://milvus.io/docs/limitations.md)."""

_PAIRED: Final = (
    "\u1100-\u11ff\ua960-\ua97f\uac00-\ud7ff"  # Hangul
    "\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff"  # Kana
    "\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"  # Han
)
_RUN: Final = re.compile(f"(?P<paired>(?:(?=\\w)[{_PAIRED}])+)|[^\\W_{_PAIRED}]+")


def tokens(text: str) -> Iterator[str]:
    """The text's tokens in order, after NFKC and in lower case. A run of one paired character is a token itself."""
    for run in _RUN.finditer(unicodedata.normalize("NFKC", text).lower()):
        found = run.group()
        if run.lastgroup is None or len(found) == 1:
            yield found
        else:
            yield from map(str.__add__, found, found[1:])


def lexical_text(text: str) -> str:
    """The tokens joined with blanks, at most MAX_BYTES of UTF-8.

    A chunk's 8,192 characters make at most 57,336 bytes as pairs of Hangul, Kana or common Han. Rare Han of four bytes
    and what NFKC unfolds can pass MAX_BYTES: then the last tokens are left out, and the text is found by the others.
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
    """About the BM25 that the collection would give each of ``texts``; 0 where it shares no token with ``query``.

    How rare a token is only the collection knows: each token's weight is fitted, by least squares, to the ``scored``
    texts, whose BM25 is known. A token that none of these has gets the greatest weight.
    """
    asked = Counter(tokens(query))
    counts = [Counter(tokens(text)) for text in texts]
    known = [Counter(tokens(text)) for text, _ in scored]
    lengths = [words.total() for words in known or counts]
    mean = sum(lengths) / max(len(lengths), 1) or 1.0

    def saturation(words: Counter[str]) -> list[float]:
        norm = BM25_K1 * (1 - BM25_B + BM25_B * words.total() / mean)
        return [count * words[token] * (BM25_K1 + 1) / (words[token] + norm) for token, count in asked.items()]

    weights = np.ones(len(asked))
    if known and asked:
        matrix = np.array([saturation(words) for words in known])
        weights = np.linalg.lstsq(matrix, np.array([score for _, score in scored]), rcond=None)[0].clip(1e-3)
        weights[~matrix.any(axis=0)] = weights.max()
    return [float(np.dot(saturation(words), weights)) for words in counts]
