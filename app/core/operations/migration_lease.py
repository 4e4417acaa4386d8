"""One process at a time moves a bot: a lease in PostgreSQL, which runs out when its process dies."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from uuid import UUID, uuid4

from app.core.leases.row_lease import RowLease
from app.core.ports import ReembedPort
from app.utils.errors import DatabaseUnavailable, ReembedInProgress

log = logging.getLogger(__name__)

POLL_SECONDS = 0.1


@asynccontextmanager
async def reembed_lease(store: ReembedPort, bot_id: UUID, length: timedelta) -> AsyncIterator[RowLease]:
    """Held and renewed while inside. Raises ReembedInProgress when another process holds it."""
    token = uuid4()
    lease = RowLease(length, lambda: store.renew_lease(bot_id, token, length), "The move")
    lease.began(await _take(store, bot_id, token, length))
    renewing = asyncio.create_task(lease.renew_forever())
    try:
        yield lease
    finally:
        renewing.cancel()
        await asyncio.gather(renewing, return_exceptions=True)
        with suppress(DatabaseUnavailable):  # It runs out by itself.
            await store.release_lease(bot_id, token)


async def _take(store: ReembedPort, bot_id: UUID, token: UUID, length: timedelta) -> float:
    """Waits for a dead process's lease to run out; the loop's time before the call that got it.

    Raises ReembedInProgress when it is renewed instead.
    """
    first = None
    while True:
        asked = asyncio.get_running_loop().time()
        other = await store.take_lease(bot_id, token, length)
        if other is None:
            return asked
        if first is None:
            first = other
            log.warning("bot %s is being moved by another process, or one that died: waiting", bot_id)
        if other > first:
            raise ReembedInProgress(f"Another process is moving bot {bot_id} at this moment.")
        await asyncio.sleep(POLL_SECONDS)
