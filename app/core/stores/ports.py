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
    """One search result: the chunk's key and its score, higher is nearer.

    Of a dense search it is cosine similarity (-1..1), of a lexical one BM25 (above 0, without bound).
    """

    chunk_id: int
    score: float


class VectorIndex(Protocol):
    """Vectors and words by integer key, one collection a bot; cosine similarity and BM25.

    Every method but ``close`` raises ``VectorIndexUnavailable`` when the index does not answer within its
    deadline (the outcome of a write is then unknown: it may still land), and ``CollectionMissing`` where the
    named collection does not exist.
    """

    @property
    def bm25(self) -> bool:
        """Whether this index can search by words. A collection made before it could has no words in it."""

    async def has_words(self, collection: str) -> bool:
        """Whether ``search_lexical`` works on this collection. Asks the server once a collection."""

    async def create(self, collection: str, dimension: int) -> None:
        """Makes collection, indexes and loads it. Repeatable, also by several processes at once.

        Raises CollectionForeign when a collection of that name exists with another schema or dimension.
        """

    async def drop(self, collection: str, dimension: int | None = None) -> None:
        """Removes the collection. A missing one is no error; one that is not of our making is left alone, and with
        ``dimension`` so is one of another dimension: it may be another deployment's."""

    async def collections(self) -> list[str]:
        """Names of all collections in the database, whoever made them."""

    async def upsert(
        self,
        collection: str,
        chunk_ids: Keys,
        doc_ids: Keys,
        embeddings: Vectors,
        texts: Sequence[str] | None = None,
    ) -> int:
        """Writes ``embeddings`` (n, dimension) under ``chunk_ids`` (n,), in requests of at most 16 MB.

        ``texts`` are the chunks' own, whose words are stored where the collection can hold them. Without, no lexical
        search finds these chunks. Returns the write's timestamp, to be passed to a search as its guarantee; 0 where
        the index needs none (its writes are visible at once).
        """

    async def delete(self, collection: str, chunk_ids: Sequence[int]) -> None:
        """Deletes by key; unknown keys are no error. The effect may lag: readers must not rely on it."""

    async def search(
        self, collection: str, query: Vectors, k: int, *, guarantee: int = 0, doc_ids: Sequence[int] | None = None
    ) -> list[Hit]:
        """As ``search_dense`` for one ``query`` (dimension,)."""

    async def search_dense(
        self, collection: str, queries: Vectors, k: int, *, guarantee: int = 0, doc_ids: Sequence[int] | None = None
    ) -> list[list[Hit]]:
        """For each of ``queries`` (n, dimension) the ``k`` (1..16,384) nearest keys, best first; equals by key.

        Every write whose timestamp is not above ``guarantee`` is seen. With ``doc_ids`` only chunks of
        those documents are searched. One request, however many queries.
        """

    async def search_lexical(
        self, collection: str, texts: Sequence[str], k: int, *, guarantee: int = 0, doc_ids: Sequence[int] | None = None
    ) -> list[list[Hit]]:
        """For each of ``texts`` the at most ``k`` keys whose words score highest by BM25 (k1 1.2, b 0.75).

        Chunks that share no word with the text are left out. Statistics are the whole collection's, whatever
        ``doc_ids``. Otherwise as ``search_dense``. Raises ValueError where ``has_words`` is false.
        """

    async def embeddings(self, collection: str, chunk_ids: Sequence[int], *, guarantee: int = 0) -> dict[int, Vectors]:
        """The stored vectors, some length but zero, of those of at most 16,384 keys that exist."""

    async def present(self, collection: str, spans: Sequence[tuple[int, int]]) -> set[int]:
        """Which keys exist within the half-open ranges ``spans`` ([first, end)), read with strong consistency.

        Each span covers at most 65,536 keys, and a call at most 64 spans.
        """

    def scan(self, collection: str, *, page: int = 4096) -> AsyncIterator[list[int]]:
        """All keys of the collection in ascending pages, with strong consistency."""

    async def ping(self) -> None:
        """Returns when the index answers."""

    async def close(self) -> None: ...
