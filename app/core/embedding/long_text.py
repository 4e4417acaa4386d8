"""Texts of more tokens than the model reads (EMBEDDING_LONG_TEXT): an error, split into parts, or truncated."""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from app.core.embedding.port import Vectors
from app.utils.errors import TextTooLong

LongText = Literal["error", "split", "truncate"]


def too_long(limit: int) -> TextTooLong:
    return TextTooLong(
        f"The embedding model reads at most {limit} tokens of a text, and this one has more: send shorter chunks, or "
        "start the server with EMBEDDING_LONG_TEXT=split."
    )


def split(text: str, fits: Callable[[str], bool]) -> list[str]:
    """The text in parts that fit, halved again and again, between words if possible.

    A single character is returned even if it does not fit.
    """
    if len(text) < 2 or fits(text):
        return [text]
    left, right = halves(text)
    return split(left, fits) + split(right, fits)


def halves(text: str) -> tuple[str, str]:
    """The text in two parts, split at the white space nearest to its middle, but within its middle half."""
    middle, quarter = len(text) // 2, len(text) // 4
    for distance in range(quarter):
        for index in (middle + distance, middle - distance):
            if text[index].isspace() and text[:index].strip() and text[index:].strip():
                return text[:index], text[index:]
    return text[:middle], text[middle:]


def merged(vectors: Vectors, parts: Sequence[str]) -> Vectors:
    """One vector (dimension,) of unit length for a text: the mean of its parts' vectors, weighted by characters.

    ``vectors`` (len(parts), dimension). After OpenAI's cookbook, "Embedding texts that are longer than the model's
    maximum context length".
    """
    lengths = np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    mean = np.average(vectors / lengths, axis=0, weights=[len(part) for part in parts])
    return np.asarray(mean / np.linalg.norm(mean), dtype=np.float32)
