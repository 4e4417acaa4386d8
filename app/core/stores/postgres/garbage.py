"""GarbagePort on PostgreSQL: ``vector_gc``."""

from collections.abc import Collection, Sequence
from datetime import timedelta

from app.core.stores.postgres.database import Database
from app.schemas.operation_rows import VectorGarbage
from app.schemas.queries import SQL

BATCH = 64


class GarbageStore:
    def __init__(self, db: Database) -> None:
        self._db = db

    async def claim(self, lease: timedelta) -> Sequence[VectorGarbage]:
        return [VectorGarbage(**row) for row in await self._db.fetch(SQL["claim_garbage"], lease, BATCH)]

    async def complete(self, rows: Sequence[VectorGarbage]) -> None:
        generations, names = [row.generation for row in rows], [row.collection_name for row in rows]
        await self._db.execute(SQL["complete_garbage"], generations, names, [row.not_before for row in rows])

    async def reschedule(self, rows: Sequence[VectorGarbage]) -> None:
        generations, names = [row.generation for row in rows], [row.collection_name for row in rows]
        await self._db.execute(SQL["reschedule_garbage"], generations, names)

    async def defer(self, rows: Sequence[VectorGarbage]) -> None:
        generations, names = [row.generation for row in rows], [row.collection_name for row in rows]
        await self._db.execute(SQL["defer_garbage"], generations, names)

    async def deferred(self) -> set[str]:
        return {row["collection_name"] for row in await self._db.fetch(SQL["deferred_garbage"])}

    async def resume(self, collections: Collection[str]) -> None:
        await self._db.execute(SQL["resume_garbage"], list(collections))
