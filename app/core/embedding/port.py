"""The port that core calls to embed texts, and the types of its results. docs/EMBEDDINGS.md: "Adding a provider"."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from app.utils.errors import AppError, EmbeddingInvalid, ErrorLocation, Unavailable

Vectors = NDArray[np.float32]

TextResult = Vectors | AppError
"""The result of one text: its vector (dimension,), or the error of this text."""
TextResults = Vectors | Sequence[TextResult]
"""The results of n texts in order: an array (n, dimension) if every text has a vector, else a sequence of length n."""


class PartialEmbeddingError(EmbeddingInvalid):
    """Some texts of a call have no vector.

    ``vectors`` (n, dimension) has a row for every text of the call, zeros for those without a vector. ``errors`` has
    their errors by index.
    """

    def __init__(self, vectors: Vectors, errors: Mapping[int, AppError]) -> None:
        first = min(errors)
        super().__init__(f"{len(errors)} of {len(vectors)} texts cannot be embedded. Text {first}: {errors[first]}")
        self.vectors = vectors
        self.errors = errors

    def located(self, location: Callable[[int], str]) -> AppError:
        """The error of the first text without a vector, with the locations of all of them.

        ``location`` gives the place of a text in the request, such as ``body.input.3``, by its index.
        """
        first = min(self.errors)
        error = self.errors[first].prefixed(location(first))
        error.locations = tuple(ErrorLocation(location(index), each.detail) for index, each in self.errors.items())
        return error


class Embedder(Protocol):
    """Embeds texts.

    Providers implement this, and so does ``CachingEmbedder``, which ``open_embedder`` puts around every provider. Core
    sees only the latter: there each vector has ``dimension`` finite components and unit length. A provider may return
    vectors of any length, unchecked.

    Implementations do not block the event loop and may be called concurrently. Every method raises EmbedderUnavailable
    when the provider does not answer or is overloaded.
    """

    model: str
    """The name in a bot's registry row, such as ``openai:text-embedding-3-small``: another one means other vectors."""
    dimension: int
    """The number of components of each vector."""
    call_texts: int
    """The number of texts that fill one request to the provider. Callers with many texts send this many per call."""

    async def embed_documents(self, texts: Sequence[str]) -> Vectors:
        """The vectors (len(texts), dimension) of texts to be stored, in order.

        Raises PartialEmbeddingError if some texts have no vector, and an AppError if the whole call failed.
        """

    async def embed_queries(self, texts: Sequence[str]) -> Vectors:
        """As ``embed_documents``, for queries. They go before documents that wait in the queue."""

    async def ping(self) -> None:
        """Returns when the provider can embed. The first call loads or checks the model and may raise StartupError."""

    async def close(self) -> None: ...


def concat_results(parts: Sequence[TextResults]) -> TextResults:
    """The results of all parts in order: an array if every part is one."""
    if len(parts) == 1:
        return parts[0]
    arrays = [part for part in parts if isinstance(part, np.ndarray)]
    return np.concatenate(arrays) if len(arrays) == len(parts) else [result for part in parts for result in part]


def stack_or_raise(results: TextResults) -> Vectors:
    """The results of n texts as an array (n, dimension).

    Raises PartialEmbeddingError if there are errors among them, but Unavailable if every result is Unavailable.
    """
    if isinstance(results, np.ndarray):
        return results
    errors = {index: result for index, result in enumerate(results) if isinstance(result, AppError)}
    if not errors:
        return np.stack(results)  # type: ignore[arg-type]
    unavailable = [error for error in errors.values() if isinstance(error, Unavailable)]
    if len(unavailable) == len(results):
        raise unavailable[0]
    found = [result for result in results if not isinstance(result, AppError)]
    vectors = np.zeros((len(results), found[0].shape[0] if found else 0), dtype=np.float32)
    if found:
        vectors[[index for index in range(len(results)) if index not in errors]] = found
    raise PartialEmbeddingError(vectors, errors)
