"""Breaks one line of the design in the server under test, to show that the crash test finds the violation.

``lite-write-lock`` and ``lite-full-disk`` are broken in Milvus Lite's own process: see broken_lite.py.
"""

from typing import Any

from app.config import Settings
from app.core.bots.loads import Loads
from app.core.connect import Stores
from app.core.stores.postgres.garbage import GarbageStore
from app.core.stores.postgres.loads import LoadStore
from app.schemas.queries import SQL

LITE_WRITE_LOCK = "lite-write-lock"
LITE_FULL_DISK = "lite-full-disk"
LITE_BREAKS = (LITE_WRITE_LOCK, LITE_FULL_DISK)
_REPLACEMENTS = {
    # Readers take every version of a document that has chunks.
    "generation-join": {
        "current_chunks": (" AND d.generation = c.chunk_id >> 16", ""),
        "get_document_chunks": (
            " AND c.chunk_id >= d.generation * 65536\n      AND c.chunk_id < (d.generation + 1) * 65536",
            "",
        ),
    },
    # A generation's vectors are deleted once, without a second look for late writes.
    "gc-once": {"claim_garbage": ("now() >= not_before AS window_passed", "true AS window_passed")},
    # T2 goes on although another process has taken the saga meanwhile.
    "lease-check": {
        "lock_leases": (
            "SELECT generation FROM sagas\nWHERE generation = ANY ($1::bigint[]) AND lease_token = $2\n"
            "ORDER BY generation\nFOR UPDATE",
            "SELECT generation FROM unnest($1::bigint[]) AS g (generation) WHERE $2::uuid IS NOT NULL",
        ),
        "end_sagas": (
            "DELETE FROM sagas WHERE generation = ANY ($1::bigint[]) AND lease_token = $2 RETURNING generation",
            "WITH gone AS (DELETE FROM sagas WHERE generation = ANY ($1::bigint[]) AND lease_token = $2)\n"
            "SELECT unnest($1::bigint[]) AS generation",
        ),
    },
}
NAMES = (*_REPLACEMENTS, *LITE_BREAKS)


def shorten_collector_pause() -> None:
    """The collector waits 2 s or longer before it looks again, and a crash test waits for it after each kill."""
    _replace("reschedule_garbage", "* interval '1 second'", "* interval '0.05 second'")


def shorten_idle_time(seconds: float) -> None:
    """A server looks every 5 s what it can release, leaves what was used within 30 s, and waits 20 s before it does."""

    def loads(self: Stores, settings: Settings) -> Loads:
        stores = (self.index, LoadStore(self.db), GarbageStore(self.db))
        return Loads(*stores, bound=settings.max_loaded_collections, idle=seconds, interval=0.1, settle=0.3)

    replace(Stores, "loads", loads)


def break_statements(name: str) -> None:
    for statement, (old, new) in _REPLACEMENTS.get(name, {}).items():
        _replace(statement, old, new)


def replace(owner: type, name: str, new: Any) -> None:
    """Replaces a member of the class. Raises LookupError if the class has no member of this name of its own."""
    if name not in vars(owner):
        raise LookupError(f"{owner.__name__} has no {name!r} any more")
    setattr(owner, name, new)


def _replace(statement: str, old: str, new: str) -> None:
    if old not in SQL[statement]:
        raise LookupError(f"{statement} has changed: there is no {old!r} in it any more")
    SQL[statement] = SQL[statement].replace(old, new)
