"""PgBouncer between the server and PostgreSQL: found by itself, no answer of another's, settings by the role."""

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

import asyncpg
import pytest

from app.core.stores.address import PostgresAddress
from app.core.stores.postgres.database import Database, Guards
from app.core.stores.postgres.migrations import bring_up_to_date, migrate
from app.core.stores.postgres.role_settings import check_role_settings
from app.core.write.write import Write
from app.schemas.operation_rows import GenerationBlock
from app.utils.errors import DatabaseUnavailable, StartupError
from tests.conftest import fresh_database, until
from tests.contract.records import HOUR, Record, document
from tests.integration.test_schema import dump
from tests.pgbouncer import needs_pgbouncer, pgbouncer, pgbouncer_in

pytestmark = needs_pgbouncer
ROOT = Path(__file__).resolve().parents[2]
IGNORED = (
    "plan_cache_mode, jit, enable_memoize, statement_timeout, lock_timeout, "
    "idle_in_transaction_session_timeout, chat_memory.session"
)


@pytest.fixture(scope="module")
def pooler(postgres_server: PostgresAddress) -> Iterator[PostgresAddress]:
    with pgbouncer(postgres_server) as address:
        yield address


@pytest.fixture
def pooled_address(address: PostgresAddress, pooler: PostgresAddress) -> PostgresAddress:
    return replace(pooler, database=address.database)


async def connect(address: PostgresAddress, **options: object) -> Database:
    return await Database.connect(address, min_size=2, max_size=16, timeout=10, **options)  # type: ignore[arg-type]


@pytest.fixture
async def pooled(pooled_address: PostgresAddress) -> AsyncIterator[Database]:
    database = await connect(pooled_address)
    yield database
    await database.close()


async def test_a_pooler_is_found_by_itself(db: Database, pooled: Database) -> None:
    assert (db.pooled, pooled.pooled) == (False, True)


async def test_a_pooler_that_drops_settings_in_silence_is_found(
    address: PostgresAddress, postgres_server: PostgresAddress
) -> None:
    with pgbouncer(postgres_server, ignore_startup_parameters=IGNORED) as silent:
        database = await connect(replace(silent, database=address.database))
        assert database.pooled
        await database.close()


async def test_a_pooler_that_cannot_be_told_from_postgresql_can_be_named(address: PostgresAddress) -> None:
    database = await connect(address, pooled=True)
    assert database.pooled
    assert [tuple(row) for row in await database.fetch("SELECT $1::int", 1)] == [(1,)]
    await database.close()


async def test_no_statement_is_kept_in_a_session(pooled: Database) -> None:
    for _ in range(3):
        await pooled.fetch("SELECT $1::bigint[], $2::jsonb, $3::text[]", [1], {"a": 1}, ["b"])
    async with pooled.transaction() as conn:
        assert await conn.fetch("SELECT name FROM pg_prepared_statements") == []


async def test_statements_answer_as_on_a_connection_of_their_own(db: Database, pooled: Database) -> None:
    values = ([1, 2**62], ["가", "b"], {"k": [None, 1.5]}, uuid4(), None)
    sql = "SELECT $1::bigint[] AS a, $2::text[] AS b, $3::jsonb AS c, $4::uuid AS d, $5::timestamptz AS e"
    for _ in range(3):
        assert await pooled.fetch(sql, *values) == await db.fetch(sql, *values)
        assert await pooled.fetchrow(sql, *values) == await db.fetchrow(sql, *values)
    async with pooled.connection() as conn:
        assert await conn.fetchval("SELECT 2 * $1::int", 4) == 8
        assert await conn.execute("UPDATE sagas SET doc_id = $1", 1) == "UPDATE 0"


async def test_a_statement_that_was_cancelled_holds_no_server_connection(
    pooled: Database, pooled_address: PostgresAddress
) -> None:
    """Two server connections are all there is: each cancelled one that stayed would be missing."""
    for _ in range(4):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await pooled.fetch("SELECT pg_sleep($1)", 5.0)
        with pytest.raises(asyncpg.DataError):
            await pooled.fetch("SELECT $1::int + 1", "no number")
    async with asyncio.timeout(5):
        async with pooled.transaction(), pooled.transaction():
            pass


NEIGHBOUR = """
import asyncio, sys
import asyncpg
from app.core.stores.address import PostgresAddress
from app.core.stores.postgres.database import Database
async def main(host, port, user, database, worker, named):
    if named == "named":
        make, new = asyncpg.create_pool, ("connection_class", "statement_cache_size", "reset")
        asyncpg.create_pool = lambda *a, **k: make(*a, **{n: v for n, v in k.items() if n not in new})
    db = await Database.connect(PostgresAddress(host, int(port), user, database), min_size=2, max_size=8, timeout=20)
    async def ask(task):
        for number in range(200):
            mine = f"{worker}-{task}-{number}"
            sql = f"SELECT $1::text AS mine, {number % 7} AS which"
            (row,) = await db.fetch(sql, mine)
            assert (row["mine"], row["which"]) == (mine, number % 7), row
            async with db.transaction() as conn:
                assert await conn.fetchval("SELECT $1::text", mine) == mine
    await asyncio.gather(*(ask(task) for task in range(8)))
    await db.close()
asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.parametrize("statements", ["unnamed", "named"])
async def test_processes_that_share_server_connections_get_their_own_answers(
    pooled_address: PostgresAddress, statements: str
) -> None:
    """With asyncpg's names 97 of 1,600 were the other's, or there was an error: the check notices."""
    where = (pooled_address.host, str(pooled_address.port), pooled_address.user, pooled_address.database)
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", NEIGHBOUR, *where, str(worker), statements, cwd=ROOT, stderr=asyncio.subprocess.PIPE
        )
        for worker in range(2)
    ]
    said = [(await process.communicate())[1].decode() for process in processes]
    if statements == "unnamed":
        assert [process.returncode for process in processes] == [0, 0], said
    else:
        assert any(process.returncode for process in processes)
        assert any("AssertionError" in text or "prepared statement" in text for text in said), said


async def test_more_writes_than_server_connections_do_not_wait_for_each_other(pooled: Database) -> None:
    """T2 holds one while the timestamp is raised: not a second one at a time."""
    record = Record.in_postgres(pooled)
    await record.generations.use(GenerationBlock(uuid4(), 1, 1 << 13))
    bot = await record.bot()
    token = uuid4()

    async def write(number: int) -> None:
        one = Write(bot, document(f"text {number}"))
        await record.transactions.begin([one], token, HOUR)
        await record.transactions.finish([one], token, timestamps={bot.bot_id: number + 1})
        assert one.error is None

    async with asyncio.timeout(8):
        await asyncio.gather(*(write(number) for number in range(16)))
    assert (await record.documents.write_timestamps(bot.bot_id, bot.milvus_collection)).newest == 16


async def test_an_empty_database_is_migrated_through_it(
    pooler: PostgresAddress, postgres_server: PostgresAddress, address: PostgresAddress
) -> None:
    async with fresh_database(postgres_server, template=None) as empty:
        through = replace(pooler, database=empty.database)
        database = await connect(through)
        await bring_up_to_date(database, through)
        await asyncio.gather(*(asyncio.to_thread(migrate, through) for _ in range(4)))
        await database.close()
        assert dump(empty) == dump(address)


# ------------------------------------------------------------------ settings


async def test_settings_that_the_role_lacks_are_named_with_what_sets_them(
    db: Database, pooled: Database, address: PostgresAddress, postgres_server: PostgresAddress
) -> None:
    guards = Guards(statement=15, lock=5, idle_in_transaction=20)
    await check_role_settings(db, guards)  # A session of its own has them.
    with pytest.raises(StartupError, match="RECONNECT") as told:
        await check_role_settings(pooled, guards)
    named = str(told.value).partition("Run: ")[2].partition("; then")[0].split("; ")
    assert [statement.partition(" SET ")[2] for statement in named] == [
        "enable_memoize = off",
        "idle_in_transaction_session_timeout = 20000",
        "jit = off",
        "lock_timeout = 5000",
        "statement_timeout = 15000",
    ]
    for statement in named:
        await db.execute(statement)
    with pgbouncer(postgres_server) as reconnected:
        database = await connect(replace(reconnected, database=address.database))
        await check_role_settings(database, guards)
        with pytest.raises(StartupError, match="statement_timeout = 7000; then"):
            await check_role_settings(database, Guards(statement=7, lock=5, idle_in_transaction=20))
        # And they are at work.
        async with database.transaction() as conn:
            await conn.execute("SET LOCAL statement_timeout = 50")
            with pytest.raises(DatabaseUnavailable) as raised:
                await conn.execute("SELECT pg_sleep(5)")
            assert isinstance(raised.value.__cause__, asyncpg.QueryCanceledError)
        await database.close()


async def test_pooling_of_statements_is_refused(address: PostgresAddress, postgres_server: PostgresAddress) -> None:
    with pgbouncer(postgres_server, pool_mode="statement") as statements:
        database = await connect(replace(statements, database=address.database))
        with pytest.raises(StartupError, match="pool_mode to transaction"):
            await check_role_settings(database, Guards())
        await database.close()


async def test_session_mode_works_too(address: PostgresAddress, postgres_server: PostgresAddress) -> None:
    with pgbouncer(postgres_server, pool_mode="session") as sessions:
        database = await Database.connect(
            replace(sessions, database=address.database), min_size=0, max_size=2, timeout=10
        )
        assert database.pooled
        await asyncio.gather(*(database.fetch("SELECT $1::int", number) for number in range(10)))
        await database.close()


async def test_a_pooler_without_its_postgresql_is_an_outage(postgres_server: PostgresAddress) -> None:
    nowhere = replace(postgres_server, port=1)
    with (
        pgbouncer(nowhere, server_login_retry=1, query_wait_timeout=1) as orphaned,
        pytest.raises(DatabaseUnavailable),
    ):
        await Database.connect(orphaned, min_size=1, max_size=1, timeout=3)


async def test_a_pooler_that_restarts_is_an_outage_that_ends(
    address: PostgresAddress, postgres_server: PostgresAddress
) -> None:
    with TemporaryDirectory(prefix="chat-memory-pgbouncer-") as name:
        folder = Path(name)
        with pgbouncer_in(folder, postgres_server) as pooler:
            database = await connect(replace(pooler, database=address.database))
            await asyncio.gather(*(database.fetch("SELECT pg_sleep(0.01)") for _ in range(4)))
        with pytest.raises(DatabaseUnavailable):
            await database.fetch("SELECT 1")
        with pgbouncer_in(folder, postgres_server):

            async def answers() -> bool:
                with suppress(DatabaseUnavailable):
                    return bool(await database.fetch("SELECT 1"))
                return False

            await until(answers)
            await database.close()
