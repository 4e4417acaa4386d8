"""One simulated server process: the real core, whose calls of stores and embedder have the faults of the run."""

import asyncio
import inspect
from collections.abc import Callable, Coroutine, Sequence
from contextvars import copy_context
from datetime import timedelta
from random import Random
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import numpy as np

from app.core.bots.bots import Bots
from app.core.bots.loading_index import LoadingIndex
from app.core.bots.loads import Loads
from app.core.bots.recent_vectors import RecentVectors
from app.core.embedding.registry import EmbedderRegistry
from app.core.leases.leases import Leases
from app.core.operations.copying import Copier
from app.core.operations.rebuild import Rebuilder, RebuildLimit
from app.core.operations.repair import Repairer
from app.core.operations.verify import Verifier
from app.core.ports import BeginResult, FinishResult, RecentWrites, Refusal, WriteFailure
from app.core.search.relevance import Relevance
from app.core.search.search import Search
from app.core.transfer.export import Exporter
from app.core.transfer.importing import Importer
from app.core.transfer.streams import Streams
from app.core.transfer.sync import Sync
from app.core.write.bulk_throttle import BulkWriteThrottle
from app.core.write.by_filter import ByFilter
from app.core.write.documents import Documents
from app.core.write.generations import Generations
from app.core.write.ingest import Ingest
from app.core.write.listing import Listing
from app.core.write.recovery import Recovery
from app.core.write.retitling import Retitling
from app.core.write.saga import Saga
from app.schemas.operation_rows import Reservation
from app.schemas.rows import WriteRow, WriteTimestamps
from app.utils.errors import AppError, DatabaseUnavailable, EmbedderUnavailable, VectorIndexUnavailable
from tests.simulation.faults import CHECK, IDLE, KEEP_RECENT, LANDS_LATE, LATE_WRITE_WINDOW, LEASE, PATIENCE, Fate
from tests.simulation.loop import OUTSIDE, OWNER
from tests.simulation.remote_stores import Database, Embedder, Index

if TYPE_CHECKING:
    from tests.simulation.world import World

UNAVAILABLE: dict[str, type[AppError]] = {"database": DatabaseUnavailable, "embedder": EmbedderUnavailable}


FIRST_BLOCK = 8
"""How many generations the first block has: few, so that many blocks are reserved."""


class ProcessDied(Exception):
    """The process crashed: the client's connection was closed."""


class Process:
    def __init__(self, world: "World", name: str) -> None:
        self.world = world
        self.name = name
        self.dead = self.paused = False
        self.held: list[asyncio.Handle] = []
        self.tasks: WeakSet[asyncio.Task[Any]] = WeakSet()
        self.replies: dict[asyncio.Future[Any], None] = {}  # A dict, because a set has no fixed order.
        self.in_flight: dict[asyncio.TimerHandle, Callable[[], None]] = {}
        context = copy_context()
        context.run(OWNER.set, self)
        self._context = context
        documents, writes = Database(self, world.documents), Database(self, world.writes)
        bot_store = Database(self, world.bots)
        self.loads = Loads(
            Index(self),
            Database(self, world.loads),
            Database(self, world.garbage),
            bound=world.bound,
            idle=IDLE,
            interval=1.0,
            settle=2 + PATIENCE,
        )
        index, embedders = LoadingIndex(self.loads), EmbedderRegistry(Embedder(self))
        leases = Leases(writes, LEASE)
        self.bots = Bots(bot_store, index, embedders, leases, deadline=LEASE, loads=self.loads)
        recovery = Recovery(
            writes,
            Database(self, world.garbage),
            bot_store,
            self.bots,
            index.without_loading,
            leases,
            [world.keys],  # Without faults: the sweep has nothing to do, and T1 checks the key again.
            interval=1.0,
            claim=LEASE,
            keep_recent=KEEP_RECENT,
        )
        throttle = BulkWriteThrottle(bulk=1)
        self.generations = Generations(
            Database(self, world.generations), index.marker, random=world.random, first_block=FIRST_BLOCK
        )
        recent = RecentVectors(leases.token)
        saga = Saga(writes, self.bots, index.without_loading, embedders, leases, throttle, self.generations, recent)
        streams = Database(self, world.streams)
        self.ingest = Ingest(self.bots, documents, saga, world.keys, streams, patience=2 * LEASE, random=world.random)
        self.documents = Documents(self.bots, documents, recovery, Retitling(self.bots, documents, saga))
        self.by_filter = ByFilter(self.bots, documents, self.documents, part=2)
        self.listing = Listing(self.bots, Database(self, world.listing))
        self.sync = Sync(self.bots, Database(self, world.syncs), documents, self.ingest, recovery, part=1)
        self.streams = Streams(self.bots, streams)
        self.exporter = Exporter(bot_store, documents, index)
        self.importer = Importer(
            self.bots, self.ingest, embedders, world.keys, patience=2 * LEASE, random=Random(f"samples {world.seed}")
        )
        limit = RebuildLimit(embedders, frozenset(), 0)
        self.search = Search(
            self.bots,
            documents,
            index,
            embedders,
            on_search=throttle.note_search,
            large_answers=BulkWriteThrottle(0),
            rebuild_error=limit.error,
            relevance=Relevance(world.statistics),  # Without faults: it reads, and what it stores has no invariant.
            recent=recent,
            loads=self.loads,
        )
        verify, chunks = Database(self, world.verify), Database(self, world.chunks)
        self.verifier = Verifier(verify, index)
        rebuilder = Rebuilder(
            Database(self, world.rebuilds),
            chunks,
            self.bots,
            index,
            embedders,
            Copier(chunks, verify, index, timedelta(seconds=LATE_WRITE_WINDOW)),
            limit,
            throttle,
            lease=timedelta(seconds=LEASE),
            interval=1.0,
            check=CHECK,
            settling=timedelta(seconds=LEASE + 2 * LATE_WRITE_WINDOW),
            counted=index.without_loading,
        )
        self.repairer = Repairer(self.verifier, verify, documents, self.bots, saga, index, recovery, rebuilder)
        loops = [leases.renew_forever, recovery.run_forever]
        if world.reserved:
            self._run(loops)
        else:
            loops += [
                self.loads.run_forever,
                self.generations.run_forever,
                rebuilder.check_forever,
                rebuilder.rebuild_forever,
            ]
            self.spawn(self._open(loops))

    async def _open(self, loops: Sequence[Callable[[], Coroutine[Any, Any, None]]]) -> None:
        await self.generations.open()
        self._run(loops)

    def _run(self, loops: Sequence[Callable[[], Coroutine[Any, Any, None]]]) -> None:
        for loop in loops:
            self.spawn(loop())

    def spawn(self, coro: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        return self.world.loop.create_task(coro, context=self._context.copy())

    async def request(self, coro: Coroutine[Any, Any, Any], cancel_after: float | None = None) -> Any:
        """Runs a request of a client in this process. Raises ProcessDied when the process is dead or dies."""
        if self.dead:
            coro.close()
            raise ProcessDied
        reply = self.world.loop.create_future()
        self.replies[reply] = None

        def answer(task: asyncio.Task[Any]) -> None:
            self.replies.pop(reply, None)
            if reply.done():
                return
            if task.cancelled():
                reply.set_exception(ProcessDied())
            elif error := task.exception():
                reply.set_exception(error)
            else:
                reply.set_result(task.result())

        task = self.spawn(coro)
        task.add_done_callback(answer)
        if cancel_after is not None:
            self.world.loop.call_later(cancel_after, task.cancel, context=OUTSIDE)
        return await reply

    def crash(self) -> None:
        """As kill -9. Calls that were sent may still arrive."""
        self.dead = True
        self.paused = False
        for reply in list(self.replies):
            if not reply.done():
                reply.set_exception(ProcessDied())
                reply.exception()
        self.close_unstarted()
        self.held.clear()
        for handle, end in list(self.in_flight.items()):
            end()
            if self.world.random.random() < 0.5:
                handle.cancel()
        self.world.note(self.name, "crash")

    def close_unstarted(self) -> None:
        """Closes coroutines that never begin; otherwise Python warns of them."""
        for task in self.tasks:
            coro = task.get_coro()
            if inspect.iscoroutine(coro) and inspect.getcoroutinestate(coro) == inspect.CORO_CREATED:
                coro.close()

    def pause(self) -> None:
        self.paused = self.world.ever_paused = True
        self.world.note(self.name, "pause")

    def resume(self) -> None:
        if self.paused:
            self.paused = False
            self.world.note(self.name, "resume")
            self.world.loop.resume(self.held)

    async def call(self, kind: str, name: str, effect: Callable[[], Any], half: Callable[[], Any] | None = None) -> Any:
        """A call over the network. ``effect`` happens at one moment between request and answer, if the fate allows.

        ``kind`` selects the faults, ``name`` is for the history, ``half`` is the effect of a partial call.
        """
        world = self.world
        if self.dead:
            raise ProcessDied
        reply = world.loop.create_future()
        fate: Fate = world.faults.fate(kind, world.random)
        ended = float(
            "inf"
        )  # When the caller stopped waiting. A late effect happens within LATE_WRITE_WINDOW after it.
        there, back = world.faults.delay(world.random), world.faults.delay(world.random)

        def end() -> None:
            nonlocal ended
            ended = world.loop.time()

        def arrive() -> None:
            self.in_flight.pop(sent, None)
            result: Any = None
            error: Exception | None = UNAVAILABLE.get(kind, VectorIndexUnavailable)("no answer")
            try:
                if fate in ("ok", "again", "lost"):
                    result = effect()
                elif fate == "partial" and half is not None:
                    half()
                if fate in ("ok", "again"):
                    error = None
            except Exception as exc:
                error = exc
            world.note(self.name, name, fate, type(error).__name__ if error else _brief(result))
            deliver(result, error, back if error is None else back + PATIENCE * (fate != "refused"))
            if fate in ("late", "again"):
                landing = world.loop.time() + world.random.random() * LATE_WRITE_WINDOW
                world.loop.call_at(min(landing, ended + LATE_WRITE_WINDOW), land_late, context=OUTSIDE)

        def land_late() -> None:
            try:
                effect()
                world.note(self.name, name, "landed late")
            except Exception as exc:
                world.note(self.name, name, "landed late", type(exc).__name__)

        def deliver(result: Any, error: Exception | None, delay: float) -> None:
            def set_reply() -> None:
                if not reply.done():
                    if error is None:
                        reply.set_result(result)
                    else:
                        reply.set_exception(error)
                        reply.exception()  # Marks it as retrieved, as its caller may have died.

            world.loop.call_later(delay, set_reply, context=OUTSIDE)

        sent = world.loop.call_later(there, arrive, context=OUTSIDE)
        self.in_flight[sent] = end
        try:
            return await reply
        except asyncio.CancelledError:
            end()
            # A cancelled call of PostgreSQL is stopped, if that is in time; one of Milvus is not.
            if kind not in LANDS_LATE and sent in self.in_flight and world.random.random() < 0.5:
                sent.cancel()
                self.in_flight.pop(sent)
            raise


def _name(failure: Refusal) -> str:
    return failure.name if isinstance(failure, WriteFailure) else failure.quota


def _brief(result: Any) -> str:
    if isinstance(result, list) and result and isinstance(result[0], Reservation):
        return str([(one.block.first, one.block.last) for one in result])[-80:]  # Their ids are not the seed's.
    if isinstance(result, BeginResult):
        return str([one.generation if isinstance(one, WriteRow) else _name(one) for one in result.writes])[:80]
    if isinstance(result, FinishResult):
        failed = {generation: _name(failure) for generation, failure in result.failed.items()}
        return f"failed {failed} moved {sorted(result.moved)}"[:80]
    if isinstance(result, RecentWrites):
        keys = [one.chunk_id for one in result.vectors or ()]
        return str((result.timestamps.newest, result.timestamps.foreign, result.unshared, keys))[:80]
    if isinstance(result, WriteTimestamps):
        return str((result.newest, result.foreign))  # The token of the last writer is not the seed's.
    if isinstance(result, set) and result and isinstance(next(iter(result)), str):
        result = sorted(result)  # Their order is not the seed's.
    if isinstance(result, int | set | dict | list | str | tuple) or result is None:
        return str(result)[:80] if not isinstance(result, np.ndarray) else ""
    return type(result).__name__
