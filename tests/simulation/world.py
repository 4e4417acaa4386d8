"""The world of one run: its stores, processes, clients and clock, all driven by one seed."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any
from uuid import UUID

from app.schemas.operation_rows import GenerationBlock
from app.schemas.versions import DocumentVersion
from tests.doubles.memory_store import (
    MemoryBotStore,
    MemoryDocumentStore,
    MemoryGarbageStore,
    MemoryGenerationStore,
    MemoryIdempotencyStore,
    MemoryListingStore,
    MemoryLoadStore,
    MemoryModelMigrationStore,
    MemoryRebuildStore,
    MemoryStatisticsStore,
    MemoryStreamStore,
    MemorySyncStore,
    MemoryVerifyStore,
    MemoryWriteStore,
    Tables,
)
from tests.filter_reference import matches
from tests.simulation.faults import CHECK, LATE_WRITE_WINDOW, LEASE, Faults
from tests.simulation.history import History
from tests.simulation.loop import OUTSIDE, VirtualLoop
from tests.simulation.milvus import SimulatedMilvus
from tests.simulation.process import Process

PATCHES = ("patch", "patch_many")
EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
CHANGING = frozenset({"finish", "delete", "finish_deletion", "delete_missing", "recount_chunks", *PATCHES})
BACKED_UP = (
    "bots",
    "partitions",
    "sagas",
    "recent",
    "garbage",
    "keys",
    "parts",
    "last_generation",
    "first_in_block",
    "last_in_block",
    "blocks",
    "doubts",
    "syncs",
    "loads",
)
ALL = 1_000
"""More collections, documents and chunks than a run has."""
QUIET_WITHIN = 600.0
"""Seconds after the last fault until no work may be left. Rescheduled garbage may wait for 60 s more than once."""


class Violation(AssertionError):
    """An invariant does not hold. ``events``: what happened in the run, in order."""

    events: list[tuple[Any, ...]] = []  # noqa: RUF012 # set on the instance when the run has ended


class World:
    def __init__(
        self,
        seed: int,
        faults: Faults,
        *,
        processes: int = 2,
        reserved: bool = False,
        loses: bool = False,
        bound: int = 0,
    ) -> None:
        """``reserved``: one block has generations for the whole run, and losses of Milvus are not looked for, as in
        older versions of the server. ``loses``: Milvus may lose data. ``bound``: MAX_LOADED_COLLECTIONS."""
        self.seed = seed
        self.loses = loses
        self.bound = bound
        self.random = Random(seed)
        self.faults = faults
        self.loop = VirtualLoop()
        self.history = History()
        self.tables = Tables(lambda: EPOCH + timedelta(seconds=self.loop.time()))
        self.milvus = SimulatedMilvus(self.loop.time, self.random, faults.lag)
        self.documents = MemoryDocumentStore(self.tables, timedelta(seconds=LATE_WRITE_WINDOW), matches)
        self.listing = MemoryListingStore(self.tables, matches)
        self.writes = MemoryWriteStore(self.tables, timedelta(seconds=LATE_WRITE_WINDOW))
        self.bots = MemoryBotStore(self.tables, timedelta(seconds=LATE_WRITE_WINDOW))
        self.garbage = MemoryGarbageStore(self.tables)
        self.keys = MemoryIdempotencyStore(self.tables, timedelta(hours=24))
        self.streams = MemoryStreamStore(self.tables, timedelta(days=7))
        self.generations = MemoryGenerationStore(self.tables)
        self.verify = MemoryVerifyStore(self.tables, LEASE)
        self.reserved = reserved
        if reserved:
            self.tables.blocks.append(GenerationBlock(UUID(int=1), 1, 1 << 30))
            self.tables.last_in_block = 1 << 30
        self.rebuilds = MemoryRebuildStore(self.tables)
        self.loads = MemoryLoadStore(self.tables)
        self.syncs = MemorySyncStore(self.tables, timedelta(seconds=LATE_WRITE_WINDOW))
        self.statistics = MemoryStatisticsStore(self.tables)
        self.chunks = MemoryModelMigrationStore(self.tables, timedelta(seconds=LATE_WRITE_WINDOW))
        self.ever_paused = False
        self.at_rest = False
        self.ever_restored = False
        self.backups: list[dict[str, Any]] = []
        self.clients: list[asyncio.Task[Any]] = []
        self.processes = [self.started(number) for number in range(processes)]

    def started(self, number: int) -> Process:
        with self.loop._running():
            return Process(self, f"p{number}")

    def restart(self, number: int) -> None:
        self.processes[number].close_unstarted()
        self.processes[number] = self.started(number)
        self.note(self.processes[number].name, "start")

    def live(self) -> Process:
        """A process that a load balancer might choose."""
        alive = [process for process in self.processes if not process.dead]
        return self.random.choice(alive or self.processes)

    def client(self, coro: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = self.loop.create_task(coro, context=OUTSIDE.copy())
        self.clients.append(task)
        return task

    def at(self, delay: float, act: Callable[[], None]) -> None:
        self.loop.call_later(delay, act, context=OUTSIDE)

    def note(self, *event: Any) -> None:
        self.history.events.append((round(self.loop.time(), 6), *event))

    def back_up(self) -> None:
        self.note("world", "backup", len(self.backups))
        self.backups.append(self._contents())

    def _contents(self) -> dict[str, Any]:
        return deepcopy({name: getattr(self.tables, name) for name in BACKED_UP})

    def restore(self, number: int) -> None:
        """Restores PostgreSQL from a backup while the processes run. Milvus stays as it is."""
        self.note("world", "restore", number)
        for name, value in deepcopy(self.backups[number]).items():
            setattr(self.tables, name, value)
        self.tables.restored = self.ever_restored = True

    def observe(self, method: str, _args: Any) -> None:
        """Records when each generation is current."""
        now, known = self.loop.time(), self.history.current
        for number, lacking in self.history.lacking:
            row = self.tables.rebuilds.get(self.history.bots[number].bot_id)
            if row and lacking[1] == float("inf") and (row.began_at - EPOCH).total_seconds() >= lacking[0]:
                lacking[1] = now
        if method not in CHANGING:
            return
        self.observe_versions()
        self._check_quotas()
        current = {
            row.generation for partition in self.tables.partitions.values() for row in partition.documents.values()
        }
        for generation in current:
            if generation not in known:
                known[generation] = [now, float("inf")]
        for generation, lifetime in known.items():
            if lifetime[1] == float("inf") and generation not in current:
                lifetime[1] = now

    def _check_quotas(self) -> None:
        for account, quota in self.tables.quotas.items():
            used = self.tables.usage(account)
            if used.documents > (quota.documents or ALL) or used.chunks > (quota.chunks or ALL):
                self.history.exceeded.append(f"{account} had {used} of {quota} at {self.loop.time():.3f}")

    def observe_versions(self) -> None:
        for partition in self.tables.partitions.values():
            for doc_id, row in partition.documents.items():
                versions = self.history.lineage.setdefault(doc_id, [])
                version = DocumentVersion(row.generation, row.updated_at)
                if versions[-1:] != [version]:
                    versions.append(version)

    def run_clients(self, within: float) -> None:
        """Runs until every client has ended, and raises what they raised."""
        deadline = self.loop.time() + within
        if not self.loop.run_until(lambda: all(client.done() for client in self.clients), deadline):
            raise Violation(f"a client still waits after {within:g} s")
        for client in self.clients:
            client.result()
        self.clients.clear()

    def close(self) -> None:
        for process in self.processes:
            process.close_unstarted()

    def rest(self) -> None:
        """Ends all faults, starts dead processes, loads all bots and waits until recovery has finished all work."""
        self.faults, self.at_rest = Faults.none(), True
        self.bound = self.bound and ALL
        for number, process in enumerate(self.processes):
            process.resume()
            process.loads.bound = self.bound
            if process.dead:
                self.restart(number)
        self.note("world", "no more faults")
        # Late writes land first: they may still make work for recovery.
        self.loop.run_until(lambda: False, self.loop.time() + LEASE + LATE_WRITE_WINDOW)
        self.milvus.loaded.update(self.milvus.collections())  # As if somebody used each bot.
        self._quiet()
        if not self.reserved:  # Surplus vectors, which would hide losses from the counts, are gone by now.
            self.loop.run_until(lambda: False, self.loop.time() + 3 * CHECK)
            self._quiet()

    def _quiet(self) -> None:
        tables = self.tables
        deadline = self.loop.time() + QUIET_WITHIN
        if not self.loop.run_until(
            lambda: not (tables.restored or tables.sagas or tables.garbage or tables.rebuilds), deadline
        ):
            raise Violation(f"work is left: {tables.sagas} {tables.garbage} {tables.rebuilds}")

    def release(self, bot: int) -> None:
        """Somebody else releases the collection of a bot."""
        row = self.tables.bots.get(self.history.bots[bot].bot_id)
        if row and not self.at_rest:
            self.note("milvus", "releases", bot)
            self.milvus.release(row.collection)

    def lose(self, how: str, bot: int) -> None:
        """Milvus loses all collections, the collection of a bot, or some of its rows."""
        row = self.tables.bots.get(self.history.bots[bot].bot_id)
        self.note("milvus", f"loses {how}", bot)
        if how == "all":
            for name in self.milvus.collections():
                self.milvus.lose(name)
        elif row is not None and how == "one":
            self.milvus.lose(row.collection)
        elif row is not None:
            self.milvus.lose_some(row.collection)
            self.history.lacking.append((bot, [self.loop.time(), float("inf")]))


@contextmanager
def internal_errors() -> Iterator[list[logging.LogRecord]]:
    """Collects what app logs as an error. The faults of a run must not cause any."""
    records: list[logging.LogRecord] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    logger, collector = logging.getLogger("app"), Collector()
    level, propagate = logger.level, logger.propagate
    logger.setLevel(logging.ERROR)
    logger.propagate = False
    logger.addHandler(collector)
    try:
        yield records
    finally:
        logger.removeHandler(collector)
        logger.setLevel(level)
        logger.propagate = propagate
