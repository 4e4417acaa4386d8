"""Milvus Lite on a Unix socket, in its own process: ``python -m app.core.stores.milvus_lite.server DIR SOCKET``.

Milvus Lite's engine supports one writer per collection; concurrent writes lose rows without an error. This process
serves all writers, so it runs the writes of a collection one at a time. It ends when its standard input is closed: the
keeper holds the other end of that pipe, and the kernel closes it however the keeper dies.
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

# Milvus Lite reads this at import. It searches the rows of the memtable one by one, so the memtable is kept small.
os.environ.setdefault("MILVUS_LITE_MEMTABLE_MEMORY_LIMIT_BYTES", str(8 << 20))
# numpy reads this at import. OpenBLAS's threads spin while they wait for each other: where other processes need the
# cores, a product of 964 x 512 numbers took 8 ms at p95 with two threads, and 0.24 ms with one.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import grpc
import milvus_lite.db
from milvus_lite.adapter.grpc.servicer import MilvusServicer
from milvus_lite.db import COLLECTIONS_DIRNAME, DEFAULT_DATABASE_NAME, MilvusLite
from milvus_lite.exceptions import DataDirLockedError, MilvusLiteError
from pymilvus.grpc_gen import common_pb2, milvus_pb2, milvus_pb2_grpc

from app.core.stores.milvus.lite_protocol import DISK_FULL, UNVERIFIED, WRITES_REFUSED
from app.core.stores.milvus_lite import direct, patches
from app.core.stores.milvus_lite.collection import LiteCollection
from app.core.stores.milvus_lite.durable import NO_SPACE
from app.core.stores.milvus_lite.verification import VerificationService

# The class that the database creates and opens collections with.
milvus_lite.db.Collection = LiteCollection
patches.apply()

log = logging.getLogger("lite_server")

WORKERS = 64
MAX_WRITERS = 48
"""Write requests that may wait at a time. The other workers stay free for searches."""
MAX_MESSAGE_BYTES = 256 << 20
FLUSH_AFTER_SECONDS = 0.5
"""Pause after the last write before a flush. Rows that are not flushed are slow to search."""
LOCK_WAIT_SECONDS = 20.0
WRITES = ("Insert", "Upsert", "Delete")
SEARCHES = ("Search", "HybridSearch")
CHANGES = ("CreateCollection", "DropCollection", "CreateIndex", "DropIndex", "LoadCollection", "ReleaseCollection")


class Lite(MilvusLite):
    """Milvus Lite's database, which opens each collection once.

    Without the lock, two threads that find a collection closed would both open it, and rows would be lost.
    """

    def __init__(self, data_dir: str) -> None:
        self._opening = threading.RLock()
        super().__init__(data_dir)

    def opened(self) -> list[LiteCollection]:
        with self._opening:
            return list(self._collections.values())

    def find(self, name: str) -> LiteCollection | None:
        """The collection, or None if it is not open."""
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
                # A process that was killed while it created or dropped the collection leaves a folder.
                shutil.rmtree(self._collection_dir(name, database_name), ignore_errors=True)
            made: LiteCollection = super().create_collection(name, schema, properties, database_name)
            try:
                made.mark_verified()
            except OSError:
                self.drop_collection(name, database_name)
                raise
            return made

    def drop_collection(self, name: str, database_name: str = "default") -> None:
        """Drops without the flush that Milvus Lite does first, so that it works on a full disk."""
        with self._opening:
            if (opened := self._collections.pop((database_name, name), None)) is not None:
                opened.discard()
            super().drop_collection(name, database_name)


class SerialServicer(MilvusServicer):
    """Milvus Lite's gRPC service, with one write at a time per collection and none after a failed write."""

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
                    self._resume_writes(opened)

    def _flush(self, collection: str, last: float) -> None:
        with self._locks[collection]:
            if self._written.get(collection) != last:
                return
            del self._written[collection]
            try:
                if self._lite.has_collection(collection):
                    self._lite.get_collection(collection).flush()
            except Exception:
                log.exception("collection %s was not flushed", collection)

    def _resume_writes(self, collection: LiteCollection) -> None:
        with self._locks[collection.name]:
            try:
                if collection is self._lite.find(collection.name):  # It was not dropped meanwhile.
                    collection.resume_writes()
            except Exception:
                log.exception("collection %s still accepts no writes", collection.name)

    def refusal(self, name: str) -> common_pb2.Status | None:
        """The status for a write if this or an earlier write to the collection has failed, else None."""
        found = self._lite.find(name)
        if found is None or found.failure is None:
            return None
        if found.is_full:
            return common_pb2.Status(code=DISK_FULL, reason=f"no space left on the disk of {found.data_dir}")
        return common_pb2.Status(code=WRITES_REFUSED, reason=f"an earlier write failed in {found.data_dir}")

    def insert(self, request: Any, context: grpc.ServicerContext) -> Any:
        """The answer to an insert of chunks; None for any other, and where the collection is missing."""
        with suppress(MilvusLiteError):
            return direct.insert(self._get_collection(request, context), request)
        return None

    def ShowCollections(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802 - gRPC's name
        """Collections and whether they are loaded, without opening any: one that is not open is not loaded.

        The inherited method opens all of them one by one, and fails when one is dropped meanwhile.
        """
        names = self._lite.list_collections(database_name=self._database_name(request, context))
        if request.collection_names:
            names = sorted(set(names).intersection(request.collection_names))
        found = [self._lite.find(name) for name in names]
        is_loaded = [collection is not None and collection.load_state == "loaded" for collection in found]
        return milvus_pb2.ShowCollectionsResponse(
            status=common_pb2.Status(),
            collection_names=names,
            inMemory_percentages=[100 * loaded for loaded in is_loaded],
            query_service_available=is_loaded,
            shards_num=[1] * len(names),
        )

    @contextmanager
    def write_lock(self, collection: str, context: grpc.ServicerContext) -> Iterator[None]:
        """Holds the collection's write lock. Aborts if the caller gave up while it waited, so that no write is late."""
        if not self._writers.acquire(blocking=False):
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many writes are waiting")
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
        with self.write_lock(request.collection_name, context):
            if name not in WRITES:
                return _with_disk_full_code(inner(self, request, context))
            if refused := self.refusal(request.collection_name):
                return milvus_pb2.MutationResult(status=refused)
            try:
                answer = (name == "Insert" and self.insert(request, context)) or inner(self, request, context)
            finally:
                self._written[request.collection_name] = time.monotonic()
            if answer.status.code and (refused := self.refusal(request.collection_name)):
                return milvus_pb2.MutationResult(status=refused)
            return answer

    return call


def _with_disk_full_code(status: common_pb2.Status) -> common_pb2.Status:
    """Sets the code DISK_FULL; Milvus Lite reports an error of the file system only in the text."""
    if status.code and any(os.strerror(number) in status.reason for number in NO_SPACE):
        return common_pb2.Status(code=DISK_FULL, reason=status.reason)
    return status


def _search(name: str) -> Callable[[SerialServicer, Any, grpc.ServicerContext], Any]:
    inner = getattr(MilvusServicer, name)

    def call(self: SerialServicer, request: Any, context: grpc.ServicerContext) -> Any:
        with suppress(MilvusLiteError):  # The collection is missing: ``inner`` reports that.
            collection = self._lite.find(request.collection_name) or self._get_collection(request, context)
            if not collection.searchable:
                reason = f"collection {request.collection_name} must be compared with PostgreSQL first"
                status = common_pb2.Status(code=UNVERIFIED, reason=reason)
                return milvus_pb2.SearchResults(status=status)
            if (
                name == "Search"
                and collection.load_state == "loaded"
                and (answer := direct.search(collection, request)) is not None
            ):
                return answer
        return inner(self, request, context)

    return call


for _name in (*WRITES, *CHANGES):
    setattr(SerialServicer, _name, _serial(_name))
for _name in SEARCHES:
    setattr(SerialServicer, _name, _search(_name))


def _open(data_dir: Path) -> Lite:
    """Opens the data. Waits for the lock, which a process that is being killed may still hold."""
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
    """Serves until standard input is closed or SIGTERM arrives, then closes the data with an fsync."""
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
            # pymilvus pings every 10 s. By default gRPC's server treats that as an attack and closes the connection.
            ("grpc.http2.max_ping_strikes", 0),
        ],
    )
    milvus_pb2_grpc.add_MilvusServiceServicer_to_server(servicer, server)
    VerificationService(db, data_dir / COLLECTIONS_DIRNAME).add_to(server)
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
