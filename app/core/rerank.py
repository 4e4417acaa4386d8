"""Reranking: how well each passage answers a question, both read together."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from app.utils.errors import ModelNotFound, Place

NO_RERANKER = "This server has no reranker: start it with RERANK_MODEL or RERANK_URL set."


class Reranker(Protocol):
    """``model`` is its name; ``top`` how many of the best results of a search are read again."""

    model: str
    top: int

    async def scores(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """A score for each (question, passage), higher is better. Raises RerankerUnavailable when it is away or
        overloaded, and RerankInvalid when it gives no usable score."""

    async def close(self) -> None: ...


class Reranking(NamedTuple):
    """``passages``: (index, score), best first."""

    model: str
    passages: list[tuple[int, float]]


class RerankingService:
    """The reranker for callers of the API."""

    def __init__(self, reranker: Reranker | None) -> None:
        self._reranker = reranker

    @property
    def model(self) -> str | None:
        return None if self._reranker is None else self._reranker.model

    async def rank(self, model: str | None, query: str, documents: Sequence[str], top_n: int | None) -> Reranking:
        """The documents by how well they answer ``query``, best first; the ``top_n`` best of them.

        Raises ModelNotFound when there is no reranker or ``model`` names another, and as ``Reranker.scores``.
        """
        reranker = self._reranker
        if reranker is None:
            raise ModelNotFound(NO_RERANKER)
        if model is not None and model not in (reranker.model, reranker.model.rpartition("/")[2]):
            runs = f"This server reranks with {reranker.model}."
            raise ModelNotFound(runs, places=[Place("body.model", f"is not {reranker.model}")])
        scores = await reranker.scores([(query, document) for document in documents])
        ranked = sorted(enumerate(scores), key=lambda one: (-one[1], one[0]))
        return Reranking(reranker.model, ranked[:top_n])
