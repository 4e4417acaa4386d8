"""Bulk writes that leave Milvus time for questions.

Milvus works on a write and on a search at once, and a search beside a large write takes several times as long. Where
embedding costs next to nothing, such writes would follow each other without a pause. So it is with searches whose
answers are large, and this process.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from app.utils.stopwatch import Stopwatch

BULK_CHUNKS = 32
"""A write of fewer is not held up: somebody waits for a document, and joined writes are few."""
ASKED_SECONDS = 1.0
"""As long after a question others are expected."""
REST_FACTOR = 4.0
"""How long Milvus then rests from bulk writes, of the time that the last one took. Slower embedding is rest enough."""
LONGEST_REST = 1.0
"""Seconds: a write that took so long was not held up by the work alone."""


class BulkWriteThrottle:
    """While questions are asked in this process, its writes to Milvus of ``bulk`` chunks or more go one at a time, with
    a rest after each."""

    def __init__(self, bulk: int = BULK_CHUNKS, rest: float = REST_FACTOR, longest_rest: float = LONGEST_REST) -> None:
        self._bulk = bulk
        self._rest = rest
        self._longest_rest = longest_rest
        self._asked_at = float("-inf")
        self._rest_until = float("-inf")
        self._turn = asyncio.Lock()

    def asked(self) -> None:
        """To be told of each search."""
        self._asked_at = asyncio.get_running_loop().time()

    @asynccontextmanager
    async def turn(self, chunks: int, timings: Stopwatch) -> AsyncIterator[None]:
        """Waits until a write of so many chunks may begin (stage in ``timings``: rest); inside, it is under way."""
        loop = asyncio.get_running_loop()
        if chunks < self._bulk or loop.time() > self._asked_at + ASKED_SECONDS:
            yield
            return
        async with AsyncExitStack() as stack:
            with timings.measure("rest"):
                await stack.enter_async_context(self._turn)
                await asyncio.sleep(max(0.0, self._rest_until - loop.time()))
            began = loop.time()
            try:
                yield
            finally:
                ended = loop.time()
                self._rest_until = ended + min(self._longest_rest, self._rest * (ended - began))
