"""Searches over an index that shows a write only when its tick has come, or to who waits for it."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import httpx
import pytest

from app.config import Settings
from app.core.bots import recent_vectors
from app.core.connect import Stores
from app.core.ports import ChunkIds, Hit
from app.core.services import build_services
from app.core.stores.postgres.database import Database
from app.core.stores.postgres.documents import DocumentStore
from app.core.stores.postgres.writes import WriteStore
from app.schemas.queries import SQL
from tests.conftest import BotClient, in_process, register
from tests.doubles.hash_embedder import HashEmbedder
from tests.doubles.memory_index import MemoryIndex


class TickingIndex(MemoryIndex):
    """``shown``: the newest timestamp that a search sees without a guarantee. ``guarantees``: of each search."""

    def __init__(self) -> None:
        super().__init__(bm25=False)
        self.clock = itertools.count(10, 10)
        self.timestamps: dict[int, int] = {}
        self.shown = 0
        self.guarantees: list[int] = []

    async def upsert(self, collection: str, chunk_ids: ChunkIds, *args: Any, **options: Any) -> int:
        await super().upsert(collection, chunk_ids, *args, **options)
        timestamp = next(self.clock)
        self.timestamps |= dict.fromkeys(chunk_ids.tolist(), timestamp)
        return timestamp

    async def search_dense(
        self, collection: str, queries: Any, k: int, *, guarantee_timestamp: int = 0, **options: Any
    ) -> list[list[Hit]]:
        self.guarantees.append(guarantee_timestamp)
        seen = max(self.shown, guarantee_timestamp)
        every = await super().search_dense(collection, queries, 1_000, **options)
        return [[hit for hit in hits if self.timestamps[hit.chunk_id] <= seen][:k] for hits in every]

    @property
    def newest(self) -> int:
        return max(self.timestamps.values())


@pytest.fixture(autouse=True)
def held_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a slow machine a search may come more than HELD_SECONDS after the write."""
    monkeypatch.setattr(recent_vectors, "HELD_SECONDS", 600.0)


@pytest.fixture
def index() -> TickingIndex:
    return TickingIndex()


@pytest.fixture
async def other(
    db: Database, index: TickingIndex, settings: Settings, late_write_window: timedelta, client: httpx.AsyncClient
) -> AsyncIterator[httpx.AsyncClient]:
    """A second server process over the same stores."""
    stores = Stores(db, index, late_write_window)
    async with build_services(settings, stores, HashEmbedder()) as services, in_process(services) as opened:
        yield opened


async def texts(bot: BotClient, query: str = "text", **options: object) -> list[object]:
    return [found["chunk_text"] for found in await bot.search(query, **options)]


async def replace(bot: BotClient, doc_id: int, *chunks: str) -> None:
    answer = await bot.http.put(f"/data/document/{doc_id}", json=bot.body(*chunks))
    assert answer.status_code == 200, answer.text


async def delete(bot: BotClient, doc_id: int) -> None:
    answer = await bot.http.delete(f"/data/document/{doc_id}", params={"chat_bot_id": str(bot.bot_id)})
    assert answer.status_code == 200, answer.text


async def test_own_writes_are_found_without_waiting(bot: BotClient, index: TickingIndex) -> None:
    one = await bot.insert("text one")
    await bot.insert("text two")
    for _ in range(3):
        assert set(await texts(bot)) == {"text one", "text two"}
    await replace(bot, one, "text one, changed")
    assert set(await texts(bot)) == {"text one, changed", "text two"}
    await delete(bot, one)
    assert await texts(bot) == ["text two"]
    assert set(index.guarantees) == {0}
    # What Milvus and this process both know counts once.
    index.shown = index.newest
    assert await texts(bot) == ["text two"]


async def test_a_search_at_rest_reads_no_row_after_own_writes(
    bot: BotClient, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    doc_id = await bot.insert("text")
    for number in range(3):
        await replace(bot, doc_id, f"text {number}")
        await texts(bot)
    asked: list[str] = []
    fetch = Database.fetch

    async def told(self: Database, sql: str, *args: Any) -> Any:
        asked.append(sql)
        return await fetch(self, sql, *args)

    await replace(bot, doc_id, "text 3")
    monkeypatch.setattr(Database, "fetch", told)
    assert await texts(bot) == ["text 3"]
    # Tasks in the background ask too.
    assert [sql for sql in asked if sql in (SQL["current_chunks"], SQL["get_bot"])] == [SQL["current_chunks"]]


async def test_filters_thresholds_groups_and_context(bot: BotClient, index: TickingIndex) -> None:
    await bot.insert("text one", "text two", "else", title="a", metadata={"kind": 1})
    await bot.insert("text three", title="b", metadata={"kind": 2})
    kind = {"type": "eq", "key": "metadata.kind", "value": 1}
    assert set(await texts(bot, filter=kind)) == {"text one", "text two", "else"}
    assert await texts(bot, "text one", score_threshold=0.99) == ["text one"]
    grouped = await bot.search("text one", group_by_document=True)
    assert [found["chunk_text"] for found in grouped] == ["text one", "text three"]
    (first, *_) = await bot.search("text two", limit=1, context_chunks=1)
    assert [chunk["chunk_text"] for chunk in first["context"]] == ["text one", "text two", "else"]  # type: ignore[attr-defined]
    assert set(index.guarantees) == {0}


async def test_small_writes_of_another_process_are_found_without_waiting(
    bot: BotClient, other: httpx.AsyncClient, index: TickingIndex
) -> None:
    there = BotClient(other, bot.bot_id)
    mine, gone = await bot.insert("own"), await bot.insert("own, to be deleted")
    for _ in range(3):  # The row is assumed by now.
        assert len(await texts(bot)) == 2
    foreign = await there.insert("foreign")
    for one in (bot, there, bot, there):
        assert set(await texts(one)) == {"own", "own, to be deleted", "foreign"}
    await replace(there, mine, "own, changed there")
    await replace(bot, foreign, "foreign, changed here")
    await delete(there, gone)
    for one in (bot, there, bot, there):
        assert set(await texts(one)) == {"own, changed there", "foreign, changed here"}
    assert set(index.guarantees) == {0}
    # What Milvus and the table both know counts once.
    index.shown = index.newest
    assert len(await texts(bot)) == len(await texts(there)) == 2


async def test_large_writes_of_another_process_are_waited_for(
    bot: BotClient, other: httpx.AsyncClient, index: TickingIndex
) -> None:
    there = BotClient(other, bot.bot_id)
    for _ in range(2):
        await bot.insert(*(f"own {number}" for number in range(9)))
        for _ in range(3):  # The row is assumed by now.
            await texts(bot)
        await there.insert(*(f"foreign {number}" for number in range(9)))
        query = {"query": "foreign 1", "limit": 100}
        assert set(await texts(bot, **query)) == set(await texts(there, **query))  # type: ignore[arg-type]
        assert index.guarantees[-2] == index.newest
        await bot.insert(*(f"own {number}" for number in range(9)))
        foreign, own = sorted(set(index.timestamps.values()))[-2:]
        assert sorted(await texts(bot, **query)) == sorted(await texts(there, **query))  # type: ignore[arg-type]
        assert index.guarantees[-2:] == [foreign, own]


async def test_a_slow_write_of_another_process_with_an_older_timestamp(
    bot: BotClient, other: httpx.AsyncClient, at: Callable[..., asyncio.Event], index: TickingIndex
) -> None:
    there = BotClient(other, bot.bot_id)
    doc_id = await bot.insert("text")
    reached = at("write.after_upsert", lambda: there.insert("newer"))
    await there.insert("older")
    assert reached.is_set()
    for one in (bot, there, bot):
        assert set(await texts(one)) == {"text", "older", "newer"}
    await delete(there, doc_id)
    assert set(await texts(bot)) == {"older", "newer"}
    assert set(index.guarantees) == {0}


async def test_others_ask_for_recent_vectors_only_for_a_second(
    bot: BotClient, other: httpx.AsyncClient, index: TickingIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = BotClient(other, bot.bot_id)
    await bot.insert("text")
    asked: list[str] = []
    fetch = Database.fetch

    async def told(self: Database, sql: str, *args: Any) -> Any:
        asked.append(sql)
        return await fetch(self, sql, *args)

    async def statements() -> list[str]:
        asked.clear()
        assert await texts(there, mode="dense") == ["text"]
        return [sql for sql in asked if sql in names]

    names = {SQL[name]: name for name in ("get_bot", "recent_writes", "current_chunks")}
    monkeypatch.setattr(Database, "fetch", told)
    assert [names[sql] for sql in await statements()] == ["get_bot", "recent_writes", "current_chunks"]
    for _ in range(4):  # Also until the statistics of the bot are there.
        await statements()
    for _ in range(2):  # The row is assumed.
        assert [names[sql] for sql in await statements()] == ["recent_writes", "current_chunks"]
    doc_id = await bot.insert("text")
    asked.clear()
    assert await texts(there, mode="dense") == ["text", "text"]
    assert [names[sql] for sql in asked if sql in names] == ["recent_writes", "current_chunks"]
    await delete(bot, doc_id)
    assert set(index.guarantees) == {0}
    monkeypatch.setattr(recent_vectors, "HELD_SECONDS", -1.0)
    assert [names[sql] for sql in await statements()] == ["current_chunks"]
    assert index.guarantees[-1] == index.newest


async def test_swept_vectors_are_waited_for(
    bot: BotClient, other: httpx.AsyncClient, db: Database, index: TickingIndex
) -> None:
    await bot.insert("text")
    await WriteStore(db, timedelta(0)).sweep_recent_vectors(timedelta(hours=-1))
    assert await db.fetch("SELECT FROM recent_vectors") == []
    assert await texts(BotClient(other, bot.bot_id)) == ["text"]
    assert index.guarantees == [index.newest]


async def test_what_is_not_held_is_waited_for(
    bot: BotClient, index: TickingIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bot.insert("old")
    assert await texts(bot) == ["old"]
    monkeypatch.setattr(recent_vectors, "HELD_SECONDS", -1.0)
    assert await texts(bot) == ["old"]
    assert index.guarantees[-1] == index.newest
    monkeypatch.setattr(recent_vectors, "HELD_SECONDS", 600.0)
    monkeypatch.setattr(recent_vectors, "WRITE_CHUNKS", 1)
    await bot.insert("large one", "large two")
    assert set(await texts(bot)) == {"old", "large one", "large two"}
    assert index.guarantees[-1] == index.newest


async def test_a_write_that_t2_refuses_is_not_shown(
    bot: BotClient, at: Callable[..., asyncio.Event], index: TickingIndex
) -> None:
    kept, gone = await bot.insert("kept"), await bot.insert("text")

    at("write.before_t2", lambda: delete(bot, gone))
    answer = await bot.http.put(f"/data/document/{gone}", json=bot.body("text, changed"))
    assert answer.status_code == 409, answer.text
    for _ in range(3):
        assert await texts(bot) == ["kept"]
    await replace(bot, kept, "kept, changed")
    assert await texts(bot) == ["kept, changed"]
    assert set(index.guarantees) == {0}


@pytest.mark.parametrize("is_own", [True, False], ids=["by this process", "by another one"])
async def test_a_document_replaced_during_a_search_is_not_missing(
    bot: BotClient, other: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, is_own: bool
) -> None:
    doc_id = await bot.insert("text")
    await bot.insert("text that stays")
    for _ in range(3):
        await texts(bot)
    writer = bot if is_own else BotClient(other, bot.bot_id)
    confirm = DocumentStore.current_chunks
    left = [1]

    async def after_a_replacement(self: DocumentStore, *args: Any, **options: Any) -> Any:
        if left:
            left.pop()
            await replace(writer, doc_id, "text, changed")
        return await confirm(self, *args, **options)

    monkeypatch.setattr(DocumentStore, "current_chunks", after_a_replacement)
    assert set(await texts(bot)) == {"text, changed", "text that stays"}


async def test_a_bot_deleted_and_registered_again(client: httpx.AsyncClient, index: TickingIndex) -> None:
    bot = await register(client, collection_name="again")
    await bot.insert("of the first")
    assert await texts(bot) == ["of the first"]
    assert (await client.delete(f"/collection/{bot.bot_id}")).status_code == 200
    body = {"chat_bot_id": str(bot.bot_id), "bot_name": "bot", "collection_name": "again"}
    assert (await client.post("/collection/create", json=body)).status_code == 201
    assert await texts(bot) == []
    await bot.insert("of the second")
    assert await texts(bot) == ["of the second"]
