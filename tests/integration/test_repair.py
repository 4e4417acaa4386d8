"""repair on real PostgreSQL: what is planted is mended, what is healthy stays as it is."""

import asyncio

import httpx
import pytest

from app.config import Settings
from app.core.services import Services
from app.core.stores.postgres.database import Database
from tests.conftest import BotClient, register
from tests.integration.conftest import FaultyIndex, assert_at_rest, findings, plant_vector


@pytest.fixture
def settings() -> Settings:
    """A lease that a busy machine does not outlast: verify would rightly name the saga."""
    return Settings(
        _env_file=None,
        saga_lease_seconds=10,
        recovery_interval_seconds=0.05,
        milvus_timeout=1,
        index_check_interval_seconds=0,
    )


@pytest.fixture
def collection(bot: BotClient) -> str:
    return f"bot_{bot.bot_id.hex}"


async def repaired(services: Services, bot: BotClient) -> list[str]:
    """Kinds of what was mended; afterwards nothing is left to be found."""
    mended = [finding.kind async for finding in services.repairer.repair_bot(bot.bot_id)]
    assert await findings(services.verifier) == []
    return mended


async def document(bot: BotClient, doc_id: int) -> httpx.Response:
    return await bot.http.get(f"/data/document/{doc_id}", params={"chat_bot_id": str(bot.bot_id)})


async def test_a_healthy_bot_is_left_alone(services: Services, bot: BotClient) -> None:
    doc_id = await bot.insert("a")
    before = (await document(bot, doc_id)).json()
    assert await repaired(services, bot) == []
    assert (await document(bot, doc_id)).json() == before


async def test_orphans(services: Services, bot: BotClient, collection: str, index: FaultyIndex, db: Database) -> None:
    doc_id = await bot.insert("a", "b")
    await plant_vector(index, collection, 10**6 * 65_536 + 3, doc_id)
    await plant_vector(index, collection, doc_id * 65_536 + 7, doc_id)
    assert await repaired(services, bot) == ["vector_orphan"] * 2
    await assert_at_rest(db, index)
    assert len(await bot.search("a", limit=10)) == 2


async def test_lost_vectors_are_written_anew_and_all_else_stays(
    services: Services, bot: BotClient, collection: str, index: FaultyIndex, db: Database
) -> None:
    doc_id = await bot.insert("a", "b", title="kept", tags=["x"], metadata={"k": 1})
    before = (await document(bot, doc_id)).json()
    await index.delete(collection, [doc_id * 65_536 + 1])
    assert await repaired(services, bot) == ["vector_lost"]
    after = (await document(bot, doc_id)).json()
    assert [chunk["text"] for chunk in after["chunks"]] == ["a", "b"]
    changing = {"updated_at"}
    assert {k: v for k, v in after["document"].items() if k not in changing} == {
        k: v for k, v in before["document"].items() if k not in changing
    }
    assert {result["chunk_text"] for result in await bot.search("b", limit=10)} == {"a", "b"}
    await assert_at_rest(db, index)


async def test_a_patch_in_the_middle_of_a_repair_stays(
    services: Services, bot: BotClient, collection: str, index: FaultyIndex, at
) -> None:  # type: ignore[no-untyped-def]
    doc_id = await bot.insert("a", metadata={"k": 1})
    await index.delete(collection, [doc_id * 65_536])

    async def patch() -> None:
        body = {"chat_bot_id": str(bot.bot_id), "metadata_updates": {"k": 2, "title": "patched"}}
        assert (await bot.http.patch(f"/data/document/{doc_id}/metadata", json=body)).status_code == 200

    at("write.after_t1", patch)
    assert await repaired(services, bot) == ["vector_lost"]
    stored = (await document(bot, doc_id)).json()["document"]
    assert (stored["metadata"], stored["title"]) == ({"k": 2}, "patched")


@pytest.mark.parametrize("point", ["repair.before", "write.before_t1", "write.after_t1"])
async def test_a_replacement_in_the_middle_of_a_repair_wins(
    services: Services, bot: BotClient, collection: str, index: FaultyIndex, at, point: str
) -> None:  # type: ignore[no-untyped-def]
    doc_id = await bot.insert("old")
    await index.delete(collection, [doc_id * 65_536])

    async def put() -> None:
        assert (await bot.http.put(f"/data/document/{doc_id}", json=bot.body("new"))).status_code == 200

    at(point, put)
    await repaired(services, bot)
    assert [result["chunk_text"] for result in await bot.search("new")] == ["new"]


async def test_dropped_collection(services: Services, bot: BotClient, collection: str, index: FaultyIndex) -> None:
    for number in range(3):
        await bot.insert(f"{number} a", f"{number} b")
    await index.drop(collection)
    assert await repaired(services, bot) == ["collection_missing", "index_rebuilding"]
    assert len(await bot.search("a", limit=10)) == 6


async def test_emptied_partitions(services: Services, bot: BotClient, index: FaultyIndex, db: Database) -> None:
    half, gone = await bot.insert("a", "b"), await bot.insert("c")
    chunks = f"document_chunks_{bot.bot_id.hex}"
    await db.execute(f"DELETE FROM {chunks} WHERE doc_id = $1 OR chunk_index = 1", gone)
    mended = await repaired(services, bot)
    assert sorted(set(mended)) == ["chunk_lost", "vector_orphan"]
    assert ((await document(bot, half)).json()["chunk_count"], (await document(bot, gone)).status_code) == (1, 404)

    await db.execute(f"TRUNCATE documents_{bot.bot_id.hex}")
    assert sorted(set(await repaired(services, bot))) == ["chunk_stray", "vector_orphan"]
    assert await bot.search("a") == []
    await assert_at_rest(db, index)


async def test_dropped_partitions(services: Services, bot: BotClient, index: FaultyIndex, db: Database) -> None:
    await bot.insert("a")
    await db.execute(f"DROP TABLE documents_{bot.bot_id.hex}, document_chunks_{bot.bot_id.hex}")
    assert await repaired(services, bot) == ["partition_missing", "vector_orphan"]
    await bot.insert("b")
    assert [result["chunk_text"] for result in await bot.search("b")] == ["b"]
    await assert_at_rest(db, index)


async def test_nothing_is_mended_that_is_not_broken_while_everything_changes(
    services: Services, bot: BotClient, db: Database, index: FaultyIndex
) -> None:
    async def work() -> None:
        for number in range(8):
            doc_id = await bot.insert(f"{number} a", f"{number} b")
            await bot.http.put(f"/data/document/{doc_id}", json=bot.body(f"{number} c"))
            if number % 2:
                await bot.http.delete(f"/data/document/{doc_id}", params={"chat_bot_id": str(bot.bot_id)})

    working = asyncio.gather(*(work() for _ in range(4)))
    rounds = 0
    while not working.done():
        assert await repaired(services, bot) == []
        rounds += 1
    await working
    assert rounds > 1
    await assert_at_rest(db, index)


async def test_a_bot_that_is_gone_has_nothing_to_mend(services: Services, client: httpx.AsyncClient) -> None:
    bot = await register(client)
    await client.delete(f"/collection/{bot.bot_id}")
    assert [finding async for finding in services.repairer.repair_bot(bot.bot_id)] == []
