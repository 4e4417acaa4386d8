"""Loads the collections of bots that are in use into Milvus's memory, and releases those that are not.

A collection costs a Milvus server memory and CPU time while it is loaded. With MAX_LOADED_COLLECTIONS the servers load
a collection when it is read for the first time. While more are loaded, they release the one whose last use is longest
ago.

What is loaded is known to Milvus alone: others may load and release too, and a release may land late. So the record in
PostgreSQL only keeps two servers from loading the same collection, or releasing two, at a time. What makes reads right
is that each can be asked again: one that Milvus refused because the collection is released waits until it is loaded
(docs/decisions/0029-idle-collections.md).
"""

import asyncio
import logging
from contextlib import suppress
from datetime import timedelta
from functools import partial
from math import ceil, inf
from typing import Final, Literal
from uuid import uuid4

from app.core.ports import GarbagePort, LoadPort, VectorIndex
from app.schemas.operation_rows import LoadState
from app.utils import metrics
from app.utils.deadline import seconds_left, without_deadline
from app.utils.errors import AppError, CollectionLoading, CollectionMissing
from app.utils.failpoints import failpoint

log = logging.getLogger(__name__)

INTERVAL_SECONDS: Final = 5.0
"""Between two looks at what is loaded; also how old last uses in PostgreSQL are."""
IDLE_SECONDS: Final = 30.0
"""A collection that was used within this time is not released: longer than a read and INTERVAL_SECONDS together. So the
bound can be exceeded while more bots than that are in use, which would otherwise release each other's collections."""
ANNOUNCED: Final = timedelta(seconds=60)
"""How long a release is announced that does not happen."""
LEASE: Final = timedelta(seconds=15)
"""A load that takes longer may be repeated by another server, which has no effect."""
POLL_SECONDS: Final = 0.2
"""Pause between two looks at a load or release of another server."""
ANSWER_SECONDS: Final = 0.5
"""Of the time of a request, kept to answer that the bot is being loaded."""
TYPICAL_SECONDS: Final = 4.0
"""How long a load takes until this process has seen one."""


class Loads:
    """Of one process. ``bound``: collections that may be loaded; 0: any number, and nothing is recorded or released.

    ``settle``: seconds between the announcement of a release and the release.
    """

    def __init__(
        self,
        index: VectorIndex,
        store: LoadPort,
        garbage: GarbagePort,
        *,
        bound: int,
        idle: float = IDLE_SECONDS,
        interval: float = INTERVAL_SECONDS,
        settle: float = 0.0,
    ) -> None:
        self.index = index
        self.bound = bound
        self._store = store
        self._garbage = garbage
        self._idle = timedelta(seconds=idle)
        self._interval = interval
        self._load_token, self._release_token = uuid4(), uuid4()
        self._settle = settle
        self._ready: dict[str, float] = {}
        """Collections that were loaded when this process looked last, and until when they can be read: twice the
        interval, so that this process has heard of a release before it happens."""
        self._announced: dict[str, float] = {}
        """Releases that this process has announced, and when."""
        self._uses: dict[str, float] = {}
        """By collection: the event loop's time of the last use since uses were stored."""
        self._answered = set[str]()
        """Those of ``_ready`` that this process has loaded or read. Of others it is not known whether Milvus has read
        its log, for which reads wait."""
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._began: dict[str, float] = {}
        self._typical = TYPICAL_SECONDS

    @property
    def enabled(self) -> bool:
        return self.bound > 0

    def is_cold(self, collection: str) -> bool:
        """Whether a read has to wait for ``ready`` first."""
        return self.bound > 0 and self._ready.get(collection, 0.0) < asyncio.get_running_loop().time()

    def used(self, collection: str) -> None:
        """Notes a read of the collection."""
        if self.bound > 0:
            self._uses[collection] = asyncio.get_running_loop().time()

    def answered(self, collection: str) -> None:
        """Notes that the collection can be read."""
        if self.bound > 0:
            self._answered.add(collection)

    def has_answered(self, collection: str) -> bool:
        return self.bound == 0 or collection in self._answered

    def forget(self, collection: str) -> None:
        """The collection is being dropped, or is not loaded."""
        self._ready.pop(collection, None)
        self._answered.discard(collection)
        self._uses.pop(collection, None)

    async def ready(self, collection: str, *, released: bool = False) -> None:
        """Returns when the collection is loaded. All callers wait for one load. ``released``: a read was not answered.

        Raises CollectionLoading shortly before the request is cancelled, CollectionMissing, VectorIndexUnavailable and
        DatabaseUnavailable. A load that has begun goes on without its callers.
        """
        if released:
            self.forget(collection)
        task = self._tasks.get(collection) or self._begin(collection)
        left = seconds_left()
        done, _ = await asyncio.wait({task}, timeout=None if left == inf else max(0.0, left - ANSWER_SECONDS))
        if not done:
            raise CollectionLoading(self._seconds_to_go(collection))
        task.result()

    async def begin(self, collection: str) -> Literal["loaded", "loading"]:
        """Starts to load the collection if it is not loaded, and returns at once. It counts as a use."""
        self.used(collection)
        if not self.is_cold(collection) and self.enabled:
            return "loaded"
        if collection in await self.index.loaded():
            return "loaded"
        if collection not in self._tasks:
            self._begin(collection)
        return "loading"

    async def states(self, collections: list[str]) -> dict[str, LoadState] | None:
        """By collection, as last seen; None where loads are not recorded."""
        if not self.enabled:
            return None
        found = await self._store.states(collections)
        states = {name: found.get(name, LoadState("released", None)) for name in collections}
        return states | {
            name: LoadState("loading", states[name].last_used_at) for name in collections if name in self._tasks
        }

    async def run_forever(self) -> None:
        if not self.enabled:
            return await self._resume_all()
        while True:
            has_released = False
            try:
                has_released = await self.run_round()
            except AppError as exc:
                log.warning("collections are released later: %s", exc.detail)
            except Exception:
                log.exception("a round of releasing collections failed")
            await asyncio.sleep(0.0 if has_released else self._interval)

    async def run_round(self) -> bool:
        """Records what is loaded and was used, and releases a collection if more than the bound are loaded.

        Returns whether it has released one: there may be more.
        """
        began_at, known = asyncio.get_running_loop().time(), frozenset(self._ready)
        loaded = await self.index.loaded()
        leaving = await self._observe(loaded)
        for collection in (known - loaded) | leaving:
            self.forget(collection)
        for collection in loaded - leaving:
            self._is_ready(collection, began_at)
        if deferred := await self._garbage.deferred():
            gone = deferred - set(await self.index.collections())
            await self._garbage.resume(gone | (deferred & loaded))
        now = asyncio.get_running_loop().time()
        for collection in await self._store.announce_releases(self.bound, self._idle, self._release_token, ANNOUNCED):
            self._announced[collection] = now
        return await self._release_one()

    async def close(self) -> None:
        """Ends the waiting of this process. Milvus goes on loading."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _is_ready(self, collection: str, seen_at: float) -> None:
        self._ready[collection] = max(self._ready.get(collection, 0.0), seen_at + 2 * self._interval)

    async def _observe(self, loaded: set[str]) -> frozenset[str]:
        """Returns the collections that are about to be released."""
        uses, self._uses = self._uses, {}
        now = asyncio.get_running_loop().time()
        try:
            observed = await self._store.observe(sorted(loaded), {name: now - at for name, at in uses.items()})
        except AppError:
            self._uses = uses | self._uses
            raise
        metrics.LOADED_COLLECTIONS.set(observed.loaded)
        return observed.leaving

    async def _release_one(self) -> bool:
        """Releases one of the announced collections that were not used since.

        All servers have heard of the announcement by then, or believe nothing of what they saw before it, and their
        reads from before have ended: during a release Milvus may answer a search without all rows.
        """
        now = asyncio.get_running_loop().time()
        for collection, at in list(self._announced.items()):
            if now - at < self._settle:
                continue
            if now - at > ANNOUNCED.total_seconds():
                del self._announced[collection]
            elif await self._store.begin_release(collection, self._release_token, LEASE, self._idle):
                del self._announced[collection]
                await self._release(collection)
                return True
        return False

    async def _release(self, collection: str) -> None:
        self.forget(collection)
        began_at = asyncio.get_running_loop().time()
        await failpoint("release.before")
        if asyncio.get_running_loop().time() - began_at < LEASE.total_seconds():
            # After an error the lease stays: the release may still land within it.
            with suppress(CollectionMissing):
                await self.index.release(collection)
        await failpoint("release.after")
        await self._store.end(collection, self._release_token, loaded=False)
        metrics.RELEASES.inc()

    async def _resume_all(self) -> None:
        """Rows that were deferred when collections were released, by servers with another setting."""
        while True:
            try:
                return await self._garbage.resume(await self._garbage.deferred())
            except AppError:
                await asyncio.sleep(self._interval)

    def _begin(self, collection: str) -> asyncio.Task[None]:
        task = self._tasks[collection] = asyncio.create_task(self._load(collection), context=without_deadline())
        self._began[collection] = asyncio.get_running_loop().time()
        task.add_done_callback(partial(self._end, collection))
        return task

    def _end(self, collection: str, task: asyncio.Task[None]) -> None:
        del self._tasks[collection], self._began[collection]
        if not task.cancelled() and (error := task.exception()):  # Every caller may be gone.
            log.info("collection %s was not loaded: %s", collection, error)

    async def _load(self, collection: str) -> None:
        began_at = asyncio.get_running_loop().time()
        if self.enabled:
            was_loaded = collection in await self.index.loaded()
            await self._load_under_lease(collection)
            self._is_ready(collection, asyncio.get_running_loop().time())
            self._answered.add(collection)
            if was_loaded:
                return
        else:
            await self.index.load(collection)
        seconds = asyncio.get_running_loop().time() - began_at
        self._typical += 0.3 * (seconds - self._typical)
        metrics.COLD_STARTS.inc()
        metrics.LOAD_SECONDS.observe(seconds)

    async def _load_under_lease(self, collection: str) -> None:
        """Loads the collection, or waits until another server has."""
        while (claim := await self._store.claim_load(collection, self._load_token, LEASE)) != "granted":
            await asyncio.sleep(POLL_SECONDS)
            if claim == "load" and collection in await self.index.loaded():
                await self.index.load(collection)  # Returns when it can be read.
                return
        try:
            await failpoint("load.before")
            await self.index.load(collection)
            await failpoint("load.after")
        except (AppError, CollectionMissing):
            await self._end_lease(collection, None)
            raise
        await self._end_lease(collection, True)

    async def _end_lease(self, collection: str, loaded: bool | None) -> None:
        with suppress(AppError):  # It ends by itself.
            await self._store.end(collection, self._load_token, loaded=loaded)

    def _seconds_to_go(self, collection: str) -> int:
        passed = asyncio.get_running_loop().time() - self._began.get(collection, 0.0)
        return max(1, ceil(self._typical - passed))
