"""Servers that load and release bots, without other faults: no client gets an error, and nothing is left."""

import asyncio
from random import Random

import pytest

from tests.simulation.faults import Faults
from tests.simulation.invariants import check_history
from tests.simulation.run import LONG, finish
from tests.simulation.workload import EVERYTHING, Clients
from tests.simulation.world import World, internal_errors

BOTS, CLIENTS, SEARCHES = 3, 4, 25


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("seed", range(4))
def test_every_search_is_answered_although_others_release(seed: int, processes: int) -> None:
    """Three bots of which one may be loaded, and another program that releases collections."""
    random = Random(f"loads {seed} {processes}")
    world = World(seed, Faults.none(), processes=processes, bound=1)
    clients = Clients(world, bots=BOTS, keys=True)
    asked = 0

    async def use() -> None:
        nonlocal asked
        for _ in range(SEARCHES):
            await asyncio.sleep(random.expovariate(2.0))
            bot = random.randrange(BOTS)
            what = random.random()
            if what < 0.2:
                await clients.insert(bot, 2)
            elif what < 0.3 and (known := clients.doc_ids(bot)):
                await clients.delete(bot, known[:1])
            elif what < 0.4:
                await clients.warm(bot)
            else:
                asked += 1
                await clients.search(bot, EVERYTHING, None)

    async def interfere() -> None:
        for _ in range(40):
            await asyncio.sleep(random.expovariate(3.0))
            world.release(random.randrange(BOTS))

    try:
        with internal_errors() as errors:
            for bot in range(BOTS):
                world.client(clients.create(bot))
            world.run_clients(LONG)
            for _ in range(CLIENTS):
                world.client(use())
            world.client(interfere())
            world.run_clients(LONG)
            assert len(world.history.searches) == asked
            world.loop.run_until(lambda: len(world.milvus.loaded) <= 1, world.loop.time() + LONG)
            assert len(world.milvus.loaded) <= 1
            check_history(world.history)
            finish(world, clients)
    finally:
        world.close()
    assert not errors
