"""One process at a time moves a bot: a lease in PostgreSQL, which runs out when its process dies."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from uuid import UUID, uuid4

from app.core.stores.ports import ReembedPort
from app.utils.errors import DatabaseUnavailable, LeaseLost, ReembedInProgress

log = logging.getLogger(__name__)

POLL_SECONDS = 0.1


class ReembedLease:
    def __init__(self, store: ReembedPort, bot_id: UUID, length: timedelta) -> None:
        self._store = store
        self._bot_id = bot_id
        self._length = length
        self._token = uuid4()
        self._until = 0.0

    def check(self) -> None:
        """Raises LeaseLost when another process may have taken over: to be called before each write to Milvus."""
        if asyncio.get_running_loop().time() >= self._until:
            raise LeaseLost("The move was paused for longer than its lease, and may be another process's by now.")

    async def take(self) -> None:
        """Waits for a dead process's lease to run out. Raises ReembedInProgress when it is renewed instead."""
        first = None
        while True:
            asked = asyncio.get_running_loop().time()
            other = await self._store.take_lease(self._bot_id, self._token, self._length)
            if other is None:
                self._until = asked + self._length.total_seconds()
                return
            if first is None:
                first = other
                log.warning("bot %s is being moved by another process, or one that died: waiting", self._bot_id)
            if other > first:
                raise ReembedInProgress(f"Another process is moving bot {self._bot_id} at this moment.")
            await asyncio.sleep(POLL_SECONDS)

    async def renew_forever(self) -> None:
        while True:
            await asyncio.sleep(self._length.total_seconds() / 3)
            asked = asyncio.get_running_loop().time()
            with suppress(DatabaseUnavailable):  # The next round may find it back in time.
                if not await self._store.renew_lease(self._bot_id, self._token, self._length):
                    return
                self._until = asked + self._length.total_seconds()

    async def release(self) -> None:
        with suppress(DatabaseUnavailable):  # It runs out by itself.
            await self._store.release_lease(self._bot_id, self._token)


@asynccontextmanager
async def reembed_lease(store: ReembedPort, bot_id: UUID, length: timedelta) -> AsyncIterator[ReembedLease]:
    """Held and renewed while inside. Raises ReembedInProgress when another process holds it."""
    lease = ReembedLease(store, bot_id, length)
    await lease.take()
    renewing = asyncio.create_task(lease.renew_forever())
    try:
        yield lease
    finally:
        renewing.cancel()
        await asyncio.gather(renewing, return_exceptions=True)
        await lease.release()
