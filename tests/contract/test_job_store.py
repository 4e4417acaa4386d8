"""What JobPort promises, held against plain memory and PostgreSQL alike."""

from datetime import timedelta
from uuid import UUID, uuid4

import pytest

from app.schemas.operation_rows import Job, JobEnd, JobProgress
from app.utils.errors import BotNotFound
from tests.contract.records import HOUR, PAST, Record

ONE, TWO = uuid4(), uuid4()
HALF = JobProgress(1, 2, "chunks")


async def started(record: Record, bot_id: UUID | None, token: UUID = ONE, lease: timedelta = HOUR) -> Job:
    job = await record.jobs.start(uuid4(), "verify", bot_id, {"vectors": True}, token, lease)
    assert job is not None
    return job


async def read(record: Record, job: Job) -> Job:
    (found,) = await record.jobs.list(None, job_id=job.job_id)
    return found


async def test_a_job_from_start_to_end(record: Record) -> None:
    bot = await record.bot()
    job = await started(record, bot.bot_id)
    assert (job.state, job.options, job.done, job.total, job.ended_at) == ("running", {"vectors": True}, 0, None, None)
    assert await record.jobs.renew(job.job_id, ONE, HALF, HOUR) is False
    assert await record.jobs.renew(job.job_id, TWO, HALF, HOUR) is None
    now = await read(record, job)
    assert (now.state, now.done, now.total, now.unit) == ("running", 1, 2, "chunks")
    assert not await record.jobs.end(job.job_id, TWO, JobEnd("succeeded"), HALF)
    assert await record.jobs.end(job.job_id, ONE, JobEnd("succeeded", result={"n": [1]}), JobProgress(2, 2))
    assert not await record.jobs.end(job.job_id, ONE, JobEnd("failed", error={"code": "c"}), HALF)
    assert await record.jobs.renew(job.job_id, ONE, HALF, HOUR) is None
    now = await read(record, job)
    assert (now.state, now.result, now.error, now.done) == ("succeeded", {"n": [1]}, None, 2)
    assert now.ended_at is not None


async def test_one_of_a_kind_for_each_bot(record: Record) -> None:
    bot, other = await record.bot(), await record.bot()
    job = await started(record, bot.bot_id)
    assert await record.jobs.start(uuid4(), "verify", bot.bot_id, {}, TWO, HOUR) is None
    assert await record.jobs.start(uuid4(), "repair", bot.bot_id, {}, TWO, HOUR)
    await started(record, other.bot_id)
    await started(record, None)
    assert await record.jobs.start(uuid4(), "verify", None, {}, TWO, HOUR) is None
    assert await record.jobs.end(job.job_id, ONE, JobEnd("cancelled"), HALF)
    await started(record, bot.bot_id)
    with pytest.raises(BotNotFound):
        await record.jobs.start(uuid4(), "verify", uuid4(), {}, ONE, HOUR)


async def test_a_job_whose_lease_is_over_is_interrupted(record: Record) -> None:
    bot = await record.bot()
    lost = await started(record, bot.bot_id, lease=PAST)
    now = await read(record, lost)
    assert now.state == "interrupted"
    assert now.ended_at is not None
    # While nobody has taken its place, its process goes on.
    assert await record.jobs.renew(lost.job_id, ONE, HALF, PAST) is False
    await started(record, bot.bot_id, TWO)
    assert await record.jobs.renew(lost.job_id, ONE, HALF, HOUR) is None
    assert (await read(record, lost)).state == "interrupted"


async def test_cancelling(record: Record) -> None:
    bot = await record.bot("mine")
    job = await started(record, bot.bot_id)
    await record.jobs.cancel(job.job_id, "theirs")
    assert await record.jobs.renew(job.job_id, ONE, HALF, HOUR) is False
    await record.jobs.cancel(job.job_id, "mine")
    assert await record.jobs.renew(job.job_id, ONE, HALF, HOUR) is True
    assert (await read(record, job)).state == "running"
    assert await record.jobs.end(job.job_id, ONE, JobEnd("cancelled"), HALF)
    lost = await started(record, bot.bot_id, lease=PAST)
    await record.jobs.cancel(lost.job_id, None)
    assert (await read(record, lost)).state == "cancelled"
    assert await record.jobs.renew(lost.job_id, ONE, HALF, HOUR) is None


async def test_an_account_sees_jobs_of_its_bots(record: Record) -> None:
    mine, theirs = await record.bot("mine"), await record.bot("theirs")
    jobs = [await started(record, bot_id) for bot_id in (mine.bot_id, theirs.bot_id, None)]
    ids = [job.job_id for job in jobs]
    assert [job.job_id for job in await record.jobs.list("mine", limit=9)] == ids[:1]
    assert await record.jobs.list("mine", job_id=ids[1]) == []
    assert await record.jobs.list("mine", job_id=ids[2]) == []
    assert await record.jobs.list("mine", theirs.bot_id, limit=9) == []
    assert {job.job_id for job in await record.jobs.list(None, limit=9)} == set(ids)
    assert len(await record.jobs.list(None, limit=2)) == 2


async def test_old_jobs_are_forgotten_and_those_of_a_bot_go_with_it(record: Record) -> None:
    bot = await record.bot()
    running, ended = await started(record, None), await started(record, bot.bot_id)
    await record.jobs.end(ended.job_id, ONE, JobEnd("succeeded"), HALF)
    await record.jobs.forget(HOUR)
    assert len(await record.jobs.list(None, limit=9)) == 2
    await record.jobs.forget(PAST)
    assert [job.job_id for job in await record.jobs.list(None, limit=9)] == [running.job_id]
