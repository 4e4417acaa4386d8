"""What Milvus Lite lost is written again from PostgreSQL; until then no search answers with less."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from app.config import Settings
from app.core.services import Services
from app.core.stores.milvus.index import MilvusIndex
from app.core.stores.milvus_lite.durable import VERIFIED
from tests.conftest import BotClient, register
from tests.lite_server import LiteServer
from tests.milvus_index import connect_index

TEXTS = [f"text {number}" for number in range(40)]


@pytest.fixture
def lite() -> Iterator[LiteServer]:
    with tempfile.TemporaryDirectory() as folder, LiteServer(Path(folder)) as server:
        yield server


@pytest.fixture
async def index(lite: LiteServer) -> AsyncIterator[MilvusIndex]:
    index = await connect_index(lite.uri)
    yield index
    await index.close()


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"milvus_timeout": 10.0, "saga_lease_seconds": 10.0})


async def ask(bot: BotClient, text: str) -> httpx.Response:
    body = {"chat_bot_id": str(bot.bot_id), "query_text": text, "limit": 100}
    return await bot.http.post("/search/query", json=body)


async def test_lost_rows_come_back_before_a_search_is_answered(
    client: httpx.AsyncClient, services: Services, lite: LiteServer
) -> None:
    hurt, healthy = await register(client), await register(client)
    for bot in (hurt, healthy):
        for text in TEXTS:
            await bot.insert(text)
    lite.kill()
    folder = lite.data / "collections" / f"bot_{hurt.bot_id.hex}"
    (folder / VERIFIED).unlink()
    shutil.rmtree(folder / "wal")
    shutil.rmtree(folder / "partitions", ignore_errors=True)
    (folder / "manifest.json").unlink(missing_ok=True)
    lite.start()
    codes = set()
    async with asyncio.timeout(60):
        while (answer := await ask(hurt, TEXTS[0])).status_code == 503:
            assert int(answer.headers["Retry-After"]) >= 1
            codes.add(answer.json()["code"])
            await asyncio.sleep(0.01)
    assert answer.status_code == 200, answer.text
    assert {result["chunk_text"] for result in answer.json()["results"]} == set(TEXTS)
    assert "index_rebuilding" in codes
    found = (await ask(healthy, TEXTS[0])).json()["results"]
    assert {result["chunk_text"] for result in found} == set(TEXTS)
    for state in await services.verifier.bots():
        assert [finding async for finding in services.verifier.check_bot(state)] == []


async def test_another_bot_is_served_while_one_is_compared(client: httpx.AsyncClient, lite: LiteServer) -> None:
    hurt, healthy = await register(client), await register(client)
    for bot in (hurt, healthy):
        await bot.insert("text")
    lite.kill()
    (lite.data / "collections" / f"bot_{hurt.bot_id.hex}" / VERIFIED).unlink()
    lite.start()

    async def answers(bot: BotClient) -> bool:
        answer = await ask(bot, "text")
        assert answer.status_code == 200 or answer.json()["code"] in {"index_rebuilding", "vector_index_unavailable"}
        return answer.status_code == 200 and len(answer.json()["results"]) == 1

    async with asyncio.timeout(60):
        for bot in (healthy, hurt):
            while not await answers(bot):
                await asyncio.sleep(0.01)
    assert (lite.data / "collections" / f"bot_{hurt.bot_id.hex}" / VERIFIED).exists()
