"""Milvus Lite's process without this project's lock around writes, or without its handling of a full disk."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import grpc
from milvus_lite.engine import collection as engine
from milvus_lite.engine.collection import Collection
from milvus_lite.storage import wal

from app.core.stores.milvus_lite import server as lite_server
from app.core.stores.milvus_lite.durable import DurableCollection
from tests.chaos.breaks import LITE_FULL_DISK, LITE_WRITE_LOCK, replace


@contextmanager
def _together(self: lite_server.SerialServicer, collection: str, context: grpc.ServicerContext) -> Iterator[None]:
    yield


def _late_open(*args: Any) -> IO[Any]:
    """Makes likely what may happen: a thread is interrupted after it saw that there is no log, before it opens one."""
    time.sleep(0.02)
    return open(*args)


def break_lite(name: str) -> None:
    if name == LITE_WRITE_LOCK:
        replace(lite_server.SerialServicer, "write_lock", _together)
        if "open" not in wal.WAL.write_insert.__code__.co_names:
            raise LookupError("Milvus Lite's log does not call open() any more")
        wal.open = _late_open  # type: ignore[attr-defined]
    elif name == LITE_FULL_DISK:
        for method in ("_apply", "_trigger_flush"):
            replace(DurableCollection, method, getattr(Collection, method))
        # Makes likely what may happen: a flush while the disk is full.
        engine.MEMTABLE_MEMORY_LIMIT = 1 << 15


if __name__ == "__main__":
    break_lite(sys.argv[3])
    lite_server.serve(Path(sys.argv[1]), Path(sys.argv[2]))
