"""JobPort in plain memory."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

from app.schemas.operation_rows import Job, JobEnd, JobKind, JobProgress
from app.utils.errors import BotNotFound
from tests.doubles.memory_store.tables import JobRow, Tables


class MemoryJobStore:
    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    async def start(
        self, job_id: UUID, kind: JobKind, bot_id: UUID | None, options: dict[str, Any], token: UUID, lease: timedelta
    ) -> Job | None:
        now = self._tables.now()
        if bot_id is not None and self._tables.active(bot_id) is None:
            raise BotNotFound()
        for row in self._tables.jobs.values():
            if (row.job.kind, row.job.bot_id, row.job.state) == (kind, bot_id, "running"):
                if row.lease_until >= now:
                    return None
                row.job = replace(row.job, state="interrupted", ended_at=row.lease_until)
        job = Job(job_id, kind, bot_id, options, "running", "bots", 0, None, None, None, False, now, None)
        self._tables.jobs[job_id] = JobRow(job, token, now + lease)
        return job

    async def renew(self, job_id: UUID, token: UUID, progress: JobProgress, lease: timedelta) -> bool | None:
        row = self._held(job_id, token)
        if row is None:
            return None
        row.job = replace(row.job, done=progress.done, total=progress.total, unit=progress.unit)
        row.lease_until = self._tables.now() + lease
        return row.job.cancel_requested

    async def end(self, job_id: UUID, token: UUID, end: JobEnd, progress: JobProgress) -> bool:
        row = self._held(job_id, token)
        if row is None:
            return False
        row.job = replace(
            row.job,
            state=end.state,
            result=end.result,
            error=end.error,
            done=progress.done,
            total=progress.total,
            unit=progress.unit,
            ended_at=self._tables.now(),
        )
        return True

    async def cancel(self, job_id: UUID, account: str | None) -> None:
        now = self._tables.now()
        row = self._tables.jobs.get(job_id)
        if row is None or row.job.state != "running" or not self._visible(row.job, account):
            return
        row.job = replace(row.job, cancel_requested=True)
        if row.lease_until < now:
            row.job = replace(row.job, state="cancelled", ended_at=now)

    async def list(
        self, account: str | None, bot_id: UUID | None = None, job_id: UUID | None = None, limit: int = 1
    ) -> Sequence[Job]:
        found = [
            self._as_read(row)
            for row in self._tables.jobs.values()
            if self._visible(row.job, account) and bot_id in (None, row.job.bot_id) and job_id in (None, row.job.job_id)
        ]
        return sorted(found, key=lambda job: job.created_at, reverse=True)[:limit]

    async def forget(self, older_than: timedelta) -> None:
        before = self._tables.now() - older_than
        for job_id, row in list(self._tables.jobs.items()):
            if row.job.ended_at is not None and row.job.ended_at < before:
                del self._tables.jobs[job_id]

    def _held(self, job_id: UUID, token: UUID) -> JobRow | None:
        row = self._tables.jobs.get(job_id)
        return row if row and row.token == token and row.job.state == "running" else None

    def _visible(self, job: Job, account: str | None) -> bool:
        if account is None:
            return True
        bot = self._tables.bots.get(job.bot_id) if job.bot_id else None
        return bot is not None and bot.account_name == account

    def _as_read(self, row: JobRow) -> Job:
        if row.job.state == "running" and row.lease_until < self._tables.now():
            return replace(row.job, state="interrupted", ended_at=row.lease_until)
        return row.job
