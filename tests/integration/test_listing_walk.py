"""A walk over a bot's documents, page by page, beside writers."""

import asyncio
from collections.abc import Callable

import pytest

from tests.api.test_listing import pages
from tests.conftest import BotClient


@pytest.mark.parametrize("sort", ["doc_id", "created_at"])
async def test_a_walk_beside_writers(bot: BotClient, sort: str, at: Callable[..., asyncio.Event]) -> None:
    """What was stored before the walk is in it once. One document is slow: it has a low doc_id and is visible late."""
    first = await bot.insert("first")
    go_on = asyncio.Event()
    reached = at("write.before_t2", go_on.wait)
    slow = asyncio.create_task(bot.insert("slow"))
    await reached.wait()
    before = {first, *[await bot.insert("before") for _ in range(12)]}
    stop = asyncio.Event()

    async def write() -> None:
        while not stop.is_set():
            made = await bot.insert("during")
            await bot.http.put(f"/data/document/{first}", json=bot.body("replaced", "again"))
            await bot.http.delete(f"/data/document/{made}", params={"chat_bot_id": str(bot.bot_id)})

    async with asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(write())
        seen: list[int] = []
        async for page in pages(bot, sort=sort, limit=3):
            seen += [one["doc_id"] for one in page]
            if len(seen) == 6:
                go_on.set()
                late = await slow
        stop.set()
    assert len(set(seen)) == len(seen)
    assert before <= set(seen)
    assert (late in seen) == (sort == "created_at"), "it is created when it becomes visible, and has an older doc_id"
