"""Bots that are released and loaded again, through HTTP."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import httpx
import pytest

from app.config import Settings
from app.core.connect import Stores
from app.core.services import Services, build_services
from app.core.stores.postgres.database import Database
from app.core.write.carrying import EMBEDDED_WITHOUT_LOADING
from tests.conftest import BotClient, in_process, register
from tests.doubles.hash_embedder import HashEmbedder
from tests.doubles.memory_index import MemoryIndex


class SlowIndex(MemoryIndex):
    seconds = 0.0

    async def load(self, collection: str) -> None:
        await asyncio.sleep(self.seconds)
        await super().load(collection)


@pytest.fixture
def index() -> SlowIndex:
    return SlowIndex()


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"max_loaded_collections": 1, "request_timeout": 1.0})


@pytest.fixture
async def client(services: Services, settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    async with in_process(services, settings) as opened:
        yield opened


async def described(bot: BotClient) -> dict[str, object]:
    found: dict[str, object] = (await bot.http.get(f"/collection/{bot.bot_id}")).json()
    return found


async def warm(bot: BotClient) -> tuple[int, str]:
    answer = await bot.http.post(f"/collection/{bot.bot_id}/warm")
    return answer.status_code, answer.json()["load_state"]


async def test_a_bot_is_loaded_by_its_first_search_and_not_by_writes(bot: BotClient, index: SlowIndex) -> None:
    doc_id = await bot.insert("text one")
    answer = await bot.http.put(f"/data/document/{doc_id}", json=bot.body("text one", "text two"))
    assert answer.status_code == 200
    assert await index.loaded() == set()
    before = await described(bot)
    assert (before["load_state"], before["last_used_at"], before["pinned"]) == ("released", None, False)
    assert len(await bot.search("text")) == 2
    after = await described(bot)
    assert after["load_state"] == "loaded"
    assert after["last_used_at"] is not None
    listed = (await bot.http.get("/collection/list")).json()["bots"]
    assert [one["load_state"] for one in listed] == ["loaded"]


async def test_a_search_that_has_not_the_time_to_wait_is_told_to_come_again(bot: BotClient, index: SlowIndex) -> None:
    await bot.insert("text")
    index.seconds = 1.5
    body = {"chat_bot_id": str(bot.bot_id), "query_text": "text"}
    answers = await asyncio.gather(*(bot.http.post("/search/query", json=body) for _ in range(5)))
    for answer in answers:
        assert (answer.status_code, answer.json()["code"]) == (503, "collection_loading")
        assert "is being loaded (a cold start)" in answer.json()["detail"]
        assert int(answer.headers["Retry-After"]) >= 1
    assert (await described(bot))["load_state"] == "loading"
    await asyncio.sleep(1.2)
    assert len(await bot.search("text")) == 1


async def test_many_stored_vectors_are_loaded_rather_than_embedded(bot: BotClient, index: SlowIndex) -> None:
    texts = [f"text {number}" for number in range(EMBEDDED_WITHOUT_LOADING + 2)]
    doc_id = await bot.insert(*texts)
    answer = await bot.http.put(f"/data/document/{doc_id}", json=bot.body("another", *texts[1:]))
    assert answer.status_code == 200
    assert len(await index.loaded()) == 1


async def test_warming_begins_the_load_and_tells_the_state(bot: BotClient, index: SlowIndex) -> None:
    index.seconds = 0.1
    assert await warm(bot) == (202, "loading")
    await asyncio.sleep(0.3)
    assert await warm(bot) == (200, "loaded")
    unknown = await bot.http.post("/collection/7f3c1e9a-2b4d-4c6e-8f10-1a2b3c4d5e6f/warm")
    assert unknown.status_code == 404


async def test_a_bot_is_pinned_at_its_creation_or_later(client: httpx.AsyncClient) -> None:
    pinned, later = await register(client, pinned=True), await register(client)
    assert (await described(pinned))["pinned"] is True
    answer = await client.patch(f"/collection/{later.bot_id}", json={"pinned": True})
    assert answer.json()["pinned"] is True
    assert (await client.patch(f"/collection/{later.bot_id}", json={"bot_name": "name"})).json()["pinned"] is True
    for wrong in ({"pinned": None}, {"pinned": 1}):
        assert (await client.patch(f"/collection/{later.bot_id}", json=wrong)).status_code == 422


async def test_deletes_of_a_released_bot_are_finished_at_its_next_load(
    bot: BotClient, services: Services, index: SlowIndex
) -> None:
    doc_id = await bot.insert("text")
    await bot.http.delete(f"/data/document/{doc_id}", params={"chat_bot_id": str(bot.bot_id)})

    async def state() -> tuple[int, float]:
        await services.metrics_sampler.refresh()
        metrics = (await bot.http.get("/metrics")).text
        overdue = next(line for line in metrics.splitlines() if line.startswith("chat_memory_vector_gc_overdue"))
        backlog = (await described(bot))["vector_gc_backlog"]
        assert isinstance(backlog, int)
        return backlog, float(overdue.rpartition(" ")[2])

    await asyncio.sleep(0.5)
    assert await state() == (1, 0.0)
    assert await index.loaded() == set()
    assert await bot.search("text") == []
    async with asyncio.timeout(10):
        while await state() != (0, 0.0):
            await asyncio.sleep(0.1)


async def test_metrics_count_cold_starts(bot: BotClient) -> None:
    async def value(name: str) -> float:
        lines = (await bot.http.get("/metrics")).text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name + " "))

    before = await value("chat_memory_cold_starts_total"), await value("chat_memory_load_seconds_count")
    await bot.search("text")
    await bot.search("text")
    after = await value("chat_memory_cold_starts_total"), await value("chat_memory_load_seconds_count")
    assert after == (before[0] + 1, before[1] + 1)


async def test_without_a_bound_nothing_is_released_and_warming_finds_the_bot_loaded(
    db: Database, index: SlowIndex
) -> None:
    settings = Settings(_env_file=None, auth_disabled=True)
    stores = Stores(db, index, timedelta(0))
    async with build_services(settings, stores, HashEmbedder()) as services, in_process(services) as client:
        bot = await register(client)
        assert (await described(bot))["load_state"] is None
        assert await warm(bot) == (200, "loaded")
        await index.release(f"bot_{bot.bot_id.hex}")  # Somebody else does.
        assert await bot.search("text") == []
        await index.release(f"bot_{bot.bot_id.hex}")
        assert await warm(bot) == (202, "loading")
