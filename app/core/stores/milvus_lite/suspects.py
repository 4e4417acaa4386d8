"""The service of Milvus Lite's process that says which collections are to be compared with PostgreSQL."""

import json
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import grpc

from app.core.ports import Suspect
from app.core.stores.milvus.lite_protocol import SERVICE, SUSPECTS, TRUST
from app.core.stores.milvus_lite.durable import TRUSTED, DurableCollection

log = logging.getLogger("lite_server")


class Collections(Protocol):
    def opened(self) -> list[DurableCollection]: ...

    def list_collections(self) -> list[str]: ...

    def get_collection(self, name: str) -> DurableCollection: ...


class SuspectService:
    """Those opened that are not compared, and those that were left so by an earlier process."""

    def __init__(self, db: Collections, folder: Path) -> None:
        """``folder``: of the collections."""
        self._db = db
        self._left = [name for name in db.list_collections() if not (folder / name / TRUSTED).exists()]
        self._claims: dict[str, float] = {}
        self._lock = threading.Lock()

    def suspects(self, claim: float) -> list[Suspect]:
        with self._lock:
            left, self._left = self._left, []
        for name in left:
            try:
                self._db.get_collection(name)
            except Exception:
                log.exception("%s cannot be opened", name)
        found = [
            Suspect(each.name, each.failures, each.failure is None, each.searchable)
            for each in self._db.opened()
            if not each.compared
        ]
        return [suspect for suspect in found if self._claim(suspect, claim)] if claim else found

    def trust(self, collection: str, failures: int, complete: bool) -> None:
        with self._lock:
            self._claims.pop(collection, None)
        found = next((each for each in self._db.opened() if each.name == collection), None)
        if found and complete:
            try:
                found.trust(failures)
            except OSError as exc:
                log.warning("%s stays to be compared: %s", collection, exc)

    def add_to(self, server: grpc.Server) -> None:
        def method(call: Callable[..., Any]) -> "grpc.RpcMethodHandler[bytes, bytes]":
            return grpc.unary_unary_rpc_method_handler(
                lambda request, _: json.dumps(call(**json.loads(request))).encode()
            )

        methods = {SUSPECTS: method(self.suspects), TRUST: method(self.trust)}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))

    def _claim(self, suspect: Suspect, seconds: float) -> bool:
        if not suspect.writable and suspect.searchable:
            return False  # What memory shows is right; the files are compared when they have it all.
        now = time.monotonic()
        with self._lock:
            if self._claims.get(suspect.collection, now) > now:
                return False
            self._claims[suspect.collection] = now + seconds
        return True
