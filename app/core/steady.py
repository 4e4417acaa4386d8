"""What does not change between two looks may well not change before the third."""

from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

MOST = 4_096


class Steady(Generic[K, V]):
    """Remembers the last value of each of the MOST keys that were seen last, and whether it was so before."""

    def __init__(self) -> None:
        self._seen: dict[K, tuple[V, bool]] = {}

    def expected(self, key: K) -> V | None:
        """The key's value, if it was the same the last two times."""
        value, steady = self._seen.get(key, (None, False))
        return value if steady else None

    def saw(self, key: K, value: V) -> None:
        last = self._seen.pop(key, None)
        self._seen[key] = (value, last is not None and last[0] == value)
        if len(self._seen) > MOST:
            del self._seen[next(iter(self._seen))]
