"""A circuit breaker: when the provider is away, callers learn it at once, and it is asked again in the background."""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable

from app.utils.errors import AppError, EmbedderUnavailable, Unavailable

log = logging.getLogger(__name__)


class CircuitBreaker:
    """Opens after ``failures`` in a row, and closes when ``probe`` succeeds, which is tried every ``pause`` seconds.

    After Nygard, "Release It!", with one change: not a caller's request but a probe finds out whether the provider
    is back, so that no caller pays for it and the breaker closes without any. It belongs to one event loop. ``name``
    is how messages call the provider, ``away`` what callers get meanwhile.
    """

    def __init__(
        self,
        probe: Callable[[], Awaitable[object]],
        *,
        failures: int,
        pause: float,
        name: str = "embedding provider",
        away: type[Unavailable] = EmbedderUnavailable,
    ) -> None:
        self._probe = probe
        self._name = name
        self._away = away
        self._failures = failures
        self._pause = pause
        self._failed = 0
        self._next_probe = 0.0
        self._probing: asyncio.Task[None] | None = None

    @property
    def is_open(self) -> bool:
        return self._probing is not None

    def check(self) -> None:
        """Raises ``away`` while the breaker is open."""
        if self._probing is not None:
            left = self._next_probe - asyncio.get_running_loop().time()
            raise self._away(
                f"The {self._name} is away; it is asked again in the background.", retry_after=max(1, math.ceil(left))
            )

    def failed(self) -> None:
        self._failed += 1
        if self._failed >= self._failures and self._probing is None:
            log.error("the %s failed %d times in a row: the circuit breaker opens", self._name, self._failed)
            self._next_probe = asyncio.get_running_loop().time() + self._pause
            self._probing = asyncio.create_task(self._probe_until_back())

    def succeeded(self) -> None:
        self._failed = 0
        if self._probing is not None:
            log.info("the %s is back: the circuit breaker closes", self._name)
            self._probing.cancel()
            self._probing = None

    async def close(self) -> None:
        probing, self._probing = self._probing, None
        if probing is not None:
            probing.cancel()
            await asyncio.gather(probing, return_exceptions=True)

    async def _probe_until_back(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._next_probe - loop.time())
            try:
                await self._probe()
            except AppError:
                self._next_probe = loop.time() + self._pause
            else:
                self._probing = None  # Not by succeeded(), which would cancel this very task.
                self._failed = 0
                log.info("the %s is back: the circuit breaker closes", self._name)
                return
