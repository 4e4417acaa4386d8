"""Optimistic reads of a bot's row: a search begins with the cached row, and its present row decides the answer."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from app.core.stores.postgres.database import Database
from app.schemas.queries import SQL
from app.utils.errors import VectorIndexUnavailable
from tests.conftest import BotClient
from tests.doubles.memory_index import MemoryIndex


class WatchedIndex(MemoryIndex):
    """Records the guarantee timestamp of each search; a search below ``least`` fails."""

    def __init__(self) -> None:
        super().__init__()
        self.guarantee_timestamps: list[int] = []
        self.least = 0

    async def search_dense(self, *args: Any, guarantee_timestamp: int, **more: Any) -> Any:
        self.guarantee_timestamps.append(guarantee_timestamp)
        if guarantee_timestamp < self.least:
            raise VectorIndexUnavailable("Milvus did not answer in time.")
        return await super().search_dense(*args, guarantee_timestamp=guarantee_timestamp, **more)


@pytest.fixture
def index() -> WatchedIndex:
    return WatchedIndex()


@pytest.fixture
async def searched(bot: BotClient) -> BotClient:
    """A bot whose cached row is stable."""
    await bot.insert("one")
    for _ in range(3):
        assert len(await bot.search("one", mode="dense")) == 1
    return bot


async def write_elsewhere(db: Database, bot: BotClient, timestamp: int) -> None:
    """As another process does before it acknowledges a write."""
    await db.execute(
        "UPDATE bot_registry SET milvus_timestamp = $2, unshared_timestamp = $2 WHERE bot_id = $1",
        bot.bot_id,
        timestamp,
    )


async def test_a_search_sees_what_another_process_has_written(
    searched: BotClient, db: Database, index: WatchedIndex
) -> None:
    await write_elsewhere(db, searched, 7)
    index.guarantee_timestamps.clear()
    assert len(await searched.search("one", mode="dense")) == 1
    assert index.guarantee_timestamps[-1] == 7
    # The next search reads the timestamps again, as others may go on to write.
    index.guarantee_timestamps.clear()
    await searched.search("one", mode="dense")
    assert index.guarantee_timestamps == [7]


async def test_a_failed_optimistic_search_is_repeated_with_the_new_row(
    searched: BotClient, db: Database, index: WatchedIndex
) -> None:
    await write_elsewhere(db, searched, 7)
    index.least = 7
    assert len(await searched.search("one", mode="dense")) == 1


async def test_a_bot_that_is_gone_is_not_found(searched: BotClient) -> None:
    assert (await searched.http.delete(f"/collection/{searched.bot_id}")).status_code == 200
    body = {"chat_bot_id": str(searched.bot_id), "query_text": "one"}
    assert (await searched.http.post("/search/query", json=body)).status_code == 404


async def test_a_write_in_flight_is_found_once_it_is_finished(
    searched: BotClient, at: Callable[..., asyncio.Event]
) -> None:
    """Also with an index without timestamps, where rows differ only in their generations in flight."""
    go_on = asyncio.Event()
    reached = at("write.before_t2", go_on.wait)
    writing = asyncio.create_task(searched.insert("two"))
    await reached.wait()
    for _ in range(3):
        assert {one["chunk_text"] for one in await searched.search("two", mode="dense")} == {"one"}
    go_on.set()
    await writing
    assert {one["chunk_text"] for one in await searched.search("two", mode="dense")} == {"one", "two"}


async def test_a_search_of_a_bot_at_rest_does_not_read_its_row(
    searched: BotClient, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    fetch = Database.fetch

    async def told(self: Database, sql: str, *args: Any) -> Any:
        asked.append(sql)
        return await fetch(self, sql, *args)

    monkeypatch.setattr(Database, "fetch", told)
    assert len(await searched.search("one", mode="dense")) == 1
    assert SQL["current_chunks"] in asked
    assert SQL["get_bot"] not in asked
