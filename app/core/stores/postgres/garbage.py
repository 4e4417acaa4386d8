"""``vector_gc``: generations whose vectors are still to be removed from Milvus."""

from collections.abc import Sequence
from datetime import timedelta

from app.core.stores.postgres.database import Database
from app.schemas.queries import SQL
from app.schemas.rows import VectorGarbage

BATCH = 64


class GarbageStore:
    """All methods raise DatabaseUnavailable."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def claim(self, hold: timedelta) -> Sequence[VectorGarbage]:
        return [VectorGarbage(**row) for row in await self._db.fetch(SQL["claim_garbage"], hold, BATCH)]

    async def end(self, rows: Sequence[VectorGarbage]) -> None:
        generations, names = [row.generation for row in rows], [row.collection_name for row in rows]
        await self._db.execute(SQL["end_garbage"], generations, names, [row.not_before for row in rows])

    async def reschedule(self, rows: Sequence[VectorGarbage]) -> None:
        generations, names = [row.generation for row in rows], [row.collection_name for row in rows]
        await self._db.execute(SQL["reschedule_garbage"], generations, names)
