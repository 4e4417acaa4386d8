"""Reranking: scores how well each passage answers a query, by a model that reads both together."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, Protocol

from app.core.embedding.models import is_reranker_name
from app.utils.errors import ErrorLocation, InvalidInput, ModelNotFound, RerankerUnavailable

NO_RERANKER = "This server has no reranker: start it with RERANK_MODEL or RERANK_URL set."
MAX_PAIRS = 2_048
"""Most (query, passage) pairs that a process scores or queues at a time, so also the limit of one request. Enough for a
batch of 64 texts with the default RERANK_TOP_N."""


class PairLimiter:
    """Admits at most MAX_PAIRS pairs at a time. ``pairs``: admitted and not finished."""

    def __init__(self) -> None:
        self.pairs = 0

    @contextmanager
    def admit(self, pairs: int) -> Iterator[None]:
        """Counts the pairs while inside. Raises RerankerUnavailable when they would exceed MAX_PAIRS."""
        if self.pairs + pairs > MAX_PAIRS:
            raise RerankerUnavailable("Too many passages wait to be reranked.", retry_after=5)
        self.pairs += pairs
        try:
            yield
        finally:
            self.pairs -= pairs


def check_pairs(texts: int, top_n: int) -> None:
    """Raises InvalidInput when a search would rerank more pairs than MAX_PAIRS."""
    if texts * top_n > MAX_PAIRS:
        reason = f"{texts} texts of {top_n} results each are more than the {MAX_PAIRS:,} that are reranked at a time"
        raise InvalidInput(f"body.query_texts: {reason}", locations=[ErrorLocation("body.query_texts", reason)])


class Reranker(Protocol):
    """``model``: its name. ``top_n``: how many of the best results of a search it reranks."""

    model: str
    top_n: int

    async def scores(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """A score for each (query, passage), in order; higher is better.

        Raises RerankerUnavailable when the reranker is unavailable or overloaded, and RerankInvalid when it returns no
        usable scores. After a cancellation only the batch in progress is still computed.
        """

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
        """Orders the documents by how well they answer ``query``, best first, and keeps ``top_n`` (None: all).

        Raises ModelNotFound if there is no reranker or ``model`` is not its name, and as ``Reranker.scores``.
        """
        reranker = self._reranker
        if reranker is None:
            raise ModelNotFound(NO_RERANKER)
        if model is not None and not is_reranker_name(model, reranker.model):
            runs = f"This server reranks with {reranker.model}."
            raise ModelNotFound(runs, locations=[ErrorLocation("body.model", f"is not {reranker.model}")])
        scores = await reranker.scores([(query, document) for document in documents])
        ranked = sorted(enumerate(scores), key=lambda one: (-one[1], one[0]))
        return Reranking(reranker.model, ranked[:top_n])
