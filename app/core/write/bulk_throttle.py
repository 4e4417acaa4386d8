"""Slows bulk writes to Milvus down while searches arrive.

Milvus serves writes and searches at the same time, and a search that runs during a large write takes several times as
long. Where embedding costs next to nothing, such writes would follow each other without a pause. Searches with large
answers have the same effect on other searches, in this process.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from app.utils.stopwatch import Stopwatch

BULK_CHUNKS = 32
"""A write of fewer chunks is not slowed: a client waits for one document, and there are few large batches of those."""
SEARCH_SECONDS = 1.0
"""For so long after a search, further ones are expected."""
REST_FACTOR = 4.0
"""Pause after a bulk write, in multiples of its duration. Slow embedding makes a longer pause by itself."""
MAX_REST_SECONDS = 1.0
"""A write whose pause would be longer took so long for other reasons than its size."""


class BulkWriteThrottle:
    """While searches arrive in this process, its writes to Milvus of at least ``bulk`` chunks run one at a time, each
    followed by a pause of ``rest`` times its duration, of at most ``max_rest`` seconds."""

    def __init__(self, bulk: int = BULK_CHUNKS, rest: float = REST_FACTOR, max_rest: float = MAX_REST_SECONDS) -> None:
        self._bulk = bulk
        self._rest = rest
        self._max_rest = max_rest
        self._searched_at = float("-inf")
        self._rests_until = float("-inf")
        self._lock = asyncio.Lock()

    def note_search(self) -> None:
        """To be called for each search."""
        self._searched_at = asyncio.get_running_loop().time()

    @asynccontextmanager
    async def slot(self, chunks: int, timings: Stopwatch) -> AsyncIterator[None]:
        """Waits until a write of so many chunks may begin (stage in ``timings``: throttle). The block is the write."""
        loop = asyncio.get_running_loop()
        if chunks < self._bulk or loop.time() > self._searched_at + SEARCH_SECONDS:
            yield
            return
        async with AsyncExitStack() as stack:
            with timings.measure("throttle"):
                await stack.enter_async_context(self._lock)
                await asyncio.sleep(max(0.0, self._rests_until - loop.time()))
            began = loop.time()
            try:
                yield
            finally:
                ended = loop.time()
                self._rests_until = ended + min(self._max_rest, self._rest * (ended - began))
