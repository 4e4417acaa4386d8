"""A circuit breaker: while a provider is unavailable, calls fail at once, and a background task probes the provider."""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable

from app.utils.errors import AppError, EmbedderUnavailable, Unavailable

log = logging.getLogger(__name__)


class CircuitBreaker:
    """Opens after ``failures`` failures in a row. Then ``probe`` runs every ``pause`` seconds until it succeeds.

    After Nygard, "Release It!", with one change: the half-open trial is the probe and not a caller's request, so no
    caller waits for it, and the breaker closes even without callers. It belongs to one event loop. ``name`` is the
    provider's name in messages, ``error`` the exception that callers get while the breaker is open.
    """

    def __init__(
        self,
        probe: Callable[[], Awaitable[object]],
        *,
        failures: int,
        pause: float,
        name: str = "embedding provider",
        error: type[Unavailable] = EmbedderUnavailable,
    ) -> None:
        self._probe = probe
        self._name = name
        self._error = error
        self._failures = failures
        self._pause = pause
        self._failed = 0
        self._next_probe = 0.0
        self._probing: asyncio.Task[None] | None = None

    def check(self) -> None:
        """Raises ``error`` while the breaker is open."""
        if self._probing is not None:
            left = self._next_probe - asyncio.get_running_loop().time()
            raise self._error(
                f"The {self._name} is unavailable; the server tries it again in the background.",
                retry_after=max(1, math.ceil(left)),
            )

    def failed(self) -> None:
        """Counts a failed request."""
        self._failed += 1
        if self._failed >= self._failures and self._probing is None:
            log.error("the %s failed %d times in a row: the circuit breaker opens", self._name, self._failed)
            self._next_probe = asyncio.get_running_loop().time() + self._pause
            self._probing = asyncio.create_task(self._probe_until_available())

    def succeeded(self) -> None:
        """Counts a successful request, which closes the breaker."""
        self._failed = 0
        if self._probing is not None:
            log.info("the %s is available again: the circuit breaker closes", self._name)
            self._probing.cancel()
            self._probing = None

    async def close(self) -> None:
        probing, self._probing = self._probing, None
        if probing is not None:
            probing.cancel()
            await asyncio.gather(probing, return_exceptions=True)

    async def _probe_until_available(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._next_probe - loop.time())
            try:
                await self._probe()
            except AppError:
                self._next_probe = loop.time() + self._pause
            else:
                self._probing = None  # succeeded() would cancel this task.
                self._failed = 0
                log.info("the %s is available again: the circuit breaker closes", self._name)
                return
