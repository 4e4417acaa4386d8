"""Fixtures of the suites of the API."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import timedelta

import pytest

from app.config import Settings
from app.core.connect import Stores
from app.core.services import build_services
from app.core.stores.address import PostgresAddress
from app.core.stores.postgres.database import Database
from tests.api.contents import contents
from tests.api.rejections import FilledServer
from tests.conftest import fresh_database, in_process, register
from tests.doubles.hash_embedder import HashEmbedder
from tests.doubles.memory_index import MemoryIndex


@pytest.fixture
def index() -> MemoryIndex:
    return MemoryIndex()


@pytest.fixture(scope="module")
async def server(postgres_server: PostgresAddress) -> AsyncIterator[FilledServer]:
    """One for all tests of a module: each must leave its contents as they were."""
    async with AsyncExitStack() as stack:
        address = await stack.enter_async_context(fresh_database(postgres_server))
        db = await Database.connect(address, min_size=1, max_size=4, timeout=10)
        stack.push_async_callback(db.close)
        index = MemoryIndex()
        settings = Settings(_env_file=None, auth_disabled=True)
        services = await stack.enter_async_context(
            build_services(settings, Stores(db, index, timedelta(0)), HashEmbedder(dimension=64))
        )
        bot = await register(await stack.enter_async_context(in_process(services, settings)))
        doc_id = await bot.insert("광화문", "한강", metadata={"language": "ko"})
        yield FilledServer(bot, doc_id, db, index, await contents(db, index))
