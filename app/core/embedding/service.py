"""Vectors for others: those that this server would store."""

from collections.abc import Sequence
from typing import NamedTuple

from app.core.embedding.check import invalid_vectors
from app.core.embedding.models import embeds_as
from app.core.embedding.port import Embedder, PartialEmbeddingError, Vectors
from app.core.embedding.registry import EmbedderRegistry
from app.utils.errors import EmbeddingInvalid, ErrorLocation, InvalidInput, ModelNotFound


class Embedded(NamedTuple):
    """``model`` is the whole name; ``vectors`` (texts, dimension)."""

    model: str
    vectors: Vectors


class EmbeddingService:
    """The embedders for callers of the API, in the same queue as documents."""

    def __init__(self, embedders: EmbedderRegistry) -> None:
        self._embedders = embedders

    async def vectors(self, model: str, texts: Sequence[str], dimensions: int | None, *, queries: bool) -> Embedded:
        """Vectors in the order of the texts, each as it would be stored for a chunk of this text, or with ``queries``
        as a search would make it of this question.

        ``model`` may be the whole name or begin it: a name "a:b@c" is also found as "a:b", "a" and "b". Raises
        ModelNotFound, InvalidInput for a dimension that is not the model's, EmbedderUnavailable, and, all
        texts that fail being named, the first one's error: EmbeddingInvalid, TextTooLong, TextRefused.
        """
        embedder = self._find(model)
        name, dimension = embedder.model, embedder.dimension
        if dimensions not in (None, dimension):
            detail = f"{name} makes vectors of {dimension} dimensions and cannot shorten them."
            raise InvalidInput(detail, places=[ErrorLocation("body.dimensions", detail)])
        try:
            vectors = await (embedder.embed_queries(texts) if queries else embedder.embed_documents(texts))
        except PartialEmbeddingError as exc:
            raise exc.named(lambda index: f"body.input.{index}") from exc
        if reasons := invalid_vectors(vectors, len(texts), dimension):
            places = [ErrorLocation(f"body.input.{index}", reason) for index, reason in reasons.items()]
            raise EmbeddingInvalid(f"{len(places)} of {len(texts)} vectors are unusable.", places=places)
        return Embedded(name, vectors)

    def _find(self, model: str) -> Embedder:
        for embedder in self._embedders:
            if embeds_as(embedder.model, model):
                return embedder
        runs = " and ".join(embedder.model for embedder in self._embedders)
        raise ModelNotFound(f"This server runs {runs}.", places=[ErrorLocation("body.model", f"is not {runs}")])
