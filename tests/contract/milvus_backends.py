"""Fixtures for tests of MilvusIndex itself, on Milvus Lite and on a Milvus server. Import them by name."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import pytest_asyncio

from app.core.stores.milvus.index import MilvusIndex
from tests.contract.conftest import DIMENSION, LITE, SERVER, new_name
from tests.contract.test_vector_index import axis, upsert
from tests.lite_server import LiteServer
from tests.milvus_index import connect_index
from tests.milvus_server import MilvusServer

Server = MilvusServer | LiteServer


@pytest.fixture(scope="module", params=[LITE, SERVER])
def server(request: pytest.FixtureRequest) -> Server:
    found: Server = request.getfixturevalue("lite_server" if request.param == LITE else "milvus_server")
    return found


@asynccontextmanager
async def connected(server: Server, timeout: float = 10) -> AsyncIterator[MilvusIndex]:
    index = await connect_index(server.uri, timeout=timeout)
    try:
        yield index
    finally:
        await index.close()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def name(server: Server) -> str:
    """A collection of this module's own, with one row, key 1."""
    name = new_name()
    async with connected(server) as index:
        await index.create(name, DIMENSION)
        await upsert(index, name, {1: axis(0)})
    return name
