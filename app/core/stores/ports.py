"""What core asks of the vector index. Milvus and the plain in-memory index both keep to it.

The contract suite (tests/contract) runs the same tests against every implementation.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
Keys = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Hit:
    """One search result: the chunk's key and its cosine similarity (-1..1, higher is nearer)."""

    chunk_id: int
    score: float


class VectorIndex(Protocol):
    """Vectors by integer key, one collection a bot, cosine similarity.

    Every method but ``close`` raises ``VectorIndexUnavailable`` when the index does not answer within its
    deadline (the outcome of a write is then unknown: it may still land), and ``CollectionMissing`` where the
    named collection does not exist.
    """

    async def create(self, collection: str, dimension: int) -> None:
        """Makes collection, index and loads it. Repeatable, also by several processes at once.

        Raises CollectionForeign when a collection of that name exists with another schema or dimension.
        """

    async def drop(self, collection: str, dimension: int | None = None) -> None:
        """Removes the collection. A missing one is no error; one that is not of our making is left alone, and with
        ``dimension`` so is one of another dimension: it may be another deployment's."""

    async def collections(self) -> list[str]:
        """Names of all collections in the database, whoever made them."""

    async def upsert(self, collection: str, chunk_ids: Keys, doc_ids: Keys, embeddings: Vectors) -> int:
        """Writes ``embeddings`` (n, dimension) under ``chunk_ids`` (n,), in requests of at most 16 MB.

        Returns the write's timestamp, to be passed to ``search`` as its guarantee; 0 where the index
        needs none (its writes are visible at once).
        """

    async def delete(self, collection: str, chunk_ids: Sequence[int]) -> None:
        """Deletes by key; unknown keys are no error. The effect may lag: readers must not rely on it."""

    async def search(
        self, collection: str, query: Vectors, k: int, *, guarantee: int = 0, doc_ids: Sequence[int] | None = None
    ) -> list[Hit]:
        """The ``k`` (1..16,384) nearest keys to ``query`` (dimension,), best first.

        Every write whose timestamp is not above ``guarantee`` is seen. With ``doc_ids`` only chunks of
        those documents are searched.
        """

    async def present(self, collection: str, spans: Sequence[tuple[int, int]]) -> set[int]:
        """Which keys exist within the half-open ranges ``spans`` ([first, end)), read with strong consistency.

        Each span covers at most 65,536 keys, and a call at most 64 spans.
        """

    def scan(self, collection: str, *, page: int = 4096) -> AsyncIterator[list[int]]:
        """All keys of the collection in ascending pages, with strong consistency."""

    async def ping(self) -> None:
        """Returns when the index answers."""

    async def close(self) -> None: ...
