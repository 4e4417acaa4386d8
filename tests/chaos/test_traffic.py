"""The traffic of the crash test stops waiting at its event, not at the end of its clients."""

import asyncio
from random import Random

import httpx

from tests.chaos.calls import World
from tests.chaos.traffic import Traffic


async def test_waiting_ends_with_the_event_while_calls_are_not_answered() -> None:
    stopped, lost = asyncio.Event(), asyncio.Event()

    async def lose(request: httpx.Request) -> httpx.Response:
        await lost.wait()
        raise httpx.ReadTimeout("no answer", request=request)

    async with httpx.AsyncClient(transport=httpx.MockTransport(lose), base_url="http://server") as http:
        traffic = Traffic(World(Random(1)), http, "1")
        asyncio.get_running_loop().call_later(0.05, stopped.set)
        async with asyncio.timeout(10):
            await traffic.until(stopped, 60)
            lost.set()
            await traffic.stop()
