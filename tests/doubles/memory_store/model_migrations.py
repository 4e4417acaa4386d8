"""ModelMigrationPort in plain memory."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from uuid import UUID, uuid4

from app.core.stores.postgres.model_migrations import has_titles
from app.schemas.operation_rows import ModelMigration, SourceChunk
from app.schemas.rows import DROP_COLLECTION, BotSaga
from app.utils.errors import BotNotFound, CollectionMoved, MigrationInProgress
from tests.doubles.memory_store.tables import BotRow, Tables


class MemoryModelMigrationStore:
    """A cut-over that ends with an exception changes nothing, because its one change comes last."""

    def __init__(self, tables: Tables, late_write_window: timedelta) -> None:
        self._tables = tables
        self._late_write_window = late_write_window

    async def take_lease(self, bot_id: UUID, token: UUID, length: timedelta) -> datetime | None:
        held = self._tables.migration_leases.get(bot_id)
        if held and held[1] >= self._tables.now():
            return held[1]
        self._tables.migration_leases[bot_id] = (token, self._tables.now() + length)
        return None

    async def renew_lease(self, bot_id: UUID, token: UUID, length: timedelta) -> bool:
        if not self._holds(bot_id, token):
            return False
        self._tables.migration_leases[bot_id] = (token, self._tables.now() + length)
        return True

    async def release_lease(self, bot_id: UUID, token: UUID) -> None:
        if self._holds(bot_id, token):
            del self._tables.migration_leases[bot_id]

    def _holds(self, bot_id: UUID, token: UUID) -> bool:
        return bot_id in self._tables.migration_leases and self._tables.migration_leases[bot_id][0] == token

    async def begin(
        self,
        bot_id: UUID,
        model: str,
        dimension: int,
        *,
        analyzer_version: int = 1,
        title_in_lexical: bool | None = None,
    ) -> ModelMigration | None:
        bot = self._bot(bot_id)
        if bot.next is not None:
            if (bot.next.embedding_model, bot.next.dimension) != (model, dimension):
                raise MigrationInProgress(f"A migration of bot {bot_id} to {bot.next.embedding_model} is unfinished.")
            return bot.next
        if (bot.embedding_model, bot.dimension) in ((model, dimension), (None, None)):
            return None
        name = f"r{self._tables.next_generation()}_{uuid4().hex}"
        titles = has_titles(bot.analyzer_version, bot.title_in_lexical, title_in_lexical)
        bot.next = ModelMigration(name, model, dimension, analyzer_version, titles)
        return bot.next

    async def begin_reindex(
        self, bot_id: UUID, *, analyzer_version: int, title_in_lexical: bool | None
    ) -> ModelMigration | None:
        bot = self._bot(bot_id)
        if bot.embedding_model is None or bot.dimension is None:
            return None
        titles = has_titles(bot.analyzer_version, bot.title_in_lexical, title_in_lexical)
        target = (bot.embedding_model, bot.dimension, analyzer_version, titles)
        if bot.next is None:
            bot.next = ModelMigration(f"r{self._tables.next_generation()}_{uuid4().hex}", *target)
        elif bot.next != ModelMigration(bot.next.collection_name, *target):
            raise MigrationInProgress(f"Another migration of bot {bot_id} is unfinished.")
        return bot.next

    async def migration(self, bot_id: UUID) -> ModelMigration | None:
        bot = self._tables.active(bot_id)
        return bot.next if bot else None

    async def low_watermark(self, bot_id: UUID) -> int:
        self._bot(bot_id)
        writes = (saga for saga in self._tables.sagas.values() if (saga.bot_id, saga.operation) == (bot_id, "write"))
        return min((saga.generation for saga in writes), default=self._tables.last_generation + 1)

    async def chunk_page(self, bot_id: UUID, after: int, limit: int) -> Sequence[SourceChunk]:
        return [chunk for chunk in self._current(bot_id) if chunk.chunk_id > after][:limit]

    async def keys_from(self, bot_id: UUID, first: int, limit: int | None = None) -> Sequence[int]:
        return [chunk.chunk_id for chunk in self._current(bot_id) if chunk.chunk_id >= first][:limit]

    async def chunks_of_keys(self, bot_id: UUID, keys: Sequence[int]) -> Sequence[SourceChunk]:
        wanted = set(keys)
        return [chunk for chunk in self._current(bot_id) if chunk.chunk_id in wanted]

    async def enqueue_vector_gc(self, bot_id: UUID, collection: str, spans: Mapping[int, int]) -> None:
        if self._tables.active(bot_id) is None:
            return
        current = {document.generation for document in self._tables.partition(bot_id).documents.values()}
        for generation in sorted(spans.keys() - current):
            until = self._tables.now() + self._late_write_window
            self._tables.collect_again(bot_id, generation, collection, spans[generation], until)

    @asynccontextmanager
    async def cut_over(self, bot_id: UUID, migration: ModelMigration) -> AsyncIterator["MemoryCutover"]:
        bot = self._bot(bot_id)
        if bot.next != migration:
            raise CollectionMoved(f"The migration of bot {bot_id} has ended.")
        yield MemoryCutover(self, self._tables, bot, migration)

    async def abort(self, bot_id: UUID, token: UUID, lease: timedelta) -> BotSaga | None:
        bot = self._bot(bot_id)
        if bot.next is None:
            return None
        saga = self._tables.begin_saga(DROP_COLLECTION, bot_id, token, lease)
        saga.collection_name, bot.next = bot.next.collection_name, None
        return BotSaga(saga.generation, DROP_COLLECTION, bot_id, saga.collection_name)

    def _bot(self, bot_id: UUID) -> BotRow:
        bot = self._tables.active(bot_id)
        if bot is None:
            raise BotNotFound()
        return bot

    def _current(self, bot_id: UUID) -> list[SourceChunk]:
        found = (
            SourceChunk(chunk.chunk_id, document.doc_id, document.title, chunk.text, document.chunk_span)
            for document, chunk in self._tables.current(bot_id)
        )
        return sorted(found, key=lambda chunk: chunk.chunk_id)


class MemoryCutover:
    """Cutover in plain memory. Others may write between two of its calls, so ``complete`` checks for that."""

    def __init__(
        self, store: MemoryModelMigrationStore, tables: Tables, bot: BotRow, migration: ModelMigration
    ) -> None:
        self._store = store
        self._tables = tables
        self._bot = bot
        self._migration = migration
        self.milvus_timestamp = bot.milvus_timestamp
        self._first = 0
        self._seen: Sequence[int] | None = None

    async def keys_from(self, first: int) -> Sequence[int]:
        self._first, self._seen = first, await self._store.keys_from(self._bot.bot_id, first)
        return self._seen

    async def chunks_of_keys(self, keys: Sequence[int]) -> Sequence[SourceChunk]:
        return await self._store.chunks_of_keys(self._bot.bot_id, keys)

    async def complete(self, timestamp: int, grace: timedelta) -> None:
        """Raises CollectionMoved when a write was finished since ``keys_from``: no lock blocks writers here."""
        bot = self._bot
        new = self._seen is not None and set(await self._store.keys_from(bot.bot_id, self._first)) - set(self._seen)
        if new or bot.next != self._migration or bot.state != "active":
            raise CollectionMoved("A write was finished meanwhile.")
        saga = self._tables.begin_saga(DROP_COLLECTION, bot.bot_id, uuid4(), grace)
        saga.collection_name = bot.collection
        bot.milvus_collection, bot.next = self._migration.collection_name, None
        bot.embedding_model, bot.dimension = self._migration.embedding_model, self._migration.dimension
        bot.analyzer_version = self._migration.analyzer_version
        bot.title_in_lexical = self._migration.title_in_lexical
        bot.milvus_timestamp = max(bot.milvus_timestamp, timestamp)
        bot.forget_writers()
        self._tables.rebuilds.pop(bot.bot_id, None)
