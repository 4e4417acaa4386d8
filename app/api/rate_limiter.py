"""Requests of each account in a span of time, counted in this process or in Redis for all of them."""

import logging
import math
import time

from limits import RateLimitItem, parse_many
from limits.aio.storage import MemoryStorage, Storage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from limits.storage import storage_from_string

from app.utils.errors import RateLimited

log = logging.getLogger(__name__)

QUIET_SECONDS = 10.0
"""Between two log lines about a store of counts that is away."""


def parse_rate(text: str) -> list[RateLimitItem]:
    """Of "50/second;1000/minute". Raises ValueError."""
    return parse_many(text)


class RateLimiter:
    """``storage_uri``: redis://host:port/db, or None for this process's memory.

    While Redis is away nobody is refused: a limit that failed closed would be an outage of its own.
    """

    def __init__(self, rate: str, storage_uri: str | None) -> None:
        self._items = parse_rate(rate)
        self._storage = _storage(storage_uri)
        self._limiter = SlidingWindowCounterRateLimiter(self._storage)
        self._complained = -math.inf

    async def spend(self, account: str) -> None:
        """Counts a request. Raises RateLimited, with the seconds after which there is room again."""
        try:
            for item in self._items:
                if not await self._limiter.hit(item, account):
                    stats = await self._limiter.get_window_stats(item, account)
                    wait = max(1, math.ceil(stats.reset_time - time.time()))
                    raise RateLimited(f"More than {item} requests of this account.", retry_after=wait)
        except RateLimited:
            raise
        except Exception as exc:
            if time.monotonic() - self._complained > QUIET_SECONDS:
                self._complained = time.monotonic()
                log.warning("requests are not counted: RATE_LIMIT_STORAGE_URI is away (%s)", type(exc).__name__)


def _storage(uri: str | None) -> Storage:
    if uri is None:
        return MemoryStorage()
    storage = storage_from_string(f"async+{uri}", implementation="redispy", socket_timeout=0.25)
    assert isinstance(storage, Storage)
    return storage
