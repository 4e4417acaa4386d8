"""A lease that is stored in a row of PostgreSQL, as the process that holds it sees it."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta

from app.utils.errors import DatabaseUnavailable, LeaseLost


class RowLease:
    """``renew``: extends the row's lease to ``length`` from now; false if another process has taken it. ``work``: the
    subject of an error message, for what is done under the lease. ``requested_at``: the event loop's time before
    PostgreSQL was asked for the lease, which began later."""

    def __init__(self, length: timedelta, renew: Callable[[], Awaitable[bool]], work: str, requested_at: float) -> None:
        self._seconds = length.total_seconds()
        self._renew = renew
        self._work = work
        self._until = requested_at + self._seconds

    def check(self) -> None:
        """To be called before each write to Milvus. Raises LeaseLost when another process may have taken the lease."""
        if asyncio.get_running_loop().time() >= self._until:
            raise LeaseLost(f"{self._work} was paused for longer than its lease: another process may have taken over.")

    async def renew(self) -> bool:
        """False when another process has taken the lease. Raises DatabaseUnavailable."""
        requested_at = asyncio.get_running_loop().time()
        held = await self._renew()
        self._until = requested_at + self._seconds if held else 0.0
        return held

    async def renew_forever(self) -> None:
        """Returns when another process has taken the lease."""
        held = True
        while held:
            await asyncio.sleep(self._seconds / 3)
            with suppress(DatabaseUnavailable):  # The next attempt may still be in time.
                held = await self.renew()
