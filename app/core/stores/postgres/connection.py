"""A connection to PostgreSQL that raises our errors. This is the one place where the driver's errors become ours."""

import logging
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any, Literal, TypeAlias

import asyncpg
from asyncpg.pool import PoolConnectionProxy
from asyncpg.transaction import Transaction as DriverTransaction

from app.utils.errors import DatabaseFull, DatabaseRightsMissing, DatabaseUnavailable

log = logging.getLogger(__name__)

DriverConnection: TypeAlias = "PoolConnectionProxy[asyncpg.Record]"

LOCK_ERRORS = (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError)
UNAVAILABLE = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InternalClientError,  # A call between the server's last message and the end of the connection.
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InsufficientResourcesError,
    asyncpg.OperatorInterventionError,
    asyncpg.InvalidCatalogNameError,
    *LOCK_ERRORS,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.DiskFullError,
    asyncpg.PostgresSystemError,
)
BROKEN = (ConnectionError, asyncpg.PostgresConnectionError, asyncpg.InternalClientError)
"""After these errors a connection is not used again, even if asyncpg does not know yet that it is lost."""


class LockNotGranted(DatabaseUnavailable):
    """A lock was not granted within ``lock_timeout``, or the transaction was chosen to end a deadlock."""


class ErrorTranslation:
    """Around a call of the driver: raises our error for the driver's.

    DatabaseUnavailable when PostgreSQL does not answer, is full or is shutting down; DatabaseRightsMissing when it
    refuses the call, with what is missing in the log only. Other errors are faults of ours and pass unchanged.
    ``broken``: whether the connection was lost in such a call. ``driver``: the connection whose methods are called;
    None while there is none yet.
    """

    __slots__ = ("_driver", "broken")

    def __init__(self, driver: "PoolConnectionProxy[asyncpg.Record] | None" = None) -> None:
        self.broken = False
        self._driver = driver

    def __enter__(self) -> None: ...

    def __exit__(
        self, _type: type[BaseException] | None, exc: BaseException | None, _traceback: TracebackType | None
    ) -> Literal[False]:
        if exc is None:
            return False
        self.broken = self.broken or isinstance(exc, BROKEN)
        if isinstance(exc, asyncpg.InsufficientPrivilegeError):
            log.error("PostgreSQL does not allow this to the server's role: %s", exc)  # It names tables, and no data.
            raise DatabaseRightsMissing("PostgreSQL does not allow this to the server's role: see its log.") from exc
        if not isinstance(exc, UNAVAILABLE) and not self._means_lost(exc):
            return False
        if isinstance(exc, asyncpg.DiskFullError):
            log.error("no space left on PostgreSQL's disk: %s", exc)
            raise DatabaseFull("PostgreSQL has no space left on its disk: nothing was stored.") from exc
        kind = LockNotGranted if isinstance(exc, LOCK_ERRORS) else DatabaseUnavailable
        raise kind("PostgreSQL did not answer in time.") from exc

    def _means_lost(self, exc: BaseException) -> bool:
        """asyncpg raises InterfaceError on a closed connection, and also for faults of ours: a wrong number or type of
        arguments, two calls at once. After these the connection is open."""
        if not isinstance(exc, asyncpg.InterfaceError) or isinstance(exc, ValueError):
            return False
        try:
            return self._driver is None or self._driver.is_closed()
        except asyncpg.InterfaceError:  # The pool has taken the closed connection back.
            return True


class Connection:
    """Each method is the driver's of the same name, and raises as ErrorTranslation."""

    __slots__ = ("_translated", "driver")

    def __init__(self, driver: DriverConnection) -> None:
        self.driver = driver
        self._translated = ErrorTranslation(driver)

    @property
    def is_lost(self) -> bool:
        return self._translated.broken

    async def fetch(self, sql: str, *args: Any) -> list[asyncpg.Record]:
        with self._translated:
            return await self.driver.fetch(sql, *args)

    async def fetchrow(self, sql: str, *args: Any) -> asyncpg.Record | None:
        with self._translated:
            return await self.driver.fetchrow(sql, *args)

    async def fetchval(self, sql: str, *args: Any) -> Any:
        with self._translated:
            return await self.driver.fetchval(sql, *args)

    async def execute(self, sql: str, *args: Any) -> str:
        """Returns PostgreSQL's command tag, such as UPDATE 1."""
        with self._translated:
            return await self.driver.execute(sql, *args)

    async def copy_records_to_table(
        self, table: str, *, columns: Sequence[str], records: Iterable[Sequence[object]]
    ) -> None:
        with self._translated:
            await self.driver.copy_records_to_table(table, columns=columns, records=records)

    def transaction(
        self, *, isolation: Literal["repeatable_read"] | None = None, readonly: bool = False
    ) -> "Transaction":
        """A transaction, or inside one a savepoint: committed at the end of the block, rolled back by an exception."""
        with self._translated:
            return Transaction(self.driver.transaction(isolation=isolation, readonly=readonly), self._translated)


class Transaction:
    """asyncpg's transaction block. An exception of its caller passes unchanged, unless the rollback fails."""

    __slots__ = ("_driver", "_translated")

    def __init__(self, driver: DriverTransaction, translated: ErrorTranslation) -> None:
        self._driver = driver
        self._translated = translated

    async def __aenter__(self) -> None:
        with self._translated:
            await self._driver.__aenter__()

    async def __aexit__(
        self, type_: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._translated:
            await self._driver.__aexit__(type_, exc, traceback)
