"""The deadline around pymilvus's calls."""

import asyncio

import pytest
from pymilvus import MilvusException

from app.core.stores.milvus.driver import with_deadline
from app.utils.errors import CollectionReleased, VectorIndexUnavailable


async def test_a_cancellation_together_with_the_answer_is_not_lost() -> None:
    answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(with_deadline(5, lambda: asyncio.wait_for(answer, 5)))
    await asyncio.sleep(0)
    answer.set_result(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_task_that_was_cancelled_before_may_still_call() -> None:
    """As in a clean-up that runs because of a cancellation."""

    async def work() -> int:
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            return await with_deadline(5, lambda: asyncio.sleep(0, 7))
        return 0

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    assert await task == 7


async def test_a_call_past_its_deadline() -> None:
    with pytest.raises(VectorIndexUnavailable):
        await with_deadline(0.01, asyncio.Event().wait)


@pytest.mark.parametrize("error", [MilvusException(code=100, message="collection not found"), CollectionReleased()])
async def test_a_cancellation_that_comes_with_an_error_is_not_lost(error: Exception) -> None:
    """What runs for ever, and goes on after this error, would never end."""
    answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(with_deadline(5, lambda: asyncio.wait_for(answer, 5)))
    await asyncio.sleep(0)
    answer.set_exception(error)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
