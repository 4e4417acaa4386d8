"""What core asks of an embedder."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from app.utils.errors import AppError, EmbeddingInvalid, ErrorLocation, Unavailable

Vectors = NDArray[np.float32]

Row = Vectors | AppError
"""What became of one text: its vector (dimension,), or the error that is its own."""
Rows = Vectors | Sequence[Row]
"""What became of several: the array (n, dimension) where each has a vector and they came together."""


class PartialEmbeddingError(EmbeddingInvalid):
    """Some texts of a call have no vector. ``errors`` says why, by index; ``vectors`` has the others, in place."""

    def __init__(self, vectors: Vectors, errors: Mapping[int, AppError]) -> None:
        first = min(errors)
        super().__init__(f"{len(errors)} of {len(vectors)} texts cannot be embedded. Text {first}: {errors[first]}")
        self.vectors = vectors
        self.errors = errors

    def named(self, place: Callable[[int], str]) -> AppError:
        """The first text's error, with the places of all of them."""
        first = min(self.errors)
        error = self.errors[first].at(place(first))
        error.places = tuple(ErrorLocation(place(index), one.detail) for index, one in self.errors.items())
        return error


class Embedder(Protocol):
    """Turns text into vectors. Implementations run off the event loop and are safe to call concurrently.

    ``model`` is the name that is written to a bot's registry row; ``dimension`` the length of each vector.
    ``call_texts`` is how many texts a call should bring, where there are so many, to be worth a request.
    All calls raise ``EmbedderUnavailable`` when the provider is away or overloaded.
    """

    model: str
    dimension: int
    call_texts: int

    async def embed_documents(self, texts: Sequence[str]) -> Vectors:
        """Vectors (len(texts), dimension) in the order of ``texts``, unchecked (see ``check.unusable``).

        Raises TextsFailed when some texts have none, and what stands in the way of all of them.
        """

    async def embed_queries(self, texts: Sequence[str]) -> Vectors:
        """As ``embed_documents``, for questions. Goes before documents that wait."""

    async def ping(self) -> None:
        """Returns when the embedder can answer."""

    async def close(self) -> None: ...


def concat_rows(parts: Sequence[Rows]) -> Rows:
    """The rows of one part after those of the other; an array if all are."""
    if len(parts) == 1:
        return parts[0]
    arrays = [part for part in parts if isinstance(part, np.ndarray)]
    return np.concatenate(arrays) if len(arrays) == len(parts) else [row for part in parts for row in part]


def stack_or_raise(rows: Rows) -> Vectors:
    """The rows as Vectors. Raises TextsFailed, or Unavailable when that is what became of every row."""
    if isinstance(rows, np.ndarray):
        return rows
    errors = {index: row for index, row in enumerate(rows) if isinstance(row, AppError)}
    if not errors:
        return np.stack(rows)  # type: ignore[arg-type]
    away = [error for error in errors.values() if isinstance(error, Unavailable)]
    if len(away) == len(rows):
        raise away[0]
    vectors = [row for row in rows if not isinstance(row, AppError)]
    spread = np.zeros((len(rows), vectors[0].shape[0] if vectors else 0), dtype=np.float32)
    if vectors:
        spread[[index for index in range(len(rows)) if index not in errors]] = vectors
    raise PartialEmbeddingError(spread, errors)
