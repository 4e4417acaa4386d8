"""How much is in flight and left over, over all bots and server processes."""

from dataclasses import dataclass

from app.core.stores.postgres.database import Database
from app.schemas.queries import SQL


@dataclass(frozen=True, slots=True)
class Backlog:
    """Rows, and for how many seconds the oldest row of vector_gc has been due."""

    sagas: int
    expired_sagas: int
    vector_gc: int
    overdue_seconds: float


class BacklogStore:
    def __init__(self, db: Database) -> None:
        self._db = db

    async def backlog(self) -> Backlog:
        """Raises DatabaseUnavailable."""
        row = await self._db.fetchrow(SQL["backlog"])
        assert row is not None
        return Backlog(**row)
