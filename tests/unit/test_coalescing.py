"""Request coalescing: which calls wait, which run together, and how errors and cancellations spread."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from app.core.search.coalescing import MAX_BATCH, RequestCoalescer

CONCURRENCY = 2


class Work:
    """Runs that a test ends one by one."""

    def __init__(self) -> None:
        self.started: list[tuple[str, list[int]]] = []
        self.ends: list[asyncio.Future[None]] = []

    async def run(self, key: str, items: Sequence[int]) -> list[int]:
        self.started.append((key, list(items)))
        self.ends.append(asyncio.get_running_loop().create_future())
        await self.ends[-1]
        return [-item for item in items]

    async def end(self, nth: int, exc: Exception | None = None) -> None:
        if exc is None:
            self.ends[nth].set_result(None)
        else:
            self.ends[nth].set_exception(exc)
        await _settled()


async def _settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def _calls(coalescer: RequestCoalescer[str, int, int], key: str, *items: int) -> list[asyncio.Task[int]]:
    tasks = [asyncio.create_task(coalescer(key, item)) for item in items]
    await _settled()
    return tasks


@pytest.fixture
async def work() -> AsyncIterator[Work]:
    work = Work()
    yield work
    while any(not end.done() for end in work.ends):
        for end in work.ends:
            if not end.done():
                end.set_result(None)
        await _settled()


@pytest.fixture
def coalescer(work: Work) -> RequestCoalescer[str, int, int]:
    return RequestCoalescer(work.run, CONCURRENCY)


async def test_a_single_call_starts_at_once(work: Work, coalescer: RequestCoalescer[str, int, int]) -> None:
    for item in (1, 2):
        [task] = await _calls(coalescer, "a", item)
        await work.end(-1)
        assert await task == -item
    assert work.started == [("a", [1]), ("a", [2])]


async def test_calls_that_arrive_meanwhile_run_together(work: Work, coalescer: RequestCoalescer[str, int, int]) -> None:
    items = range(CONCURRENCY)
    await _calls(coalescer, "a", *items)
    tasks = await _calls(coalescer, "a", 10, 11, 12)
    assert work.started == [("a", [item]) for item in items]
    await work.end(0)
    assert work.started[CONCURRENCY:] == [("a", [10, 11, 12])]
    await work.end(CONCURRENCY)
    assert await asyncio.gather(*tasks) == [-10, -11, -12]


async def test_another_key_does_not_wait(work: Work, coalescer: RequestCoalescer[str, int, int]) -> None:
    await _calls(coalescer, "a", *range(CONCURRENCY + 1))
    await _calls(coalescer, "b", 7)
    assert work.started[-1] == ("b", [7])


async def test_a_run_has_at_most_max_batch_calls(work: Work, coalescer: RequestCoalescer[str, int, int]) -> None:
    await _calls(coalescer, "a", *range(CONCURRENCY))
    tasks = await _calls(coalescer, "a", *range(100, 100 + MAX_BATCH + 1))
    await work.end(0)
    assert [len(items) for _, items in work.started[CONCURRENCY:]] == [MAX_BATCH]
    await work.end(CONCURRENCY)
    await work.end(CONCURRENCY + 1)
    assert await asyncio.gather(*tasks) == [-item for item in range(100, 100 + MAX_BATCH + 1)]


async def test_an_error_reaches_every_caller_of_its_run_and_no_other(
    work: Work, coalescer: RequestCoalescer[str, int, int]
) -> None:
    await _calls(coalescer, "a", *range(CONCURRENCY))
    tasks = await _calls(coalescer, "a", 10, 11)
    await work.end(0)
    later = await _calls(coalescer, "a", 12)
    await work.end(CONCURRENCY, ValueError("away"))
    for task in tasks:
        with pytest.raises(ValueError, match="away"):
            await task
    await work.end(CONCURRENCY + 1)
    assert await later[0] == -12


@pytest.mark.parametrize("when", ["waiting", "running"])
async def test_a_cancelled_call_does_not_disturb_the_others(
    work: Work, coalescer: RequestCoalescer[str, int, int], when: str
) -> None:
    await _calls(coalescer, "a", *range(CONCURRENCY))
    tasks = await _calls(coalescer, "a", 10, 11)
    if when == "running":
        await work.end(0)
    tasks[0].cancel()
    await _settled()
    if when == "waiting":
        await work.end(0)
    assert work.started[CONCURRENCY:] == [("a", [11] if when == "waiting" else [10, 11])]
    await work.end(CONCURRENCY)
    assert tasks[0].cancelled()
    assert await tasks[1] == -11


async def test_a_cancelled_first_call_starts_the_queued_ones(
    work: Work, coalescer: RequestCoalescer[str, int, int]
) -> None:
    first = await _calls(coalescer, "a", *range(CONCURRENCY))
    tasks = await _calls(coalescer, "a", 10)
    first[0].cancel()
    await _settled()
    assert work.started[CONCURRENCY:] == [("a", [10])]
    await work.end(CONCURRENCY)
    assert await tasks[0] == -10
