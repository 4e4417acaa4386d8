"""Moves to another model in plain memory; keeps to ReembedPort as ``stores.reembed.ReembedStore`` does."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from uuid import UUID, uuid4

from app.core.stores.postgres.reembed import NOT_FOUND
from app.schemas.rows import DROP_COLLECTION, BotSaga, ModelMigration, SourceChunk
from app.utils.errors import BotNotFound, CollectionMoved, ReembedInProgress
from tests.doubles.memory_store.tables import BotRow, Tables


class MemoryReembedStore:
    """What a switching transaction does is undone when it is left by an exception, as its one change comes last."""

    def __init__(self, tables: Tables, settle: timedelta) -> None:
        self._tables = tables
        self._settle = settle

    async def take_lease(self, bot_id: UUID, token: UUID, length: timedelta) -> datetime | None:
        held = self._tables.reembed_leases.get(bot_id)
        if held and held[1] >= self._tables.now():
            return held[1]
        self._tables.reembed_leases[bot_id] = (token, self._tables.now() + length)
        return None

    async def renew_lease(self, bot_id: UUID, token: UUID, length: timedelta) -> bool:
        if not self._holds(bot_id, token):
            return False
        self._tables.reembed_leases[bot_id] = (token, self._tables.now() + length)
        return True

    async def release_lease(self, bot_id: UUID, token: UUID) -> None:
        if self._holds(bot_id, token):
            del self._tables.reembed_leases[bot_id]

    def _holds(self, bot_id: UUID, token: UUID) -> bool:
        return bot_id in self._tables.reembed_leases and self._tables.reembed_leases[bot_id][0] == token

    async def begin(self, bot_id: UUID, model: str, dimension: int) -> ModelMigration | None:
        bot = self._bot(bot_id)
        if bot.next is not None:
            if (bot.next.embedding_model, bot.next.dimension) != (model, dimension):
                raise ReembedInProgress(f"A move of bot {bot_id} to {bot.next.embedding_model} is half-done.")
            return bot.next
        if (bot.embedding_model, bot.dimension) in ((model, dimension), (None, None)):
            return None
        bot.next = ModelMigration(f"r{self._tables.next_generation()}_{uuid4().hex}", model, dimension)
        return bot.next

    async def move(self, bot_id: UUID) -> ModelMigration | None:
        bot = self._tables.active(bot_id)
        return bot.next if bot else None

    async def low_watermark(self, bot_id: UUID) -> int:
        self._bot(bot_id)
        writes = (saga for saga in self._tables.sagas.values() if (saga.bot_id, saga.operation) == (bot_id, "write"))
        return min((saga.generation for saga in writes), default=self._tables.last_generation + 1)

    async def page(self, bot_id: UUID, after: int, limit: int) -> Sequence[SourceChunk]:
        return [chunk for chunk in self._current(bot_id) if chunk.chunk_id > after][:limit]

    async def keys(self, bot_id: UUID, first: int) -> Sequence[int]:
        return [chunk.chunk_id for chunk in self._current(bot_id) if chunk.chunk_id >= first]

    async def chunks(self, bot_id: UUID, keys: Sequence[int]) -> Sequence[SourceChunk]:
        wanted = set(keys)
        return [chunk for chunk in self._current(bot_id) if chunk.chunk_id in wanted]

    async def enqueue_vector_gc(self, bot_id: UUID, collection: str, spans: Mapping[int, int]) -> None:
        if self._tables.active(bot_id) is None:
            return
        current = {document.generation for document in self._tables.partition(bot_id).documents.values()}
        for generation in sorted(spans.keys() - current):
            until = self._tables.now() + self._settle
            self._tables.collect_again(bot_id, generation, collection, spans[generation], until)

    @asynccontextmanager
    async def switching(self, bot_id: UUID, move: ModelMigration) -> AsyncIterator["MemorySwitch"]:
        bot = self._bot(bot_id)
        if bot.next != move:
            raise CollectionMoved(f"The move of bot {bot_id} was ended by somebody else.")
        yield MemorySwitch(self, self._tables, bot, move)

    async def forget(self, bot_id: UUID, token: UUID, lease: timedelta) -> BotSaga | None:
        bot = self._bot(bot_id)
        if bot.next is None:
            return None
        saga = self._tables.begin_saga(DROP_COLLECTION, bot_id, token, lease)
        saga.collection_name, bot.next = bot.next.collection_name, None
        return BotSaga(saga.generation, DROP_COLLECTION, bot_id, saga.collection_name)

    def _bot(self, bot_id: UUID) -> BotRow:
        bot = self._tables.active(bot_id)
        if bot is None:
            raise BotNotFound(NOT_FOUND)
        return bot

    def _current(self, bot_id: UUID) -> list[SourceChunk]:
        found = (
            SourceChunk(chunk.chunk_id, document.doc_id, chunk.text, document.chunk_span)
            for document, chunk in self._tables.current(bot_id)
        )
        return sorted(found, key=lambda chunk: chunk.chunk_id)


class MemorySwitch:
    """Keeps to Switch. Others may write between two of its calls, so that ``complete`` looks once more."""

    def __init__(self, store: MemoryReembedStore, tables: Tables, bot: BotRow, move: ModelMigration) -> None:
        self._store = store
        self._tables = tables
        self._bot = bot
        self._move = move
        self._first = 0
        self._seen: Sequence[int] | None = None

    async def keys(self, first: int) -> Sequence[int]:
        self._first, self._seen = first, await self._store.keys(self._bot.bot_id, first)
        return self._seen

    async def chunks(self, keys: Sequence[int]) -> Sequence[SourceChunk]:
        return await self._store.chunks(self._bot.bot_id, keys)

    async def complete(self, timestamp: int, grace: timedelta) -> None:
        """Raises CollectionMoved when somebody has written since ``keys``: here no lock has kept them out."""
        bot = self._bot
        new = self._seen is not None and set(await self._store.keys(bot.bot_id, self._first)) - set(self._seen)
        if new or bot.next != self._move or bot.state != "active":
            raise CollectionMoved("Somebody has written meanwhile.")
        saga = self._tables.begin_saga(DROP_COLLECTION, bot.bot_id, uuid4(), grace)
        saga.collection_name = bot.collection
        bot.milvus_collection, bot.next = self._move.collection_name, None
        bot.embedding_model, bot.dimension = self._move.embedding_model, self._move.dimension
        bot.milvus_timestamp = max(bot.milvus_timestamp, timestamp)
        self._tables.rebuilds.pop(bot.bot_id, None)
