"""Two servers on one Milvus server release each other's bots while clients search them: no client sees it."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path

import pytest

from app.config import Settings
from app.core.bots.loads import Loads
from app.core.connect import Stores
from app.core.services import Services, build_services
from app.core.stores.postgres.database import Database
from app.core.stores.postgres.garbage import GarbageStore
from app.core.stores.postgres.loads import LoadStore
from tests.conftest import BotClient, in_process, register
from tests.doubles.hash_embedder import HashEmbedder
from tests.milvus_index import connect_index
from tests.milvus_server import MilvusServer

BOTS, SEARCHES = 2, 4


@pytest.fixture(scope="module")
def milvus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MilvusServer]:
    folder: Path = tmp_path_factory.mktemp("milvus")
    with MilvusServer(folder) as server:
        yield server


@pytest.fixture
async def servers(
    db: Database, milvus: MilvusServer, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[list[Services]]:
    def loads(self: Stores, settings: Settings) -> Loads:
        stores = (self.index, LoadStore(self.db), GarbageStore(self.db))
        return Loads(*stores, bound=settings.max_loaded_collections, idle=0.2, interval=0.2, settle=1.0)

    monkeypatch.setattr(Stores, "loads", loads)
    bounded = settings.model_copy(update={"max_loaded_collections": 1})
    async with AsyncExitStack() as stack:
        opened = []
        for _ in range(2):
            index = await connect_index(milvus.uri, timeout=10)
            stack.push_async_callback(index.close)
            stores = Stores(db, index, timedelta(seconds=1))
            opened.append(await stack.enter_async_context(build_services(bounded, stores, HashEmbedder())))
        yield opened


async def test_clients_see_no_release_and_no_load(servers: list[Services]) -> None:
    async with AsyncExitStack() as stack:
        http = [await stack.enter_async_context(in_process(services)) for services in servers]
        bots = [await register(http[0]) for _ in range(BOTS)]
        for number, bot in enumerate(bots):
            await bot.insert(f"text of bot {number}", "another")

        async def search(number: int) -> None:
            for step in range(SEARCHES):
                await asyncio.sleep(step)  # Time for a release.
                of = (number + step) % BOTS
                found = await BotClient(http[step % 2], bots[of].bot_id).search(f"text of bot {of}")
                assert found[0]["chunk_text"] == f"text of bot {of}"
                assert len(found) == 2

        await asyncio.gather(*(search(number) for number in range(BOTS * 2)))
        listed = (await http[0].get("/collection/list")).json()["bots"]
        assert {bot["load_state"] for bot in listed} <= {"loaded", "loading", "released"}
