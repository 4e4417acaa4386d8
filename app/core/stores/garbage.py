"""``vector_gc``: generations whose vectors are still to be removed from Milvus."""

from collections.abc import Sequence
from datetime import timedelta

from app.core.stores.postgres import Database
from app.schemas.queries import SQL
from app.schemas.rows import Garbage

BATCH = 64


class GarbageStore:
    """All methods raise DatabaseUnavailable."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def claim(self, hold: timedelta) -> Sequence[Garbage]:
        """At most BATCH rows that are due, for this process alone during ``hold``."""
        return [Garbage(**row) for row in await self._db.fetch(SQL["claim_garbage"], hold, BATCH)]

    async def end(self, generations: Sequence[int]) -> None:
        """Milvus was seen without them, after the last moment a write could land."""
        await self._db.execute(SQL["end_garbage"], generations)

    async def put_off(self, generations: Sequence[int]) -> None:
        """To be tried again: once settled, or after a pause that grows with the attempts."""
        await self._db.execute(SQL["put_off_garbage"], generations)
