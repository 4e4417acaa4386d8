"""RPC service of the Milvus Lite process for the collections that must be compared with PostgreSQL.

``lite_protocol`` describes the two methods. A collection is unverified after a failed write, and after a process was
killed before the comparison that followed one.
"""

import json
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import grpc

from app.core.ports import UnverifiedCollection
from app.core.stores.milvus.lite_protocol import FINISH_VERIFICATION, SERVICE, UNVERIFIED_COLLECTIONS
from app.core.stores.milvus_lite.durable import VERIFIED, DurableCollection

log = logging.getLogger("lite_server")


class Collections(Protocol):
    """The part of ``server.Lite`` that this service needs."""

    def opened(self) -> list[DurableCollection]: ...

    def list_collections(self) -> list[str]: ...

    def get_collection(self, name: str) -> DurableCollection: ...


class VerificationService:
    def __init__(self, db: Collections, folder: Path) -> None:
        """``folder`` holds one folder for each collection."""
        self._db = db
        self._not_opened = [name for name in db.list_collections() if not (folder / name / VERIFIED).exists()]
        self._claims: dict[str, float] = {}
        self._lock = threading.Lock()

    def unverified_collections(self, claim: float) -> list[UnverifiedCollection]:
        """All unverified collections; with ``claim`` (seconds) only those that can be compared now and are not claimed.

        The first call opens the collections that an earlier process left unverified.
        """
        with self._lock:
            names, self._not_opened = self._not_opened, []
        for name in names:
            try:
                self._db.get_collection(name)
            except Exception:
                log.exception("collection %s cannot be opened", name)
        found = [
            UnverifiedCollection(each.name, each.failures, each.failure is None, each.searchable)
            for each in self._db.opened()
            if not each.verified
        ]
        return [each for each in found if self._claim(each, claim)] if claim else found

    def finish_verification(self, collection: str, failures: int, complete: bool) -> None:
        """Ends a claim. ``complete``: the collection holds every current chunk, as seen after ``failures`` failures."""
        with self._lock:
            self._claims.pop(collection, None)
        found = next((each for each in self._db.opened() if each.name == collection), None)
        if found and complete:
            try:
                found.mark_verified(failures)
            except OSError as exc:
                log.warning("collection %s cannot be marked as verified: %s", collection, exc)

    def add_to(self, server: grpc.Server) -> None:
        def method(call: Callable[..., Any]) -> "grpc.RpcMethodHandler[bytes, bytes]":
            return grpc.unary_unary_rpc_method_handler(
                lambda request, _: json.dumps(call(**json.loads(request))).encode()
            )

        methods = {
            UNVERIFIED_COLLECTIONS: method(self.unverified_collections),
            FINISH_VERIFICATION: method(self.finish_verification),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))

    def _claim(self, collection: UnverifiedCollection, seconds: float) -> bool:
        if not collection.writable and collection.searchable:
            return False  # Memory is complete, the files are not: there is nothing to compare until the next flush.
        now = time.monotonic()
        with self._lock:
            if self._claims.get(collection.name, now) > now:
                return False
            self._claims[collection.name] = now + seconds
        return True
