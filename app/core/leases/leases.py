"""Keeps the sagas of this process alive.

When a saga's lease has expired, recovery in any process may undo it. A lease is renewed only while the work under it
goes on: work that crashed or was cancelled leaves ``holding``, and its lease expires.
"""

import asyncio
import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from uuid import uuid4

from app.core.ports import WritePort
from app.utils.errors import DatabaseUnavailable

log = logging.getLogger(__name__)


class Leases:
    """``token`` marks the sagas of this process; ``length`` is the duration of a lease without renewal."""

    def __init__(self, writes: WritePort, seconds: float) -> None:
        self.token = uuid4()
        self.length = timedelta(seconds=seconds)
        self._writes = writes
        self._until: dict[int, float] = {}

    @contextmanager
    def holding(self, generations: Sequence[int], since: float | None = None) -> Iterator[None]:
        """Renews the leases of these sagas while inside. ``since``: the event loop's time before they were taken."""
        start = asyncio.get_running_loop().time() if since is None else since
        until = start + self.length.total_seconds()
        self._until.update(dict.fromkeys(generations, until))
        try:
            yield
        finally:
            for generation in generations:
                self._until.pop(generation, None)

    def alive(self, generations: Iterable[int]) -> bool:
        """Whether the leases of all these sagas are certain not to have expired.

        Vectors that are sent to Milvus under a live lease are deleted if recovery undoes the write later. Vectors that
        a process sends after a pause beyond its lease would stay.
        """
        now = asyncio.get_running_loop().time()
        return all(now < self._until.get(generation, 0.0) for generation in generations)

    async def renew_forever(self) -> None:
        while True:
            await asyncio.sleep(self.length.total_seconds() / 3)
            if not self._until:
                continue
            start = asyncio.get_running_loop().time()
            try:
                renewed = await self._writes.renew(sorted(self._until), self.token, self.length)
                for generation in renewed & self._until.keys():
                    self._until[generation] = start + self.length.total_seconds()
            except DatabaseUnavailable:
                log.warning("leases were not renewed: PostgreSQL is unavailable")
            except Exception:
                log.exception("leases were not renewed")
