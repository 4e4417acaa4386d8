"""LoadPort in plain memory."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from uuid import UUID

from app.core.ports import Claim, Observed
from app.schemas.operation_rows import LoadState
from tests.doubles.memory_store.tables import LoadRow, Tables


class MemoryLoadStore:
    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    async def claim_load(self, collection: str, token: UUID, lease: timedelta) -> Claim:
        now = self._tables.now()
        row = self._tables.loads.setdefault(collection, LoadRow(False, now))
        if row.is_leased(now) and row.lease_token != token and row.action is not None:
            return row.action
        row.action, row.lease_token, row.lease_until, row.last_used_at = "load", token, now + lease, now
        return "granted"

    async def announce_releases(self, bound: int, idle: timedelta, token: UUID, lease: timedelta) -> list[str]:
        now, rows = self._tables.now(), self._tables.loads
        free = {bot.collection for bot in self._tables.bots.values() if not bot.pinned}
        loaded = [row for row in rows.values() if row.is_loaded]
        leaving = sum(row.is_leased(now) and row.action != "load" for row in loaded)
        candidates = sorted(
            (row.last_used_at, name)
            for name, row in rows.items()
            if row.is_loaded and not row.is_leased(now) and row.last_used_at < now - idle and name in free
        )
        chosen = [name for _, name in candidates[: max(0, len(loaded) - bound - leaving)]]
        for name in chosen:
            rows[name].action, rows[name].lease_token, rows[name].lease_until = None, token, now + lease
        return chosen

    async def begin_release(self, collection: str, token: UUID, lease: timedelta, idle: timedelta) -> bool:
        now, row = self._tables.now(), self._tables.loads.get(collection)
        if any(one.action == "release" and one.is_leased(now) for one in self._tables.loads.values()):
            return False
        if row is None or row.lease_token != token or row.action or not row.is_leased(now):
            return False
        if row.last_used_at >= now - idle:
            return False
        row.action, row.lease_until = "release", now + lease
        return True

    async def end(self, collection: str, token: UUID, *, loaded: bool | None) -> None:
        row = self._tables.loads.get(collection)
        if row and row.lease_token == token:
            row.is_loaded = row.is_loaded if loaded is None else loaded
            row.action = row.lease_token = row.lease_until = None

    async def observe(self, loaded: Sequence[str], uses: Mapping[str, float]) -> Observed:
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
        leaving = {name for name, row in rows.items() if row.is_leased(now) and row.action != "load"}
        return Observed(sum(row.is_loaded for row in rows.values()), frozenset(leaving))

    async def states(self, collections: Sequence[str]) -> dict[str, LoadState]:
        now, found = self._tables.now(), self._tables.loads
        return {name: _state(found[name], found[name].is_leased(now)) for name in collections if name in found}


def _state(row: LoadRow, is_leased: bool) -> LoadState:
    if row.action == "load" and is_leased and not row.is_loaded:
        return LoadState("loading", row.last_used_at)
    is_loaded = row.is_loaded and not (row.action == "release" and is_leased)
    return LoadState("loaded" if is_loaded else "released", row.last_used_at)
