"""What core expects of the vector index: vectors and words by integer key."""

from collections.abc import AsyncIterator, Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from app.core.analyzers.analyzers import NEWEST
from app.schemas.operation_rows import Reservation

Vectors = NDArray[np.float32]
ChunkIds = NDArray[np.int64]

KeyRange = tuple[int, int]
"""Chunk ids from the first, inclusive, to the second, exclusive."""

DELETE_KEYS = 2_048
"""Keys per delete request. Milvus Lite (3.2.2) blocks other requests meanwhile: 0.4 s for 5,000, 3.3 s for 61,000."""

Analyzer = Callable[[str, int], str]
"""Turns a text into what the lexical field stores and searches: its tokens, separated by blanks. The second argument is
the version of the analyzer. All texts of a collection, and all queries to it, have to have the same."""


class Hit(NamedTuple):
    """One hit of a search: the chunk's key and its score, higher is better.

    The score of a dense search is cosine similarity (-1..1), that of a lexical search BM25 (above 0, no upper bound).
    """

    chunk_id: int
    score: float


def by_rank(hit: Hit) -> tuple[float, int]:
    """The key that sorts hits: the best first, equal scores by key."""
    return -hit.score, hit.chunk_id


class UnverifiedCollection(NamedTuple):
    """A collection that must be compared with PostgreSQL: a write failed, or its process was killed during one.

    ``failures``: number of failed writes. ``writable``: it accepts writes; if not, its disk is still full.
    ``searchable``: no acknowledged row can be missing; if false, it is not searched before the comparison.
    """

    name: str
    failures: int
    writable: bool
    searchable: bool


class MarkerPort(Protocol):
    """Records in Milvus which database it belongs to, and which generations are reserved.

    The rows are in a collection of their own and are only added, never changed. Every method raises
    ``VectorIndexUnavailable``.
    """

    async def read(self) -> list[Reservation]:
        """All rows, ascending by last generation, read with strong consistency; empty if there is no marker."""

    async def add(self, reservations: Sequence[Reservation]) -> None:
        """Adds rows, and creates the marker first if there is none. After an error they may still be added later."""

    async def bot_collections(self) -> list[str]:
        """Names of the collections that have the schema of a bot's collection, of any dimension."""

    async def greatest_key(self, collection: str, above: int) -> int:
        """The greatest key of the collection, or ``above`` if no key is greater."""


class VectorIndex(Protocol):
    """Stores vectors and tokens by integer key, in one collection for each bot, and searches by cosine and BM25.

    Every method but ``close`` raises ``VectorIndexUnavailable`` when the index does not answer within its
    deadline (the outcome of a write is then unknown: it may still land), and ``CollectionMissing`` where the
    named collection does not exist. Of its kinds, ``VectorIndexFull`` says that a write did not land for want of space,
    ``CollectionUnverified`` that a search might not see every acknowledged row, and ``CollectionReleased`` that a read
    needs a collection in memory that is not. Writes, deletes by key and all else need none in memory; ``count`` may.
    """

    @property
    def marker(self) -> MarkerPort: ...

    @property
    def bm25(self) -> bool:
        """Whether new collections get a lexical field. Collections created by an older Milvus have none."""

    async def supports_lexical(self, collection: str) -> bool:
        """Whether the collection has a lexical field. Asks the server once for each collection."""

    async def create(self, collection: str, dimension: int, *, load: bool = True) -> None:
        """Creates the collection and its indexes, and loads it. Idempotent, also when processes call it concurrently.

        Without ``load`` it need not be in memory afterwards, which is much faster. Raises CollectionForeign if a
        collection of that name has another schema or dimension.
        """

    async def load(self, collection: str) -> None:
        """Returns when the collection is in memory and can be read; at once if it is. May take up to two minutes."""

    async def release(self, collection: str) -> None:
        """Takes the collection out of memory, where only writes need none of it; no effect if it is not in memory.

        Reads that are in progress may raise CollectionReleased.
        """

    async def loaded(self) -> set[str]:
        """Names of the collections that are completely in memory, foreign ones too, except the marker."""

    async def drop(self, collection: str, dimension: int | None = None) -> None:
        """Drops the collection; a missing one is no error.

        A collection with a foreign schema is kept. With ``dimension``, one of another dimension is kept too: it may
        belong to another deployment.
        """

    async def collections(self) -> list[str]:
        """Names of all collections in the Milvus database, foreign ones too, except the marker."""

    async def upsert(
        self,
        collection: str,
        chunk_ids: ChunkIds,
        doc_ids: ChunkIds,
        embeddings: Vectors,
        texts: Sequence[str] | None = None,
        *,
        analyzer_version: int = NEWEST,
        fresh: bool = False,
    ) -> int:
        """Writes ``embeddings`` (n, dimension) under ``chunk_ids`` (n,), in requests of at most 16 MB.

        ``texts``: the chunks' texts for the lexical field. Without them lexical search does not find these chunks.
        ``analyzer_version``: the collection's.
        ``fresh``: nothing was ever written under these keys, so no old row has to be deleted.
        Returns the write's timestamp, which a search takes as ``guarantee_timestamp``, or 0 if the index has no
        timestamps because its writes are visible at once.
        """

    async def delete(self, collection: str, chunk_ids: Sequence[int]) -> None:
        """Deletes by key; unknown keys are no error. Searches may still return the keys for a while."""

    async def search_dense(
        self,
        collection: str,
        queries: Vectors,
        k: int,
        *,
        guarantee_timestamp: int = 0,
        doc_ids: Sequence[int] | None = None,
        chunk_ids: Sequence[int] | None = None,
        exclude_ranges: Sequence[KeyRange] = (),
    ) -> list[list[Hit]]:
        """For each of ``queries`` (n, dimension) the ``k`` (1..16,384) nearest keys, best first, equal ones by key.

        The search sees every write whose timestamp is at most ``guarantee_timestamp``. ``doc_ids`` limits it to the
        chunks of these documents, ``chunk_ids`` to these chunks. Keys in ``exclude_ranges`` are skipped. All queries
        are sent in one request.
        """

    async def search_lexical(
        self,
        collection: str,
        texts: Sequence[str],
        k: int,
        *,
        analyzer_version: int = NEWEST,
        guarantee_timestamp: int = 0,
        doc_ids: Sequence[int] | None = None,
        chunk_ids: Sequence[int] | None = None,
        exclude_ranges: Sequence[KeyRange] = (),
    ) -> list[list[Hit]]:
        """For each of ``texts`` the at most ``k`` keys with the highest BM25 scores (k1 = 1.2, b = 0.75).

        Only chunks that share a token with the text are returned. Token statistics are always those of the whole
        collection. Otherwise as ``search_dense``. Raises ValueError if the collection has no lexical field.
        """

    async def embeddings(
        self, collection: str, chunk_ids: Sequence[int], *, guarantee_timestamp: int = 0
    ) -> dict[int, Vectors]:
        """The stored vectors (dimension,), of any length but 0, of those of the at most 16,384 keys that exist."""

    async def present(self, collection: str, ranges: Sequence[KeyRange]) -> set[int]:
        """The keys that exist in these ranges, read with strong consistency.

        At most 64 ranges of at most 65,536 keys each.
        """

    def scan(self, collection: str, *, page: int = 4096, key_range: KeyRange | None = None) -> AsyncIterator[list[int]]:
        """All keys of the collection, or those in ``key_range``, in ascending pages, with strong consistency."""

    async def unverified_collections(self, claim: float = 0) -> Sequence[UnverifiedCollection]:
        """Collections that must be compared with PostgreSQL. With ``claim``, only those that can be compared now and
        that no other caller has claimed; the claim ends after ``claim`` seconds. Empty for an index that cannot lose
        acknowledged rows.
        """

    async def finish_verification(self, collection: UnverifiedCollection, *, complete: bool) -> None:
        """Ends a claim. ``complete``: the collection holds every current chunk. Has no effect if a write has failed
        since then."""

    async def count(self, collection: str) -> int:
        """Number of keys in the collection, read with strong consistency."""

    async def ping(self) -> None:
        """Returns when the index answers."""

    async def close(self) -> None: ...
