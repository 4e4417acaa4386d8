"""How long things take."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """Sums milliseconds by name. Stages that overlap each count in full; those that still run count up to now."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._sums: dict[str, float] = {}
        self._running: Counter[str] = Counter()

    @contextmanager
    def timing(self, stage: str) -> Iterator[None]:
        self._running[stage] += 1
        self._add(stage, -time.perf_counter())
        try:
            yield
        finally:
            self._running[stage] -= 1
            self._add(stage, time.perf_counter())

    def __getitem__(self, stage: str) -> float:
        return (self._sums.get(stage, 0.0) + self._running[stage] * time.perf_counter()) * 1000

    @property
    def total(self) -> float:
        """Milliseconds since the stopwatch was made."""
        return (time.perf_counter() - self._start) * 1000

    def _add(self, stage: str, seconds: float) -> None:
        self._sums[stage] = self._sums.get(stage, 0.0) + seconds
