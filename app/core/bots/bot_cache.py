"""Optimistic cache: a value that was equal on the last two reads is assumed, then validated.

Searches and writes keep the rows of bots in it (docs/decisions/0010-shortcuts.md, 0011-shortcuts-of-a-write.md).
"""

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

MAX_KEYS = 4_096


class BoundedCache(Generic[K, V]):
    """Keeps the values of the MAX_KEYS keys that were put last."""

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
    """Keeps the last value of each key, and whether it equalled the one before.

    ``essence``: the part of a value that is compared; by default all of it.
    """

    def __init__(self, essence: Callable[[V], object] = lambda value: value) -> None:
        self._essence = essence
        self._observed = BoundedCache[K, tuple[V, bool]]()

    def stable_value(self, key: K) -> V | None:
        """The key's value if its last two observations were equal, else None."""
        value, is_stable = self._observed.get(key) or (None, False)
        return value if is_stable else None

    def observe(self, key: K, value: V) -> None:
        """Records the value that was just read."""
        last = self._observed.get(key)
        is_stable = last is not None and self._essence(last[0]) == self._essence(value)
        self._observed.put(key, (value, is_stable))
