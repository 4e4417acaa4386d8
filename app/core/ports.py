"""What core asks of the stores: the vector index, and the record in PostgreSQL. Each has a plain in-memory version.

The contract suite (tests/contract) runs the same tests against every implementation.
"""

from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from app.core.write.idempotency import IdempotentRequest
from app.core.write.write import Write
from app.schemas.filter_tree import Filter
from app.schemas.metadata import METADATA_BYTES
from app.schemas.rows import (
    Bot,
    BotCounts,
    BotSaga,
    Check,
    Chunk,
    CurrentChunk,
    Document,
    GenerationBlock,
    GenerationState,
    ModelMigration,
    Progress,
    Rebuild,
    Reservation,
    SourceChunk,
    StaleChunk,
    VectorGarbage,
)

if TYPE_CHECKING:  # The modules of the rows below import the driver.
    from app.core.stores.postgres.verify import BotState

Vectors = NDArray[np.float32]
ChunkIds = NDArray[np.int64]

KeyRange = tuple[int, int]
"""Chunk ids from the first, inclusive, to the second, exclusive."""


Analyzer = Callable[[str], str]
"""Turns a text into what the lexical field stores and searches: its tokens, separated by blanks."""


class Hit(NamedTuple):
    """One hit of a search: the chunk's key and its score, higher is better.

    The score of a dense search is cosine similarity (-1..1), that of a lexical search BM25 (above 0, no upper bound).
    """

    chunk_id: int
    score: float


class Suspect(NamedTuple):
    """A collection that had a failed write, or whose process was killed in the middle of one.

    ``failures``: how many there were. ``writable``: it accepts writes; if not, its disk is still full.
    ``searchable``: nothing that was acknowledged can be missing; if not, it is not searched before it is trusted.
    """

    collection: str
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
    and ``IndexSuspect`` that a search would perhaps not see all that was acknowledged.
    """

    @property
    def marker(self) -> MarkerPort: ...

    @property
    def bm25(self) -> bool:
        """Whether new collections get a lexical field. Collections created by an older Milvus have none."""

    async def supports_lexical(self, collection: str) -> bool:
        """Whether the collection has a lexical field. Asks the server once for each collection."""

    async def create(self, collection: str, dimension: int) -> None:
        """Creates the collection and its indexes, and loads it. Idempotent, also when processes call it concurrently.

        Raises CollectionForeign if a collection of that name has another schema or dimension.
        """

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
        fresh: bool = False,
    ) -> int:
        """Writes ``embeddings`` (n, dimension) under ``chunk_ids`` (n,), in requests of at most 16 MB.

        ``texts``: the chunks' texts for the lexical field. Without them lexical search does not find these chunks.
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

    async def suspects(self, claim: float = 0) -> Sequence[Suspect]:
        """Collections to be compared with the record. With ``claim`` those that can be compared now and that no other
        caller was given within its own ``claim`` seconds. An index that cannot lose what it acknowledged has none.
        """

    async def trust(self, suspect: Suspect, *, complete: bool) -> None:
        """Ends a claim. ``complete``: every current chunk is there. No effect where a write has failed since."""

    async def count(self, collection: str) -> int:
        """Number of keys in the collection, read with strong consistency."""

    async def ping(self) -> None:
        """Returns when the index answers."""

    async def close(self) -> None: ...


# The record. Each method is one transaction; the modules of stores/postgres say what it does.


class DocumentPort(Protocol):
    async def begin(
        self, writes: Sequence[Write], token: UUID, lease: timedelta, once: IdempotentRequest | None = None
    ) -> None: ...
    async def restart(
        self,
        writes: Sequence[Write],
        bots: Mapping[UUID, Bot],
        token: UUID,
        lease: timedelta,
        once: IdempotentRequest | None = None,
    ) -> None: ...
    async def renew(self, generations: Sequence[int], token: UUID, lease: timedelta) -> set[int]: ...
    async def advance_timestamps(self, timestamps: Mapping[UUID, int]) -> None: ...
    async def finish(
        self,
        writes: Sequence[Write],
        token: UUID,
        once: IdempotentRequest | None = None,
        timestamps: Mapping[UUID, int] | None = None,
    ) -> None: ...
    async def compensate(self, bot_id: UUID, generations: Sequence[int], token: UUID) -> set[int]: ...
    async def enqueue_vector_gc(self, bot_id: UUID, writes: Sequence[Write]) -> None: ...
    async def compensate_expired(self) -> int: ...
    async def generation_of(self, bot_id: UUID, doc_id: int) -> int | None: ...
    async def delete(self, bot_id: UUID, doc_ids: Sequence[int]) -> dict[int, int]: ...
    async def patch(
        self,
        bot_id: UUID,
        doc_id: int,
        columns: dict[str, Any],
        merge: dict[str, Any],
        remove: Sequence[str],
        metadata_bytes: int = METADATA_BYTES,
    ) -> datetime | None: ...
    async def get(
        self, bot_id: UUID, doc_id: int, after: int = 0, limit: int | None = None
    ) -> tuple[Document, list[Chunk]] | None: ...
    async def list(self, bot_id: UUID, after: int, limit: int) -> Sequence[Document]: ...
    async def current_chunks(
        self,
        bot_id: UUID,
        chunk_ids: Sequence[int],
        hydrate: Collection[int],
        where: Filter | None,
        expected_bot: Bot | None = None,
        doc_ids: Sequence[int] = (),
    ) -> dict[int, CurrentChunk]: ...
    async def stale_chunks(self, bot_id: UUID, collection: str, chunk_ids: Sequence[int]) -> Sequence[StaleChunk]: ...
    async def text_bytes(self, bot_id: UUID, chunk_ids: Sequence[int], distance: int) -> int: ...
    async def neighbours(self, bot_id: UUID, chunk_ids: Sequence[int], distance: int) -> dict[int, Sequence[Chunk]]: ...
    async def matching_documents(self, bot_id: UUID, where: Filter, after: int, limit: int) -> Sequence[int]: ...
    async def matching_chunks(self, bot_id: UUID, where: Filter, after: int, limit: int) -> Sequence[int]: ...
    async def milvus_timestamp(self, bot_id: UUID, collection: str) -> int: ...


class SagaLeases(Protocol):
    """The leases of the sagas that this process runs. ``token`` marks them, ``length`` is a lease's duration."""

    token: UUID
    length: timedelta

    def holding(self, generations: Sequence[int], since: float | None = None) -> AbstractContextManager[None]:
        """Renews the leases of these sagas while inside. ``since``: the event loop's time before they were taken."""

    def alive(self, generations: Iterable[int]) -> bool:
        """Whether the leases of all these sagas are certain not to have expired."""


class BotPort(Protocol):
    async def get(self, bot_id: UUID, account: str | None) -> Bot | None: ...
    async def get_many(self, bot_ids: Sequence[UUID], account: str | None) -> dict[UUID, Bot]: ...
    async def list(self, account: str | None) -> Sequence[Bot]: ...
    async def counts(self, bot_id: UUID) -> BotCounts: ...
    async def insert(
        self, bot_id: UUID, bot_name: str, collection_name: str, account: str, token: UUID, lease: timedelta
    ) -> int | None: ...
    async def begin_creation(self, bot_id: UUID, token: UUID, lease: timedelta) -> int | None: ...
    async def finish_creation(self, saga: int, bot_id: UUID, model: str, dimension: int, token: UUID) -> None: ...
    async def end_saga(self, saga: int, token: UUID) -> None: ...
    async def begin_deletion(self, bot_id: UUID, account: str | None, token: UUID, lease: timedelta) -> int | None: ...
    async def state(self, bot_id: UUID) -> tuple[str, str, int | None] | None: ...
    async def collections(self, bot_id: UUID, dimension: int) -> Sequence[tuple[str, int | None]]: ...
    async def creation_in_flight(self, bot_id: UUID) -> bool: ...
    async def finish_deletion(self, bot_id: UUID) -> bool: ...
    async def claim_expired(self, token: UUID, lease: timedelta) -> BotSaga | None: ...
    async def has_chunks(self, bot_id: UUID) -> bool: ...
    async def begin_replacement(self, bot_id: UUID, token: UUID, lease: timedelta) -> BotSaga: ...
    async def replace_collection(self, bot_id: UUID, lost: str, replacement: BotSaga, token: UUID) -> bool: ...


class RebuildPort(Protocol):
    async def begin_in_place(self, bot_id: UUID, collection: str) -> bool: ...
    async def all(self) -> dict[UUID, Progress]: ...
    async def claim(
        self, token: UUID, lease: timedelta, without: Collection[UUID] = (), bot_id: UUID | None = None
    ) -> Rebuild | None: ...
    async def renew(self, bot_id: UUID, token: UUID, lease: timedelta, done: int) -> bool: ...
    async def release(self, bot_id: UUID, token: UUID) -> None: ...
    async def finish(self, bot_id: UUID, collection: str, token: UUID, timestamp: int) -> bool: ...
    async def claim_check(self, interval: timedelta) -> Check | None: ...
    async def trust_counts(self, check: Check) -> None: ...


class GarbagePort(Protocol):
    async def claim(self, hold: timedelta) -> Sequence[VectorGarbage]: ...
    async def end(self, rows: Sequence[VectorGarbage]) -> None: ...
    async def reschedule(self, rows: Sequence[VectorGarbage]) -> None: ...


class GenerationPort(Protocol):
    async def state(self) -> GenerationState: ...
    async def known_collections(self) -> set[str]: ...
    async def use(self, block: GenerationBlock, older: Sequence[GenerationBlock] = ()) -> None: ...
    async def take_over(
        self,
        block: GenerationBlock,
        installation_id: UUID,
        abandon: Sequence[str],
        kept: Sequence[GenerationBlock],
    ) -> int: ...


class Cutover(Protocol):
    """The moment in which nobody writes: what the move's collection still lacks, and the step itself."""

    async def keys(self, first: int) -> Sequence[int]:
        """Keys of current chunks from ``first`` on, ascending."""

    async def chunks(self, keys: Sequence[int]) -> Sequence[SourceChunk]: ...

    async def complete(self, timestamp: int, grace: timedelta) -> None:
        """From the end of the transaction on the bot is at its new collection and model. The old collection is dropped
        once ``grace`` has passed. ``timestamp``: the newest write to the new collection."""


class ReembedPort(Protocol):
    async def take_lease(self, bot_id: UUID, token: UUID, length: timedelta) -> datetime | None: ...
    async def renew_lease(self, bot_id: UUID, token: UUID, length: timedelta) -> bool: ...
    async def release_lease(self, bot_id: UUID, token: UUID) -> None: ...
    async def begin(self, bot_id: UUID, model: str, dimension: int) -> ModelMigration | None: ...
    async def move(self, bot_id: UUID) -> ModelMigration | None: ...
    async def low_watermark(self, bot_id: UUID) -> int: ...
    async def page(self, bot_id: UUID, after: int, limit: int) -> Sequence[SourceChunk]: ...
    async def keys(self, bot_id: UUID, first: int) -> Sequence[int]: ...
    async def chunks(self, bot_id: UUID, keys: Sequence[int]) -> Sequence[SourceChunk]: ...
    async def enqueue_vector_gc(self, bot_id: UUID, collection: str, spans: Mapping[int, int]) -> None: ...
    def switching(self, bot_id: UUID, move: ModelMigration) -> AbstractAsyncContextManager[Cutover]: ...
    async def forget(self, bot_id: UUID, token: UUID, lease: timedelta) -> BotSaga | None: ...


class IdempotencyPort(Protocol):
    async def replay(self, once: IdempotentRequest) -> None: ...
    async def sweep(self) -> None: ...


class VerifyPort(Protocol):
    async def bots(self) -> "Sequence[BotState]": ...
    async def unknown_keys(self, bot_id: UUID, collection: str, keys: Sequence[int]) -> set[int]: ...
    def document_pages(self, bot_id: UUID) -> AsyncIterator[list[int]]: ...
    async def current_keys(self, bot_id: UUID, doc_ids: Sequence[int]) -> dict[int, int]: ...
    async def chunk_page(self, bot_id: UUID, after: int, limit: int) -> Sequence[SourceChunk]: ...
    async def sampled_keys(self, bot_id: UUID, count: int) -> Sequence[int]: ...
    async def chunks_of_keys(self, bot_id: UUID, keys: Sequence[int]) -> Sequence[SourceChunk]: ...
    async def wrong_chunk_counts(self, bot_id: UUID) -> Sequence[int]: ...
    async def stray_chunks(self, bot_id: UUID) -> Sequence[int]: ...
    async def orphaned_partitions(self) -> Sequence[str]: ...
    async def foreign_partitions(self) -> Sequence[tuple[str, str, str]]: ...
    async def forgotten_sagas(self) -> Sequence[int]: ...
    async def recount_chunks(self, bot_id: UUID, doc_ids: Sequence[int]) -> None: ...
    async def drop_stray_chunks(self, bot_id: UUID, chunk_ids: Sequence[int]) -> None: ...
    async def make_partitions(self, bot_id: UUID) -> None: ...
