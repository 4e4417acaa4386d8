"""Reranking: how well each passage answers a question, both read together."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, Protocol

from app.utils.errors import ErrorLocation, InvalidInput, ModelNotFound, RerankerUnavailable

NO_RERANKER = "This server has no reranker: start it with RERANK_MODEL or RERANK_URL set."
MAX_PAIRS = 2_048
"""Of (question, passage) at work or waiting in each process, and so of one request: enough for a batch of 64 texts with
the default RERANK_TOP."""


class PairQueue:
    """Counts the pairs at work and waiting."""

    def __init__(self) -> None:
        self.pairs = 0

    @contextmanager
    def waiting(self, pairs: int) -> Iterator[None]:
        """While they are at work or wait. Raises RerankerUnavailable when there is no room for so many."""
        if self.pairs + pairs > MAX_PAIRS:
            raise RerankerUnavailable("Too many passages wait to be reranked.", retry_after=5)
        self.pairs += pairs
        try:
            yield
        finally:
            self.pairs -= pairs


def check_pairs(texts: int, top: int) -> None:
    """Raises InvalidInput when a search reranks more than ever fits."""
    if texts * top > MAX_PAIRS:
        reason = f"{texts} texts of {top} results each are more than the {MAX_PAIRS:,} that are reranked at a time"
        raise InvalidInput(f"body.query_texts: {reason}", places=[ErrorLocation("body.query_texts", reason)])


class Reranker(Protocol):
    """``model`` is its name; ``top`` how many of the best results of a search are read again."""

    model: str
    top: int

    async def scores(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """A score for each (question, passage), higher is better. Raises RerankerUnavailable when it is away or
        overloaded, and RerankInvalid when it gives no usable score. Whoever is cancelled has no more read for it than
        what is at work at that moment."""

    async def close(self) -> None: ...


class Reranking(NamedTuple):
    """``passages``: (index, score), best first."""

    model: str
    passages: list[tuple[int, float]]


class RerankingService:
    """The reranker for callers of the API."""

    def __init__(self, reranker: Reranker | None) -> None:
        self._reranker = reranker

    async def rank(self, model: str | None, query: str, documents: Sequence[str], top_n: int | None) -> Reranking:
        """The documents by how well they answer ``query``, best first; the ``top_n`` best of them.

        Raises ModelNotFound when there is no reranker or ``model`` names another, and as ``Reranker.scores``.
        """
        reranker = self._reranker
        if reranker is None:
            raise ModelNotFound(NO_RERANKER)
        if model is not None and model not in (reranker.model, reranker.model.rpartition("/")[2]):
            runs = f"This server reranks with {reranker.model}."
            raise ModelNotFound(runs, places=[ErrorLocation("body.model", f"is not {reranker.model}")])
        scores = await reranker.scores([(query, document) for document in documents])
        ranked = sorted(enumerate(scores), key=lambda one: (-one[1], one[0]))
        return Reranking(reranker.model, ranked[:top_n])
