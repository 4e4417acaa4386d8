"""Keeps the sagas of this process alive.

A saga whose lease has passed belongs to recovery, in whatever process. A lease is renewed only while the work
itself is alive: one that crashed or was cancelled leaves ``holding`` and runs out.
"""

import asyncio
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from uuid import uuid4

from app.core.stores.ports import DocumentPort
from app.utils.errors import DatabaseUnavailable

log = logging.getLogger(__name__)


class Leases:
    """``token`` marks the sagas of this process; ``length`` is how long they live without renewal."""

    def __init__(self, documents: DocumentPort, seconds: float) -> None:
        self.token = uuid4()
        self.length = timedelta(seconds=seconds)
        self._documents = documents
        self._alive: set[int] = set()

    @contextmanager
    def holding(self, generations: Sequence[int]) -> Iterator[None]:
        self._alive.update(generations)
        try:
            yield
        finally:
            self._alive.difference_update(generations)

    async def renew_forever(self) -> None:
        while True:
            await asyncio.sleep(self.length.total_seconds() / 3)
            if not self._alive:
                continue
            try:
                await self._documents.renew(sorted(self._alive), self.token, self.length)
            except DatabaseUnavailable:
                log.warning("leases were not renewed: PostgreSQL is away")
            except Exception:
                log.exception("leases were not renewed")
