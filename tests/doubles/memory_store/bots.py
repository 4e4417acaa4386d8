"""BotPort in plain memory."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from uuid import UUID

from app.schemas.quotas import NO_QUOTA
from app.schemas.rows import CREATE_BOT, DELETE_BOT, DROP_COLLECTION, Bot, BotChanges, BotCounts, BotSaga, Mode
from app.utils.errors import CollectionNameTaken, QuotaExceeded
from tests.doubles.memory_store.tables import BotRow, Partition, Tables

NO_PROCESS = UUID(int=0)
"""A token that no process has: recovery takes the saga when its lease has expired."""


class MemoryBotStore:
    def __init__(self, tables: Tables, late_write_window: timedelta) -> None:
        self._tables = tables
        self._late_write_window = late_write_window

    async def get(self, bot_id: UUID, account: str | None) -> Bot | None:
        bot = self._tables.active(bot_id, account)
        if bot is None:
            return None
        in_flight_generations = (
            saga.generation
            for saga in self._tables.sagas.values()
            if (saga.bot_id, saga.operation, saga.doc_id) == (bot_id, "write", saga.generation)
        )
        return replace(bot.bot(self._tables.progress(bot_id)), in_flight_generations=tuple(in_flight_generations))

    async def get_many(self, bot_ids: Sequence[UUID], account: str | None) -> dict[UUID, Bot]:
        found = ((bot_id, self._tables.active(bot_id, account)) for bot_id in bot_ids)
        return {bot_id: bot.bot(self._tables.progress(bot_id)) for bot_id, bot in found if bot}

    async def list(
        self, account: str | None, after: tuple[datetime, UUID] | None = None, limit: int | None = None
    ) -> Sequence[Bot]:
        bots = [
            bot.bot(self._tables.progress(bot_id))
            for bot_id in self._tables.bots
            if (bot := self._tables.active(bot_id, account)) and (after is None or (bot.created_at, bot_id) > after)
        ]
        return sorted(bots, key=lambda bot: (bot.created_at, bot.bot_id))[:limit]

    async def count(self, account: str | None) -> int:
        return len(await self.list(account))

    async def find(self, collection_name: str, account: str | None) -> UUID | None:
        return next((bot.bot_id for bot in await self.list(account) if bot.collection_name == collection_name), None)

    async def update(self, bot_id: UUID, account: str | None, changes: BotChanges) -> bool:
        bot = self._tables.active(bot_id, account)
        if bot is None:
            return False
        for column, value in changes.items():
            setattr(bot, column, value)
        return True

    async def counts(self, bot_id: UUID) -> BotCounts:
        documents = self._tables.partition(bot_id).documents.values()
        return BotCounts(
            documents=len(documents),
            chunks=sum(document.chunk_count for document in documents),
            sagas=sum(saga.bot_id == bot_id for saga in self._tables.sagas.values()),
            vector_gc=sum(row.bot_id == bot_id for row in self._tables.garbage.values()),
        )

    async def insert(
        self,
        bot_id: UUID,
        bot_name: str,
        collection_name: str,
        account: str,
        token: UUID,
        lease: timedelta,
        *,
        analyzer_version: int = 1,
        title_in_lexical: bool = False,
        default_mode: Mode | None = None,
        default_dense_weight: float | None = None,
        default_min_confidence: float | None = None,
        pinned: bool = False,
    ) -> int | None:
        if bot_id in self._tables.bots:
            return None
        if any(bot.collection_name == collection_name for bot in self._tables.bots.values()):
            raise CollectionNameTaken(f"Another bot has the collection_name {collection_name!r}.")
        limit, used = self._tables.quotas.get(account, NO_QUOTA).bots, self._tables.usage(account).bots
        if limit is not None and used >= limit:
            raise QuotaExceeded("bots", used, limit, 1)
        self._tables.bots[bot_id] = BotRow(
            bot_id,
            bot_name,
            collection_name,
            account,
            self._tables.now(),
            analyzer_version=analyzer_version,
            title_in_lexical=title_in_lexical,
            default_mode=default_mode,
            default_dense_weight=default_dense_weight,
            default_min_confidence=default_min_confidence,
            pinned=pinned,
        )
        self._tables.partitions[bot_id] = Partition()
        return self._tables.begin_saga(CREATE_BOT, bot_id, token, lease).generation

    async def begin_creation(self, bot_id: UUID, token: UUID, lease: timedelta) -> int | None:
        if self._tables.active(bot_id) is None:
            return None
        return self._tables.begin_saga(CREATE_BOT, bot_id, token, lease).generation

    async def finish_creation(
        self, saga: int, bot_id: UUID, collection: str, model: str, dimension: int, token: UUID
    ) -> bool:
        if (active := self._tables.active(bot_id)) and active.collection != collection:
            return False
        bot = self._tables.bots.get(bot_id)
        if bot and bot.embedding_model is None:
            bot.embedding_model, bot.dimension = model, dimension
        self._tables.end_sagas([saga], token)
        return True

    async def end_saga(self, saga: int, token: UUID) -> None:
        self._tables.end_sagas([saga], token)

    async def begin_deletion(self, bot_id: UUID, account: str | None, token: UUID, lease: timedelta) -> int | None:
        bot = self._tables.active(bot_id, account)
        if bot is None:
            return None
        bot.state = "deleting"
        return self._tables.begin_saga(DELETE_BOT, bot_id, token, lease).generation

    async def state(self, bot_id: UUID) -> tuple[str, str, int | None] | None:
        bot = self._tables.bots.get(bot_id)
        return (bot.state, bot.collection, bot.dimension) if bot else None

    async def collections(self, bot_id: UUID, dimension: int) -> Sequence[tuple[str, int | None]]:
        found: list[tuple[str, int | None]] = []
        if bot := self._tables.bots.get(bot_id):
            found.append((bot.collection, bot.dimension or dimension))
            if bot.collection != bot.collection_name:
                found.append((bot.collection_name, bot.dimension or dimension))
            if bot.next:
                found.append((bot.next.collection_name, bot.next.dimension))
        return found + [(name, None) for name in self._to_drop(bot_id)]

    def _to_drop(self, bot_id: UUID) -> Iterable[str]:
        for saga in self._tables.sagas.values():
            if (saga.bot_id, saga.operation) == (bot_id, DROP_COLLECTION) and saga.collection_name:
                yield saga.collection_name

    async def creation_in_flight(self, bot_id: UUID, before: int | None = None) -> bool:
        return any(
            (saga.bot_id, saga.operation) == (bot_id, CREATE_BOT) and (before is None or generation < before)
            for generation, saga in self._tables.sagas.items()
        )

    async def finish_deletion(self, bot_id: UUID) -> bool:
        now, tables = self._tables.now(), self._tables
        if self._tables.active(bot_id):
            return True
        collections = [name for name, _ in await self.collections(bot_id, 0)]
        for saga in [saga for saga in tables.sagas.values() if saga.bot_id == bot_id]:
            del tables.sagas[saga.generation]
            if saga.operation == "write" and saga.collection_name:
                tables.collect_again(
                    bot_id, saga.generation, saga.collection_name, saga.chunk_span, now + self._late_write_window
                )
        for document in tables.partition(bot_id).documents.values():
            until = document.updated_at + self._late_write_window
            for collection in collections if until > now else ():
                tables.collect_again(bot_id, document.generation, collection, document.chunk_span, until)
        tables.partitions.pop(bot_id, None)
        tables.migration_leases.pop(bot_id, None)
        if (bot := tables.bots.get(bot_id)) and bot.state == "deleting":
            del tables.bots[bot_id]
            tables.recent.pop(bot_id, None)
            tables.rebuilds.pop(bot_id, None)
            tables.syncs.pop(bot_id, None)
            tables.jobs = {key: row for key, row in tables.jobs.items() if row.job.bot_id != bot_id}
            for name in [name for name in tables.parts if name.bot_id == bot_id]:
                del tables.parts[name]
            tables.checks.pop(bot_id, None)
            tables.doubts.pop(bot_id, None)
            tables.frequencies.pop(bot_id, None)
        return True

    async def begin_replacement(self, bot_id: UUID, token: UUID, lease: timedelta) -> BotSaga:
        saga = self._tables.begin_saga(DROP_COLLECTION, bot_id, token, lease)
        saga.collection_name = f"r{saga.generation}"
        return BotSaga(saga.generation, DROP_COLLECTION, bot_id, saga.collection_name)

    async def replace_collection(self, bot: Bot, replacement: BotSaga, model: str, dimension: int, token: UUID) -> bool:
        former, row = bot.milvus_collection, self._tables.active(bot.bot_id)
        if row is None or (row.collection, row.embedding_model) != (former, bot.embedding_model):
            return False
        if not self._tables.end_sagas([replacement.generation], token):
            return False
        if row.embedding_model is None:
            row.embedding_model, row.dimension = model, dimension
        row.milvus_collection = replacement.collection_name
        row.forget_writers()
        if self._has_chunks(bot.bot_id):
            self._tables.begin_rebuild(bot.bot_id, False)
        if bot.embedding_model is not None:
            drop = self._tables.begin_saga(DROP_COLLECTION, bot.bot_id, NO_PROCESS, self._late_write_window)
            drop.collection_name = former
        return True

    def _has_chunks(self, bot_id: UUID) -> bool:
        writes = ((saga.bot_id, saga.operation) for saga in self._tables.sagas.values())
        return bool(self._tables.partition(bot_id).documents) or (bot_id, "write") in writes

    async def claim_expired(self, token: UUID, lease: timedelta) -> BotSaga | None:
        now = self._tables.now()
        for generation, saga in sorted(
            self._tables.sagas.items(), key=lambda item: (item[1].lease_until, item[1].operation != CREATE_BOT, item[0])
        ):
            if saga.operation != "write" and saga.lease_until < now:
                saga.lease_token, saga.lease_until = token, now + lease
                return BotSaga(generation, saga.operation, saga.bot_id, saga.collection_name)
        return None
