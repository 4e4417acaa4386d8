"""What core expects of the record about jobs: work that goes on after the answer to the request that started it."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Protocol
from uuid import UUID

from app.schemas.operation_rows import Job, JobEnd, JobKind, JobProgress


class JobPort(Protocol):
    """``account``: only jobs of this account's bots; None: all jobs, also those over all bots."""

    async def start(
        self, job_id: UUID, kind: JobKind, bot_id: UUID | None, options: dict[str, Any], token: UUID, lease: timedelta
    ) -> Job | None:
        """Stores a job under a lease; None while another one of this kind is running for the bot.

        One whose lease is over is ended as interrupted first. Raises BotNotFound when there is no such bot.
        """

    async def renew(self, job_id: UUID, token: UUID, progress: JobProgress, lease: timedelta) -> bool | None:
        """Stores the progress and extends the lease. Whether the job should be cancelled; None when it is not
        ``token``'s any more."""

    async def end(self, job_id: UUID, token: UUID, end: JobEnd, progress: JobProgress) -> bool:
        """Ends the job. False, with nothing done, when it is not ``token``'s any more."""

    async def cancel(self, job_id: UUID, account: str | None) -> None:
        """Asks the process that works on the job to end it; ends a job that has lost its process."""

    async def list(
        self, account: str | None, bot_id: UUID | None = None, job_id: UUID | None = None, limit: int = 1
    ) -> Sequence[Job]:
        """At most ``limit`` jobs, newest first: of this bot, or this one, if given."""

    async def forget(self, older_than: timedelta) -> None:
        """Deletes jobs that ended longer ago than that."""
