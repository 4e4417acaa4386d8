"""What core expects of the record for maintenance: garbage, generations, rebuilds, model migrations, verify."""

from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta
from typing import Protocol
from uuid import UUID

from app.schemas.operation_rows import (
    Backlog,
    Check,
    DocumentFields,
    GenerationBlock,
    GenerationState,
    ModelMigration,
    NormalizedPage,
    Rebuild,
    SourceChunk,
    VectorGarbage,
)
from app.schemas.rows import BotSaga, BotState, Progress


class GarbagePort(Protocol):
    """``vector_gc``: generations whose vectors are still to be deleted from Milvus."""

    async def claim(self, lease: timedelta) -> Sequence[VectorGarbage]:
        """Some of the rows that are due. No other process gets them during ``lease``."""

    async def complete(self, rows: Sequence[VectorGarbage]) -> None:
        """Deletes the rows: their vectors are gone and can no longer appear.

        A row that was added again since it was claimed stays.
        """

    async def reschedule(self, rows: Sequence[VectorGarbage]) -> None:
        """Makes the rows due again: when late writes are over, or after a pause that grows with the attempts."""

    async def defer(self, rows: Sequence[VectorGarbage]) -> None:
        """Makes the rows due at no time, until ``resume`` names their collection."""

    async def deferred(self) -> set[str]:
        """The collections of deferred rows."""

    async def resume(self, collections: Collection[str]) -> None:
        """Makes the deferred rows of these collections due now."""


class GenerationPort(Protocol):
    async def state(self) -> GenerationState:
        """What this database knows about its generations."""

    async def known_collections(self) -> set[str]:
        """The collections in Milvus that this database knows, of all bots."""

    async def use(self, block: GenerationBlock, older: Sequence[GenerationBlock] = ()) -> None:
        """Gives out generations from ``block`` from now on, unless a newer block is in use already.

        Call it once for each block, right after its reservation: a block that was used may not be used again after a
        restore. ``older``: blocks to be remembered as this database's.
        """

    async def take_over(
        self,
        block: GenerationBlock,
        installation_id: UUID,
        abandon: Sequence[str],
        kept: Sequence[GenerationBlock],
    ) -> int:
        """As ``use``, and makes this database the installation ``installation_id``.

        Bots whose collection is in ``abandon`` get new, empty collections, except those whose documents' generations
        all lie in ``kept``; with an empty ``kept`` all of them do. Returns how many bots that were.
        """


class RebuildPort(Protocol):
    """Bots whose vectors Milvus has lost, and when the rows of each bot were last counted."""

    async def begin_in_place(self, bot_id: UUID, collection: str) -> bool:
        """Marks the bot as one whose collection lacks rows. False when ``collection`` is not the bot's."""

    async def all(self) -> dict[UUID, Progress]:
        """The progress of every rebuild, by bot_id, oldest first."""

    async def claim(
        self, token: UUID, lease: timedelta, without: Collection[UUID] = (), bot_id: UUID | None = None
    ) -> Rebuild | None:
        """Gives a rebuild that no process works on to ``token``: of ``bot_id``, or of any bot not in ``without``."""

    async def renew(self, bot_id: UUID, token: UUID, lease: timedelta, done: int) -> bool:
        """Extends the lease to ``lease`` from now and stores that ``done`` chunks are indexed.

        False when the rebuild is not ``token``'s any more.
        """

    async def release(self, bot_id: UUID, token: UUID) -> None:
        """Ends the lease, so that another process can claim the rebuild at once."""

    async def finish(self, bot_id: UUID, collection: str, token: UUID, timestamp: int) -> bool:
        """Ends the rebuild: the collection has all vectors again. ``timestamp``: Milvus's, of the newest write.

        False, with nothing done, when ``collection`` is not the bot's, or the rebuild is not ``token``'s.
        """

    async def claim_check(self, interval: timedelta, settling: timedelta) -> Check | None:
        """Claims a bot whose rows were not counted within ``interval``, the one that has waited longest.

        ``settling``: how long after a restore a delete from before it may take effect.
        """

    async def extend_check(self, check: Check) -> None:
        """The bot counts as claimed now: a check that takes longer than the interval is not begun twice."""

    async def trust_counts(self, check: Check) -> None:
        """Forgets that PostgreSQL may have been restored: the bot has been compared since. No effect if it was restored
        again."""


class Cutover(Protocol):
    """The transaction of a cut-over. No other process writes to the bot while it runs.

    ``milvus_timestamp``: of the newest write to the old collection.
    """

    milvus_timestamp: int

    async def keys_from(self, first: int) -> Sequence[int]:
        """Keys of current chunks from ``first`` on, ascending."""

    async def chunks_of_keys(self, keys: Sequence[int]) -> Sequence[SourceChunk]:
        """Those of the chunks that are current."""

    async def complete(self, timestamp: int, grace: timedelta) -> None:
        """With the commit, the bot has its new collection and model. The old collection is dropped after ``grace``.

        ``timestamp``: Milvus's, of the newest write to the new collection.
        """


class ModelMigrationPort(Protocol):
    """Migrations of bots to another embedding model. Methods on a bot raise BotNotFound when it does not exist."""

    async def take_lease(self, bot_id: UUID, token: UUID, length: timedelta) -> datetime | None:
        """Takes the lease under which one process at a time migrates the bot; never raises BotNotFound.

        Returns None on success, otherwise the end of the other process's lease.
        """

    async def renew_lease(self, bot_id: UUID, token: UUID, length: timedelta) -> bool:
        """Extends the lease to ``length`` from now. False when it is not ``token``'s any more."""

    async def release_lease(self, bot_id: UUID, token: UUID) -> None:
        """Ends the lease. No effect when it is not ``token``'s."""

    async def begin(
        self,
        bot_id: UUID,
        model: str,
        dimension: int,
        *,
        analyzer_version: int = 1,
        title_in_lexical: bool | None = None,
    ) -> ModelMigration | None:
        """Begins the migration to this model, or finds it begun, possibly with words that are made in another way.

        ``title_in_lexical`` None: as the bot has it; a bot of the first analyzer gets titles.
        None when the bot has this model already, or has no vectors yet. From the commit on, vectors of deleted
        documents are collected from the new collection too. Raises MigrationInProgress when a migration to another
        model was begun.
        """

    async def begin_reindex(
        self, bot_id: UUID, *, analyzer_version: int, title_in_lexical: bool | None
    ) -> ModelMigration | None:
        """Begins a migration to the bot's own model, whose words are made in this way, or finds it begun.

        None when the bot has no vectors yet. Raises MigrationInProgress when another migration was begun.
        """

    async def migration(self, bot_id: UUID) -> ModelMigration | None:
        """The migration that was begun; None when there is none or no such bot."""

    async def low_watermark(self, bot_id: UUID) -> int:
        """A generation below which no further one becomes current."""

    async def chunk_page(self, bot_id: UUID, after: int, limit: int) -> Sequence[SourceChunk]:
        """At most ``limit`` current chunks with keys above ``after``, ascending."""

    async def keys_from(self, bot_id: UUID, first: int, limit: int | None = None) -> Sequence[int]:
        """Keys of current chunks from ``first`` on, ascending; at most ``limit`` of them."""

    async def chunks_of_keys(self, bot_id: UUID, keys: Sequence[int]) -> Sequence[SourceChunk]:
        """Those of the chunks that are current."""

    async def enqueue_vector_gc(self, bot_id: UUID, collection: str, spans: Mapping[int, int]) -> None:
        """Puts those of the generations {generation: chunk_span} that are not current on ``vector_gc``."""

    def cut_over(self, bot_id: UUID, migration: ModelMigration) -> AbstractAsyncContextManager[Cutover]:
        """A transaction in which no other process writes to the bot; it commits at the end of the block.

        Raises CollectionMoved when this migration has ended.
        """

    async def abort(self, bot_id: UUID, token: UUID, lease: timedelta) -> BotSaga | None:
        """Aborts the migration. Returns the saga that drops its collection; None when there is no migration."""


class VerifyPort(Protocol):
    """Reads that compare the stores and take no locks, and PostgreSQL's part of a repair."""

    async def bots(self, only: UUID | None = None) -> Sequence[BotState]:
        """All bots, or ``only`` this one, whatever their state, by bot_id."""

    async def unknown_keys(self, bot_id: UUID, collection: str, keys: Sequence[int]) -> set[int]:
        """The keys that belong to no chunk, visible or being written, and whose generation is not on ``vector_gc``."""

    def document_pages(self, bot_id: UUID) -> AsyncIterator[list[int]]:
        """All doc_ids of the bot, ascending, in pages."""

    async def current_keys(self, bot_id: UUID, doc_ids: Sequence[int]) -> dict[int, int]:
        """{chunk_id: doc_id} of the current chunks of these documents."""

    async def chunk_page(self, bot_id: UUID, after: int, limit: int) -> Sequence[SourceChunk]:
        """At most ``limit`` current chunks with keys above ``after``, ascending."""

    async def sampled_keys(self, bot_id: UUID, count: int) -> Sequence[int]:
        """Keys of at most ``count`` current chunks, drawn at random, ascending."""

    async def chunks_of_keys(self, bot_id: UUID, keys: Sequence[int]) -> Sequence[SourceChunk]:
        """Those of the chunks that are current."""

    async def wrong_chunk_counts(self, bot_id: UUID) -> Sequence[int]:
        """doc_ids of documents with another number of chunks than their rows say; at most 1,000."""

    async def stray_chunks(self, bot_id: UUID) -> Sequence[int]:
        """Keys of chunks that belong neither to a current generation nor to a saga; at most 1,000."""

    async def orphaned_partitions(self) -> Sequence[str]:
        """Names of partitions that belong to no bot."""

    async def foreign_partitions(self) -> Sequence[tuple[str, str, str]]:
        """(partition, its owner, the role that drops partitions and may not drop this one)"""

    async def abandoned_sagas(self) -> Sequence[int]:
        """Sagas that recovery should have ended: their lease expired longer ago than one lease lasts."""

    async def recount_chunks(self, bot_id: UUID, doc_ids: Sequence[int]) -> None:
        """Corrects the chunk counts of documents that lost chunks; deletes those that lost all."""

    async def drop_stray_chunks(self, bot_id: UUID, chunk_ids: Sequence[int]) -> None:
        """Deletes those of the chunks that are still ``stray_chunks``."""

    async def make_partitions(self, bot_id: UUID) -> None:
        """Makes the bot's partitions where they are missing."""


class NormalizePort(Protocol):
    """Documents that were stored before names were put into Unicode's NFC."""

    async def bots(self, bot_ids: Sequence[UUID] | None) -> Sequence[UUID]:
        """Those of ``bot_ids`` that exist; with None all bots that may hold documents that are not in NFC."""

    async def documents(self, bot_id: UUID) -> int:
        """How many documents the bot has."""

    async def rewrite(
        self, bot_id: UUID, after: int, limit: int, change: Callable[[int, DocumentFields], DocumentFields]
    ) -> NormalizedPage | None:
        """Rewrites those of the next ``limit`` documents above doc_id ``after`` that are not in NFC.

        ``change`` is called inside the transaction with doc_id and stored fields and returns the new fields.
        ``updated_at`` does not change. None when there are no more documents.
        """

    async def finish(self, bot_id: UUID) -> None:
        """Marks the bot: filters no longer normalize its documents, so that they use the indexes."""


class BacklogPort(Protocol):
    async def backlog(self) -> Backlog:
        """How much is in flight and left over, over all bots and server processes."""
