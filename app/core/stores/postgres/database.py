"""The connection pool to PostgreSQL."""

import asyncio
import math
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Self
from urllib.parse import urlencode

import asyncpg
import orjson

from app.core.stores.address import PostgresAddress
from app.core.stores.postgres.connection import UNAVAILABLE, Connection, ErrorTranslation
from app.core.stores.postgres.pooled_connection import PooledConnection
from app.core.stores.postgres.refusal import explained, wrong_encoding
from app.schemas.queries import SQL
from app.utils.errors import DatabaseFull, StartupError

JSONB_VERSION = b"\x01"
IDLE_SECONDS = 30.0
SESSION_MARK = "chat_memory.session"
"""A start-up parameter that no pooler forwards: PgBouncer refuses it, others drop it."""
FULL_SECONDS = 30.0
"""A disk counts as full for so long after PostgreSQL reported it."""


@dataclass(frozen=True, slots=True)
class Guards:
    """Seconds after which PostgreSQL itself ends what a process has begun that died or hangs.

    A running process gives up after its own timeout, which is shorter than ``statement``.
    """

    statement: float = 15.0
    lock: float = 5.0
    idle_in_transaction: float = 20.0

    @classmethod
    def over(cls, timeout: float) -> "Guards":
        """``timeout``: seconds after which a process itself gives up a statement."""
        return cls(statement=max(cls().statement, 1.5 * timeout))

    def server_settings(self) -> dict[str, str]:
        """The settings of a session, in milliseconds."""
        return {
            "statement_timeout": str(int(self.statement * 1000)),
            "lock_timeout": str(int(self.lock * 1000)),
            "idle_in_transaction_session_timeout": str(int(self.idle_in_transaction * 1000)),
        }


PLANNER_SETTINGS = {
    # Planning dominates these small statements: compiling them never pays.
    "jit": "off",
    # To consider caching the rows of a nested loop takes a twentieth of the planning of a search's statement, and its
    # keys are all different.
    "enable_memoize": "off",
}
PREPARED_SETTINGS = {
    # At its sixth run a prepared statement would get a generic plan, which plans every bot's partition.
    "plan_cache_mode": "force_custom_plan",
}


async def _prepare_connection(conn: "asyncpg.Connection[asyncpg.Record]") -> None:
    # The binary format, so that COPY can use it too: a version byte, then the JSON text.
    await conn.set_type_codec(
        "jsonb",
        schema="pg_catalog",
        format="binary",
        encoder=lambda value: JSONB_VERSION + orjson.dumps(value),
        decoder=lambda raw: orjson.loads(raw[1:]),
    )


async def _leave_as_it_is(_: Any) -> None:
    """Resets nothing: an open transaction was rolled back before this call, and nothing else of a session is changed.

    asyncpg's own RESET ALL would cost a round trip after each statement: three times the time of a small one.
    """


async def _open_direct(opening: Any, settings: dict[str, str]) -> "asyncpg.Pool[asyncpg.Record] | None":
    """A pool of sessions with these settings; None when a pooler does not forward them."""
    pool: asyncpg.Pool[asyncpg.Record] = opening(reset=_leave_as_it_is, server_settings=settings)
    try:
        await pool
        if await pool.fetchval(SQL["session_setting"], SESSION_MARK) is not None:
            return pool
    except BaseException as exc:
        pool.terminate()
        if isinstance(exc, asyncpg.ProtocolViolationError) and "startup parameter" in str(exc):
            return None
        raise
    await pool.close()
    return None


async def _clear(conn: Any) -> None:
    await conn.clear()


class Database:
    """A pool whose connections answer or fail within ``timeout`` seconds.

    ``pooled``: there is a pooler such as PgBouncer in between, so that each transaction may run on another server
    connection. Then nothing of a session outlives a transaction, and a task in one transaction must not wait for a
    second one: the pooler may have no connection left.
    """

    def __init__(self, pool: "asyncpg.Pool[asyncpg.Record]", timeout: float, pooled: bool = False) -> None:
        self._pool = pool
        self._timeout = timeout
        self.pooled = pooled
        self._slots = asyncio.Semaphore(pool.get_max_size())
        self._idle: deque[tuple[Connection, float]] = deque()
        self._full_at = -math.inf
        self._translated = ErrorTranslation()

    @classmethod
    async def connect(
        cls,
        address: PostgresAddress,
        *,
        min_size: int,
        max_size: int,
        timeout: float,
        guards: Guards | None = None,
        pooled: bool = False,
    ) -> Self:
        """Opens the pool. A pooler is detected; ``pooled`` states that there is one.

        Behind a pooler ``guards`` are not sent: ``role_settings`` compares them with those of the role. Raises
        StartupError for an error that waiting does not fix (wrong password, TLS, database or encoding), else
        DatabaseUnavailable.
        """
        opening = partial(
            asyncpg.create_pool,
            # asyncpg takes a client's certificate only from the URI.
            f"postgresql://?{urlencode(address.tls.parameters())}",
            host=address.host,
            port=address.port,
            user=address.user,
            database=address.database,
            password=address.password.get_secret_value() if address.password else None,
            min_size=min_size,
            max_size=max(min_size, max_size),
            timeout=timeout,
            command_timeout=timeout,
            init=_prepare_connection,
        )
        settings = {"application_name": "chat-memory"}
        session = {**settings, **PLANNER_SETTINGS, **PREPARED_SETTINGS, **(guards or Guards()).server_settings()}
        with explained(address), ErrorTranslation():
            pool = None if pooled else await _open_direct(opening, {**session, SESSION_MARK: "on"})
            behind_pooler = pool is None
            if pool is None:
                pool = await opening(
                    connection_class=PooledConnection, statement_cache_size=0, reset=_clear, server_settings=settings
                )
            async with pool.acquire() as conn:
                encoding = conn.get_settings().server_encoding
        if encoding != "UTF8":
            await pool.close()
            raise StartupError(wrong_encoding(encoding, address))
        return cls(pool, timeout, behind_pooler)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """One connection; each statement is its own transaction.

        A connection is kept ready between uses: to acquire it from the pool and to release it costs twice the time of a
        small statement. After an error, or unused for IDLE_SECONDS, a connection goes back to the pool.
        """
        try:
            if self._slots.locked():
                with self._translated:
                    async with asyncio.timeout(self._timeout):
                        await self._slots.acquire()
            else:
                await self._slots.acquire()
            try:
                conn = await self._take()
                try:
                    yield conn
                except BaseException:
                    await self._give_back(conn)
                    raise
                await self._keep(conn)
            finally:
                self._slots.release()
        except DatabaseFull:
            self._full_at = asyncio.get_running_loop().time()
            raise

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """One connection inside a transaction: committed at the end, rolled back by any exception."""
        async with self.connection() as conn, conn.transaction():
            yield conn

    async def is_full(self) -> bool:
        """Whether PostgreSQL recently refused something because its disk is full."""
        return asyncio.get_running_loop().time() - self._full_at < FULL_SECONDS

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Connection]:
        """A read-only transaction whose statements all see the same snapshot."""
        async with self.connection() as conn, conn.transaction(isolation="repeatable_read", readonly=True):
            yield conn

    async def fetch(self, sql: str, *args: Any) -> list[asyncpg.Record]:
        async with self.connection() as conn:
            return await conn.fetch(sql, *args)

    async def fetchrow(self, sql: str, *args: Any) -> asyncpg.Record | None:
        async with self.connection() as conn:
            return await conn.fetchrow(sql, *args)

    async def execute(self, sql: str, *args: Any) -> None:
        async with self.connection() as conn:
            await conn.execute(sql, *args)

    async def _take(self) -> Connection:
        """The connection that was used last, or one from the pool, which has one for each slot."""
        with self._translated:
            while self._idle:
                conn, _ = self._idle.pop()
                if not conn.driver.is_closed():
                    return conn
                await self._pool.release(conn.driver)
            return Connection(await self._pool.acquire(timeout=self._timeout))

    async def _keep(self, conn: Connection) -> None:
        now = asyncio.get_running_loop().time()
        self._idle.append((conn, now))
        while self._idle and now - self._idle[0][1] > IDLE_SECONDS:  # Another task may take one during the await.
            with self._translated:
                await self._pool.release(self._idle.popleft()[0].driver)

    async def _give_back(self, conn: Connection) -> None:
        """After an error, which is the one to be raised: one of the pool only means that the connection is closed."""
        with suppress(*UNAVAILABLE, asyncpg.InterfaceError):
            if conn.is_lost:
                conn.driver.terminate()
            await self._pool.release(conn.driver)

    def pool_state(self) -> tuple[int, int, int]:
        """The numbers of (used, idle, at most open) connections."""
        size, idle = self._pool.get_size(), self._pool.get_idle_size() + len(self._idle)
        return size - idle, idle, self._pool.get_max_size()

    async def close(self) -> None:
        """Waits for connections in use for as long as a statement may take, then closes them."""
        while self._idle:
            await self._pool.release(self._idle.pop()[0].driver)
        try:
            await asyncio.wait_for(self._pool.close(), self._timeout)
        except TimeoutError:
            self._pool.terminate()
