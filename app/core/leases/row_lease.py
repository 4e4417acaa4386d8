"""A lease in a row of PostgreSQL, as the process that holds it knows it."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta

from app.utils.errors import DatabaseUnavailable, LeaseLost


class RowLease:
    """``renew``: extends the row's lease to ``length`` from now; false when another process has it. ``work``: what is
    done under it, as the subject of an error."""

    def __init__(self, length: timedelta, renew: Callable[[], Awaitable[bool]], work: str) -> None:
        self._seconds = length.total_seconds()
        self._renew = renew
        self._work = work
        self._until = 0.0

    def began(self, asked: float) -> None:
        """``asked``: the loop's time before PostgreSQL was asked for the lease; its own count began later."""
        self._until = asked + self._seconds

    def check(self) -> None:
        """Raises LeaseLost when another process may have taken over: to be called before each write to Milvus."""
        if asyncio.get_running_loop().time() >= self._until:
            raise LeaseLost(f"{self._work} was paused for longer than its lease, and may be another process's by now.")

    async def renew(self) -> bool:
        """False when another process has the lease. Raises DatabaseUnavailable."""
        asked = asyncio.get_running_loop().time()
        held = await self._renew()
        self._until = asked + self._seconds if held else 0.0
        return held

    async def renew_forever(self) -> None:
        """Until another process has it."""
        held = True
        while held:
            await asyncio.sleep(self._seconds / 3)
            with suppress(DatabaseUnavailable):  # The next round may find it back in time.
                held = await self.renew()
