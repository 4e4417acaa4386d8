"""Measures how long the stages of a request take."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from app.utils import metrics, tracing


class Stopwatch:
    """Sums milliseconds by stage, and reports each measured stage to metrics and traces.

    Overlapping stages count in full each. A running stage counts up to now.
    """

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._sums: dict[str, float] = {}
        self._running: dict[str, int] = {}

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        self._running[stage] = self._running.get(stage, 0) + 1
        start = time.perf_counter()
        self._add(stage, -start)
        try:
            if tracing.running():
                with tracing.stage_span(stage):
                    yield
            else:
                yield
        finally:
            self._running[stage] -= 1
            end = time.perf_counter()
            self._add(stage, end)
            metrics.stage(stage).observe(end - start)

    def __getitem__(self, stage: str) -> float:
        """Milliseconds spent in ``stage``, rounded to the microsecond; 0 if it never ran."""
        seconds = self._sums.get(stage, 0.0)
        if running := self._running.get(stage):
            seconds += running * time.perf_counter()
        return round(seconds * 1000, 3)

    @property
    def total(self) -> float:
        """Milliseconds since the stopwatch was created."""
        return round((time.perf_counter() - self._start) * 1000, 3)

    def _add(self, stage: str, seconds: float) -> None:
        self._sums[stage] = self._sums.get(stage, 0.0) + seconds
