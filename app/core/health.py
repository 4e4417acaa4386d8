"""Whether everything this server needs answers, asked anew each time."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

Ping = Callable[[], Awaitable[None]]
IsFull = Callable[[], Awaitable[bool]]


@dataclass(frozen=True, slots=True)
class Dependency:
    name: str
    up: bool
    full: bool
    latency_ms: float


class Health:
    """``full``: of a store, whether it serves reads and has no space for writes. ``timeout``: seconds after which a
    dependency counts as away."""

    def __init__(self, pings: dict[str, Ping], full: dict[str, IsFull], timeout: float) -> None:
        self._pings = pings
        self._full = full
        self._timeout = timeout

    async def check(self) -> list[Dependency]:
        return await asyncio.gather(*(self._ask(name, ping) for name, ping in self._pings.items()))

    async def _ask(self, name: str, ping: Ping) -> Dependency:
        start = time.perf_counter()
        try:
            async with asyncio.timeout(self._timeout):
                await ping()
                full = name in self._full and await self._full[name]()
            up = True
        except Exception:  # whatever keeps it from answering, it is away
            up = full = False
        return Dependency(name, up, full, (time.perf_counter() - start) * 1000)
