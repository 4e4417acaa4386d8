"""Connects to the embedded stores of a data directory, through their keeper, which is started if there is none."""

import asyncio
import json
import logging
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.core.stores.address import PostgresAddress
from app.core.stores.embedded.runtime_dir import LOG_NAME, control_socket
from app.utils.errors import StartupError

log = logging.getLogger(__name__)

START_SECONDS = 330.0
STOP_SECONDS = 60.0
UNQUOTABLE = frozenset('"$`\\\n\r')
"""Characters that pg_ctl and initdb do not accept in a path."""
ROOT = Path(__file__).resolve().parents[4]

_started: dict[Path, "subprocess.Popen[bytes]"] = {}
"""The last keeper that this process started, by data directory."""


@dataclass(frozen=True, slots=True)
class EmbeddedStores:
    """The addresses of the requested stores."""

    postgres: PostgresAddress | None = None
    milvus_uri: str | None = None
    folder: str = ""
    """The data directory's id, see ``folder_id``; set if PostgreSQL is embedded."""


def begin_embedded_stores(data_dir: Path, *, postgres: bool, milvus: bool, database: str) -> None:
    """Starts the stores in the background. The caller must use ``embedded_stores`` soon, which reports errors.

    Raises StartupError for an unusable ``data_dir``.
    """
    if postgres or milvus:
        folder = _prepared(data_dir)
        if not control_socket(folder).exists():
            _start_keeper(folder, {"postgres": postgres, "milvus": milvus, "database": database})


@asynccontextmanager
async def embedded_stores(
    data_dir: Path, *, postgres: bool, milvus: bool, database: str
) -> AsyncIterator[EmbeddedStores]:
    """The requested stores, running. At the end, if no other process uses them, waits until they have stopped.

    Raises StartupError with one line that says what to do.
    """
    if not (postgres or milvus):
        yield EmbeddedStores()
        return
    folder = _prepared(data_dir)
    request = {"postgres": postgres, "milvus": milvus, "database": database}
    try:
        async with asyncio.timeout(START_SECONDS):
            reader, writer, ready = await _connect(folder, request)
    except TimeoutError as exc:
        raise StartupError(f"The embedded stores did not start; {folder / LOG_NAME} says why.") from exc
    try:
        address = PostgresAddress(**ready["postgres"], database=database) if postgres else None
        yield EmbeddedStores(address, ready.get("milvus_uri"), ready.get("folder", "") if postgres else "")
    finally:
        await _disconnect(reader, writer)


def _prepared(data_dir: Path) -> Path:
    folder = data_dir.expanduser().absolute()
    if not UNQUOTABLE.isdisjoint(str(folder)):
        raise StartupError(f'DATA_DIR {str(folder)!r} has one of " $ ` \\ or a line break: choose another.')
    try:
        folder.mkdir(parents=True, exist_ok=True)
        control_socket(folder)
    except OSError as exc:
        raise StartupError(f"DATA_DIR {folder} cannot be written ({exc.strerror}): choose another.") from exc
    return folder


async def _connect(
    folder: Path, request: dict[str, Any]
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, dict[str, Any]]:
    """Sends the request to the keeper, which is started if there is none.

    A keeper that is stopping closes the connection without a response; then this tries again.
    """
    keeper = _started.get(folder)
    while True:
        try:
            reader, writer = await asyncio.open_unix_connection(control_socket(folder))
        except OSError:
            if keeper is None or keeper.poll() is not None:
                keeper = _start_keeper(folder, request)
            await asyncio.sleep(0.02)
            continue
        with suppress(ConnectionError):
            writer.write(json.dumps(request).encode() + b"\n")
            async for line in reader:
                message = json.loads(line)
                if "ready" in message:
                    return reader, writer, message["ready"]
                if "error" in message:
                    writer.close()
                    raise StartupError(f"{message['error']} {folder / LOG_NAME} has more.")
                log.info("%s", message["doing"])
        writer.close()


async def _disconnect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError, TimeoutError):
        writer.write_eof()
        async with asyncio.timeout(STOP_SECONDS):
            await reader.read()
    writer.close()


def _start_keeper(folder: Path, request: dict[str, Any]) -> "subprocess.Popen[bytes]":
    """Starts the keeper in a session of its own, so that Ctrl-C in a terminal does not stop the stores."""
    with (folder / LOG_NAME).open("ab") as output:
        keeper = subprocess.Popen(
            [sys.executable, "-m", "app.core.stores.embedded.keeper", str(folder), json.dumps(request)],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    _started[folder] = keeper
    # Reaps the keeper when it ends: otherwise it stays a zombie as long as this process lives.
    threading.Thread(target=keeper.wait, name="keeper", daemon=True).start()
    return keeper
