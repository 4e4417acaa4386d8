"""Calls carried out together: who waits, for whom, and what becomes of the others."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from app.core.search.coalescing import MAX_BATCH, RequestCoalescer

LANES = 2


class Work:
    """Runs that end when they are told to."""

    def __init__(self) -> None:
        self.begun: list[tuple[str, list[int]]] = []
        self.ends: list[asyncio.Future[None]] = []

    async def run(self, key: str, items: Sequence[int]) -> list[int]:
        self.begun.append((key, list(items)))
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


async def _calls(joined: RequestCoalescer[str, int, int], key: str, *items: int) -> list[asyncio.Task[int]]:
    tasks = [asyncio.create_task(joined(key, item)) for item in items]
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
def joined(work: Work) -> RequestCoalescer[str, int, int]:
    return RequestCoalescer(work.run, LANES)


async def test_a_call_alone_begins_at_once_and_leaves_nothing_behind(
    work: Work, joined: RequestCoalescer[str, int, int]
) -> None:
    for item in (1, 2):
        [task] = await _calls(joined, "a", item)
        await work.end(-1)
        assert await task == -item
    assert work.begun == [("a", [1]), ("a", [2])]


async def test_what_comes_meanwhile_is_carried_out_together(
    work: Work, joined: RequestCoalescer[str, int, int]
) -> None:
    lanes = range(LANES)
    await _calls(joined, "a", *lanes)
    tasks = await _calls(joined, "a", 10, 11, 12)
    assert work.begun == [("a", [item]) for item in lanes]
    await work.end(0)
    assert work.begun[LANES:] == [("a", [10, 11, 12])]
    await work.end(LANES)
    assert await asyncio.gather(*tasks) == [-10, -11, -12]


async def test_another_key_does_not_wait(work: Work, joined: RequestCoalescer[str, int, int]) -> None:
    await _calls(joined, "a", *range(LANES + 1))
    await _calls(joined, "b", 7)
    assert work.begun[-1] == ("b", [7])


async def test_a_run_has_no_more_than_so_many_calls(work: Work, joined: RequestCoalescer[str, int, int]) -> None:
    await _calls(joined, "a", *range(LANES))
    tasks = await _calls(joined, "a", *range(100, 100 + MAX_BATCH + 1))
    await work.end(0)
    assert [len(items) for _, items in work.begun[LANES:]] == [MAX_BATCH]
    await work.end(LANES)
    await work.end(LANES + 1)
    assert await asyncio.gather(*tasks) == [-item for item in range(100, 100 + MAX_BATCH + 1)]


async def test_an_error_reaches_every_caller_of_its_run_and_no_other(
    work: Work, joined: RequestCoalescer[str, int, int]
) -> None:
    await _calls(joined, "a", *range(LANES))
    tasks = await _calls(joined, "a", 10, 11)
    await work.end(0)
    later = await _calls(joined, "a", 12)
    await work.end(LANES, ValueError("away"))
    for task in tasks:
        with pytest.raises(ValueError, match="away"):
            await task
    await work.end(LANES + 1)
    assert await later[0] == -12


@pytest.mark.parametrize("when", ["waiting", "at work"])
async def test_who_is_cancelled_leaves_the_others_alone(
    work: Work, joined: RequestCoalescer[str, int, int], when: str
) -> None:
    await _calls(joined, "a", *range(LANES))
    tasks = await _calls(joined, "a", 10, 11)
    if when == "at work":
        await work.end(0)
    tasks[0].cancel()
    await _settled()
    if when == "waiting":
        await work.end(0)
    assert work.begun[LANES:] == [("a", [11] if when == "waiting" else [10, 11])]
    await work.end(LANES)
    assert tasks[0].cancelled()
    assert await tasks[1] == -11


async def test_the_first_cancelled_hands_its_lane_on(work: Work, joined: RequestCoalescer[str, int, int]) -> None:
    first = await _calls(joined, "a", *range(LANES))
    tasks = await _calls(joined, "a", 10)
    first[0].cancel()
    await _settled()
    assert work.begun[LANES:] == [("a", [10])]
    await work.end(LANES)
    assert await tasks[0] == -10
