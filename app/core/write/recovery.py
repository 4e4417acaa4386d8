"""Finishes what a dead process left, and removes from Milvus what nobody refers to.

Runs in every server process; rows are claimed with FOR UPDATE SKIP LOCKED, so that each is worked on once.
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
from app.core.ports import BotPort, GarbagePort, IdempotencyPort, VectorIndex, WritePort
from app.schemas.rows import VectorGarbage
from app.utils.errors import AppError, CollectionMissing
from app.utils.failpoints import failpoint

log = logging.getLogger(__name__)


SWEEP_SECONDS = 60.0
"""Between two looks for Idempotency-Keys that are old enough to be forgotten."""

WIDE_SPAN = 1_024
"""Chunks of a document. One alone may have the index 65,535: to name all keys up to it takes Milvus Lite seconds."""


class Recovery:
    def __init__(
        self,
        writes: WritePort,
        garbage: GarbagePort,
        bot_store: BotPort,
        bots: Bots,
        index: VectorIndex,
        leases: Leases,
        keys: IdempotencyPort,
        *,
        interval: float,
        claim: float,
    ) -> None:
        """``interval``: seconds between rounds. ``claim``: seconds a batch of garbage belongs to one process."""
        self._writes = writes
        self._garbage = garbage
        self._bot_store = bot_store
        self._bots = bots
        self._index = index
        self._leases = leases
        self._keys = keys
        self._next_sweep = 0.0
        self._interval = interval
        self._claim = timedelta(seconds=claim)
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """There is something to collect: do not wait for the next round."""
        self._wake.set()

    async def run_forever(self) -> None:
        while True:
            try:
                await self.run_round()
            except AppError as exc:
                log.warning("recovery waits: %s", exc.detail)
            except Exception:
                log.exception("a round of recovery failed")
            self._wake.clear()
            # Not wait_for: on Python 3.11 it swallows a cancellation that comes together with wake().
            with suppress(TimeoutError):
                async with asyncio.timeout(self._interval):
                    await self._wake.wait()

    async def run_round(self) -> None:
        """One pass over all that is due. Raises what stands in its way; the next round goes on."""
        await failpoint("recovery.before_compensate")
        if undone := await self._writes.compensate_expired():
            await failpoint("recovery.after_compensate")
            log.info("took back %d writes past their lease", undone)
        while saga := await self._bot_store.claim_expired(self._leases.token, self._leases.length):
            log.info("resuming %s of bot %s", saga.operation, saga.bot_id)
            await failpoint("recovery.after_claim")
            await self._bots.resume(saga)
        await self._sweep_keys()
        while claimed := await self._garbage.claim(self._claim):
            await failpoint("gc.after_claim")
            by_collection = sorted(claimed, key=lambda row: row.collection_name)
            for collection, rows in groupby(by_collection, key=lambda row: row.collection_name):
                await self._collect(collection, list(rows))

    async def _sweep_keys(self) -> None:
        if time.monotonic() >= self._next_sweep:
            await self._keys.sweep()
            self._next_sweep = time.monotonic() + SWEEP_SECONDS

    async def _keys_of(self, collection: str, rows: Sequence[VectorGarbage]) -> list[int]:
        """All that may be there; of documents with a chunk_index far up those that are there."""
        wide = [row.span for row in rows if row.chunk_span > WIDE_SPAN]
        keys = [key for row in rows if row.chunk_span <= WIDE_SPAN for key in range(*row.span)]
        return keys + sorted(await self._index.present(collection, wide)) if wide else keys

    async def _collect(self, collection: str, rows: Sequence[VectorGarbage]) -> None:
        """Deletes by key. A row ends when it is settled and Milvus has then been seen without its keys."""
        settled = [row for row in rows if row.settled]
        await failpoint("gc.before_delete")
        try:
            await self._index.delete(collection, await self._keys_of(collection, rows))
            left = await self._index.present(collection, [row.span for row in settled]) if settled else set()
        except CollectionMissing:
            left = set()
        await failpoint("gc.after_delete")
        gone = [row for row in settled if left.isdisjoint(range(*row.span))]
        if gone:
            await failpoint("gc.before_end")
            await self._garbage.end(gone)
            await failpoint("gc.after_end")
        if kept := [row for row in rows if row not in gone]:
            await self._garbage.reschedule(kept)
