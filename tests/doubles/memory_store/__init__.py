"""The ports of the record in plain memory, for tests and the simulation."""

from tests.doubles.memory_store.bots import MemoryBotStore
from tests.doubles.memory_store.documents import MemoryDocumentStore
from tests.doubles.memory_store.garbage import MemoryGarbageStore
from tests.doubles.memory_store.generations import MemoryGenerationStore
from tests.doubles.memory_store.idempotency import MemoryIdempotencyStore
from tests.doubles.memory_store.jobs import MemoryJobStore
from tests.doubles.memory_store.listing import MemoryListingStore
from tests.doubles.memory_store.loads import MemoryLoadStore
from tests.doubles.memory_store.model_migrations import MemoryModelMigrationStore
from tests.doubles.memory_store.quotas import MemoryQuotaStore
from tests.doubles.memory_store.rebuild import MemoryRebuildStore
from tests.doubles.memory_store.statistics import MemoryStatisticsStore
from tests.doubles.memory_store.streams import MemoryStreamStore
from tests.doubles.memory_store.sync import MemorySyncStore
from tests.doubles.memory_store.tables import Tables
from tests.doubles.memory_store.verify import MemoryVerifyStore
from tests.doubles.memory_store.writes import MemoryWriteStore

__all__ = [
    "MemoryBotStore",
    "MemoryDocumentStore",
    "MemoryGarbageStore",
    "MemoryGenerationStore",
    "MemoryIdempotencyStore",
    "MemoryJobStore",
    "MemoryListingStore",
    "MemoryLoadStore",
    "MemoryModelMigrationStore",
    "MemoryQuotaStore",
    "MemoryRebuildStore",
    "MemoryStatisticsStore",
    "MemoryStreamStore",
    "MemorySyncStore",
    "MemoryVerifyStore",
    "MemoryWriteStore",
    "Tables",
]
