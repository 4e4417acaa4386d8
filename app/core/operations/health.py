"""Checks whether everything that this server needs answers."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

PROBE_SECONDS = 1.0
"""At least so long between the starts of two probes, however many requests there are."""

Ping = Callable[[], Awaitable[None]]
IsFull = Callable[[], Awaitable[bool]]


@dataclass(frozen=True, slots=True)
class Dependency:
    name: str
    up: bool
    full: bool
    latency_ms: float


class Health:
    """``full``: by store, whether it has no space for writes. ``timeout``: seconds after which a dependency counts as
    down."""

    def __init__(self, pings: dict[str, Ping], full: dict[str, IsFull], timeout: float) -> None:
        self._pings = pings
        self._full = full
        self._timeout = timeout
        self._probe: asyncio.Task[list[Dependency]] | None = None
        self._began = 0.0

    async def check(self) -> list[Dependency]:
        """The result of the running probe, or of the last one if it began within PROBE_SECONDS, or of a new one."""
        now = time.monotonic()
        if self._probe is None or (self._probe.done() and now - self._began >= PROBE_SECONDS):
            self._began = now
            self._probe = asyncio.create_task(self._ask_all())
        return await asyncio.shield(self._probe)  # A cancelled caller does not cancel it for the others.

    async def _ask_all(self) -> list[Dependency]:
        return await asyncio.gather(*(self._ask(name, ping) for name, ping in self._pings.items()))

    async def _ask(self, name: str, ping: Ping) -> Dependency:
        start = time.perf_counter()
        try:
            async with asyncio.timeout(self._timeout):
                await ping()
                full = name in self._full and await self._full[name]()
            up = True
        except Exception:  # Any error counts as down.
            up = full = False
        return Dependency(name, up, full, (time.perf_counter() - start) * 1000)
