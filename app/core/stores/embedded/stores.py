"""Attaches to the embedded stores of a data directory, starting their keeper if there is none."""

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
"""Which PostgreSQL's pg_ctl and initdb do not take in a path."""
ROOT = Path(__file__).resolve().parents[4]

_started: dict[Path, "subprocess.Popen[bytes]"] = {}
"""The last keeper that this process started, by data directory."""


@dataclass(frozen=True, slots=True)
class EmbeddedStores:
    """Where the stores are that were asked for."""

    postgres: PostgresAddress | None = None
    milvus_uri: str | None = None
    folder: str = ""
    """Tells the data directory from its copies."""


def begin_embedded_stores(data_dir: Path, *, postgres: bool, milvus: bool, database: str) -> None:
    """Has the stores start while the caller still has something else to do: soon it must use ``embedded_stores``.

    Raises StartupError. Whatever else fails is found out then.
    """
    if postgres or milvus:
        folder = _prepared(data_dir)
        if not control_socket(folder).exists():
            _start_keeper(folder, {"postgres": postgres, "milvus": milvus, "database": database})


@asynccontextmanager
async def embedded_stores(
    data_dir: Path, *, postgres: bool, milvus: bool, database: str
) -> AsyncIterator[EmbeddedStores]:
    """Holds the stores open. At the end, if nobody else uses them, waits until they have stopped.

    Raises StartupError with one line that says what to do.
    """
    if not (postgres or milvus):
        yield EmbeddedStores()
        return
    folder = _prepared(data_dir)
    wish = {"postgres": postgres, "milvus": milvus, "database": database}
    try:
        async with asyncio.timeout(START_SECONDS):
            reader, writer, ready = await _attach(folder, wish)
    except TimeoutError as exc:
        raise StartupError(f"The embedded stores did not start; {folder / LOG_NAME} says why.") from exc
    try:
        address = PostgresAddress(**ready["postgres"], database=database) if postgres else None
        yield EmbeddedStores(address, ready.get("milvus_uri"), ready.get("folder", "") if postgres else "")
    finally:
        await _detach(reader, writer)


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


async def _attach(
    folder: Path, wish: dict[str, Any]
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, dict[str, Any]]:
    """Connects, starting a keeper when none answers. One that is just stopping cuts the line: then once more."""
    keeper = _started.get(folder)
    while True:
        try:
            reader, writer = await asyncio.open_unix_connection(control_socket(folder))
        except OSError:
            if keeper is None or keeper.poll() is not None:
                keeper = _start_keeper(folder, wish)
            await asyncio.sleep(0.02)
            continue
        with suppress(ConnectionError):
            writer.write(json.dumps(wish).encode() + b"\n")
            async for line in reader:
                message = json.loads(line)
                if "ready" in message:
                    return reader, writer, message["ready"]
                if "error" in message:
                    writer.close()
                    raise StartupError(f"{message['error']} {folder / LOG_NAME} has more.")
                log.info("%s", message["doing"])
        writer.close()


async def _detach(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError, TimeoutError):
        writer.write_eof()
        async with asyncio.timeout(STOP_SECONDS):
            await reader.read()
    writer.close()


def _start_keeper(folder: Path, wish: dict[str, Any]) -> "subprocess.Popen[bytes]":
    """In a session of its own, so that a terminal's Ctrl-C does not take the stores from under the server."""
    with (folder / LOG_NAME).open("ab") as output:
        keeper = subprocess.Popen(
            [sys.executable, "-m", "app.core.stores.embedded.keeper", str(folder), json.dumps(wish)],
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
