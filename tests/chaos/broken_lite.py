"""Milvus Lite's process without the lock that makes writes to a collection queue."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc

from app.core.stores import lite_server


@contextmanager
def _together(self: lite_server.SerialServicer, collection: str, context: grpc.ServicerContext) -> Iterator[None]:
    yield


if __name__ == "__main__":
    lite_server.SerialServicer.alone = _together  # type: ignore[method-assign]
    lite_server.serve(Path(sys.argv[1]), Path(sys.argv[2]))
