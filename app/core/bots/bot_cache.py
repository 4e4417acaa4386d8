"""What was so lately is likely to be so still: remembered, to be begun with and then looked at."""

from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

MAX_KEYS = 4_096


class BoundedCache(Generic[K, V]):
    """The last value of each of the MOST keys that were put last."""

    def __init__(self) -> None:
        self._values: dict[K, V] = {}

    def get(self, key: K) -> V | None:
        return self._values.get(key)

    def put(self, key: K, value: V) -> None:
        self.forget(key)
        self._values[key] = value
        if len(self._values) > MAX_KEYS:
            del self._values[next(iter(self._values))]

    def forget(self, key: K) -> None:
        self._values.pop(key, None)


class StableValueCache(Generic[K, V]):
    """The last value of each key, and whether it was so before."""

    def __init__(self) -> None:
        self._seen = BoundedCache[K, tuple[V, bool]]()

    def expected(self, key: K) -> V | None:
        """The key's value, if it was the same the last two times."""
        value, steady = self._seen.get(key) or (None, False)
        return value if steady else None

    def saw(self, key: K, value: V) -> None:
        last = self._seen.get(key)
        self._seen.put(key, (value, last is not None and last[0] == value))
