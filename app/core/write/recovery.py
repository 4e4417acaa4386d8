"""Finishes or undoes the sagas of processes that died, and deletes vectors from Milvus that no document refers to.

Every server process runs it. Rows are claimed with FOR UPDATE SKIP LOCKED, so that one process handles each.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from itertools import groupby

from app.core.bots.bots import Bots
from app.core.leases.leases import Leases
from app.core.ports import DELETE_KEYS, BotPort, GarbagePort, IdempotencyPort, StreamPort, VectorIndex, WritePort
from app.schemas.operation_rows import VectorGarbage
from app.utils.errors import AppError, CollectionMissing, CollectionReleased
from app.utils.failpoints import failpoint

log = logging.getLogger(__name__)


SWEEP_SECONDS = 60.0
"""Between two deletions of old Idempotency-Keys and streams."""

RECENT_SECONDS = 10.0
"""How long vectors stay in ``recent_vectors``. Searches read those of the last second."""

WIDE_SPAN = 1_024
"""Up to so many, all keys of a generation are named. A chunk_index can be 65,535, and naming all keys up to that takes
Milvus Lite seconds."""


class Recovery:
    def __init__(
        self,
        writes: WritePort,
        garbage: GarbagePort,
        bot_store: BotPort,
        bots: Bots,
        index: VectorIndex,
        leases: Leases,
        answers: Sequence[IdempotencyPort | StreamPort],
        *,
        interval: float,
        claim: float,
        keep_recent: float = RECENT_SECONDS,
    ) -> None:
        """``answers``: what is stored only for some time. ``interval``: seconds between rounds. ``claim``: seconds for
        which one process has a batch of garbage. ``keep_recent``: for which ``recent_vectors`` keeps vectors; it is
        swept twice in that time."""
        self._writes = writes
        self._garbage = garbage
        self._bot_store = bot_store
        self._bots = bots
        self._index = index
        self._leases = leases
        self._answers = answers
        self._next_sweep = self._next_recent_sweep = 0.0
        self._interval = interval
        self._claim = timedelta(seconds=claim)
        self._keep_recent = keep_recent
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """Starts the next round now, because there is something to collect."""
        self._wake.set()

    async def run_forever(self) -> None:
        while True:
            try:
                await self.run_round()
            except AppError as exc:
                log.warning("recovery is delayed: %s", exc.detail)
            except Exception:
                log.exception("a round of recovery failed")
            self._wake.clear()
            # Not wait_for: on Python 3.11 it ignores a cancellation that comes at the same time as wake().
            with suppress(TimeoutError):
                async with asyncio.timeout(self._interval):
                    await self._wake.wait()

    async def run_round(self) -> None:
        """Handles everything that is due. Stops at the first error, which it raises."""
        await failpoint("recovery.before_compensate")
        if undone := await self._writes.compensate_expired():
            await failpoint("recovery.after_compensate")
            log.info("undid %d writes whose lease had expired", undone)
        while saga := await self._bot_store.claim_expired(self._leases.token, self._leases.length):
            log.info("resuming %s of bot %s", saga.operation, saga.bot_id)
            await failpoint("recovery.after_claim")
            await self._bots.resume(saga)
        await self._sweep_answers()
        await self._sweep_recent_vectors()
        while True:
            until = asyncio.get_running_loop().time() + self._claim.total_seconds()
            claimed = await self._garbage.claim(self._claim)
            if not claimed:
                return
            await failpoint("gc.after_claim")
            by_collection = sorted(claimed, key=lambda row: row.collection_name)
            for collection, rows in groupby(by_collection, key=lambda row: row.collection_name):
                await self._collect(collection, list(rows), until)

    async def _sweep_answers(self) -> None:
        if time.monotonic() >= self._next_sweep:
            for store in self._answers:
                await store.sweep()
            self._next_sweep = time.monotonic() + SWEEP_SECONDS

    async def _sweep_recent_vectors(self) -> None:
        now = asyncio.get_running_loop().time()
        if now >= self._next_recent_sweep:
            await self._writes.sweep_recent_vectors(timedelta(seconds=self._keep_recent))
            self._next_recent_sweep = now + self._keep_recent / 2

    async def _present(self, collection: str, rows: Sequence[VectorGarbage]) -> set[int] | None:
        """The keys of the rows that exist; None if the collection is released, and so cannot be read."""
        try:
            return await self._index.present(collection, [row.span for row in rows]) if rows else set()
        except CollectionReleased:
            return None

    async def _collect(self, collection: str, rows: Sequence[VectorGarbage], until: float) -> None:
        """Deletes by key. A row is complete when no late write can come and Milvus was then read without its keys.

        Of a released collection that look waits for its next load, and so does the deletion of what has no
        list of all keys: generations with a large chunk_index.

        No delete begins after ``until``, when the claim ends. A restore of PostgreSQL may have made the generations
        current again, and ``Rebuilder`` waits only so long for deletes from before it.
        """
        final = [row for row in rows if row.window_passed]
        wide = [row for row in rows if row.chunk_span > WIDE_SPAN]
        deferred: list[VectorGarbage] = []
        await failpoint("gc.before_delete")
        try:
            keys = [key for row in rows if row.chunk_span <= WIDE_SPAN for key in range(*row.span)]
            if (found := await self._present(collection, wide)) is None:
                deferred += wide
            keys += sorted(found or ())
            for start in range(0, len(keys), DELETE_KEYS):
                if asyncio.get_running_loop().time() >= until:
                    return
                await self._index.delete(collection, keys[start : start + DELETE_KEYS])
            if (left := await self._present(collection, final)) is None:
                deferred += [row for row in final if row not in deferred]
        except CollectionMissing:
            left, deferred = set(), []
        await failpoint("gc.after_delete")
        gone = [row for row in final if row not in deferred and (left or set()).isdisjoint(range(*row.span))]
        if gone:
            await failpoint("gc.before_end")
            await self._garbage.complete(gone)
            await failpoint("gc.after_end")
        if deferred:
            await self._garbage.defer(deferred)
        if kept := [row for row in rows if row not in gone and row not in deferred]:
            await self._garbage.reschedule(kept)
