"""The clients of the crash test: how their traffic ends, and what they make of an answer."""

import asyncio
from random import Random

import httpx

from tests.chaos.calls import World
from tests.chaos.client import Client
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


async def test_a_patch_by_filter_of_fewer_documents_than_it_names_is_in_doubt() -> None:
    world = World(Random(1))
    bot = world.new_bot()
    documents = [bot.new_document() for _ in range(2)]
    answer = httpx.Response(200, json={"changed_documents": 1})
    async with httpx.AsyncClient(transport=httpx.MockTransport(lambda _: answer), base_url="http://server") as http:
        await Client(world, http, Random(1)).patch_by_filter(documents)
    assert (world.acknowledged, world.doubts) == (0, 1)
    assert all(len(document.patch.current()) == 2 for document in documents)
