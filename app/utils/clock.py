"""How long things take."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """Sums milliseconds by name. Stages that overlap each count in full."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._sums: dict[str, float] = {}

    @contextmanager
    def timing(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self._sums[stage] = self[stage] + (time.perf_counter() - start) * 1000

    def __getitem__(self, stage: str) -> float:
        return self._sums.get(stage, 0.0)

    @property
    def total(self) -> float:
        """Milliseconds since the stopwatch was made."""
        return (time.perf_counter() - self._start) * 1000
