"""Every implementation of the ports that the contract suites run on, and their servers."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from uuid import uuid4

import pytest
import pytest_asyncio
from pymilvus import MilvusClient

from app.core.ports import VectorIndex
from app.core.stores.postgres.database import Database
from app.schemas.operation_rows import GenerationBlock
from tests.containers import docker_answers, milvus_container
from tests.contract.records import Record
from tests.doubles.memory_index import MemoryIndex
from tests.lite_server import LiteServer
from tests.milvus_index import connect_index
from tests.milvus_server import MilvusServer

DIMENSION = 16
MEMORY, LITE, SERVER, CONTAINER = "memory", "milvus-lite", "milvus-server", "milvus-container"
BACKENDS = [MEMORY, LITE, SERVER, *([CONTAINER] if docker_answers() else [])]
POSTGRES = "postgres"


@dataclass(frozen=True)
class Backend:
    """One implementation, connected. ``uri`` is None for the one in memory."""

    index: VectorIndex
    uri: str | None

    async def flush(self, collection: str) -> None:
        """Makes Milvus close its segment, so that what follows goes into another."""
        if self.uri is not None:
            await asyncio.to_thread(self._flush, self.uri, collection)

    @staticmethod
    def _flush(uri: str, collection: str) -> None:
        client = MilvusClient(uri, timeout=10, dedicated=True)
        client.flush(collection, timeout=30)
        client.close()


def new_name() -> str:
    return f"t_{uuid4().hex}"


@pytest.fixture(scope="session")
def milvus_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MilvusServer]:
    # A strong read waits for the next time tick; 200 ms by default, which adds up over a suite.
    with MilvusServer(tmp_path_factory.mktemp("milvus"), {"proxy.timeTickInterval": 50}) as server:
        yield server


@pytest.fixture(scope="session")
def lite_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiteServer]:
    with LiteServer(tmp_path_factory.mktemp("lite")) as server:
        yield server


@pytest.fixture(scope="session")
def milvus_container_uri() -> Iterator[str]:
    with milvus_container() as uri:
        yield uri


@pytest_asyncio.fixture(scope="session", loop_scope="session", params=BACKENDS)
async def backend(request: pytest.FixtureRequest) -> AsyncIterator[Backend]:
    if request.param == MEMORY:
        yield Backend(MemoryIndex(), None)
        return
    if request.param == CONTAINER:
        uri = request.getfixturevalue("milvus_container_uri")
    else:
        uri = request.getfixturevalue("lite_server" if request.param == LITE else "milvus_server").uri
    index = await connect_index(uri, timeout=10)
    yield Backend(index, uri)
    await index.close()


@pytest.fixture
def index(backend: Backend) -> VectorIndex:
    return backend.index


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shared_collection(backend: Backend) -> str:
    """Making a collection takes the server 3 s, so most tests use this one, emptied before each."""
    name = new_name()
    await backend.index.create(name, DIMENSION)
    return name


@pytest_asyncio.fixture(loop_scope="session")
async def collection(index: VectorIndex, shared_collection: str) -> str:
    async for keys in index.scan(shared_collection):
        await index.delete(shared_collection, keys)
    return shared_collection


@pytest.fixture(params=[MEMORY, POSTGRES])
def new_record(request: pytest.FixtureRequest, db: Database) -> Record:
    # ``db`` is asked for in either case: a fixture with parameters of its own cannot be asked for by name.
    return Record.in_memory() if request.param == MEMORY else Record.in_postgres(db)


@pytest.fixture
async def record(new_record: Record) -> Record:
    """With a block of generations, which a server reserves first."""
    await new_record.generations.use(GenerationBlock(uuid4(), 1, 1 << 13))
    return new_record
