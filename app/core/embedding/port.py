"""What core asks of an embedder."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]


class Embedder(Protocol):
    """Turns text into vectors. Implementations run off the event loop and are safe to call concurrently.

    ``model`` is the name that is written to a bot's registry row; ``dimension`` the length of each vector.
    All calls raise ``EmbedderUnavailable`` when the provider is away or overloaded.
    """

    model: str
    dimension: int

    async def embed_documents(self, texts: Sequence[str]) -> Vectors:
        """Vectors (len(texts), dimension) in the order of ``texts``, unchecked (see ``check.unusable``)."""

    async def embed_query(self, text: str) -> Vectors:
        """One vector (dimension,). Goes before documents that wait."""

    async def embed_queries(self, texts: Sequence[str]) -> Vectors:
        """As ``embed_query`` for several, in one call: (len(texts), dimension)."""

    async def ping(self) -> None:
        """Returns when the embedder can answer."""

    async def close(self) -> None: ...
