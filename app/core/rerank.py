"""What core asks of a reranker: how well each passage answers each question, read together."""

from collections.abc import Sequence
from typing import Protocol


class Reranker(Protocol):
    """``top`` is how many of the best results are read again."""

    top: int

    async def scores(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """A score for each (question, passage), higher is better. Raises EmbedderUnavailable when it is overloaded."""

    async def close(self) -> None: ...
