"""verify on real PostgreSQL: finds what was planted, and nothing where nothing is wrong."""

import asyncio

import httpx
import pytest

from app.core.operations.verify import Verifier
from app.core.stores.postgres.database import Database
from app.core.stores.postgres.verify import VerifyStore
from tests.conftest import BotClient, register
from tests.integration.conftest import FaultyIndex, assert_at_rest, findings, plant_vector


@pytest.fixture
def verifier(db: Database, index: FaultyIndex) -> Verifier:
    return Verifier(VerifyStore(db, lease_seconds=30), index)


async def kinds(verifier: Verifier) -> list[tuple[str, object]]:
    return [(finding.kind, finding.bot_id) for finding in await findings(verifier)]


def collection(bot: BotClient) -> str:
    return f"bot_{bot.bot_id.hex}"


async def test_healthy(client: httpx.AsyncClient, bot: BotClient, verifier: Verifier) -> None:
    other = await register(client)
    doc_id = await bot.insert("a", "b")
    await other.insert("c")
    await bot.http.put(f"/data/document/{doc_id}", json=bot.body("d"))
    assert await findings(verifier) == []


async def test_no_false_alarm_while_everything_changes(
    client: httpx.AsyncClient, bot: BotClient, db: Database, index: FaultyIndex, verifier: Verifier
) -> None:
    async def work() -> None:
        for number in range(15):
            doc_id = await bot.insert(f"{number} a", f"{number} b")
            await bot.http.put(f"/data/document/{doc_id}", json=bot.body(f"{number} c"))
            if number % 2:
                await bot.http.delete(f"/data/document/{doc_id}", params={"chat_bot_id": str(bot.bot_id)})

    working = asyncio.gather(*(work() for _ in range(4)))
    rounds = 0
    while not working.done():
        assert await findings(verifier) == []
        rounds += 1
    await working
    assert rounds > 1
    await assert_at_rest(db, index)
    assert await findings(verifier) == []


async def test_bot_deleted_meanwhile_is_no_finding(bot: BotClient, verifier: Verifier) -> None:
    await bot.insert("a")
    seen = await verifier.bots()
    assert (await bot.http.delete(f"/collection/{bot.bot_id}")).status_code == 200
    assert [finding async for finding in verifier.check_bot(seen[0])] == []


async def test_orphaned_vector(bot: BotClient, index: FaultyIndex, verifier: Verifier) -> None:
    doc_id = await bot.insert("a")
    await plant_vector(index, collection(bot), 10**6 * 65_536 + 3, doc_id)
    (found,) = await findings(verifier)
    assert (found.kind, found.bot_id) == ("vector_orphan", bot.bot_id)
    assert str(10**6 * 65_536 + 3) in found.detail


async def test_orphaned_vector_beside_a_current_generation(
    bot: BotClient, index: FaultyIndex, verifier: Verifier
) -> None:
    """The generation is current, but the document has no such chunk."""
    doc_id = await bot.insert("a")
    await plant_vector(index, collection(bot), doc_id * 65_536 + 7, doc_id)
    assert await kinds(verifier) == [("vector_orphan", bot.bot_id)]


async def test_lost_vector(client: httpx.AsyncClient, bot: BotClient, index: FaultyIndex, verifier: Verifier) -> None:
    doc_id = await bot.insert("a", "b")
    await index.delete(collection(bot), [doc_id * 65_536 + 1])
    (found,) = await findings(verifier)
    assert (found.kind, found.bot_id) == ("vector_lost", bot.bot_id)
    assert str(doc_id * 65_536 + 1) in found.detail


async def test_dropped_collection(bot: BotClient, index: FaultyIndex, verifier: Verifier) -> None:
    await bot.insert("a")
    await index.drop(collection(bot))
    assert await kinds(verifier) == [("collection_missing", bot.bot_id)]


async def test_emptied_partitions(bot: BotClient, db: Database, verifier: Verifier) -> None:
    await bot.insert("a", "b")
    await db.execute(f"TRUNCATE document_chunks_{bot.bot_id.hex}")
    assert ("chunk_lost", bot.bot_id) in await kinds(verifier)
    await db.execute(f"TRUNCATE documents_{bot.bot_id.hex}")
    assert await kinds(verifier) == [("vector_orphan", bot.bot_id)] * 2


async def test_stray_chunk(bot: BotClient, db: Database, verifier: Verifier) -> None:
    doc_id = await bot.insert("a")
    key = 10**6 * 65_536
    await db.execute(
        "INSERT INTO document_chunks (bot_id, chunk_id, doc_id, chunk_index, text) VALUES ($1, $2, $3, 0, 'x')",
        bot.bot_id,
        key,
        doc_id,
    )
    (found,) = await findings(verifier)
    assert (found.kind, found.bot_id) == ("chunk_stray", bot.bot_id)
    assert str(key) in found.detail


async def test_partitions_without_their_bot_and_a_bot_without_its_partitions(
    client: httpx.AsyncClient, bot: BotClient, db: Database, verifier: Verifier
) -> None:
    other = await register(client)
    await db.execute("DELETE FROM bot_registry WHERE bot_id = $1", bot.bot_id)
    await db.execute(f"DROP TABLE documents_{other.bot_id.hex}, document_chunks_{other.bot_id.hex}")
    found = await kinds(verifier)
    assert found.count(("partition_orphan", None)) == 2
    assert ("partition_missing", other.bot_id) in found


async def test_forgotten_saga(db: Database, verifier: Verifier) -> None:
    """No server runs here, so that nobody ends it."""
    await db.execute(
        "INSERT INTO sagas (generation, operation, bot_id, lease_token, lease_until) "
        "VALUES (7, 'delete_bot', gen_random_uuid(), gen_random_uuid(), now() - interval '1 minute')"
    )
    assert await kinds(verifier) == [("saga_forgotten", None)]
