"""What a process knows of the lease that it holds in a row."""

import asyncio
from datetime import timedelta

import pytest

from app.core.leases.row_lease import RowLease
from app.utils.errors import DatabaseUnavailable, LeaseLost

HOUR = timedelta(hours=1)


async def held() -> bool:
    return True


async def taken() -> bool:
    return False


async def test_counted_from_before_the_call_that_got_it() -> None:
    now = asyncio.get_running_loop().time()
    RowLease(HOUR, held, "The move", now).check()
    with pytest.raises(LeaseLost, match="The move was paused"):
        RowLease(HOUR, held, "The move", now - HOUR.total_seconds()).check()


async def test_one_that_another_process_has_is_lost_at_once() -> None:
    lease = RowLease(HOUR, taken, "The rebuild", asyncio.get_running_loop().time())
    assert not await lease.renew()
    with pytest.raises(LeaseLost, match="The rebuild"):
        lease.check()


async def test_renewed_until_another_process_has_it_also_after_an_outage() -> None:
    answers = iter([DatabaseUnavailable("away"), True, False])

    async def renew() -> bool:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    lease = RowLease(timedelta(milliseconds=3), renew, "The move", asyncio.get_running_loop().time())
    async with asyncio.timeout(10):
        await lease.renew_forever()
    assert next(answers, None) is None
