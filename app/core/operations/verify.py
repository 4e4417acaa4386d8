"""Compares the stores while the server serves, and reports findings.

The stores are read at different moments, so what looks wrong is read again before it is reported: orphaned vectors from
Milvus, then PostgreSQL, then Milvus again; lost vectors from PostgreSQL, then Milvus, then PostgreSQL again.
"""

from collections import Counter
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from app.core.ports import VectorIndex, VerifyPort
from app.schemas.rows import CHUNKS_PER_GENERATION, BotState
from app.utils.errors import CollectionMissing, CollectionMoved

MAX_RANGES = 64
"""Key ranges in one call of ``VectorIndex.present``."""
SHOWN: Final = 100
"""Findings that a result has in full; all are counted."""


@dataclass(frozen=True, slots=True)
class Finding:
    """``kind`` is for programs, ``detail`` for people; ``key`` and ``doc_id`` name the chunk and the document."""

    kind: str
    bot_id: UUID | None
    detail: str
    key: int | None = None
    doc_id: int | None = None

    def __str__(self) -> str:
        bot = f" bot={self.bot_id}" if self.bot_id else ""
        return f"{self.kind}{bot} {self.detail}"


class Findings:
    """``total``: how many were added."""

    def __init__(self) -> None:
        self.total = 0
        self._kinds: Counter[str] = Counter()
        self._first: list[dict[str, str | None]] = []

    async def add(self, findings: AsyncIterator[Finding]) -> None:
        async for finding in findings:
            self.total += 1
            self._kinds[finding.kind] += 1
            if len(self._first) < SHOWN:
                bot_id = str(finding.bot_id) if finding.bot_id else None
                self._first.append({"kind": finding.kind, "chat_bot_id": bot_id, "detail": finding.detail})

    def as_json(self) -> dict[str, Any]:
        """``by_kind``: numbers; ``first``: those that are shown."""
        return {"by_kind": dict(self._kinds), "first": self._first}


class Verifier:
    def __init__(self, store: VerifyPort, index: VectorIndex) -> None:
        self._store = store
        self._index = index

    async def bots(self, only: UUID | None = None) -> list[BotState]:
        return list(await self._store.bots(only))

    async def check_all(self) -> AsyncIterator[Finding]:
        """Findings that belong to no single bot."""
        for name in await self._store.orphaned_partitions():
            yield Finding("partition_orphan", None, f"partition {name} has no bot")
        for name, owner, dropped_by in await self._store.foreign_partitions():
            detail = f"partition {name} belongs to role {owner}: {dropped_by}, which cannot drop it, should own it"
            yield Finding("partition_foreign", None, detail)
        for generation in await self._store.abandoned_sagas():
            yield Finding(
                "saga_forgotten", None, f"the lease of saga {generation} expired long ago: is a server running?"
            )

    async def check_bot(self, bot: BotState) -> AsyncIterator[Finding]:
        """Orphaned or lost vectors, lost or stray chunks, a missing collection or partition of the bot."""
        if bot.state != "active" or bot.embedding_model is None:
            return
        if not bot.has_partitions:
            yield Finding("partition_missing", bot.bot_id, "its partitions are missing")
            return
        for doc_id in await self._store.wrong_chunk_counts(bot.bot_id):
            if doc_id in await self._store.wrong_chunk_counts(bot.bot_id):
                detail = f"document {doc_id} has another number of chunks than its row says"
                yield Finding("chunk_lost", bot.bot_id, detail, doc_id=doc_id)
        for chunk_id in await self._store.stray_chunks(bot.bot_id):
            yield Finding("chunk_stray", bot.bot_id, f"chunk {chunk_id} belongs to no current generation", chunk_id)
        if bot.is_rebuilding:
            yield Finding("index_rebuilding", bot.bot_id, "vectors that Milvus lost are being rebuilt, or will be")
            return
        while True:
            try:
                async for finding in self._compare(bot):
                    yield finding
                return
            except CollectionMissing:
                now = await self._now(bot)
                if now == bot and bot.collection_name not in await self._index.collections():
                    if await self._now(bot) == bot:
                        detail = f"Milvus has no collection {bot.collection_name}"
                        yield Finding("collection_missing", bot.bot_id, detail)
                    return
            except CollectionMoved:
                now = await self._now(bot)
            if now is None or now.state != "active":
                return
            bot = now  # It has another collection now.

    async def check_now(self, bot_id: UUID) -> AsyncIterator[Finding]:
        """As ``check_bot``, of the bot as it is at this moment; nothing if there is none."""
        for bot in await self._store.bots(bot_id):
            async for finding in self.check_bot(bot):
                yield finding

    async def report(self, bot_id: UUID) -> Findings:
        """All findings of ``check_now``."""
        found = Findings()
        await found.add(self.check_now(bot_id))
        return found

    async def _compare(self, bot: BotState) -> AsyncIterator[Finding]:
        """Raises CollectionMoved when something is found in a collection that is not the bot's any more."""
        async for key in self._orphans(bot):
            detail = f"vector {key} in {bot.collection_name} has no document"
            yield Finding("vector_orphan", bot.bot_id, detail, key)
        async for key, doc_id in self._losses(bot):
            detail = f"chunk {key} has no vector in {bot.collection_name}"
            yield Finding("vector_lost", bot.bot_id, detail, key, doc_id)

    async def _orphans(self, bot: BotState) -> AsyncIterator[int]:
        async for page in self._index.scan(bot.collection_name):
            unknown = await self._store.unknown_keys(bot.bot_id, bot.collection_name, page)
            # A key whose row of vector_gc was completed since the page was read is gone from Milvus too.
            still = await present_keys(
                self._index, bot.collection_name, {key // CHUNKS_PER_GENERATION for key in unknown}
            )
            if unknown & still:
                await self._check_unmoved(bot)
            for key in sorted(unknown & still):
                yield key

    async def _losses(self, bot: BotState) -> AsyncIterator[tuple[int, int]]:
        """(chunk_id, doc_id)"""
        async for doc_ids in self._store.document_pages(bot.bot_id):
            expected = await self._store.current_keys(bot.bot_id, doc_ids)
            generations = {key // CHUNKS_PER_GENERATION for key in expected}
            missing = expected.keys() - await present_keys(self._index, bot.collection_name, generations)
            if missing:
                lost = missing & (await self._store.current_keys(bot.bot_id, doc_ids)).keys()
                if lost:
                    await self._check_unmoved(bot)
                for key in sorted(lost):
                    yield key, expected[key]

    async def _now(self, bot: BotState) -> BotState | None:
        return next(iter(await self._store.bots(bot.bot_id)), None)

    async def _check_unmoved(self, bot: BotState) -> None:
        now = await self._now(bot)
        if now is None or now.collection_name != bot.collection_name:
            raise CollectionMoved()


async def present_keys(index: VectorIndex, collection: str, generations: Iterable[int]) -> set[int]:
    """The keys of these generations that the collection has."""
    ordered, found = sorted(generations), set[int]()
    for start in range(0, len(ordered), MAX_RANGES):
        ranges = [
            (generation * CHUNKS_PER_GENERATION, (generation + 1) * CHUNKS_PER_GENERATION)
            for generation in ordered[start : start + MAX_RANGES]
        ]
        found |= await index.present(collection, ranges)
    return found
