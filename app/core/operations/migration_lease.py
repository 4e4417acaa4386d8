"""One process at a time migrates a bot: a lease in PostgreSQL, which expires when its process dies."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from uuid import UUID, uuid4

from app.core.leases.row_lease import RowLease
from app.core.ports import ModelMigrationPort
from app.utils.errors import DatabaseUnavailable, MigrationInProgress

log = logging.getLogger(__name__)

POLL_SECONDS = 0.1


@asynccontextmanager
async def migration_lease(store: ModelMigrationPort, bot_id: UUID, length: timedelta) -> AsyncIterator[RowLease]:
    """Holds and renews the lease inside the block. Raises MigrationInProgress when another process holds it."""
    token = uuid4()
    requested_at = await _take(store, bot_id, token, length)
    lease = RowLease(length, lambda: store.renew_lease(bot_id, token, length), "The migration", requested_at)
    renewing = asyncio.create_task(lease.renew_forever())
    try:
        yield lease
    finally:
        renewing.cancel()
        await asyncio.gather(renewing, return_exceptions=True)
        with suppress(DatabaseUnavailable):  # It expires by itself.
            await store.release_lease(bot_id, token)


async def _take(store: ModelMigrationPort, bot_id: UUID, token: UUID, length: timedelta) -> float:
    """Waits for the lease of a process that died to expire.

    Returns the event loop's time before the call that took the lease. Raises MigrationInProgress when the other
    process renews it.
    """
    first = None
    while True:
        requested_at = asyncio.get_running_loop().time()
        other = await store.take_lease(bot_id, token, length)
        if other is None:
            return requested_at
        if first is None:
            first = other
            log.warning("bot %s is being migrated by another process, or by one that died: waiting", bot_id)
        if other > first:
            raise MigrationInProgress(f"Another process is migrating bot {bot_id} to another model.")
        await asyncio.sleep(POLL_SECONDS)
