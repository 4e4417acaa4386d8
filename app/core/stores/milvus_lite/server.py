"""Milvus Lite on a Unix socket, in its own process: ``python -m app.core.stores.milvus_lite.server DIR SOCKET``.

Its engine takes one writer a collection; concurrent writes lose rows without an error. Here, where all writes
of all processes meet, they are made to queue. The process ends when its standard input does: the keeper holds
the other end, and the kernel closes it however the keeper dies.
"""

import logging
import os
import shutil
import signal
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

# Read at import. Rows in the memtable are searched one by one, so it is kept small.
os.environ.setdefault("MILVUS_LITE_MEMTABLE_MEMORY_LIMIT_BYTES", str(8 << 20))

import grpc
import milvus_lite.db
from milvus_lite.adapter.grpc.servicer import MilvusServicer
from milvus_lite.db import COLLECTIONS_DIRNAME, DEFAULT_DATABASE_NAME, MilvusLite
from milvus_lite.exceptions import DataDirLockedError, MilvusLiteError
from pymilvus.grpc_gen import common_pb2, milvus_pb2, milvus_pb2_grpc

from app.core.stores.milvus.lite_protocol import DISK_FULL, SUSPECT, WRITES_REFUSED
from app.core.stores.milvus_lite.collection import LiteCollection
from app.core.stores.milvus_lite.durable import NO_SPACE
from app.core.stores.milvus_lite.suspects import SuspectService

# What the database opens and makes.
milvus_lite.db.Collection = LiteCollection

log = logging.getLogger("lite_server")

WORKERS = 64
MAX_WRITERS = 48
"""Writers that may wait at once; the other workers stay free for searches."""
MAX_MESSAGE_BYTES = 256 << 20
FLUSH_AFTER_SECONDS = 0.5
"""Rows are slow to search until they are flushed, so that is done a moment after the last write."""
LOCK_WAIT_SECONDS = 20.0
WRITES = ("Insert", "Upsert", "Delete")
SEARCHES = ("Search", "HybridSearch")
CHANGES = ("CreateCollection", "DropCollection", "CreateIndex", "DropIndex", "LoadCollection", "ReleaseCollection")


class Lite(MilvusLite):
    """Opens each collection once: two threads that both find it closed would open it twice and lose rows."""

    def __init__(self, data_dir: str) -> None:
        self._opening = threading.RLock()
        super().__init__(data_dir)

    def opened(self) -> list[LiteCollection]:
        with self._opening:
            return list(self._collections.values())

    def find(self, name: str) -> LiteCollection | None:
        """The collection, if it is open."""
        found: LiteCollection | None = self._collections.get((DEFAULT_DATABASE_NAME, name))
        return found

    def get_collection(self, name: str, database_name: str = "default") -> LiteCollection:
        with self._opening:
            found: LiteCollection = super().get_collection(name, database_name)
            return found

    def create_collection(
        self, name: str, schema: Any, properties: Any = None, database_name: str = "default"
    ) -> LiteCollection:
        self._validate_name(name)
        with self._opening:
            if not self.has_collection(name, database_name):
                # The folder of one that was killed while it made or dropped the collection: it would be in the way.
                shutil.rmtree(self._collection_dir(name, database_name), ignore_errors=True)
            made: LiteCollection = super().create_collection(name, schema, properties, database_name)
            try:
                made.trust()
            except OSError:
                self.drop_collection(name, database_name)
                raise
            return made

    def drop_collection(self, name: str, database_name: str = "default") -> None:
        """As the inherited one, without the flush before: a full disk is no obstacle."""
        with self._opening:
            if (opened := self._collections.pop((database_name, name), None)) is not None:
                opened.discard()
            super().drop_collection(name, database_name)


class SerialServicer(MilvusServicer):
    """Milvus Lite's service with one write at a time for each collection, and none where one has failed."""

    def __init__(self, db: Lite) -> None:
        super().__init__(db)
        self._lite = db
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._writers = threading.BoundedSemaphore(MAX_WRITERS)
        self._written: dict[str, float] = {}

    def flush_forever(self) -> None:
        while True:
            time.sleep(FLUSH_AFTER_SECONDS / 5)
            quiet = time.monotonic() - FLUSH_AFTER_SECONDS
            for collection, last in list(self._written.items()):
                if last < quiet:
                    self._flush(collection, last)
            for opened in self._lite.opened():
                if opened.failure is not None:
                    self._write_again(opened)

    def _flush(self, collection: str, last: float) -> None:
        with self._locks[collection]:
            if self._written.get(collection) != last:
                return
            del self._written[collection]
            try:
                if self._lite.has_collection(collection):
                    self._lite.get_collection(collection).flush()
            except Exception:
                log.exception("%s was not flushed", collection)

    def _write_again(self, collection: LiteCollection) -> None:
        with self._locks[collection.name]:
            try:
                if collection is self._lite.find(collection.name):  # Not dropped meanwhile.
                    collection.write_again()
            except Exception:
                log.exception("%s is not written to again", collection.name)

    def refusal(self, name: str) -> common_pb2.Status | None:
        """The status of a write to a collection in which an earlier one, or this one, has failed."""
        found = self._lite.find(name)
        if found is None or found.failure is None:
            return None
        if found.is_full:
            return common_pb2.Status(code=DISK_FULL, reason=f"no space left on the disk of {found.data_dir}")
        return common_pb2.Status(code=WRITES_REFUSED, reason=f"an earlier write failed in {found.data_dir}")

    @contextmanager
    def alone(self, collection: str, context: grpc.ServicerContext) -> Iterator[None]:
        """Waits for the collection's turn. A caller that gave up meanwhile gets none: nothing lands late."""
        if not self._writers.acquire(blocking=False):
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many writers wait")
        try:
            with self._locks[collection]:
                if not context.is_active():
                    context.abort(grpc.StatusCode.CANCELLED, "the caller is gone")
                yield
        finally:
            self._writers.release()


def _serial(name: str) -> Callable[[SerialServicer, Any, grpc.ServicerContext], Any]:
    inner = getattr(MilvusServicer, name)

    def call(self: SerialServicer, request: Any, context: grpc.ServicerContext) -> Any:
        with self.alone(request.collection_name, context):
            if name not in WRITES:
                return _naming_full_disk(inner(self, request, context))
            if refused := self.refusal(request.collection_name):
                return milvus_pb2.MutationResult(status=refused)
            try:
                answer = inner(self, request, context)
            finally:
                self._written[request.collection_name] = time.monotonic()
            if answer.status.code and (refused := self.refusal(request.collection_name)):
                return milvus_pb2.MutationResult(status=refused)
            return answer

    return call


def _naming_full_disk(status: common_pb2.Status) -> common_pb2.Status:
    """Milvus Lite passes an error of the file system on as text."""
    if status.code and any(os.strerror(number) in status.reason for number in NO_SPACE):
        return common_pb2.Status(code=DISK_FULL, reason=status.reason)
    return status


def _search(name: str) -> Callable[[SerialServicer, Any, grpc.ServicerContext], Any]:
    inner = getattr(MilvusServicer, name)

    def call(self: SerialServicer, request: Any, context: grpc.ServicerContext) -> Any:
        with suppress(MilvusLiteError):  # That it is missing, the inner one says.
            if not (self._lite.find(request.collection_name) or self._get_collection(request, context)).searchable:
                status = common_pb2.Status(code=SUSPECT, reason=f"{request.collection_name} is to be compared first")
                return milvus_pb2.SearchResults(status=status)
        return inner(self, request, context)

    return call


for _name in (*WRITES, *CHANGES):
    setattr(SerialServicer, _name, _serial(_name))
for _name in SEARCHES:
    setattr(SerialServicer, _name, _search(_name))


def _open(data_dir: Path) -> Lite:
    """Opens the data; a predecessor that is being killed may hold its lock for a moment more."""
    deadline = time.monotonic() + LOCK_WAIT_SECONDS
    while True:
        try:
            return Lite(str(data_dir))
        except DataDirLockedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _at_end_of_input(end: threading.Event) -> None:
    sys.stdin.buffer.read()
    end.set()


def serve(data_dir: Path, socket: Path) -> None:
    """Serves until standard input ends or SIGTERM comes, then closes the data with an fsync."""
    end = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: end.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_at_end_of_input, args=(end,), daemon=True).start()
    db = _open(data_dir)
    servicer = SerialServicer(db)
    socket.unlink(missing_ok=True)
    server = grpc.server(
        ThreadPoolExecutor(max_workers=WORKERS),
        options=[
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
            # pymilvus pings every 10 s, which gRPC's default takes for an attack: it then cuts all calls off.
            ("grpc.http2.max_ping_strikes", 0),
        ],
    )
    milvus_pb2_grpc.add_MilvusServiceServicer_to_server(servicer, server)
    SuspectService(db, data_dir / COLLECTIONS_DIRNAME).add_to(server)
    server.add_insecure_port(f"unix:{socket}")
    server.start()
    socket.chmod(0o600)
    threading.Thread(target=servicer.flush_forever, daemon=True).start()
    print("ready", flush=True)
    try:
        end.wait()
    finally:
        server.stop(grace=5).wait()
        db.close()


if __name__ == "__main__":
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    serve(Path(sys.argv[1]), Path(sys.argv[2]))
