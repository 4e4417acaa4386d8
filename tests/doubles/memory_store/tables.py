"""The tables of the record in plain memory, shared by the stores over them."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from uuid import UUID, uuid4

from app.core.ports import RecentVector
from app.schemas.operation_rows import BotSize, Calibration, GenerationBlock, Job, ModelMigration, TermCounts
from app.schemas.quotas import Quota, Usage
from app.schemas.rows import CHUNKS_PER_GENERATION, Bot, Chunk, Document, Mode, Progress
from app.schemas.stream_rows import LineResults, PartName
from app.utils.errors import NoGeneration

MICROSECOND = timedelta(microseconds=1)


@dataclass(slots=True)
class BotRow:
    bot_id: UUID
    bot_name: str
    collection_name: str
    account_name: str
    created_at: datetime
    state: str = "active"
    embedding_model: str | None = None
    dimension: int | None = None
    milvus_timestamp: int = 0
    last_writer: UUID | None = None
    foreign_timestamp: int = 0
    unshared_timestamp: int = 0
    milvus_collection: str | None = None
    next: ModelMigration | None = None
    analyzer_version: int = 1
    title_in_lexical: bool = False
    default_mode: Mode | None = None
    default_dense_weight: float | None = None
    default_min_confidence: float | None = None
    statistics_version: UUID | None = None
    pinned: bool = False

    @property
    def collection(self) -> str:
        return self.milvus_collection or self.collection_name

    def advance(self, timestamp: int, writer: UUID) -> None:
        """Also notes the writer of an older timestamp."""
        if self.last_writer != writer:
            self.last_writer, self.foreign_timestamp = writer, self.milvus_timestamp
        self.milvus_timestamp = max(self.milvus_timestamp, timestamp)

    def forget_writers(self) -> None:
        """As migrations 0020 and 0028 do in triggers: nobody holds all recent vectors."""
        self.last_writer, self.unshared_timestamp = None, self.milvus_timestamp

    def bot(self, rebuild: Progress | None = None) -> Bot:
        return Bot(
            self.bot_id,
            self.bot_name,
            self.collection_name,
            self.account_name,
            self.embedding_model,
            self.dimension,
            self.milvus_timestamp,
            self.created_at,
            f"documents_{self.bot_id.hex}",
            self.collection,
            rebuild=rebuild,
            last_writer=self.last_writer,
            foreign_timestamp=self.foreign_timestamp,
            analyzer_version=self.analyzer_version,
            title_in_lexical=self.title_in_lexical,
            next_title_in_lexical=self.next is not None and self.next.title_in_lexical,
            default_mode=self.default_mode,
            default_dense_weight=self.default_dense_weight,
            default_min_confidence=self.default_min_confidence,
            statistics_version=self.statistics_version,
            pinned=self.pinned,
        )


@dataclass(slots=True)
class DocumentRow:
    doc_id: int
    generation: int
    title: str
    file_path: str | None
    file_type: str | None
    author: str | None
    tags: list[str]
    metadata: dict[str, Any]
    chunk_count: int
    chunk_span: int
    created_at: datetime
    updated_at: datetime
    external_id: str | None = None

    def document(self) -> Document:
        return Document(
            self.doc_id,
            self.title,
            self.file_path,
            self.file_type,
            self.author,
            list(self.tags),
            dict(self.metadata),
            self.chunk_count,
            self.created_at,
            self.updated_at,
            self.external_id,
            self.generation,
        )

    def touch(self, now: datetime) -> None:
        """Makes ``updated_at`` later, even if the clock does not."""
        self.updated_at = max(now, self.updated_at + MICROSECOND)


@dataclass(slots=True)
class ChunkRow:
    doc_id: int
    chunk: Chunk


@dataclass(slots=True)
class Partition:
    """A bot's documents by doc_id and its chunks by chunk_id."""

    documents: dict[int, DocumentRow] = field(default_factory=dict)
    chunks: dict[int, ChunkRow] = field(default_factory=dict)


@dataclass(slots=True)
class SagaRow:
    generation: int
    operation: str
    bot_id: UUID
    lease_token: UUID
    lease_until: datetime
    doc_id: int = 0
    chunk_span: int = 0
    collection_name: str | None = None
    external_id: str | None = None


@dataclass(slots=True)
class RecentRow:
    vector: RecentVector
    written_at: datetime


@dataclass(slots=True)
class KeyRow:
    """One Idempotency-Key of an account."""

    body_sha256: bytes
    created_at: datetime
    generation: int = 0
    response: bytes | None = None


@dataclass(slots=True)
class GarbageRow:
    generation: int
    bot_id: UUID
    collection_name: str
    chunk_span: int
    not_before: datetime
    next_attempt_at: datetime
    doc_id: int | None
    attempts: int = 0


@dataclass(slots=True)
class SyncRow:
    """``missing``: doc_ids by external_id that the client has not sent."""

    session_id: UUID
    lease_until: datetime
    missing: dict[str, int]
    incomplete: bool = False


@dataclass(slots=True)
class JobRow:
    job: Job
    token: UUID
    lease_until: datetime


@dataclass(slots=True)
class PartRow:
    """A part of a stream. ``results``: (last line, results) of each transaction."""

    updated_at: datetime
    lines: int = 0
    sha256: bytes = b""
    stored: int = 0
    failed: int = 0
    generation: int | None = None
    results: list[tuple[int, LineResults]] = field(default_factory=list)


@dataclass(slots=True)
class LoadRow:
    is_loaded: bool
    last_used_at: datetime
    action: Literal["load", "release"] | None = None
    lease_token: UUID | None = None
    lease_until: datetime | None = None

    def is_leased(self, now: datetime) -> bool:
        return self.lease_until is not None and self.lease_until >= now


@dataclass(slots=True)
class RebuildRow:
    bot_id: UUID
    before_generation: int
    in_place: bool
    chunks_total: int
    began_at: datetime
    chunks_done: int = 0
    attempts: int = 0
    lease_token: UUID | None = None
    lease_until: datetime | None = None


@dataclass(slots=True)
class FrequencyRow:
    analyzer_version: int
    title_in_lexical: bool
    counts: TermCounts
    size: BotSize
    sampled_at: datetime
    checked_at: datetime


def wall_clock() -> datetime:
    return datetime.now(UTC)


class Tables:
    """One database. ``now`` is its clock, for leases and garbage.

    No method of the stores over it awaits anything. So each method is a transaction that runs alone, as row locks make
    PostgreSQL's transactions appear from outside.
    """

    def __init__(self, now: Callable[[], datetime] = wall_clock) -> None:
        self.now = now
        self.bots: dict[UUID, BotRow] = {}
        self.partitions: dict[UUID, Partition] = {}
        self.sagas: dict[int, SagaRow] = {}
        self.recent: dict[UUID, list[RecentRow]] = {}
        self.garbage: dict[tuple[int, str], GarbageRow] = {}
        self.keys: dict[tuple[str, str], KeyRow] = {}
        self.jobs: dict[UUID, JobRow] = {}
        self.migration_leases: dict[UUID, tuple[UUID, datetime]] = {}
        self.rebuilds: dict[UUID, RebuildRow] = {}
        self.loads: dict[str, LoadRow] = {}
        self.syncs: dict[UUID, SyncRow] = {}
        self.parts: dict[PartName, PartRow] = {}
        self.checks: dict[UUID, datetime] = {}
        self.doubts: dict[UUID, tuple[int, datetime]] = {}
        self.frequencies: dict[UUID, FrequencyRow] = {}
        self.calibrations: dict[tuple[str | None, int | None, int], Calibration] = {}
        self.quotas: dict[str, Quota] = {}
        self.last_generation = 0
        self.installation_id = uuid4()
        self.database = "memory"
        self.first_in_block, self.last_in_block = 1, 0
        self.blocks: list[GenerationBlock] = []
        self.restored = False
        """Whether these tables were restored, copied or rolled back since the block was reserved."""

    def check_block(self, count: int) -> None:
        """Raises NoGeneration when ``count`` generations cannot be taken."""
        usable = not self.restored and self.first_in_block <= self.last_generation + 1
        if not usable or self.last_generation + count > self.last_in_block:
            raise NoGeneration

    def next_generation(self) -> int:
        self.last_generation += 1
        return self.last_generation

    def active(self, bot_id: UUID, account: str | None = None) -> BotRow | None:
        bot = self.bots.get(bot_id)
        return bot if bot and bot.state == "active" and account in (None, bot.account_name) else None

    def usage(self, account: str) -> Usage:
        bots = [bot_id for bot_id in self.bots if self.active(bot_id, account)]
        documents = [document for bot_id in bots for document in self.partition(bot_id).documents.values()]
        return Usage(len(bots), len(documents), sum(document.chunk_count for document in documents))

    def progress(self, bot_id: UUID) -> Progress | None:
        row = self.rebuilds.get(bot_id)
        return Progress(row.chunks_done, row.chunks_total) if row else None

    def begin_rebuild(self, bot_id: UUID, in_place: bool) -> None:
        total = sum(document.chunk_count for document in self.partition(bot_id).documents.values())
        self.rebuilds[bot_id] = RebuildRow(bot_id, self.next_generation(), in_place, total, self.now())

    def partition(self, bot_id: UUID) -> Partition:
        """The bot's partition, or an empty one for an unknown bot."""
        return self.partitions.get(bot_id) or Partition()

    def begin_saga(
        self, operation: str, bot_id: UUID, token: UUID, lease: timedelta, generation: int | None = None
    ) -> SagaRow:
        number = self.next_generation() if generation is None else generation
        saga = self.sagas[number] = SagaRow(number, operation, bot_id, token, self.now() + lease)
        return saga

    def held(self, generations: Iterable[int], token: UUID | None) -> list[SagaRow]:
        """The sagas that ``token`` holds, or all with None."""
        found = (self.sagas.get(generation) for generation in sorted(set(generations)))
        return [saga for saga in found if saga and token in (None, saga.lease_token)]

    def end_sagas(self, generations: Iterable[int], token: UUID | None) -> list[SagaRow]:
        ended = self.held(generations, token)
        for saga in ended:
            del self.sagas[saga.generation]
        return ended

    def holds(self, bot_id: UUID, external_id: str) -> bool:
        """Whether a write of this external_id is in flight."""
        return any((saga.bot_id, saga.external_id) == (bot_id, external_id) for saga in self.sagas.values())

    def by_external_id(self, bot_id: UUID, external_id: str) -> DocumentRow | None:
        documents = self.partition(bot_id).documents.values()
        return next((document for document in documents if document.external_id == external_id), None)

    def drop_chunks(self, bot_id: UUID, generation: int) -> None:
        chunks = self.partition(bot_id).chunks
        for chunk_id in [key for key in chunks if key // CHUNKS_PER_GENERATION == generation]:
            del chunks[chunk_id]

    def collect(
        self,
        bot_id: UUID,
        generation: int,
        collection: str,
        chunk_span: int,
        not_before: datetime,
        doc_id: int | None = None,
    ) -> None:
        if (generation, collection) in self.garbage:
            raise ValueError(f"generation {generation} of {collection} is on vector_gc already")
        row = GarbageRow(generation, bot_id, collection, chunk_span, not_before, self.now(), doc_id)
        self.garbage[generation, collection] = row

    def collect_again(
        self, bot_id: UUID, generation: int, collection: str, chunk_span: int, not_before: datetime
    ) -> None:
        """Also for a row that exists already, which then never becomes due earlier."""
        if row := self.garbage.get((generation, collection)):
            row.not_before = max(row.not_before, not_before)
        else:
            self.collect(bot_id, generation, collection, chunk_span, not_before)

    def discard(self, bot_id: UUID, old: DocumentRow, late_write_window: timedelta) -> None:
        """Deletes the chunks of a replaced or deleted version and enqueues its vectors, which may still appear."""
        self.drop_chunks(bot_id, old.generation)
        now, bot = self.now(), self.bots.get(bot_id)
        if bot is None:
            return
        rebuilding = bot_id in self.rebuilds  # As for bot.next.
        until = now + late_write_window if rebuilding else max(now, old.updated_at + late_write_window)
        self.collect(bot_id, old.generation, bot.collection, old.chunk_span, until, old.doc_id)
        if bot.next:  # A copy may be in flight, and take effect as late as any write.
            name, until = bot.next.collection_name, now + late_write_window
            self.collect(bot_id, old.generation, name, old.chunk_span, until, old.doc_id)

    def current(self, bot_id: UUID) -> Iterator[tuple[DocumentRow, Chunk]]:
        """Chunks of current generations, in no order."""
        partition = self.partition(bot_id)
        for chunk_id, row in partition.chunks.items():
            document = partition.documents.get(row.doc_id)
            if document and document.generation == chunk_id // CHUNKS_PER_GENERATION:
                yield document, row.chunk
