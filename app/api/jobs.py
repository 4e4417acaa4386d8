"""Routes of /jobs: work that goes on after the answer."""

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Path, Query, Request

from app.api.auth import AccountDep, caller_of
from app.api.deps import READ, WRITE, AccountQuery, ServicesDep
from app.api.errors import BODY_ERRORS, COMMON_ERRORS, error_responses
from app.models.collection import EXAMPLE_BOT
from app.models.jobs import JobAnswer, JobInfo, JobList, StartJob
from app.schemas.operation_rows import Job

router = APIRouter(prefix="/jobs", tags=["jobs"])

JobPath = Annotated[
    UUID,
    Path(
        alias="job_id",
        description="From the response to the start of the job.",
        examples=["3c9d2b1a-5e4f-4a6b-8c7d-0e1f2a3b4c5d"],
    ),
]
OfBot = Annotated[UUID | None, Query(alias="chat_bot_id", description="Only jobs of this bot.", examples=[EXAMPLE_BOT])]


@router.post(
    "",
    dependencies=[WRITE],
    status_code=202,
    responses=error_responses(404, 409, *BODY_ERRORS),
    operation_id="start_job",
)
async def start(request: Request, body: StartJob, services: ServicesDep, account: AccountDep) -> JobAnswer:
    """Starts verify, repair, rebuild, reembed, reindex or tune and answers at once. A bot has one of a kind at a time.

    Without chat_bot_id the job is about all bots. That needs a key with the scope operator. reembed moves bots to the
    server's own model.
    """
    if body.chat_bot_id is None:
        (await caller_of(request)).require_scope("operator")
    owner = account.resolve(body.account_name)
    return JobAnswer.model_validate(
        _fields(await services.jobs.start(body.kind, body.chat_bot_id, owner, body.options))
    )


@router.get("", dependencies=[READ], responses=error_responses(404, *COMMON_ERRORS), operation_id="list_jobs")
async def list_jobs(
    services: ServicesDep,
    account: AccountQuery,
    bot_id: OfBot = None,
    limit: Annotated[int, Query(ge=1, le=1_000, description="Maximum number of jobs.")] = 100,
) -> JobList:
    """The jobs of the account's bots, newest first. A job can be read for 7 days after its end.

    A key with the scope operator sees the jobs of all accounts, and those about all bots.
    """
    found = await services.jobs.list(bot_id, account, limit)
    return JobList(jobs=[JobInfo.model_validate(_fields(job)) for job in found])


@router.get("/{job_id}", dependencies=[READ], responses=error_responses(404, *COMMON_ERRORS), operation_id="get_job")
async def get(job_id: JobPath, services: ServicesDep, account: AccountQuery) -> JobAnswer:
    """Progress and result of a job."""
    return JobAnswer.model_validate(_fields(await services.jobs.get(job_id, account)))


@router.delete(
    "/{job_id}", dependencies=[WRITE], responses=error_responses(404, *COMMON_ERRORS), operation_id="cancel_job"
)
async def cancel(job_id: JobPath, services: ServicesDep, account: AccountQuery) -> JobAnswer:
    """Asks a running job to end, which takes about a second. What it has done stays, and so does one that has ended."""
    return JobAnswer.model_validate(_fields(await services.jobs.cancel(job_id, account)))


def _fields(job: Job) -> dict[str, Any]:
    return {
        "job_id": job.job_id,
        "kind": job.kind,
        "chat_bot_id": job.bot_id,
        "state": job.state,
        "done": job.done,
        "total": job.total,
        "unit": job.unit,
        "cancel_requested": job.cancel_requested,
        "created_at": job.created_at,
        "ended_at": job.ended_at,
        "result": job.result,
        "error": job.error,
    }
