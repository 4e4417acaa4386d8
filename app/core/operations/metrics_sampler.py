"""Looks at this process from time to time and tells the metrics."""

import asyncio
from collections.abc import Callable

from app.core.ports import BacklogPort
from app.utils import metrics
from app.utils.errors import DatabaseUnavailable
from app.utils.lifecycle import process

PAUSE_SECONDS = 0.5


class MetricsSampler:
    """``pool``: (used, idle, most) connections to PostgreSQL."""

    def __init__(self, backlog: BacklogPort, pool: Callable[[], tuple[int, int, int]]) -> None:
        self._backlog = backlog
        self._pool = pool

    async def run_forever(self) -> None:
        """How late this task wakes is how long the event loop was held up."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + PAUSE_SECONDS
            await asyncio.sleep(PAUSE_SECONDS)
            metrics.LOOP_LAG.observe(max(0.0, loop.time() - due))
            self._look()

    async def refresh(self) -> None:
        """What only PostgreSQL knows, asked when Prometheus asks. While it is away, the last values stay."""
        self._look()
        try:
            backlog = await self._backlog.backlog()
        except DatabaseUnavailable:
            return
        metrics.SAGAS.set(backlog.sagas)
        metrics.SAGAS_EXPIRED.set(backlog.expired_sagas)
        metrics.GARBAGE.set(backlog.vector_gc)
        metrics.GARBAGE_OVERDUE.set(backlog.overdue_seconds)

    def _look(self) -> None:
        used, idle, most = self._pool()
        metrics.POOL.labels("used").set(used)
        metrics.POOL.labels("idle").set(idle)
        metrics.POOL_MOST.set(most)
        metrics.DRAINING.set(int(process.draining))
