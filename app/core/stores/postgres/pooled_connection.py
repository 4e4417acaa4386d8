"""A connection that stores nothing in a session, for poolers that give each transaction any server connection.

PgBouncer before 1.21 does not support prepared statements. A statement that was prepared under a name stays on one
server connection, and on the next one the same name may be another client's statement, which is then executed.
"""

from collections import OrderedDict
from typing import Any

import asyncpg
from asyncpg.prepared_stmt import PreparedStatement

MAX_STATEMENTS = 256
"""Statements whose types each connection caches: those of queries.sql, and some that are compiled from filters."""


class PooledConnection(asyncpg.Connection):
    """Sends each statement's text with its values, under the empty name, in one round trip.

    asyncpg with ``statement_cache_size=0`` is as safe, but needs another round trip each time for a statement's types.
    The cache holds asyncpg's PreparedStatement, made with the empty name; PostgreSQL parses the text again at each use.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._described: OrderedDict[str, PreparedStatement[asyncpg.Record]] = OrderedDict()

    async def fetch(self, query: str, *args: Any, timeout: float | None = None, **_: Any) -> Any:
        return await (await self._statement(query)).fetch(*args, timeout=timeout)

    async def fetchrow(self, query: str, *args: Any, timeout: float | None = None, **_: Any) -> Any:
        return await (await self._statement(query)).fetchrow(*args, timeout=timeout)

    async def fetchval(self, query: str, *args: Any, column: int = 0, timeout: float | None = None) -> Any:
        return await (await self._statement(query)).fetchval(*args, column=column, timeout=timeout)

    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str:
        if not args:
            return await super().execute(query, timeout=timeout)
        statement = await self._statement(query)
        await statement.fetch(*args, timeout=timeout)
        return str(statement.get_statusmsg())

    async def clear(self) -> None:
        """Called when the connection goes back to the pool. Raises if the connection is lost.

        A statement that was described but not executed, because its task was cancelled in between, still holds a server
        connection. Any simple query releases it.
        """
        self._described.clear()
        await super().execute("SELECT 1")

    async def _statement(self, query: str) -> "PreparedStatement[asyncpg.Record]":
        statement = self._described.get(query)
        if statement is None:
            statement = self._described[query] = await self.prepare(query, name="")
            if len(self._described) > MAX_STATEMENTS:
                self._described.popitem(last=False)
        else:
            self._described.move_to_end(query)
        return statement
