"""Embeds texts for callers of the API (POST /v1/embeddings)."""

from collections.abc import Sequence
from typing import NamedTuple

from app.core.embedding.models import is_embedder_name
from app.core.embedding.port import Embedder, PartialEmbeddingError, Vectors
from app.core.embedding.registry import EmbedderRegistry
from app.utils.errors import ErrorLocation, InvalidInput, ModelNotFound


class Embedded(NamedTuple):
    """``model``: the model's full name. ``vectors`` (texts, dimension)."""

    model: str
    vectors: Vectors


class EmbeddingService:
    """Uses the embedders and the queue that inserts and searches use."""

    def __init__(self, embedders: EmbedderRegistry) -> None:
        self._embedders = embedders

    async def vectors(self, model: str, texts: Sequence[str], dimensions: int | None, *, queries: bool) -> Embedded:
        """The vectors of the texts, in order: those that would be stored for chunks, or with ``queries`` those that a
        search would use.

        ``model`` may be a short name, see ``is_embedder_name``. Raises ModelNotFound, InvalidInput if ``dimensions`` is
        not the model's, EmbedderUnavailable, or the error of the first text that failed (EmbeddingInvalid, TextTooLong,
        TextRefused) with the locations of all texts that failed.
        """
        embedder = self._find(model)
        name, dimension = embedder.model, embedder.dimension
        if dimensions not in (None, dimension):
            detail = f"{name} makes vectors of {dimension} dimensions and cannot shorten them."
            raise InvalidInput(detail, locations=[ErrorLocation("body.dimensions", detail)])
        try:
            vectors = await (embedder.embed_queries(texts) if queries else embedder.embed_documents(texts))
        except PartialEmbeddingError as exc:
            raise exc.located(lambda index: f"body.input.{index}") from exc
        return Embedded(name, vectors)

    def _find(self, model: str) -> Embedder:
        for embedder in self._embedders:
            if is_embedder_name(model, embedder.model):
                return embedder
        runs = " and ".join(embedder.model for embedder in self._embedders)
        raise ModelNotFound(f"This server runs {runs}.", locations=[ErrorLocation("body.model", f"is not {runs}")])
