"""Whether everything this server needs answers, asked anew each time."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

Ping = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Dependency:
    name: str
    up: bool
    latency_ms: float


class Health:
    """``timeout``: seconds after which a dependency counts as away."""

    def __init__(self, pings: dict[str, Ping], timeout: float) -> None:
        self._pings = pings
        self._timeout = timeout

    async def check(self) -> list[Dependency]:
        return await asyncio.gather(*(self._ask(name, ping) for name, ping in self._pings.items()))

    async def _ask(self, name: str, ping: Ping) -> Dependency:
        start = time.perf_counter()
        try:
            async with asyncio.timeout(self._timeout):
                await ping()
            up = True
        except Exception:  # whatever keeps it from answering, it is away
            up = False
        return Dependency(name, up, (time.perf_counter() - start) * 1000)
