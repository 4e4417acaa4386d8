"""Creations of one bot's collection that overlap: a slow one may not bring a lost collection back as an empty one."""

import asyncio

import pytest

from tests.simulation.faults import Faults
from tests.simulation.invariants import check_history
from tests.simulation.run import LONG, finish
from tests.simulation.workload import EVERYTHING, Clients
from tests.simulation.world import World, internal_errors

SLOW = 5.0
"""Seconds until the call that creates the collection reaches Milvus: less than the lease is renewed for."""


class SlowCreation:
    """A bot whose first creation is on its way to Milvus, in the first process. The last one answers all requests."""

    def __init__(self, processes: int) -> None:
        self.world = World(0, Faults.none(), processes=processes, loses=True)
        self.clients = Clients(self.world, bots=1, keys=False)
        index = self.world.processes[0].bots._index
        create, self.sent_at = index.create, 0.0

        async def slow(collection: str, dimension: int) -> None:
            index.create = create  # type: ignore[method-assign]
            self.sent_at = self.world.loop.time()
            await asyncio.sleep(SLOW)
            await create(collection, dimension)

        index.create = slow  # type: ignore[method-assign]
        self.world.live = lambda: self.world.processes[0]  # type: ignore[method-assign]
        self.world.client(self.clients.create(0))
        self.world.loop.run_until(lambda: self.sent_at > 0, LONG)
        self.world.live = lambda: self.world.processes[-1]  # type: ignore[method-assign]

    def insert(self) -> None:
        inserting = self.world.client(self.clients.insert(0, 2))
        self.world.loop.run_until(inserting.done, LONG)
        assert self.clients.doc_ids(0)

    def search_until(self, end: float) -> None:
        while self.world.loop.time() < end:
            searching = self.world.client(self.clients.search(0, EVERYTHING, None))
            self.world.loop.run_until(searching.done, end + LONG)
            self.world.loop.run_until(lambda: False, self.world.loop.time() + 0.05)
        check_history(self.world.history)


@pytest.mark.parametrize("processes", [1, 2])
def test_loss_during_a_slow_creation_hides_no_document(processes: int) -> None:
    with internal_errors() as errors:
        slow = SlowCreation(processes)
        try:
            slow.insert()
            # No search in between: it would notice the loss.
            slow.world.loop.run_until(lambda: False, slow.sent_at + SLOW - 0.01)
            slow.world.lose("one", 0)
            slow.world.loop.run_until(lambda: False, slow.sent_at + SLOW + 0.05)
            slow.search_until(slow.sent_at + SLOW + 3)
            slow.world.run_clients(LONG)
            finish(slow.world, slow.clients)
        finally:
            slow.world.close()
    assert not errors


def test_first_use_waits_for_a_creation_in_its_process() -> None:
    """And needs no second collection."""
    slow = SlowCreation(1)
    try:
        slow.insert()
        assert slow.world.loop.time() > slow.sent_at + SLOW
        (row,) = slow.world.tables.bots.values()
        assert row.collection == row.collection_name
    finally:
        slow.world.close()


def test_first_use_does_not_wait_for_a_slow_creation_in_another_process() -> None:
    """It creates a collection of its own. The slow one drops its collection."""
    slow = SlowCreation(2)
    try:
        slow.insert()
        assert slow.world.loop.time() < slow.sent_at + SLOW
        slow.world.run_clients(LONG)
        (row,) = slow.world.tables.bots.values()
        assert row.collection != row.collection_name
        slow.world.rest()
        assert set(slow.world.milvus.data) == {row.collection}
    finally:
        slow.world.close()


def test_slow_creation_whose_process_died_leaves_no_collection() -> None:
    slow = SlowCreation(2)
    try:
        slow.insert()
        (row,) = slow.world.tables.bots.values()
        assert slow.world.loop.run_until(lambda: row.collection_name in slow.world.milvus.data, LONG)
        slow.world.processes[0].crash()
        slow.world.run_clients(LONG)
        finish(slow.world, slow.clients)
    finally:
        slow.world.close()
