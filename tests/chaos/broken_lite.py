"""Milvus Lite's process without the lock that makes writes to a collection queue."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import grpc
from milvus_lite.storage import wal

from app.core.stores import lite_server


@contextmanager
def _together(self: lite_server.SerialServicer, collection: str, context: grpc.ServicerContext) -> Iterator[None]:
    yield


def _late_open(*args: Any) -> IO[Any]:
    """A thread that loses the processor between seeing that there is no log and opening one."""
    time.sleep(0.02)
    return open(*args)


if __name__ == "__main__":
    lite_server.SerialServicer.alone = _together  # type: ignore[method-assign]
    wal.open = _late_open  # type: ignore[attr-defined]
    lite_server.serve(Path(sys.argv[1]), Path(sys.argv[2]))
