"""Counts each account's requests over time, in this process or in Redis for all processes."""

import logging
import math
import time

from limits import RateLimitItem, parse_many
from limits.aio.storage import MemoryStorage, Storage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from limits.storage import storage_from_string

from app.utils.errors import RateLimited

log = logging.getLogger(__name__)

LOG_INTERVAL_SECONDS = 10.0
"""Minimum time between two log lines about a store that is unavailable."""


def parse_rate(text: str) -> list[RateLimitItem]:
    """Parses a rate such as "50/second;1000/minute". Raises ValueError."""
    return parse_many(text)


class RateLimiter:
    """``storage_uri``: redis://host:port/db, or None for this process's memory.

    Fails open: while Redis is unavailable, no request is rejected. Otherwise its outage would be this server's as well.
    """

    def __init__(self, rate: str, storage_uri: str | None) -> None:
        self._items = parse_rate(rate)
        self._storage = _storage(storage_uri)
        self._limiter = SlidingWindowCounterRateLimiter(self._storage)
        self._last_warning = -math.inf

    async def hit(self, key: str) -> None:
        """Counts a request under a rate limit key. Raises RateLimited, with the seconds until the next is allowed."""
        try:
            for item in self._items:
                if not await self._limiter.hit(item, key):
                    stats = await self._limiter.get_window_stats(item, key)
                    wait = max(1, math.ceil(stats.reset_time - time.time()))
                    raise RateLimited(f"More than {item} requests of this account.", retry_after=wait)
        except RateLimited:
            raise
        except Exception as exc:
            if time.monotonic() - self._last_warning > LOG_INTERVAL_SECONDS:
                self._last_warning = time.monotonic()
                log.warning("requests are not counted: RATE_LIMIT_STORAGE_URI is unavailable (%s)", type(exc).__name__)


def _storage(uri: str | None) -> Storage:
    if uri is None:
        return MemoryStorage()
    storage = storage_from_string(f"async+{uri}", implementation="redispy", socket_timeout=0.25)
    assert isinstance(storage, Storage)
    return storage
