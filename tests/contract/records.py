"""The two implementations of the record's ports, and what the suites over them share."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from uuid import UUID, uuid4

from app.core.ports import (
    BotPort,
    DocumentPort,
    GarbagePort,
    GenerationPort,
    IdempotencyPort,
    JobPort,
    ListingPort,
    LoadPort,
    ModelMigrationPort,
    QuotaPort,
    RebuildPort,
    StatisticsPort,
    StreamPort,
    SyncPort,
    VerifyPort,
    WritePort,
)
from app.core.stores.postgres.bots import BotStore
from app.core.stores.postgres.database import Database
from app.core.stores.postgres.documents import DocumentStore
from app.core.stores.postgres.garbage import GarbageStore
from app.core.stores.postgres.generations import GenerationStore
from app.core.stores.postgres.idempotency import IdempotencyStore
from app.core.stores.postgres.jobs import JobStore
from app.core.stores.postgres.listing import ListingStore
from app.core.stores.postgres.loads import LoadStore
from app.core.stores.postgres.model_migrations import ModelMigrationStore
from app.core.stores.postgres.quotas import QuotaStore
from app.core.stores.postgres.rebuild import RebuildStore
from app.core.stores.postgres.statistics import StatisticsStore
from app.core.stores.postgres.streams import StreamStore
from app.core.stores.postgres.sync import SyncStore
from app.core.stores.postgres.verify import VerifyStore
from app.core.stores.postgres.writes import WriteStore
from app.core.write.transactions import WriteTransactions
from app.core.write.write import Write
from app.schemas.rows import Bot, Chunk, NewChunk, NewDocument, SearchChunk
from app.utils.errors import AppError
from tests.doubles.memory_store import (
    MemoryBotStore,
    MemoryDocumentStore,
    MemoryGarbageStore,
    MemoryGenerationStore,
    MemoryIdempotencyStore,
    MemoryJobStore,
    MemoryListingStore,
    MemoryLoadStore,
    MemoryModelMigrationStore,
    MemoryQuotaStore,
    MemoryRebuildStore,
    MemoryStatisticsStore,
    MemoryStreamStore,
    MemorySyncStore,
    MemoryVerifyStore,
    MemoryWriteStore,
    Tables,
)
from tests.filter_reference import matches

HOUR, NO_TIME, PAST = timedelta(hours=1), timedelta(0), timedelta(hours=-1)
LEASE_SECONDS = 30.0


@dataclass
class Record:
    """All stores over one database. The ``patient`` ones wait an hour for late writes, the others do not wait."""

    writes: WritePort
    patient_writes: WritePort
    documents: DocumentPort
    patient_documents: DocumentPort
    bots: BotPort
    garbage: GarbagePort
    verify: VerifyPort
    migrations: ModelMigrationPort
    generations: GenerationPort
    rebuilds: RebuildPort
    listing: ListingPort
    statistics: StatisticsPort
    syncs: SyncPort
    jobs: JobPort
    quotas: QuotaPort
    loads: LoadPort
    keys: Callable[[timedelta], IdempotencyPort]
    """The store of idempotency keys that keeps them for the given time."""
    streams: Callable[[timedelta], StreamPort]
    """The same of streams."""

    @classmethod
    def in_postgres(cls, db: Database) -> "Record":
        return cls(
            WriteStore(db, NO_TIME),
            WriteStore(db, HOUR),
            DocumentStore(db, NO_TIME),
            DocumentStore(db, HOUR),
            BotStore(db, NO_TIME),
            GarbageStore(db),
            VerifyStore(db, LEASE_SECONDS),
            ModelMigrationStore(db, NO_TIME),
            GenerationStore(db),
            RebuildStore(db),
            ListingStore(db),
            StatisticsStore(db),
            SyncStore(db, NO_TIME),
            JobStore(db),
            QuotaStore(db),
            LoadStore(db),
            partial(IdempotencyStore, db),
            partial(StreamStore, db),
        )

    @classmethod
    def in_memory(cls) -> "Record":
        tables = Tables()
        return cls(
            MemoryWriteStore(tables, NO_TIME),
            MemoryWriteStore(tables, HOUR),
            MemoryDocumentStore(tables, NO_TIME, matches),
            MemoryDocumentStore(tables, HOUR, matches),
            MemoryBotStore(tables, NO_TIME),
            MemoryGarbageStore(tables),
            MemoryVerifyStore(tables, LEASE_SECONDS),
            MemoryModelMigrationStore(tables, NO_TIME),
            MemoryGenerationStore(tables),
            MemoryRebuildStore(tables),
            MemoryListingStore(tables, matches),
            MemoryStatisticsStore(tables),
            MemorySyncStore(tables, NO_TIME),
            MemoryJobStore(tables),
            MemoryQuotaStore(tables),
            MemoryLoadStore(tables),
            partial(MemoryIdempotencyStore, tables),
            partial(MemoryStreamStore, tables),
        )

    @property
    def transactions(self) -> WriteTransactions:
        return WriteTransactions(self.writes)

    async def bot(self, account: str = "chatty") -> Bot:
        """A registered bot whose collection is recorded as created."""
        bot_id, token = uuid4(), uuid4()
        saga = await self.bots.insert(bot_id, "bot", f"c_{bot_id.hex}", account, token, HOUR)
        assert saga is not None
        await self.bots.finish_creation(saga, bot_id, f"c_{bot_id.hex}", "hash", 64, token)
        bot = await self.bots.get(bot_id, account)
        assert bot is not None
        return bot

    async def written(self, *writes: Write) -> None:
        """T1 and T2 of one request."""
        token = uuid4()
        await self.transactions.begin(writes, token, HOUR)
        await self.transactions.finish(writes, token)
        assert [write.error for write in writes] == [None] * len(writes)

    async def visible(self, bot_id: UUID, *keys: int) -> list[SearchChunk]:
        """The chunks of the current ones among ``keys``, in that order."""
        found = await self.documents.current_chunks(bot_id, keys, keys, None)
        return [found[key].chunk for key in keys if key in found]  # type: ignore[misc]

    async def chunks(self, bot_id: UUID, doc_id: int | None) -> list[Chunk] | None:
        assert doc_id is not None
        found = await self.documents.get(bot_id, doc_id)
        return None if found is None else found[1]

    async def texts(self, bot_id: UUID, doc_id: int | None) -> list[str] | None:
        chunks = await self.chunks(bot_id, doc_id)
        return None if chunks is None else [chunk.text for chunk in chunks]

    async def garbage_due(self) -> dict[int, bool]:
        """{generation: window_passed} of the garbage that can be claimed now. It can be claimed again afterwards."""
        return {row.generation: row.window_passed for row in await self.garbage.claim(NO_TIME)}


def document(*texts: str, title: str = "t", **columns: object) -> NewDocument:
    return NewDocument(title, [NewChunk(number, text) for number, text in enumerate(texts)], **columns)  # type: ignore[arg-type]


def error(write: Write) -> type[AppError] | None:
    """The type of the error that a write ended with."""
    return type(write.error) if write.error else None
