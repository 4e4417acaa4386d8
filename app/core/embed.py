"""Vectors for others: those that this server would store."""

from collections.abc import Sequence

from app.core.embedding.check import unusable
from app.core.embedding.port import Embedder, TextsFailed, Vectors
from app.utils.errors import EmbeddingInvalid, InvalidInput, ModelNotFound, Place


class Embed:
    """The embedder for callers of the API, in the same queue as documents."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder

    @property
    def model(self) -> str:
        return self._embedder.model

    async def documents(self, model: str, texts: Sequence[str], dimensions: int | None) -> Vectors:
        """Vectors (len(texts), dimension) in order, each as it would be stored for a chunk of this text.

        ``model`` may be the whole name or begin it: a name "a:b@c" is also found as "a:b", "a" and "b". Raises
        ModelNotFound, InvalidInput for a dimension that is not the model's, EmbedderUnavailable, and, all
        texts that fail being named, the first one's error: EmbeddingInvalid, TextTooLong, TextRefused.
        """
        name, dimension = self._embedder.model, self._embedder.dimension
        _, _, own = name.partition(":")
        if model not in (name, own) and not any(whole.startswith((f"{model}@", f"{model}:")) for whole in (name, own)):
            raise ModelNotFound(f"This server runs {name}.", places=[Place("body.model", f"is not {name}")])
        if dimensions not in (None, dimension):
            detail = f"{name} makes vectors of {dimension} dimensions and cannot shorten them."
            raise InvalidInput(detail, places=[Place("body.dimensions", detail)])
        try:
            vectors = await self._embedder.embed_documents(texts)
        except TextsFailed as exc:
            raise exc.named(lambda index: f"body.input.{index}") from exc
        if reasons := unusable(vectors, len(texts), dimension):
            places = [Place(f"body.input.{index}", reason) for index, reason in reasons.items()]
            raise EmbeddingInvalid(f"{len(places)} of {len(texts)} vectors are unusable.", places=places)
        return vectors
