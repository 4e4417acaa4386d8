"""A quota under two servers, eight clients at its edge and deaths at any step: never exceeded, no counter leaks."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from datetime import timedelta
from random import Random
from uuid import UUID, uuid4

import pytest

from app.config import Settings
from app.core.bots.bots import NewBot
from app.core.connect import Stores
from app.core.services import Services, build_services
from app.core.stores.address import PostgresAddress
from app.core.stores.postgres.database import Database
from app.schemas.quotas import AccountUsage, Quota, Usage
from app.utils.errors import AppError, DatabaseUnavailable, QuotaExceeded
from app.utils.failpoints import install
from app.utils.stopwatch import Stopwatch
from tests.contract.records import document
from tests.doubles.hash_embedder import HashEmbedder
from tests.doubles.memory_index import MemoryIndex
from tests.integration.conftest import Crash, assert_at_rest, expire
from tests.pgbouncer import needs_pgbouncer, pgbouncer

ACCOUNT = "limited"
QUOTA = Quota(bots=3, documents=12, chunks=24)
CLIENTS, CALLS = 8, 16
DEADLY = ("write.after_t1", "write.after_upsert", "write.before_t2", "write.after_t2", "write.before_compensate",
          "delete.after", "bot_create.after_register", "bot_delete.after_mark", "bot_delete.after_drop")  # fmt: skip
STORED = """
SELECT (SELECT count(*) FROM bot_registry WHERE account_name = $1 AND state = 'active') AS bots,
       count(d.doc_id) AS documents, coalesce(sum(d.chunk_count), 0)::bigint AS chunks
FROM bot_registry b JOIN documents d USING (bot_id) WHERE b.account_name = $1 AND b.state = 'active'
"""


async def stored(db: Database) -> Usage:
    """Of one moment, without the counters."""
    row = await db.fetchrow(STORED, ACCOUNT)
    assert row is not None
    return Usage(**row)


@pytest.fixture(params=["direct", pytest.param("pgbouncer", marks=needs_pgbouncer)])
def other_address(request: pytest.FixtureRequest, address: PostgresAddress) -> AsyncIterator[PostgresAddress]:
    """By which the second server reaches the database."""
    if request.param == "direct":
        yield address
        return
    with pgbouncer(request.getfixturevalue("postgres_server")) as pooled:
        yield replace(pooled, database=address.database)


@pytest.fixture
async def servers(
    services: Services, index: MemoryIndex, settings: Settings, other_address: PostgresAddress
) -> AsyncIterator[list[Services]]:
    async with AsyncExitStack() as stack:
        db = await Database.connect(other_address, min_size=2, max_size=16, timeout=10)
        stack.push_async_callback(db.close)
        stores = Stores(db, index, timedelta(0))
        yield [services, await stack.enter_async_context(build_services(settings, stores, HashEmbedder()))]


@pytest.fixture
def deaths() -> AsyncIterator[Counter[str]]:
    """How many processes have died at each step."""
    random, died = Random(4711), Counter[str]()

    async def hook(point: str) -> None:
        if point in DEADLY and random.random() < 0.08:
            died[point] += 1
            raise Crash

    remove = install(hook)
    yield died
    remove()


class Clients:
    def __init__(self, servers: list[Services], bots: list[UUID]) -> None:
        self._servers = servers
        self._bots = bots
        self._documents: list[tuple[UUID, int]] = []
        self.outcomes: Counter[str] = Counter()

    async def run(self, number: int) -> None:
        draw, server = Random(number), self._servers[number % len(self._servers)]
        for _ in range(CALLS):
            call = draw.choice((self._insert, self._insert, self._batch, self._replace, self._delete, self._bot))
            try:
                await call(server, draw)
                self.outcomes["done"] += 1
            except Crash:
                self.outcomes["died"] += 1
            except DatabaseUnavailable:
                raise
            except AppError as exc:
                self.outcomes[exc.code] += 1

    async def _insert(self, server: Services, draw: Random) -> None:
        bot, texts = draw.choice(self._bots), draw.sample("abcdef", draw.randint(1, 4))
        (outcome,) = await server.ingest.insert(bot, ACCOUNT, document(*texts), Stopwatch())
        self._documents.append((bot, outcome.doc_id or 0))

    async def _batch(self, server: Services, draw: Random) -> None:
        documents = [(draw.choice(self._bots), document("x", "y")) for _ in range(3)]
        outcomes = await server.ingest.insert_many(ACCOUNT, documents, Stopwatch())
        for (bot, _), outcome in zip(documents, outcomes, strict=True):
            if outcome.error is None:
                self._documents.append((bot, outcome.doc_id or 0))
            else:
                self.outcomes[f"of a batch: {outcome.error.code}"] += 1

    async def _replace(self, server: Services, draw: Random) -> None:
        if self._documents:
            bot, doc_id = draw.choice(self._documents)
            texts = draw.sample("abcdefgh", draw.randint(1, 8))
            await server.ingest.replace(bot, ACCOUNT, doc_id, document(*texts), Stopwatch())

    async def _delete(self, server: Services, draw: Random) -> None:
        if len(self._documents) > 3:
            bot, doc_id = self._documents.pop(draw.randrange(len(self._documents)))
            await server.documents.delete(bot, ACCOUNT, doc_id)

    async def _bot(self, server: Services, draw: Random) -> None:
        bot_id = uuid4()
        await server.bots.create(NewBot(bot_id, "b", f"c_{bot_id.hex}", ACCOUNT))
        await server.ingest.insert(bot_id, ACCOUNT, document("z"), Stopwatch())
        await asyncio.sleep(draw.random() / 10)
        await server.bots.delete(bot_id, ACCOUNT)


async def test_never_over_and_no_counter_leaks(
    servers: list[Services], db: Database, index: MemoryIndex, deaths: Counter[str]
) -> None:
    bots = [uuid4(), uuid4()]
    for bot in bots:
        with suppress(Crash):
            await servers[0].bots.create(NewBot(bot, "b", f"c_{bot.hex}", ACCOUNT))
    await servers[0].quotas.set(ACCOUNT, QUOTA)
    seen: list[Usage] = []

    async def watch() -> None:
        while True:
            seen.append(await stored(db))
            await asyncio.sleep(0)

    watching, clients = asyncio.create_task(watch()), Clients(servers, bots)
    await asyncio.gather(*map(clients.run, range(CLIENTS)))
    watching.cancel()
    deaths_by_point = dict(deaths)

    assert max(usage.documents for usage in seen) <= 12, seen
    assert max(usage.chunks for usage in seen) <= 24, seen
    assert max(usage.bots for usage in seen) <= 3, seen
    assert min(clients.outcomes["quota_exceeded"], clients.outcomes["done"]) > 0, clients.outcomes
    assert len(deaths_by_point) >= 3, deaths_by_point
    await expire(db)
    await _at_rest(db, index)
    for server in servers:
        assert await server.quotas.usage(ACCOUNT) == AccountUsage(ACCOUNT, await stored(db), QUOTA)
    rows = await db.fetch("SELECT bot_id FROM bot_usage EXCEPT SELECT bot_id FROM bot_registry")
    assert rows == []


async def _at_rest(db: Database, index: MemoryIndex) -> None:
    while True:  # Recovery may die as well, and is then another process's.
        try:
            await assert_at_rest(db, index)
        except Crash:
            await expire(db)
        else:
            return


async def test_a_first_quota_counts_what_is_being_written(servers: list[Services], db: Database) -> None:
    """Its call waits for transactions under way, and writes that begin afterwards are counted. So are new bots."""
    server, other = servers
    bots = [uuid4() for _ in range(3)]
    for bot in bots[:2]:
        await server.bots.create(NewBot(bot, "b", f"c_{bot.hex}", ACCOUNT))
    done: list[int] = []

    async def write(one: Services, number: int) -> None:
        for _ in range(10):
            with suppress(QuotaExceeded):
                await one.ingest.insert(bots[number % 2], ACCOUNT, document("a", "b"), Stopwatch())
                done.append(number)

    async def register() -> None:
        await asyncio.sleep(0.05)
        await other.bots.create(NewBot(bots[2], "b", f"c_{bots[2].hex}", ACCOUNT))
        await other.ingest.insert(bots[2], ACCOUNT, document("a"), Stopwatch())

    async def limit() -> None:
        await asyncio.sleep(0.05)
        await server.quotas.set(ACCOUNT, Quota(documents=1_000))

    await asyncio.gather(*(write(one, number) for number in range(4) for one in servers), register(), limit())
    usage = await other.quotas.usage(ACCOUNT)
    assert usage.used == await stored(db) == Usage(3, len(done) + 1, 2 * len(done) + 1)
    assert [one.documents is None for one in await server.quotas._store.usage(ACCOUNT)] == [False] * 3
