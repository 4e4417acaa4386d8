"""A second process that uses the same server connections of a PgBouncer as the tests, and checks its own answers.

It reads names of databases from standard input and works in the last one. Exits with 1 on another client's answer.
"""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from app.core.stores.address import PostgresAddress
from app.core.stores.postgres.database import Database
from app.utils.errors import DatabaseUnavailable

PAUSE_SECONDS = 0.005


class Neighbour:
    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def go_to(self, database: str) -> None:
        assert self._process.poll() is None, "it got an answer of another client"
        assert self._process.stdin is not None
        print(database, file=self._process.stdin, flush=True)


@contextmanager
def neighbour(pooler: PostgresAddress) -> Iterator[Neighbour]:
    command = [sys.executable, "-m", "tests.neighbour", pooler.host, str(pooler.port), pooler.user]
    with subprocess.Popen(command, stdin=subprocess.PIPE, text=True) as process:
        yield Neighbour(process)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(30) == 0, "it got an answer of another client"


async def _ask(address: PostgresAddress) -> None:
    """Runs queries until it is cancelled or its database is dropped."""
    with suppress(DatabaseUnavailable):
        db = await Database.connect(address, min_size=1, max_size=2, timeout=10)
        try:
            number = 0
            while True:
                number += 1
                (row,) = await db.fetch(f"SELECT $1::text AS mine, {number % 7} AS n", f"neighbour {number}")
                if tuple(row) != (f"neighbour {number}", number % 7):
                    sys.exit(1)
                await asyncio.sleep(PAUSE_SECONDS)
        finally:
            with suppress(DatabaseUnavailable):
                await db.close()


async def _main(host: str, port: str, user: str) -> None:
    asking: asyncio.Task[None] | None = None
    while database := (await asyncio.to_thread(sys.stdin.readline)).strip():
        if asking:
            asking.cancel()
            with suppress(asyncio.CancelledError):
                await asking
        asking = asyncio.create_task(_ask(PostgresAddress(host, int(port), user, database)))
    if asking:
        asking.cancel()


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
