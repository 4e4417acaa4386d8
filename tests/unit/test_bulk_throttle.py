"""Bulk writes rest after each other, while questions are asked and only then. On virtual time."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from app.core.write.bulk_throttle import BULK_CHUNKS, MAX_REST_SECONDS, REST_FACTOR, SEARCH_SECONDS, BulkWriteThrottle
from app.utils.stopwatch import Stopwatch
from tests.simulation.loop import VirtualLoop

WORK = 0.01


def run(scenario: Callable[[BulkWriteThrottle], Awaitable[None]]) -> float:
    """Virtual seconds that it took."""
    loop = VirtualLoop()

    async def whole() -> None:
        await scenario(BulkWriteThrottle())

    task = loop.create_task(whole())
    assert loop.run_until(task.done, 1_000)
    task.result()
    return loop.time()


async def write(throttle: BulkWriteThrottle, chunks: int = BULK_CHUNKS, seconds: float = WORK) -> None:
    async with throttle.slot(chunks, Stopwatch()):
        await asyncio.sleep(seconds)


def test_nobody_asks() -> None:
    async def scenario(throttle: BulkWriteThrottle) -> None:
        for _ in range(5):
            await write(throttle)
        await asyncio.gather(*(write(throttle) for _ in range(5)))

    assert run(scenario) == pytest.approx(6 * WORK)


def test_somebody_asks() -> None:
    async def scenario(throttle: BulkWriteThrottle) -> None:
        throttle.note_search()
        for _ in range(5):
            await write(throttle)

    assert run(scenario) == pytest.approx(5 * WORK + 4 * REST_FACTOR * WORK)


def test_several_writers_take_turns() -> None:
    async def scenario(throttle: BulkWriteThrottle) -> None:
        throttle.note_search()
        await asyncio.gather(*(write(throttle) for _ in range(5)))

    assert run(scenario) == pytest.approx(5 * WORK + 4 * REST_FACTOR * WORK)


def test_a_small_write_does_not_wait() -> None:
    async def scenario(throttle: BulkWriteThrottle) -> None:
        throttle.note_search()
        bulk = asyncio.create_task(write(throttle, seconds=1.0))
        await asyncio.sleep(0)
        for _ in range(5):
            await write(throttle, BULK_CHUNKS - 1)
        assert not bulk.done()
        bulk.cancel()

    assert run(scenario) == pytest.approx(5 * WORK)


def test_work_between_the_writes_is_rest_enough() -> None:
    async def scenario(throttle: BulkWriteThrottle) -> None:
        throttle.note_search()
        for _ in range(5):
            await write(throttle)
            await asyncio.sleep(REST_FACTOR * WORK)

    assert run(scenario) == pytest.approx(5 * WORK * (1 + REST_FACTOR))


def test_the_last_question_is_a_while_ago() -> None:
    async def scenario(throttle: BulkWriteThrottle) -> None:
        throttle.note_search()
        await asyncio.sleep(SEARCH_SECONDS + 0.1)
        for _ in range(5):
            await write(throttle)

    assert run(scenario) == pytest.approx(SEARCH_SECONDS + 0.1 + 5 * WORK)


def test_a_write_that_fails_or_hangs_does_not_stop_the_others() -> None:
    async def fail(throttle: BulkWriteThrottle) -> None:
        async with throttle.slot(BULK_CHUNKS, Stopwatch()):
            await asyncio.sleep(10)
            raise ValueError

    async def scenario(throttle: BulkWriteThrottle) -> None:
        throttle.note_search()
        failing, waiting, last = (
            asyncio.create_task(one) for one in (fail(throttle), write(throttle), write(throttle))
        )
        await asyncio.sleep(1)
        waiting.cancel()
        await last
        assert isinstance(failing.exception(), ValueError)

    assert run(scenario) == pytest.approx(10 + MAX_REST_SECONDS + WORK)
