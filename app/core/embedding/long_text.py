"""Texts that are longer than the model reads: refused, split, or cut where that is asked for; never cut in silence."""

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
    """The text in parts that fit, halved between words where there are any. A single character is left as it is."""
    if len(text) < 2 or fits(text):
        return [text]
    left, right = halves(text)
    return split(left, fits) + split(right, fits)


def halves(text: str) -> tuple[str, str]:
    """Parted at the white space nearest to the middle, if that lies in the middle half."""
    middle, reach = len(text) // 2, len(text) // 4
    for distance in range(reach):
        for place in (middle + distance, middle - distance):
            if text[place].isspace() and text[:place].strip() and text[place:].strip():
                return text[:place], text[place:]
    return text[:middle], text[middle:]


def merged(vectors: Vectors, parts: Sequence[str]) -> Vectors:
    """One vector (dimension,) of length 1 for a text in parts: their mean, weighted by characters.

    After OpenAI's cookbook, "Embedding texts that are longer than the model's maximum context length".
    """
    lengths = np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    mean = np.average(vectors / lengths, axis=0, weights=[len(part) for part in parts])
    return np.asarray(mean / np.linalg.norm(mean), dtype=np.float32)
