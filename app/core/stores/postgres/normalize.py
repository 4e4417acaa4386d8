"""NormalizePort on PostgreSQL."""

from collections.abc import Callable, Sequence
from uuid import UUID

from app.core.stores.postgres.database import Database
from app.schemas.operation_rows import DocumentFields, NormalizedPage
from app.schemas.queries import SQL

FIELDS = ("title", "file_path", "file_type", "author", "tags", "metadata")


class NormalizeStore:
    def __init__(self, db: Database) -> None:
        self._db = db

    async def bots(self, bot_ids: Sequence[UUID] | None) -> Sequence[UUID]:
        return [row["bot_id"] for row in await self._db.fetch(SQL["bots_to_normalize"], bot_ids)]

    async def documents(self, bot_id: UUID) -> int:
        row = await self._db.fetchrow(SQL["bot_counts"], bot_id)
        return row["documents"] if row else 0

    async def rewrite(
        self, bot_id: UUID, after: int, limit: int, change: Callable[[int, DocumentFields], DocumentFields]
    ) -> NormalizedPage | None:
        async with self._db.transaction() as conn:
            page = await conn.fetchrow(SQL["end_of_page"], bot_id, after, limit)
            if not page or not page["documents"]:
                return None
            rewritten = 0
            for row in await conn.fetch(SQL["lock_unnormalized_documents"], bot_id, after, page["last"]):
                old = {name: row[name] for name in FIELDS}
                new = change(row["doc_id"], old)
                if new != old:
                    await conn.execute(SQL["normalize_document"], bot_id, row["doc_id"], *new.values())
                    rewritten += 1
            return NormalizedPage(page["documents"], page["last"], rewritten)

    async def finish(self, bot_id: UUID) -> None:
        await self._db.execute(SQL["mark_normalized"], bot_id)
