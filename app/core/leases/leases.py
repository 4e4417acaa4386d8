"""Keeps the sagas of this process alive.

A saga whose lease has passed belongs to recovery, in whatever process. A lease is renewed only while the work
itself is alive: one that crashed or was cancelled leaves ``holding`` and runs out.
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
    """``token`` marks the sagas of this process; ``length`` is how long they live without renewal."""

    def __init__(self, writes: WritePort, seconds: float) -> None:
        self.token = uuid4()
        self.length = timedelta(seconds=seconds)
        self._writes = writes
        self._until: dict[int, float] = {}

    @contextmanager
    def holding(self, generations: Sequence[int], since: float | None = None) -> Iterator[None]:
        """Renews the leases of these sagas while inside. ``since``: the loop's time before they were taken."""
        start = asyncio.get_running_loop().time() if since is None else since
        until = start + self.length.total_seconds()
        self._until.update(dict.fromkeys(generations, until))
        try:
            yield
        finally:
            for generation in generations:
                self._until.pop(generation, None)

    def alive(self, generations: Iterable[int]) -> bool:
        """Whether all these sagas are this process's for certain: no clock has reached the end of their leases.

        What is sent to Milvus under a lease that lives is gone after recovery has compensated and settled. What a
        process sends that was paused meanwhile would stay.
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
                log.warning("leases were not renewed: PostgreSQL is away")
            except Exception:
                log.exception("leases were not renewed")
