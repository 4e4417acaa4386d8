"""JobPort on PostgreSQL: ``jobs``."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from app.core.stores.postgres.database import Database
from app.schemas.operation_rows import Job, JobEnd, JobKind, JobProgress
from app.schemas.queries import SQL
from app.utils.errors import BotNotFound


class JobStore:
    def __init__(self, db: Database) -> None:
        self._db = db

    async def start(
        self, job_id: UUID, kind: JobKind, bot_id: UUID | None, options: dict[str, Any], token: UUID, lease: timedelta
    ) -> Job | None:
        async with self._db.transaction() as conn:
            if bot_id is not None and not await conn.fetch(SQL["lock_bot_for_use"], [bot_id]):
                raise BotNotFound()
            await conn.execute(SQL["end_interrupted_jobs"], kind, bot_id)
            rows = await conn.fetch(SQL["start_job"], job_id, kind, bot_id, options, JobProgress().unit, token, lease)
        return Job(**rows[0]) if rows else None

    async def renew(self, job_id: UUID, token: UUID, progress: JobProgress, lease: timedelta) -> bool | None:
        values = (progress.done, progress.total, progress.unit, lease)
        row = await self._db.fetchrow(SQL["renew_job"], job_id, token, *values)
        return bool(row["cancel_requested"]) if row else None

    async def end(self, job_id: UUID, token: UUID, end: JobEnd, progress: JobProgress) -> bool:
        values = (end.state, end.result, end.error, progress.done, progress.total, progress.unit)
        return await self._db.fetchrow(SQL["end_job"], job_id, token, *values) is not None

    async def cancel(self, job_id: UUID, account: str | None) -> None:
        await self._db.execute(SQL["cancel_job"], job_id, account)

    async def list(
        self, account: str | None, bot_id: UUID | None = None, job_id: UUID | None = None, limit: int = 1
    ) -> Sequence[Job]:
        return [Job(**row) for row in await self._db.fetch(SQL["list_jobs"], account, job_id, bot_id, limit)]

    async def forget(self, older_than: timedelta) -> None:
        await self._db.execute(SQL["forget_old_jobs"], older_than)
