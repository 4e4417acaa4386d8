"""LoadPort on PostgreSQL: ``collection_loads``."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from uuid import UUID

from app.core.ports import Claim, Observed
from app.core.stores.postgres.database import Database
from app.schemas.operation_rows import LoadState
from app.schemas.queries import SQL


class LoadStore:
    def __init__(self, db: Database) -> None:
        self._db = db

    async def claim_load(self, collection: str, token: UUID, lease: timedelta) -> Claim:
        async with self._db.transaction() as conn:
            if await conn.fetchval(SQL["claim_load"], collection, token, lease) is not None:
                return "granted"
            action: Claim | None = await conn.fetchval(SQL["load_action"], collection)
        return action or "load"  # It has ended meanwhile.

    async def announce_releases(self, bound: int, idle: timedelta, token: UUID, lease: timedelta) -> list[str]:
        async with self._db.transaction() as conn:
            await conn.execute(SQL["lock_collection_loads"])
            rows = await conn.fetch(SQL["announce_releases"], bound, idle, token, lease)
        return [row["collection_name"] for row in rows]

    async def begin_release(self, collection: str, token: UUID, lease: timedelta, idle: timedelta) -> bool:
        async with self._db.transaction() as conn:
            await conn.execute(SQL["lock_collection_loads"])
            return await conn.fetchval(SQL["begin_release"], collection, token, lease, idle) is not None

    async def end(self, collection: str, token: UUID, *, loaded: bool | None) -> None:
        await self._db.execute(SQL["end_load"], collection, token, loaded)

    async def observe(self, loaded: Sequence[str], uses: Mapping[str, float]) -> Observed:
        async with self._db.transaction() as conn:
            await conn.execute(SQL["lock_collection_loads"])
            await conn.execute(SQL["forget_loads"])
            await conn.execute(SQL["observe_loaded"], loaded)
            await conn.execute(SQL["observe_released"], loaded)
            if uses:
                await conn.execute(SQL["note_uses"], list(uses), list(uses.values()))
            count: int = await conn.fetchval(SQL["count_loaded"])
            leaving = await conn.fetch(SQL["leaving_collections"])
        return Observed(count, frozenset(row["collection_name"] for row in leaving))

    async def states(self, collections: Sequence[str]) -> dict[str, LoadState]:
        rows = await self._db.fetch(SQL["load_states"], collections)
        return {row["collection_name"]: LoadState(row["state"], row["last_used_at"]) for row in rows}
