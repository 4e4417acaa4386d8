"""One server process of the simulation: the real core over calls that cross a faulty network."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextvars import copy_context
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import UUID
from weakref import WeakSet

import numpy as np

from app.core.bots.bots import Bots
from app.core.embedding.port import Vectors
from app.core.embedding.registry import EmbedderRegistry
from app.core.operations.copying import Copier
from app.core.operations.rebuild import Limit, Rebuilder
from app.core.operations.repair import Repairer
from app.core.operations.verify import Verifier
from app.core.ports import KeyRange, Suspect
from app.core.search.search import Search
from app.core.write.bulk_throttle import BulkWriteThrottle
from app.core.write.documents import Documents
from app.core.write.generations import Generations
from app.core.write.ingest import Ingest
from app.core.write.leases import Leases
from app.core.write.recovery import Recovery
from app.core.write.saga import Saga
from app.core.write.write import Write
from app.schemas.rows import GenerationBlock, Reservation
from app.utils.errors import AppError, DatabaseUnavailable, EmbedderUnavailable, VectorIndexUnavailable
from tests.simulation.embedder import DIMENSION, embedding
from tests.simulation.faults import CHECK, LANDS_LATE, LEASE, PATIENCE, SETTLE, Fate
from tests.simulation.loop import OUTSIDE, OWNER

if TYPE_CHECKING:
    from tests.simulation.world import World

AWAY: dict[str, type[AppError]] = {"database": DatabaseUnavailable, "embedder": EmbedderUnavailable}


FIRST_BLOCK = 8
"""Generations: few, so that blocks are reserved again and again."""


class ProcessDied(Exception):
    """What a client sees of a crash: the connection is gone."""


class Process:
    def __init__(self, world: "World", name: str) -> None:
        self.world = world
        self.name = name
        self.dead = self.paused = False
        self.held: list[asyncio.Handle] = []
        self.tasks: WeakSet[asyncio.Task[Any]] = WeakSet()
        self.replies: dict[asyncio.Future[Any], None] = {}  # In their order, unlike a set's.
        self.in_flight: dict[asyncio.TimerHandle, Callable[[], None]] = {}
        context = copy_context()
        context.run(OWNER.set, self)
        self._context = context
        documents = Database(self, world.documents)
        bot_store = Database(self, world.bots)
        index, embedders = Index(self), EmbedderRegistry(Embedder(self))
        leases = Leases(documents, LEASE)
        self.bots = Bots(bot_store, index, embedders, leases, deadline=LEASE)
        recovery = Recovery(
            documents,
            Database(self, world.garbage),
            bot_store,
            self.bots,
            index,
            leases,
            world.keys,  # Looked into without a fault: the sweep has nothing to do, and T1 asks once more.
            interval=1.0,
            claim=LEASE,
        )
        pace = BulkWriteThrottle(bulk=1)
        self.generations = Generations(
            Database(self, world.generations), index.marker, random=world.random, first_block=FIRST_BLOCK
        )
        saga = Saga(documents, self.bots, index, embedders, leases, pace, self.generations)
        self.ingest = Ingest(self.bots, saga, world.keys)
        self.documents = Documents(self.bots, documents, recovery)
        limit = Limit(embedders, frozenset(), 0)
        self.search = Search(
            self.bots,
            documents,
            index,
            embedders,
            on_search=pace.asked,
            large_answers=BulkWriteThrottle(0),
            rebuild_error=limit.refusal,
        )
        verify, chunks = Database(self, world.verify), Database(self, world.chunks)
        self.verifier = Verifier(verify, index)
        rebuilder = Rebuilder(
            Database(self, world.rebuilds),
            chunks,
            self.bots,
            self.verifier,
            index,
            embedders,
            Copier(chunks, verify, index, settle()),
            limit,
            pace,
            lease=timedelta(seconds=LEASE),
            interval=1.0,
            check=CHECK,
        )
        self.repairer = Repairer(self.verifier, verify, documents, self.bots, saga, index, recovery, rebuilder)
        loops = [leases.renew_forever(), recovery.run_forever()]
        if not world.reserved:
            loops += [self.generations.run_forever()]
            loops += [rebuilder.check_forever(), rebuilder.rebuild_forever()]
        for coro in loops:
            self.spawn(coro)

    def spawn(self, coro: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        return self.world.loop.create_task(coro, context=self._context.copy())

    async def request(self, coro: Coroutine[Any, Any, Any], cancel_after: float | None = None) -> Any:
        """Runs a request in this process for a client outside. Raises ProcessDied when the process does not live."""
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
        """As kill -9. What is on the wire may still arrive."""
        self.dead = True
        self.paused = False
        for reply in list(self.replies):
            if not reply.done():
                reply.set_exception(ProcessDied())
                reply.exception()
        self.forget()
        self.held.clear()
        for handle, end in list(self.in_flight.items()):
            end()
            if self.world.random.random() < 0.5:
                handle.cancel()
        self.world.note(self.name, "crash")

    def forget(self) -> None:
        """Closes what has not begun and never will, of which Python warns otherwise."""
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
        """One call over the network: there, done at one moment, and back; or what its fate makes of it."""
        world = self.world
        if self.dead:
            raise ProcessDied
        reply = world.loop.create_future()
        fate: Fate = world.faults.fate(kind, world.random)
        ended = float("inf")  # When the caller stopped to wait: from then on SETTLE counts.
        there, back = world.faults.delay(world.random), world.faults.delay(world.random)

        def end() -> None:
            nonlocal ended
            ended = world.loop.time()

        def arrive() -> None:
            self.in_flight.pop(sent, None)
            result: Any = None
            error: Exception | None = AWAY.get(kind, VectorIndexUnavailable)("no answer")
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
                landing = world.loop.time() + world.random.random() * SETTLE
                world.loop.call_at(min(landing, ended + SETTLE), land_late, context=OUTSIDE)

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
                        reply.exception()  # Its caller may be gone; then nobody looks at it, rightly.

            world.loop.call_later(delay, set_reply, context=OUTSIDE)

        sent = world.loop.call_later(there, arrive, context=OUTSIDE)
        self.in_flight[sent] = end
        try:
            return await reply
        except asyncio.CancelledError:
            end()
            # PostgreSQL is told to stop, which comes in time or too late; Milvus is not even told.
            if kind not in LANDS_LATE and sent in self.in_flight and world.random.random() < 0.5:
                sent.cancel()
                self.in_flight.pop(sent)
            raise


def run_at_once(method: Callable[..., Coroutine[Any, Any, Any]], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """The result of an in-memory store's method, none of which ever waits."""
    coro = method(*args, **kwargs)
    try:
        coro.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError(f"{method} waited")


class Database:
    """A store of the record as one process reaches it: every method is a call, one transaction."""

    def __init__(self, process: Process, store: Any) -> None:
        self._process = process
        self._store = store

    def __getattr__(self, name: str) -> Any:
        process, world = self._process, self._process.world
        method = self._all_pages if name == "all_document_pages" else getattr(self._store, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            if name == "finish_deletion" and world.random.random() < 0.1:
                await process.call("database", "no lock", lambda: None)
                return False

            def effect() -> Any:
                try:
                    return run_at_once(method, args, kwargs)
                finally:
                    world.observe(name, args)

            return await process.call("database", name + _described(args), effect)

        self.__dict__[name] = call
        return call

    async def _all_pages(self, bot_id: UUID) -> list[list[int]]:
        return [page async for page in self._store.document_pages(bot_id)]

    async def document_pages(self, bot_id: UUID) -> AsyncIterator[list[int]]:
        for page in await self.all_document_pages(bot_id):
            yield page


class Marker:
    """Milvus's marker as one process reaches it; keeps to MarkerPort."""

    def __init__(self, process: Process) -> None:
        self._call = process.call
        self._milvus = process.world.milvus

    async def read(self) -> list[Reservation]:
        return list(await self._call("read", "reservations", self._milvus.reservations))

    async def add(self, reservations: Sequence[Reservation]) -> None:
        name = f"reserve {[(one.block.first, one.block.last) for one in reservations]}"
        await self._call("upsert", name, partial(self._milvus.reserve, reservations))

    async def bot_collections(self) -> list[str]:
        return sorted(await self._call("read", "collections", self._milvus.collections))

    async def greatest_key(self, collection: str, above: int) -> int:
        greatest = partial(self._milvus.greatest_key, collection, above)
        return int(await self._call("read", f"greatest key of {collection}", greatest))


class Index:
    """Milvus as one process reaches it; keeps to VectorIndex."""

    def __init__(self, process: Process) -> None:
        self._call = process.call
        self._milvus = process.world.milvus
        self.marker = Marker(process)

    async def create(self, collection: str, dimension: int) -> None:
        await self._call("create", f"create {collection}", partial(self._milvus.create, collection, dimension))

    async def drop(self, collection: str, dimension: int | None = None) -> None:
        await self._call("drop", f"drop {collection}", partial(self._milvus.drop, collection, dimension))

    async def collections(self) -> list[str]:
        return list(await self._call("read", "collections", self._milvus.collections))

    @property
    def bm25(self) -> bool:
        return False

    async def supports_lexical(self, collection: str) -> bool:
        return False

    async def upsert(
        self,
        collection: str,
        chunk_ids: Any,
        doc_ids: Any,
        embeddings: Vectors,
        texts: Sequence[str] | None = None,
        *,
        fresh: bool = False,
    ) -> int:
        def write(count: int) -> int:
            return self._milvus.upsert(collection, chunk_ids[:count], doc_ids[:count], embeddings[:count])

        every, half = len(chunk_ids), (len(chunk_ids) + 1) // 2
        name = f"upsert {collection} {sorted({key // 65536 for key in chunk_ids.tolist()})}"
        return int(await self._call("upsert", name, partial(write, every), partial(write, half)))

    async def delete(self, collection: str, chunk_ids: Sequence[int]) -> None:
        keys = list(chunk_ids)
        name = f"delete {collection} {sorted({key // 65536 for key in keys})}"
        delete = self._milvus.delete
        await self._call(
            "delete", name, partial(delete, collection, keys), partial(delete, collection, keys[: len(keys) // 2])
        )

    async def search_dense(
        self,
        collection: str,
        queries: Vectors,
        k: int,
        *,
        guarantee_timestamp: int = 0,
        doc_ids: Sequence[int] | None = None,
        chunk_ids: Sequence[int] | None = None,
        exclude_ranges: Sequence[KeyRange] = (),
    ) -> Any:
        (query,) = queries
        search = partial(
            self._milvus.search,
            collection,
            query,
            k,
            guarantee_timestamp=guarantee_timestamp,
            doc_ids=doc_ids,
            chunk_ids=chunk_ids,
            exclude_ranges=exclude_ranges,
        )
        return [await self._call("read", f"search {collection} {guarantee_timestamp}", search)]

    async def count(self, collection: str) -> int:
        return len(await self._call("read", f"count {collection}", partial(self._milvus.rows, collection)))

    async def present(self, collection: str, ranges: Sequence[KeyRange]) -> set[int]:
        found = await self._call("read", f"present {collection}", partial(self._milvus.present, collection, ranges))
        return set(found)

    async def scan(
        self, collection: str, *, page: int = 4096, key_range: KeyRange | None = None
    ) -> AsyncIterator[list[int]]:
        keys = await self._call("read", f"scan {collection}", partial(self._milvus.keys, collection))
        keys = [key for key in keys if key_range is None or key_range[0] <= key < key_range[1]]
        for start in range(0, len(keys), page):
            yield keys[start : start + page]

    async def suspects(self, claim: float = 0) -> Sequence[Suspect]:
        return ()

    async def trust(self, suspect: Suspect, *, complete: bool) -> None: ...

    async def ping(self) -> None:
        await self._call("read", "ping", lambda: None)

    async def close(self) -> None:
        return None


class Embedder:
    model = "simulated"
    dimension = DIMENSION
    call_texts = 1

    def __init__(self, process: Process) -> None:
        self._call = process.call

    async def embed_documents(self, texts: Sequence[str]) -> Vectors:
        def embed() -> Vectors:
            return np.array([embedding(text) for text in texts], np.float32)

        vectors: Vectors = await self._call("embedder", f"embed {len(texts)}", embed)
        return vectors

    async def embed_queries(self, texts: Sequence[str]) -> Vectors:
        return await self.embed_documents(texts)

    async def ping(self) -> None:
        return None

    async def close(self) -> None:
        return None


def settle() -> timedelta:
    return timedelta(seconds=SETTLE)


def _described(args: Sequence[Any]) -> str:
    shown = []
    for arg in args:
        if isinstance(arg, list) and arg and isinstance(arg[0], Write):
            shown.append(f"docs {[write.doc_id for write in arg]} gens {[write.generation for write in arg]}")
        elif isinstance(arg, GenerationBlock):
            shown.append(f"{arg.first} to {arg.last}")
        elif isinstance(arg, list) and arg and isinstance(arg[0], GenerationBlock):
            shown.append(f"and {len(arg)} older")
        elif isinstance(arg, int | list | str) and not isinstance(arg, bool):
            shown.append(str(arg)[:60])
    return f"({', '.join(shown)})"


def _brief(result: Any) -> str:
    if isinstance(result, list) and result and isinstance(result[0], Reservation):
        return str([(one.block.first, one.block.last) for one in result])[-80:]  # Their ids are not the seed's.
    if isinstance(result, set) and result and isinstance(next(iter(result)), str):
        result = sorted(result)  # Their order is not the seed's.
    if isinstance(result, int | set | dict | list | str | tuple) or result is None:
        return str(result)[:80] if not isinstance(result, np.ndarray) else ""
    return type(result).__name__
