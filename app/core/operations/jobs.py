"""Jobs: work that goes on after the answer to the request that started it.

The row of a job has its progress, its end and a lease, which the process that works on it renews. If that process dies,
the lease ends, and the job counts as interrupted: the same job, started again, goes on where its kind of work can. The
lease is for people and for ``start``. What protects the data are the leases of the works themselves.
"""

import asyncio
import logging
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final
from uuid import UUID, uuid4

from app.core.bots.bots import Bots
from app.core.operations.job_work import JobWork
from app.core.ports import JobPort
from app.schemas.operation_rows import Job, JobEnd, JobKind, JobProgress
from app.utils.deadline import without_deadline
from app.utils.errors import AppError, DatabaseUnavailable, JobNotFound, JobRunning, TooManyJobs

log = logging.getLogger(__name__)

KEPT: Final = timedelta(days=7)
"""How long a job can be read after its end."""
MAX_RUNNING: Final = 4
"""Running jobs of one account in one process."""
BEAT_SECONDS: Final = 0.5
"""Pause between two looks whether the job was cancelled, and between two writes of its progress."""


@dataclass(slots=True)
class _Running:
    job_id: UUID
    token: UUID
    account: str | None
    progress: JobProgress


class Jobs:
    """``lease``: how long after the death of its process a job counts as running."""

    def __init__(self, bots: Bots, store: JobPort, work: JobWork, lease: timedelta) -> None:
        self._bots = bots
        self._store = store
        self._work = work
        self._lease = lease
        self._running: dict[asyncio.Task[None], _Running] = {}

    async def start(self, kind: JobKind, bot_id: UUID | None, account: str | None, options: dict[str, Any]) -> Job:
        """Starts a job of a bot, or of all bots, in this process.

        Raises BotNotFound, TooManyJobs, and JobRunning while one of this kind is running for the bot.
        """
        if sum(one.account == account for one in self._running.values()) >= MAX_RUNNING:
            raise TooManyJobs(f"{MAX_RUNNING} jobs of this account are running in this server.", retry_after=5)
        if bot_id is not None:
            await self._bots.get(bot_id, account)
        await self._store.forget(KEPT)
        running = _Running(uuid4(), uuid4(), account, JobProgress())
        job = await self._store.start(running.job_id, kind, bot_id, options, running.token, self._lease)
        if job is None:
            subject = "all bots" if bot_id is None else "this bot"
            raise JobRunning(f"A job of the kind {kind} is running for {subject}: wait for it, or cancel it.")
        task = asyncio.create_task(self._run(running, job), context=without_deadline())
        self._running[task] = running
        task.add_done_callback(lambda _: self._running.pop(task, None))
        return job

    async def list(self, bot_id: UUID | None, account: str | None, limit: int) -> Sequence[Job]:
        """Jobs of the account's bots, newest first; of all bots with an ``account`` of None. Raises BotNotFound."""
        if bot_id is not None:
            await self._bots.get(bot_id, account)
        return await self._store.list(account, bot_id, limit=limit)

    async def get(self, job_id: UUID, account: str | None) -> Job:
        """Raises JobNotFound, also for a job of another account."""
        found = await self._store.list(account, job_id=job_id)
        if not found:
            raise JobNotFound("There is no job with this job_id, or it ended long ago.")
        return found[0]

    async def cancel(self, job_id: UUID, account: str | None) -> Job:
        """Asks the job to end; one that has ended stays as it is. Raises JobNotFound."""
        await self._store.cancel(job_id, account)
        return await self.get(job_id, account)

    async def close(self) -> None:
        """Interrupts the jobs of this process."""
        tasks = list(self._running)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, running: _Running, job: Job) -> None:
        def report(progress: JobProgress) -> None:
            running.progress = progress

        work = asyncio.create_task(_outcome(self._work.of(job.kind)(job.bot_id, job.options, report), job))
        try:
            end = await self._watch(running, work)
        except asyncio.CancelledError:
            await _stopped(work)
            with suppress(AppError):
                await self._store.end(running.job_id, running.token, JobEnd("interrupted"), running.progress)
            raise
        if end is not None:
            await self._end(running, end)

    async def _watch(self, running: _Running, work: "asyncio.Task[JobEnd]") -> JobEnd | None:
        """Waits for the work; None when another process has ended the job."""
        while not (await asyncio.wait({work}, timeout=BEAT_SECONDS))[0]:
            try:
                cancel = await self._store.renew(running.job_id, running.token, running.progress, self._lease)
            except DatabaseUnavailable:
                continue  # The work itself decides what this means for it.
            if cancel is None or cancel:
                await _stopped(work)
                return JobEnd("cancelled") if cancel else None
        return work.result()

    async def _end(self, running: _Running, end: JobEnd) -> None:
        deadline = asyncio.get_running_loop().time() + self._lease.total_seconds()
        while asyncio.get_running_loop().time() < deadline:
            try:
                await self._store.end(running.job_id, running.token, end, running.progress)
                return
            except DatabaseUnavailable:
                await asyncio.sleep(BEAT_SECONDS)
        log.warning("the end of job %s could not be stored", running.job_id)


async def _outcome(work: Awaitable[dict[str, Any]], job: Job) -> JobEnd:
    try:
        return JobEnd("succeeded", result=await work)
    except AppError as exc:
        return JobEnd("failed", error=_error(exc.code, exc.detail))
    except Exception:
        log.exception("job %s (%s) failed", job.job_id, job.kind)
        detail = "The job failed because of an error in the server. The server's log has it, under the id of the job."
        return JobEnd("failed", error=_error(AppError.code, detail))


def _error(code: str, detail: str) -> dict[str, Any]:
    return {"code": code, "detail": detail}


async def _stopped(work: "asyncio.Task[JobEnd]") -> None:
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)
