"""Samples this process at intervals, for the metrics."""

import asyncio
from collections.abc import Callable

from app.core.ports import BacklogPort
from app.utils import metrics
from app.utils.errors import DatabaseUnavailable
from app.utils.lifecycle import process

INTERVAL_SECONDS = 0.5


class MetricsSampler:
    """``pool``: returns the numbers of (used, idle, at most open) connections to PostgreSQL."""

    def __init__(self, backlog: BacklogPort, pool: Callable[[], tuple[int, int, int]]) -> None:
        self._backlog = backlog
        self._pool = pool

    async def run_forever(self) -> None:
        """Samples at intervals. The delay of this task is the lag of the event loop."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + INTERVAL_SECONDS
            await asyncio.sleep(INTERVAL_SECONDS)
            metrics.LOOP_LAG.observe(max(0.0, loop.time() - due))
            self._sample()

    async def refresh(self) -> None:
        """Reads what only PostgreSQL knows, for a scrape. Without an answer the last values stay."""
        self._sample()
        try:
            backlog = await self._backlog.backlog()
        except DatabaseUnavailable:
            return
        metrics.SAGAS.set(backlog.sagas)
        metrics.SAGAS_EXPIRED.set(backlog.expired_sagas)
        metrics.GARBAGE.set(backlog.vector_gc)
        metrics.GARBAGE_OVERDUE.set(backlog.overdue_seconds)

    def _sample(self) -> None:
        used, idle, most = self._pool()
        metrics.POOL.labels("used").set(used)
        metrics.POOL.labels("idle").set(idle)
        metrics.POOL_MAX.set(most)
        metrics.DRAINING.set(int(process.draining))
