"""How much text one answer to a search may hold, looked at before it is read."""

from app.utils.errors import AnswerTooLarge, ErrorLocation

LARGE_TEXTS = 1_000
"""More than so many texts are measured before they are read, which takes a statement more."""
LARGE_AT_A_TIME = 4
"""Searches for so much, in each process; others wait. What one holds while it is answered is some times MAX_BYTES.
While others ask for less, large ones go one at a time with rests between them (``app.core.write.bulk_throttle``)."""
REST = 8.0
LONGEST_REST = 2.0
"""As in ``app.core.write.bulk_throttle``; longer, as the answer is written after the search."""
MAX_BYTES = 16 << 20
"""Of texts in UTF-8. A chatbot reads some kilobytes; whoever exports reads documents, page by page."""


def is_large(results: int, context_chunks: int) -> bool:
    return results * (1 + 2 * context_chunks) > LARGE_TEXTS


def check_bytes(size: int, place: str) -> None:
    """Raises AnswerTooLarge."""
    if size > MAX_BYTES:
        reason = f"the answer's texts would be {size:,} bytes, and may be {MAX_BYTES:,}: ask for less"
        raise AnswerTooLarge(f"{place}: {reason}", places=[ErrorLocation(place, reason)])
