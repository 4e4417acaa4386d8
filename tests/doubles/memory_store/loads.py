"""LoadPort in plain memory."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from uuid import UUID

from app.core.ports import Claim
from app.schemas.operation_rows import LoadState
from tests.doubles.memory_store.tables import LoadRow, Tables


class MemoryLoadStore:
    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    async def claim_load(self, collection: str, token: UUID, lease: timedelta) -> Claim:
        now = self._tables.now()
        row = self._tables.loads.setdefault(collection, LoadRow(False, now))
        if row.is_leased(now) and row.lease_token != token:
            return row.action or "load"
        row.action, row.lease_token, row.lease_until, row.last_used_at = "load", token, now + lease, now
        return "granted"

    async def claim_release(self, bound: int, idle: timedelta, token: UUID, lease: timedelta) -> str | None:
        now, rows = self._tables.now(), self._tables.loads
        kept = {bot.collection for bot in self._tables.bots.values() if bot.pinned}
        known = {bot.collection for bot in self._tables.bots.values()}
        releasing = any(row.action == "release" and row.is_leased(now) for row in rows.values())
        if releasing or sum(row.is_loaded for row in rows.values()) <= bound:
            return None
        candidates = [
            (row.last_used_at, name)
            for name, row in rows.items()
            if row.is_loaded and not row.is_leased(now) and row.last_used_at < now - idle and name in known - kept
        ]
        if not candidates:
            return None
        _, name = min(candidates)
        rows[name].action, rows[name].lease_token, rows[name].lease_until = "release", token, now + lease
        return name

    async def end(self, collection: str, token: UUID, *, loaded: bool | None) -> None:
        row = self._tables.loads.get(collection)
        if row and row.lease_token == token:
            row.is_loaded = row.is_loaded if loaded is None else loaded
            row.action = row.lease_token = row.lease_until = None

    async def observe(self, loaded: Sequence[str], uses: Mapping[str, float]) -> int:
        now, rows = self._tables.now(), self._tables.loads
        known = {bot.collection for bot in self._tables.bots.values()}
        for name in rows.keys() - known:
            del rows[name]
        for name in known.intersection(loaded):
            row = rows.setdefault(name, LoadRow(True, now))
            if not row.is_loaded and not row.is_leased(now):
                row.is_loaded, row.last_used_at = True, now
        for name in rows.keys() - set(loaded):
            if not rows[name].is_leased(now):
                rows[name].is_loaded = False
        for name, ago in uses.items():
            if name in rows:
                rows[name].last_used_at = max(rows[name].last_used_at, now - timedelta(seconds=ago))
        return sum(row.is_loaded for row in rows.values())

    async def states(self, collections: Sequence[str]) -> dict[str, LoadState]:
        now, found = self._tables.now(), self._tables.loads
        return {name: _state(found[name], found[name].is_leased(now)) for name in collections if name in found}


def _state(row: LoadRow, is_leased: bool) -> LoadState:
    if row.action == "load" and is_leased and not row.is_loaded:
        return LoadState("loading", row.last_used_at)
    is_loaded = row.is_loaded and not (row.action == "release" and is_leased)
    return LoadState("loaded" if is_loaded else "released", row.last_used_at)
