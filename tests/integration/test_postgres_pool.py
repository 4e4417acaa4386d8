"""The connections that a process keeps ready, and the errors of what is done with them."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from uuid import uuid4

import asyncpg
import pytest

from app.core.stores.address import PostgresAddress
from app.core.stores.postgres import database as postgres
from app.core.stores.postgres.connection import Connection
from app.core.stores.postgres.database import Database
from app.core.write.write import Write
from app.schemas.operation_rows import GenerationBlock
from app.utils.errors import DatabaseUnavailable
from tests.contract.records import HOUR, Record, document


async def test_connections_left_alone_go_back_while_others_are_taken(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "IDLE_SECONDS", -1.0)  # Each has been left alone for too long at once.
    rows = await asyncio.gather(*(db.fetch("SELECT $1::int AS n", number) for number in range(50)))
    assert [row["n"] for (row,) in rows] == list(range(50))
    assert db.pool_state()[0] == 0


@pytest.mark.parametrize("error", [FileNotFoundError("mine"), TimeoutError("mine"), ConnectionResetError("mine")])
async def test_an_error_of_the_caller_passes_unchanged(db: Database, error: OSError) -> None:
    """Whatever its class is: that of a driver's error says nothing about PostgreSQL here."""
    await db.execute("CREATE TABLE noted (n int)")

    async def fail_in(block: AbstractAsyncContextManager[Connection]) -> None:
        async with block as conn:
            await conn.execute("INSERT INTO noted VALUES (1)")
            raise error

    for block in (db.transaction(), db.connection()):
        with pytest.raises(type(error)) as raised:
            await fail_in(block)
        assert raised.value is error
    assert len(await db.fetch("SELECT FROM noted")) == 1  # The transaction was rolled back.


async def test_an_error_of_the_driver_is_translated_where_its_call_is(db: Database) -> None:
    async with db.transaction() as conn:
        await conn.execute("SET LOCAL statement_timeout = 10")
        with pytest.raises(DatabaseUnavailable) as raised:
            await conn.execute("SELECT pg_sleep(30)")
        assert isinstance(raised.value.__cause__, asyncpg.QueryCanceledError)
    async with db.connection() as conn:
        with pytest.raises(asyncpg.UndefinedTableError):  # A fault of ours, or one that the caller expects.
            await conn.execute("SELECT FROM no_such_table")


ONE_ARGUMENT = "SELECT $1::int"


async def two_calls_at_once(conn: Connection) -> None:
    calls = (conn.fetch("SELECT pg_sleep(0.1)") for _ in range(2))
    _, refused = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(refused, Exception)
    raise refused


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda conn: conn.fetch(ONE_ARGUMENT), id="too few arguments"),
        pytest.param(lambda conn: conn.fetchrow(ONE_ARGUMENT, 1, 2), id="too many"),
        pytest.param(lambda conn: conn.fetchval(ONE_ARGUMENT, *range(1 << 15)), id="more than there can be"),
        pytest.param(lambda conn: conn.execute(ONE_ARGUMENT, "text"), id="of a wrong type"),
        pytest.param(two_calls_at_once, id="two calls at once"),
    ],
)
@pytest.mark.parametrize("block", ["connection", "transaction"])
async def test_wrong_call_is_not_told_as_a_store_that_does_not_answer(
    db: Database, call: Callable[[Connection], Awaitable[object]], block: str
) -> None:
    with pytest.raises((asyncpg.InterfaceError, asyncpg.DataError)):
        async with getattr(db, block)() as conn:
            await call(conn)
    assert await db.fetchrow("SELECT 1") is not None


async def test_closed_connection_is_told_as_a_store_that_does_not_answer(db: Database) -> None:
    async def use_closed_connection() -> None:
        async with db.transaction() as conn:
            await conn.driver.close()
            await conn.fetch("SELECT 1")

    with pytest.raises(DatabaseUnavailable) as raised:
        await use_closed_connection()
    assert isinstance(raised.value.__cause__, asyncpg.InterfaceError)
    assert await db.fetchrow("SELECT 1") is not None


async def test_pool_that_is_closing_is_told_as_a_store_that_does_not_answer(address: PostgresAddress) -> None:
    database = await Database.connect(address, min_size=1, max_size=1, timeout=20)
    await database.close()
    with pytest.raises(DatabaseUnavailable):
        await database.fetch("SELECT 1")


async def test_a_lost_connection_is_not_used_again(db: Database) -> None:

    async def terminate_in(block: AbstractAsyncContextManager[Connection]) -> None:
        async with block as conn:
            await conn.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    for block in (db.transaction(), db.connection()):
        with pytest.raises(DatabaseUnavailable):
            await terminate_in(block)
        assert await db.fetchrow("SELECT 1") is not None


async def test_writes_with_timestamps_need_one_connection_at_a_time(address: PostgresAddress) -> None:
    """T2 holds one until the timestamps are committed on another, whose turn comes first."""
    database = await Database.connect(address, min_size=1, max_size=1, timeout=20)
    record = Record.in_postgres(database)
    await record.generations.use(GenerationBlock(uuid4(), 1, 1 << 13))
    bots, token = [await record.bot() for _ in range(2)], uuid4()

    async def write(number: int) -> None:
        writes = [Write(bot, document(f"text {number}")) for bot in bots[: 1 + number % 2]]
        await record.transactions.begin(writes, token, HOUR)
        timestamps = {write.bot.bot_id: number + 1 for write in writes}
        await record.transactions.finish(writes, token, timestamps=timestamps)
        assert [write.error for write in writes] == [None] * len(writes)

    async with asyncio.timeout(15):
        await asyncio.gather(*(write(number) for number in range(16)))
    assert (await record.documents.write_timestamps(bots[0].bot_id, bots[0].milvus_collection)).newest == 16
    await database.close()
