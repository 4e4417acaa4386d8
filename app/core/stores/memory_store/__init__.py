"""The record in plain memory, gone with the process. For tests and simulation, and the ports' plainest reading."""

from app.core.stores.memory_store.bots import MemoryBotStore
from app.core.stores.memory_store.documents import MemoryDocumentStore
from app.core.stores.memory_store.garbage import MemoryGarbageStore
from app.core.stores.memory_store.generations import MemoryGenerationStore
from app.core.stores.memory_store.once import MemoryOnceStore
from app.core.stores.memory_store.rebuild import MemoryRebuildStore
from app.core.stores.memory_store.reembed import MemoryReembedStore
from app.core.stores.memory_store.tables import Tables
from app.core.stores.memory_store.verify import MemoryVerifyStore

__all__ = [
    "MemoryBotStore",
    "MemoryDocumentStore",
    "MemoryGarbageStore",
    "MemoryGenerationStore",
    "MemoryOnceStore",
    "MemoryRebuildStore",
    "MemoryReembedStore",
    "MemoryVerifyStore",
    "Tables",
]
