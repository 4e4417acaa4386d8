"""BacklogPort on PostgreSQL."""

from app.core.stores.postgres.database import Database
from app.schemas.operation_rows import Backlog
from app.schemas.queries import SQL


class BacklogStore:
    def __init__(self, db: Database) -> None:
        self._db = db

    async def backlog(self) -> Backlog:
        row = await self._db.fetchrow(SQL["backlog"])
        assert row is not None
        return Backlog(**row)
