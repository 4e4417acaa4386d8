"""Limits how much text one answer to a search may hold, and how many large answers are made at a time."""

from contextlib import AbstractAsyncContextManager
from typing import Protocol

from app.utils.errors import AnswerTooLarge, ErrorLocation
from app.utils.stopwatch import Stopwatch

LARGE_TEXTS = 1_000
"""An answer with more texts is large: its texts are measured before they are read, which costs one more statement."""
MAX_LARGE_ANSWERS = 4
"""Large answers that a process makes at the same time. While it is written, one holds several times MAX_BYTES."""
MAX_BYTES = 16 << 20
"""Limit for the texts of one answer, in bytes of UTF-8. Exports can read documents page by page."""


class AnswerThrottle(Protocol):
    """Lets large answers through one at a time, with pauses, while smaller searches arrive."""

    def note_search(self) -> None:
        """Notes that a smaller search has arrived."""

    def slot(self, results: int, timings: Stopwatch, /) -> AbstractAsyncContextManager[None]:
        """Waits until a large answer may begin; the answer is made inside."""


def is_large(results: int, context_chunks: int) -> bool:
    """Whether an answer of so many results, each with its chunk's neighbours, may hold more than LARGE_TEXTS texts."""
    return results * (1 + 2 * context_chunks) > LARGE_TEXTS


def check_bytes(size: int, place: str) -> None:
    """Raises AnswerTooLarge for ``size`` bytes of texts. ``place``: the field that asked for them."""
    if size > MAX_BYTES:
        reason = f"the answer's texts would be {size:,} bytes, and may be {MAX_BYTES:,}: ask for less"
        raise AnswerTooLarge(f"{place}: {reason}", locations=[ErrorLocation(place, reason)])
